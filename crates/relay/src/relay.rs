//! A relay process: several subscriptions of one source, each independent of the others.

use std::{error::Error, fmt, sync::Arc};

use posthaste_core::{Backoff, Contracts, RelayView, TopicFilter};
use posthaste_store::{Store, StoreError, SubscriptionSpec};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use crate::{
    contracts::Library,
    drain::{Drain, Draining},
    failpoint,
    jitter::jitter,
    leases::{Renewer, Word},
    monitor::{Alive, Monitor, State},
    once,
    pages::Pages,
    pipeline::Pipeline,
    policy::{self, Directive, describe},
    preflight,
    settings::{ContractSettings, FailureSettings, OnBreach, RelaySettings},
    sink::{Context, Target},
    source::{self, Newest},
    supervisor::supervise,
    telemetry::{Telemetry, traces::Tracer},
};

/// A subscription and where it publishes.
#[derive(Debug)]
pub struct Subscription {
    /// Name, topics and start.
    pub spec: SubscriptionSpec,
    /// The sink's checked configuration.
    pub target: Arc<dyn Target>,
    /// What becomes of messages that the sink rejects.
    pub failure: FailureSettings,
    /// What becomes of messages that break the contracts of their topics.
    pub contracts: ContractSettings,
}

/// A relay, not yet running.
#[derive(Debug)]
pub struct Relay {
    store: Arc<dyn Store>,
    settings: RelaySettings,
    subscriptions: Vec<Subscription>,
    context: Context,
    holder: Arc<str>,
    monitor: Monitor,
    tracer: Option<Tracer>,
    /// Dropped when the relay has ended, which ends the waits on its monitors.
    _alive: Alive,
}

/// Why a relay ended without being asked to.
#[derive(Debug)]
pub struct RelayError {
    message: String,
    source: Option<StoreError>,
}

impl RelayError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), source: None }
    }

    /// The store's error, when that is what ended the relay.
    pub const fn store_error(&self) -> Option<&StoreError> {
        self.source.as_ref()
    }
}

impl fmt::Display for RelayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for RelayError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|error| error as &(dyn Error + 'static))
    }
}

impl From<StoreError> for RelayError {
    fn from(error: StoreError) -> Self {
        Self { message: "the relay cannot go on".to_owned(), source: Some(error) }
    }
}

/// The tasks of a running relay and the means to end them.
struct Running {
    drain: Drain,
    pipelines: JoinSet<State>,
    /// Ticker, mover and sweep; the ticker's failure ends the relay.
    background: JoinSet<Result<(), StoreError>>,
    /// Ends the renewing of leases, when the pipelines have ended.
    leases: Drain,
    renewing: JoinSet<()>,
}

impl Relay {
    /// A relay for `subscriptions` of the source `store`.
    pub fn new(
        store: Arc<dyn Store>,
        settings: RelaySettings,
        subscriptions: Vec<Subscription>,
        context: Context,
    ) -> Self {
        let names = subscriptions.iter().map(|subscription| subscription.spec.name.clone());
        let (monitor, alive) = Monitor::new(names);
        let holder = format!("{}-{:08x}", std::process::id(), rand::random::<u32>()).into();
        Self {
            store,
            settings,
            subscriptions,
            context,
            holder,
            monitor,
            tracer: None,
            _alive: alive,
        }
    }

