//! What the store says of a log that may have been restored, copied or exchanged.

use posthaste_core::Place;
use uuid::Uuid;

/// By which id sinks know the log that a subscription reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// The id: the log's own, or the one that the subscription was given when it was rebased.
    pub log: Uuid,
    /// It was rebased, and the sink's places have not been taken over since: they may be those of
    /// any log.
    pub adopts: bool,
}

/// What a rebase did, or would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rebased {
    /// Where the subscription stands: what lies before is settled.
    pub place: Place,
    /// Messages that the log holds behind it. What the sink already has of them comes again.
    pub pending: u64,
    /// Whether the log had been copied from another database: then every other subscription has
    /// to be rebased as well.
    pub was_copied: bool,
    /// Rows of the log whose transaction ids were rewritten.
    pub rewritten: u64,
}
