//! From a body to a job: its fields checked, its idempotency noted.

use std::fmt;

use posthaste_core::{
    Limits, Message, NewJob,
    message::{CONTRACT_HEADER, JSON},
};
use posthaste_store::{JobDetail, JobId};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    batches::Lane,
    clock,
    problem::{Code, Problem},
    strict_json,
    tokens::hex,
};

/// The header that marks the job of a request with an idempotency key: which key, and which request.
const MARK_HEADER: &str = "posthaste-request";
/// Headers of Posthaste's that a caller may set.
const OPEN_HEADERS: [&str; 2] = [CONTRACT_HEADER, "posthaste-max-attempts"];
const KEY_CHARS_MAX: usize = 128;
/// How the tokens begin that Idempotency-Keys become.
pub(super) const OWN_TOKENS: &str = "api:";

/// A job to be run.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
#[schema(as = NewJob)]
pub(crate) struct NewJobBody {
    /// What kind of job: 1 to 255 ASCII letters, digits and . _ - : / that start with a letter or digit.
    #[schema(min_length = 1, max_length = 255, pattern = r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
    topic: String,
    /// Any JSON, at most 256 KiB; the worker gets it byte for byte.
    #[schema(value_type = serde_json::Value)]
    payload: Box<RawValue>,
    /// Jobs with the same key run one after the other, in the order in which they were submitted: 1 to 512 bytes.
    #[schema(min_length = 1, max_length = 512, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    key: Option<String>,
    /// Names and values that go with the job; those that begin with `posthaste-` are Posthaste's, but for
    /// `posthaste-contract` and `posthaste-max-attempts`.
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    headers: Option<HeaderList>,
    /// What ties the job to others: 1 to 256 bytes.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    correlation_id: Option<String>,
    /// While a job with this key is not over, submitting another one answers that one: 1 to 256 bytes.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    unique_key: Option<String>,
    /// How often it may be tried; as often as its worker says if not given.
    #[serde(default, deserialize_with = "strict_json::whole")]
    #[schema(minimum = 1, maximum = 1000)]
    attempts: Option<u32>,
    /// When it is due; at once if not given.
    #[schema(format = DateTime)]
    deliver_at: Option<String>,
    /// The job's id, if the caller has one: submitting it again answers the first job.
    #[schema(format = Uuid)]
    jobspec_id: Option<String>,
}

/// Headers in the order in which they were written.
#[derive(Debug, Default)]
pub(super) struct HeaderList(pub(super) Vec<(String, String)>);

impl<'de> Deserialize<'de> for HeaderList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = HeaderList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<HeaderList, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = fields.next_entry()? {
                    pairs.push(pair);
                }
                Ok(HeaderList(pairs))
            }
        }
        deserializer.deserialize_map(Pairs)
    }
}

/// A trace that the request belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trace<'a> {
    pub(crate) parent: &'a str,
    pub(crate) state: &'a str,
}

/// Which request a job was submitted by, for those that may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    token: String,
    /// Of the token; of the request.
    digests: (String, String),
}

impl Mark {
    /// The mark of a caller's key and request. Keys of different callers are different keys.
    pub(crate) fn new(caller: &str, key: &str, request: &[u8]) -> Result<Self, Problem> {
        let is_plain = key.bytes().all(|byte| byte.is_ascii_graphic());
        if key.is_empty() || key.len() > KEY_CHARS_MAX || !is_plain {
            let detail =
                format!("Idempotency-Key must be 1 to {KEY_CHARS_MAX} visible ASCII characters");
            return Err(Problem::of(Code::BadParameter, "idempotency-key", detail));
        }
        let token = format!("{OWN_TOKENS}{caller}:{key}");
        // Half of each digest tells them apart as well.
        let digest = |bytes: &[u8]| hex(&Sha256::digest(bytes)[..16]);
        let digests = (digest(token.as_bytes()), digest(request));
        Ok(Self { token, digests })
    }

