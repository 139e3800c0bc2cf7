//! Live streams: messages straight from the log, for clients that say themselves how far they have come.
//!
//! One [hub] reads the log for all who are at its end; a [follower] that is behind reads by itself until it has come
//! up to the hub. An event's id is a place in the log ([`Place`]), so that whoever comes again with the last one goes
//! on there: on any server of the log, after any restart, with nothing left out and nothing twice. A message of a
//! transaction that committed late comes late, and once.
//!
//! Nothing here waits for a client: what one does not take within its bounds ends its stream, and it comes again.

mod follower;
mod frame;
mod hub;
mod open;
#[cfg(test)]
mod tests;

use std::{convert::Infallible, sync::Arc, time::Duration};

use posthaste_core::{Place, Timestamp, TopicFilter};
use posthaste_store::{Store, StoreError};

pub(crate) use self::{follower::Follower, open::Entry};
use self::{hub::Hub, open::Open};
use crate::{clock, telemetry::StreamMeter};

/// What a client wants to see.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) topics: TopicFilter,
    /// Messages with this ordering key alone.
    pub(crate) key: Option<String>,
    pub(crate) with_payloads: bool,
    pub(crate) from: From,
}

/// Where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// At what commits from now on.
    Now,
    /// At the oldest message that the log still has.
    Beginning,
    /// At the last tick before this time: at the messages that were committed from then on, or a little earlier.
    Since(Timestamp),
    /// Behind the event with this id.
    Behind(Place),
}

impl From {
    /// Reads `now`, `beginning`, a time in RFC 3339, or the id of an event.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "now" => Some(Self::Now),
            "beginning" => Some(Self::Beginning),
            text => match clock::read(text) {
                Some(time) => Some(Self::Since(time)),
                None => frame::place_of(text).map(Self::Behind),
            },
        }
    }
}

/// Why a stream does not begin.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The log does not have all that follows any more.
    #[error("the log no longer holds all that follows: {0}")]
    Gone(String),
    /// The id is of another log, or of a state of it that was restored away.
    #[error("the event is none of this log")]
    Unknown(#[source] StoreError),
    /// The database.
    #[error(transparent)]
    Store(StoreError),
}

/// How much, how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamSettings {
    /// Between two looks at the log while messages come.
    pub(crate) busy: Duration,
    /// While none do.
    pub(crate) idle: Duration,
    /// Between two marks of how far a client has come.
    pub(crate) mark: Duration,
    /// Events that wait for one client.
    pub(crate) events_max: usize,
    /// Their bytes; one event may be longer.
    pub(crate) bytes_max: usize,
    /// Clients that read by themselves at once; others wait for their turn.
    pub(crate) readers: usize,
    /// Streams of all callers, and of one.
    pub(crate) open_max: usize,
    pub(crate) open_per_caller_max: usize,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            busy: Duration::from_millis(5),
            idle: Duration::from_millis(25),
            mark: Duration::from_secs(15),
            events_max: 1_024,
            bytes_max: 4 << 20,
            readers: 4,
            open_max: 5_000,
            open_per_caller_max: 2_000,
        }
    }
}

/// All streams of one log.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    hub: Arc<Hub>,
    open: Arc<Open>,
}

impl Streams {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        settings: StreamSettings,
        meter: Arc<StreamMeter>,
    ) -> Self {
        let open = Open::new(settings.open_max, settings.open_per_caller_max, Arc::clone(&meter));
        Self { hub: Arc::new(Hub::new(store, settings, meter)), open: Arc::new(open) }
    }

    /// Reads for all clients, until it is dropped; at rest while there are none.
    pub(crate) async fn run(&self) -> Infallible {
        self.hub.run().await
    }

    /// A place for one stream more of this caller, if there is one.
    pub(crate) fn enter(&self, caller: &Arc<str>) -> Option<Entry> {
        self.open.enter(caller)
    }

    /// Ends all streams: their clients come again.
    pub(crate) fn end(&self) {
        self.hub.end();
    }

    /// Begins a stream.
    pub(crate) async fn follow(&self, wish: Wish) -> Result<Follower, StreamError> {
        Follower::begin(Arc::clone(&self.hub), wish).await
    }
}
