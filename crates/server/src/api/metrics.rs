//! Figures as JSON, for people and programs that have no Prometheus: the outbox, state machines, fallbacks, jobs and
//! requests, and one answer for load balancers.
//!
//! What the database is asked for is shared by all who ask: the log's figures are some seconds old at most, what is
//! counted (jobs, entities, commands) as old as `counted_at` says.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use posthaste_store::{EntityCensus, Status, SubscriptionStatus};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    filters::Of,
    health::{DatabaseHealth, OutboxFigures, is_publishing, told},
    shown::as_json,
};
use crate::{
    app::App,
    clock,
    extract::Parameters,
    parts::{RelayPart, WorkerPart},
    problem::Problem,
    telemetry::Counted,
};

/// How old the oldest message may be where nobody says it, in seconds.
const AGE_SECONDS: u32 = 300;
const AGE_SECONDS_MAX: u32 = 86_400;

/// Everything at once.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AllMetrics {
    /// As `/api/v1/metrics/outbox`; null while the database does not tell.
    outbox: Option<OutboxMetrics>,
    /// As `/api/v1/metrics/machines`.
    machines: MachineMetrics,
    /// As `/api/v1/metrics/fallbacks`.
    fallbacks: FallbackMetrics,
    /// As `/api/v1/metrics/jobs`.
    jobs: JobMetrics,
    /// As `/api/v1/metrics/health`.
    health: HealthCheck,
}

/// The outbox.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OutboxMetrics {
    #[serde(flatten)]
    figures: OutboxFigures,
    /// By subscription, by name.
    subscriptions: Vec<SubscriptionMetrics>,
    /// What the relay of this process has done since it began; null where it runs elsewhere.
    relay: Option<RelayMetrics>,
}

/// A subscription.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SubscriptionMetrics {
    /// Its name.
    name: String,
    /// Messages that it has yet to publish.
    pending: u64,
    /// Age of the oldest of them in milliseconds; 0 without any.
    oldest_age_ms: i64,
    /// Keys and messages that are set aside.
    parked: u64,
    /// Messages that are out of attempts.
    dead_letters: u64,
    /// Which relay has it.
    holder: Option<String>,
    /// Whether somebody has paused it.
    paused: bool,
}

/// A relay since it began.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RelayMetrics {
    /// Messages that sinks have accepted.
    published: u64,
    /// Times that a sink has rejected a message.
    rejected: u64,
    /// Batches that had to be tried again.
    retries: u64,
    /// Batches that sinks have answered.
    batches: u64,
    /// How long an answer took on average, in milliseconds.
    batch_ms: f64,
    /// The last failure that is not over.
    last_error: Option<String>,
}

/// State machines and commands.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct MachineMetrics {
    /// When these were counted; null before the first time.
    #[schema(format = DateTime)]
    counted_at: Option<String>,
    /// By machine, by name.
    machines: Vec<MachineCount>,
    /// Idempotent commands that are kept.
    commands: CommandCount,
}

/// A machine's entities.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MachineCount {
    /// The machine.
    name: String,
    /// Its entities.
    entities: u64,
    /// The steps that they have taken.
    steps: u64,
    /// Entities by state; states without any are left out.
    states: Vec<StateFigure>,
}

/// A number by state.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StateFigure {
    /// The state.
    state: String,
    /// How many.
    count: u64,
}

/// Commands.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct CommandCount {
    /// Whose answer is kept.
    completed: u64,
    /// That have yet to be completed.
    in_progress: u64,
}

/// What workers and listeners of this process have mended since they began.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct FallbackMetrics {
    /// Checks that found something missing and put it there.
    mended: u64,
    /// Checks that failed.
    failed: u64,
    /// Jobs that waited for nothing and were published again.
    republished: u64,
    /// By worker and listener.
    workers: Vec<WorkerFallbacks>,
}

/// One of them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WorkerFallbacks {
    /// Its name.
    name: String,
    /// Checks that found something missing and put it there.
    mended: u64,
    /// Checks that failed.
    failed: u64,
    /// Jobs that waited for nothing and were published again.
    republished: u64,
}

/// Jobs.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct JobMetrics {
    /// When these were counted; null before the first time.
    #[schema(format = DateTime)]
    counted_at: Option<String>,
    /// Jobs by state; those that are queued count as created, or failed.
    states: Vec<StateFigure>,
    /// What the workers of this process have done since they began.
    workers: Vec<WorkerMetrics>,
}

