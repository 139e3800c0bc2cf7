//! Integration tests of the stores, in one binary.
//!
//! Every store runs the same cases ([`conformance`]); what only one of them promises is tested
//! beside its code.

// `allow-unwrap-in-tests` reaches test functions only, not the cases and harnesses they call.
#![allow(clippy::unwrap_used)]

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod conformance;
#[cfg(feature = "postgres")]
mod connections;
#[cfg(feature = "postgres")]
mod hazards;
mod preflight;
mod roles;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod taking;
