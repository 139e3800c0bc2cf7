//! What a client of a stream gets: messages as events of `text/event-stream` (WHATWG HTML, server-sent events).

use bytes::Bytes;
use posthaste_core::{Headers, MessageRef, Place};
use serde::{Serialize, Serializer};

use crate::{clock, payloads::ShownPayload};

/// The id of an event: the place behind it, in characters that headers and queries take as they are.
pub(super) fn id_of(place: &Place) -> String {
    place.to_string().replace(' ', "~")
}

/// The place that an id names.
pub(super) fn place_of(id: &str) -> Option<Place> {
    id.replace('~', " ").parse().ok()
}

/// What comes before everything else: how long a client waits before it comes again, in milliseconds.
pub(super) fn greeting() -> Bytes {
    Bytes::from_static(b"retry: 1000\n\n")
}

/// Says that a client has everything up to here; it is no event, and yet remembered as the last id.
pub(super) fn mark(place: &Place) -> Bytes {
    Bytes::from(format!("id: {}\n\n", id_of(place)))
}

/// One message, behind which a client goes on at `place`.
pub(super) fn event(place: &Place, message: &MessageRef<'_>, with_payload: bool) -> Bytes {
    let body = Body::of(message, with_payload);
    // Texts and numbers: there is nothing that could fail.
    let body = serde_json::to_vec(&body).unwrap_or_default();
    let mut frame = Vec::with_capacity(body.len() + 160);
    frame.extend_from_slice(b"id: ");
    frame.extend_from_slice(id_of(place).as_bytes());
    // A payload may have line breaks between its values; each line is one of the event.
    for line in body.split(|byte| matches!(byte, b'\n' | b'\r')) {
        frame.extend_from_slice(b"\ndata: ");
        frame.extend_from_slice(line);
    }
    frame.extend_from_slice(b"\n\n");
    frame.into()
}

/// A message as JSON.
#[derive(Debug, Serialize)]
struct Body<'a> {
    id: String,
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    content_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Pairs<'a>>,
    /// When it was written, on the database's clock.
    enqueued_at: String,
    #[serde(flatten)]
    payload: ShownPayload<'a>,
}

impl<'a> Body<'a> {
    fn of(message: &'a MessageRef<'a>, with_payload: bool) -> Self {
        let mut body = Self {
            id: message.id.to_string(),
            topic: message.topic,
            key: message.key,
            content_type: message.content_type,
            correlation_id: message.correlation_id,
            headers: None,
            enqueued_at: clock::rfc3339(message.enqueued_at),
            payload: ShownPayload::default(),
        };
        if !with_payload {
            return body;
        }
        body.headers = Some(Pairs(message.headers));
        body.payload = ShownPayload::of(message.content_type, message.payload);
        body
    }
}

/// Headers as an object.
#[derive(Debug)]
struct Pairs<'a>(Headers<'a>);

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

#[cfg(test)]
mod tests {
    use posthaste_core::{MessageId, TickRef, Timestamp};
    use uuid::Uuid;

    use super::*;

    fn message<'a>(content_type: &'a str, payload: &'a [u8]) -> MessageRef<'a> {
        MessageRef {
            id: MessageId::from_u128(7),
            position: 12,
            enqueued_at: Timestamp(5),
            topic: "run.events",
            key: Some("a\nb"),
            content_type,
            correlation_id: None,
            headers: Headers::default(),
            payload,
        }
    }

    fn place() -> Place {
        let tick = |n| TickRef { n, id: Uuid::from_u128(9) };
        Place::at(tick(3)).moved_to(tick(4), 12, None)
    }

    /// What a client makes of a frame: its id, and its data.
    fn read(frame: &Bytes) -> (String, String) {
        let text = std::str::from_utf8(frame).unwrap();
        let lines = text.strip_suffix("\n\n").unwrap().split('\n');
        let (mut id, mut data) = (String::new(), Vec::new());
        for line in lines {
            match line.split_once(": ").unwrap() {
                ("id", value) => value.clone_into(&mut id),
                ("data", value) => data.push(value),
                (field, _) => panic!("{field}"),
            }
        }
        (id, data.join("\n"))
    }

    #[test]
    fn ids_are_places() {
        for place in [Place::beginning(), place()] {
            let id = id_of(&place);
            assert!(!id.contains(' '));
            assert_eq!(place_of(&id), Some(place));
        }
        assert_eq!(place_of("12"), None);
        assert_eq!(place_of(""), None);
    }

    #[test]
    fn payloads_are_what_they_say_they_are() {
        let data = |content_type, payload| {
            let (id, data) = read(&event(&place(), &message(content_type, payload), true));
            assert_eq!(place_of(&id), Some(place()));
            serde_json::from_str::<serde_json::Value>(&data).unwrap()
        };
        let json = data("application/problem+json; charset=utf-8", b"{\"a\":\r\n [1,\n2]}");
        assert_eq!(json["payload"], serde_json::json!({ "a": [1, 2] }));
        assert_eq!(
            (&json["key"], &json["id"]),
            (&"a\nb".into(), &MessageId::from_u128(7).to_string().into())
        );
        assert_eq!(json["enqueued_at"], "1970-01-01T00:00:00.000005Z");
        assert_eq!(data("application/json", b"{\"a\":")["payload_text"], "{\"a\":");
        assert_eq!(data("text/plain", b"7")["payload_text"], "7");
        assert_eq!(data("image/png", b"\xff\0")["payload_base64"], "/wA=");
    }

    #[test]
    fn whoever_may_not_see_payloads_gets_neither_them_nor_headers() {
        let (_, data) = read(&event(&place(), &message("application/json", b"{\"a\":1}"), false));
        assert!(!data.contains("payload") && !data.contains("headers"), "{data}");
    }
}
