//! Deletes what nobody needs any more, in small transactions: writers wait for one chunk at most.
//!
//! Each function deletes one chunk and answers how many rows it deleted; the store calls it
//! again until nothing is left.

use std::time::Duration;

use posthaste_core::{Place, Position};

use super::{session::Scope, ticks};
use crate::{Result, StoreErrorKind};

/// Rows a transaction deletes at most: a few milliseconds of the write lock for small messages,
/// and at most 64,000 pages for messages of 256 KiB.
pub(super) const CHUNK: usize = 1_000;

/// Ticks and progress rows kept behind the newest, as many as the rings of the PostgreSQL store
/// hold. Beyond it `published_at` becomes coarser and a place that a sink held can be too old.
const HISTORY: i64 = 8 * 32_768;

/// Deletes messages that every subscription has settled and that are older than `retention`, or too
/// many: up to the position `excess`. Without subscriptions nothing is settled, and a parked key
/// waits at a place of its own. Looks only at the oldest `CHUNK` positions, in the order of the
/// primary key.
pub(super) fn messages(scope: &Scope<'_>, retention: Duration, excess: Position) -> Result<usize> {
    let until = before(scope, retention)?;
    let deleted: Vec<Position> = scope.all(
        "delete from @schema@_log where position in ( \
           select position from ( \
             select position, enqueued_at from @schema@_log \
             where position <= (select min(through) from ( \
               select through from @schema@_settled \
               union all select through from @schema@_parked_key)) \
             order by position limit ?1) \
           where enqueued_at <= ?2 or position <= ?3) returning position",
        (CHUNK as i64, until, excess),
        |row| row.get(0),
    )?;
    if let Some(last) = deleted.iter().max() {
        scope.run("update @schema@_meta set emptied = max(emptied, ?1)", [last])?;
    }
    Ok(deleted.len())
}

/// What was deleted of the messages behind a sink's place, for people.
pub(super) fn gone(scope: &Scope<'_>, mark: &Place) -> Result<Option<String>> {
    let passed = match mark.within {
        Some(within) => within.position,
        None => match ticks::find(scope, mark.base) {
            Ok(tick) => tick.position,
            Err(error) if error.kind() == StoreErrorKind::Rewound => {
                return Ok(Some(format!("tick {} is swept", mark.base.n)));
            }
            Err(error) => return Err(error),
        },
    };
    let sql = "select emptied from @schema@_meta";
    let last: Position = scope.first(sql, [], |row| row.get(0))?.unwrap_or(0);
    Ok((last > passed).then(|| format!("positions {} to {last} are deleted", passed + 1)))
}

/// Deletes ticks below every place: below the subscriptions' own, and below the last tick under
/// the oldest message, from which a sink that fell behind would be read again.
pub(super) fn ticks(scope: &Scope<'_>) -> Result<usize> {
    let settled: Option<i64> = scope
        .first(
            "select min(n) from ( \
               select coalesce((select p.base_tick from @schema@_progress p \
                                where p.subscription = s.id order by p.n desc limit 1), \
                               s.start_tick) as n \
               from @schema@_subscription s \
               union all select base_tick from @schema@_parked_key)",
            [],
            |row| row.get(0),
        )?
        .flatten();
    let Some(settled) = settled else { return Ok(0) };
    // Ticks ascend in n and position alike, so this walks the primary key over the ticks that go.
    let below_messages: Option<i64> = scope
        .first(
            "select coalesce( \
               (select n - 1 from @schema@_tick where position >= ?1 order by n limit 1), \
               (select max(n) from @schema@_tick))",
            [oldest_message(scope)?],
            |row| row.get(0),
        )?
        .flatten();
    scope.run(
        "delete from @schema@_tick where n in ( \
           select n from @schema@_tick \
           where n < min(?1, max(?2, (select max(n) from @schema@_tick) - ?3)) \
           order by n limit ?4)",
        (settled, below_messages.unwrap_or(0), HISTORY, CHUNK as i64),
    )
}

/// Deletes progress rows that date no message of the log, never the newest of a subscription.
/// Looks only at the oldest `CHUNK` rows: what can go stands there.
pub(super) fn progress(scope: &Scope<'_>) -> Result<usize> {
    let oldest = oldest_message(scope)?;
    scope.run(
        "delete from @schema@_progress where n in ( \
           select p.n from ( \
             select n, subscription, through from @schema@_progress order by n limit ?3) p \
           where (p.through < ?1 or p.n < (select max(n) from @schema@_progress) - ?2) \
             and p.n < (select max(q.n) from @schema@_progress q \
                        where q.subscription = p.subscription))",
        (oldest, HISTORY, CHUNK as i64),
    )
}

/// Deletes tokens that are older than `retention`, the oldest first (an index on their times).
pub(super) fn tokens(scope: &Scope<'_>, retention: Duration) -> Result<usize> {
    let until = before(scope, retention)?;
    scope.run(
        "delete from @schema@_token where token in ( \
           select token from @schema@_token where created_at <= ?2 order by created_at limit ?1)",
        (CHUNK as i64, until),
    )
}

/// Forgets handled messages that are older than `retention`, the oldest first (an index on their
/// times).
pub(super) fn inbox(scope: &Scope<'_>, retention: Duration) -> Result<usize> {
    let until = before(scope, retention)?;
    scope.run(
        "delete from @schema@_inbox where (consumer, message_id) in ( \
           select consumer, message_id from @schema@_inbox where handled_at <= ?2 \
           order by handled_at limit ?1)",
        (CHUNK as i64, until),
    )
}

/// Forgets commands that are older than `retention`, the oldest first (an index on their times). One in
/// progress stays while its lease runs.
pub(super) fn commands(scope: &Scope<'_>, retention: Duration) -> Result<usize> {
    let (until, now) = (before(scope, retention)?, scope.now_micros()?);
    scope.run(
        "delete from @schema@_command where (scope, key) in ( \
           select scope, key from @schema@_command where created_at <= ?2 \
           and (response is not null or lease_until <= ?3) order by created_at limit ?1)",
        (CHUNK as i64, until, now),
    )
}

/// Deletes a chunk of the jobs that were over that long ago, with all that belongs to them.
pub(super) fn jobs(scope: &Scope<'_>, retention: Duration) -> Result<usize> {
    scope.run(
        "delete from @schema@_job where n in ( \
           select n from @schema@_job where finished_at <= ?2 order by finished_at limit ?1)",
        (CHUNK as i64, before(scope, retention)?),
    )
}

/// The time that lies `retention` back.
fn before(scope: &Scope<'_>, retention: Duration) -> Result<i64> {
    let retention = i64::try_from(retention.as_micros()).unwrap_or(i64::MAX);
    Ok(scope.now_micros()?.saturating_sub(retention))
}

/// The lowest position in the log, or one above every position while it is empty.
fn oldest_message(scope: &Scope<'_>) -> Result<Position> {
    let sql = "select min(position) from @schema@_log";
    let oldest: Option<Position> = scope.first(sql, [], |row| row.get(0))?.flatten();
    Ok(oldest.unwrap_or(i64::MAX))
}
