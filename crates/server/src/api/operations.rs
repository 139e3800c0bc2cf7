//! Operations in the background: begun by what concerns many messages, listed, shown, cancelled. What runs them stands
//! in [`crate::runner`].

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use posthaste_store::{
    Operation, OperationBegun, OperationCancelled, OperationSpec, UNFINISHED_MAX,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    dead_letters::request,
    filters::{Of, cursor},
    shown::as_json,
};
use crate::{
    app::App,
    clock,
    extract::{OfOperation, OptionalJson, Parameters},
    problem::{Code, Problem},
    tokens::Principal,
};

const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 200;

/// An operation in the background.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Operation)]
pub(crate) struct OperationBody {
    /// Its id.
    id: Uuid,
    /// `replay-dead-letters`, `discard-dead-letters` or `replay-messages`.
    kind: &'static str,
    /// `waiting` for a server, `running`, `cancelling`, and then `done`, `cancelled` or `failed`.
    state: &'static str,
    /// How many messages it concerned when it began; null above 100,000 messages of the log.
    total: Option<u64>,
    /// How many it is done with. What somebody else takes away meanwhile is not among them.
    done: u64,
    /// Which messages.
    filter: OperationFilter,
    /// How many a second are due; null for at once.
    rate: Option<f64>,
    /// The subscription that publishes messages of the log again.
    to: Option<String>,
    /// Who began it.
    actor: String,
    /// Why it could not go on.
    problem: Option<String>,
    /// When it began.
    #[schema(format = DateTime)]
    began_at: String,
    /// When it was over.
    #[schema(format = DateTime)]
    ended_at: Option<String>,
}

/// Which messages an operation concerns: those that meet every condition.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OperationFilter {
    /// Of this subscription.
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription: Option<String>,
    /// With these ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ids: Vec<Uuid>,
    /// Of these topics, separated by commas.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    /// Of this key.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// With this text in the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Of this group of reasons.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    /// At this time or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    since: Option<String>,
    /// Before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    until: Option<String>,
}

impl OperationFilter {
    fn of(spec: &OperationSpec) -> Self {
        let which = &spec.filter.which;
        Self {
            subscription: which.subscription.clone(),
            ids: which.ids.clone(),
            topic: which.topics.as_ref().map(|topics| topics.to_string().replace(", ", ",")),
            key: which.key.clone(),
            reason: which.reason.clone(),
            group: spec.filter.group.clone(),
            since: which.since.map(clock::rfc3339),
            until: which.until.map(clock::rfc3339),
        }
    }
}

impl OperationBody {
    fn of(operation: &Operation) -> Self {
        let state = operation.state;
        let is_ending = operation.is_cancel_wanted && !state.is_over();
        Self {
            id: operation.id,
            kind: operation.spec.kind.as_str(),
            state: if is_ending { "cancelling" } else { state.as_str() },
            total: operation.total,
            done: operation.done,
            filter: OperationFilter::of(&operation.spec),
            rate: operation.spec.rate,
            to: operation.spec.target.clone(),
            actor: operation.actor.clone(),
            problem: operation.problem.clone(),
            began_at: clock::rfc3339(operation.began_at),
            ended_at: operation.ended_at.map(clock::rfc3339),
        }
    }
}

/// What an operation would concern.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OperationPreview {
    /// `replay-dead-letters`, `discard-dead-letters` or `replay-messages`.
    kind: &'static str,
    /// Nothing was changed.
    dry_run: bool,
    /// How many messages; null above 100,000 messages of the log.
    total: Option<u64>,
}

