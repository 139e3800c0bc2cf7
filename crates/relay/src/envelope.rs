//! Envelopes: a message as one JSON object, as CloudEvents 1.0 prescribes it or as a plain line.
//!
//! Writes into buffers of the caller and never parses a payload, except to check that one that
//! claims to be JSON may stand in a JSON document as it is. Sinks call it; it knows none of them.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use posthaste_core::{MessageRef, Timestamp};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::clock;

/// How a message is written for the sink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// The sink's own form: the payload as it is, the rest beside it.
    #[default]
    Raw,
    /// One CloudEvents 1.0 event in JSON (structured content mode).
    CloudEvents,
}

/// The `source` attribute of events, where nothing else is configured.
pub(crate) fn default_source() -> String {
    "posthaste".to_owned()
}

/// The attribute that carries the headers whose names are no attribute names.
const HEADERS_ATTRIBUTE: &str = "posthasteheaders";
/// The attribute that carries the correlation id.
const CORRELATION_ATTRIBUTE: &str = "correlationid";
/// Attribute names that mean something else already.
const RESERVED: [&str; 10] = [
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "data",
    CORRELATION_ATTRIBUTE,
];
/// "CloudEvents attribute names … SHOULD NOT exceed 20 characters in length" (CloudEvents 1.0.2,
/// section 3.1).
const ATTRIBUTE_NAME_BYTES_MAX: usize = 20;

/// Writes messages as CloudEvents 1.0 in the JSON format, structured content mode
/// (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>).
///
/// `type` is the topic and `subject` the ordering key. A header whose name is a valid attribute
/// name becomes an extension attribute (`traceparent` and `tracestate` are the distributed
/// tracing extension); the others stand in `posthasteheaders`, a JSON object in a string.
#[derive(Debug)]
pub(crate) struct CloudEvents {
    source: String,
    time: TimeText,
    headers: Vec<u8>,
}

impl CloudEvents {
    /// Events of `source`.
    pub(crate) fn new(source: String) -> Self {
        Self { source, time: TimeText::default(), headers: Vec::new() }
    }

    /// Appends the event for `message` to `out`.
    pub(crate) fn write(&mut self, message: &MessageRef<'_>, out: &mut Vec<u8>) {
        let mut event = JsonObject::begin(out);
        event.text("specversion", "1.0");
        event.text("id", message.id.hyphenated().encode_lower(&mut [0; 36]));
        event.text("source", &self.source);
        event.text("type", message.topic);
        if let Some(key) = message.key {
            event.text("subject", key);
        }
        event.text("time", self.time.of(message.enqueued_at));
        event.text("datacontenttype", message.content_type);
        if let Some(id) = message.correlation_id {
            event.text(CORRELATION_ATTRIBUTE, id);
        }
        write_headers(&mut event, message, &mut self.headers);
        write_data(&mut event, message);
        event.end();
    }
}

fn write_headers(event: &mut JsonObject<'_>, message: &MessageRef<'_>, others: &mut Vec<u8>) {
    others.clear();
    let mut rest = JsonObject::begin(others);
    for (name, value) in message.headers.iter() {
        if is_attribute(name, value) {
            event.text(name, value);
        } else {
            rest.text(name, value);
        }
    }
    if !rest.is_empty {
        rest.end();
        event.text(HEADERS_ATTRIBUTE, &String::from_utf8_lossy(others));
    }
}

/// Whether a header may stand as an extension attribute: attribute values hold no control
/// characters.
fn is_attribute(name: &str, value: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=ATTRIBUTE_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(allowed)
        && name != HEADERS_ATTRIBUTE
        && !RESERVED.contains(&name)
        && !value.chars().any(char::is_control)
}

