//! Traces from the writer through the relay to a collector that takes OTLP over HTTP.

mod collector;

use std::{sync::Arc, time::Duration};

use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind};
use posthaste_core::Message;
use posthaste_relay::{
    Relay,
    telemetry::{
        Telemetry,
        traces::{self, TraceSettings},
    },
};
use posthaste_store::Store;
use posthaste_testkit::{Tls, eventually_async, exposition::Scrape};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle, time::timeout};

use self::collector::{Collector, attribute};
use crate::pipeline::support::{LIMIT, Running, receive, relay_to_local, sqlite_store};

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN_ID: &str = "b7ad6b7169203331";
/// As Jaeger and others keep their own things in it; no sink and no span may lose a byte of it.
const STATE: &str = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";

fn settings(endpoint: &str) -> TraceSettings {
    TraceSettings {
        endpoint: endpoint.to_owned(),
        service_name: "shop-relay".to_owned(),
        headers: vec![("authorization".to_owned(), "Bearer token".into())],
        ca_file: None,
        timeout: Duration::from_secs(5),
        queue_spans: 1_000,
        sample_ratio: 1.0,
    }
}

/// An exporter that runs as a task until it is ended.
struct Exporting {
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporting {
    fn start(settings: &TraceSettings, relay: Relay) -> (Relay, Self) {
        let (tracer, exporter) = traces::start(settings).unwrap();
        let (end, ended) = oneshot::channel::<()>();
        let task = tokio::spawn(exporter.run(async move {
            let _ = ended.await;
        }));
        (relay.traced(tracer), Self { end, task })
    }

    async fn end(self) {
        drop(self.end);
        timeout(LIMIT, self.task).await.expect("the exporter must end").unwrap();
    }
}

fn counter(telemetry: &Telemetry, name: &str) -> u64 {
    Scrape::parse(&telemetry.metrics()).value(&format!("posthaste_{name}_total"), &[]) as u64
}

fn parent(flags: &str) -> String {
    format!("00-{TRACE_ID}-{SPAN_ID}-{flags}")
}

async fn store() -> (TempDir, Arc<dyn Store>) {
    let (directory, store) = sqlite_store().await;
    (directory, store)
}

/// `count` messages of sampled traces.
async fn append_sampled(store: &dyn Store, count: usize) {
    let message = || Message::new("orders.created").trace_context(parent("01"), "").text("x");
    store.append(&(0..count).map(|_| message()).collect::<Vec<_>>()).await.unwrap();
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn is_batch(span: &Span) -> bool {
    span.parent_span_id.is_empty()
}

#[tokio::test]
async fn trace_of_the_writer_shows_the_publish_and_headers_stay_as_they_were() {
    let (_directory, store) = store().await;
    let collector = Collector::start(0).await;
    let (relay, mut consumer) = relay_to_local(&store);
    let (relay, exporting) = Exporting::start(&settings(&collector.endpoint), relay);
    let telemetry = relay.telemetry();
    let message = |flags: &str| {
        Message::new("orders.created")
            .key("private-key")
            .correlation_id("request-7")
            .trace_context(parent(flags), STATE)
            .text("private payload")
    };
    let written = [message("01"), message("00"), Message::new("plain").text("private payload")];
    let ids = store.append(&written).await.unwrap();
    let running = Running::start(relay);
    let received = receive(&mut consumer, 3).await;
    running.drain().await.unwrap();
    exporting.end().await;

    for (delivery, message) in received.iter().zip(&written) {
        assert_eq!(delivery.headers, message.header_pairs(), "headers arrive byte for byte");
    }
    let spans = collector.spans();
    assert_eq!(spans.len(), 2, "{spans:?}");
    let batch = spans.iter().find(|span| is_batch(span)).unwrap();
    let span = spans.iter().find(|span| !is_batch(span)).unwrap();
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE_ID.into(), SPAN_ID.into()));
    assert_eq!((span.trace_state.as_str(), span.kind()), (STATE, SpanKind::Producer));
    assert_eq!(span.name, "publish orders.created");
    for (name, value) in [
        ("messaging.system", "posthaste"),
        ("messaging.operation.type", "send"),
        ("messaging.operation.name", "publish"),
        ("messaging.destination.name", "orders.created"),
        ("messaging.destination.subscription.name", "test"),
        ("messaging.message.id", &ids[0].to_string()),
        ("messaging.message.conversation_id", "request-7"),
    ] {
        assert_eq!(attribute(&span.attributes, name).as_deref(), Some(value), "{name}");
    }
    assert!(span.end_time_unix_nano > span.start_time_unix_nano);
    assert_eq!((batch.kind(), batch.links.len()), (SpanKind::Client, 1));
    assert_eq!(hex(&batch.links[0].trace_id), TRACE_ID);
    assert_eq!(hex(&batch.links[0].span_id), SPAN_ID);
    assert_eq!(attribute(&batch.attributes, "messaging.batch.message_count").unwrap(), "3");
    assert_eq!(span.links[0].span_id, batch.span_id);
    assert!(!format!("{spans:?}").contains("private"));

