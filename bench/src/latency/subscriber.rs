//! The subscriber: a thread that reads the stream with `XREAD BLOCK` and notes when each message
//! came.

use std::{
    collections::{HashMap, hash_map::Entry},
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use posthaste_testkit::failure::{During, Failure, Result};
use uuid::Uuid;

use crate::{messages::STREAM, resp::Client, stream::StreamReader};

/// A running subscriber.
#[derive(Debug)]
pub(super) struct Subscriber {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Set once by `stop`, read by the thread between two reads.
    must_stop: AtomicBool,
    /// Written by the thread, taken by `stop`.
    received: Mutex<Received>,
}

#[derive(Debug, Default)]
struct Received {
    at: HashMap<Uuid, Instant>,
    repeats: usize,
}

impl Subscriber {
    /// From the beginning of the stream, which must be empty.
    pub(super) fn start(redis_port: u16) -> Result<Self> {
        let redis = Client::connect(redis_port)?;
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("subscriber".to_owned());
        let thread = thread.spawn(move || read_all(redis, &of_thread));
        Ok(Self { shared, thread: thread.during("start the subscriber")? })
    }

    /// How many messages it has received.
    pub(super) fn received(&self) -> usize {
        self.shared.lock().at.len()
    }

    pub(super) fn has_all<'a>(&self, mut ids: impl Iterator<Item = &'a Uuid>) -> bool {
        let received = self.shared.lock();
        ids.all(|id| received.at.contains_key(id))
    }

    /// When each message came first, and how many came again.
    pub(super) fn stop(self) -> Result<(HashMap<Uuid, Instant>, usize)> {
        self.shared.must_stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_| Failure::new("the subscriber panicked"))??;
        let received = mem::take(&mut *self.shared.lock());
        Ok((received.at, received.repeats))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_all(redis: Client, shared: &Shared) -> Result<()> {
    let mut stream = StreamReader::new(redis, STREAM);
    while !shared.must_stop.load(Ordering::Acquire) {
        let entries = stream.read()?;
        let at = Instant::now();
        let mut received = shared.lock();
        for entry in entries {
            let message_id = entry.field("id").unwrap_or_default();
            let message_id = message_id.parse().during("read a message's id")?;
            match received.at.entry(message_id) {
                Entry::Vacant(place) => drop(place.insert(at)),
                Entry::Occupied(_) => received.repeats += 1,
            }
        }
    }
    Ok(())
}
