//! A worker from its first message to its end.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use posthaste::{Inbox, Outbox};
use posthaste_core::{Contracts, describe};
use posthaste_store::{Jobs, StoreError, WorkerSpec};
use posthaste_traces::Tracer;
use tokio::{
    sync::{Notify, Semaphore, mpsc, watch},
    task::JoinSet,
    time::timeout,
};

use crate::{
    checks::{Check, Checks},
    crew::{Counts, Crew, End, InHand, WorkerError},
    cron::{self, CronJob},
    ends,
    handler::Handler,
    intake, lease,
    settings::WorkerSettings,
    source::{Fate, Source},
    telemetry::Telemetry,
    watch as watching,
};

/// For what is left when handlers have stopped: ends are written down, and the worker is forgotten.
const CLOSING: Duration = Duration::from_secs(5);

/// Runs jobs and handles messages of some topics. See the [module](crate).
///
/// # Examples
/// ```no_run
/// # use std::sync::Arc;
/// # use posthaste_store::Jobs;
/// # use posthaste_worker::{Done, Task, Worker, WorkerSettings, source::Source};
/// # async fn example(store: Arc<dyn Jobs>, queue: impl Source) -> Result<(), Box<dyn std::error::Error>> {
/// let worker = Worker::new(store, WorkerSettings::default())?
///     .source(queue)
///     .handle("mail.welcome", |task: Task| async move {
///         let welcome: serde_json::Value = serde_json::from_slice(&task.message().payload)?;
///         println!("{welcome}");
///         Ok(Done::default())
///     });
/// worker.run(async { tokio::signal::ctrl_c().await.unwrap_or_default() }).await?;
/// # Ok(())
/// # }
/// ```
pub struct Worker {
    store: Arc<dyn Jobs>,
    outbox: Outbox,
    settings: WorkerSettings,
    handlers: HashMap<String, Arc<dyn Handler>>,
    checks: Checks,
    sources: Vec<Arc<dyn Source>>,
    contracts: Option<watch::Receiver<Arc<Contracts>>>,
    crons: Vec<CronJob>,
    telemetry: Telemetry,
    tracer: Option<Tracer>,
}

impl Worker {
    /// A worker without handlers and sources, of jobs and inboxes in the schema `posthaste`.
    ///
    /// # Errors
    /// A setting is out of its bounds.
    pub fn new(store: Arc<dyn Jobs>, settings: WorkerSettings) -> Result<Self, WorkerError> {
        settings.validate()?;
        let telemetry = Telemetry::of(settings.name.clone());
        Ok(Self {
            telemetry,
            store,
            outbox: Outbox::default(),
            settings,
            handlers: HashMap::new(),
            checks: Checks::default(),
            sources: Vec::new(),
            contracts: None,
            crons: Vec::new(),
            tracer: None,
        })
    }

    /// For handlers that end their tasks themselves, in another schema.
    #[must_use]
    pub fn with_outbox(mut self, outbox: Outbox) -> Self {
        self.outbox = outbox;
        self
    }

    /// Holds every message to its contract, as these are known by then, before its handler runs: a breach is a
    /// rejection.
    #[must_use]
    pub fn with_contracts(mut self, contracts: watch::Receiver<Arc<Contracts>>) -> Self {
        self.contracts = Some(contracts);
        self
    }

    /// Has its attempts traced.
    #[must_use]
    pub fn traced(mut self, tracer: Tracer) -> Self {
        self.tracer = Some(tracer);
        self
    }

    /// Handles the messages of a topic.
    #[must_use]
    pub fn handle(mut self, topic: impl Into<String>, handler: impl Handler) -> Self {
        self.handlers.insert(topic.into(), Arc::new(handler));
        self
    }

    /// Looks, before a message of the topic is handled, whether what it needs is there. A [`Listener`](crate::Listener)
    /// does so as soon as it is added.
    #[must_use]
    pub fn check(mut self, topic: impl Into<String>, check: impl Check) -> Self {
        self.checks.insert(topic.into(), check);
        self
    }

    /// Has a job submitted by the clock, as long as any worker runs; a change of it counts from the next start on.
    /// It stays until it is removed by hand.
    #[must_use]
    pub fn cron(mut self, cron: CronJob) -> Self {
        self.crons.push(cron);
        self
    }

    /// Takes messages from a queue. Sources that come first are asked no earlier than others.
    #[must_use]
    pub fn source(mut self, source: impl Source) -> Self {
        self.sources.push(Arc::new(source));
        self
    }

    /// Registers the worker and takes that back: whether the database has jobs, and the role may run them.
    ///
    /// # Errors
    /// What the database says.
    pub async fn preflight(&self) -> Result<(), StoreError> {
        let spec = WorkerSpec { name: self.settings.name.clone(), ..WorkerSpec::default() };
        let worker = self.store.register_worker(&spec, self.settings.lease).await?;
        self.store.record_handled(&self.settings.consumer, &[]).await?;
        self.store.retire_workers(Some(worker), self.settings.retry.attempts).await?;
        Ok(())
    }

