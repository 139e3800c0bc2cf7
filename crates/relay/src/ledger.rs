//! What a pipeline writes about itself: its places and what it has set aside, under its epoch.
//!
//! A database without room refuses a write before it takes effect. The ledger then keeps trying, and
//! the publisher waits for it: publishing on without a place, or beginning a new run at the old
//! place again and again, would repeat messages without a bound.

use std::sync::Arc;

use posthaste_core::{Backoff, Epoch, Place};
use posthaste_store::{Aside, Settled, Store, StoreError, StoreErrorKind};
use tokio::sync::{Mutex, watch};

use crate::{
    drain::Draining, failpoint, jitter::jitter, monitor::Gauge, pipeline::Pipeline,
    policy::describe, telemetry::meter::SourceMeter,
};

/// Writes one thing at a time, so that no older place ever follows a newer one. Shared by the
/// stages of one run of a pipeline.
pub(crate) struct Ledger {
    store: Arc<dyn Store>,
    gauge: Arc<Gauge>,
    epoch: Epoch,
    state: Mutex<Written>,
    /// Tells the other stages to stop.
    stop: watch::Sender<bool>,
    /// Whether a write waits for room in the database. Written under the lock on `state`.
    held: watch::Sender<bool>,
    source: Arc<SourceMeter>,
    backoff: Backoff,
    draining: Draining,
}

/// What has been written so far.
#[derive(Clone, Copy)]
enum Written {
    /// This is the newest place.
    Place(Place),
    /// A write failed, and may still take effect: nothing is written after it.
    Failed,
    /// Another relay holds the subscription.
    Fenced,
}

impl Ledger {
    /// The ledger of a run of `pipeline` that begins at `settled`.
    pub(crate) fn new(pipeline: &Pipeline, epoch: Epoch, settled: Place) -> Self {
        Self {
            store: Arc::clone(&pipeline.store),
            gauge: Arc::clone(&pipeline.gauge),
            epoch,
            state: Mutex::new(Written::Place(settled)),
            stop: watch::Sender::new(false),
            held: watch::Sender::new(false),
            source: Arc::clone(&pipeline.source),
            backoff: pipeline.settings.retry.into(),
            draining: pipeline.draining.clone(),
        }
    }

    /// Returns at once unless a write waits for room in the database.
    pub(crate) async fn has_room(&self) {
        // The sender is in `self`.
        let _ = self.held.subscribe().wait_for(|held| !held).await;
    }

    /// Becomes true when the run has to stop: fenced, or a stage has failed.
    pub(crate) fn stopped(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Tells the other stages to stop.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Whether a write was refused because another relay holds the subscription.
    pub(crate) async fn is_fenced(&self) -> bool {
        matches!(*self.state.lock().await, Written::Fenced)
    }

    /// Whether the database says that nobody has taken the subscription over: it records the place
    /// that it has.
    pub(crate) async fn is_held(&self) -> Result<bool, StoreError> {
        let state = self.state.lock().await;
        let Written::Place(place) = *state else { return Ok(false) };
        let settled = self.store.settle(self.gauge.name(), self.epoch, &place).await?;
        Ok(settled == Settled::Recorded)
    }

    /// Records a place that may lie behind the last one: the sink has lost what is between them, and
    /// counts its calls anew from there. Otherwise a run that ends in the middle of the repair would
    /// be taken for one that has it behind it.
    pub(crate) async fn set_back(
        &self,
        place: Place,
        changes: &[Aside],
    ) -> Result<Settled, StoreError> {
        self.record(changes, |_before| Some(place)).await
    }

    /// Records a place, unless it or a newer one is recorded.
    pub(crate) async fn settle(&self, place: Place) -> Result<Settled, StoreError> {
        self.write(&[], Some(place)).await
    }

    /// Changes what is set aside, and records `place` with it unless a newer one is recorded; of an
    /// older one that counts more calls, these.
    pub(crate) async fn write(
        &self,
        changes: &[Aside],
        place: Option<Place>,
    ) -> Result<Settled, StoreError> {
        self.record(changes, |before| {
            let covers = |place: Place| before.counted(before.calls.max(place.calls));
            let newest = |place: Place| if before.covers(&place) { covers(place) } else { place };
            place.map(newest).filter(|place| *place != before)
        })
        .await
    }

    /// Changes what is set aside, and records the place that follows the newest one, if any does.
    async fn record(
        &self,
        changes: &[Aside],
        following: impl FnOnce(Place) -> Option<Place>,
    ) -> Result<Settled, StoreError> {
        let mut state = self.state.lock().await;
        let before = match *state {
            Written::Place(before) => before,
            Written::Fenced => return Ok(Settled::Fenced),
            // The failed write is what the run ends with; this one only follows it.
            Written::Failed => {
                let doing = "an earlier write of this run failed";
                return Err(StoreError::new(StoreErrorKind::Unavailable, doing));
            }
        };
        let place = following(before);
        if changes.is_empty() && place.is_none() {
            return Ok(Settled::Recorded);
        }
        // Also when this future is dropped in between.
        *state = Written::Failed;
        let answer = self.write_when_there_is_room(changes, place.as_ref()).await;
        match answer {
            Ok(Settled::Recorded) => {
                *state = Written::Place(place.unwrap_or(before));
                if let Some(place) = place {
                    self.gauge.settled(place);
                }
            }
            Ok(Settled::Fenced) => {
                *state = Written::Fenced;
                self.stop();
            }
            Err(_) => self.stop(),
        }
        answer
    }

    /// Tries until the database has room for the write, or the run has to end.
    async fn write_when_there_is_room(
        &self,
        changes: &[Aside],
        place: Option<&Place>,
    ) -> Result<Settled, StoreError> {
        let (name, epoch) = (self.gauge.name(), self.epoch);
        let (mut draining, mut stopped) = (self.draining.clone(), self.stopped());
        let mut failures = 0;
        loop {
            let is_aside = !changes.is_empty();
            failpoint::reach(if is_aside { "setting-aside" } else { "settling" }, name);
            let answer = match place {
                Some(place) if changes.is_empty() => self.store.settle(name, epoch, place).await,
                place => self.store.set_aside(name, epoch, changes, place).await,
            };
            failpoint::reach(if is_aside { "set-aside" } else { "settled" }, name);
            let error = match answer {
                Err(error) if error.kind() == StoreErrorKind::Resources => error,
                answer => {
                    if failures > 0 {
                        self.held.send_replace(false);
                        self.gauge.release();
                    }
                    return answer;
                }
            };
            failures += 1;
            self.held.send_replace(true);
            self.source.failed(error.kind());
            self.gauge.hold(describe(&error));
            let is_over = tokio::select! {
                biased;
                is_over = draining.sleep(self.backoff.delay(failures, jitter())) => is_over,
                _ = stopped.wait_for(|stopped| *stopped) => true,
            };
            if is_over {
                return Err(error);
            }
        }
    }
}
