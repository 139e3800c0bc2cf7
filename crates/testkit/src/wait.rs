//! Waiting for a state, with a limit: no test result hangs on a sleep.

use std::thread;
use std::time::{Duration, Instant};

/// How often a state is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Waits until `is_so` answers true and blocks the thread meanwhile.
///
/// # Panics
///
/// When `limit` has passed: `what` then says which state never came.
#[track_caller]
pub fn eventually(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) {
    assert!(within(limit, &mut is_so), "never came within {limit:?}: {what}");
}

/// Waits until the future that `is_so` makes answers true.
///
/// # Panics
///
/// When `limit` has passed: `what` then says which state never came.
pub async fn eventually_async<F>(what: &str, limit: Duration, mut is_so: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let deadline = Instant::now() + limit;
    while !is_so().await {
        assert!(Instant::now() < deadline, "never came within {limit:?}: {what}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Whether `is_so` answered true before `limit` had passed.
pub(crate) fn within(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(POLL_INTERVAL);
    }
}
