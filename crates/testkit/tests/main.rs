//! The testkit's own tests: servers keep their promises, and nothing is left behind however a
//! process ends.

// clippy.toml allows it in test functions only; here the functions beside them are tests too.
#![allow(clippy::unwrap_used)]

mod clock;
mod leftovers;
mod postgres;
mod proxy;
mod redis;
