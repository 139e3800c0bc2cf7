//! What a pipeline writes about itself: its places and what it has set aside, under its epoch.

use std::sync::Arc;

use posthaste_core::{Epoch, Place};
use posthaste_store::{Aside, Settled, Store, StoreError, StoreErrorKind};
use tokio::sync::{Mutex, watch};

use crate::monitor::Gauge;

/// Writes one thing at a time, so that no older place ever follows a newer one. Shared by the
/// stages of one run of a pipeline.
pub(crate) struct Ledger {
    store: Arc<dyn Store>,
    gauge: Arc<Gauge>,
    epoch: Epoch,
    state: Mutex<Written>,
    /// Tells the other stages to stop.
    stop: watch::Sender<bool>,
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
    pub(crate) fn new(
        store: Arc<dyn Store>,
        gauge: Arc<Gauge>,
        epoch: Epoch,
        settled: Place,
    ) -> Self {
        let state = Mutex::new(Written::Place(settled));
        Self { store, gauge, epoch, state, stop: watch::Sender::new(false) }
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

    /// Records a place, unless it or a newer one is recorded.
    pub(crate) async fn settle(&self, place: Place) -> Result<Settled, StoreError> {
        self.write(&[], Some(place)).await
    }

    /// Changes what is set aside, and records `place` with it unless a newer one is recorded.
    pub(crate) async fn write(
        &self,
        changes: &[Aside],
        place: Option<Place>,
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
        let is_news = |place: &Place| !before.covers(place) || before.calls < place.calls;
        let place = place.filter(is_news);
        if changes.is_empty() && place.is_none() {
            return Ok(Settled::Recorded);
        }
        // Also when this future is dropped in between.
        *state = Written::Failed;
        let (name, epoch) = (self.gauge.name(), self.epoch);
        let answer = match &place {
            Some(place) if changes.is_empty() => self.store.settle(name, epoch, place).await,
            place => self.store.set_aside(name, epoch, changes, place.as_ref()).await,
        };
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
}
