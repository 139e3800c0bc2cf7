//! Traces: spans of what the relay publishes, exported to an OpenTelemetry collector (OTLP over
//! HTTP).
//!
//! A message carries its writer's trace context in the headers `traceparent` and `tracestate`
//! (<https://www.w3.org/TR/trace-context/>), which go to the sink as they are. Where a writer's trace
//! is sampled, each try of its message becomes a span below the writer's, and each try of a batch
//! that holds such a message one span with links to them. Nothing else pays: without an exporter
//! nothing is looked at, and a message that is not sampled costs a look at its headers.
//!
//! `context` reads headers, `spans` builds spans, `queue` bounds them, `export` sends them through
//! `client`. The pipelines only ever add to the queue, and never wait for it.

mod client;
mod context;
mod export;
mod queue;
mod spans;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use secrecy::SecretString;

use self::{client::Client, queue::Queue};
pub(crate) use self::{queue::TraceMeter, spans::Attempt};

/// Where spans go, and the limits on the way.
#[derive(Clone, Debug)]
pub struct TraceSettings {
    /// The collector's URL, `http://host:4318`; `/v1/traces` is added unless it ends with that.
    pub endpoint: String,
    /// What the collector calls this service (`service.name`).
    pub service_name: String,
    /// Headers of each request; their values may be secrets.
    pub headers: Vec<(String, SecretString)>,
    /// PEM file with the certificate authorities to trust, instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Longest wait for the collector's answer, and for the last spans at the end.
    pub timeout: Duration,
    /// Spans that may wait to be exported; those beyond it are dropped and counted.
    pub queue_spans: usize,
}

/// Settings that cannot be used: names the value and the remedy.
#[derive(Debug)]
pub struct TraceSettingsError(String);

impl fmt::Display for TraceSettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TraceSettingsError {}

/// What pipelines tell of their tries; clones share the queue.
#[derive(Clone, Debug)]
pub struct Tracer {
    queue: Arc<Queue>,
}

/// Sends what a [`Tracer`] collects. Owned by one task.
#[derive(Debug)]
pub struct Exporter {
    queue: Arc<Queue>,
    client: Client,
    service_name: String,
    timeout: Duration,
}

/// A tracer for relays and its exporter. Connects to nobody yet.
///
/// # Errors
/// For an endpoint, a header or a CA file that does not hold up.
pub fn start(settings: &TraceSettings) -> Result<(Tracer, Exporter), TraceSettingsError> {
    let client = Client::new(settings).map_err(TraceSettingsError)?;
    let queue = Arc::new(Queue::new(settings.queue_spans));
    let (service_name, timeout) = (settings.service_name.clone(), settings.timeout);
    let exporter = Exporter { queue: Arc::clone(&queue), client, service_name, timeout };
    Ok((Tracer { queue }, exporter))
}

impl Tracer {
    /// Notes a try of a batch, if a message of it is sampled. Never waits.
    pub(crate) fn attempted(&self, attempt: &Attempt<'_>) {
        self.queue.add(|room| spans::of(attempt, room));
    }

    pub(crate) fn meter(&self) -> &TraceMeter {
        self.queue.meter()
    }
}
