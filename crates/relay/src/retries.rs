//! The second lane of a pipeline: tries again what is set aside, beside the publisher and through
//! a connection of its own.
//!
//! Parked keys are in `keys`; here is the lane itself, and what was set aside alone.

mod keys;

use std::{collections::HashMap, sync::Arc, time::Duration};

use posthaste_core::{Backoff, MessageRef, Page, Place, TopicFilter, Verdict, Window};
use posthaste_store::{Aside, FailedMessage, ParkedKey, Settled, Store, StoreError};
use tokio::{
    sync::{Mutex, OwnedMutexGuard, watch},
    time::{Instant, sleep_until},
};

use crate::{
    drain::Draining,
    failpoint,
    jitter::jitter,
    leases::Word,
    ledger::Ledger,
    marks::{Again, CopyMarks},
    monitor::Gauge,
    outlet::{Outlet, Tried},
    parked::{Parked, is_passed},
    policy::{Fault, Unaccepted, describe},
    publisher::{BatchLimits, batches},
    settings::{AtLimit, FailureSettings},
    sink::{Mark, Marks},
    telemetry::{
        incident::Incident,
        meter::{Lost, What},
    },
};

/// Messages that are tried again in one go.
const DUE_MAX: u32 = 100;
/// Pause between looks at what people changed of what is set aside.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The retry lane of one run of a pipeline.
pub(crate) struct Retries {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) outlet: Outlet,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) parked: Arc<Parked>,
    /// The publisher's turn: nobody publishes in the main lane while it is held.
    pub(crate) turn: Arc<Mutex<()>>,
    /// The place that the publisher has reached; closed when it ends.
    pub(crate) places: watch::Receiver<Place>,
    pub(crate) filter: TopicFilter,
    pub(crate) failure: FailureSettings,
    pub(crate) limits: BatchLimits,
    pub(crate) page_bytes: usize,
    /// While the sink is away.
    pub(crate) backoff: Backoff,
    pub(crate) draining: Draining,
    /// Another stage failed, or another relay holds the subscription.
    pub(crate) stopped: watch::Receiver<bool>,
    /// What the relay's leases say: a lane with nothing to do looks when it is told to.
    pub(crate) word: watch::Receiver<Word>,
    pub(crate) gauge: Arc<Gauge>,
    /// Attempts in a row that the sink could not take anything.
    pub(crate) setbacks: u32,
    /// The publisher's turn, held while the subscription is paused.
    pub(crate) pause: Option<OwnedMutexGuard<()>>,
    /// Whether the database knows more than what is in memory.
    pub(crate) is_behind: bool,
    /// The window that each parked key stands in: its bounds take a look at all of its messages.
    pub(crate) windows: HashMap<String, Arc<Window>>,
}

impl Retries {
    /// Works until the publisher ends, and at least once on what is due at the beginning.
    pub(crate) async fn run(&mut self) -> Result<(), StoreError> {
        let mut looked = Instant::now();
        let place = *self.places.borrow();
        self.retry_due(&place).await?;
        loop {
            if self.is_over() {
                return Ok(());
            }
            let is_quiet = self.parked.is_empty() && self.pause.is_none();
            let look = looked + LOOK_INTERVAL;
            let place = *self.places.borrow_and_update();
            let (due, waits_for_place) = self.parked.next_due(&place);
            let due = due.filter(|_| self.pause.is_none());
            let next = due.map_or(look, |due| due.min(look));
            let (parked, draining) = (&self.parked, &mut self.draining);
            let (places, stopped, word) = (&mut self.places, &mut self.stopped, &mut self.word);
            tokio::select! {
                biased;
                () = draining.begun() => return Ok(()),
                _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
                is_closed = moved(places, waits_for_place) => {
                    if is_closed {
                        return Ok(());
                    }
                    continue;
                }
                () = parked.changed() => continue,
                Ok(()) = word.changed(), if is_quiet => {
                    if !word.borrow_and_update().needs_a_look {
                        continue;
                    }
                }
                () = sleep_until(next), if !is_quiet => {}
            }
            if is_quiet || Instant::now() >= look {
                self.look().await?;
                looked = Instant::now();
            }
            self.retry_due(&place).await?;
        }
    }

    /// Tries what is due of all that `place` has passed.
    async fn retry_due(&mut self, place: &Place) -> Result<(), StoreError> {
        if self.pause.is_some() {
            return Ok(());
        }
        for key in self.parked.due_keys(place) {
            if self.draining.has_begun() || *self.stopped.borrow() {
                return Ok(());
            }
            // Those before it may have found its destination broken, or caught up with the sink.
            if let Some(key) = self.parked.due_key(&key) {
                self.retry_key(key).await?;
                self.look_if_behind().await?;
            }
        }
        if self.parked.has_due_messages(place) {
            self.retry_messages().await?;
            self.look_if_behind().await?;
        }
        Ok(())
    }

