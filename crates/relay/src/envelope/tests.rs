//! Events are read back with the CloudEvents SDK, which did not take part in writing them.

use cloudevents::{AttributesReader as _, Data, Event};
use posthaste_core::{Headers, MessageId};

use super::*;

const HEADERS: [(&str, &str); 7] = [
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("tenant", "acme"),
    ("Tenant-Id", "7 \"quoted\" ö"),
    ("type", "reserved"),
    ("lines", "a\nb"),
    ("averyveryverylongheadername", ""),
    ("posthasteheaders", "mine"),
];

fn packed(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in headers {
        Headers::pack(&mut out, name);
        Headers::pack(&mut out, value);
    }
    out
}

fn message<'a>(content_type: &'a str, payload: &'a [u8], headers: &'a [u8]) -> MessageRef<'a> {
    MessageRef {
        id: MessageId::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0001),
        position: 3,
        enqueued_at: Timestamp(1_767_323_045_000_006),
        topic: "orders.created",
        key: Some("order-ö"),
        content_type,
        correlation_id: Some("request-1"),
        headers: Headers::packed(headers),
        payload,
    }
}

fn written(message: &MessageRef<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    CloudEvents::new("/shop".to_owned()).write(message, &mut out);
    out
}

fn event(message: &MessageRef<'_>) -> Event {
    let bytes = written(message);
    serde_json::from_slice(&bytes)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&bytes)))
}

fn extension(event: &Event, name: &str) -> Option<String> {
    event.extension(name).map(ToString::to_string)
}

#[test]
fn attributes_are_what_the_message_says() {
    let event = event(&message("application/json", b"{}", &[]));
    assert_eq!(event.id(), "01920000-0000-7000-8000-000000000001");
    assert_eq!(event.source(), "/shop");
    assert_eq!(event.ty(), "orders.created");
    assert_eq!(event.subject(), Some("order-ö"));
    assert_eq!(event.datacontenttype(), Some("application/json"));
    assert_eq!(event.specversion().as_str(), "1.0");
    let time = event.time().expect("an event has a time");
    assert_eq!(time.timestamp_micros(), 1_767_323_045_000_006);
    assert_eq!(extension(&event, "correlationid").as_deref(), Some("request-1"));
}

#[test]
fn headers_become_extensions_and_none_is_lost() {
    let headers = packed(&HEADERS);
    let event = event(&message("text/plain", b"", &headers));
    assert_eq!(extension(&event, "traceparent").as_deref(), Some(HEADERS[0].1));
    assert_eq!(extension(&event, "tenant").as_deref(), Some("acme"));
    assert_eq!(event.ty(), "orders.created", "a header must not replace an attribute");
    let rest = extension(&event, "posthasteheaders").expect("the other headers");
    let rest: std::collections::BTreeMap<String, String> = serde_json::from_str(&rest).unwrap();
    let expected = HEADERS[2..].iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    assert_eq!(rest, expected);
}

#[test]
fn bare_message_has_neither_subject_nor_extensions() {
    let bare = MessageRef { key: None, correlation_id: None, ..message("a/b", b"", &[]) };
    let event = event(&bare);
    assert_eq!((event.subject(), event.iter_extensions().count()), (None, 0));
}

#[test]
fn json_payload_stands_in_the_event_byte_for_byte() {
    let payload = br#" {"n": 1.0e400, "big":12345678901234567890123, "a":1,"a":2 , "u":"\u00e9"} "#;
    for content_type in ["application/json; charset=utf-8", "application/vnd.shop+JSON"] {
        let bytes = written(&message(content_type, payload, &[]));
        let at = bytes.windows(payload.len()).position(|window| window == payload);
        assert!(at.is_some(), "{}", String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn json_content_type_without_valid_json_goes_as_base64() {
    for payload in [b"".as_slice(), b"{", b"{} {}", b"\xff", b"\"\xff\"", b"nul"] {
        let event = event(&message("application/json", payload, &[]));
        assert_eq!(event.data(), Some(&Data::Binary(payload.to_vec())), "{payload:?}");
    }
}

#[test]
fn text_goes_as_a_string_and_bytes_as_base64() {
    let text = "nul \0, quote \", ö, line\nbreak";
    let event_of = |content_type, payload| event(&message(content_type, payload, &[]));
    let string = event_of("Text/Plain; charset=utf-8", text.as_bytes());
    assert_eq!(string.data(), Some(&Data::String(text.to_owned())));
    for (content_type, payload) in [
        ("text/plain", b"\xff\x00".as_slice()),
        ("application/octet-stream", b"plain"),
        ("application/octet-stream", b""),
    ] {
        let event = event_of(content_type, payload);
        assert_eq!(event.data(), Some(&Data::Binary(payload.to_vec())), "{content_type}");
    }
}

#[test]
fn only_json_media_types_count_as_json() {
    for json in ["application/json", "Application/JSON ; charset=utf-8", "a/b+json", "a/b+Json;v=1"]
    {
        assert!(is_json(json), "{json}");
    }
    for other in ["application/jsonx", "text/json-seq", "+json", "json", "a/b;x=+json", "ö+jso"] {
        assert!(!is_json(other), "{other}");
    }
}

#[test]
fn every_length_of_base64_comes_back() {
    for length in 0..50_u8 {
        let payload: Vec<u8> = (0..length).map(|byte| byte.wrapping_mul(37)).collect();
        let event = event(&message("application/octet-stream", &payload, &[]));
        assert_eq!(event.data(), Some(&Data::Binary(payload.clone())));
    }
}

#[test]
fn times_read_as_the_clock_writes_them() {
    let mut text = TimeText::default();
    for at in [0, 1, 999_999, 1_000_000, 1_767_323_045_000_006, 1_767_323_045_999_999, -1] {
        assert_eq!(text.of(Timestamp(at)), clock::rfc3339(Timestamp(at)), "{at}");
    }
}
