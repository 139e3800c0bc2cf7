//! From a body to a message: its fields checked, its idempotency noted.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use posthaste_core::{
    Limits, Message, MessageId,
    message::{BYTES, JSON},
};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::submission::{HeaderList, Mark, OWN_TOKENS, Trace, check_header, time};
use crate::{
    batches::Lane,
    problem::{Code, Problem},
};

/// A message to be enqueued.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(as = NewMessage)]
pub(crate) struct NewMessageBody {
    /// Where it goes: 1 to 255 ASCII letters, digits and . _ - : / that start with a letter or digit.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
    topic: String,
    /// Any JSON, at most 256 KiB, kept byte for byte. Without it and without `payload_base64` the message has no payload.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<Box<RawValue>>,
    /// Any bytes in base64 instead, at most 256 KiB.
    payload_base64: Option<String>,
    /// The payload's media type: 1 to 128 printable ASCII characters; `application/json` if not given, and
    /// `application/octet-stream` for `payload_base64`.
    #[schema(min_length = 1, max_length = 128, pattern = r"^[ -~]+$")]
    content_type: Option<String>,
    /// Messages with the same key are published in the order in which they are committed: 1 to 512 bytes.
    #[schema(min_length = 1, max_length = 512, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    key: Option<String>,
    /// Names and values that go with the message; those that begin with `posthaste-` are Posthaste's, but for
    /// `posthaste-contract` and `posthaste-max-attempts`.
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    headers: Option<HeaderList>,
    /// What ties the message to others: 1 to 256 bytes.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    correlation_id: Option<String>,
    /// The message's id, if the caller has one, best a UUID of version 7. It is not looked for: whoever sends it twice
    /// without a token writes two messages.
    #[schema(format = Uuid)]
    id: Option<String>,
    /// The idempotency token, as applications give it: of all messages with one token only the first is written, and
    /// its id is answered. 1 to 256 bytes that do not begin with `api:`.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    token: Option<String>,
    /// When it is due; at once if not given.
    #[schema(format = DateTime)]
    deliver_at: Option<String>,
}

/// JSON's null is a payload.
fn present<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(source).map(Some)
}

/// A message that may be written.
#[derive(Debug)]
pub(crate) struct Enqueue {
    pub(crate) message: Message,
    /// The id that a repetition of the request is told by.
    pub(crate) marked: Option<MessageId>,
    /// The id that it has if no other message has its token; `None` without one of the caller's choice.
    proposed: Option<MessageId>,
}

impl Enqueue {
    /// Which queue it waits in.
    pub(crate) fn lane(&self) -> Lane {
        let is_token_open = self.message.idempotency_token().is_some() && self.marked.is_none();
        // Where a topic is strict, keys are locked.
        let may_wait = is_token_open || self.message.ordering_key().is_some();
        if may_wait { Lane::Named } else { Lane::Free }
    }

    /// Whether the message that stands for this one was sent by another request.
    pub(crate) fn is_reused(&self, answered: MessageId) -> bool {
        self.marked.is_some_and(|marked| marked.as_bytes()[6..] != answered.as_bytes()[6..])
    }

    /// Whether an earlier message with its token stands for it, which may be anybody's.
    pub(crate) fn is_repeated(&self, answered: MessageId) -> bool {
        self.proposed.is_some_and(|proposed| proposed != answered)
    }
}

impl NewMessageBody {
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// The message, checked against all limits.
    pub(crate) fn enqueue(
        self,
        mark: Option<&Mark>,
        trace: Option<Trace<'_>>,
    ) -> Result<Enqueue, Problem> {
        let payload = payload(self.payload, self.payload_base64)?;
        let kind = self.content_type.unwrap_or_else(|| payload.1.to_owned());
        let mut message = Message::new(self.topic).bytes(kind, payload.0);
        let HeaderList(headers) = self.headers.unwrap_or_default();
        let has_trace =
            headers.iter().any(|(name, _)| name == "traceparent" || name == "tracestate");
        for (name, value) in headers {
            check_header(&name)?;
            message = message.header(name, value);
        }
        if let (Some(Trace { parent, state }), false) = (trace, has_trace) {
            message = message.trace_context(parent, state);
        }
        if let Some(key) = self.key {
            message = message.key(key);
        }
        if let Some(id) = self.correlation_id {
            message = message.correlation_id(id);
        }
        if let Some(text) = &self.deliver_at {
            message = message.deliver_at(time(text)?);
        }
        let (mut marked, mut proposed) = (None, None);
        match (mark, self.id, self.token) {
            (Some(_), Some(_), _) => return Err(doubled("id")),
            (Some(_), None, Some(_)) => return Err(doubled("token")),
            (Some(mark), None, None) => {
                let id = mark.id();
                marked = Some(id);
                message = message.token(mark.token()).id(id);
            }
            (None, id, token) => {
                if let Some(id) = id {
                    message = message.id(read_id(&id)?);
                }
                if let Some(token) = token {
                    check_token(&token)?;
                    // Under an id of our own a message that stands for another one is told by its id.
                    let id = message.message_id().unwrap_or_else(MessageId::now_v7);
                    proposed = Some(id);
                    message = message.token(token).id(id);
                }
            }
        }
        Limits::DEFAULT.check(&message)?;
        Ok(Enqueue { message, marked, proposed })
    }
}

