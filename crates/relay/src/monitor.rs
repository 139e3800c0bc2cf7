//! What a relay is doing, for status lines, health answers and tests.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use posthaste_core::Place;
use tokio::sync::watch;

use crate::telemetry::meter::{Meter, SourceMeter};

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
    /// Another relay holds the subscription; this one takes over when its turn comes.
    Standby,
    /// Stopped: somebody has to change something.
    Stopped,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 9] = [
        Self::Starting,
        Self::Running,
        Self::BackingOff,
        Self::Blocked,
        Self::Paused,
        Self::Draining,
        Self::Drained,
        Self::Standby,
        Self::Stopped,
    ];

    /// The word for it, in metrics and health answers.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::BackingOff => "backing_off",
            Self::Blocked => "blocked",
            Self::Paused => "paused",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Standby => "standby",
            Self::Stopped => "stopped",
        }
    }
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
    /// Whether this relay has held it since the relay began.
    pub acquired: bool,
    /// Messages accepted by the sink since the relay began.
    pub published: u64,
    /// Batches that had to be tried again.
    pub retries: u64,
    /// Times the pipeline panicked and began anew.
    pub panics: u64,
    /// Times that the sink rejected a message.
    pub rejections: u64,
    /// Batches that the sink answered.
    pub batches: u64,
    /// How long its answers took, together.
    pub answering: Duration,
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
    source: Arc<SourceMeter>,
    changes: watch::Receiver<u64>,
}

impl Monitor {
    /// A monitor, and what the relay holds for as long as there is something to wait for.
    pub(crate) fn new(names: impl Iterator<Item = String>) -> (Self, Alive) {
        let (sender, changes) = watch::channel(0);
        let alive = Alive { changes: Arc::new(sender) };
        let gauge = |name| Arc::new(Gauge::new(name, Arc::downgrade(&alive.changes)));
        (Self { gauges: names.map(gauge).collect(), source: Arc::default(), changes }, alive)
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

    /// Why nothing new can be published, while looks or ticks fail; tried again meanwhile.
    pub fn trouble(&self) -> Option<String> {
        self.source.trouble()
    }

    /// Whether the relay has not ended.
    pub fn is_alive(&self) -> bool {
        self.changes.has_changed().is_ok()
    }

    pub(crate) fn gauge(&self, nth: usize) -> Arc<Gauge> {
        Arc::clone(&self.gauges[nth])
    }

    pub(crate) fn gauges(&self) -> &[Arc<Gauge>] {
        &self.gauges
    }

    pub(crate) fn source(&self) -> &Arc<SourceMeter> {
        &self.source
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
    meter: Meter,
    status: Mutex<Status>,
    /// Weak, because monitors hold gauges: the relay's own handle decides when waits end.
    changes: Weak<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct Status {
    state: State,
    /// A write waits for room in the database: until it is done, nothing else makes it run.
    is_held: bool,
    acquired: bool,
    aside: Counts,
    settled: Option<Place>,
    last_error: Option<String>,
}

impl Gauge {
    fn new(name: String, changes: Weak<watch::Sender<u64>>) -> Self {
        Self { name, meter: Meter::default(), status: Mutex::default(), changes }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    pub(crate) fn state(&self) -> State {
        self.status().state
    }

    pub(crate) fn published(&self, messages: usize) {
        self.meter.published.add(messages as u64);
        self.tell();
    }

    pub(crate) fn panicked(&self) {
        self.meter.panics.add(1);
        self.tell();
    }

    /// What is set aside after the sink has rejected messages, the first of them for `reason`;
    /// logged when nothing was set aside before.
    pub(crate) fn rejected(&self, aside: Counts, reason: &str) {
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

    /// Another relay holds the subscription, or may by now; logged once per change.
    pub(crate) fn standby(&self, holder: Option<&str>) {
        if self.state() != State::Standby {
            let holder = holder.unwrap_or("another relay");
            tracing::info!(subscription = self.name, holder, "waits for its turn");
            self.enter(State::Standby);
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

    /// This relay holds the subscription, from `place` on.
    pub(crate) fn acquired(&self, place: Place, aside: Counts) {
        let mut status = self.status();
        status.acquired = true;
        status.is_held = false;
        status.settled = Some(place);
        status.aside = aside;
        drop(status);
        self.tell();
    }

    /// The place that this relay settled, or was given, last.
    pub(crate) fn last_settled(&self) -> Option<Place> {
        self.status().settled
    }

    pub(crate) fn settled(&self, place: Place) {
        self.status().settled = Some(place);
        self.tell();
    }

    /// Running again; logged once per change.
    pub(crate) fn running(&self) {
        let mut status = self.status();
        if status.state == State::Running || status.is_held {
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

    /// A write waits for room in the database, and with it whatever comes after it.
    pub(crate) fn hold(&self, error: String) {
        self.status().is_held = true;
        self.setback(State::BackingOff, error);
    }

    /// The write that waited is done.
    pub(crate) fn release(&self) {
        self.status().is_held = false;
        if self.state() == State::BackingOff {
            self.running();
        }
    }

    /// A failure that is tried again; logged when the state changes, not for every attempt.
    pub(crate) fn setback(&self, state: State, error: String) {
        self.meter.retries.add(1);
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
        let answers = self.meter.batch_duration.read();
        let status = self.status();
        SubscriptionSnapshot {
            name: self.name.clone(),
            state: status.state,
            acquired: status.acquired,
            published: self.meter.published.get(),
            retries: self.meter.retries.get(),
            panics: self.meter.panics.get(),
            rejections: self.meter.rejected.get(),
            batches: answers.up_to.last().copied().unwrap_or_default(),
            answering: Duration::from_micros(answers.sum),
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
