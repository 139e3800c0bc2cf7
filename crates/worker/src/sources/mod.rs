//! The sources, one file each, and the registry that lists those on a server.

mod bullmq;
pub mod local;
mod redis_link;
mod redis_list;
mod redis_stream;
mod redis_tail;

use crate::source::SourceKind;

/// Every kind of source that this build can be configured with.
pub const KINDS: &[SourceKind] = &[bullmq::KIND, redis_list::KIND, redis_stream::KIND];

/// Looks a kind up by its name.
pub fn find(name: &str) -> Option<&'static SourceKind> {
    KINDS.iter().find(|kind| kind.name == name)
}
