//! What arrives at a stream: a thread reads it, checks the order of every key, and has Redis forget
//! what it has read, so that an hour's messages need no memory there.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use posthaste_testkit::failure::{During, Failure, Result};

use crate::{resp::Client, stream::StreamReader};

/// A stream that is being read.
#[derive(Debug)]
pub(super) struct Arrivals {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Set once by `stop`, read by the thread between two reads.
    must_stop: AtomicBool,
    /// Written by the thread.
    seen: Mutex<Seen>,
}

/// What has arrived so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) count: u64,
    /// When the first one since the last mark came, in milliseconds on Redis's clock.
    pub(super) first_ms: Option<u64>,
    /// When the last one came.
    pub(super) last_ms: u64,
}

impl Arrivals {
    /// From the beginning of the stream.
    pub(super) fn start(redis_port: u16, stream: &'static str) -> Result<Self> {
        let redis = StreamReader::new(Client::connect(redis_port)?, stream);
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("arrivals".to_owned());
        let thread = thread.spawn(move || read_all(redis, &of_thread));
        Ok(Self { shared, thread: thread.during("start to read a stream")? })
    }

    pub(super) fn seen(&self) -> Seen {
        *self.shared.lock()
    }

    /// Lets `first_ms` be of what comes from now on.
    pub(super) fn mark(&self) {
        self.shared.lock().first_ms = None;
    }

    /// Whether it has failed; `stop` says how.
    pub(super) fn has_failed(&self) -> bool {
        self.thread.is_finished()
    }

    /// All that has arrived, each key in order and nothing twice.
    pub(super) fn stop(self) -> Result<u64> {
        self.shared.must_stop.store(true, Ordering::Release);
        self.thread.join().map_err(|_| Failure::new("the reader of a stream panicked"))??;
        Ok(self.shared.lock().count)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_all(mut stream: StreamReader, shared: &Shared) -> Result<()> {
    let mut latest: HashMap<String, u64> = HashMap::new();
    while !shared.must_stop.load(Ordering::Acquire) {
        let entries = stream.read()?;
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else { continue };
        let (first_ms, last_ms) = (first.at_ms, last.at_ms);
        for entry in &entries {
            let key = entry.field("key").unwrap_or_default();
            let number = entry.field("payload").unwrap_or_default();
            let number: u64 = number.parse().during("read a message's number")?;
            match latest.get_mut(&key) {
                Some(before) if *before >= number => {
                    let message = format!("{key}: message {number} came after {before}");
                    return Err(Failure::new(message));
                }
                Some(before) => *before = number,
                None => drop(latest.insert(key, number)),
            }
        }
        stream.forget()?;
        let mut seen = shared.lock();
        seen.count += entries.len() as u64;
        seen.first_ms.get_or_insert(first_ms);
        seen.last_ms = last_ms;
    }
    Ok(())
}
