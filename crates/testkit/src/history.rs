//! Compares what a consumer received with what the writers recorded.
//!
//! A writer records each message in the transaction that enqueues it, so the record says exactly
//! what was committed, also where the answer to a commit was lost. Pure: the tests write, read
//! and feed it.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use uuid::Uuid;

/// How many entries of each fault a verdict shows.
const SHOWN: usize = 5;

/// One message: the `part`th that the `n`th change of `key` enqueued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Entry {
    /// The ordering key. Its writers serialise on it.
    pub key: i64,
    /// Number of the change, ascending in commit order within a key.
    pub n: i64,
    /// Number of the message within its transaction.
    pub part: i64,
    /// The transaction, which tells a change from one with the same number that was rolled back.
    pub transaction: Uuid,
}

/// What differs between the record and the arrivals.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Recorded, never arrived.
    pub lost: Vec<Entry>,
    /// Every arrival after the first of the same entry.
    pub repeated: Vec<Entry>,
    /// Arrived, not recorded.
    pub phantoms: Vec<Entry>,
    /// First arrivals that came after a later one of the same key: that one, and the entry.
    pub reordered: Vec<(Entry, Entry)>,
}

/// A text that no entry has been written as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an entry: {text:?} (expected `key n part transaction`)")]
pub struct InvalidEntry {
    text: String,
}

/// Judges `arrivals`, in the order they came, by the record of what was committed.
pub fn check(recorded: &[Entry], arrivals: &[Entry]) -> Verdict {
    let committed: HashSet<Entry> = recorded.iter().copied().collect();
    let mut verdict = Verdict::default();
    let mut seen = HashSet::with_capacity(arrivals.len());
    let mut newest: HashMap<i64, Entry> = HashMap::new();
    for entry in arrivals {
        if !seen.insert(*entry) {
            verdict.repeated.push(*entry);
            continue;
        }
        if !committed.contains(entry) {
            verdict.phantoms.push(*entry);
        }
        let before = newest.entry(entry.key).or_insert(*entry);
        if (entry.n, entry.part) < (before.n, before.part) {
            verdict.reordered.push((*before, *entry));
        } else {
            *before = *entry;
        }
    }
    verdict.lost = recorded.iter().filter(|entry| !seen.contains(entry)).copied().collect();
    verdict
}

impl Verdict {
    /// Whether everything arrived once and in order.
    pub fn is_exactly_once(&self) -> bool {
        self.repeated.is_empty() && self.is_at_least_once()
    }

    /// Whether everything arrived, with the first arrivals in order and nothing uncommitted.
    pub fn is_at_least_once(&self) -> bool {
        self.lost.is_empty() && self.phantoms.is_empty() && self.reordered.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (lost, repeated) = (self.lost.len(), self.repeated.len());
        let (phantoms, reordered) = (self.phantoms.len(), self.reordered.len());
        write!(
            f,
            "{lost} lost, {repeated} repeated, {phantoms} phantoms, {reordered} reordered; such as"
        )?;
        for (fault, entries) in
            [("lost", &self.lost), ("repeated", &self.repeated), ("phantom", &self.phantoms)]
        {
            for entry in entries.iter().take(SHOWN) {
                write!(f, "\n  {fault}: {entry}")?;
            }
        }
        for (before, entry) in self.reordered.iter().take(SHOWN) {
            write!(f, "\n  reordered: {entry} after {before}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, n, part, transaction } = self;
        write!(f, "{key} {n} {part} {transaction}")
    }
}

impl FromStr for Entry {
    type Err = InvalidEntry;

    fn from_str(text: &str) -> Result<Self, InvalidEntry> {
        let invalid = || InvalidEntry { text: text.chars().take(80).collect() };
        let words: Vec<&str> = text.split(' ').collect();
        let [key, n, part, transaction] = words[..] else { return Err(invalid()) };
        let number = |word: &str| word.parse().map_err(|_: ParseIntError| invalid());
        let transaction = transaction.parse().map_err(|_| invalid())?;
        Ok(Self { key: number(key)?, n: number(n)?, part: number(part)?, transaction })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: i64, n: i64, part: i64) -> Entry {
        Entry { key, n, part, transaction: Uuid::from_u128(n as u128) }
    }

    #[test]
    fn everything_once_and_in_order_is_clean_whatever_other_keys_do() {
        let recorded = [entry(1, 1, 0), entry(1, 1, 1), entry(1, 2, 0), entry(2, 1, 0)];
        let arrivals = [recorded[3], recorded[0], recorded[1], recorded[2]];
        let verdict = check(&recorded, &arrivals);
        assert!(verdict.is_exactly_once(), "{verdict}");
    }

    #[test]
    fn each_fault_is_found_and_named() {
        let recorded = [entry(1, 1, 0), entry(1, 1, 1), entry(1, 2, 0), entry(2, 1, 0)];
        let rolled_back = Entry { transaction: Uuid::nil(), ..recorded[0] };
        let arrivals = [recorded[1], recorded[0], recorded[2], recorded[0], rolled_back];
        let verdict = check(&recorded, &arrivals);
        assert_eq!(verdict.lost, [recorded[3]]);
        assert_eq!(verdict.repeated, [recorded[0]]);
        assert_eq!(verdict.phantoms, [rolled_back]);
        assert_eq!(
            verdict.reordered,
            [(recorded[1], recorded[0]), (recorded[2], rolled_back)],
            "{verdict}"
        );
    }

    #[test]
    fn repeats_alone_are_at_least_once_and_do_not_count_as_reordered() {
        let recorded = [entry(1, 1, 0), entry(1, 2, 0)];
        let verdict = check(&recorded, &[recorded[0], recorded[1], recorded[0], recorded[1]]);
        assert!(verdict.is_at_least_once() && !verdict.is_exactly_once(), "{verdict}");
    }

    #[test]
    fn entries_come_back_from_their_text() {
        let entry = entry(-7, 2, 3);
        assert_eq!(entry.to_string().parse(), Ok(entry));
        for text in ["", "1 2 3", "1 2 3 x", "1 2 x 4"] {
            assert!(text.parse::<Entry>().is_err(), "{text}");
        }
    }
}
