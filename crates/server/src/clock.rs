//! The only place in the server that reads the wall clock, and how times are written and read.

use std::time::SystemTime;

use posthaste_core::Timestamp;

/// The wall clock of this machine: for the expiry of tokens, which people set to the day.
#[expect(clippy::disallowed_methods, reason = "this is the module that may")]
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// RFC 3339 in UTC with microseconds, for example `2026-01-02T03:04:05.000006Z`.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    let instant = jiff::Timestamp::from_microsecond(at.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{instant:.6}")
}

/// A time in RFC 3339, with any offset: from 1970 to 9999, for no database knows all others.
pub(crate) fn read(text: &str) -> Option<Timestamp> {
    let instant: jiff::Timestamp = text.parse().ok()?;
    (instant >= jiff::Timestamp::UNIX_EPOCH).then(|| Timestamp(instant.as_microsecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written_and_with_offsets() {
        let at = Timestamp(1_767_323_045_000_006);
        assert_eq!(rfc3339(at), "2026-01-02T03:04:05.000006Z");
        assert_eq!(read(&rfc3339(at)), Some(at));
        assert_eq!(read("2026-01-02T05:04:05.000006+02:00"), Some(at));
        for none in ["tomorrow", "1969-12-31T23:59:59Z", "-009000-01-01T00:00:00Z"] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
