//! What a test expects of a message. Pure.

use std::fmt;

use posthaste_core::{Message, MessageId, Timestamp, TopicFilter};
use serde::Serialize;
use serde_json::Value;

use super::{
    EnqueuedMessage,
    enqueued::preview,
    json::{Extent, difference},
};
use crate::time::utc;

/// Conditions on a message, all of which must hold.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug)]
enum Condition {
    Id(MessageId),
    Topic(String, TopicFilter),
    Key(Option<String>),
    Json(Value, Extent),
    Payload(Vec<u8>),
    ContentType(String),
    Header(String, String),
    Headers(Vec<(String, String)>),
    CorrelationId(Option<String>),
    DeliverAt(Option<Timestamp>),
    Scheduled,
}

/// Any message at all.
pub fn anything() -> Expected {
    Expected::default()
}

/// A message whose topic is `pattern`: a topic, a prefix followed by `*`, or `*`.
///
/// # Panics
/// When it is none of these.
#[track_caller]
pub fn topic(pattern: &str) -> Expected {
    let filter = TopicFilter::new(&[pattern]).unwrap_or_else(|error| panic!("{error}"));
    anything().and(Condition::Topic(pattern.to_owned(), filter))
}

/// A message that is in all respects what `message` becomes when it is enqueued. Its token is not
/// compared, because the log does not hold it, and its id only if it has one of its own.
#[track_caller]
pub fn like(message: &Message) -> Expected {
    let text = |text: &str| text.to_owned();
    let mut expected = topic(message.topic());
    expected.conditions.extend(message.message_id().map(Condition::Id));
    expected
        .and(Condition::Key(message.ordering_key().map(text)))
        .bytes(message.payload())
        .content_type(message.media_type())
        .and(Condition::Headers(message.header_pairs().to_vec()))
        .and(Condition::CorrelationId(message.correlation().map(text)))
        .and(Condition::DeliverAt(message.due()))
}

impl Expected {
    /// Has this id.
    #[must_use]
    pub fn id(self, id: MessageId) -> Self {
        self.and(Condition::Id(id))
    }

    /// Has this ordering key.
    #[must_use]
    pub fn key(self, key: impl Into<String>) -> Self {
        self.and(Condition::Key(Some(key.into())))
    }

    /// Has no ordering key.
    #[must_use]
    pub fn no_key(self) -> Self {
        self.and(Condition::Key(None))
    }

    /// Its payload is this JSON value, however it is spaced and ordered.
    ///
    /// # Panics
    /// When `value` cannot be written as JSON.
    #[must_use]
    #[track_caller]
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.and(Condition::Json(to_value(value), Extent::Whole))
    }

    /// Its payload is a JSON value with these members; objects in it, at any depth, may have more.
    ///
    /// # Panics
    /// As [`json`](Self::json).
    #[must_use]
    #[track_caller]
    pub fn json_with<T: Serialize + ?Sized>(self, value: &T) -> Self {
        self.and(Condition::Json(to_value(value), Extent::Members))
    }

    /// Its payload is this text.
    #[must_use]
    pub fn text(self, text: impl AsRef<str>) -> Self {
        self.bytes(text.as_ref().as_bytes())
    }

    /// Its payload is these bytes.
    #[must_use]
    pub fn bytes(self, payload: impl Into<Vec<u8>>) -> Self {
        self.and(Condition::Payload(payload.into()))
    }

    /// Has this content type.
    #[must_use]
    pub fn content_type(self, content_type: impl Into<String>) -> Self {
        self.and(Condition::ContentType(content_type.into()))
    }

    /// Has this header, and may have others.
    #[must_use]
    pub fn header(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.and(Condition::Header(name.into(), value.into()))
    }

    /// Has this correlation id.
    #[must_use]
    pub fn correlation_id(self, id: impl Into<String>) -> Self {
        self.and(Condition::CorrelationId(Some(id.into())))
    }

    /// Waits beside the log for this time.
    #[must_use]
    pub fn deliver_at(self, time: impl Into<Timestamp>) -> Self {
        self.and(Condition::DeliverAt(Some(time.into())))
    }

    /// Waits beside the log for its time, whichever it is.
    #[must_use]
    pub fn scheduled(self) -> Self {
        self.and(Condition::Scheduled)
    }

    /// Stands in the log: it was not scheduled, or its time has come.
    #[must_use]
    pub fn in_log(self) -> Self {
        self.and(Condition::DeliverAt(None))
    }

    fn and(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    /// Whether all conditions hold.
    pub fn matches(&self, message: &EnqueuedMessage) -> bool {
        self.conditions.iter().all(|condition| condition.difference(message).is_none())
    }

    /// Where `message` differs, condition by condition.
    pub(super) fn differences(&self, message: &EnqueuedMessage) -> Vec<String> {
        self.conditions.iter().filter_map(|condition| condition.difference(message)).collect()
    }
}

