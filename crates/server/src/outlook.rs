//! The log's figures for people and probes: read at most every few seconds, whoever asks how often.
//!
//! Reading them takes time that grows with the log, so answers share one reading, and readings keep a distance of ten
//! times what the last one took.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use posthaste_store::{Operations, Status};
use tokio::{sync::Mutex, time::timeout};

use crate::problem::{Code, Problem};

/// As old as an answer may be.
const AGE: Duration = Duration::from_secs(2);
/// What part of the time may be spent on reading: one in so many.
const SHARE: u32 = 10;

/// The last reading. Whoever finds it too old reads, and those who come meanwhile wait for that.
#[derive(Debug, Default)]
pub(crate) struct Outlook {
    last: Mutex<Option<Reading>>,
}

#[derive(Debug)]
struct Reading {
    status: Arc<Status>,
    at: Instant,
    took: Duration,
}

impl Outlook {
    /// The figures, within `limit`.
    pub(crate) async fn status(
        &self,
        store: &dyn Operations,
        limit: Duration,
    ) -> Result<Arc<Status>, Problem> {
        let late =
            |_elapsed| Problem::new(Code::DatabaseAway, "the database did not answer in time");
        timeout(limit, self.read(store)).await.map_err(late)?
    }

    /// Forgets what was read, after a change by hand.
    pub(crate) async fn forget(&self) {
        *self.last.lock().await = None;
    }

    async fn read(&self, store: &dyn Operations) -> Result<Arc<Status>, Problem> {
        let mut last = self.last.lock().await;
        if let Some(reading) = &*last
            && reading.at.elapsed() < AGE.max(reading.took * SHARE)
        {
            return Ok(Arc::clone(&reading.status));
        }
        let since = Instant::now();
        let status = Arc::new(store.status().await?);
        let reading =
            Reading { status: Arc::clone(&status), at: Instant::now(), took: since.elapsed() };
        *last = Some(reading);
        Ok(status)
    }
}
