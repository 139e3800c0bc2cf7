//! The randomness of the pauses before retries.

use std::cell::RefCell;

use rand::{Rng, SeedableRng as _, rngs::SmallRng};

thread_local! {
    static DICE: RefCell<SmallRng> = RefCell::new(SmallRng::from_os_rng());
}

/// A draw from `0.0..1.0`, for [`posthaste_core::Backoff::delay`].
pub(crate) fn jitter() -> f64 {
    DICE.with_borrow_mut(Rng::random)
}

/// Seeds what this thread draws from now on, so that a relay on one thread repeats its history.
#[doc(hidden)]
pub fn seed_jitter(seed: u64) {
    DICE.set(SmallRng::seed_from_u64(seed));
}
