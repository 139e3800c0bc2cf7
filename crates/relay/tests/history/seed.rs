//! The seed of a test's random choices, printed with the command that repeats it.

use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

const VARIABLE: &str = "POSTHASTE_SEED";

/// Drawn at random unless the environment gives one; printed when the test fails.
pub(crate) struct Seed {
    test: &'static str,
    value: u64,
}

impl Seed {
    /// The seed of the test with this path below `history`.
    pub(crate) fn of(test: &'static str) -> Self {
        let given = std::env::var(VARIABLE).ok();
        let value = match given {
            Some(text) => text.parse().expect("POSTHASTE_SEED is a number"),
            None => rand::rng().random(),
        };
        Self { test, value }
    }

    /// Independent choices for the `nth` writer.
    pub(crate) fn rng(&self, nth: u64) -> SmallRng {
        SmallRng::seed_from_u64(self.value ^ nth.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "seed {seed}; repeat with: {VARIABLE}={seed} cargo test -p posthaste-relay \
                 --test main history::{test}",
                seed = self.value,
                test = self.test
            );
        }
    }
}
