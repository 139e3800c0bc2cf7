//! What the server asks of the relay and the workers beside it, which it does not know. The CLI answers.

use std::time::Duration;

use serde_json::Value;

/// The parts of the process beside the server. Nothing here asks a database or a sink.
pub trait Parts: Send + Sync + 'static {
    /// Every metric of theirs, in Prometheus' text format 0.0.4; `None` where they are served elsewhere.
    fn metrics(&self) -> Option<String> {
        None
    }

    /// Whether they are worth keeping.
    fn is_alive(&self) -> bool {
        true
    }

    /// Whether they are all at work, and the particulars: an object.
    fn readiness(&self) -> (bool, Value) {
        (true, Value::Object(serde_json::Map::new()))
    }

    /// The relay, if one runs here.
    fn relay(&self) -> Option<RelayPart> {
        None
    }
}

/// A relay that runs in this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayPart {
    /// Whether it has not ended.
    pub is_alive: bool,
    /// Its longest pause between looks at the log.
    pub poll_interval: Duration,
    /// Messages that sinks have accepted since it began.
    pub processed: u64,
    /// Times that a sink has rejected a message since then.
    pub failed: u64,
    /// The last failure that is not over, without secrets and payloads.
    pub last_error: Option<String>,
}

/// Nothing beside the server.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoParts;

impl Parts for NoParts {}
