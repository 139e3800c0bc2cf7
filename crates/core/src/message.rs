//! A message as an application writes it.

use std::fmt;

use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::Timestamp;

/// Identifies a message for its whole life: a UUIDv7 made by the writer.
pub type MessageId = Uuid;

/// Content type of [`Message::json`].
pub const JSON: &str = "application/json";
/// Content type of [`Message::text`].
pub const TEXT: &str = "text/plain; charset=utf-8";
/// Content type of a message without a payload.
pub const BYTES: &str = "application/octet-stream";
/// The header in which a message names the version of its contract: decimal digits from 1, without
/// a sign or leading zeros.
pub const CONTRACT_HEADER: &str = "posthaste-contract";

/// One message, built field by field. Building never fails; the limits are checked when the
/// message is enqueued, before anything is written.
///
/// # Examples
/// ```
/// use posthaste_core::Message;
///
/// let message = Message::new("orders.created")
///     .key("order-17")
///     .header("tenant", "acme")
///     .json(&serde_json::json!({ "order": 17 }));
/// assert_eq!(message.payload(), br#"{"order":17}"#);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    id: Option<MessageId>,
    topic: String,
    key: Option<String>,
    headers: Vec<(String, String)>,
    payload: Vec<u8>,
    payload_fault: Option<String>,
    content_type: String,
    correlation_id: Option<String>,
    token: Option<String>,
    deliver_at: Option<Timestamp>,
}

impl Message {
    /// A message for `topic` with an empty payload.
    pub fn new(topic: impl Into<String>) -> Self {
        Self {
            id: None,
            topic: topic.into(),
            key: None,
            headers: Vec::new(),
            payload: Vec::new(),
            payload_fault: None,
            content_type: BYTES.to_owned(),
            correlation_id: None,
            token: None,
            deliver_at: None,
        }
    }

    /// Sets the id, which is otherwise made when the message is enqueued. Use a UUIDv7: ids are
    /// expected to sort roughly by time.
    #[must_use]
    pub fn id(mut self, id: MessageId) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets the ordering key: messages that share it are published in their commit order.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Adds a header. Names are case-sensitive and may stand once; sinks carry them unchanged.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Names the version, from 1, of the topic's contract that the payload keeps, in the header
    /// [`CONTRACT_HEADER`]. Messages of topics without contracts need none.
    #[must_use]
    pub fn contract(self, version: u32) -> Self {
        self.header(CONTRACT_HEADER, version.to_string())
    }

    /// Sets a JSON payload. A value that does not serialise is refused when it is enqueued.
    #[must_use]
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(payload) => self.bytes(JSON, payload),
            Err(fault) => Self { payload_fault: Some(format!("valid JSON ({fault})")), ..self },
        }
    }

    /// Sets a text payload.
    #[must_use]
    pub fn text(self, text: impl Into<String>) -> Self {
        self.bytes(TEXT, text.into())
    }

    /// Sets payload bytes and their content type.
    #[must_use]
    pub fn bytes(self, content_type: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            payload: payload.into(),
            payload_fault: None,
            content_type: content_type.into(),
            ..self
        }
    }

    /// Sets the correlation id that ties the message to the request it came from.
    #[must_use]
    pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
        self.correlation_id = Some(id.into());
        self
    }

    /// Sets the idempotency token: of all messages with one token only the first is written. A later
    /// enqueue writes nothing, whatever the message, and answers the first one's id; one that runs
    /// at the same time waits for the first transaction, and writes if that rolls back.
    ///
    /// Tokens are kept for a configured time, a day unless told otherwise.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Schedules the message: it waits beside the log until the time has come on the database's
    /// clock, then a relay moves it into the log with its id. Until then it can be cancelled.
    ///
    /// Messages with one ordering key are moved in the order of their times, and among equal times
    /// in the order in which they were written. A time that has passed is due at once, though not
    /// before a relay has looked.
    #[must_use]
    pub fn deliver_at(mut self, time: impl Into<Timestamp>) -> Self {
        self.deliver_at = Some(time.into());
        self
    }

    /// Sets the W3C trace context (<https://www.w3.org/TR/trace-context/>) as the headers
    /// `traceparent` and, unless empty, `tracestate`.
    #[must_use]
    pub fn trace_context(self, traceparent: impl Into<String>, tracestate: &str) -> Self {
        let message = self.header("traceparent", traceparent);
        if tracestate.is_empty() { message } else { message.header("tracestate", tracestate) }
    }

    /// The id, if it was set.
    pub fn message_id(&self) -> Option<MessageId> {
        self.id
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The ordering key.
    pub fn ordering_key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// The headers in the order they were added.
    pub fn header_pairs(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload's content type.
    pub fn media_type(&self) -> &str {
        &self.content_type
    }

    /// The correlation id.
    pub fn correlation(&self) -> Option<&str> {
        self.correlation_id.as_deref()
    }

    /// The idempotency token.
    pub fn idempotency_token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// When the message is due, if it is scheduled.
    pub fn due(&self) -> Option<Timestamp> {
        self.deliver_at
    }

    /// Why the payload could not be serialised, if it could not.
    pub(crate) fn payload_fault(&self) -> Option<&str> {
        self.payload_fault.as_deref()
    }
}
/// Headers as a JSON object of strings, in the order in which they were added, which a map type would lose. Shown, its
/// text.
#[derive(Clone, Copy, Debug)]
pub struct HeaderObject<'a>(pub &'a [(String, String)]);

impl Serialize for HeaderObject<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

impl fmt::Display for HeaderObject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_the_order_of_the_headers() {
        let message = Message::new("t").header("b", "1").header("a", "\"\n");
        let json = HeaderObject(message.header_pairs()).to_string();
        assert_eq!(json, r#"{"b":"1","a":"\"\n"}"#);
        assert_eq!(HeaderObject(&[]).to_string(), "{}");
    }
}
