//! The application: where its data is, how jobs come to the runner, and what came of them.

use std::{path::Path, sync::Arc};

use posthaste::{
    CommandError, JobState, Jobs, Message, NewJob, Outbox, Received,
    contract::{Breach, Contract, Contracts, InvalidContract},
};
use posthaste_core::TopicFilter;
use posthaste_relay::{
    ContractSettings, FailureSettings, Relay, RelayError, RelaySettings, Subscription,
    sink::{Context, InvalidTarget, Target},
    sinks::{self, local::Delivery},
};
use posthaste_store::{
    ContractText, Operations, Request, Start, StoreError, SubscriptionSpec,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::{SqliteOptions, SqliteStore},
};
use posthaste_worker::{
    Counts, Handler, Worker, WorkerError, WorkerSettings,
    source::{InvalidSource, Source},
    sources::{self, local::LocalSource},
};
use serde::{Serialize, Serializer};
use tokio::{
    sync::{mpsc, watch},
    try_join,
};

use crate::{Answered, Catalogue, JOBS, JobSpec, RECEIPTS, VERSION, answers, database::Database};

/// Name of the subscription and of the queue that it feeds.
const QUEUE: &str = "benchmark-jobs";
/// Jobs between the relay and a worker of the same process.
const ROOM: usize = 100;
const SCHEMAS: [(&str, &str); 2] = [
    (JOBS, include_str!("../contracts/jobs.submitted/v1.json")),
    (RECEIPTS, include_str!("../contracts/jobs.receipt/v1.json")),
];