    /// Whether the run has to end, between two batches.
    fn is_over(&self) -> bool {
        self.draining.has_begun() || *self.stopped.borrow() || self.places.has_changed().is_err()
    }

    /// One try; `None` when the run has to stop, or nothing was tried because the sink has more
    /// than is written down. A sink that fails as a whole takes nothing.
    async fn attempt(
        &mut self,
        page: &Page,
        batch: &[u32],
        marks: &dyn Marks,
    ) -> Result<Option<Vec<Unaccepted>>, StoreError> {
        failpoint::reach("retrying", self.gauge.name());
        let mut tried = self.outlet.attempt(page, batch, marks).await;
        failpoint::reach("retried", self.gauge.name());
        if let Tried::Elsewhere(mark) = &tried {
            if self.catch_up(mark).await? {
                return Ok(None);
            }
            tried = self.outlet.attempt(page, batch, marks).await;
        }
        let unaccepted = match tried {
            Tried::Stopped | Tried::Elsewhere(_) => return Ok(None),
            Tried::Answered(unaccepted) => unaccepted,
            Tried::Failed(error) => {
                let reason = describe(&error);
                let not_taken = |index: &u32| Unaccepted {
                    index: *index,
                    fault: Fault::Sink,
                    reason: reason.clone(),
                };
                batch.iter().map(not_taken).collect()
            }
        };
        Ok(Some(unaccepted))
    }

    /// Writes down what the sink has accepted in this lane and the database does not know of: its
    /// relay ended in between, or the answer was lost. False when there is nothing of that kind.
    /// What is in memory is behind then; it is loaded once the publisher's turn is given back,
    /// which this may be called under.
    async fn catch_up(&mut self, mark: &Mark) -> Result<bool, StoreError> {
        let known = self.parked.calls();
        if mark.calls < known {
            self.gauge.meter().lost(Lost::Retries).add(1);
            tracing::warn!(
                subscription = self.gauge.name(),
                "{} has lost what was published again lately; see `posthaste replay`",
                self.outlet.describe()
            );
        }
        failpoint::reach("catching-up", self.gauge.name());
        let mut changes = Vec::new();
        match Again::accepted(mark).filter(|_| mark.calls > known) {
            Some(Again::Key(key, before, place)) => {
                // One that was set back stands before it: what lies in between comes first.
                let is_behind =
                    |key: &ParkedKey| key.place.covers(&before) && !key.place.covers(&place);
                let behind = self.parked.key(&key).filter(is_behind);
                changes.extend(behind.map(|key| {
                    let retry_in = Some(Duration::ZERO);
                    Aside::ParkKey(ParkedKey { place, attempts: 0, retry_in, ..key })
                }));
            }
            Some(Again::Copies(copies)) => {
                let kept = copies.into_iter();
                let kept = kept.filter(|(at, id)| self.parked.has_message(*at, *id));
                changes.extend(kept.map(|(position, id)| Aside::Published { position, id }));
            }
            None => {}
        }
        if changes.is_empty() {
            return Ok(false);
        }
        self.is_behind = self.write(changes, None).await? == Settled::Recorded;
        Ok(true)
    }

    /// Loads what [`Self::catch_up`] has written.
    async fn look_if_behind(&mut self) -> Result<(), StoreError> {
        if std::mem::take(&mut self.is_behind) { self.look().await } else { Ok(()) }
    }

    /// Writes changes, and up to which call of the sink they speak.
    async fn write(
        &mut self,
        mut changes: Vec<Aside>,
        place: Option<Place>,
    ) -> Result<Settled, StoreError> {
        if let Some(calls) = self.outlet.calls() {
            self.parked.count(calls);
            changes.push(Aside::Counted(calls));
        }
        self.ledger.write(&changes, place).await
    }

    pub(crate) async fn close(&mut self) {
        self.outlet.close().await;
    }

