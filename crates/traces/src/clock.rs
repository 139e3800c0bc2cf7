//! The only place here that reads the wall clock: when spans began.

use std::time::SystemTime;

/// Nanoseconds since 1970 by this machine's clock. For display only: how long a span took is measured by another one.
#[expect(clippy::disallowed_methods, reason = "this is the module that may")]
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
