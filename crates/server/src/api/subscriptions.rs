//! Subscriptions: listed, shown, paused, resumed.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use posthaste_store::{Request, SubscriptionStatus};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::shown::as_json;
use crate::{
    app::App,
    clock,
    extract::{OfSubscription, OptionalJson},
    problem::{Code, Problem},
    tokens::Principal,
};

/// Every subscription of the database, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Subscriptions {
    /// The subscriptions.
    subscriptions: Vec<Subscription>,
}

/// A named reader of the log.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Subscription {
    /// Its name.
    name: String,
    /// `paused`, `held` by a relay, or `idle`.
    state: &'static str,
    /// Topics that it reads.
    topics: String,
    /// The relay that holds it.
    holder: Option<String>,
    /// Messages that it has yet to publish.
    backlog: u64,
    /// Age of the oldest of them in milliseconds; 0 without any.
    lag_ms: i64,
    /// Keys that are set aside.
    parked_keys: u64,
    /// Messages that are set aside alone.
    parked_messages: u64,
    /// Messages that are out of attempts.
    dead_letters: u64,
    /// When its place was settled last.
    #[schema(format = DateTime)]
    settled_at: Option<String>,
}

impl Subscription {
    fn of(status: &SubscriptionStatus) -> Self {
        let state = match status {
            it if it.is_paused => "paused",
            it if it.holder.is_some() => "held",
            _ => "idle",
        };
        Self {
            name: status.name.clone(),
            state,
            topics: status.filter.to_string(),
            holder: status.holder.clone(),
            backlog: status.backlog,
            lag_ms: status.lag_micros / 1_000,
            parked_keys: status.parked_keys,
            parked_messages: status.parked_messages,
            dead_letters: status.dead_letters,
            settled_at: status.progress.at.map(clock::rfc3339),
        }
    }
}

/// List subscriptions
///
/// With figures that may be some seconds old.
#[utoipa::path(get, path = "/api/v1/subscriptions", tag = "subscriptions",
    responses((status = 200, description = "All of them", body = Subscriptions)))]
pub(crate) async fn list(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let status = app.outlook.status(&app.operations, app.settings.request_timeout).await?;
    let subscriptions = status.subscriptions.iter().map(Subscription::of).collect();
    Ok(as_json(&Subscriptions { subscriptions }).into_response())
}

/// Show a subscription
///
/// With figures that may be some seconds old.
#[utoipa::path(get, path = "/api/v1/subscriptions/{name}", tag = "subscriptions",
    params(("name" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "Its name")),
    responses((status = 200, description = "The subscription", body = Subscription)))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    OfSubscription(name): OfSubscription,
) -> Result<Response, Problem> {
    Ok(as_json(&find(&app, &name).await?).into_response())
}

pub(crate) async fn find(app: &App, name: &str) -> Result<Subscription, Problem> {
    let status = app.outlook.status(&app.operations, app.settings.request_timeout).await?;
    let found = status.subscriptions.iter().find(|found| found.name == name);
    found.map(Subscription::of).ok_or_else(|| {
        Problem::new(Code::NoSubscription, "/api/v1/subscriptions lists those that there are")
    })
}

/// How to change a subscription.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub(crate) struct SubscriptionChange {
    /// Say what would happen, and change nothing.
    dry_run: bool,
}

/// What became of a change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SubscriptionChanged {
    /// The subscription's name.
    name: String,
    /// `paused` or `resumed`.
    outcome: &'static str,
    /// Nothing was changed.
    dry_run: bool,
}

/// Pause a subscription
///
/// Its relay publishes nothing more within ten seconds, and keeps its lease. It stands in the audit trail under the token's name.
#[utoipa::path(post, path = "/api/v1/subscriptions/{name}/pause", tag = "subscriptions",
    params(("name" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "Its name")), request_body = Option<SubscriptionChange>,
    responses((status = 200, description = "It is paused", body = SubscriptionChanged)))]
pub(crate) async fn pause(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfSubscription(name): OfSubscription,
    OptionalJson(change): OptionalJson<SubscriptionChange>,
) -> Result<Response, Problem> {
    set_paused(&app, &principal, name, true, change.dry_run).await
}

/// Resume a subscription
///
/// It goes on where it was. It stands in the audit trail under the token's name.
#[utoipa::path(post, path = "/api/v1/subscriptions/{name}/resume", tag = "subscriptions",
    params(("name" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "Its name")), request_body = Option<SubscriptionChange>,
    responses((status = 200, description = "It goes on", body = SubscriptionChanged)))]
pub(crate) async fn resume(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfSubscription(name): OfSubscription,
    OptionalJson(change): OptionalJson<SubscriptionChange>,
) -> Result<Response, Problem> {
    set_paused(&app, &principal, name, false, change.dry_run).await
}

async fn set_paused(
    app: &App,
    principal: &Principal,
    name: String,
    paused: bool,
    dry_run: bool,
) -> Result<Response, Problem> {
    find(app, &name).await?;
    let actor = principal.name.to_string();
    let request = Request { actor, is_dry_run: dry_run, is_forced: false };
    app.operations.pause(&name, paused, &request).await?;
    app.outlook.forget();
    let outcome = if paused { "paused" } else { "resumed" };
    Ok(as_json(&SubscriptionChanged { name, outcome, dry_run }).into_response())
}