/// The bytes, and what they are if nobody says so.
fn payload(
    json: Option<Box<RawValue>>,
    base64: Option<String>,
) -> Result<(Vec<u8>, &'static str), Problem> {
    match (json, base64) {
        (Some(_), Some(_)) => {
            let detail = "payload and payload_base64 must not be given both: leave one of them out";
            Err(Problem::of(Code::InvalidField, "payload_base64", detail))
        }
        (Some(json), None) => Ok((json.get().into(), JSON)),
        (None, Some(text)) => {
            let wrong = |_| {
                let detail =
                    "payload_base64 must be base64 with the letters + and /, padded with =";
                Problem::of(Code::InvalidField, "payload_base64", detail)
            };
            Ok((STANDARD.decode(text).map_err(wrong)?, BYTES))
        }
        (None, None) => Ok((Vec::new(), BYTES)),
    }
}

fn doubled(field: &str) -> Problem {
    let detail = format!(
        "{field} must not be given with an Idempotency-Key, which stands for both: leave one of them out"
    );
    Problem::of(Code::InvalidField, field, detail)
}

/// Tokens of the callers' Idempotency-Keys are theirs.
fn check_token(token: &str) -> Result<(), Problem> {
    if !token.starts_with(OWN_TOKENS) {
        return Ok(());
    }
    let detail = format!(
        "token must not begin with {OWN_TOKENS}, as those that stand for an Idempotency-Key do: choose another one, \
         or send an Idempotency-Key"
    );
    Err(Problem::of(Code::InvalidField, "token", detail))
}

fn read_id(text: &str) -> Result<MessageId, Problem> {
    text.parse()
        .map_err(|_| Problem::of(Code::InvalidField, "id", "id must be a UUID, best of version 7"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(json: &str) -> NewMessageBody {
        serde_json::from_str(json).unwrap()
    }

    fn message(json: &str) -> Message {
        body(json).enqueue(None, None).unwrap().message
    }

    #[test]
    fn payloads_are_json_or_bytes_or_nothing() {
        let json = message(r#"{"topic":"a","payload":{"x" : null}}"#);
        assert_eq!((json.payload(), json.media_type()), (&br#"{"x" : null}"#[..], JSON));
        let null = message(r#"{"topic":"a","payload":null,"content_type":"x/y"}"#);
        assert_eq!((null.payload(), null.media_type()), (&b"null"[..], "x/y"));
        let bytes = message(r#"{"topic":"a","payload_base64":"/wA="}"#);
        assert_eq!((bytes.payload(), bytes.media_type()), (&b"\xff\0"[..], BYTES));
        assert_eq!(message(r#"{"topic":"a"}"#).payload(), b"");
    }

    #[test]
    fn repeated_request_is_told_from_another_one() {
        let marked = |request: &[u8]| {
            let mark = Mark::new("caller", "key", request).unwrap();
            body(r#"{"topic":"a"}"#).enqueue(Some(&mark), None).unwrap()
        };
        let (first, again, other) = (marked(b"1"), marked(b"1"), marked(b"2"));
        let id = first.message.message_id().unwrap();
        assert_eq!((id.get_version_num(), first.lane()), (7, Lane::Free));
        assert!(!again.is_reused(id) && other.is_reused(id));
        let plain = body(r#"{"topic":"a","token":"t"}"#).enqueue(None, None).unwrap();
        assert!(!plain.is_reused(id));
        assert_eq!(plain.lane(), Lane::Named);
        assert_eq!(
            body(r#"{"topic":"a","key":"k"}"#).enqueue(None, None).unwrap().lane(),
            Lane::Named
        );
    }

    #[test]
    fn fields_at_fault_are_named() {
        for (json, field) in [
            (r#"{"topic":" "}"#, "topic"),
            (r#"{"topic":"a","key":""}"#, "key"),
            (r#"{"topic":"a","correlation_id":"\u0000"}"#, "correlation_id"),
            (r#"{"topic":"a","token":""}"#, "token"),
            (r#"{"topic":"a","token":"api:caller:key"}"#, "token"),
            (r#"{"topic":"a","id":"7"}"#, "id"),
            (r#"{"topic":"a","content_type":"\n"}"#, "content_type"),
            (r#"{"topic":"a","deliver_at":"soon"}"#, "deliver_at"),
            (r#"{"topic":"a","payload":1,"payload_base64":""}"#, "payload_base64"),
            (r#"{"topic":"a","payload_base64":"?"}"#, "payload_base64"),
            (r#"{"topic":"a","headers":{"posthaste-job":"x"}}"#, "headers"),
        ] {
            let refused = format!("{:?}", body(json).enqueue(None, None).unwrap_err());
            assert!(refused.contains(&format!("field: Some({field:?})")), "{refused}");
        }
        let mark = Mark::new("caller", "key", b"1").unwrap();
        for json in [r#"{"topic":"a","token":"t"}"#, r#"{"topic":"a","id":"7"}"#] {
            assert!(body(json).enqueue(Some(&mark), None).is_err(), "{json}");
        }
    }
}
