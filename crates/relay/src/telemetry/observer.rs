//! Reads what only the database knows, at an interval, and keeps it: a scrape asks nobody.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use posthaste_core::Timestamp;
use posthaste_store::{Status, Store, StoreError, StoreErrorKind};
use tokio::time::{Instant, sleep, timeout};

use super::meter::SourceMeter;
use crate::{clock, policy::describe};

/// The pause after a read is at least this many times as long as the read took: counting a long
/// backlog must not keep the database busy.
const REST: u32 = 10;

/// The last values read. One task writes, scrapes read.
#[derive(Debug)]
pub(crate) struct Observer {
    store: Arc<dyn Store>,
    /// Under which name the relay holds its subscriptions.
    holder: Arc<str>,
    timeout: Duration,
    last: Mutex<Option<Arc<Observed>>>,
}

/// What was read, and when by this machine's clock.
#[derive(Debug)]
pub(crate) struct Observed {
    pub(crate) at: Timestamp,
    pub(crate) status: Status,
}

impl Observer {
    pub(crate) fn new(store: Arc<dyn Store>, holder: Arc<str>, timeout: Duration) -> Self {
        Self { store, holder, timeout, last: Mutex::default() }
    }

    /// Reads again and again. What was read last stays while the database is away; its age shows.
    pub(crate) async fn run(&self, interval: Duration, meter: &SourceMeter) {
        let mut is_away = false;
        loop {
            let began = Instant::now();
            match self.read().await {
                Ok(()) => is_away = false,
                Err(error) => {
                    meter.failed(error.kind());
                    if !is_away {
                        let source = self.store.describe();
                        tracing::debug!(source, "read the gauges: {}", describe(&error));
                    }
                    is_away = true;
                }
            }
            sleep(interval.max(began.elapsed() * REST)).await;
        }
    }

    async fn read(&self) -> Result<(), StoreError> {
        let late = |_| StoreError::new(StoreErrorKind::Timeout, "read the gauges");
        let status = timeout(self.timeout, self.store.status()).await.map_err(late)??;
        let observed = Arc::new(Observed { at: clock::now(), status });
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(observed);
        Ok(())
    }

    pub(crate) fn holder(&self) -> &str {
        &self.holder
    }

    pub(crate) fn last(&self) -> Option<Arc<Observed>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
