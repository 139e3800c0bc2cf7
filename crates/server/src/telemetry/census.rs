//! Counts jobs, entities and commands now and then: that takes time that grows with them, so whoever asks is told what
//! was counted last.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use posthaste_core::Timestamp;
use posthaste_store::{Census, Operations};
use tokio::time::{Instant, sleep, timeout};

use crate::clock;

/// Between two counts, at least.
const INTERVAL: Duration = Duration::from_secs(15);
/// What part of the time may be spent on counting: one in so many.
const SHARE: u32 = 60;
/// Longest pause, whatever a count took.
const PAUSE_MAX: Duration = Duration::from_hours(1);
/// After that a count is given up.
const LIMIT: Duration = Duration::from_secs(30);

/// What was counted last: written by one task.
#[derive(Debug, Default)]
pub(crate) struct Counting(Mutex<Option<Counted>>);

/// A count.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    pub(crate) census: Arc<Census>,
    pub(crate) at: Timestamp,
}

impl Counting {
    pub(crate) fn last(&self) -> Option<Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts again and again, until it is dropped.
    pub(crate) async fn run(&self, store: &dyn Operations) -> ! {
        loop {
            let since = Instant::now();
            match timeout(LIMIT, store.census()).await {
                Ok(Ok(census)) => {
                    let counted = Counted { census: Arc::new(census), at: clock::now() };
                    *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(counted);
                }
                Ok(Err(error)) => tracing::debug!("count: {}", posthaste_core::describe(&error)),
                Err(_elapsed) => tracing::debug!("count: no answer within {LIMIT:?}"),
            }
            sleep((since.elapsed() * SHARE).clamp(INTERVAL, PAUSE_MAX)).await;
        }
    }
}
