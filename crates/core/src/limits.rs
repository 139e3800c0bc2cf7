//! What a message may look like. Checked before anything is written.

use std::fmt;

use crate::{Message, Timestamp, topics::is_topic_char};

/// Bytes of a consumer's name.
const CONSUMER_BYTES_MAX: usize = 255;
/// Messages that a consumer handles in one call: a megabyte of arrays, and some hundred
/// milliseconds of the database's time.
const HANDLED_MAX: usize = 10_000;

/// Upper bounds of a message, in bytes unless named otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Payload bytes.
    pub payload_bytes: usize,
    /// Topic bytes.
    pub topic_bytes: usize,
    /// Ordering key bytes.
    pub key_bytes: usize,
    /// Number of headers.
    pub headers: usize,
    /// Bytes of one header name.
    pub header_name_bytes: usize,
    /// Bytes of all header names and values together.
    pub headers_bytes: usize,
    /// Content type bytes.
    pub content_type_bytes: usize,
    /// Correlation id bytes.
    pub correlation_id_bytes: usize,
    /// Idempotency token bytes.
    pub token_bytes: usize,
}

impl Limits {
    /// The limits that hold where nothing else is configured; the database's own checks (and the
    /// SQL function `enqueue`) enforce the same figures.
    pub const DEFAULT: Self = Self {
        payload_bytes: 256 * 1024,
        topic_bytes: 255,
        key_bytes: 512,
        headers: 64,
        header_name_bytes: 128,
        headers_bytes: 16 * 1024,
        content_type_bytes: 128,
        correlation_id_bytes: 256,
        token_bytes: 256,
    };

    /// Checks every field of `message`.
    ///
    /// # Errors
    /// Names the first field that is out of bounds, with the limit and the value.
    pub fn check(&self, message: &Message) -> Result<(), InvalidMessage> {
        check_topic(message.topic(), self.topic_bytes)?;
        if let Some(key) = message.ordering_key() {
            check_text("key", key, self.key_bytes)?;
        }
        check_media_type(message.media_type(), self.content_type_bytes)?;
        if let Some(id) = message.correlation() {
            check_text("correlation_id", id, self.correlation_id_bytes)?;
        }
        if let Some(token) = message.idempotency_token() {
            check_text("token", token, self.token_bytes)?;
        }
        if let Some(due) = message.due() {
            check_due(due)?;
        }
        self.check_headers(message)?;
        if let Some(reason) = message.payload_fault() {
            return Err(InvalidMessage::new("payload", reason, "a value that does not serialise"));
        }
        self.check_payload(message.payload().len())
    }

    /// Checks a payload of this many bytes, for callers that do not hold it.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_payload(&self, bytes: usize) -> Result<(), InvalidMessage> {
        at_most("payload", bytes, self.payload_bytes)
    }

    /// Checks the name under which a consumer handles messages; the database's own checks enforce
    /// the same.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_consumer(name: &str) -> Result<(), InvalidMessage> {
        check_text("consumer", name, CONSUMER_BYTES_MAX)
    }

    /// Checks how many messages a consumer handles in one call; the database's own checks enforce
    /// the same.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub fn check_handled(messages: usize) -> Result<(), InvalidMessage> {
        if messages <= HANDLED_MAX {
            return Ok(());
        }
        let limit = format!("at most {HANDLED_MAX} in one call");
        Err(InvalidMessage::new("message_ids", limit, &messages.to_string()))
    }

    fn check_headers(&self, message: &Message) -> Result<(), InvalidMessage> {
        let headers = message.header_pairs();
        if headers.len() > self.headers {
            let limit = format!("at most {} headers", self.headers);
            return Err(InvalidMessage::new("headers", limit, &format!("{}", headers.len())));
        }
        let mut total = 0;
        for (index, (name, value)) in headers.iter().enumerate() {
            check_header_name(name, self.header_name_bytes)?;
            if value.contains('\0') {
                return Err(InvalidMessage::new("header value", "no NUL character", value));
            }
            if headers[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(InvalidMessage::new("header name", "each name once", name));
            }
            total += name.len() + value.len();
        }
        at_most("headers", total, self.headers_bytes)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A message that may not be written: which field, what the limit is, and what it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidMessage {
    /// The field at fault.
    pub field: &'static str,
    /// What the field must satisfy.
    pub limit: String,
    /// The offending value, shortened, or its size. Never a payload.
    pub value: String,
}

impl InvalidMessage {
    fn new(field: &'static str, limit: impl Into<String>, value: &str) -> Self {
        const SHOWN_CHARS: usize = 60;
        let mut shown: String = value.chars().take(SHOWN_CHARS).collect();
        if value.chars().nth(SHOWN_CHARS).is_some() {
            shown.push('…');
        }
        Self { field, limit: limit.into(), value: shown }
    }
}

impl fmt::Display for InvalidMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "message refused: {} must be {}, not {:?}", self.field, self.limit, self.value)
    }
}

fn at_most(field: &'static str, bytes: usize, limit: usize) -> Result<(), InvalidMessage> {
    if bytes <= limit {
        return Ok(());
    }
    Err(InvalidMessage::new(field, format!("at most {limit} bytes"), &format!("{bytes} bytes")))
}