/// Begins an operation, or counts what it would concern.
pub(crate) async fn begin(
    app: &App,
    principal: &Principal,
    spec: &OperationSpec,
    dry_run: bool,
) -> Result<Response, Problem> {
    let operation = match app.operations.begin_operation(spec, &request(principal, dry_run)).await?
    {
        OperationBegun::Begun(operation) => operation,
        OperationBegun::WouldConcern(total) => {
            let preview = OperationPreview { kind: spec.kind.as_str(), dry_run: true, total };
            return Ok(as_json(&preview).into_response());
        }
        OperationBegun::TooMany => {
            let detail = format!(
                "{UNFINISHED_MAX} operations wait or run: wait until one is over, or cancel one \
                 (/api/v1/operations lists them)"
            );
            return Err(Problem::new(Code::TooManyOperations, detail));
        }
    };
    app.runner.wake();
    let body = as_json(&OperationBody::of(&operation));
    let response = (StatusCode::ACCEPTED, body).into_response();
    Ok(app.located(response, &format!("/api/v1/operations/{}", operation.id)))
}

/// Which operations.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Listing {
    /// How many at most; 50 if not given.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A page of operations, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Operations {
    /// The page.
    operations: Vec<OperationBody>,
    /// What to send as `cursor` for the next page; null on the last one.
    next: Option<String>,
}

/// List operations
///
/// The newest first, page by page. Of those that are over, the newest 1,000 are kept.
#[utoipa::path(get, path = "/api/v1/operations", tag = "operations", params(Listing),
    responses((status = 200, description = "A page", body = Operations)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Parameters(listing): Parameters<Listing>,
) -> Result<Response, Problem> {
    let limit = Of::Query.limit(listing.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let before = Of::Query.place('o', listing.cursor, |text| text.parse().ok())?;
    let page = app.operations.operations(before, limit).await?;
    let is_full = page.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next = page.last().filter(|_| is_full).map(|last| cursor('o', &last.n.to_string()));
    let operations = page.iter().map(OperationBody::of).collect();
    Ok(as_json(&Operations { operations, next }).into_response())
}

/// Show an operation
///
/// With how far it has come.
#[utoipa::path(get, path = "/api/v1/operations/{id}", tag = "operations",
    params(("id" = Uuid, Path, description = "The operation's id")),
    responses((status = 200, description = "The operation", body = OperationBody)))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    OfOperation(id): OfOperation,
) -> Result<Response, Problem> {
    let found = app.operations.operation(id).await?.ok_or_else(no_operation)?;
    Ok(as_json(&OperationBody::of(&found)).into_response())
}

fn no_operation() -> Problem {
    let detail = "there is none with this id, or 1,000 newer ones are over: /api/v1/operations lists those that there are";
    Problem::new(Code::NoOperation, detail)
}

/// How to cancel an operation.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub(crate) struct OperationChange {
    /// Say what would happen, and change nothing.
    dry_run: bool,
}

/// What became of a change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OperationChanged {
    /// The operation's id.
    id: Uuid,
    /// `cancelling`.
    outcome: &'static str,
    /// Nothing was changed.
    dry_run: bool,
}

/// Cancel an operation
///
/// It ends before its next piece; what it has done stays done. It stands in the audit trail under the token's name.
#[utoipa::path(post, path = "/api/v1/operations/{id}/cancel", tag = "operations",
    params(("id" = Uuid, Path, description = "The operation's id")), request_body = Option<OperationChange>,
    responses((status = 200, description = "It ends", body = OperationChanged),
        (status = 409, description = "`operation-state`: it is over")))]
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfOperation(id): OfOperation,
    OptionalJson(change): OptionalJson<OperationChange>,
) -> Result<Response, Problem> {
    let dry_run = change.dry_run;
    match app.operations.cancel_operation(id, &request(&principal, dry_run)).await? {
        OperationCancelled::Wanted => {
            app.runner.wake();
            let outcome = "cancelling";
            Ok(as_json(&OperationChanged { id, outcome, dry_run }).into_response())
        }
        OperationCancelled::Over(state) => {
            let detail = format!("the operation is over: it is {state}");
            Err(Problem::new(Code::OperationState, detail))
        }
        OperationCancelled::Unknown => Err(no_operation()),
    }
}
