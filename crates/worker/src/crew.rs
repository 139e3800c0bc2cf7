//! What the tasks of one worker share.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use posthaste::{Inbox, InvalidMessage, MessageId, Received};
use posthaste_core::{Backoff, Contracts, describe};
use posthaste_store::{Ended, JobId, Jobs, StoreError, StoreErrorKind, WorkerId};
use posthaste_traces::Tracer;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinSet,
    time::sleep,
};

use crate::{
    checks::Checks,
    handler::Handler,
    lanes::Lanes,
    settings::{InvalidSetting, WorkerSettings},
    source::{Fate, Source, Token},
    telemetry::Health,
};

/// Between two tries of a peer that does not answer.
pub(crate) const BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(50), cap: Duration::from_secs(2) };

/// A message that the worker has taken and not settled.
#[derive(Debug)]
pub(crate) struct InHand {
    pub(crate) source: usize,
    pub(crate) token: Token,
    pub(crate) message: Arc<Received>,
    pub(crate) job: Option<JobId>,
    /// Those of its key behind it wait until it is over.
    pub(crate) has_turn: bool,
    /// When its first try to begin found nothing, if it did.
    pub(crate) unseen_since: Option<tokio::time::Instant>,
    /// One of as many as may be in hand.
    pub(crate) _permit: OwnedSemaphorePermit,
}

impl InHand {
    /// What tells it from others: its job, or itself.
    pub(crate) fn identity(&self) -> MessageId {
        self.job.unwrap_or(self.message.id)
    }
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum End {
    /// An attempt at a job ended.
    Attempt {
        /// Whose it was.
        worker: WorkerId,
        /// How it ended.
        ended: Ended,
        /// Its handler says that it has ended it in its own transaction: this is for the case that it has not
        /// committed.
        is_settled: bool,
    },
    /// It is handled, and its inbox has to know.
    Handled,
    /// Its handler says that its inbox knows.
    Settled,
    /// Nothing but this.
    Fate(Fate),
}

/// Everything that the tasks of a worker share.
pub(crate) struct Crew {
    pub(crate) store: Arc<dyn Jobs>,
    pub(crate) jobs: posthaste::Jobs,
    pub(crate) inbox: Inbox,
    pub(crate) settings: WorkerSettings,
    /// Where spans of attempts go, if they are traced.
    pub(crate) tracer: Option<Tracer>,
    pub(crate) handlers: HashMap<String, Arc<dyn Handler>>,
    /// What is looked at before, by topic.
    pub(crate) checks: Checks,
    pub(crate) sources: Vec<Arc<dyn Source>>,
    pub(crate) contracts: Option<watch::Receiver<Arc<Contracts>>>,
    /// As many as may be in hand.
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) lanes: Mutex<Lanes<InHand>>,
    /// Jobs and messages in hand: a second delivery of one is dropped, for the first is still held.
    pub(crate) in_hand: Arc<Mutex<HashSet<MessageId>>>,
    /// Handlers that run, and how to have them stop.
    pub(crate) running: Mutex<HashMap<JobId, Running>>,
    /// Which sources were empty when they were last asked.
    pub(crate) empty: Vec<AtomicBool>,
    /// What this worker is registered as.
    pub(crate) registered: watch::Sender<Option<WorkerId>>,
    /// Told by whoever finds that this may not be so any more; heard by whoever renews it.
    pub(crate) doubted: Notify,
    /// No more is taken.
    pub(crate) draining: watch::Sender<bool>,
    /// Handlers are to stop.
    pub(crate) stopping: watch::Sender<bool>,
    /// Everything that runs for one message.
    pub(crate) tasks: Mutex<JoinSet<()>>,
    pub(crate) counts: Arc<Counters>,
    pub(crate) health: Arc<Health>,
    pub(crate) begin: mpsc::Sender<InHand>,
    pub(crate) finish: mpsc::Sender<(InHand, End)>,
}

/// A handler of a job.
pub(crate) struct Running {
    pub(crate) worker: WorkerId,
    pub(crate) attempt: u32,
    pub(crate) cancel: watch::Sender<bool>,
    pub(crate) shared: Arc<crate::handler::Shared>,
}

/// Counts since the worker began.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) taken: AtomicU64,
    pub(crate) completed: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) dead: AtomicU64,
    pub(crate) buried: AtomicU64,
    pub(crate) repeats: AtomicU64,
    pub(crate) lost: AtomicU64,
    pub(crate) republished: AtomicU64,
    pub(crate) mended: AtomicU64,
    pub(crate) unmended: AtomicU64,
}

