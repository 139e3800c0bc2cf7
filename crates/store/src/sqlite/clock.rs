//! The clock of a file is its machine's, and may be set back.

use super::session::Scope;
use crate::Result;

/// What relays and owners wait for: columns that hold a time.
const WAITS: [(&str, &str); 11] = [
    ("subscription", "expires_at"),
    ("relay", "seen_at"),
    ("parked_key", "due"),
    ("parked_key", "parked_at"),
    ("failed_message", "due"),
    ("command", "lease_until"),
    ("worker", "lease_until"),
    ("incident", "claimed_until"),
    ("incident", "seen_at"),
    ("operation", "lease_until"),
    ("operation", "next_at"),
];

/// Notes the time, and answers it. Where the clock was set back, whatever waits for a time would wait
/// as much longer, for relays that are gone among others: all of it is moved back with the clock.
pub(super) fn look(scope: &Scope<'_>) -> Result<i64> {
    let now = scope.now_micros()?;
    let seen = scope.first("select seen_at from @schema@_meta", [], |row| row.get::<_, i64>(0))?;
    let back = seen.unwrap_or_default() - now;
    if back > 0 {
        for (table, column) in WAITS {
            let sql = format!(
                "update @schema@_{table} set {column} = {column} - ?1 where {column} is not null"
            );
            scope.run(&sql, [back])?;
        }
    }
    scope.run("update @schema@_meta set seen_at = ?1", [now])?;
    Ok(now)
}
