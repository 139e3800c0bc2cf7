//! How long to wait before the next attempt: exponential, capped, with full jitter.
//!
//! Full jitter is the variant that spreads competing retries best ("Exponential Backoff And
//! Jitter", AWS Architecture Blog).

use std::time::Duration;

/// The shape of a back-off. The caller supplies the randomness, so the result is a pure value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first wait.
    pub initial: Duration,
    /// No wait is longer.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_millis(100), cap: Duration::from_secs(10) }
    }
}

impl Backoff {
    /// The wait before attempt `attempt + 1` after `attempt` failures (counted from 1). `random`
    /// is uniform in `0.0..1.0`; the result is never below a tenth of its ceiling, so that a
    /// failing peer is not hammered by an unlucky draw.
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        let ceiling = self.initial.saturating_mul(1 << doublings).min(self.cap);
        ceiling.mul_f64(random.clamp(0.1, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_its_cap() {
        let backoff = Backoff::default();
        let ceilings: Vec<u128> =
            [1, 2, 3, 8, 40, u32::MAX].map(|n| backoff.delay(n, 1.0).as_millis()).to_vec();
        assert_eq!(ceilings, [100, 200, 400, 10_000, 10_000, 10_000]);
    }

    #[test]
    fn jitter_stays_between_a_tenth_and_the_ceiling() {
        let backoff = Backoff::default();
        assert_eq!(backoff.delay(2, 0.0), Duration::from_millis(20));
        assert_eq!(backoff.delay(2, 0.5), Duration::from_millis(100));
        assert_eq!(backoff.delay(2, 7.0), Duration::from_millis(200));
    }
}
