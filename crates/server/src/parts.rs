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

    /// The workers and listeners that run here.
    fn workers(&self) -> Vec<WorkerPart> {
        Vec::new()
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
    /// Batches that had to be tried again.
    pub retries: u64,
    /// Batches that sinks have answered.
    pub batches: u64,
    /// How long those answers took, together.
    pub answering: Duration,
    /// The last failure that is not over, without secrets and payloads.
    pub last_error: Option<String>,
    /// Where it publishes.
    pub sinks: Vec<SinkPart>,
}

/// Where a relay of this process publishes a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SinkPart {
    /// The subscription's name.
    pub subscription: String,
    /// Why nothing is published there for now, without secrets and payloads.
    pub problem: Option<String>,
}

/// A worker, or a listener, that runs in this process: what it has done since it began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerPart {
    /// Its name.
    pub name: String,
    /// Jobs and messages that were done.
    pub completed: u64,
    /// Attempts that failed and were worth another.
    pub failed: u64,
    /// Jobs that are dead.
    pub dead: u64,
    /// Jobs that waited for nothing and were published again.
    pub republished: u64,
    /// Checks that found something missing and put it there.
    pub mended: u64,
    /// Checks that failed.
    pub unmended: u64,
}

/// Nothing beside the server.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoParts;

impl Parts for NoParts {}