/// A worker since it began.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WorkerMetrics {
    /// Its name.
    name: String,
    /// Jobs and messages that were done.
    completed: u64,
    /// Attempts that failed and were worth another.
    failed: u64,
    /// Jobs that were rejected or out of attempts.
    dead: u64,
}

/// One answer for load balancers and monitors.
#[derive(Debug, Serialize, ToSchema)]
#[expect(clippy::struct_excessive_bools, reason = "each is an answer of its own")]
pub(crate) struct HealthCheck {
    /// Whether all of these are true.
    healthy: bool,
    /// The database answers.
    database: bool,
    /// Messages are being published: by the relay of this process, or by another one.
    publishing: bool,
    /// The oldest message that waits is younger than `max_age`.
    in_time: bool,
    /// No sink of this process fails, and nothing is set aside for longer than `max_age`.
    without_errors: bool,
}

/// What counts as late.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Limits {
    /// How old the oldest message may be, and what is set aside, in seconds; 300 if not given.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 86400)]
    max_age: Option<String>,
}

impl Limits {
    fn age(self) -> Result<Duration, Problem> {
        let seconds = Of::Query.whole("max_age", self.max_age, AGE_SECONDS, AGE_SECONDS_MAX)?;
        Ok(Duration::from_secs(seconds.into()))
    }
}

/// Every figure
///
/// Of the outbox, state machines, fallbacks and jobs, with what load balancers ask for.
#[utoipa::path(get, path = "/api/v1/metrics", tag = "metrics", params(Limits),
    responses((status = 200, description = "The figures", body = AllMetrics)))]
pub(crate) async fn all(
    State(app): State<Arc<App>>,
    Parameters(limits): Parameters<Limits>,
) -> Result<Response, Problem> {
    let age = limits.age()?;
    let status = app.outlook.status(&app.operations, app.settings.health_timeout).await.ok();
    let (counted, workers) = (app.telemetry.meter().census.last(), app.parts.workers());
    let all = AllMetrics {
        outbox: status.as_deref().map(|status| OutboxMetrics::of(&app, status)),
        machines: MachineMetrics::of(counted.as_ref()),
        fallbacks: FallbackMetrics::of(&workers),
        jobs: JobMetrics::of(counted.as_ref(), &workers),
        health: HealthCheck::of(&app, status.as_deref(), age).await,
    };
    Ok(as_json(&all).into_response())
}

/// Figures of the outbox
///
/// What waits, by subscription, and what the relay of this process has done.
#[utoipa::path(get, path = "/api/v1/metrics/outbox", tag = "metrics",
    responses((status = 200, description = "The figures", body = OutboxMetrics)))]
pub(crate) async fn outbox(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let limit = app.settings.health_timeout;
    let status = app.outlook.status(&app.operations, limit).await?;
    Ok(as_json(&OutboxMetrics::of(&app, &status)).into_response())
}

/// Figures of state machines
///
/// Entities by machine and state, the steps that they have taken, and idempotent commands.
#[utoipa::path(get, path = "/api/v1/metrics/machines", tag = "metrics",
    responses((status = 200, description = "The figures", body = MachineMetrics)))]
pub(crate) async fn machines(State(app): State<Arc<App>>) -> Response {
    let counted = app.telemetry.meter().census.last();
    as_json(&MachineMetrics::of(counted.as_ref())).into_response()
}

/// Figures of fallbacks
///
/// What workers and listeners of this process have found missing, and mended.
#[utoipa::path(get, path = "/api/v1/metrics/fallbacks", tag = "metrics",
    responses((status = 200, description = "The figures", body = FallbackMetrics)))]
pub(crate) async fn fallbacks(State(app): State<Arc<App>>) -> Response {
    as_json(&FallbackMetrics::of(&app.parts.workers())).into_response()
}

/// Figures of jobs
///
/// Jobs by state, and what the workers of this process have done.
#[utoipa::path(get, path = "/api/v1/metrics/jobs", tag = "metrics",
    responses((status = 200, description = "The figures", body = JobMetrics)))]
pub(crate) async fn jobs(State(app): State<Arc<App>>) -> Response {
    let counted = app.telemetry.meter().census.last();
    as_json(&JobMetrics::of(counted.as_ref(), &app.parts.workers())).into_response()
}

/// In order?
///
/// For load balancers and monitors: whether the database answers, messages are published, none of them waits for too long, and
/// no sink fails.
#[utoipa::path(get, path = "/api/v1/metrics/health", tag = "metrics", params(Limits),
    responses((status = 200, description = "Yes", body = HealthCheck), (status = 503, description = "No", body = HealthCheck)))]