/// The database and every language know these years.
fn check_due(due: Timestamp) -> Result<(), InvalidMessage> {
    /// The first microsecond of the year 10000.
    const END: i64 = 253_402_300_800_000_000;
    if (0..END).contains(&due.0) {
        return Ok(());
    }
    let value = format!("{} microseconds after 1970", due.0);
    Err(InvalidMessage::new("deliver_at", "a time from 1970 to 9999", &value))
}

pub(crate) fn check_topic(topic: &str, limit: usize) -> Result<(), InvalidMessage> {
    let starts_well = topic.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts_well && topic.chars().all(is_topic_char) && topic.len() <= limit {
        return Ok(());
    }
    let rule = format!(
        "1 to {limit} ASCII letters, digits and . _ - : / that start with a letter or digit"
    );
    Err(InvalidMessage::new("topic", rule, topic))
}

fn check_header_name(name: &str, limit: usize) -> Result<(), InvalidMessage> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !name.is_empty() && name.len() <= limit && name.chars().all(allowed) {
        return Ok(());
    }
    let rule = format!("1 to {limit} ASCII letters, digits and . _ -");
    Err(InvalidMessage::new("header name", rule, name))
}

fn check_media_type(value: &str, limit: usize) -> Result<(), InvalidMessage> {
    let printable = value.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    if !value.is_empty() && value.len() <= limit && printable {
        return Ok(());
    }
    let rule = format!("1 to {limit} printable ASCII characters");
    Err(InvalidMessage::new("content_type", rule, value))
}

fn check_text(field: &'static str, value: &str, limit: usize) -> Result<(), InvalidMessage> {
    if !value.is_empty() && value.len() <= limit && !value.chars().any(char::is_control) {
        return Ok(());
    }
    let rule = format!("1 to {limit} bytes without control characters");
    Err(InvalidMessage::new(field, rule, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(message: &Message) -> InvalidMessage {
        Limits::DEFAULT.check(message).expect_err("the message must be refused")
    }

    #[test]
    fn each_field_is_named_with_its_limit_and_value() {
        let good = || Message::new("orders.created");
        let cases = [
            (Message::new(""), "topic"),
            (Message::new("orders created"), "topic"),
            (Message::new(".orders"), "topic"),
            (Message::new("t".repeat(256)), "topic"),
            (good().key(""), "key"),
            (good().key("a\nb"), "key"),
            (good().key("k".repeat(513)), "key"),
            (good().header("", "v"), "header name"),
            (good().header("a b", "v"), "header name"),
            (good().header("a", "v\0"), "header value"),
            (good().header("a", "1").header("a", "2"), "header name"),
            (good().header("a", "v".repeat(16 * 1024)), "headers"),
            (good().correlation_id(""), "correlation_id"),
            (good().token(""), "token"),
            (good().token("a\tb"), "token"),
            (good().deliver_at(Timestamp(-1)), "deliver_at"),
            (good().deliver_at(Timestamp(253_402_300_800_000_000)), "deliver_at"),
            (good().token("t".repeat(257)), "token"),
            (good().bytes("x\ny", b"".as_slice()), "content_type"),
            (good().bytes("application/octet-stream", vec![0; 256 * 1024 + 1]), "payload"),
        ];
        for (message, field) in cases {
            assert_eq!(refused(&message).field, field, "{message:?}");
        }
    }

    #[test]
    fn error_says_what_to_change() {
        let error = refused(&Message::new("orders").bytes("a/b", vec![0; 300_000]));
        assert_eq!(
            error.to_string(),
            "message refused: payload must be at most 262144 bytes, not \"300000 bytes\""
        );
    }

    #[test]
    fn r3_limits_themselves_and_an_empty_payload_pass() {
        let message = Message::new("t".repeat(255))
            .key("ö".repeat(256))
            .token("ö".repeat(128))
            .deliver_at(Timestamp(253_402_300_799_999_999))
            .header("a", "line\nbreak")
            .bytes("application/octet-stream", vec![0; 256 * 1024]);
        assert_eq!(Limits::DEFAULT.check(&message), Ok(()));
        assert_eq!(Limits::DEFAULT.check(&Message::new("a")), Ok(()));
    }

    #[test]
    fn too_many_headers_are_counted() {
        let many = (0..65).fold(Message::new("a"), |m, i| m.header(format!("h{i}"), "v"));
        let error = refused(&many);
        assert_eq!((error.field, error.value.as_str()), ("headers", "65"));
    }

    #[test]
    fn consumer_has_a_name_within_its_limits() {
        for name in ["a", "mail worker", &"ö".repeat(127)] {
            assert_eq!(Limits::check_consumer(name), Ok(()));
        }
        for name in ["", "a\0", "a\u{85}", &"ö".repeat(128)] {
            assert_eq!(Limits::check_consumer(name).unwrap_err().field, "consumer", "{name:?}");
        }
        assert_eq!(Limits::check_handled(10_000), Ok(()));
        assert_eq!(Limits::check_handled(10_001).unwrap_err().value, "10001");
    }

    #[test]
    fn value_that_does_not_serialise_is_refused() {
        let unserialisable = std::collections::HashMap::from([(vec![1_u8], 1)]);
        assert_eq!(refused(&Message::new("a").json(&unserialisable)).field, "payload");
    }
}
