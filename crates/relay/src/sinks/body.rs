//! A message as one run of bytes: the payload alone, or a JSON object with everything in it.
//!
//! For sinks whose destinations hold strings, without fields beside the payload.

use posthaste_core::MessageRef;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::envelope::{CloudEvents, JsonObject, TimeText};

/// What the bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum BodyFormat {
    /// The payload as it was enqueued, and nothing else: no id by which a consumer would know a
    /// message that comes again.
    Payload,
    /// One JSON object with `id`, `position`, `topic`, `key` and `correlation_id` (if the message
    /// has them), `content_type`, `enqueued_at`, `headers`, and `payload` as a string, or
    /// `payload_base64` where it is not valid UTF-8.
    Envelope,
    /// One CloudEvents 1.0 event in JSON (structured content mode).
    CloudEvents,
}

/// Writes the bytes of one message after the other.
pub(super) struct Body {
    form: Form,
    buffer: Vec<u8>,
}

enum Form {
    Payload,
    Envelope(TimeText),
    Event(CloudEvents),
}

impl Body {
    /// Bytes of this format; `source` is that of events.
    pub(super) fn new(format: BodyFormat, source: &str) -> Self {
        let form = match format {
            BodyFormat::Payload => Form::Payload,
            BodyFormat::Envelope => Form::Envelope(TimeText::default()),
            BodyFormat::CloudEvents => Form::Event(CloudEvents::new(source.to_owned())),
        };
        Self { form, buffer: Vec::new() }
    }

    /// The bytes of `message`, valid until the next call.
    pub(super) fn of<'a>(&'a mut self, message: &MessageRef<'a>) -> &'a [u8] {
        self.buffer.clear();
        match &mut self.form {
            Form::Payload => return message.payload,
            Form::Envelope(time) => write_envelope(message, time, &mut self.buffer),
            Form::Event(events) => events.write(message, &mut self.buffer),
        }
        &self.buffer
    }
}

/// Appends `message` to `out` as [`BodyFormat::Envelope`] says.
pub(super) fn write_envelope(message: &MessageRef<'_>, time: &mut TimeText, out: &mut Vec<u8>) {
    let mut object = JsonObject::begin(out);
    object.text("id", message.id.hyphenated().encode_lower(&mut [0; 36]));
    object.integer("position", message.position);
    object.text("topic", message.topic);
    if let Some(key) = message.key {
        object.text("key", key);
    }
    object.text("content_type", message.content_type);
    if let Some(id) = message.correlation_id {
        object.text("correlation_id", id);
    }
    object.text("enqueued_at", time.of(message.enqueued_at));
    let mut headers = object.object("headers");
    for (name, value) in message.headers.iter() {
        headers.text(name, value);
    }
    headers.end();
    match std::str::from_utf8(message.payload) {
        Ok(text) => object.text("payload", text),
        Err(_) => object.base64("payload_base64", message.payload),
    }
    object.end();
}
