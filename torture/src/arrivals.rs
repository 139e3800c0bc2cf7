//! What has arrived: judged as it comes, in memory by the number of keys, and written down for the
//! case that something is wrong.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use posthaste_testkit::{
    failure::{During, Result},
    history::Entry,
};
use tokio::sync::watch;
use uuid::Uuid;

use crate::message::{Arrived, checksum};

/// Key, number, part and transaction.
const RECORD_BYTES: usize = 8 + 8 + 8 + 16;

/// All messages of a key, in a few bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest {
    pub(crate) count: u64,
    /// The sum of their checksums: the same in any order.
    sum: u64,
}

/// What had arrived at a moment.
#[derive(Debug)]
pub(crate) struct Saved {
    keys: HashMap<i64, OfKey>,
    fresh: u64,
    bytes: u64,
}

#[derive(Clone, Debug, Default)]
struct OfKey {
    digest: Digest,
    newest: (i64, i64),
    /// One came that was not later than all before it: repeated or reordered.
    is_suspect: bool,
}

/// Everything that has arrived.
#[derive(Debug)]
pub(crate) struct Arrivals {
    keys: HashMap<i64, OfKey>,
    path: PathBuf,
    file: BufWriter<File>,
    damaged: u64,
    fresh: Arc<AtomicU64>,
    times: watch::Sender<Times>,
}

/// When the consumer last took a message, and when it last found none: what it takes after that
/// has been published after that.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) arrival: Instant,
    pub(crate) emptiness: Instant,
}

impl Digest {
    pub(crate) fn add(&mut self, entry: &Entry) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(checksum(&encode(entry)));
    }
}

impl Arrivals {
    /// Writes down at `path` what arrives.
    pub(crate) fn at(path: &Path) -> Result<Self> {
        let file = File::create(path).during("make the file of arrivals")?;
        let now = Instant::now();
        Ok(Self {
            keys: HashMap::new(),
            path: path.to_path_buf(),
            file: BufWriter::new(file),
            damaged: 0,
            fresh: Arc::default(),
            times: watch::Sender::new(Times { arrival: now, emptiness: now }),
        })
    }

    /// One has arrived.
    pub(crate) fn take(&mut self, arrived: &Arrived) -> Result<()> {
        self.times.send_modify(|times| times.arrival = Instant::now());
        let Arrived::Whole(entry) = arrived else {
            self.damaged += 1;
            return Ok(());
        };
        let of_key = self.keys.entry(entry.key).or_default();
        let at = (entry.n, entry.part);
        if of_key.digest.count > 0 && at <= of_key.newest {
            of_key.is_suspect = true;
        } else {
            of_key.newest = at;
            self.fresh.fetch_add(1, Ordering::AcqRel);
        }
        of_key.digest.add(entry);
        self.file.write_all(&encode(entry)).during("write down an arrival")
    }

