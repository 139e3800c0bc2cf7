//! A model of the database that writers and the relay share: transactions with PostgreSQL's ids,
//! snapshots, sequence and crash behaviour, in memory.
//!
//! It knows the truth that snapshots only stand for: when each position was taken and when its
//! transaction committed, on a clock that ticks with every change. It decides nothing by itself;
//! the schedule comes from the test. The simulation of the relay includes this file as well.

use posthaste_core::{Position, SequenceState, Snapshot};

/// Names a transaction from its begin to its end.
pub(crate) type Handle = u64;

/// A committed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row<M> {
    pub(crate) position: Position,
    /// The writer's transaction.
    pub(crate) xid: u64,
    /// When the position was taken.
    pub(crate) taken_at: u64,
    /// When the transaction committed.
    pub(crate) committed_at: u64,
    /// What was written.
    pub(crate) body: M,
}

#[derive(Clone, Debug)]
struct Open<M> {
    handle: Handle,
    xid: Option<u64>,
    writes: Vec<(Position, u64, M)>,
}

/// What a crash cannot undo: everything up to the last synchronous commit.
#[derive(Clone, Copy, Debug)]
struct Durable {
    rows: usize,
    next_xid: u64,
    sequence: SequenceState,
}

/// Transactions, their messages and the log's sequence.
#[derive(Clone, Debug)]
pub(crate) struct Database<M> {
    clock: u64,
    next_handle: Handle,
    next_xid: u64,
    latest_completed: u64,
    sequence: SequenceState,
    open: Vec<Open<M>>,
    /// In commit order.
    rows: Vec<Row<M>>,
    durable: Durable,
}

impl<M: Clone> Database<M> {
    /// An empty database whose next transaction gets the id `first_xid` (at least 3).
    pub(crate) fn new(first_xid: u64) -> Self {
        let sequence = SequenceState { last_value: 1, is_called: false };
        Self {
            clock: 0,
            next_handle: 0,
            next_xid: first_xid,
            latest_completed: first_xid - 1,
            sequence,
            open: Vec::new(),
            rows: Vec::new(),
            durable: Durable { rows: 0, next_xid: first_xid, sequence },
        }
    }

    /// Begins a transaction, which has no id yet.
    pub(crate) fn begin(&mut self) -> Handle {
        self.next_handle += 1;
        self.open.push(Open { handle: self.next_handle, xid: None, writes: Vec::new() });
        self.next_handle
    }

    /// Gives a transaction its id, if it has none: any write, to whatever table.
    pub(crate) fn take_xid(&mut self, handle: Handle) -> Option<u64> {
        let nth = self.open.iter().position(|open| open.handle == handle)?;
        let next = self.next_xid;
        let xid = *self.open[nth].xid.get_or_insert(next);
        self.next_xid = self.next_xid.max(xid + 1);
        Some(xid)
    }

    /// Enqueues: takes the id first, then the position, as the order of the columns makes it.
    pub(crate) fn enqueue(&mut self, handle: Handle, body: M) -> Option<Position> {
        self.take_xid(handle)?;
        self.clock += 1;
        let position = match self.sequence {
            SequenceState { last_value, is_called: true } => last_value + 1,
            SequenceState { last_value, is_called: false } => last_value,
        };
        self.sequence = SequenceState { last_value: position, is_called: true };
        let clock = self.clock;
        let open = self.open.iter_mut().find(|open| open.handle == handle)?;
        open.writes.push((position, clock, body));
        Some(position)
    }

    /// Commits; `None` when a crash has ended the transaction before.
    pub(crate) fn commit(&mut self, handle: Handle) -> Option<()> {
        let open = self.end(handle)?;
        let committed_at = self.clock;
        if let Some(xid) = open.xid {
            self.rows.extend(open.writes.into_iter().map(|(position, taken_at, body)| Row {
                position,
                xid,
                taken_at,
                committed_at,
                body,
            }));
        }
        Some(())
    }

    /// Rolls back.
    pub(crate) fn abort(&mut self, handle: Handle) -> Option<()> {
        self.end(handle).map(drop)
    }

    fn end(&mut self, handle: Handle) -> Option<Open<M>> {
        let nth = self.open.iter().position(|open| open.handle == handle)?;
        let open = self.open.remove(nth);
        self.clock += 1;
        self.latest_completed = self.latest_completed.max(open.xid.unwrap_or_default());
        Some(open)
    }

    /// A transaction of other traffic that takes an id and ends at once.
    pub(crate) fn burn_xid(&mut self) -> u64 {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.latest_completed = self.latest_completed.max(xid);
        xid
    }

    /// A snapshot as PostgreSQL takes it: a running transaction whose id is not below `xmax`, one
    /// more than the latest *completed* id, is not listed.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let xmax = self.latest_completed + 1;
        let running = self.open.iter().filter_map(|open| open.xid);
        let xip: Vec<u64> = running.filter(|xid| *xid < xmax).collect();
        let xmin = xip.iter().copied().min().unwrap_or(xmax);
        Snapshot::new(xmin, xmax, xip).expect("the model's snapshots are well formed")
    }

    /// `last_value, is_called` of the log's sequence.
    pub(crate) const fn sequence(&self) -> SequenceState {
        self.sequence
    }

    /// Makes everything that has committed durable: a synchronous commit.
    pub(crate) fn sync(&mut self) {
        self.durable =
            Durable { rows: self.rows.len(), next_xid: self.next_xid, sequence: self.sequence };
    }

    /// A crash and the recovery from it: open transactions end, what was not durable never was,
    /// ids and positions that left no trace are handed out again (`skipped` positions are lost,
    /// since a sequence is logged ahead). Returns the messages that are gone.
    pub(crate) fn crash(&mut self, skipped: i64) -> Vec<Row<M>> {
        self.clock += 1;
        self.open.clear();
        self.next_xid = self.durable.next_xid;
        self.latest_completed = self.next_xid - 1;
        self.sequence = self.durable.sequence;
        if self.sequence.is_called {
            self.sequence.last_value += skipped;
        }
        let lost = self.rows.split_off(self.durable.rows);
        self.sync();
        lost
    }

    /// Transactions that have begun and not ended.
    #[allow(dead_code, reason = "the simulation's writers know their own")]
    pub(crate) fn open(&self) -> impl ExactSizeIterator<Item = Handle> + '_ {
        self.open.iter().map(|open| open.handle)
    }

    /// Committed messages in commit order.
    pub(crate) fn rows(&self) -> &[Row<M>] {
        &self.rows
    }
}