    /// Takes over what people have changed: paused subscriptions, replayed and discarded dead
    /// letters.
    async fn look(&mut self) -> Result<(), StoreError> {
        // Under the turn, so that the publisher sets nothing aside between the read and the load.
        let turn = match self.pause.take() {
            Some(turn) => turn,
            None => Arc::clone(&self.turn).lock_owned().await,
        };
        let aside = self.store.aside(self.gauge.name()).await?;
        let limit = self.failure.parked_age_max;
        if let Some(old) = aside.keys.iter().find(|key| key.parked_for > limit)
            && self.failure.at_limit == AtLimit::Stop
        {
            let Place { base, .. } = old.place;
            tracing::error!(
                subscription = self.gauge.name(),
                tick = base.n,
                "a key is parked for longer than failure.parked_age_max ({limit:?}): {}",
                old.reason
            );
        }
        if aside.is_paused {
            self.gauge.paused();
            self.pause = Some(turn);
        } else if self.gauge.is_paused() {
            self.gauge.running();
        }
        self.parked.load(aside, &self.places.borrow());
        self.gauge.set_aside(self.parked.counts());
        Ok(())
    }

    /// Tries the messages again that were set aside alone.
    async fn retry_messages(&mut self) -> Result<(), StoreError> {
        let limit = DUE_MAX.min(self.limits.messages as u32);
        let due = self.store.due_messages(self.gauge.name(), limit).await?;
        // The publisher's place is written with what becomes of them: a relay that starts there
        // meets none of them again. What is ahead of it, or over the limit of bytes, stays due.
        let place = *self.places.borrow();
        let is_passed = |nth: &u32| {
            let failed = &due.failures[*nth as usize];
            is_passed(&place, failed.tick, failed.position)
        };
        let all: Vec<u32> = (0..due.page.len() as u32).filter(is_passed).collect();
        let all = batches(&due.page, &all, self.limits).next().unwrap_or_default();
        if all.is_empty() {
            return self.look().await;
        }
        let copies: Vec<_> = all
            .iter()
            .map(|index| due.page.get(*index as usize))
            .map(|message| (message.position, message.id))
            .collect();
        let marks = CopyMarks { copies: &copies };
        let Some(unaccepted) = self.attempt(&due.page, all, &marks).await? else { return Ok(()) };
        let mut left = unaccepted.iter().peekable();
        let mut changes = Vec::with_capacity(all.len());
        let mut failed = Vec::new();
        let of_the_sink = unaccepted.iter().find(|u| matches!(u.fault, Fault::Sink | Fault::Key));
        let wait = of_the_sink.map(|unaccepted| self.setback(&unaccepted.fault));
        for index in all {
            let failure = &due.failures[*index as usize];
            match left.next_if(|unaccepted| unaccepted.index == *index) {
                None => {
                    let (position, id) = (failure.position, failure.id);
                    changes.push(Aside::Published { position, id });
                }
                Some(unaccepted) => {
                    let message = due.page.get(*index as usize);
                    let attempts = failure.attempts + u32::from(unaccepted.is_refusal());
                    let retry_in = match &unaccepted.fault {
                        fault @ (Fault::Message | Fault::Hopeless) => {
                            self.next_attempt(&message, fault.attempts(attempts))
                        }
                        Fault::Sink | Fault::Key => wait,
                        Fault::Destination(_) => Some(self.setback(&unaccepted.fault)),
                    };
                    failed.push((message, attempts, unaccepted, retry_in.is_none()));
                    let reason = unaccepted.reason.clone();
                    let tried = FailedMessage { attempts, reason, retry_in, ..failure.clone() };
                    changes.push(Aside::Retried(tried));
                }
            }
        }
        if self.write(changes, Some(place)).await? == Settled::Fenced {
            return Ok(());
        }
        for (message, attempts, unaccepted, is_dead) in &failed {
            let incident = Incident { message, attempts: *attempts, reason: &unaccepted.reason };
            if *is_dead {
                incident.is_set_aside(&self.gauge, What::DeadLetter);
            } else {
                incident.is_tried_again(&self.gauge);
            }
        }
        // What held a key has made it due: the store knows.
        self.look().await
    }

    /// When a rejected message is tried again; `None` when it is a dead letter.
    fn next_attempt(&self, message: &MessageRef<'_>, attempts: u32) -> Option<Duration> {
        match self.failure.policy().judge(message, attempts, jitter()) {
            Verdict::DeadLetter { .. } => None,
            Verdict::ParkKey { retry_in } | Verdict::ParkMessage { retry_in } => Some(retry_in),
        }
    }

    /// How long to wait for what could not take anything.
    fn setback(&mut self, fault: &Fault) -> Duration {
        if let Fault::Destination(name) = fault {
            return self.parked.broken(name, self.backoff, jitter());
        }
        self.setbacks += 1;
        self.backoff.delay(self.setbacks, jitter())
    }
}

/// Returns true when the publisher has ended, and false when its place has moved, if that matters.
async fn moved(places: &mut watch::Receiver<Place>, matters: bool) -> bool {
    loop {
        match places.changed().await {
            Err(_ended) => return true,
            Ok(()) if matters => return false,
            Ok(()) => {}
        }
    }
}
