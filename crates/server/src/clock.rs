//! The only place in the server that reads the wall clock, and how times are written and read.

use std::time::SystemTime;

use jiff::{
    SignedDuration,
    civil::{DateTime, date},
    fmt::temporal::Pieces,
};
use posthaste_core::Timestamp;

const EPOCH: DateTime = date(1970, 1, 1).at(0, 0, 0, 0);
/// The last moment that has four digits of a year.
const END: DateTime = date(9999, 12, 31).at(23, 59, 59, 999_999_999);
/// Of an offset from UTC (RFC 3339, section 5.6).
const OFFSET_SECONDS_MAX: i32 = 24 * 3_600 - 60;

/// The wall clock of this machine: for the expiry of tokens, which people set to the day.
#[expect(clippy::disallowed_methods, reason = "this is the module that may")]
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

/// RFC 3339 in UTC with microseconds, for example `2026-01-02T03:04:05.000006Z`.
pub(crate) fn rfc3339(at: Timestamp) -> String {
    // Of a zone's time there is none on the last day that there is.
    let since = EPOCH.checked_add(SignedDuration::from_micros(at.0));
    format!("{:.6}Z", since.unwrap_or(EPOCH))
}

/// A time in RFC 3339, with any offset: from 1970 to 9999, for no database knows all others.
pub(crate) fn read(text: &str) -> Option<Timestamp> {
    let pieces = Pieces::parse(text).ok()?;
    let offset = pieces.to_numeric_offset()?.seconds();
    if offset.abs() > OFFSET_SECONDS_MAX {
        return None;
    }
    let there = pieces.date().to_datetime(pieces.time()?);
    let since = there.duration_since(EPOCH) - SignedDuration::from_secs(offset.into());
    let at = i64::try_from(since.as_micros()).ok()?;
    (since >= SignedDuration::ZERO && at < END.duration_since(EPOCH).as_micros() as i64)
        .then_some(Timestamp(at))
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
        for last in ["9999-12-31T00:00:00.000000Z", "9999-12-31T23:59:59.999998Z"] {
            assert_eq!(read(last).map(rfc3339).as_deref(), Some(last));
        }
        assert_eq!(read("9999-12-31T23:59:59-01:00"), None);
        assert_eq!(read("1970-01-01T01:00:00+01:00"), Some(Timestamp(0)));
        for none in [
            "2026-01-02T03:04:05+25:00",
            "2026-01-02T03:04:05-24:00",
            "2026-01-02T03:04:05",
            "2026-01-02",
        ] {
            assert_eq!(read(none), None, "{none}");
        }
        for none in ["tomorrow", "1969-12-31T23:59:59Z", "-009000-01-01T00:00:00Z"] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
