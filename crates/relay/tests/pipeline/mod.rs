//! The pipeline end to end: from committed messages to a sink and a settled place.

mod delivery;
pub(crate) mod support;
