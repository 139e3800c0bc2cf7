//! What a relay is doing, for status lines, health answers and tests.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicU64, Ordering},
};

use posthaste_core::Place;
use tokio::sync::watch;

/// What a subscription's pipeline is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Not begun yet.
    #[default]
    Starting,
    /// Reading and publishing, or waiting for messages.
    Running,
    /// Backing off: the database or the sink is away. Recovers by itself.
    BackingOff,
    /// The sink refuses a message; it is tried again and nothing is skipped.
    Blocked,
    /// Paused by a person, until it is resumed.
    Paused,
    /// Draining: finishing what is in flight.
    Draining,
    /// Ended after a drain.
    Drained,
    /// Another relay took the subscription over.
    Fenced,
    /// Stopped: somebody has to change something.
    Stopped,
}

/// What a subscription has set aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Parked keys.
    pub keys: u64,
    /// Messages parked alone.
    pub messages: u64,
    /// Messages out of attempts.
    pub dead_letters: u64,
}

/// One subscription at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionSnapshot {
    /// Name.
    pub name: String,
    /// What its pipeline is doing.
    pub state: State,
    /// Messages accepted by the sink since the relay began.
    pub published: u64,
    /// Batches that had to be tried again.
    pub retries: u64,
    /// Times the pipeline panicked and began anew.
    pub panics: u64,
    /// Times that the sink rejected a message.
    pub rejections: u64,
    /// What is set aside now.
    pub aside: Counts,
    /// The last settled place, once there is one.
    pub settled: Option<Place>,
    /// The last failure, with its causes, until the subscription runs again.
    pub last_error: Option<String>,
}

/// A view of a running relay; clones share it.
#[derive(Clone, Debug)]
pub struct Monitor {
    gauges: Arc<[Arc<Gauge>]>,
    changes: watch::Receiver<u64>,
}

impl Monitor {
    /// A monitor, and what the relay holds for as long as there is something to wait for.
    pub(crate) fn new(names: impl Iterator<Item = String>) -> (Self, Alive) {
        let (sender, changes) = watch::channel(0);
        let alive = Alive { changes: Arc::new(sender) };
        let gauge = |name| Arc::new(Gauge::new(name, Arc::downgrade(&alive.changes)));
        (Self { gauges: names.map(gauge).collect(), changes }, alive)
    }

    /// Every subscription, in the order of the configuration.
    pub fn snapshot(&self) -> Vec<SubscriptionSnapshot> {
        self.gauges.iter().map(|gauge| gauge.snapshot()).collect()
    }

    /// Waits until `condition` holds for the subscriptions; false when the relay ended first.
    pub async fn wait_for(
        &self,
        mut condition: impl FnMut(&[SubscriptionSnapshot]) -> bool,
    ) -> bool {
        let mut changes = self.changes.clone();
        loop {
            changes.mark_unchanged();
            if condition(&self.snapshot()) {
                return true;
            }
            if changes.changed().await.is_err() {
                return condition(&self.snapshot());
            }
        }
    }

    pub(crate) fn gauge(&self, nth: usize) -> Arc<Gauge> {
        Arc::clone(&self.gauges[nth])
    }
}

/// Wakes those who wait on a monitor, and tells them by its drop that the relay has ended.
#[derive(Debug)]
pub(crate) struct Alive {
    changes: Arc<watch::Sender<u64>>,
}

/// The counters of one subscription: its pipeline writes, monitors read.
#[derive(Debug)]
pub(crate) struct Gauge {
    name: String,
    published: AtomicU64,
    retries: AtomicU64,
    panics: AtomicU64,
    rejections: AtomicU64,
    status: Mutex<Status>,
    /// Weak, because monitors hold gauges: the relay's own handle decides when waits end.
    changes: Weak<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct Status {
    state: State,
    aside: Counts,
    settled: Option<Place>,
    last_error: Option<String>,
}

impl Gauge {
    fn new(name: String, changes: Weak<watch::Sender<u64>>) -> Self {
        Self {
            name,
            published: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            panics: AtomicU64::new(0),
            rejections: AtomicU64::new(0),
            status: Mutex::default(),
            changes,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn published(&self, messages: usize) {
        self.published.fetch_add(messages as u64, Ordering::Relaxed);
        self.tell();
    }

    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        self.tell();
    }

    /// The sink rejected messages, the first of them for `reason`; logged when something is set
    /// aside for the first time since nothing was.
    pub(crate) fn rejected(&self, rejections: usize, aside: Counts, reason: &str) {
        self.rejections.fetch_add(rejections as u64, Ordering::Relaxed);
        if self.status().aside == Counts::default() {
            tracing::warn!(subscription = self.name, "set messages aside: {reason}");
        }
        self.set_aside(aside);
    }

    /// Paused by a person; logged once per change.
    pub(crate) fn paused(&self) {
        if !self.is_paused() {
            tracing::info!(subscription = self.name, "paused");
            self.enter(State::Paused);
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.status().state == State::Paused
    }

    /// What is set aside now.
    pub(crate) fn set_aside(&self, aside: Counts) {
        self.status().aside = aside;
        self.tell();
    }

    pub(crate) fn settled(&self, place: Place) {
        self.status().settled = Some(place);
        self.tell();
    }

    /// Running again; logged once per change.
    pub(crate) fn running(&self) {
        let mut status = self.status();
        if status.state == State::Running {
            return;
        }
        let recovered = matches!(status.state, State::BackingOff | State::Blocked);
        status.state = State::Running;
        status.last_error = None;
        drop(status);
        if recovered {
            tracing::info!(subscription = self.name, "recovered");
        }
        self.tell();
    }

    /// A failure that is tried again; logged when the state changes, not for every attempt.
    pub(crate) fn setback(&self, state: State, error: String) {
        self.retries.fetch_add(1, Ordering::Relaxed);
        let mut status = self.status();
        if status.state != state {
            tracing::warn!(subscription = self.name, ?state, "{error}");
        }
        status.state = state;
        status.last_error = Some(error);
        drop(status);
        self.tell();
    }

    /// A state that the pipeline ends in or passes through.
    pub(crate) fn enter(&self, state: State) {
        self.status().state = state;
        self.tell();
    }

    /// The end by a failure that nobody retries.
    pub(crate) fn stopped(&self, state: State, error: String) {
        tracing::error!(subscription = self.name, ?state, "{error}");
        let mut status = self.status();
        status.state = state;
        status.last_error = Some(error);
        drop(status);
        self.tell();
    }

    fn snapshot(&self) -> SubscriptionSnapshot {
        let status = self.status();
        SubscriptionSnapshot {
            name: self.name.clone(),
            state: status.state,
            published: self.published.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            panics: self.panics.load(Ordering::Relaxed),
            rejections: self.rejections.load(Ordering::Relaxed),
            aside: status.aside,
            settled: status.settled,
            last_error: status.last_error.clone(),
        }
    }

    fn tell(&self) {
        if let Some(changes) = self.changes.upgrade() {
            changes.send_modify(|count| *count = count.wrapping_add(1));
        }
    }

    fn status(&self) -> std::sync::MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
