//! A database, a relay that publishes to a channel in the process, and workers on it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use posthaste::{Message, NewJob, Received};
use posthaste_core::{Backoff, JobState, RetryPolicy, TopicFilter};
use posthaste_relay::{
    ContractSettings, FailureSettings, Relay, RelaySettings, Subscription, sink::Context, sinks,
};
use posthaste_store::{
    Job, JobDetail, JobFilter, JobId, Jobs, Start, SubscriptionSpec,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::{SqliteOptions, SqliteStore},
};
use posthaste_testkit::{Database, Postgres};
use posthaste_worker::{Counts, Handler, Worker, WorkerSettings, sources::local::LocalSource};
use tempfile::TempDir;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep},
};

/// Nothing here takes longer on a machine that is busy.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// A database with the schema.
pub(crate) enum Place {
    Postgres(Box<Database>),
    Sqlite(TempDir),
}

impl Place {
    pub(crate) async fn postgres() -> Self {
        let place = Self::Postgres(Box::new(Postgres::shared().database().await));
        place.store().await.migrate().await.unwrap();
        place
    }

    pub(crate) async fn sqlite() -> Self {
        let place = Self::Sqlite(tempfile::tempdir().unwrap());
        place.store().await.migrate().await.unwrap();
        place
    }

    pub(crate) fn file(&self) -> PathBuf {
        match self {
            Self::Sqlite(directory) => directory.path().join("log.db"),
            Self::Postgres(_) => panic!("no file"),
        }
    }

    pub(crate) async fn store(&self) -> Arc<dyn Jobs> {
        match self {
            Self::Postgres(database) => {
                let options = PostgresOptions::default();
                Arc::new(PostgresStore::connect(database.url(), &options).unwrap())
            }
            Self::Sqlite(_) => {
                let options = SqliteOptions { create: true, ..SqliteOptions::default() };
                Arc::new(SqliteStore::open(self.file(), &options).await.unwrap())
            }
        }
    }

    /// A transaction of somebody that holds the rows of jobs, until it is rolled back.
    pub(crate) async fn hold(&self, ids: &[JobId]) -> tokio_postgres::Client {
        let Self::Postgres(database) = self else { panic!("rows of PostgreSQL") };
        let holder = database.connect().await;
        holder.batch_execute("begin").await.unwrap();
        let hold = "select from posthaste.job where id = any ($1) for no key update";
        assert_eq!(holder.query(hold, &[&ids]).await.unwrap().len(), ids.len());
        holder
    }
}

/// A relay of every topic to one sink, until its end.
pub(crate) fn relay(
    store: &Arc<dyn Jobs>,
    kind: &str,
    settings: toml::Table,
    context: Context,
) -> Relay {
    let filter = TopicFilter::new(&["*"]).unwrap();
    let name = "jobs".to_owned();
    let target = (sinks::find(kind).unwrap().parse)(settings).unwrap();
    let subscription = Subscription {
        spec: SubscriptionSpec { name, filter, start: Start::Beginning },
        target: Arc::from(target),
        failure: FailureSettings::default(),
        contracts: ContractSettings::default(),
    };
    let settings = RelaySettings {
        idle_interval: Duration::from_millis(20),
        lease: Duration::from_secs(2),
        ..RelaySettings::default()
    };
    Relay::new(store.clone(), settings, vec![subscription], context)
}

/// A relay of every topic to one channel, until it is dropped.
pub(crate) struct Published {
    relay: JoinHandle<()>,
    pub(crate) channel: mpsc::Receiver<Received>,
}

