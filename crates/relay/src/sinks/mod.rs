//! The sinks, one file each, and the registry that lists them.

mod body;
mod bullmq;
pub mod local;
mod outcomes;
mod redis_list;
mod redis_pubsub;
mod redis_script;
mod redis_stream;
pub mod stdout;

use crate::sink::SinkKind;

/// Every kind of sink that this build knows.
pub const KINDS: &[SinkKind] = &[
    bullmq::KIND,
    local::KIND,
    redis_list::KIND,
    redis_pubsub::KIND,
    redis_stream::KIND,
    stdout::KIND,
];

/// Looks a kind up by its name.
pub fn find(name: &str) -> Option<&'static SinkKind> {
    KINDS.iter().find(|kind| kind.name == name)
}
