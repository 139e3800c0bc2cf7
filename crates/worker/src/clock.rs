//! The only place in the worker that reads the wall clock, and how times are written for people.

use std::time::{Duration, SystemTime};

/// The time of this machine in RFC 3339, in UTC with microseconds. For display only.
#[expect(clippy::disallowed_methods, reason = "this is the module that may")]
pub(crate) fn now() -> String {
    let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or_default();
    format!("{now:.6}")
}

/// From now to a date as HTTP writes it (RFC 9110, section 5.6.7); zero if it has passed.
#[expect(clippy::disallowed_methods, reason = "this is the module that may")]
pub(crate) fn until(date: &str) -> Option<Duration> {
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()?;
    Some(SystemTime::from(date).duration_since(SystemTime::now()).unwrap_or_default())
}
