//! How much room the log's rows take, known without reading them again for every sweep.
//!
//! SQLite shares its file with the application, so the file's size says nothing of the log's; and
//! adding up all rows walks the whole log. So each row is measured once per process, in stretches
//! of neighbours, and forgotten when it is deleted.

use std::collections::VecDeque;

use posthaste_core::Position;

use super::session::Scope;
use crate::{LogSize, Pin, Result};

/// Rows that one call measures: a few milliseconds.
const MEASURED_ROWS: i64 = 10_000;

/// Bytes from which on a stretch takes no more rows: how exactly the log keeps to its size, at 16
/// bytes of memory for each.
const STRETCH_BYTES: u64 = 256 << 10;

/// The bytes of one row: its fields and what the b-tree and the index on ids add to them.
const ROW_BYTES: &str = "length(payload) + length(headers) + length(topic) + \
                         length(coalesce(key, '')) + length(content_type) + 64";

/// Sizes of the rows, by stretches that follow each other.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    stretches: VecDeque<Stretch>,
}

/// Neighbours: those above the stretch before, up to `through`.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    through: Position,
    bytes: u64,
}

impl Sizes {
    /// Measures rows that came since the last call; answers whether there may be more.
    pub(super) fn learn(&mut self, scope: &Scope<'_>) -> Result<bool> {
        let oldest = "select coalesce(min(position), 9223372036854775807) from @schema@_log";
        let oldest: Position = scope.first(oldest, [], |row| row.get(0))?.unwrap_or(Position::MAX);
        while self.stretches.front().is_some_and(|stretch| stretch.through < oldest) {
            self.stretches.pop_front();
        }
        let known = self.stretches.back().map_or(0, |stretch| stretch.through);
        // Walks the primary key; of a payload only its length is read.
        let sql = format!(
            "select position, {ROW_BYTES} from @schema@_log where position > ?1 \
             order by position limit ?2"
        );
        let mut statement = scope.prepare(&sql)?;
        let mut rows = statement.query((known, MEASURED_ROWS))?;
        let mut measured = 0;
        while let Some(row) = rows.next()? {
            self.add(row.get(0)?, row.get::<_, i64>(1)?.cast_unsigned());
            measured += 1;
        }
        Ok(measured == MEASURED_ROWS)
    }

    fn add(&mut self, position: Position, bytes: u64) {
        match self.stretches.back_mut().filter(|last| last.bytes < STRETCH_BYTES) {
            Some(last) => {
                last.through = position;
                last.bytes += bytes;
            }
            None => self.stretches.push_back(Stretch { through: position, bytes }),
        }
    }

    /// Bytes of all rows; of a stretch that is half deleted, all of it.
    pub(super) fn total(&self) -> u64 {
        self.stretches.iter().map(|stretch| stretch.bytes).sum()
    }

    /// Up to which position rows have to go for at most `bytes_max` to stay.
    pub(super) fn excess_through(&self, bytes_max: u64) -> Option<Position> {
        let mut over = self.total().checked_sub(bytes_max).filter(|over| *over > 0)?;
        let is_enough = |stretch: &&Stretch| {
            over = over.saturating_sub(stretch.bytes);
            over == 0
        };
        self.stretches.iter().find(is_enough).map(|stretch| stretch.through)
    }
}

/// Messages and bytes of the log by one walk, for people.
pub(super) fn count(scope: &Scope<'_>) -> Result<(u64, u64)> {
    let sql = format!("select count(*), coalesce(sum({ROW_BYTES}), 0) from @schema@_log");
    let both = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
    let (messages, bytes) = scope.first(&sql, [], both)?.unwrap_or_default();
    Ok((messages.cast_unsigned(), bytes.cast_unsigned()))
}

/// The room that the log takes and, where that is too much, why.
pub(super) fn size(scope: &Scope<'_>, bytes: u64, bytes_max: Option<u64>) -> Result<LogSize> {
    let mut size = LogSize { bytes, bytes_max, pin: None };
    if size.over() > 0 {
        size.pin = pin(scope)?;
    }
    Ok(size)
}

/// What keeps the oldest message; `None` when the next sweep may delete it.
pub(super) fn pin(scope: &Scope<'_>) -> Result<Option<Pin>> {
    let sql = "select through, name, is_key from ( \
                 select r.through, s.name, false as is_key from @schema@_settled r \
                 join @schema@_subscription s on s.id = r.subscription \
                 union all select k.through, s.name, true from @schema@_parked_key k \
                 join @schema@_subscription s on s.id = k.subscription) \
               order by through, name, is_key limit 1";
    let furthest_behind = scope.first(sql, [], |row| {
        Ok((row.get::<_, Position>(0)?, row.get::<_, String>(1)?, row.get::<_, bool>(2)?))
    })?;
    let Some((through, name, is_key)) = furthest_behind else { return Ok(Some(Pin::Unread)) };
    let sql = "select min(position) from @schema@_log";
    let oldest: Option<Position> = scope.first(sql, [], |row| row.get(0))?.flatten();
    let is_needed = oldest.is_some_and(|oldest| oldest > through);
    Ok(is_needed.then_some(if is_key { Pin::ParkedKey(name) } else { Pin::Subscription(name) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excess_ends_with_the_stretch_that_makes_room_enough() {
        let stretch = |through| Stretch { through, bytes: 100 };
        let sizes = Sizes { stretches: [10, 20, 30].map(stretch).into() };
        let through = [300, 299, 200, 199, 0].map(|max| sizes.excess_through(max));
        assert_eq!(through, [None, Some(10), Some(10), Some(20), Some(30)]);
        assert_eq!(Sizes::default().excess_through(0), None);
    }
}
