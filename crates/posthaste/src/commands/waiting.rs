//! How long a twin waits between two looks at a request that is in progress. Never sleeps itself.

use std::time::{Duration, Instant};

use posthaste_core::Backoff;
use uuid::Uuid;

/// Looks cost the database a statement each; an answer is found at most half a second late.
const BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(10), cap: Duration::from_millis(500) };
/// As long as the longest lease.
const WAIT_MAX: Duration = Duration::from_hours(24);
/// The least that timers tell apart.
const PAUSE_MIN: Duration = Duration::from_millis(1);

/// The pauses of a twin that waits for a request in progress elsewhere: jittered, from 10 ms to
/// 500 ms, never beyond the lease or the time that it has.
///
/// For twins that give their connection back meanwhile, as those of a pool should: whoever executes
/// the request needs one to complete it. With a connection of its own, a twin calls
/// [`Commands::begin_or_wait`](crate::Commands).
///
/// # Examples
#[cfg_attr(feature = "deadpool-postgres", doc = "```no_run")]
#[cfg_attr(not(feature = "deadpool-postgres"), doc = "```text")]
/// # use std::{error::Error, time::Duration};
/// # use posthaste::{Begun, Command, Commands, Wait};
/// # async fn begin(pool: &deadpool_postgres::Pool, commands: &Commands, command: &Command) -> Result<Begun, Box<dyn Error>> {
/// let mut wait = Wait::at_most(Duration::from_secs(10));
/// loop {
///     let connection = pool.get().await?;
///     let begun = commands.begin(&connection, command, Duration::from_secs(60)).await?;
///     drop(connection);
///     let Begun::InProgress { lease_left } = begun else { return Ok(begun) };
///     let Some(pause) = wait.pause(lease_left) else { return Ok(begun) };
///     tokio::time::sleep(pause).await;
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Wait {
    until: Instant,
    looks: u32,
}

impl Wait {
    /// Waits so long from now, at most a day.
    pub fn at_most(wait: Duration) -> Self {
        Self { until: Instant::now() + wait.min(WAIT_MAX), looks: 0 }
    }

    /// How long to sleep before the request is begun again, after a
    /// [`Begun::InProgress`](crate::Begun) with this lease; nothing when the time is up.
    pub fn pause(&mut self, lease_left: Duration) -> Option<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        self.looks = self.looks.saturating_add(1);
        Some(BACKOFF.delay(self.looks, random()).min(lease_left.max(PAUSE_MIN)).min(left))
    }
}

/// Uniform in `0.0..1.0`.
fn random() -> f64 {
    let (bits, _) = Uuid::new_v4().as_u64_pair();
    // The version stands in the lower half of these.
    f64::from((bits >> 32) as u32) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    #[test]
    fn pauses_grow_from_10_ms_to_500_ms() {
        let mut wait = Wait::at_most(LONG);
        for ceiling_ms in [10, 20, 40, 80, 160, 320, 500, 500, 500] {
            let pause = wait.pause(LONG).unwrap();
            let ceiling = Duration::from_millis(ceiling_ms);
            assert!(pause <= ceiling && pause >= ceiling / 10, "{pause:?} of {ceiling:?}");
        }
    }

    #[test]
    fn pause_ends_with_the_lease_and_with_the_time() {
        let tiny = Duration::from_micros(1);
        assert_eq!(Wait::at_most(LONG).pause(tiny), Some(PAUSE_MIN));
        assert_eq!(Wait::at_most(Duration::ZERO).pause(LONG), None);
        let mut wait = Wait::at_most(LONG);
        wait.until = Instant::now();
        assert_eq!(wait.pause(LONG), None);
    }

    #[test]
    fn longest_wait_is_a_day() {
        let wait = Wait::at_most(Duration::MAX);
        assert!(wait.until <= Instant::now() + WAIT_MAX);
    }
}
