//! What was enqueued, and the assertions on it. Pure.

use std::{borrow::Borrow, fmt::Write as _};

use posthaste_core::{MessageId, Timestamp};
use serde::de::DeserializeOwned;

use super::expected::{Expected, due};

/// Messages that a failed assertion shows.
const SHOWN_MAX: usize = 20;
/// Characters of a payload, and bytes where it is no text, that it shows of each.
const PREVIEW_CHARS: usize = 200;

/// A message as it stands in the log, or waits beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EnqueuedMessage {
    /// Its id.
    pub id: MessageId,
    /// Its topic.
    pub topic: String,
    /// Its ordering key.
    pub key: Option<String>,
    /// Its payload.
    pub payload: Vec<u8>,
    /// The payload's content type.
    pub content_type: String,
    /// Its headers, in their order.
    pub headers: Vec<(String, String)>,
    /// Its correlation id.
    pub correlation_id: Option<String>,
    /// When it is due, while it waits beside the log.
    pub deliver_at: Option<Timestamp>,
}

impl EnqueuedMessage {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|(its, value)| (its == name).then_some(value.as_str()))
    }

    /// The payload read as JSON.
    ///
    /// # Panics
    /// When it is not the JSON of a `T`.
    #[track_caller]
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.payload).unwrap_or_else(|error| {
            panic!("the payload {} cannot be read: {error}", preview(&self.payload))
        })
    }

    fn line(&self) -> String {
        let mut line = self.topic.clone();
        if let Some(key) = &self.key {
            let _ = write!(line, ", key {key:?}");
        }
        let _ = write!(line, ", {} {}", self.content_type, preview(&self.payload));
        for (name, value) in &self.headers {
            let _ = write!(line, ", {name}: {value:?}");
        }
        if let Some(id) = &self.correlation_id {
            let _ = write!(line, ", correlation id {id:?}");
        }
        if self.deliver_at.is_some() {
            let _ = write!(line, ", {}", due(self.deliver_at));
        }
        line
    }
}

/// A payload for people: text if it is text, else hexadecimal; its beginning if it is long.
pub(super) fn preview(payload: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(payload) else {
        let begin = &payload[..payload.len().min(PREVIEW_CHARS / 2)];
        let mut hex = String::from("0x");
        for byte in begin {
            let _ = write!(hex, "{byte:02x}");
        }
        let more = if begin.len() < payload.len() { "…" } else { "" };
        return format!("{hex}{more} ({} bytes)", payload.len());
    };
    match text.char_indices().nth(PREVIEW_CHARS) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], payload.len()),
        None if text.is_empty() => "(no payload)".to_owned(),
        None => text.to_owned(),
    }
}

/// What was enqueued: the messages of the log in their order, then those that wait for their time,
/// in the order in which they are due.
#[derive(Clone, Debug)]
pub struct Enqueued {
    messages: Vec<EnqueuedMessage>,
}

impl Enqueued {
    pub(super) const fn new(messages: Vec<EnqueuedMessage>) -> Self {
        Self { messages }
    }

    /// All of them.
    pub fn messages(&self) -> &[EnqueuedMessage] {
        &self.messages
    }

    /// Those that are as expected.
    pub fn matching(&self, expected: impl Borrow<Expected>) -> Vec<&EnqueuedMessage> {
        let expected = expected.borrow();
        self.messages.iter().filter(|message| expected.matches(message)).collect()
    }

    /// Asserts that exactly one message is as expected, and answers it.
    ///
    /// # Panics
    /// When none or more than one is.
    #[track_caller]
    pub fn assert_one(&self, expected: impl Borrow<Expected>) -> &EnqueuedMessage {
        self.assert_count(1, expected)[0]
    }

    /// Asserts that exactly `count` messages are as expected, and answers them.
    ///
    /// # Panics
    /// When fewer or more are.
    #[track_caller]
    pub fn assert_count(
        &self,
        count: usize,
        expected: impl Borrow<Expected>,
    ) -> Vec<&EnqueuedMessage> {
        let expected = expected.borrow();
        let found = self.matching(expected);
        assert!(
            found.len() == count,
            "{} enqueued where {count} expected: {expected}\n{}",
            messages(found.len()),
            self.shown(expected)
        );
        found
    }

    /// Asserts that no message is as described.
    ///
    /// # Panics
    /// When one is.
    #[track_caller]
    pub fn refute(&self, unexpected: impl Borrow<Expected>) {
        self.assert_count(0, unexpected);
    }

    /// Asserts that these messages were enqueued, in this order, and no others.
    ///
    /// # Panics
    /// When one differs, is missing, too many, or out of order.
    #[track_caller]
    pub fn assert_all(&self, expected: &[Expected]) {
        let pairs = self.messages.iter().zip(expected);
        let unlike = pairs.clone().position(|(message, expected)| !expected.matches(message));
        if let Some(nth) = unlike {
            let (message, expected) = (&self.messages[nth], &expected[nth]);
            let differences = expected.differences(message).join("; ");
            panic!(
                "message {} is not as expected: {expected}\nit differs: {differences}\n{}",
                nth + 1,
                self.listed()
            );
        }
        assert!(
            self.messages.len() == expected.len(),
            "{} enqueued where {} expected\n{}",
            messages(self.messages.len()),
            expected.len(),
            self.listed()
        );
    }

    /// All messages, the likeliest first, each with where it differs.
    fn shown(&self, expected: &Expected) -> String {
        let differing = |message| (expected.differences(message), message);
        let mut rows: Vec<_> = self.messages.iter().map(differing).collect();
        // Stable: equally like ones stay in their order.
        rows.sort_by_key(|(differences, _)| differences.len());
        let line = |(differences, message): &(Vec<String>, &EnqueuedMessage)| match differences[..]
        {
            [] => format!("= {}", message.line()),
            _ => format!("  {}\n      differs: {}", message.line(), differences.join("; ")),
        };
        self.list(rows.iter().map(line))
    }

    /// All messages in their order.
    fn listed(&self) -> String {
        let line = |(nth, message): (usize, &EnqueuedMessage)| format!("{nth}. {}", message.line());
        self.list((1..).zip(&self.messages).map(line))
    }

    fn list(&self, lines: impl Iterator<Item = String>) -> String {
        if self.messages.is_empty() {
            return "nothing was enqueued".to_owned();
        }
        let mut text = "what was enqueued:".to_owned();
        for line in lines.take(SHOWN_MAX) {
            let _ = write!(text, "\n  {line}");
        }
        if self.messages.len() > SHOWN_MAX {
            let _ = write!(text, "\n  … and {} more", self.messages.len() - SHOWN_MAX);
        }
        text
    }
}

fn messages(count: usize) -> String {
    match count {
        0 => "no message".to_owned(),
        1 => "1 message".to_owned(),
        _ => format!("{count} messages"),
    }
}
