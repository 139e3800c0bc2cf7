//! The only place in the relay that reads the wall clock, and how times are written for people.

use std::time::SystemTime;

use posthaste_core::Timestamp;

/// The wall clock of this machine. For display and lag figures only: no decision about leases
/// or order rests on it.
#[expect(clippy::disallowed_methods, reason = "this is the module that may")]
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// RFC 3339 in UTC with microseconds, for example `2026-01-02T03:04:05.000006Z`.
pub fn rfc3339(at: Timestamp) -> String {
    let instant = jiff::Timestamp::from_microsecond(at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{instant:.6}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_with_microseconds() {
        assert_eq!(rfc3339(Timestamp(1_767_323_045_000_006)), "2026-01-02T03:04:05.000006Z");
    }
}
