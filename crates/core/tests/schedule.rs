//! Random schedules of transactions against the model database, and the ticks taken meanwhile.

use posthaste_core::{Snapshot, Tick, TickRef, Window, window::main_xids};
use proptest::{
    collection::vec,
    prelude::*,
    strategy::ValueTree,
    test_runner::{TestRng, TestRunner},
};
use uuid::Uuid;

use crate::model::{Database, Row};

/// One change by a writer or by other traffic. Numbers choose among the open transactions.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Begin,
    /// The transaction writes elsewhere: an early id.
    TakeXid(u8),
    /// One to three positions in a row.
    Enqueue(u8, u8),
    Commit(u8),
    Abort(u8),
    /// Transactions of other traffic that end at once.
    Other(u8),
    /// A crash, and how many positions the sequence loses.
    Crash(u8),
}

/// A flat list of numbers, which [`op`] and the schedules built on it read: cheap to make, and it
/// shrinks well.
pub(crate) fn codes(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u32>> {
    vec(any::<u32>(), count)
}

/// One change: mostly short transactions, few roll-backs, rare crashes.
pub(crate) fn op(code: u32) -> Op {
    let [kind, which, count, _] = code.to_le_bytes();
    match kind {
        0..60 => Op::Begin,
        60..90 => Op::TakeXid(which),
        90..165 => Op::Enqueue(which, 1 + count % 3),
        165..220 => Op::Commit(which),
        220..235 => Op::Abort(which),
        235..250 => Op::Other(1 + count % 3),
        250..=255 => Op::Crash(count % 4),
    }
}

/// What a schedule does beside its changes: the upper byte of a code, below 16.
pub(crate) const fn turn(code: u32) -> u32 {
    (code >> 24) % 16
}

/// Carries one change out; returns whether the database crashed.
pub(crate) fn apply(database: &mut Database<()>, op: Op) -> bool {
    let chosen = |database: &Database<()>, which: u8| {
        let count = database.open().len();
        (count > 0).then(|| database.open().nth(usize::from(which) % count)).flatten()
    };
    match op {
        Op::Begin => {
            database.begin();
        }
        Op::TakeXid(which) => {
            chosen(database, which).map(|handle| database.take_xid(handle));
        }
        Op::Enqueue(which, count) => {
            let handle = chosen(database, which);
            for _ in 0..count {
                handle.map(|handle| database.enqueue(handle, ()));
            }
        }
        Op::Commit(which) => {
            chosen(database, which).map(|handle| database.commit(handle));
        }
        Op::Abort(which) => {
            chosen(database, which).map(|handle| database.abort(handle));
        }
        Op::Other(count) => {
            for _ in 0..count {
                database.burn_xid();
            }
        }
        Op::Crash(skipped) => {
            database.crash(i64::from(skipped));
        }
    }
    matches!(op, Op::Crash(_))
}

/// Takes a tick: the snapshot, then a synchronous commit with an id of its own.
pub(crate) fn tick(database: &mut Database<()>, n: i64) -> Tick {
    let snapshot = database.snapshot();
    database.burn_xid();
    database.sync();
    Tick { at: TickRef { n, id: Uuid::from_u128(n as u128) }, snapshot }
}

/// The window between two ticks, with the bounds that the store's query finds.
pub(crate) fn window(base: &Tick, head: &Tick, rows: &[Row<()>]) -> Window {
    let main = main_positions(&base.snapshot, &head.snapshot, rows);
    let late = base.snapshot.late_at(&head.snapshot);
    let late = late.into_iter().filter(|xid| rows.iter().any(|row| row.xid == *xid)).collect();
    Window { base: base.clone(), head: head.clone(), main, late }
}

fn main_positions(base: &Snapshot, head: &Snapshot, rows: &[Row<()>]) -> Option<(i64, i64)> {
    let range = main_xids(base, head);
    let inside = |row: &&Row<()>| range.contains(&row.xid) && head.shows(row.xid);
    let positions = rows.iter().filter(inside).map(|row| row.position);
    positions.clone().min().zip(positions.max())
}

/// Hands `count` fixed samples of `strategy` to `check` and returns how many it objected to.
pub(crate) fn objections<S: Strategy>(
    strategy: &S,
    count: usize,
    check: impl Fn(S::Value) -> Result<(), TestCaseError>,
) -> usize {
    let config = ProptestConfig::default();
    let rng = TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let samples = (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current());
    samples.map(check).filter(Result::is_err).count()
}
