//! Health and metrics: what probes, monitors and Prometheus ask for.
//!
//! `/livez`, `/readyz` and `/health` ask nobody and need no token. What asks the database does so within
//! `server.health_timeout` and shares its answers.

use std::{sync::Arc, time::Instant};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use posthaste_core::Timestamp;
use posthaste_store::Status;
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::shown::as_json;
use crate::{
    app::App,
    clock,
    context::Told,
    parts::{RelayPart, SinkPart},
};

/// Whether the process is worth keeping.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Liveness {
    /// Whether it is. Databases and sinks do not matter: starting anew mends neither.
    alive: bool,
}

/// Whether everything is at work.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ReadyState {
    /// Whether it is.
    ready: bool,
}

/// Both at once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Health {
    /// `ok` or `failing`.
    status: &'static str,
    /// As `/livez`.
    alive: bool,
    /// As `/readyz`.
    ready: bool,
}

/// The particulars.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeepHealth {
    /// `ok`, or `failing` where one of the parts fails.
    status: &'static str,
    /// The database.
    database: DatabaseHealth,
    /// Where the relay of this process publishes; null without one.
    broker: Option<BrokerHealth>,
    /// What has yet to be published; null while the database does not tell.
    outbox: Option<OutboxFigures>,
    /// The relay and the workers of this process, with what they wait for.
    parts: Value,
}

/// The database.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DatabaseHealth {
    /// Whether it answered as it should.
    pub(super) ok: bool,
    /// How long that took, in milliseconds.
    elapsed_ms: u64,
    /// What is wrong, and what to do about it.
    problem: Option<String>,
}

/// Where the relay publishes.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BrokerHealth {
    /// Whether all of it takes messages.
    ok: bool,
    /// Each subscription's sink.
    sinks: Vec<SinkHealth>,
}

/// The sink of a subscription.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SinkHealth {
    /// The subscription's name.
    subscription: String,
    /// Whether it takes messages, or would.
    ok: bool,
    /// Why not.
    problem: Option<String>,
}

/// What has yet to be published.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub(crate) struct OutboxFigures {
    /// Messages that subscriptions have yet to publish; one that two of them read counts twice.
    pending: u64,
    /// Age of the oldest of them in milliseconds; 0 without any.
    oldest_age_ms: i64,
    /// Keys and messages that are set aside.
    parked: u64,
    /// Messages that are out of attempts.
    dead_letters: u64,
}

/// The relay, in the form that monitors of a hand-made outbox read.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OutboxHealth {
    /// Whether messages are being published: by the relay of this process, or by another one.
    alive: bool,
    /// When a place was settled last.
    #[schema(format = DateTime)]
    last_processed: Option<String>,
    /// As `statistics.pending`.
    queue_depth: u64,
    /// The longest pause between looks at the log in milliseconds; null where the relay runs elsewhere.
    poll_interval: Option<u64>,
    /// Figures since the relay of this process began.
    statistics: OutboxStatistics,
}

/// Figures of the relay of this process, and of the database.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OutboxStatistics {
    /// Messages that sinks have accepted since the relay of this process began; null where it runs elsewhere.
    processed: Option<u64>,
    /// Times that a sink has rejected a message since then.
    failed: Option<u64>,
    /// Messages that subscriptions have yet to publish; one that two of them read counts twice.
    pending: u64,
    /// Messages that are out of attempts.
    dead_letters: u64,
    /// The last failure that is not over.
    last_error: Option<String>,
    /// `running`, `idle` with nothing to publish, or `stopped`.
    status: &'static str,
}

/// Alive?
///
/// For whoever starts the process anew.
#[utoipa::path(get, path = "/livez", tag = "health",
    responses((status = 200, description = "Yes", body = Liveness), (status = 503, description = "No", body = Liveness)))]
pub(crate) async fn livez(State(app): State<Arc<App>>) -> Response {
    let alive = app.parts.is_alive();
    told(alive, &Liveness { alive })
}

/// Ready?
///
/// For load balancers. `/health/deep` says what it waits for.
#[utoipa::path(get, path = "/readyz", tag = "health",
    responses((status = 200, description = "Yes", body = ReadyState), (status = 503, description = "No", body = ReadyState)))]
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> Response {
    let (ready, _) = app.parts.readiness();
    told(ready, &ReadyState { ready })
}

/// Healthy?
///
/// Asks nobody: for probes that come often.
#[utoipa::path(get, path = "/health", tag = "health",
    responses((status = 200, description = "Yes", body = Health), (status = 503, description = "No", body = Health)))]
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    let (alive, (ready, _)) = (app.parts.is_alive(), app.parts.readiness());
    let is_well = alive && ready;
    told(is_well, &Health { status: word(is_well), alive, ready })
}

/// Healthy, in particular?
///
/// The database, the brokers, the relay, the workers and what has yet to be published.
#[utoipa::path(get, path = "/health/deep", tag = "health",
    responses((status = 200, description = "Yes", body = DeepHealth), (status = 503, description = "No", body = DeepHealth)))]
pub(crate) async fn deep(State(app): State<Arc<App>>) -> Response {
    let (is_well, health) = look(&app).await;
    told(is_well, &health)
}

/// Healthy, in particular?
///
/// The same as `/health/deep`.
#[utoipa::path(get, path = "/api/v1/health", tag = "health",
    responses((status = 200, description = "Yes", body = DeepHealth), (status = 503, description = "No", body = DeepHealth)))]