    let request = &collector.requests()[0];
    assert_eq!(
        (request.path.as_str(), &*request.headers["authorization"]),
        ("/v1/traces", "Bearer token")
    );
    assert_eq!(request.headers["content-type"], "application/x-protobuf");
    let resource = request.body.resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(attribute(&resource.attributes, "service.name").unwrap(), "shop-relay");
    let counts = ["exported_spans", "dropped_spans"].map(|name| counter(&telemetry, name));
    assert_eq!(counts, [2, 0]);
}

#[tokio::test]
async fn spans_are_exported_while_the_relay_runs_and_again_after_a_refusal() {
    let (_directory, store) = store().await;
    let collector = Collector::start(1).await;
    let (relay, mut consumer) = relay_to_local(&store);
    let (relay, exporting) = Exporting::start(&settings(&collector.endpoint), relay);
    let telemetry = relay.telemetry();
    let running = Running::start(relay);
    append_sampled(&*store, 5).await;
    receive(&mut consumer, 5).await;
    let taken = async || collector.spans().iter().filter(|span| !is_batch(span)).count() == 5;
    eventually_async("five spans", LIMIT, taken).await;
    assert_eq!(counter(&telemetry, "span_export_errors"), 1);
    assert_eq!(counter(&telemetry, "dropped_spans"), 0);
    running.drain().await.unwrap();
    exporting.end().await;
}

#[tokio::test]
async fn collector_behind_tls_is_trusted_by_its_authority_alone() {
    let tls = Tls::generate();
    let collector = Collector::start_with(&tls).await;
    for is_trusted in [false, true] {
        let (directory, store) = store().await;
        let authority = directory.path().join("ca.pem");
        let other = Tls::generate();
        let pem = if is_trusted { tls.ca_pem() } else { other.ca_pem() };
        std::fs::write(&authority, pem).unwrap();
        let settings = TraceSettings { ca_file: Some(authority), ..settings(&collector.endpoint) };
        append_sampled(&*store, 1).await;
        let (relay, _consumer) = relay_to_local(&store);
        let (relay, exporting) = Exporting::start(&settings, relay);
        let telemetry = relay.telemetry();
        relay.run_once(std::future::pending()).await.unwrap();
        exporting.end().await;
        let counts = ["exported_spans", "dropped_spans"].map(|name| counter(&telemetry, name));
        assert_eq!(counts, if is_trusted { [2, 0] } else { [0, 2] });
    }
    assert_eq!(collector.spans().len(), 2);
}

/// A collector that takes connections and never answers.
#[tokio::test]
async fn dead_collector_neither_slows_nor_stops_the_relay() {
    let (_directory, store) = store().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let (relay, mut consumer) = relay_to_local(&store);
    let settings = TraceSettings {
        timeout: Duration::from_millis(500),
        queue_spans: 100,
        ..settings(&endpoint)
    };
    let (relay, exporting) = Exporting::start(&settings, relay);
    let telemetry = relay.telemetry();
    let running = Running::start(relay);
    for _ in 0..4 {
        append_sampled(&*store, 500).await;
        receive(&mut consumer, 500).await;
    }
    let (connection, _) = timeout(LIMIT, silent.accept()).await.unwrap().unwrap();
    let failed = async || counter(&telemetry, "span_export_errors") > 0;
    eventually_async("a failed export", LIMIT, failed).await;
    let dropped = counter(&telemetry, "dropped_spans");
    assert!(dropped > 2_000 - 2 * settings.queue_spans as u64, "{dropped}: the queue has a bound");
    append_sampled(&*store, 10).await;
    receive(&mut consumer, 10).await;
    running.drain().await.unwrap();
    exporting.end().await;
    drop(connection);
    assert_eq!(counter(&telemetry, "exported_spans"), 0);
    // Those of each message, and of at least one batch for each append.
    let dropped = counter(&telemetry, "dropped_spans");
    assert!((2_010 + 5..2_100).contains(&dropped), "{dropped}");
    assert_eq!(store.status().await.unwrap().subscriptions[0].backlog, 0);
}
