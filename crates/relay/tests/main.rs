//! Integration tests of the relay, one binary: real servers, a fresh database each.
#![allow(clippy::unwrap_used, missing_docs)]

mod contracts;
mod disk;
mod failures;
mod history;
mod pipeline;
mod simulation;
mod sinks;
mod telemetry;
mod traces;
