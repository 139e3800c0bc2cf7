//! What a relay tells machines: counters, gauges and histograms in Prometheus' text format, and
//! whether it is alive and ready.
//!
//! `metrics` is the one list of all metrics. The pipelines count in a `meter`, without locks
//! and per batch; what only the database knows is read by [`Telemetry::observe`] at an interval
//! and kept. Nothing here listens on a port: the CLI serves what [`Telemetry`] answers.

mod health;
mod histogram;
pub(crate) mod incident;
pub(crate) mod meter;
mod metrics;
mod observer;
mod page;
mod reference;
pub mod traces;

use std::{sync::Arc, time::Duration};

use posthaste_store::Store;

pub use self::{
    health::{Readiness, SubscriptionReadiness},
    reference::reference,
};
use self::{observer::Observer, traces::Tracer};
use crate::monitor::Monitor;

/// What a relay tells of itself; clones share it. Outlives the relay, and then says so.
#[derive(Clone, Debug)]
pub struct Telemetry {
    monitor: Monitor,
    observer: Arc<Observer>,
    tracer: Option<Tracer>,
}

impl Telemetry {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        monitor: Monitor,
        holder: Arc<str>,
        timeout: Duration,
        tracer: Option<Tracer>,
    ) -> Self {
        Self { monitor, observer: Arc::new(Observer::new(store, holder, timeout)), tracer }
    }

    /// Reads what only the database knows, now and then every `interval`, and keeps it for
    /// [`Telemetry::metrics`]. Never returns.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn observe(&self, interval: Duration) {
        self.observer.run(interval, self.monitor.source()).await;
    }

    /// Every metric as it stands, in Prometheus' text format 0.0.4. Asks nobody.
    pub fn metrics(&self) -> String {
        page::render(&self.monitor, &self.observer, traces::counts(self.tracer.as_ref()))
    }

    /// Whether the relay has not ended.
    pub fn is_alive(&self) -> bool {
        self.monitor.is_alive()
    }

    /// Whether every subscription is at work, and what keeps those that are not.
    pub fn readiness(&self) -> Readiness {
        Readiness::of(&self.monitor.snapshot(), self.monitor.trouble())
    }
}
