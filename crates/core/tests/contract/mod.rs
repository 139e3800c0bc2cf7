//! Contracts: what they refuse, what they say about it, and what never gets out of a payload.

mod check;
mod compat;
mod compile;
mod examples;
#[cfg(feature = "schemars")]
mod of;
mod pairs;
mod set;
mod types;
