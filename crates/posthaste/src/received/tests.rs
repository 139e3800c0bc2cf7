//! What `tests/vectors` says of each wire, and what only Rust can be handed.

use serde::{Deserialize, de::DeserializeOwned};

use super::*;

#[derive(Deserialize)]
struct Vectors<W> {
    cases: Vec<Case<W>>,
}

#[derive(Deserialize)]
struct Case<W> {
    name: String,
    wire: W,
    message: Option<Meant>,
    refused: Option<Refused>,
}

#[derive(Deserialize)]
struct Meant {
    id: MessageId,
    topic: String,
    key: Option<String>,
    content_type: String,
    enqueued_at_micros: i64,
    correlation_id: Option<String>,
    headers: Vec<(String, String)>,
    payload: String,
}

#[derive(Deserialize)]
struct Refused {
    field: String,
    rule: String,
}

fn decoded(text: &str) -> Vec<u8> {
    STANDARD.decode(text).unwrap()
}

fn received(meant: Meant) -> Received {
    Received {
        id: meant.id,
        topic: meant.topic,
        key: meant.key,
        content_type: meant.content_type,
        enqueued_at: Timestamp(meant.enqueued_at_micros),
        correlation_id: meant.correlation_id,
        headers: meant.headers,
        payload: decoded(&meant.payload),
    }
}

/// Reads every wire of a file of `tests/vectors`.
fn check<W: DeserializeOwned>(vectors: &str, read: impl Fn(&W) -> Result<Received>) {
    let Vectors { cases } = serde_json::from_str::<Vectors<W>>(vectors).unwrap();
    assert!(cases.len() > 30);
    for Case { name, wire, message, refused } in cases {
        match (read(&wire), message, refused) {
            (found, Some(meant), None) => assert_eq!(found, Ok(received(meant)), "{name}"),
            (Err(found), None, Some(Refused { field, rule })) => {
                assert_eq!(
                    (found.field.as_str(), found.rule),
                    (field.as_str(), rule.as_str()),
                    "{name}"
                );
            }
            (found, ..) => panic!("{name}: {found:?}"),
        }
    }
}

fn stream_entry(wire: &[(String, String)]) -> Result<Received> {
    Received::from_stream_entry(wire.iter().map(|(name, value)| (name, decoded(value))))
}

#[test]
fn stream_entries_mean_what_the_vectors_say() {
    let vectors = include_str!("../../../../tests/vectors/redis-stream.json");
    check(vectors, |wire: &Vec<(String, String)>| stream_entry(wire));
}

#[test]
fn envelopes_mean_what_the_vectors_say() {
    let vectors = include_str!("../../../../tests/vectors/envelope.json");
    check(vectors, |wire: &String| Received::from_envelope(&decoded(wire)));
}

#[test]
fn events_mean_what_the_vectors_say_also_as_stream_entries() {
    // In an event the order of headers is lost.
    let sorted = |mut message: Received| {
        message.headers.sort();
        message
    };
    let vectors = include_str!("../../../../tests/vectors/cloudevents.json");
    let Vectors { cases } = serde_json::from_str::<Vectors<String>>(vectors).unwrap();
    for Case { name, wire, message, refused } in cases {
        let found = Received::from_cloudevent(&decoded(&wire));
        let entry = [("cloudevent", decoded(&wire))];
        assert_eq!(Received::from_stream_entry(entry), found, "{name}");
        match (found, message, refused) {
            (Ok(found), Some(meant), None) => {
                assert_eq!(sorted(found), sorted(received(meant)), "{name}");
            }
            (Err(found), None, Some(Refused { field, rule })) => {
                assert_eq!((found.field, found.rule), (field, rule.as_str()), "{name}");
            }
            (found, ..) => panic!("{name}: {found:?}"),
        }
    }
}

#[test]
fn base64_has_one_form() {
    assert_eq!(bytes("payload_base64", "QQ==").unwrap(), b"A");
    for text in [
        "Q",
        "QQ",
        "QQ=",
        "QQ===",
        "====",
        "=QQQ",
        "Q=Q=",
        "QQ==QQ==",
        "QR==",
        "QUJ=",
        "QQ_-",
        "QQ==\n",
        " QQ==",
        "QUFB QUE=",
        "öQ=",
        "QQ\0=",
    ] {
        assert_eq!(bytes("payload_base64", text).unwrap_err().rule, BASE64, "{text:?}");
    }
}

#[test]
fn field_that_stands_twice_is_refused() {
    let once = [
        ("id", "01920000-0000-7000-8000-000000000001"),
        ("topic", "t"),
        ("key", "k"),
        ("content_type", "a/b"),
        ("enqueued_at", "2026-01-02T03:04:05.000006Z"),
        ("correlation_id", "c"),
        ("h:a", "1"),
        ("payload", "p"),
    ];
    assert!(Received::from_stream_entry(once).is_ok());
    for field in once {
        let twice = once.into_iter().chain([field]);
        let error = Received::from_stream_entry(twice).unwrap_err();
        assert_eq!((error.field.as_str(), error.rule), (field.0, ONCE));
    }
}

#[test]
fn error_shows_nothing_but_the_field_and_what_it_must_be() {
    let error = Received::from_stream_entry([("id", "secret")]).unwrap_err();
    let text = "message unreadable: id must be a UUID in lower case with hyphens";
    assert_eq!(error.to_string(), text);
    let error = Received::from_stream_entry([("h:\n", b"\xff")]).unwrap_err();
    assert_eq!(error.to_string(), "message unreadable: h:\\n must be valid UTF-8");
}
