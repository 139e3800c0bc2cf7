//! Ticks and the windows between them.
//!
//! SQLite has one writer at a time, so positions are committed in ascending order, and a tick
//! that shows a position shows every lower one: the position plays the part of the transaction
//! id, and a window is a range of positions without a late part.

use std::sync::Arc;

use async_trait::async_trait;
use posthaste_core::{Position, Snapshot, Tick, TickRef, Timestamp, Window};
use rusqlite::Row;
use uuid::Uuid;

use super::{
    session::{Scope, Session},
    worker::Worker,
};
use crate::{Advance, Result, StoreError, StoreErrorKind, Ticker};

/// A tick as its row holds it: what it shows ends at `position`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoredTick {
    pub(super) at: TickRef,
    pub(super) position: Position,
}

impl StoredTick {
    pub(super) const BEGINNING: Self = Self { at: TickRef::BEGINNING, position: 0 };

    pub(super) fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let at = TickRef { n: row.get(0)?, id: Uuid::from_bytes(row.get(1)?) };
        Ok(Self { at, position: row.get(2)? })
    }

    fn tick(self) -> Tick {
        Tick { at: self.at, snapshot: Snapshot::through(self.position as u64) }
    }
}

/// Looks on the reader's connection, which waits for no lock, and ticks on the writer's.
#[derive(Debug)]
pub(super) struct SqliteTicker {
    pub(super) reader: Arc<Worker>,
    pub(super) writer: Arc<Worker>,
    /// What the last look found, if nothing was left to be ticked: the reader's data version and
    /// the newest tick. Until another commit changes the version, nothing can be new.
    pub(super) seen: Option<(i64, TickRef)>,
}

/// What a look found.
enum Found {
    Nothing { version: i64, newest: TickRef },
    Messages,
}

#[async_trait]
impl Ticker for SqliteTicker {
    async fn advance(&mut self) -> Result<Advance> {
        let seen = self.seen.take();
        match self.reader.call("look at the log", move |session| look(session, seen)).await? {
            Found::Nothing { version, newest } => {
                self.seen = Some((version, newest));
                Ok(Advance { tick: newest, window: None, busy: false })
            }
            Found::Messages => {
                let taken = self.writer.call("tick", |session| session.write(take)).await?;
                let (tick, window) = taken;
                let busy = window.is_some();
                Ok(Advance { tick: tick.at, window: window.map(Arc::new), busy })
            }
        }
    }
}

fn look(session: &mut Session, seen: Option<(i64, TickRef)>) -> Result<Found> {
    // Read before the log: a commit in between changes the version that the next look finds.
    let version = session.data_version()?;
    if let Some((_, newest)) = seen.filter(|(seen, _)| *seen == version) {
        return Ok(Found::Nothing { version, newest });
    }
    session.read(|scope| {
        let newest = newest(scope)?;
        let head = highest(scope, i64::MAX)?.unwrap_or(0);
        if head > newest.position {
            return Ok(Found::Messages);
        }
        Ok(Found::Nothing { version, newest: newest.at })
    })
}

/// Takes a tick if a message has been committed since the newest one. Under the write lock no
/// other transaction is open, so everything up to the highest position has ended; and the commit
/// that ends this transaction makes all of it durable before anybody reads the window (ATOMIC;
/// see `connection`).
pub(super) fn take(scope: &Scope<'_>) -> Result<(StoredTick, Option<Window>)> {
    let base = newest(scope)?;
    let Some(position) = highest(scope, i64::MAX)?.filter(|head| *head > base.position) else {
        return Ok((base, None));
    };
    let at = TickRef { n: base.at.n + 1, id: Uuid::new_v4() };
    scope.run(
        "insert into @schema@_tick (n, id, position) values (?1, ?2, ?3)",
        (at.n, at.id.as_bytes(), position),
    )?;
    let head = StoredTick { at, position };
    Ok((head, Some(between(scope, base, head)?)))
}

/// The window from `base` to `head`, or to the newest tick.
pub(super) fn window(
    scope: &Scope<'_>,
    base: TickRef,
    head: Option<TickRef>,
) -> Result<Option<Window>> {
    let base = find(scope, base)?;
    let head = match head {
        Some(head) => find(scope, head)?,
        None => newest(scope)?,
    };
    if head.at.n <= base.at.n {
        return Ok(None);
    }
    between(scope, base, head).map(Some)
}

fn between(scope: &Scope<'_>, base: StoredTick, head: StoredTick) -> Result<Window> {
    // Two seeks in the primary key; `min` and `max` in one statement would scan the range.
    let low = "select min(position) from @schema@_log where position > ?1";
    let low: Option<Position> = scope.first(low, [base.position], |row| row.get(0))?.flatten();
    let high = highest(scope, head.position)?;
    let main = low.zip(high).filter(|(low, high)| low <= high);
    Ok(Window { base: base.tick(), head: head.tick(), main, late: Vec::new() })
}

/// The tick that `at` names.
pub(super) fn find(scope: &Scope<'_>, at: TickRef) -> Result<StoredTick> {
    if at == TickRef::BEGINNING {
        return Ok(StoredTick::BEGINNING);
    }
    let sql = "select n, id, position from @schema@_tick where n = ?1";
    let stored = scope.first(sql, [at.n], StoredTick::from_row)?;
    match stored {
        Some(stored) if stored.at == at => Ok(stored),
        Some(stored) => Err(rewound(at, &format!("has the id {} here", stored.at.id))),
        None => Err(rewound(at, "is not here")),
    }
}

fn rewound(at: TickRef, fault: &str) -> StoreError {
    let doing = format!("tick {} with the id {} {fault}", at.n, at.id);
    StoreError::new(StoreErrorKind::Rewound, doing)
}

/// The newest tick; before the first one, the virtual tick 0.
pub(super) fn newest(scope: &Scope<'_>) -> Result<StoredTick> {
    let sql = "select n, id, position from @schema@_tick order by n desc limit 1";
    Ok(scope.first(sql, [], StoredTick::from_row)?.unwrap_or(StoredTick::BEGINNING))
}

/// The highest position in the log up to `bound`: one seek in the primary key.
fn highest(scope: &Scope<'_>, bound: Position) -> Result<Option<Position>> {
    let sql = "select max(position) from @schema@_log where position <= ?1";
    Ok(scope.first(sql, [bound], |row| row.get(0))?.flatten())
}

/// The newest tick before a time.
pub(super) fn before(scope: &Scope<'_>, time: Timestamp) -> Result<StoredTick> {
    let sql = "select n, id, position from @schema@_tick where at < ?1 order by n desc limit 1";
    let found = scope.first(sql, [time.0], StoredTick::from_row)?;
    Ok(found.unwrap_or(StoredTick::BEGINNING))
}