#[track_caller]
fn to_value<T: Serialize + ?Sized>(value: &T) -> Value {
    serde_json::to_value(value)
        .unwrap_or_else(|error| panic!("the expected value is no JSON: {error}"))
}

impl Condition {
    fn difference(&self, message: &EnqueuedMessage) -> Option<String> {
        let unless = |holds: bool, found: String| (!holds).then_some(found);
        match self {
            Self::Id(id) => unless(*id == message.id, format!("id {}", message.id)),
            Self::Topic(_, filter) => {
                unless(filter.matches(&message.topic), format!("topic {}", message.topic))
            }
            Self::Key(key) => unless(*key == message.key, named("key", message.key.as_deref())),
            Self::Json(value, extent) => match serde_json::from_slice(&message.payload) {
                Ok(actual) => difference(value, &actual, *extent),
                Err(error) => Some(format!("the payload is no JSON ({error})")),
            },
            Self::Payload(payload) => {
                let found = || format!("payload {}", preview(&message.payload));
                (*payload != message.payload).then(found)
            }
            Self::ContentType(it) => {
                unless(*it == message.content_type, format!("type {}", message.content_type))
            }
            Self::Header(name, value) => {
                let found = message.header(name);
                unless(found == Some(value.as_str()), named(&format!("header {name}"), found))
            }
            Self::Headers(headers) => {
                unless(*headers == message.headers, format!("headers {:?}", message.headers))
            }
            Self::CorrelationId(id) => unless(
                *id == message.correlation_id,
                named("correlation id", message.correlation_id.as_deref()),
            ),
            Self::DeliverAt(time) => unless(*time == message.deliver_at, due(message.deliver_at)),
            Self::Scheduled => unless(message.deliver_at.is_some(), due(None)),
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.conditions.is_empty() {
            return f.write_str("anything");
        }
        let texts: Vec<String> = self.conditions.iter().map(ToString::to_string).collect();
        f.write_str(&texts.join(", "))
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "id {id}"),
            Self::Topic(pattern, _) => write!(f, "topic {pattern}"),
            Self::Key(key) => f.write_str(&named("key", key.as_deref())),
            Self::Json(value, Extent::Whole) => write!(f, "JSON {value}"),
            Self::Json(value, Extent::Members) => write!(f, "JSON with {value}"),
            Self::Payload(payload) => write!(f, "payload {}", preview(payload)),
            Self::ContentType(it) => write!(f, "type {it}"),
            Self::Header(name, value) => write!(f, "header {name} {value:?}"),
            Self::Headers(headers) => write!(f, "headers {headers:?}"),
            Self::CorrelationId(id) => f.write_str(&named("correlation id", id.as_deref())),
            Self::DeliverAt(time) => f.write_str(&due(*time)),
            Self::Scheduled => f.write_str("scheduled"),
        }
    }
}

fn named(what: &str, value: Option<&str>) -> String {
    value.map_or_else(|| format!("no {what}"), |value| format!("{what} {value:?}"))
}

pub(super) fn due(time: Option<Timestamp>) -> String {
    match time {
        Some(time) => format!("scheduled for {}", utc(time)),
        None => "in the log".to_owned(),
    }
}
