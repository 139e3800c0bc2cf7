//! Group commit: one task collects the submissions that wait and writes them in one transaction.
//!
//! Two queues, so that what has to wait for somebody else's transaction holds nothing up that does not.
//!
//! There is no artificial wait. While one batch is being written the next one gathers, so that batches grow with the
//! load and a lone submission is written at once. Order: submissions are written as they were queued, also where a
//! batch has to be split.

use std::{collections::VecDeque, sync::Arc};

use posthaste_core::NewJob;
use posthaste_store::{JobId, Jobs, StoreError, StoreErrorKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// Jobs that share a transaction: more would not be faster, and would hold their locks longer.
const BATCH_JOBS_MAX: usize = 256;
/// Payload bytes that share a transaction, at least one job.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// What a job takes beside its payload, and the unit in which room is counted.
const UNIT_BYTES: usize = 1 << 10;

/// Why a job was not written.
#[derive(Clone, Debug)]
pub(crate) enum NotWritten {
    /// Too many wait, or too much.
    Busy,
    /// The server ends.
    Ending,
    /// The database's word. After a time-out the job may be there.
    Failed(Arc<StoreError>),
}

/// Which queue a job waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Nobody else can be submitting the same.
    Free,
    /// It has an id or a unique key of the caller's choice. An application may be submitting the same in a transaction
    /// that is open: the database waits for its outcome, and the whole batch with it.
    Named,
}

/// Hands jobs to the task that writes them; clones share it. The task ends when all are dropped.
#[derive(Clone, Debug)]
pub(crate) struct Batches {
    free: mpsc::Sender<Waiting>,
    named: mpsc::Sender<Waiting>,
    /// Units that payloads may still take.
    room: Arc<Semaphore>,
}

/// A job on its way. Dropped, it frees its room.
struct Waiting {
    job: NewJob,
    answer: oneshot::Sender<Result<JobId, NotWritten>>,
    room: OwnedSemaphorePermit,
}

impl Batches {
    /// The queues, of `jobs_max` each, and the task that empties them, for its owner to spawn and to join.
    pub(crate) fn new(
        store: Arc<dyn Jobs>,
        jobs_max: usize,
        bytes_max: usize,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (free, free_waiting) = mpsc::channel(jobs_max);
        let (named, named_waiting) = mpsc::channel(jobs_max);
        let units = (bytes_max / UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        let room = Arc::new(Semaphore::new(units));
        let writing = async move {
            let free = write_all(Arc::clone(&store), free_waiting);
            tokio::join!(free, write_all(store, named_waiting));
        };
        (Self { free, named, room }, writing)
    }

    /// Has a job written, and answers the id that stands for it once it is committed.
    ///
    /// # Cancel safety
    /// Dropped while the job waits, it is not written; dropped later, it may be.
    pub(crate) async fn submit(&self, job: NewJob, lane: Lane) -> Result<JobId, NotWritten> {
        let units = u32::try_from(1 + job.message().payload().len() / UNIT_BYTES);
        let room = Arc::clone(&self.room).try_acquire_many_owned(units.unwrap_or(u32::MAX));
        let room = room.map_err(|_full| NotWritten::Busy)?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { job, answer, room };
        let queue = match lane {
            Lane::Free => &self.free,
            Lane::Named => &self.named,
        };
        queue.try_send(waiting).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NotWritten::Busy,
            mpsc::error::TrySendError::Closed(_) => NotWritten::Ending,
        })?;
        answered.await.unwrap_or(Err(NotWritten::Ending))
    }
}

/// Writes batch after batch, until nobody can submit any more.
async fn write_all(store: Arc<dyn Jobs>, mut waiting: mpsc::Receiver<Waiting>) {
    let mut held: VecDeque<Waiting> = VecDeque::new();
    let mut taken = Vec::with_capacity(BATCH_JOBS_MAX);
    loop {
        if held.is_empty() && waiting.recv_many(&mut taken, BATCH_JOBS_MAX).await == 0 {
            return;
        }
        held.extend(taken.drain(..));
        // Whoever went away does not want it any more.
        held.retain(|waiting| !waiting.answer.is_closed());
        let batch: Vec<Waiting> = held.drain(..batch_len(&held)).collect();
        if !batch.is_empty() {
            write(&*store, batch).await;
        }
    }
}

/// How many of those that wait go together.
fn batch_len(held: &VecDeque<Waiting>) -> usize {
    let mut bytes = 0;
    let fits = |waiting: &&Waiting| {
        bytes += waiting.job.message().payload().len();
        bytes <= BATCH_BYTES_MAX
    };
    let fitting = held.iter().take_while(fits).count();
    fitting.max(1).min(held.len())
}

async fn write(store: &dyn Jobs, batch: Vec<Waiting>) {
    let (jobs, answers): (Vec<NewJob>, Vec<_>) =
        batch.into_iter().map(|waiting| (waiting.job, (waiting.answer, waiting.room))).unzip();
    match store.submit_jobs(&jobs).await {
        Ok(ids) => {
            for (id, (answer, _room)) in ids.into_iter().zip(answers) {
                // Nobody waits any more: it is written all the same.
                let _ = answer.send(Ok(id));
            }
        }
        Err(error) if jobs.len() > 1 && is_of_one_job(error.kind()) => {
            tracing::debug!(jobs = jobs.len(), "a batch is written job by job");
            for (job, (answer, _room)) in jobs.iter().zip(answers) {
                let _ = answer.send(alone(store, job).await);
            }
        }
        Err(error) => {
            let error = Arc::new(error);
            for (answer, _room) in answers {
                let _ = answer.send(Err(NotWritten::Failed(Arc::clone(&error))));
            }
        }
    }
}

async fn alone(store: &dyn Jobs, job: &NewJob) -> Result<JobId, NotWritten> {
    let failed = |error| NotWritten::Failed(Arc::new(error));
    let ids = store.submit_jobs(std::slice::from_ref(job)).await.map_err(failed)?;
    ids.first().copied().ok_or_else(|| {
        failed(StoreError::new(StoreErrorKind::Unexpected, "submit a job: the store named no id"))
    })
}

/// Whether the transaction certainly did not commit, and one job may have been the reason.
const fn is_of_one_job(kind: StoreErrorKind) -> bool {
    use StoreErrorKind as K;
    matches!(kind, K::Invalid | K::Conflict | K::Privilege | K::Unexpected)
}