pub(crate) async fn health(
    State(app): State<Arc<App>>,
    Parameters(limits): Parameters<Limits>,
) -> Result<Response, Problem> {
    let age = limits.age()?;
    let status = app.outlook.status(&app.operations, app.settings.health_timeout).await.ok();
    let check = HealthCheck::of(&app, status.as_deref(), age).await;
    Ok(told(check.healthy, &check))
}

impl OutboxMetrics {
    fn of(app: &App, status: &Status) -> Self {
        Self {
            figures: OutboxFigures::of(status),
            subscriptions: status.subscriptions.iter().map(SubscriptionMetrics::of).collect(),
            relay: app.parts.relay().map(RelayMetrics::of),
        }
    }
}

impl SubscriptionMetrics {
    fn of(status: &SubscriptionStatus) -> Self {
        Self {
            name: status.name.clone(),
            pending: status.backlog,
            oldest_age_ms: status.lag_micros / 1_000,
            parked: status.parked_keys + status.parked_messages,
            dead_letters: status.dead_letters,
            holder: status.holder.clone(),
            paused: status.is_paused,
        }
    }
}

impl RelayMetrics {
    fn of(relay: RelayPart) -> Self {
        let millis = relay.answering.as_secs_f64() * 1_000.0;
        Self {
            published: relay.processed,
            rejected: relay.failed,
            retries: relay.retries,
            batches: relay.batches,
            batch_ms: millis / relay.batches.max(1) as f64,
            last_error: relay.last_error,
        }
    }
}

impl MachineMetrics {
    fn of(counted: Option<&Counted>) -> Self {
        let Some(Counted { census, at }) = counted else { return Self::default() };
        let by_machine = census.entities.chunk_by(|one, next| one.machine == next.machine);
        Self {
            counted_at: Some(clock::rfc3339(*at)),
            machines: by_machine.filter_map(MachineCount::of).collect(),
            commands: CommandCount {
                completed: census.commands_completed,
                in_progress: census.commands_in_progress,
            },
        }
    }
}

impl MachineCount {
    fn of(states: &[EntityCensus]) -> Option<Self> {
        let state = |it: &EntityCensus| StateFigure { state: it.state.clone(), count: it.entities };
        Some(Self {
            name: states.first()?.machine.clone(),
            entities: states.iter().map(|it| it.entities).sum(),
            steps: states.iter().map(|it| it.steps).sum(),
            states: states.iter().map(state).collect(),
        })
    }
}

impl FallbackMetrics {
    fn of(workers: &[WorkerPart]) -> Self {
        let one = |it: &WorkerPart| WorkerFallbacks {
            name: it.name.clone(),
            mended: it.mended,
            failed: it.unmended,
            republished: it.republished,
        };
        Self {
            mended: workers.iter().map(|it| it.mended).sum(),
            failed: workers.iter().map(|it| it.unmended).sum(),
            republished: workers.iter().map(|it| it.republished).sum(),
            workers: workers.iter().map(one).collect(),
        }
    }
}

impl JobMetrics {
    fn of(counted: Option<&Counted>, workers: &[WorkerPart]) -> Self {
        let jobs = counted.iter().flat_map(|counted| &counted.census.jobs);
        let one = |it: &WorkerPart| WorkerMetrics {
            name: it.name.clone(),
            completed: it.completed,
            failed: it.failed,
            dead: it.dead,
        };
        Self {
            counted_at: counted.map(|counted| clock::rfc3339(counted.at)),
            states: jobs
                .map(|(state, count)| StateFigure { state: state.clone(), count: *count })
                .collect(),
            workers: workers.iter().map(one).collect(),
        }
    }
}

impl HealthCheck {
    async fn of(app: &App, status: Option<&Status>, age: Duration) -> Self {
        let relay = app.parts.relay();
        // A database that did not tell its figures is not asked twice.
        let database = status.is_some() && DatabaseHealth::of(app).await.ok;
        let publishing = is_publishing(relay.as_ref(), status);
        let limit = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
        // What somebody has paused is late on purpose.
        let is_late = |it: &SubscriptionStatus| !it.is_paused && it.lag_micros > limit;
        let in_time = status.is_some_and(|status| !status.subscriptions.iter().any(is_late));
        let fails = |it: &SubscriptionStatus| !it.is_paused && it.aside_micros > limit;
        let is_well = status.is_none_or(|status| !status.subscriptions.iter().any(fails));
        let without_errors = is_well && relay.is_none_or(|relay| relay.last_error.is_none());
        let healthy = database && publishing && in_time && without_errors;
        Self { healthy, database, publishing, in_time, without_errors }
    }
}