/// BYTE-EXACT: what is not certain to come back byte for byte from a JSON document goes as
/// base64.
fn write_data(event: &mut JsonObject<'_>, message: &MessageRef<'_>) {
    let payload = message.payload;
    if is_json(message.content_type) {
        if serde_json::from_slice::<&RawValue>(payload).is_ok() {
            return event.verbatim("data", payload);
        }
    } else if is_text(message.content_type)
        && let Ok(text) = std::str::from_utf8(payload)
    {
        return event.text("data", text);
    }
    event.base64("data_base64", payload);
}

fn is_json(content_type: &str) -> bool {
    let essence = essence(content_type);
    essence.eq_ignore_ascii_case("application/json")
        || essence.len() > 5 && ends_with_ignore_case(essence, "+json")
}

fn is_text(content_type: &str) -> bool {
    essence(content_type).get(..5).is_some_and(|start| start.eq_ignore_ascii_case("text/"))
}

/// The media type without its parameters.
fn essence(content_type: &str) -> &str {
    content_type.split_once(';').map_or(content_type, |(essence, _)| essence).trim()
}

fn ends_with_ignore_case(text: &str, end: &str) -> bool {
    let start = text.len().saturating_sub(end.len());
    text.get(start..).is_some_and(|tail| tail.eq_ignore_ascii_case(end))
}

/// A JSON object in the making, appended to a buffer member by member.
#[derive(Debug)]
pub(crate) struct JsonObject<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> JsonObject<'a> {
    /// Opens an object at the end of `out`.
    pub(crate) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_empty: true }
    }

    /// A string member.
    pub(crate) fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        write_string(self.out, value);
    }

    /// An integer member.
    pub(crate) fn integer(&mut self, name: &str, value: i64) {
        let mut digits = String::new();
        let _ = write!(digits, "{value}");
        self.verbatim(name, digits.as_bytes());
    }

    /// A member whose value is JSON already.
    pub(crate) fn verbatim(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.out.extend_from_slice(value);
    }

    /// A string member with the bytes in base64 (RFC 4648, section 4).
    pub(crate) fn base64(&mut self, name: &str, value: &[u8]) {
        self.name(name);
        self.out.push(b'"');
        let start = self.out.len();
        self.out.resize(start + value.len().div_ceil(3) * 4, b'=');
        let written = STANDARD.encode_slice(value, &mut self.out[start..]);
        debug_assert_eq!(written, Ok(self.out.len() - start), "four characters for three bytes");
        self.out.push(b'"');
    }

    /// A member that is an object itself; it must be ended before the next member is added.
    pub(crate) fn object(&mut self, name: &str) -> JsonObject<'_> {
        self.name(name);
        JsonObject::begin(self.out)
    }

    /// Closes the object.
    pub(crate) fn end(self) {
        self.out.push(b'}');
    }

    fn name(&mut self, name: &str) {
        if !std::mem::replace(&mut self.is_empty, false) {
            self.out.push(b',');
        }
        write_string(self.out, name);
        self.out.push(b':');
    }
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    let written = serde_json::to_writer(&mut *out, text);
    debug_assert!(written.is_ok(), "a string always serialises into a Vec");
}

/// Writes times as [`clock::rfc3339`] does. Messages of one batch mostly share their second, so
/// the date is only worked out when it changes.
#[derive(Debug, Default)]
pub(crate) struct TimeText {
    second: i64,
    text: String,
}

impl TimeText {
    /// The text for `at`, valid until the next call.
    pub(crate) fn of(&mut self, at: Timestamp) -> &str {
        const MICROS: i64 = 1_000_000;
        const FRACTION_AND_Z: usize = "000000Z".len();
        let second = at.0.div_euclid(MICROS);
        if self.text.is_empty() || self.second != second {
            self.second = second;
            self.text = clock::rfc3339(Timestamp(second.saturating_mul(MICROS)));
        }
        self.text.truncate(self.text.len() - FRACTION_AND_Z);
        let _ = write!(self.text, "{:06}Z", at.0.rem_euclid(MICROS));
        &self.text
    }
}

#[cfg(test)]
mod tests;
