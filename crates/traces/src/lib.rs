//! Traces: spans of what relay, worker and server do, exported to an OpenTelemetry collector (OTLP over HTTP).
//!
//! A message carries its writer's trace context in the headers `traceparent` and `tracestate`
//! (<https://www.w3.org/TR/trace-context/>), which go to the sink as they are. Where a writer's trace is sampled, each
//! try to publish its message and each attempt to handle it becomes a span below the writer's; a request of the API is
//! a writer. Nothing else pays: without an exporter nothing is looked at, and a message that is not sampled costs a look
//! at its headers.
//!
//! `context` reads headers, `span` is what a span is made of, `queue` bounds them, `export` sends them through `client`.
//! Whoever makes spans only ever adds to the queue, and never waits for it. A process has one queue and one exporter;
//! the relay's spans of batches are in the relay, the server's and the worker's with them.

mod client;
mod clock;
mod context;
mod export;
mod queue;
mod span;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use secrecy::SecretString;

use self::{client::Client, queue::Queue};
pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind;

pub use self::{
    context::Context,
    queue::{Built, SpanCounts},
    span::{
        Attribute, Begun, HAS_REMOTE, IS_REMOTE, SAMPLED, Told, number, random_span_id,
        random_trace_id, text,
    },
};

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
    /// Share of traces that are recorded, of those that begin here: from 0 to 1.
    pub sample_ratio: f64,
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

/// Where spans are handed in; clones share the queue.
#[derive(Clone, Debug)]
pub struct Tracer {
    queue: Arc<Queue>,
    sample_ratio: f64,
}

/// Sends what a [`Tracer`] collects. Owned by one task.
#[derive(Debug)]
pub struct Exporter {
    queue: Arc<Queue>,
    client: Client,
    service_name: String,
    timeout: Duration,
}

/// A tracer for all parts of a process, and its exporter. Connects to nobody yet.
///
/// # Errors
/// For an endpoint, a header or a CA file that does not hold up.
pub fn start(settings: &TraceSettings) -> Result<(Tracer, Exporter), TraceSettingsError> {
    let client = Client::new(settings).map_err(TraceSettingsError)?;
    let queue = Arc::new(Queue::new(settings.queue_spans));
    let (service_name, timeout) = (settings.service_name.clone(), settings.timeout);
    let exporter = Exporter { queue: Arc::clone(&queue), client, service_name, timeout };
    Ok((Tracer { queue, sample_ratio: settings.sample_ratio }, exporter))
}

impl Tracer {
    /// Hands in what `build` makes for the room that is left. Never waits.
    pub fn add(&self, build: impl FnOnce(usize) -> Built) {
        self.queue.add(build);
    }

    /// The first span of a trace, if that is recorded.
    pub fn root(&self) -> Option<Begun> {
        (rand::random::<f64>() < self.sample_ratio).then(Begun::root)
    }

    /// Ends a span. Nothing is made of `told` where there is no room.
    pub fn end(&self, begun: &Begun, told: impl FnOnce() -> Told) {
        self.queue.add(|room| {
            if room == 0 {
                return Built { spans: Vec::new(), dropped: 1 };
            }
            Built { spans: vec![begun.ended(told())], dropped: 0 }
        });
    }

    /// What became of spans so far.
    pub fn counts(&self) -> SpanCounts {
        self.queue.meter().read()
    }
}