    /// What it tells of itself, from now on.
    pub fn telemetry(&self) -> Telemetry {
        self.telemetry.clone()
    }

    /// Works until `shutdown`, then finishes what it has in hand, within the drain's limit; what is not over by then
    /// is handed back. Answers what it has done.
    ///
    /// # Errors
    /// It has no source or no handler, or its consumer's name is out of bounds; or a part of it panicked, such as a
    /// source, and everything was stopped in the middle.
    ///
    /// # Cancel safety
    /// Dropping the future stops everything in the middle, as a crash does: nothing is lost.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<Counts, WorkerError> {
        if self.sources.is_empty() || self.handlers.is_empty() {
            return Err(WorkerError::Idle);
        }
        let consumer = self.settings.consumer.clone();
        let inbox = Inbox::new(self.outbox.schema().clone(), consumer)?;
        // Each message in them holds a permit, so they are never full.
        let (begin, admitted) = mpsc::channel(self.settings.concurrency);
        let (finish, ended) = mpsc::channel(self.settings.concurrency);
        let crew = Arc::new(Crew {
            jobs: posthaste::Jobs::new(self.outbox),
            inbox,
            permits: Arc::new(Semaphore::new(self.settings.concurrency)),
            empty: self.sources.iter().map(|_| AtomicBool::new(false)).collect(),
            store: self.store,
            settings: self.settings,
            tracer: self.tracer,
            handlers: self.handlers,
            checks: self.checks,
            sources: self.sources,
            contracts: self.contracts,
            lanes: Mutex::default(),
            in_hand: Arc::clone(&self.telemetry.in_hand),
            running: Mutex::default(),
            registered: watch::channel(None).0,
            doubted: Notify::new(),
            draining: watch::channel(false).0,
            stopping: watch::channel(false).0,
            tasks: Mutex::default(),
            counts: Arc::clone(&self.telemetry.counts),
            health: self.telemetry.health,
            begin,
            finish,
        });
        work(&crew, self.crons, (admitted, ended), shutdown).await?;
        Ok(crew.counts.read())
    }
}

/// Ends what runs for messages when the worker is dropped.
struct Tasks<'a>(&'a Crew);

impl Drop for Tasks<'_> {
    fn drop(&mut self) {
        self.0.health.end();
        Crew::lock(&self.0.tasks).abort_all();
    }
}

async fn work(
    crew: &Arc<Crew>,
    crons: Vec<CronJob>,
    (admitted, ended): (mpsc::Receiver<InHand>, mpsc::Receiver<(InHand, End)>),
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), WorkerError> {
    let _tasks = Tasks(crew);
    let mut background = JoinSet::new();
    background.spawn(lease::keep(Arc::clone(crew)));
    for source in 0..crew.sources.len() {
        background.spawn(lease::beat(Arc::clone(crew), source));
    }
    background.spawn(watching::watch(Arc::clone(crew)));
    background.spawn(cron::tick(Arc::clone(crew), crons));
    background.spawn(intake::begin(Arc::clone(crew), admitted));
    background.spawn(ends::write_down(Arc::clone(crew), ended));
    let mut taking = JoinSet::new();
    for source in 0..crew.sources.len() {
        taking.spawn(intake::take(Arc::clone(crew), source));
    }
    tokio::select! {
        () = shutdown => {}
        // It would keep what it holds, and go no further.
        () = panicked(&mut background) => return Err(WorkerError::Panicked),
        () = panicked(&mut taking) => return Err(WorkerError::Panicked),
    }
    tracing::info!("draining");
    crew.draining.send_replace(true);
    // Every message in hand holds a permit.
    let all = u32::try_from(crew.settings.concurrency).unwrap_or(u32::MAX);
    let drained = async {
        while taking.join_next().await.is_some() {}
        let _ = crew.permits.acquire_many(all).await;
    };
    if timeout(crew.settings.drain_timeout, drained).await.is_err() {
        tracing::warn!("handlers were still running: what they have is handed back");
        crew.stopping.send_replace(true);
        let waiting = Crew::lock(&crew.lanes).clear();
        for item in waiting {
            crew.pass_finish(item, End::Fate(Fate::GiveBack));
        }
        let _ = timeout(CLOSING, crew.permits.acquire_many(all)).await;
    }
    taking.shutdown().await;
    background.shutdown().await;
    let close = async {
        let worker = *crew.registered.borrow();
        if let Some(worker) = worker {
            let attempts = crew.settings.retry.attempts;
            if let Err(error) = crew.store.retire_workers(Some(worker), attempts).await {
                tracing::debug!("leave: {}", describe(&error));
            }
        }
        for source in &crew.sources {
            if let Err(error) = source.close().await {
                tracing::debug!("leave: {}", describe(&error));
            }
        }
    };
    let _ = timeout(CLOSING, close).await;
    Ok(())
}

/// Returns when one of some tasks has panicked.
async fn panicked(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if ended.is_err_and(|error| error.is_panic()) {
            return;
        }
    }
    std::future::pending::<()>().await;
}
