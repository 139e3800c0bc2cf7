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

/// What a reading that was given up holds off the next one by, in times of its limit.
const HOLD_OFF: u32 = 3;

/// The last reading. Whoever finds it too old reads, and those who come meanwhile wait for that.
#[derive(Debug, Default)]
pub(crate) struct Outlook {
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    last: Option<Reading>,
    /// When a reading began that has not ended: whoever asked for it went away, and the database may be at it still.
    given_up: Option<Instant>,
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
        timeout(limit, self.read(store, limit)).await.map_err(|_elapsed| late())?
    }

    /// Forgets what was read, after a change by hand.
    pub(crate) async fn forget(&self) {
        self.seen.lock().await.last = None;
    }

    async fn read(&self, store: &dyn Operations, limit: Duration) -> Result<Arc<Status>, Problem> {
        let mut seen = self.seen.lock().await;
        if let Some(reading) = &seen.last
            && reading.at.elapsed() < AGE.max(reading.took * SHARE)
        {
            return Ok(Arc::clone(&reading.status));
        }
        if seen.given_up.is_some_and(|since| since.elapsed() < HOLD_OFF * limit) {
            return Err(late());
        }
        let since = Instant::now();
        seen.given_up = Some(since);
        let read = store.status().await;
        seen.given_up = None;
        let status = Arc::new(read?);
        let (at, took) = (Instant::now(), since.elapsed());
        seen.last = Some(Reading { status: Arc::clone(&status), at, took });
        Ok(status)
    }
}

fn late() -> Problem {
    Problem::new(Code::DatabaseAway, "the database did not answer in time")
        .retry_after(Duration::from_secs(1))
}