/// Where the application runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `sqlite:PATH` or `postgres://…`.
    pub database: String,
    /// A Redis to carry jobs over, `redis://…`; without it they stay in the process.
    pub redis: Option<String>,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The database's URL.
    #[error("DATABASE_URL must be sqlite:PATH or postgres://…, not {0:?}")]
    Url(String),
    /// A specification that breaks its contract.
    #[error(transparent)]
    Breach(#[from] Breach),
    /// It is too big, or the database failed.
    #[error("the job was not submitted")]
    Submit(#[from] CommandError),
    /// Bytes that are no specification.
    #[error("not a job specification")]
    Spec(#[from] serde_json::Error),
    /// The id stands for another specification.
    #[error("jobspec_id {0:?} stands for another specification: choose a new one")]
    Taken(String),
    /// Posthaste's part of the database.
    #[error("the database")]
    Store(#[from] StoreError),
    /// The application's part of it.
    #[error("the application's table")]
    Sqlite(#[from] rusqlite::Error),
    /// The application's part of it.
    #[error("the application's table")]
    Postgres(#[from] tokio_postgres::Error),
    /// A contract of this application is unsound.
    #[error("a contract")]
    Contract(#[from] InvalidContract),
    /// The relay ended by itself.
    #[error("the relay")]
    Relay(#[from] RelayError),
    /// The worker did not begin.
    #[error("the worker")]
    Worker(#[from] WorkerError),
    /// The queue's settings, on the relay's side.
    #[error("REDIS_URL")]
    Target(#[from] InvalidTarget),
    /// The queue's settings, on the worker's side.
    #[error("REDIS_URL")]
    Source(#[from] InvalidSource),
    /// What should not happen.
    #[error("{0}")]
    Ended(&'static str),
}

/// What a submission answers: one id under both of its names, and where the job stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Submitted {
    /// The job's id.
    pub id: String,
    /// The same.
    pub jobspec_id: String,
    /// `created` at first.
    #[serde(serialize_with = "in_words")]
    pub status: JobState,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands the field over as it is")]
fn in_words<S: Serializer>(state: &JobState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(state)
}

/// A job with what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// As it was submitted, and where it stands by now.
    #[serde(flatten)]
    pub job: Submitted,
    /// Attempts that were begun.
    pub attempts: u32,
    /// Why the last one failed.
    pub reason: Option<String>,
    /// The questions with their answers.
    pub answers: Vec<Answered>,
}

/// Posthaste's side of the database.
trait Store: Operations + posthaste_store::Jobs {}

impl<T: Operations + posthaste_store::Jobs> Store for T {}

/// The application.
#[derive(Clone)]
pub struct Place {
    store: Arc<dyn Store>,
    database: Database,
    redis: Option<String>,
    contracts: Arc<Contracts>,
    jobs: Jobs,
}

impl Place {
    /// Opens the database, brings it up to date, and pushes the contracts.
    ///
    /// # Errors
    /// The settings are wrong, or the database fails.
    pub async fn open(settings: &Settings) -> Result<Self, PlaceError> {
        let url = &settings.database;
        let (store, database): (Arc<dyn Store>, Database) =
            if let Some(path) = url.strip_prefix("sqlite:") {
                let options = SqliteOptions { create: true, ..SqliteOptions::default() };
                (
                    Arc::new(SqliteStore::open(Path::new(path), &options).await?),
                    Database::Sqlite(path.into()),
                )
            } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
                let store = PostgresStore::connect(url, &PostgresOptions::default())?;
                (Arc::new(store), Database::Postgres(url.clone()))
            } else {
                return Err(PlaceError::Url(url.clone()));
            };
        store.migrate().await?;
        database.create_table().await?;
        let text = |(topic, schema): (&str, &str)| ContractText {
            topic: topic.to_owned(),
            version: VERSION,
            schema: schema.to_owned(),
        };
        let request = Request { actor: QUEUE.to_owned(), is_dry_run: false, is_forced: false };
        store.push_contracts(&SCHEMAS.map(text), &request).await?;
        let contracts = Arc::new(contracts()?);
        let jobs = Jobs::new(Outbox::default().with_contracts(Arc::clone(&contracts)));
        Ok(Self { store, database, redis: settings.redis.clone(), contracts, jobs })
    }

    /// The contracts of jobs and receipts.
    pub fn contracts(&self) -> Arc<Contracts> {
        Arc::clone(&self.contracts)
    }

    /// Submits a job: its specification as a row of the application, the job, and its message, all in one transaction.
    /// The same specification again is answered with the same job.
    ///
    /// # Errors
    /// It breaks its contract, its id stands for another one, or the database fails. Nothing is written then.
    pub async fn submit(&self, spec: &[u8]) -> Result<Submitted, PlaceError> {
        // `Jobs` would refuse it as well; but its id is needed before.
        self.contracts.check(JOBS, Some(&VERSION.to_string()), spec)?;
        let JobSpec { jobspec_id, .. } = serde_json::from_slice(spec)?;
        let message = Message::new(JOBS).contract(VERSION).bytes("application/json", spec);
        let job = NewJob::of(message.key(&jobspec_id).token(&jobspec_id));
        let text = String::from_utf8_lossy(spec);
        let job = self.database.submit(&self.jobs, &jobspec_id, &text, job).await?;
        let status = self.store.job(job).await?.map_or(JobState::Created, |it| it.job.state);
        Ok(Submitted { id: jobspec_id.clone(), jobspec_id, status })
    }

    /// A job with what came of it; `None` if there is none.
    ///
    /// # Errors
    /// The database fails, or what is stored is no receipt.
    pub async fn show(&self, jobspec_id: &str) -> Result<Option<Shown>, PlaceError> {
        let Some((_, job)) = self.database.find(jobspec_id).await? else { return Ok(None) };
        let job = job.parse().map_err(|_| PlaceError::Ended("its row names no job"))?;
        let Some(detail) = self.store.job(job).await? else { return Ok(None) };
        let catalogue = Catalogue::built_in();
        let receipt = detail.receipts.last().map(|(_, receipt)| answers(&receipt.body, &catalogue));
        let id = jobspec_id.to_owned();
        Ok(Some(Shown {
            job: Submitted { id: id.clone(), jobspec_id: id, status: detail.job.state },
            attempts: detail.job.attempt,
            reason: detail.job.reason,
            answers: receipt.transpose()?.unwrap_or_default(),
        }))
    }

    /// Publishes jobs and runs them until `shutdown`; answers what the worker has done.
    ///
    /// # Errors
    /// Something ended by itself.
    pub async fn run(
        &self,
        runner: impl Handler,
        settings: WorkerSettings,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Counts, PlaceError> {
        let (relay, source) = self.queue()?;
        let contracts = watch::channel(self.contracts()).1;
        let worker = Worker::new(Arc::clone(&self.store) as _, settings)?
            .with_contracts(contracts)
            .source(source)
            .handle(JOBS, runner);
        let (end, ended) = watch::channel(false);
        let until = |mut ended: watch::Receiver<bool>| async move {
            let _ = ended.wait_for(|ended| *ended).await;
        };
        let stop = async {
            shutdown.await;
            end.send_replace(true);
            Ok(())
        };
        let relay = async { Ok::<_, PlaceError>(relay.run(until(ended.clone())).await?) };
        let worker = async { Ok(worker.run(until(ended.clone())).await?) };
        let ((), (), counts) = try_join!(stop, relay, worker)?;
        Ok(counts)
    }

    /// A relay of the jobs, and where the worker takes them from.
    fn queue(&self) -> Result<(Relay, Box<dyn Source>), PlaceError> {
        let context = Context::default();
        let (target, source): (_, Box<dyn Source>) = match &self.redis {
            None => {
                let deliveries = context.locals.subscribe(QUEUE, ROOM);
                let settings = toml::Table::from_iter([("channel".to_owned(), QUEUE.into())]);
                (sink("local", settings)?, Box::new(LocalSource::new(QUEUE, received(deliveries))))
            }
            Some(url) => {
                let url = ("url".to_owned(), url.as_str().into());
                let stream = ("stream".to_owned(), QUEUE.into());
                let streams = ("streams".to_owned(), vec![QUEUE].into());
                let group = ("group".to_owned(), "runners".into());
                let kind =
                    sources::find("redis-stream").ok_or(PlaceError::Ended("no such source"))?;
                let source = (kind.parse)(toml::Table::from_iter([url.clone(), streams, group]))?;
                (sink("redis-stream", toml::Table::from_iter([url, stream]))?, source)
            }
        };
        let filter = TopicFilter::new(&[JOBS]).map_err(|_| PlaceError::Ended("no such topic"))?;
        let spec = SubscriptionSpec { name: QUEUE.to_owned(), filter, start: Start::Beginning };
        let subscription = Subscription {
            spec,
            target,
            failure: FailureSettings::default(),
            contracts: ContractSettings::default(),
        };
        let store = Arc::clone(&self.store) as _;
        Ok((Relay::new(store, RelaySettings::default(), vec![subscription], context), source))
    }
}

fn sink(kind: &str, settings: toml::Table) -> Result<Arc<dyn Target>, PlaceError> {
    let kind = sinks::find(kind).ok_or(PlaceError::Ended("no such sink"))?;
    Ok((kind.parse)(settings)?.into())
}

/// Messages of the relay, as a worker of the same process takes them.
fn received(mut deliveries: mpsc::Receiver<Delivery>) -> mpsc::Receiver<Received> {
    let (give, channel) = mpsc::channel(1);
    // Ends with either side.
    tokio::spawn(async move {
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
    });
    channel
}

fn contracts() -> Result<Contracts, PlaceError> {
    let mut contracts = Vec::new();
    for (topic, schema) in SCHEMAS {
        contracts.push(Contract::new(topic, VERSION, serde_json::from_str(schema)?)?);
    }
    Contracts::new(contracts).map_err(|_| PlaceError::Ended("a contract stands twice"))
}
