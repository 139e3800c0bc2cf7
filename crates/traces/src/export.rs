//! Sends spans to the collector: in batches, with limits on time and tries.

use std::time::Duration;

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::InstrumentationScope,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use posthaste_core::Backoff;
use prost::Message as _;
use tokio::time::{sleep, timeout};

use crate::{Exporter, client::ExportError, span::text};

/// Spans of one request.
const BATCH_SPANS: usize = 512;
/// How long spans are collected before they are sent, unless a batch is full.
const INTERVAL: Duration = Duration::from_secs(1);
/// Looks at how many have come, meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Tries of one batch: with the back-off below, about half a minute.
const TRIES_MAX: u32 = 6;
const BACKOFF: Backoff = Backoff { initial: Duration::from_secs(1), cap: Duration::from_secs(30) };

impl Exporter {
    /// Exports until `shutdown` completes, then what is left, within the time-out.
    ///
    /// # Cancel safety
    /// Dropping it loses the spans that were not exported, and nothing else.
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send) {
        let mut batch = Vec::new();
        tokio::select! {
            () = shutdown => {}
            () = self.export(&mut batch) => {}
        }
        let flushed = timeout(self.timeout, self.flush(&mut batch)).await;
        let left = batch.len() + self.queue.len();
        if left > 0 {
            self.queue.meter().dropped(left as u64);
            let reason = match flushed {
                Ok(Err(error)) => error.to_string(),
                _ => format!("no answer within {:?}", self.timeout),
            };
            tracing::warn!(spans = left, "the last spans were not exported: {reason}");
        }
    }

    /// Never returns. What is on its way stands in `batch`, so that it is not lost with this future.
    async fn export(&self, batch: &mut Vec<Span>) {
        let mut is_away = false;
        loop {
            self.collect().await;
            *batch = self.queue.take(BATCH_SPANS);
            let mut tries = 0;
            while !batch.is_empty() {
                let Err(error) = self.send(batch).await else {
                    if std::mem::take(&mut is_away) {
                        tracing::info!("traces are exported again");
                    }
                    break;
                };
                self.queue.meter().failed();
                tries += 1;
                if !std::mem::replace(&mut is_away, true) {
                    tracing::warn!(collector = self.client.describe(), "export traces: {error}");
                }
                if !error.is_transient() || tries == TRIES_MAX {
                    self.queue.meter().dropped(batch.len() as u64);
                    batch.clear();
                    break;
                }
                sleep(BACKOFF.delay(tries, rand::random())).await;
            }
        }
    }

    /// Waits until a batch is full, or something has waited for the interval.
    async fn collect(&self) {
        if self.queue.len() == 0 {
            self.queue.filled().await;
        }
        let mut looks = INTERVAL.as_millis() / LOOK_INTERVAL.as_millis();
        while looks > 0 && self.queue.len() < BATCH_SPANS {
            sleep(LOOK_INTERVAL).await;
            looks -= 1;
        }
    }

    /// Exports all that is left, each batch once.
    async fn flush(&self, batch: &mut Vec<Span>) -> Result<(), ExportError> {
        loop {
            if batch.is_empty() {
                *batch = self.queue.take(BATCH_SPANS);
            }
            if batch.is_empty() {
                return Ok(());
            }
            self.send(batch).await?;
        }
    }

    /// Sends a batch, and empties it when the collector has taken it.
    async fn send(&self, batch: &mut Vec<Span>) -> Result<(), ExportError> {
        let body = request(&self.service_name, batch).encode_to_vec();
        self.client.post(body).await?;
        self.queue.meter().exported(batch.len());
        batch.clear();
        Ok(())
    }
}

fn request(service_name: &str, spans: &[Span]) -> ExportTraceServiceRequest {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let scope =
        InstrumentationScope { name: "posthaste".to_owned(), version, ..Default::default() };
    let scope_spans =
        vec![ScopeSpans { scope: Some(scope), spans: spans.to_vec(), ..Default::default() }];
    let attributes = vec![
        text("service.name", service_name),
        text("service.instance.id", &std::process::id().to_string()),
    ];
    let resource = Some(Resource { attributes, ..Default::default() });
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource, scope_spans, ..Default::default() }],
    }
}