    /// The token that the key becomes.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// An id whose random part says which request it was: of two messages with this token, those of the same request
    /// end alike.
    pub(super) fn id(&self) -> Uuid {
        let mut bytes = *Uuid::now_v7().as_bytes();
        let digest = Sha256::digest(self.header());
        bytes[6] = 0x70 | (digest[6] & 0x0f);
        bytes[7] = digest[7];
        bytes[8] = 0x80 | (digest[8] & 0x3f);
        bytes[9..].copy_from_slice(&digest[9..16]);
        Uuid::from_bytes(bytes)
    }

    fn header(&self) -> String {
        format!("{}.{}", self.digests.0, self.digests.1)
    }

    /// Whether a job came by this key with another request.
    pub(crate) fn is_reused(&self, job: &JobDetail) -> bool {
        let mark = job.headers.iter().find(|(name, _)| name == MARK_HEADER);
        let digests = mark.and_then(|(_, value)| value.split_once('.'));
        digests.is_some_and(|(key, request)| key == self.digests.0 && request != self.digests.1)
    }
}

/// A job that may be written.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) job: NewJob,
    /// The id that it has if no other job stands for it; `None` where none can.
    pub(crate) proposed: Option<JobId>,
    /// The caller has chosen that id.
    pub(crate) is_named: bool,
}

impl Submission {
    /// Which queue it waits in. Tokens are the server's own, so nobody else holds one.
    pub(crate) fn lane(&self) -> Lane {
        let may_wait = self.is_named || self.job.unique().is_some();
        if may_wait { Lane::Named } else { Lane::Free }
    }
}

impl NewJobBody {
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// The job, checked against all limits.
    pub(crate) fn submission(
        self,
        mark: Option<&Mark>,
        trace: Option<Trace<'_>>,
    ) -> Result<Submission, Problem> {
        let mut message = Message::new(self.topic).bytes(JSON, self.payload.get());
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
        if let Some(mark) = mark {
            message = message.token(&mark.token).header(MARK_HEADER, mark.header());
        }
        let named = self.jobspec_id.as_deref().map(jobspec_id).transpose()?;
        // Under an id of our own a job that stands for another one is told by its id. Others get the database's.
        let may_repeat = mark.is_some() || self.unique_key.is_some();
        let proposed = named.or_else(|| may_repeat.then(Uuid::now_v7));
        if let Some(id) = proposed {
            message = message.id(id);
        }
        Limits::DEFAULT.check(&message)?;
        let mut job = NewJob::of(message);
        if let Some(attempts) = self.attempts {
            job = job.attempts(attempts);
        }
        if let Some(key) = self.unique_key {
            check_text("unique_key", &key)?;
            job = job.unique_key(key);
        }
        job.check()?;
        Ok(Submission { job, proposed, is_named: named.is_some() })
    }
}

pub(super) fn check_header(name: &str) -> Result<(), Problem> {
    let is_ours = name.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("posthaste-"));
    if !is_ours || OPEN_HEADERS.contains(&name) {
        return Ok(());
    }
    let detail = "headers must not begin with posthaste-, but for posthaste-contract and posthaste-max-attempts";
    Err(Problem::of(Code::InvalidField, "headers", detail))
}

fn check_text(field: &str, text: &str) -> Result<(), Problem> {
    if !text.chars().any(char::is_control) {
        return Ok(());
    }
    let detail = format!("{field} must not have control characters");
    Err(Problem::of(Code::InvalidField, field, detail))
}

pub(super) fn time(text: &str) -> Result<posthaste_core::Timestamp, Problem> {
    clock::read(text).ok_or_else(|| {
        let detail = "deliver_at must be a time such as 2027-01-01T00:00:00Z, from 1970 to 9999";
        Problem::of(Code::InvalidField, "deliver_at", detail)
    })
}

