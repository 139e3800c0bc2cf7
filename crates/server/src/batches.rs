//! Group commit: one task collects the submissions that wait and writes them in one transaction.
//!
//! Two queues, so that what has to wait for somebody else's transaction holds nothing up that does not.
//!
//! There is no artificial wait. While one batch is being written the next one gathers, so that batches grow with the
//! load and a lone submission is written at once. Order: submissions are written as they were queued, also where a
//! batch has to be split.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use posthaste_core::{Message, NewJob};
use posthaste_store::{Jobs, Operations, StoreError, StoreErrorKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use uuid::Uuid;

use crate::telemetry::SubmissionMeter;

/// Submissions that share a transaction: more would not be faster, and would hold their locks longer.
const BATCH_LEN_MAX: usize = 256;
/// Payload bytes that share a transaction, at least one submission.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// What a submission takes beside its payload, and the unit in which room is counted.
pub(crate) const UNIT_BYTES: usize = 1 << 10;

/// Why a submission was not written.
#[derive(Clone, Debug)]
pub(crate) enum NotWritten {
    /// Too many wait, or too much.
    Busy,
    /// The server ends.
    Ending,
    /// The database's word. After a time-out it may be there.
    Failed(Arc<StoreError>),
}

/// Which queue a submission waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Nobody else can be submitting the same, or hold what it needs.
    Free,
    /// It has an id or a unique key of the caller's choice, a token that others may use, or a key that may have to be
    /// locked. An application may be doing the same in a transaction that is open: the database waits for its outcome,
    /// and the whole batch with it.
    Named,
}

/// What is written in batches.
pub(crate) trait Batched: Send + Sync + Sized + 'static {
    /// What writes it.
    type Store: ?Sized + Send + Sync + 'static;

    fn payload_bytes(&self) -> usize;

    /// Writes all of them in one transaction, and answers the ids that stand for them.
    fn write<'a>(store: &'a Self::Store, batch: &'a [Self]) -> Writing<'a>;
}

type Writing<'a> = Pin<Box<dyn Future<Output = posthaste_store::Result<Vec<Uuid>>> + Send + 'a>>;

impl Batched for NewJob {
    type Store = dyn Jobs;

    fn payload_bytes(&self) -> usize {
        self.message().payload().len()
    }

    fn write<'a>(store: &'a Self::Store, batch: &'a [Self]) -> Writing<'a> {
        store.submit_jobs(batch)
    }
}

impl Batched for Message {
    type Store = dyn Operations;

    fn payload_bytes(&self) -> usize {
        self.payload().len()
    }

    fn write<'a>(store: &'a Self::Store, batch: &'a [Self]) -> Writing<'a> {
        store.append(batch)
    }
}

/// Room for what waits, of so many bytes, which several queues share.
pub(crate) fn room(bytes_max: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((bytes_max / UNIT_BYTES).min(Semaphore::MAX_PERMITS)))
}

/// Hands submissions to the task that writes them; clones share it. The task ends when all are dropped.
#[derive(Debug)]
pub(crate) struct Batches<T> {
    free: mpsc::Sender<Waiting<T>>,
    named: mpsc::Sender<Waiting<T>>,
    /// Units that payloads may still take.
    room: Arc<Semaphore>,
    meter: Arc<SubmissionMeter>,
}

/// A submission on its way. Dropped, it frees its room.
#[derive(Debug)]
struct Waiting<T> {
    what: T,
    answer: oneshot::Sender<Result<Uuid, NotWritten>>,
    room: OwnedSemaphorePermit,
}

impl<T: Batched> Batches<T> {
    /// The queues, of `len_max` each, and the task that empties them, for its owner to spawn and to join.
    pub(crate) fn new(
        store: Arc<T::Store>,
        len_max: usize,
        room: Arc<Semaphore>,
        meter: Arc<SubmissionMeter>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (free, free_waiting) = mpsc::channel(len_max);
        let (named, named_waiting) = mpsc::channel(len_max);
        let count = Arc::clone(&meter);
        let writing = async move {
            let free = write_all::<T>(&store, free_waiting, &count);
            tokio::join!(free, write_all::<T>(&store, named_waiting, &count));
        };
        (Self { free, named, room, meter }, writing)
    }