pub(crate) async fn publish(store: &Arc<dyn Jobs>) -> Published {
    let context = Context::default();
    let mut deliveries = context.locals.subscribe("jobs", 1_000);
    let table = toml::Table::from_iter([("channel".to_owned(), "jobs".into())]);
    let relay = relay(store, "local", table, context);
    let (give, channel) = mpsc::channel(1_000);
    let relay = tokio::spawn(async move {
        let forward = async {
            while let Some(message) = deliveries.recv().await {
                let message = Received {
                    id: message.id,
                    topic: message.topic,
                    key: message.key,
                    content_type: message.content_type,
                    enqueued_at: message.enqueued_at,
                    correlation_id: message.correlation_id,
                    headers: message.headers,
                    payload: message.payload,
                };
                if give.send(message).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            ended = relay.run(std::future::pending()) => panic!("the relay ended: {ended:?}"),
            () = forward => {}
        }
    });
    Published { relay, channel }
}

impl Drop for Published {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

/// Settings with short waits.
pub(crate) fn settings() -> WorkerSettings {
    let backoff = Backoff { initial: Duration::from_millis(20), cap: Duration::from_millis(100) };
    WorkerSettings {
        name: "one".to_owned(),
        lease: Duration::from_secs(2),
        retry: RetryPolicy { attempts: 3, backoff },
        watch_interval: Some(Duration::from_millis(200)),
        watch_age: Duration::from_secs(1),
        drain_timeout: Duration::from_secs(10),
        ..WorkerSettings::default()
    }
}

/// A worker that runs.
pub(crate) struct Working {
    stop: Option<oneshot::Sender<()>>,
    worker: JoinHandle<Counts>,
}

/// Runs `worker` on messages of `published`.
pub(crate) fn start(worker: Worker) -> Working {
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move {
        let _ = stopped.await;
    };
    let worker = tokio::spawn(async move { worker.run(shutdown).await.unwrap() });
    Working { stop: Some(stop), worker }
}

impl Working {
    pub(crate) async fn stop(mut self) -> Counts {
        drop(self.stop.take());
        tokio::time::timeout(LIMIT, self.worker).await.expect("the worker ends").unwrap()
    }

    /// As a process that is killed.
    pub(crate) async fn kill(self) {
        self.worker.abort();
        let _ = self.worker.await;
    }
}

/// Everything of the messages that the relay publishes.
pub(crate) fn local(published: &mut Published) -> LocalSource {
    let (_, closed) = mpsc::channel(1);
    LocalSource::new("jobs", std::mem::replace(&mut published.channel, closed))
}

/// The messages that the relay publishes, for two workers in turn.
pub(crate) fn split(published: &mut Published) -> (LocalSource, LocalSource) {
    let (_, closed) = mpsc::channel(1);
    let mut all = std::mem::replace(&mut published.channel, closed);
    let [(first, one), (second, other)] = [mpsc::channel(100), mpsc::channel(100)];
    tokio::spawn(async move {
        let mut turns = [first, second].into_iter().cycle();
        while let (Some(message), Some(to)) = (all.recv().await, turns.next()) {
            if to.send(message).await.is_err() {
                return;
            }
        }
    });
    (LocalSource::new("one", one), LocalSource::new("other", other))
}

pub(crate) fn job(topic: &str, payload: i64) -> NewJob {
    NewJob::of(Message::new(topic).json(&payload))
}

/// What becomes of a job with one attempt, of the topic `t`, whose handler is elsewhere.
pub(crate) async fn run_one(handler: impl Handler, timeout: Duration, end: JobState) -> JobDetail {
    let place = Place::sqlite().await;
    let store = place.store().await;
    let ids = store.submit_jobs(&[job("t", 7).attempts(1)]).await.unwrap();
    let mut published = publish(&store).await;
    let settings = WorkerSettings { timeout, ..settings() };
    let worker = Worker::new(Arc::clone(&store), settings).unwrap();
    let running = start(worker.source(local(&mut published)).handle("t", handler));
    until(&*store, &ids, end).await;
    running.stop().await;
    read(&*store, ids[0]).await
}

pub(crate) async fn read(store: &dyn Jobs, id: JobId) -> JobDetail {
    store.job(id).await.unwrap().unwrap()
}

/// Waits until jobs are in a state, and answers them in the order of `ids`.
pub(crate) async fn until(store: &dyn Jobs, ids: &[JobId], state: JobState) -> Vec<Job> {
    let began = Instant::now();
    loop {
        let all = store.jobs(&JobFilter::default(), 100_000).await.unwrap().jobs;
        let of = |id: &JobId| all.iter().find(|job| job.id == *id).cloned().unwrap();
        let found: Vec<Job> = ids.iter().map(of).collect();
        if found.iter().all(|job| job.state == state) {
            return found;
        }
        let other = found.iter().find(|job| job.state != state);
        assert!(began.elapsed() < LIMIT, "not {state}: {other:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// What handlers noted, in their order.
#[derive(Clone, Default)]
pub(crate) struct Notes(Arc<Mutex<Vec<String>>>);

impl Notes {
    pub(crate) fn add(&self, note: impl Into<String>) {
        self.0.lock().unwrap().push(note.into());
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub(crate) async fn until(&self, count: usize) -> Vec<String> {
        let began = Instant::now();
        while self.all().len() < count {
            assert!(began.elapsed() < LIMIT, "{:?}", self.all());
            sleep(Duration::from_millis(10)).await;
        }
        self.all()
    }
}
