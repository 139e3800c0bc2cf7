//! The log's figures for people and probes: read at most every few seconds, whoever asks how often.
//!
//! Reading them takes time that grows with the log, so answers share one reading, and readings keep a distance of ten
//! times what the last one took. Whoever asks may go away or lose patience: a reading that has begun goes on, for those
//! who come next, and there is never more than one.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use posthaste_store::{Operations, Status, StoreError};
use tokio::{sync::oneshot, task::JoinSet, time::timeout};

use crate::problem::{Code, Problem};

/// As old as an answer may be.
const AGE: Duration = Duration::from_secs(2);
/// What part of the time may be spent on reading: one in so many.
const SHARE: u32 = 10;

/// The last reading. Whoever finds it too old has a new one begun, and those who come meanwhile wait for that.
#[derive(Debug, Default)]
pub(crate) struct Outlook {
    last: Arc<Mutex<Last>>,
    /// Held by the reading that is in progress.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// That reading; it ends with this at the latest.
    readings: Mutex<JoinSet<()>>,
}

#[derive(Debug, Default)]
struct Last {
    reading: Option<Reading>,
    /// How often it was forgotten: a reading that began before that is not kept.
    forgotten: u64,
}

#[derive(Debug)]
struct Reading {
    status: Arc<Status>,
    at: Instant,
    took: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Last {
    fn fresh(&self) -> Option<Arc<Status>> {
        let reading = self.reading.as_ref()?;
        let is_fresh = reading.at.elapsed() < AGE.max(reading.took * SHARE);
        is_fresh.then(|| Arc::clone(&reading.status))
    }
}

impl Outlook {
    /// The figures, within `limit`.
    pub(crate) async fn status(
        &self,
        store: &Arc<dyn Operations>,
        limit: Duration,
    ) -> Result<Arc<Status>, Problem> {
        timeout(limit, self.read(store)).await.map_err(|_elapsed| late())?
    }

    /// Forgets what was read, after a change by hand.
    pub(crate) fn forget(&self) {
        let mut last = lock(&self.last);
        last.reading = None;
        last.forgotten += 1;
    }

    async fn read(&self, store: &Arc<dyn Operations>) -> Result<Arc<Status>, Problem> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if let Some(status) = lock(&self.last).fresh() {
            return Ok(status);
        }
        let (store, last) = (Arc::clone(store), Arc::clone(&self.last));
        let (tell, told) = oneshot::channel();
        let reading = async move {
            let read = read(&*store, &last).await;
            drop(turn);
            // Nobody may wait for it any more.
            let _ = tell.send(read);
        };
        {
            let mut readings = lock(&self.readings);
            while readings.try_join_next().is_some() {}
            readings.spawn(reading);
        }
        match told.await {
            Ok(read) => Ok(read?),
            // It panicked, and the panic hook has said where.
            Err(_untold) => Err(Problem::internal()),
        }
    }
}

async fn read(store: &dyn Operations, last: &Mutex<Last>) -> Result<Arc<Status>, StoreError> {
    let (forgotten, since) = (lock(last).forgotten, Instant::now());
    let status = Arc::new(store.status().await?);
    let (at, took) = (Instant::now(), since.elapsed());
    let mut last = lock(last);
    if last.forgotten == forgotten {
        last.reading = Some(Reading { status: Arc::clone(&status), at, took });
    }
    Ok(status)
}

fn late() -> Problem {
    Problem::new(Code::DatabaseAway, "the database did not answer in time")
        .retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use posthaste_store::{
        Store as _,
        postgres::{PostgresOptions, PostgresStore},
    };
    use posthaste_testkit::Postgres;
    use tokio::time::sleep;

    use super::*;

    /// Nothing here takes longer on a machine that is busy.
    const LIMIT: Duration = Duration::from_mins(1);

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn askers_that_go_away_or_lose_patience_keep_nobody_from_the_figures() {
        let database = Postgres::shared().database().await;
        let store = PostgresStore::connect(database.url(), &PostgresOptions::default()).unwrap();
        store.migrate().await.unwrap();
        let store: Arc<dyn Operations> = Arc::new(store);
        let outlook = Arc::new(Outlook::default());
        let client = database.connect().await;
        let hold = "begin; lock table posthaste.subscription in access exclusive mode";
        client.batch_execute(hold).await.unwrap();
        let (asked, of_store) = (Arc::clone(&outlook), Arc::clone(&store));
        let asks = tokio::spawn(async move { asked.status(&of_store, LIMIT).await.map(drop) });
        let begins = async {
            while outlook.turn.try_lock().is_ok() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(LIMIT, begins).await.expect("a reading");
        asks.abort();
        assert!(asks.await.unwrap_err().is_cancelled());
        let late = outlook.status(&store, Duration::from_millis(1)).await.unwrap_err();
        assert_eq!(late.code(), Code::DatabaseAway);
        client.batch_execute("rollback").await.unwrap();
        let first = outlook.status(&store, LIMIT).await.unwrap();
        let shared = outlook.status(&store, LIMIT).await.unwrap();
        outlook.forget();
        let second = outlook.status(&store, LIMIT).await.unwrap();
        assert!(Arc::ptr_eq(&first, &shared) && !Arc::ptr_eq(&first, &second));
    }
}
