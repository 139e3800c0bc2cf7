//! Property tests of the pure parts: every rule is driven over random schedules and compared with
//! a model that knows the truth. Broken variants of the rules stand beside them, so that each
//! check has been seen to fail.
#![allow(clippy::unwrap_used, missing_docs)]

#[cfg(feature = "contracts")]
mod contract;
mod look;
mod machines;
mod model;
mod names;
mod page;
mod paging;
mod place;
mod ring;
mod schedule;
mod snapshot;
mod windows;
