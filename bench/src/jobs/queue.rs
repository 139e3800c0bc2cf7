//! The worker that is measured, in this process, on the stream that the relay's sink fills; and jobs to
//! be run by it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use posthaste::NewJob;
use posthaste_core::Message;
use posthaste_store::{
    JobId, Jobs,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::failure::{During, Failure, Result};
use posthaste_worker::{
    Counts, Done, Handler, Task, Worker, WorkerError, WorkerSettings, source::Source, sources,
    telemetry::Telemetry,
};
use serde_json::json;
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};
use toml::{Table, Value};

use crate::{
    Options,
    messages::{Messages, PAYLOAD_BYTES, STREAM, TOPIC},
    relay::{EXACTLY_ONCE, LONG, Rejected, Relay, Setup},
    servers::{Log, Servers, connect, settle_tables},
};

/// Messages in hand at a time; the worker takes, begins and ends at most 500 in one call.
pub(super) const IN_HAND: usize = 1_000;
/// Jobs of one transaction while they are submitted.
const TRANSACTION_JOBS: u64 = 1_000;
/// Between two looks at a worker's counts.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// A fiftieth of what we expect; beyond it something hangs.
const RATE_MIN: u64 = 100;

/// A worker that runs.
pub(super) struct Running {
    stop: oneshot::Sender<()>,
    worker: JoinHandle<Result<Counts, WorkerError>>,
    telemetry: Telemetry,
    started: Instant,
}

/// The store as workers have it.
pub(super) fn jobs_of(log: &Log) -> Result<Arc<dyn Jobs>> {
    let store = PostgresStore::connect(&log.url, &PostgresOptions::default());
    Ok(Arc::new(store.during("open the store")?))
}

/// Settings of which only those differ from the defaults that a benchmark needs.
pub(super) fn settings(consumer: String) -> WorkerSettings {
    WorkerSettings { consumer, concurrency: IN_HAND, ..WorkerSettings::default() }
}

/// Has a worker take everything from the stream.
pub(super) fn start(
    servers: &Servers,
    store: Arc<dyn Jobs>,
    settings: WorkerSettings,
    handler: impl Handler,
) -> Result<Running> {
    let worker = Worker::new(store, settings).during("set up a worker")?;
    let worker = worker.source(source(servers)?).handle(TOPIC, handler);
    let telemetry = worker.telemetry();
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move {
        let _ = stopped.await;
    };
    let started = Instant::now();
    let worker = tokio::spawn(async move { worker.run(shutdown).await });
    Ok(Running { stop, worker, telemetry, started })
}

fn source(servers: &Servers) -> Result<Box<dyn Source>> {
    let kind = sources::find("redis-stream");
    let kind = kind.ok_or_else(|| Failure::new("there is no source redis-stream"))?;
    let streams = Value::Array(vec![STREAM.into()]);
    let table = [("url".to_owned(), servers.redis.url().into()), ("streams".to_owned(), streams)];
    (kind.parse)(Table::from_iter(table)).during("set up a source")
}

impl Running {
    /// Waits until so many are over, and answers how long that took from the start of the worker on.
    pub(super) async fn until(&self, count: u64) -> Result<Duration> {
        let deadline = Instant::now() + Duration::from_secs(60 + count / RATE_MIN);
        loop {
            let counts = self.telemetry.counts();
            if counts.completed + counts.dead + counts.buried >= count {
                return Ok(self.started.elapsed());
            }
            if Instant::now() > deadline || self.worker.is_finished() {
                return Err(Failure::new(format!("the worker did not do {count}: {counts:?}")));
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Waits until the database knows it.
    pub(super) async fn until_ready(&self) -> Result<()> {
        while !self.telemetry.readiness().ready {
            if self.started.elapsed() > Duration::from_mins(1) {
                return Err(Failure::new("the worker does not become ready"));
            }
            sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    pub(super) async fn stop(self) -> Result<Counts> {
        drop(self.stop);
        self.worker.await.during("stop the worker")?.during("run the worker")
    }
}

/// A handler that does nothing, and brings back a small receipt.
pub(super) async fn trivial(_: Task) -> posthaste_worker::Answer {
    Ok(Done::json(&json!({ "ok": true }))?)
}

/// Submits jobs with payloads of 200 bytes, and brings the tables to rest.
pub(super) async fn submit(
    log: &Log,
    store: &dyn Jobs,
    count: u64,
    has_keys: bool,
) -> Result<Vec<JobId>> {
    let mut messages = Messages::new(PAYLOAD_BYTES);
    let mut ids = Vec::with_capacity(count as usize);
    while (ids.len() as u64) < count {
        let part = (count - ids.len() as u64).min(TRANSACTION_JOBS) as usize;
        let part: Vec<NewJob> = messages
            .take(part)
            .into_iter()
            .map(|message| NewJob::of(if has_keys { message } else { without_key(&message) }))
            .collect();
        ids.extend(store.submit_jobs(&part).await.during("submit jobs")?);
    }
    settle_tables(&log.url).await?;
    Ok(ids)
}

fn without_key(message: &Message) -> Message {
    Message::new(TOPIC).bytes(message.media_type(), message.payload())
}

/// A relay of everything in the log to the stream.
pub(super) fn relay(
    options: &Options,
    servers: &Servers,
    log: &Log,
    subscription: String,
    once: bool,
) -> Result<Relay> {
    Relay::start(&Setup {
        program: &options.posthaste,
        database_url: &log.url,
        redis_url: &servers.redis.url(),
        subscriptions: vec![subscription],
        stream: STREAM,
        delivery: EXACTLY_ONCE,
        rejected: Rejected::ParkKey,
        from: "beginning",
        once,
        retention: LONG,
    })
}

/// Publishes everything that is committed, and nothing more.
pub(super) async fn publish(
    options: &Options,
    servers: &Servers,
    log: &Log,
    subscription: String,
    count: u64,
) -> Result<()> {
    let relay = relay(options, servers, log, subscription, true)?;
    relay.end(Duration::from_mins(5)).await?;
    let length = servers.stream_length(STREAM)?;
    if length != count {
        return Err(Failure::new(format!("the stream holds {length} of {count}")));
    }
    Ok(())
}

/// Fails unless every job was completed by one attempt, with one receipt each.
pub(super) async fn check_each_was_run_once(log: &Log, count: u64) -> Result<()> {
    let sql = "select (select count(*) from posthaste.job where state = 'completed' and attempt = 1), \
               (select count(*) from posthaste.job), \
               (select count(distinct job_id) from posthaste.execution where outcome = 'completed'), \
               (select count(*) from posthaste.execution), \
               (select count(distinct job_id) from posthaste.receipt), \
               (select count(*) from posthaste.receipt)";
    let row = connect(&log.url).await?.query_one(sql, &[]).await.during("count jobs")?;
    let found: Vec<i64> = (0..6).map(|column| row.get(column)).collect();
    if found.iter().any(|found| *found as u64 != count) {
        let what =
            "completed jobs, jobs, completed executions, executions, jobs with receipts, receipts";
        return Err(Failure::new(format!("not {count} of each: {found:?} ({what})")));
    }
    Ok(())
}