/// What a worker or a [listener](crate::Listener) has done since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that it took from its sources; of a listener, those that it has seen added.
    pub taken: u64,
    /// Tasks that were done.
    pub completed: u64,
    /// Attempts that failed and were worth another.
    pub failed: u64,
    /// Jobs that are dead.
    pub dead: u64,
    /// Messages that went to their source's dead letters.
    pub buried: u64,
    /// Messages that had been handled, or whose job had nothing left to do for them.
    pub repeats: u64,
    /// Attempts that were not this worker's any more when they ended.
    pub lost: u64,
    /// Jobs that it had published again.
    pub republished: u64,
    /// Checks that found something missing and mended it (R53): of a listener, the activations of the queue's back-up;
    /// of a worker, those of its fallback.
    pub mended: u64,
    /// Checks that failed: warnings.
    pub unmended: u64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            taken: read(&self.taken),
            completed: read(&self.completed),
            failed: read(&self.failed),
            dead: read(&self.dead),
            buried: read(&self.buried),
            repeats: read(&self.repeats),
            lost: read(&self.lost),
            republished: read(&self.republished),
            mended: read(&self.mended),
            unmended: read(&self.unmended),
        }
    }
}

impl Crew {
    pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The id under which jobs are begun, as soon as there is one.
    pub(crate) async fn worker(&self) -> Option<WorkerId> {
        let mut registered = self.registered.subscribe();
        let id = registered.wait_for(Option::is_some).await;
        id.ok().and_then(|id| *id)
    }

    /// Runs what is about one message, until the worker is gone.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = Self::lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Sends a message on to be begun. There is room: every message in hand holds a permit.
    pub(crate) fn pass_begin(&self, item: InHand) {
        let _ = self.begin.try_send(item);
    }

    /// Sends a message on to be written down.
    pub(crate) fn pass_finish(&self, item: InHand, end: End) {
        let _ = self.finish.try_send((item, end));
    }

    /// Whether all sources were empty, and nothing is in hand.
    pub(crate) fn is_empty(&self) -> bool {
        Self::lock(&self.in_hand).is_empty()
            && self.empty.iter().all(|empty| empty.load(Ordering::Relaxed))
    }

    /// Runs `call` until the database takes it, or refuses it for good.
    pub(crate) async fn insist<T, F>(
        &self,
        doing: &str,
        call: impl FnMut() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        self.insist_while(StoreErrorKind::is_transient, doing, call).await
    }

    /// The same, as long as a refusal is one that passes.
    pub(crate) async fn insist_while<T, F>(
        &self,
        passes: impl Fn(StoreErrorKind) -> bool,
        doing: &str,
        mut call: impl FnMut() -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut failures = 0;
        loop {
            match call().await {
                Err(error) if passes(error.kind()) => {
                    failures += 1;
                    if failures == 1 {
                        tracing::warn!("{doing}: {}; tried again", describe(&error));
                    }
                    sleep(BACKOFF.delay(failures, rand::random())).await;
                }
                answer => return answer,
            }
        }
    }

    /// Settles messages of a source, until it answers.
    pub(crate) async fn settle(&self, source: usize, settled: &[(Token, Fate)]) {
        let buried = settled.iter().filter(|(_, fate)| matches!(fate, Fate::Bury { .. })).count();
        Counters::add(&self.counts.buried, buried);
        let mut failures = 0;
        while let Err(error) = self.sources[source].settle(settled).await {
            failures += 1;
            if failures == 1 {
                tracing::warn!("settle messages: {}; tried again", describe(&error));
            }
            if *self.stopping.borrow() {
                // It comes again, to another worker.
                return;
            }
            sleep(BACKOFF.delay(failures, rand::random())).await;
        }
    }
}

/// Why a worker does not begin, or does not go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkerError {
    /// A setting is out of its bounds.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// Its consumer's name is out of bounds.
    #[error(transparent)]
    Consumer(#[from] InvalidMessage),
    /// It has nothing to do.
    #[error("a worker needs a source and a handler")]
    Idle,
    /// A part of it panicked, and all others were stopped with it.
    #[error("a part of the worker panicked: start it again, and report what it said")]
    Panicked,
}
