//! What stands in the entry of one message.

use posthaste_core::MessageRef;
use redis::Cmd;

use crate::envelope::{CloudEvents, Format, TimeText};

/// Field names and values of one entry at most; Lua's `unpack` takes up to 8,000.
pub(super) const VALUES_MAX: usize = 4_000;

/// What stands in an entry. The numbers are those of `redis_stream.lua`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Shape {
    /// Names and values.
    Free = 0,
    /// The values of topic, content type, id, key, time and payload.
    Keyed = 1,
    /// The same without the key.
    Keyless = 2,
    /// As `Keyed`, with topic and content type of the last message that named them.
    KeyedAgain = 3,
    /// As `Keyless`, likewise.
    KeylessAgain = 4,
}

/// Writes the values of an entry.
pub(super) enum Body {
    Raw { time: TimeText, name: String },
    Event { events: CloudEvents, event: Vec<u8> },
}

impl Body {
    /// Entries of this format.
    pub(super) fn new(format: Format, source: &str) -> Self {
        match format {
            Format::Raw => Self::Raw { time: TimeText::default(), name: String::new() },
            Format::CloudEvents => {
                Self::Event { events: CloudEvents::new(source.to_owned()), event: Vec::new() }
            }
        }
    }

    /// The shape of `message` and the number of values that [`Self::write`] adds. `named` is the
    /// last message before it in the call that is of a shape other than `Free`.
    pub(super) fn shape(
        &self,
        message: &MessageRef<'_>,
        named: Option<&MessageRef<'_>>,
    ) -> (Shape, usize) {
        if matches!(self, Self::Event { .. }) {
            return (Shape::Free, 2);
        }
        let is_plain = message.headers.is_empty() && message.correlation_id.is_none();
        let is_again = named.is_some_and(|named| {
            named.topic == message.topic && named.content_type == message.content_type
        });
        match message.key {
            Some(_) if is_plain && is_again => (Shape::KeyedAgain, 4),
            Some(_) if is_plain => (Shape::Keyed, 6),
            None if is_plain && is_again => (Shape::KeylessAgain, 3),
            None if is_plain => (Shape::Keyless, 5),
            key => {
                let optional = usize::from(key.is_some())
                    + usize::from(message.correlation_id.is_some())
                    + message.headers.iter().count();
                (Shape::Free, 2 * (5 + optional))
            }
        }
    }

    /// Adds the values of `message` in its shape.
    pub(super) fn write(&mut self, message: &MessageRef<'_>, shape: Shape, command: &mut Cmd) {
        match self {
            Self::Event { events, event } => {
                event.clear();
                events.write(message, event);
                command.arg("cloudevent").arg(event.as_slice());
            }
            Self::Raw { time, name } if shape == Shape::Free => {
                let mut field = |name: &str, value: &[u8]| {
                    command.arg(name).arg(value);
                };
                field("id", message.id.hyphenated().encode_lower(&mut [0; 36]).as_bytes());
                field("topic", message.topic.as_bytes());
                if let Some(key) = message.key {
                    field("key", key.as_bytes());
                }
                field("content_type", message.content_type.as_bytes());
                field("enqueued_at", time.of(message.enqueued_at).as_bytes());
                if let Some(id) = message.correlation_id {
                    field("correlation_id", id.as_bytes());
                }
                for (header, value) in message.headers.iter() {
                    name.clear();
                    name.push_str("h:");
                    name.push_str(header);
                    field(name, value.as_bytes());
                }
                field("payload", message.payload);
            }
            Self::Raw { time, .. } => {
                if matches!(shape, Shape::Keyed | Shape::Keyless) {
                    command.arg(message.topic).arg(message.content_type);
                }
                command.arg(message.id.hyphenated().encode_lower(&mut [0; 36]).as_bytes());
                if let Some(key) = message.key {
                    command.arg(key);
                }
                command.arg(time.of(message.enqueued_at)).arg(message.payload);
            }
        }
    }
}