    /// Has it written, and answers the id that stands for it once it is committed.
    ///
    /// # Cancel safety
    /// Dropped while it waits, it is not written; dropped later, it may be.
    pub(crate) async fn submit(&self, what: T, lane: Lane) -> Result<Uuid, NotWritten> {
        let answer = self.hand_over(what, lane).await;
        let count = match answer {
            Ok(_) => &self.meter.written,
            Err(NotWritten::Busy) => &self.meter.busy,
            Err(_) => &self.meter.failed,
        };
        count.add(1);
        answer
    }

    async fn hand_over(&self, what: T, lane: Lane) -> Result<Uuid, NotWritten> {
        let units = u32::try_from(1 + what.payload_bytes() / UNIT_BYTES);
        let room = Arc::clone(&self.room).try_acquire_many_owned(units.unwrap_or(u32::MAX));
        let room = room.map_err(|_full| NotWritten::Busy)?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting { what, answer, room };
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
async fn write_all<T: Batched>(
    store: &T::Store,
    mut waiting: mpsc::Receiver<Waiting<T>>,
    meter: &SubmissionMeter,
) {
    let mut held: VecDeque<Waiting<T>> = VecDeque::new();
    let mut taken = Vec::with_capacity(BATCH_LEN_MAX);
    loop {
        if held.is_empty() && waiting.recv_many(&mut taken, BATCH_LEN_MAX).await == 0 {
            return;
        }
        held.extend(taken.drain(..));
        // Whoever went away does not want it any more.
        held.retain(|waiting| !waiting.answer.is_closed());
        let batch: Vec<Waiting<T>> = held.drain(..batch_len(&held)).collect();
        if !batch.is_empty() {
            write::<T>(store, batch, meter).await;
        }
    }
}

/// How many of those that wait go together.
fn batch_len<T: Batched>(held: &VecDeque<Waiting<T>>) -> usize {
    let mut bytes = 0;
    let fits = |waiting: &&Waiting<T>| {
        bytes += waiting.what.payload_bytes();
        bytes <= BATCH_BYTES_MAX
    };
    let fitting = held.iter().take_while(fits).count();
    fitting.max(1).min(held.len())
}

async fn write<T: Batched>(store: &T::Store, batch: Vec<Waiting<T>>, meter: &SubmissionMeter) {
    let (all, answers): (Vec<T>, Vec<_>) =
        batch.into_iter().map(|waiting| (waiting.what, (waiting.answer, waiting.room))).unzip();
    meter.transactions.add(1);
    match T::write(store, &all).await {
        Ok(ids) => {
            for (id, (answer, _room)) in ids.into_iter().zip(answers) {
                // Nobody waits any more: it is written all the same.
                let _ = answer.send(Ok(id));
            }
        }
        Err(error) if all.len() > 1 && is_of_one(error.kind()) => {
            tracing::debug!(len = all.len(), "a batch is written one by one");
            for (one, (answer, _room)) in all.iter().zip(answers) {
                // Whoever went away meanwhile does not want it any more.
                if answer.is_closed() {
                    continue;
                }
                meter.transactions.add(1);
                let _ = answer.send(alone(store, one).await);
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

async fn alone<T: Batched>(store: &T::Store, one: &T) -> Result<Uuid, NotWritten> {
    let failed = |error| NotWritten::Failed(Arc::new(error));
    let ids = T::write(store, std::slice::from_ref(one)).await.map_err(failed)?;
    ids.first().copied().ok_or_else(|| {
        failed(StoreError::new(StoreErrorKind::Unexpected, "write one: the store named no id"))
    })
}

/// Whether the transaction certainly did not commit, and one of them may have been the reason.
const fn is_of_one(kind: StoreErrorKind) -> bool {
    use StoreErrorKind as K;
    matches!(kind, K::Invalid | K::Conflict | K::Privilege | K::Unexpected)
}

#[cfg(test)]
mod tests;