    /// How many have come that were later than all before them of their key.
    pub(crate) fn fresh(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.fresh)
    }

    /// How many have come, repeats included.
    pub(crate) fn count(&self) -> u64 {
        self.keys.values().map(|of_key| of_key.digest.count).sum::<u64>() + self.damaged
    }

    /// There was nothing to take.
    pub(crate) fn none(&self) {
        self.times.send_modify(|times| times.emptiness = Instant::now());
    }

    pub(crate) fn times(&self) -> watch::Receiver<Times> {
        self.times.subscribe()
    }

    /// Messages that were not what was written.
    pub(crate) fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Remembers what has arrived so far.
    pub(crate) fn save(&mut self) -> Result<Saved> {
        let bytes = self.file.stream_position().during("write down the arrivals")?;
        let fresh = self.fresh.load(Ordering::Acquire);
        Ok(Saved { keys: self.keys.clone(), fresh, bytes })
    }

    /// Forgets what has arrived since.
    pub(crate) fn go_back(&mut self, saved: Saved) -> Result<()> {
        let Saved { keys, fresh, bytes } = saved;
        self.keys = keys;
        self.fresh.store(fresh, Ordering::Release);
        self.file.seek(SeekFrom::Start(bytes)).during("write down the arrivals")?;
        self.file.get_ref().set_len(bytes).during("forget arrivals")
    }

    /// Keys of which something is wrong: more, less or other than `recorded`, or out of order.
    pub(crate) fn suspects(&self, recorded: &HashMap<i64, Digest>) -> HashSet<i64> {
        let keys = recorded.keys().chain(self.keys.keys()).copied();
        let is_suspect = |key: &i64| {
            let arrived = self.keys.get(key);
            arrived.is_some_and(|of_key| of_key.is_suspect)
                || arrived.map(|of_key| of_key.digest).unwrap_or_default()
                    != recorded.get(key).copied().unwrap_or_default()
        };
        keys.filter(is_suspect).collect()
    }

    /// All arrivals of some keys, in the order they came.
    pub(crate) fn of(&mut self, keys: &HashSet<i64>) -> Result<Vec<Entry>> {
        self.file.flush().during("write down the arrivals")?;
        let file = File::open(&self.path).during("read the file of arrivals")?;
        let mut file = BufReader::new(file);
        let mut record = [0; RECORD_BYTES];
        let mut entries = Vec::new();
        for _ in 0..self.count() - self.damaged {
            file.read_exact(&mut record).during("read an arrival")?;
            let entry = decode(&record);
            if keys.contains(&entry.key) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }
}

fn encode(entry: &Entry) -> [u8; RECORD_BYTES] {
    let mut record = [0; RECORD_BYTES];
    record[..8].copy_from_slice(&entry.key.to_be_bytes());
    record[8..16].copy_from_slice(&entry.n.to_be_bytes());
    record[16..24].copy_from_slice(&entry.part.to_be_bytes());
    record[24..].copy_from_slice(entry.transaction.as_bytes());
    record
}

fn decode(record: &[u8; RECORD_BYTES]) -> Entry {
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&record[at..at + 8]);
        i64::from_be_bytes(bytes)
    };
    let mut transaction = [0; 16];
    transaction.copy_from_slice(&record[24..]);
    let transaction = Uuid::from_bytes(transaction);
    Entry { key: number(0), n: number(8), part: number(16), transaction }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: i64, n: i64, part: i64) -> Entry {
        Entry { key, n, part, transaction: Uuid::from_u128(n as u128) }
    }

    fn digests(entries: &[Entry]) -> HashMap<i64, Digest> {
        let mut digests = HashMap::new();
        for entry in entries {
            digests.entry(entry.key).or_insert_with(Digest::default).add(entry);
        }
        digests
    }

    /// The suspects when `arrived` came of what was `recorded`.
    fn suspects(recorded: &[Entry], arrived: &[Entry]) -> HashSet<i64> {
        let directory = tempfile::tempdir().unwrap();
        let mut arrivals = Arrivals::at(&directory.path().join("arrivals")).unwrap();
        for entry in arrived {
            arrivals.take(&Arrived::Whole(*entry)).unwrap();
        }
        let all = HashSet::from([1, 2]);
        assert_eq!(arrivals.of(&all).unwrap(), arrived);
        arrivals.suspects(&digests(recorded))
    }

    #[test]
    fn whatever_is_wrong_with_a_key_makes_it_suspect_and_no_other() {
        let recorded = [entry(1, 1, 0), entry(1, 1, 1), entry(1, 2, 0), entry(2, 1, 0)];
        let [a, b, c, other] = recorded;
        assert!(suspects(&recorded, &[a, other, b, c]).is_empty());
        let phantom = Entry { transaction: Uuid::nil(), ..c };
        for arrived in [
            vec![other, a, b],
            vec![a, b, other, b, c],
            vec![b, a, c, other],
            vec![a, b, phantom, other],
        ] {
            assert_eq!(suspects(&recorded, &arrived), HashSet::from([1]), "{arrived:?}");
        }
    }
}
