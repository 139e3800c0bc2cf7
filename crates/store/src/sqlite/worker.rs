//! A thread that owns one connection and runs calls on it one after the other.
//!
//! SQLite blocks its caller, for locks and for the disk, so no connection is used on a thread of
//! the async runtime.

use std::{
    fmt,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    connection::{Opening, Role},
    session::Session,
};
use crate::{Result, StoreError, StoreErrorKind};

/// Calls that wait for the thread; the next caller waits for room within its own time-out.
const QUEUE: usize = 64;

type Job = Box<dyn FnOnce(&mut Session) + Send>;

/// The async side of one thread.
pub(super) struct Worker {
    role: Role,
    timeout: Duration,
    /// `None` only while the worker is dropped: closing the channel ends the thread.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts the thread and answers once its connection is open.
    pub(super) async fn start(opening: Opening, role: Role, bound: Duration) -> Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (answer, opened) = oneshot::channel();
        let thread = thread::Builder::new()
            .name(format!("sqlite-{role}"))
            .spawn(move || serve(&opening, role, answer, queue))
            .map_err(|cause| {
                let doing = format!("start the SQLite {role} thread");
                StoreError::caused(StoreErrorKind::Resources, doing, cause)
            })?;
        let worker = Self { role, timeout: bound, jobs: Some(jobs), thread: Some(thread) };
        opened.await.map_err(|_| worker.ended())??;
        Ok(worker)
    }

    /// Runs `job` on the thread. `doing` stands before the text of an error.
    ///
    /// # Cancel safety
    /// A call that is dropped while it waits never runs; one that runs ends with its transaction.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        doing: &str,
        job: impl FnOnce(&mut Session) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let deadline = Instant::now() + self.timeout;
        let (answer, answered) = oneshot::channel();
        let job: Job = Box::new(move |session| {
            // Nobody would learn of the result of a call whose caller has gone.
            if !answer.is_closed() {
                let result = session.set_deadline(deadline).and_then(|()| job(session));
                let _ = answer.send(result);
            }
        });
        let work = async {
            let jobs = self.jobs.as_ref().ok_or_else(|| self.ended())?;
            jobs.send(job).await.map_err(|_| self.ended())?;
            answered.await.map_err(|_| self.ended())?
        };
        let result = match timeout(self.timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::new(
                StoreErrorKind::Timeout,
                format!("no answer from the SQLite {} within {:?}", self.role, self.timeout),
            )),
        };
        result.map_err(|error| error.while_doing(doing))
    }

    fn ended(&self) -> StoreError {
        let doing = format!(
            "the SQLite {} thread has ended after a fault that the log shows; restart the process",
            self.role
        );
        StoreError::new(StoreErrorKind::Unexpected, doing)
    }
}

fn serve(
    opening: &Opening,
    role: Role,
    answer: oneshot::Sender<Result<()>>,
    mut queue: mpsc::Receiver<Job>,
) {
    let mut session = match opening.open(role) {
        Ok(session) => session,
        Err(error) => {
            let _ = answer.send(Err(error));
            return;
        }
    };
    if answer.send(Ok(())).is_err() {
        return;
    }
    while let Some(job) = queue.blocking_recv() {
        job(&mut session);
    }
}

impl Drop for Worker {
    /// Waits for the call that runs, at most its time-out, so that the file is closed and
    /// unlocked when the store is gone.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("role", &self.role).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn worker(bound: Duration) -> (tempfile::TempDir, Worker) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.db");
        let opening =
            Opening::new(&path, &posthaste_core::SchemaName::default(), true, bound).unwrap();
        let worker = Worker::start(opening, Role::Writer, bound).await.unwrap();
        (directory, worker)
    }

    #[tokio::test]
    async fn panicked_thread_gives_a_clear_error_to_this_and_every_later_call() {
        let (_directory, worker) = worker(Duration::from_secs(5)).await;
        for _ in 0..2 {
            let error = worker.call::<()>("settle", |_| panic!("on purpose")).await.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Unexpected);
            assert!(error.to_string().contains("settle: the SQLite writer thread"), "{error}");
        }
    }

    #[tokio::test]
    async fn endless_statement_is_interrupted_at_the_time_out_and_the_next_call_works() {
        let (_directory, worker) = worker(Duration::from_millis(300)).await;
        let endless = "with recursive n (i) as (select 1 union all select i + 1 from n) \
                       select count(*) from n";
        let error = worker
            .call("count", move |session| {
                session.read(|scope| scope.first(endless, [], |row| row.get::<_, i64>(0)))
            })
            .await
            .unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Timeout, "{error}");
        let one = worker
            .call("look", |session| {
                session.read(|scope| scope.first("select 1", [], |row| row.get::<_, i64>(0)))
            })
            .await;
        assert_eq!(one.unwrap(), Some(1));
    }

    #[tokio::test]
    async fn call_that_nobody_waits_for_never_runs() {
        let (_directory, worker) = worker(Duration::from_secs(5)).await;
        let (release, held) = std::sync::mpsc::sync_channel::<()>(0);
        let blocker = worker.call("hold", move |_| Ok(held.recv().is_ok()));
        let abandoned = worker.call("write", |session| {
            session.write(|scope| scope.run_all("create table abandoned (a)"))
        });
        {
            let mut blocker = Box::pin(blocker);
            let mut abandoned = Box::pin(abandoned);
            // Both are queued; then the second is dropped while the first still runs.
            assert!(futures_poll(&mut blocker).await);
            assert!(futures_poll(&mut abandoned).await);
            drop(abandoned);
            release.send(()).unwrap();
            assert!(blocker.await.unwrap());
        }
        let tables = worker
            .call("look", |session| {
                session.read(|scope| {
                    scope
                        .first("select count(*) from sqlite_schema", [], |row| row.get::<_, i64>(0))
                })
            })
            .await;
        assert_eq!(tables.unwrap(), Some(0));
    }

    /// Polls once and answers whether the future is still pending.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> bool {
        std::future::poll_fn(|context| {
            std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(context).is_pending())
        })
        .await
    }
}
