//! Scheduled messages: moved into the log once they are due.

use std::time::Duration;

use super::{jobs, session::Scope};
use crate::{Moved, Result};

/// Whether something is due, and how long until the next message is: probes of (`deliver_at`, n).
pub(super) fn look(scope: &Scope<'_>) -> Result<(bool, Option<Duration>)> {
    let now = scope.now_micros()?;
    let due = "select 1 from @schema@_scheduled where deliver_at <= ?1 limit 1";
    let is_due = scope.first(due, [now], |_| Ok(()))?.is_some();
    let next = "select min(deliver_at) - ?1 from @schema@_scheduled where deliver_at > ?1";
    let wait: Option<i64> = scope.first(next, [now], |row| row.get(0))?.flatten();
    Ok((is_due, wait.map(|micros| Duration::from_micros(micros.unsigned_abs()))))
}

/// Moves due messages, at most `limit`, in the order in which they are due. In one transaction: a
/// message is among the scheduled ones or in the log at any moment.
pub(super) fn move_due(scope: &Scope<'_>, limit: u32) -> Result<Moved> {
    let now = scope.now_micros()?;
    let due = "from @schema@_scheduled where deliver_at <= ?1 order by deliver_at, n limit ?2";
    let columns = "id, topic, key, payload, content_type, headers, correlation_id";
    let newest = "select coalesce(max(position), 0) from @schema@_log";
    let before = scope.first(newest, [], |row| row.get::<_, i64>(0))?.unwrap_or_default();
    let insert = format!("insert into @schema@_log ({columns}) select {columns} {due}");
    let count = scope.run(&insert, (now, limit))? as u64;
    if count > 0 {
        jobs::note_moved(scope, before)?;
    }
    // The same rows: nobody else writes in between.
    scope.run(
        &format!("delete from @schema@_scheduled where n in (select n {due})"),
        (now, limit),
    )?;
    let (_, next_in) = look(scope)?;
    let next_in = if count == u64::from(limit) { Some(Duration::ZERO) } else { next_in };
    Ok(Moved { count, next_in })
}