    /// Has the relay's tries traced.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer: Some(tracer), ..self }
    }

    /// A view of what the relay is doing, also while it runs.
    pub fn monitor(&self) -> Monitor {
        self.monitor.clone()
    }

    /// What the relay tells machines, also while it runs and after it has ended.
    pub fn telemetry(&self) -> Telemetry {
        let (store, monitor) = (Arc::clone(&self.store), self.monitor.clone());
        let timeout = self.settings.operation_timeout;
        let (holder, tracer) = (Arc::clone(&self.holder), self.tracer.clone());
        Telemetry::new(store, monitor, holder, timeout, tracer)
    }

    /// Runs until `shutdown` completes, then drains within the drain time-out.
    ///
    /// # Errors
    /// When the database fails in a way that does not pass by itself, when no subscription is
    /// left running, or when the drain takes too long.
    ///
    /// # Cancel safety
    /// Dropping the future ends every task at once, without a drain: what was in flight is
    /// published again later.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) -> Result<(), RelayError> {
        self.run_until(None, shutdown).await
    }

    /// Publishes everything that was committed when it was called and due, settles it and ends; or
    /// drains once `shutdown` completes. What the sink rejects is set aside and does not fail it.
    ///
    /// # Errors
    /// As [`Relay::run`], and when a subscription has not settled all of it: the error names each,
    /// with its reason.
    ///
    /// # Cancel safety
    /// As [`Relay::run`].
    pub async fn run_once(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), RelayError> {
        source::move_all_due(&*self.store).await?;
        // The first look of a new ticker always ticks, so the tick shows all that is committed.
        let until = self.store.ticker().advance().await?.tick.n;
        let monitor = self.monitor();
        let ran = self.run_until(Some(until), shutdown).await;
        match once::unfinished(&monitor.snapshot(), until) {
            // The database's own error says more than the places that it kept from being settled.
            Some(reasons) if ran.as_ref().err().and_then(RelayError::store_error).is_none() => {
                Err(RelayError::new(reasons))
            }
            _ => ran,
        }
    }

    async fn run_until(
        self,
        until: Option<i64>,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), RelayError> {
        failpoint::reach("starting", "");
        let (drain, draining) = Drain::new();
        let mut library = Library::default();
        tokio::pin!(shutdown);
        tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            prepared = self.prepare(draining.clone(), &mut library) => prepared?,
        }
        let mut running = self.start(until, drain, &draining, library);
        let mut failed = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown, if !draining.has_begun() => {
                    tracing::info!("draining");
                    return running.drain(&self.settings, failed).await;
                }
                Some(ended) = running.pipelines.join_next() => {
                    match ended {
                        // Whether a paused one had anything left, its place says.
                        Ok(State::Drained | State::Paused) => {}
                        Ok(state) => failed.push(state),
                        Err(error) => return Err(RelayError::new(format!("a task ended: {error}"))),
                    }
                    if running.pipelines.is_empty() {
                        return running.drain(&self.settings, failed).await;
                    }
                }
                Some(ended) = running.background.join_next() => match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Err(error.into()),
                    Err(error) => return Err(RelayError::new(format!("a task ended: {error}"))),
                },
            }
        }
    }

    /// Creates missing subscriptions, reads the contracts and looks at the database, waiting for one
    /// that is away.
    async fn prepare(
        &self,
        mut draining: Draining,
        library: &mut Library,
    ) -> Result<(), RelayError> {
        let specs: Vec<SubscriptionSpec> =
            self.subscriptions.iter().map(|subscription| subscription.spec.clone()).collect();
        let backoff: Backoff = self.settings.retry.into();
        let (source, mut failures) = (self.monitor.source(), 0);
        let mut prepared = async || -> Result<_, StoreError> {
            self.store.reconcile(&specs).await?;
            let findings = self.store.preflight().await?;
            if self.looks_at_contracts() {
                library.look(&*self.store).await?;
            }
            Ok(findings)
        };
        let findings = loop {
            let error = match prepared().await {
                Ok(findings) => break findings,
                Err(error) => error,
            };
            source.failed(error.kind());
            if policy::after_store_error(error.kind()) == Directive::Stop {
                return Err(error.into());
            }
            failures += 1;
            let trouble = describe(&error);
            if failures == 1 {
                tracing::warn!(source = self.store.describe(), "{trouble}");
            }
            source.set_trouble(Some(trouble));
            if draining.sleep(backoff.delay(failures, jitter())).await {
                return Ok(());
            }
        };
        source.set_trouble(None);
        for text in findings {
            tracing::warn!("{text}");
        }
        Ok(())
    }

    fn looks_at_contracts(&self) -> bool {
        self.subscriptions.iter().any(|it| it.contracts.on_breach != OnBreach::Off)
    }

    fn start(
        &self,
        until: Option<i64>,
        drain: Drain,
        draining: &Draining,
        library: Library,
    ) -> Running {
        let known = library.known();
        let (newest_in, newest) = watch::channel(None);
        let mut background = JoinSet::new();
        let (store, settings) = (Arc::clone(&self.store), self.settings.clone());
        let (signal, meter) = (draining.clone(), Arc::clone(self.monitor.source()));
        background.spawn(async move {
            source::tick(&*store, &settings, &meter, signal, newest_in).await
        });
        let (store, settings) = (Arc::clone(&self.store), self.settings.clone());
        let (signal, meter) = (draining.clone(), Arc::clone(self.monitor.source()));
        background.spawn(async move {
            source::sweep(&*store, &settings, &meter, signal).await;
            Ok(())
        });
        let (store, settings) = (Arc::clone(&self.store), self.settings.clone());
        let (signal, meter) = (draining.clone(), Arc::clone(self.monitor.source()));
        background.spawn(async move {
            source::move_due(&*store, &settings, &meter, signal).await;
            Ok(())
        });
        if self.looks_at_contracts() {
            let (store, settings) = (Arc::clone(&self.store), self.settings.clone());
            let (signal, meter) = (draining.clone(), Arc::clone(self.monitor.source()));
            background.spawn(async move {
                library.keep(&*store, &settings, &meter, signal).await;
                Ok(())
            });
        }
        let targets = self.subscriptions.iter().map(|it| Arc::clone(&it.target)).collect();
        let (limit, signal) = (self.settings.operation_timeout, draining.clone());
        background.spawn(async move {
            preflight::warn(targets, limit, signal).await;
            Ok(())
        });
        let names: Vec<String> = self.subscriptions.iter().map(|it| it.spec.name.clone()).collect();
        let words: Vec<_> = names.iter().map(|_| watch::Sender::new(Word::default())).collect();
        let heard = words.iter().map(watch::Sender::subscribe).collect();
        let renewer = Renewer {
            store: Arc::clone(&self.store),
            relay: RelayView { holder: self.holder.to_string(), subscriptions: names },
            lease: self.settings.lease,
            words: words.into_iter().map(|word| (word, None)).collect(),
        };
        // Of its own, because leases are kept until the last pipeline has ended.
        let (leases, ended) = Drain::new();
        let mut renewing = JoinSet::new();
        renewing.spawn(renewer.run(ended));
        let pipelines = self.pipelines(until, &newest, draining, heard, &known);
        Running { drain, pipelines, background, leases, renewing }
    }

    fn pipelines(
        &self,
        until: Option<i64>,
        newest: &watch::Receiver<Option<Newest>>,
        draining: &Draining,
        heard: Vec<watch::Receiver<Word>>,
        known: &watch::Receiver<Arc<Contracts>>,
    ) -> JoinSet<State> {
        let filters: Vec<TopicFilter> =
            self.subscriptions.iter().map(|s| s.spec.filter.clone()).collect();
        let limit = self.settings.page_limit();
        let pages = Arc::new(Pages::new(Arc::clone(&self.store), limit, &filters));
        let mut tasks = JoinSet::new();
        for ((nth, subscription), word) in self.subscriptions.iter().enumerate().zip(heard) {
            let pipeline = Pipeline {
                store: Arc::clone(&self.store),
                pages: Arc::clone(&pages),
                filter: subscription.spec.filter.clone(),
                target: Arc::clone(&subscription.target),
                context: self.context.clone(),
                settings: self.settings.clone(),
                failure: subscription.failure.clone(),
                contracts: subscription.contracts.clone(),
                known: known.clone(),
                newest: newest.clone(),
                gauge: self.monitor.gauge(nth),
                draining: draining.clone(),
                word,
                source: Arc::clone(self.monitor.source()),
                tracer: self.tracer.clone(),
                holder: Arc::clone(&self.holder),
                until,
            };
            tasks.spawn(supervise(pipeline));
        }
        tasks
    }
}