pub(crate) async fn api_health(State(app): State<Arc<App>>) -> Response {
    let (is_well, health) = look(&app).await;
    told(is_well, &health)
}

/// The outbox's health
///
/// Whether messages are being published, and how many wait.
#[utoipa::path(get, path = "/api/health/outbox", tag = "health",
    responses((status = 200, description = "Yes", body = OutboxHealth), (status = 503, description = "No", body = OutboxHealth)))]
pub(crate) async fn outbox(State(app): State<Arc<App>>) -> Response {
    let limit = app.settings.health_timeout;
    let status = app.outlook.status(&app.operations, limit).await.ok();
    let health = OutboxHealth::of(app.parts.relay().as_ref(), status.as_deref());
    told(health.alive, &health)
}

/// Metrics
///
/// In Prometheus' text format; not here where `telemetry.listen` is set.
#[utoipa::path(get, path = "/metrics", tag = "health",
    responses((status = 200, description = "Every metric", body = String, content_type = "text/plain"),
        (status = 404, description = "`no-route`: they are served at `telemetry.listen`")))]
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
) -> Result<Response, crate::problem::Problem> {
    use crate::problem::{Code, Problem};
    let page = app.parts.metrics().ok_or_else(|| {
        Problem::new(Code::NoRoute, "metrics are served at the address of telemetry.listen")
    })?;
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], page).into_response())
}

/// An answer whose status says the same as its body.
pub(super) fn told(is_well: bool, body: &impl Serialize) -> Response {
    let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = (status, as_json(body)).into_response();
    response.extensions_mut().insert(Told);
    response
}

const fn word(is_well: bool) -> &'static str {
    if is_well { "ok" } else { "failing" }
}

async fn look(app: &App) -> (bool, DeepHealth) {
    let database = DatabaseHealth::of(app).await;
    // A database that does not answer is not asked twice.
    let status = if database.ok {
        app.outlook.status(&app.operations, app.settings.health_timeout).await.ok()
    } else {
        None
    };
    let (ready, parts) = app.parts.readiness();
    let broker = app.parts.relay().map(BrokerHealth::of);
    let is_well = database.ok
        && broker.as_ref().is_none_or(|broker| broker.ok)
        && ready
        && app.parts.is_alive();
    let outbox = status.as_deref().map(OutboxFigures::of);
    (is_well, DeepHealth { status: word(is_well), database, broker, outbox, parts })
}

impl BrokerHealth {
    fn of(relay: RelayPart) -> Self {
        let health = |SinkPart { subscription, problem }| SinkHealth {
            subscription,
            ok: problem.is_none(),
            problem,
        };
        let sinks: Vec<SinkHealth> = relay.sinks.into_iter().map(health).collect();
        Self { ok: sinks.iter().all(|sink| sink.ok), sinks }
    }
}

impl DatabaseHealth {
    pub(super) async fn of(app: &App) -> Self {
        let since = Instant::now();
        let limit = app.settings.health_timeout;
        let problem = match timeout(limit, app.operations.check()).await {
            Ok(Ok(())) => None,
            // The remedy alone: what was found may name hosts and roles, and is in the log.
            Ok(Err(error)) => {
                tracing::debug!("check the database: {}", posthaste_core::describe(&error));
                Some(error.kind().remedy().to_owned())
            }
            Err(_elapsed) => Some(format!("it did not answer within {limit:?}")),
        };
        let elapsed_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        Self { ok: problem.is_none(), elapsed_ms, problem }
    }
}

impl OutboxFigures {
    pub(super) fn of(status: &Status) -> Self {
        status.subscriptions.iter().fold(Self::default(), |sum, it| Self {
            pending: sum.pending + it.backlog,
            oldest_age_ms: sum.oldest_age_ms.max(it.lag_micros / 1_000),
            parked: sum.parked + it.parked_keys + it.parked_messages,
            dead_letters: sum.dead_letters + it.dead_letters,
        })
    }
}

/// Whether messages are being published: by the relay of this process, or by another one.
pub(super) fn is_publishing(relay: Option<&RelayPart>, status: Option<&Status>) -> bool {
    let subscriptions = status.map(|status| &status.subscriptions[..]).unwrap_or_default();
    let is_held = subscriptions.iter().any(|it| it.holder.is_some());
    status.is_some() && relay.map_or(is_held, |relay| relay.is_alive)
}

impl OutboxHealth {
    fn of(relay: Option<&RelayPart>, status: Option<&Status>) -> Self {
        let figures = status.map(OutboxFigures::of).unwrap_or_default();
        let subscriptions = status.map(|status| &status.subscriptions[..]).unwrap_or_default();
        let alive = is_publishing(relay, status);
        let settled = subscriptions.iter().filter_map(|it| it.progress.at.map(|at| at.0)).max();
        let poll = relay.map(|relay| relay.poll_interval.as_millis());
        let is_idle = figures.pending == 0;
        Self {
            alive,
            last_processed: settled.map(|at| clock::rfc3339(Timestamp(at))),
            queue_depth: figures.pending,
            poll_interval: poll.map(|millis| u64::try_from(millis).unwrap_or(u64::MAX)),
            statistics: OutboxStatistics {
                processed: relay.map(|relay| relay.processed),
                failed: relay.map(|relay| relay.failed),
                pending: figures.pending,
                dead_letters: figures.dead_letters,
                last_error: relay.and_then(|relay| relay.last_error.clone()),
                status: match alive {
                    false => "stopped",
                    true if is_idle => "idle",
                    true => "running",
                },
            },
        }
    }
}
