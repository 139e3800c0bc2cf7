//! What stands on the wire, byte for byte: `tests/vectors`, which every client library reads. A
//! change that a test here finds is one that consumers find as well.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use posthaste_core::{Headers, MessageId, MessageRef, Page, Timestamp};
use posthaste_relay::sink::{Batch, Receipt, Sink};
use posthaste_testkit::Redis;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    messages::ByPosition,
    redis_server::{client, connected, setting},
    redis_stream::entries,
};

const STREAM: &str = include_str!("../../../../tests/vectors/redis-stream.json");
const ENVELOPE: &str = include_str!("../../../../tests/vectors/envelope.json");
const CLOUDEVENTS: &str = include_str!("../../../../tests/vectors/cloudevents.json");

/// The topic of all messages that the relay writes there.
const TOPIC: &str = "orders.created";
/// Their position, which envelopes name.
const POSITION: i64 = 3;

#[derive(Deserialize)]
struct Vectors<W> {
    cases: Vec<Case<W>>,
}

#[derive(Deserialize)]
struct Case<W> {
    name: String,
    wire: W,
    message: Option<Message>,
    #[serde(default = "yes")]
    written: bool,
}

#[derive(Deserialize)]
struct Message {
    id: MessageId,
    topic: String,
    key: Option<String>,
    content_type: String,
    enqueued_at_micros: i64,
    correlation_id: Option<String>,
    headers: Vec<(String, String)>,
    payload: String,
}

fn yes() -> bool {
    true
}

fn decoded(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

/// The cases that the relay writes: name, message and wire.
fn written<W: DeserializeOwned>(vectors: &str) -> Vec<(String, Message, W)> {
    let Vectors { cases } = serde_json::from_str::<Vectors<W>>(vectors).unwrap();
    let cases = cases.into_iter().filter(|case| case.written);
    let cases: Vec<_> =
        cases.filter_map(|case| Some((case.name, case.message?, case.wire))).collect();
    assert!(cases.len() > 10 && cases.iter().all(|(_, message, _)| message.topic == TOPIC));
    cases
}

async fn publish(sink: &mut dyn Sink, messages: &[&Message]) {
    let mut page = Page::new(POSITION);
    for message in messages {
        let mut headers = Vec::new();
        for (name, value) in &message.headers {
            Headers::pack(&mut headers, name);
            Headers::pack(&mut headers, value);
        }
        page.push(&MessageRef {
            id: message.id,
            position: POSITION,
            enqueued_at: Timestamp(message.enqueued_at_micros),
            topic: &message.topic,
            key: message.key.as_deref(),
            content_type: &message.content_type,
            correlation_id: message.correlation_id.as_deref(),
            headers: Headers::packed(&headers),
            payload: &decoded(&message.payload),
        });
    }
    let indices: Vec<u32> = (0..messages.len() as u32).collect();
    let receipt = sink.publish(&Batch::new(&page, &indices, &ByPosition)).await.unwrap();
    assert!(matches!(receipt, Receipt::AllAccepted), "{receipt:?}");
}

/// A sink whose destinations begin with `prefix`.
async fn sink(kind: &str, prefix: &str, format: &str) -> Box<dyn Sink> {
    let redis = Redis::shared();
    let mut settings = setting("format", format);
    let destination = kind.trim_start_matches("redis-");
    settings.insert(destination.to_owned(), format!("{prefix}{{topic}}").into());
    if destination == "list" {
        settings.insert("side".to_owned(), "right".into());
    }
    connected(kind, redis, settings).await
}

#[tokio::test]
async fn stream_entries_are_those_of_the_vectors() {
    let cases = written::<Vec<(String, String)>>(STREAM);
    let messages: Vec<_> = cases.iter().map(|(_, message, _)| message).collect();
    let prefix = Redis::shared().prefix();
    let mut sink = sink("redis-stream", &prefix, "raw").await;
    // Alone, and beside neighbours, of which the sink takes some values over.
    for message in &messages {
        publish(&mut *sink, &[message]).await;
    }
    publish(&mut *sink, &messages).await;
    let found = entries(&mut client(Redis::shared()).await, &format!("{prefix}{TOPIC}")).await;
    assert_eq!(found.len(), 2 * cases.len());
    for ((name, _, wire), (_, fields)) in cases.iter().chain(&cases).zip(found) {
        let wire: Vec<_> =
            wire.iter().map(|(field, value)| (field.clone(), decoded(value))).collect();
        assert_eq!(fields, wire, "{name}");
    }
}

/// Publishes every case to a list, and compares the elements with the wire.
async fn check_elements(vectors: &str, format: &str) {
    let cases = written::<String>(vectors);
    let prefix = Redis::shared().prefix();
    let mut sink = sink("redis-list", &prefix, format).await;
    for (_, message, _) in &cases {
        publish(&mut *sink, &[message]).await;
    }
    let mut client = client(Redis::shared()).await;
    let mut range = redis::cmd("LRANGE");
    let range = range.arg(format!("{prefix}{TOPIC}")).arg(0).arg(-1);
    let found: Vec<Vec<u8>> = range.query_async(&mut client).await.unwrap();
    assert_eq!(found.len(), cases.len());
    for ((name, _, wire), element) in cases.iter().zip(found) {
        let text = String::from_utf8_lossy(&element);
        assert!(element == decoded(wire), "{name}: {text}");
    }
}

#[tokio::test]
async fn envelopes_are_those_of_the_vectors() {
    check_elements(ENVELOPE, "envelope").await;
}

#[tokio::test]
async fn events_are_those_of_the_vectors() {
    check_elements(CLOUDEVENTS, "cloudevents").await;
}

#[tokio::test]
async fn events_in_streams_are_those_of_the_vectors() {
    let cases = written::<String>(CLOUDEVENTS);
    let messages: Vec<_> = cases.iter().map(|(_, message, _)| message).collect();
    let prefix = Redis::shared().prefix();
    publish(&mut *sink("redis-stream", &prefix, "cloudevents").await, &messages).await;
    let found = entries(&mut client(Redis::shared()).await, &format!("{prefix}{TOPIC}")).await;
    assert_eq!(found.len(), cases.len());
    for ((name, _, wire), (_, fields)) in cases.iter().zip(found) {
        assert_eq!(fields, [("cloudevent".to_owned(), decoded(wire))], "{name}");
    }
}
