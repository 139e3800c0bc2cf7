//! The pipeline end to end: from committed messages to a sink and a settled place.

mod delivery;
mod scheduled;
pub(crate) mod support;