fn jobspec_id(text: &str) -> Result<JobId, Problem> {
    text.parse().map_err(|_| {
        Problem::of(
            Code::InvalidField,
            "jobspec_id",
            "jobspec_id must be a UUID, best of version 7",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(json: &str) -> NewJobBody {
        serde_json::from_str(json).unwrap()
    }

    fn refused(json: &str) -> String {
        format!("{:?}", body(json).submission(None, None).unwrap_err())
    }

    #[test]
    fn job_is_as_it_was_asked_for() {
        let asked = body(
            r#"{"topic":"mail","payload":{"a" : 1},"key":"k","headers":{"z":"1","a":"2"},"attempts":3,
                "deliver_at":"2027-01-01T02:00:00+02:00","unique_key":"u",
                "jobspec_id":"018f0000-0000-7000-8000-000000000001"}"#,
        );
        let trace = Trace { parent: "00-1-2-01", state: "" };
        let submission = asked.submission(None, Some(trace)).unwrap();
        let message = submission.job.message();
        assert_eq!((message.topic(), message.payload()), ("mail", &br#"{"a" : 1}"#[..]));
        let names: Vec<&str> =
            message.header_pairs().iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["z", "a", "traceparent"]);
        assert_eq!(message.due().map(|due| due.0), Some(1_798_761_600_000_000));
        assert_eq!((submission.job.unique(), submission.job.attempts_max()), (Some("u"), Some(3)));
        assert_eq!(submission.proposed, message.message_id());
        assert!(submission.is_named && submission.lane() == Lane::Named);
        // Nothing could stand for it: the database chooses the id.
        let plain = body(r#"{"topic":"mail","payload":null}"#).submission(None, None).unwrap();
        assert_eq!((plain.proposed, plain.is_named, plain.lane()), (None, false, Lane::Free));
    }

    #[test]
    fn fields_at_fault_are_named() {
        for (json, field) in [
            (r#"{"topic":" ","payload":1}"#, "topic"),
            (r#"{"topic":"a","payload":1,"key":""}"#, "key"),
            (r#"{"topic":"a","payload":1,"key":"\u0000"}"#, "key"),
            (r#"{"topic":"a","payload":1,"unique_key":"\u0000"}"#, "unique_key"),
            (r#"{"topic":"a","payload":1,"unique_key":""}"#, "unique_key"),
            (r#"{"topic":"a","payload":1,"correlation_id":"\n"}"#, "correlation_id"),
            (r#"{"topic":"a","payload":1,"attempts":0}"#, "attempts"),
            (r#"{"topic":"a","payload":1,"deliver_at":"soon"}"#, "deliver_at"),
            (r#"{"topic":"a","payload":1,"jobspec_id":"7"}"#, "jobspec_id"),
            (r#"{"topic":"a","payload":1,"headers":{"a b":""}}"#, "headers"),
            (r#"{"topic":"a","payload":1,"headers":{"Posthaste-Job":"x"}}"#, "headers"),
        ] {
            let refused = refused(json);
            assert!(refused.contains(&format!("field: Some({field:?})")), "{refused}");
        }
    }

    #[test]
    fn reuse_is_the_same_key_with_another_request() {
        let mark = |caller, key, request: &[u8]| Mark::new(caller, key, request).unwrap();
        let first = mark("a", "k", b"1");
        assert_eq!(first.token, "api:a:k");
        let header = |name: &str, mark: &Mark| (name.to_owned(), mark.header());
        let detail = |headers| JobDetail {
            job: crate::api::shown::tests::job(),
            content_type: String::new(),
            payload: Vec::new(),
            headers,
            executions: Vec::new(),
            receipts: Vec::new(),
        };
        let kept = detail(vec![header(MARK_HEADER, &first)]);
        assert!(!first.is_reused(&kept));
        assert!(mark("a", "k", b"2").is_reused(&kept));
        // Another key's job, which was answered because of its unique key.
        assert!(!mark("a", "l", b"2").is_reused(&kept));
        assert!(!mark("a", "k", b"2").is_reused(&detail(Vec::new())));
        for key in ["", "a b", "\u{e4}", &"x".repeat(129)] {
            assert!(Mark::new("a", key, b"").is_err(), "{key}");
        }
    }
}
