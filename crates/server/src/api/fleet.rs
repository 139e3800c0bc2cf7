//! Relays and workers: who runs, and what they have.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use posthaste_store::{HeldLease, RelayStatus, WorkerStatus};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::shown::as_json;
use crate::{app::App, clock, problem::Problem};

/// A relay that holds nothing is taken for dead after so long without a word, in microseconds: three times the
/// default of `relay.lease`, in which it speaks three times.
const SILENT_MICROS_MAX: i64 = 15_000_000;

/// Relays that were seen lately, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Relays {
    /// The relays, at most 1,000.
    relays: Vec<RelayBody>,
}

/// A relay.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Relay)]
pub(crate) struct RelayBody {
    /// Its name.
    name: String,
    /// Whether it holds a subscription, or was heard of in the last fifteen seconds.
    alive: bool,
    /// The version of its program.
    version: Option<String>,
    /// Since when it runs.
    #[schema(format = DateTime)]
    started_at: Option<String>,
    /// When it was last heard of.
    #[schema(format = DateTime)]
    seen_at: Option<String>,
    /// Subscriptions that it is configured for.
    subscriptions: Vec<String>,
    /// Those that it holds.
    holds: Vec<LeaseBody>,
}

/// A subscription that a relay holds.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Lease)]
pub(crate) struct LeaseBody {
    /// The subscription.
    subscription: String,
    /// Counts its holders.
    epoch: i64,
    /// Since when this one holds it.
    #[schema(format = DateTime)]
    since: Option<String>,
    /// Until when, unless it is renewed.
    #[schema(format = DateTime)]
    until: String,
}

impl RelayBody {
    fn of(relay: &RelayStatus) -> Self {
        let is_heard = relay.silent_micros.is_some_and(|silent| silent < SILENT_MICROS_MAX);
        let lease = |lease: &HeldLease| LeaseBody {
            subscription: lease.subscription.clone(),
            epoch: lease.epoch,
            since: lease.since.map(clock::rfc3339),
            until: clock::rfc3339(lease.until),
        };
        Self {
            name: relay.holder.clone(),
            alive: is_heard || !relay.holds.is_empty(),
            version: relay.version.clone(),
            started_at: relay.started_at.map(clock::rfc3339),
            seen_at: relay.seen_at.map(clock::rfc3339),
            subscriptions: relay.subscriptions.clone(),
            holds: relay.holds.iter().map(lease).collect(),
        }
    }
}

/// List relays
///
/// Of all processes on the database, with the subscriptions that they hold.
#[utoipa::path(get, path = "/api/v1/relays", tag = "fleet",
    responses((status = 200, description = "All of them", body = Relays)))]
pub(crate) async fn relays(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let relays = app.operations.relays().await?.iter().map(RelayBody::of).collect();
    Ok(as_json(&Relays { relays }).into_response())
}

/// Workers that are registered, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Workers {
    /// The workers, at most 1,000.
    workers: Vec<WorkerBody>,
}

/// A worker.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Worker)]
pub(crate) struct WorkerBody {
    /// Its id.
    id: Uuid,
    /// Its name.
    name: String,
    /// Whether its lease has not run out.
    alive: bool,
    /// Topics whose jobs it runs.
    topics: Vec<String>,
    /// Where it takes messages from.
    sources: Vec<String>,
    /// The version of its program.
    version: String,
    /// Jobs that it has.
    running: u64,
    /// Since when it runs.
    #[schema(format = DateTime)]
    started_at: String,
    /// When it was last heard of.
    #[schema(format = DateTime)]
    seen_at: String,
    /// Until when it keeps what it has, unless it is renewed; null once it has lost that.
    #[schema(format = DateTime)]
    lease_until: Option<String>,
}

impl WorkerBody {
    fn of(worker: &WorkerStatus) -> Self {
        Self {
            id: worker.id,
            name: worker.name.clone(),
            alive: worker.is_alive,
            topics: worker.topics.clone(),
            sources: worker.sources.clone(),
            version: worker.version.clone(),
            running: worker.running,
            started_at: clock::rfc3339(worker.started_at),
            seen_at: clock::rfc3339(worker.seen_at),
            lease_until: worker.lease_until.map(clock::rfc3339),
        }
    }
}

/// List workers
///
/// Of all processes on the database, with how many jobs they have.
#[utoipa::path(get, path = "/api/v1/workers", tag = "fleet",
    responses((status = 200, description = "All of them", body = Workers)))]
pub(crate) async fn workers(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let workers = app.operations.workers().await?.iter().map(WorkerBody::of).collect();
    Ok(as_json(&Workers { workers }).into_response())
}