impl Running {
    /// Stop reading, finish, settle, release, exit: within the limit, else the tasks are ended.
    async fn drain(
        mut self,
        settings: &RelaySettings,
        mut failed: Vec<State>,
    ) -> Result<(), RelayError> {
        self.drain.start();
        // A ticker that failed ends the pipelines as a drain does; its error must not get lost.
        let mut broken = None;
        let all = async {
            while let Some(ended) = self.pipelines.join_next().await {
                let has_failed = |state: &State| !matches!(state, State::Drained | State::Paused);
                failed.extend(ended.ok().filter(has_failed));
            }
            while let Some(ended) = self.background.join_next().await {
                broken = broken.take().or(ended.ok().and_then(Result::err));
            }
            self.leases.start();
            while self.renewing.join_next().await.is_some() {}
        };
        let in_time = timeout(settings.drain_timeout, all).await.is_ok();
        if !in_time {
            let limit = settings.drain_timeout;
            let message = format!(
                "the drain took longer than drain_timeout ({limit:?}): what was in flight will \
                 be published again"
            );
            return Err(RelayError::new(message));
        }
        if let Some(error) = broken {
            return Err(error.into());
        }
        if failed.is_empty() {
            return Ok(());
        }
        let stopped = failed.len();
        Err(RelayError::new(format!("{stopped} subscription(s) stopped; the log says why")))
    }
}
