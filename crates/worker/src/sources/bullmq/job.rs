//! A job as a message. Pure.
//!
//! What the relay's sink has written as an envelope or an event is that message again; its id, which is the job's too,
//! tells it from what others have written alike. Any other job is a message of its own.

use std::borrow::Cow;

use posthaste::{MessageId, Received, UnreadableMessage};
use posthaste_core::{Timestamp, job::JOB_HEADER};
use redis::{Value, from_redis_value};
use schemars::JsonSchema;
use serde::{Deserialize, de::IgnoredAny};

/// Namespace of the ids of messages that were made of jobs.
const NAMESPACE: MessageId = MessageId::from_u128(0x0b1c_66b4_3a4e_5d0f_9d6c_2f5f_7d0a_41e3);
const MICROSECONDS: i64 = 1_000;

/// Which topic a job has that is no message of the relay's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum TopicOf {
    /// The job's name.
    #[default]
    Name,
    /// The queue's name.
    Queue,
}

/// The queue that jobs are of.
#[derive(Debug)]
pub(super) struct Origin {
    /// Prefix and name, as BullMQ qualifies it.
    pub(super) base: String,
    pub(super) queue: String,
    pub(super) topic: TopicOf,
}

/// The fields of a job's hash that are read, as the scripts and [`Job::of`] have them.
pub(super) const FIELDS: [&str; 7] =
    ["name", "data", "timestamp", "opts", "parentKey", "rjk", "defa"];

/// A job.
#[derive(Debug, Default)]
pub(super) struct Job {
    pub(super) id: Vec<u8>,
    name: Option<Vec<u8>>,
    data: Option<Vec<u8>>,
    timestamp: Option<Vec<u8>>,
    options: Option<Vec<u8>>,
    parent: Option<Vec<u8>>,
    scheduler: Option<Vec<u8>>,
    /// Why BullMQ has given it up.
    given_up: Option<Vec<u8>>,
}

impl Job {
    /// Reads the values of [`FIELDS`]; nothing if they are of another kind.
    pub(super) fn of(id: Vec<u8>, values: &[Value]) -> Option<Self> {
        let read = |value: &Value| from_redis_value::<Option<Vec<u8>>>(value.clone()).ok();
        let values = values.iter().map(read).collect::<Option<Vec<_>>>()?;
        let [name, data, timestamp, options, parent, scheduler, given_up] =
            values.try_into().ok()?;
        Some(Self { id, name, data, timestamp, options, parent, scheduler, given_up })
    }

    /// Whether there is such a job.
    pub(super) const fn is_there(&self) -> bool {
        self.name.is_some() || self.data.is_some()
    }

    /// The message, for a worker: not of a job whose end only BullMQ's own workers can bring about.
    pub(super) fn task(&self, origin: &Origin) -> Result<Received, UnreadableMessage> {
        let is_set = |value: &Option<Vec<u8>>| value.as_ref().is_some_and(|it| !it.is_empty());
        if is_set(&self.parent) {
            let rule = "absent: its flow's parent hears of its end from BullMQ's own workers alone";
            return Err(unreadable("parentKey", rule));
        }
        if is_set(&self.scheduler) {
            let rule =
                "absent: the next job of its scheduler is added by BullMQ's own workers alone";
            return Err(unreadable("rjk", rule));
        }
        if self.is_followed() {
            let rule = "absent: the job after it is added by BullMQ's own workers alone";
            return Err(unreadable("opts.deduplication.keepLastIfActive", rule));
        }
        let message = self.message(origin)?;
        // How often a job of Posthaste's is tried is not BullMQ's to say.
        if is_set(&self.given_up) && message.header(JOB_HEADER).is_none() {
            let rule = "absent: BullMQ has given it up, for it stalled too often";
            return Err(unreadable("defa", rule));
        }
        Ok(message)
    }

    /// The message.
    pub(super) fn message(&self, origin: &Origin) -> Result<Received, UnreadableMessage> {
        let id = text("id", Some(&self.id))?;
        let data = self.data.as_deref().ok_or_else(|| unreadable("data", "present"))?;
        match Form::of(data, id) {
            Form::Envelope => return Received::from_envelope(data),
            Form::Event => return Received::from_cloudevent(data),
            Form::Other => {}
        }
        let name = text("name", self.name.as_ref())?;
        let topic = match origin.topic {
            TopicOf::Name => name,
            TopicOf::Queue => &origin.queue,
        };
        if topic.is_empty() {
            return Err(unreadable("name", "not empty"));
        }
        let timestamp = text("timestamp", self.timestamp.as_ref())?;
        let time = timestamp.parse::<i64>().ok().and_then(|time| time.checked_mul(MICROSECONDS));
        let time = time.ok_or_else(|| unreadable("timestamp", "milliseconds since 1970"))?;
        // A job that was removed may be added again with the same id, and is another one then.
        let identity = format!("{}:{id}:{timestamp}", origin.base);
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Ok(Received {
            id: MessageId::new_v5(&NAMESPACE, identity.as_bytes()),
            topic: topic.to_owned(),
            key: None,
            content_type: "application/json".to_owned(),
            enqueued_at: Timestamp(time),
            correlation_id: None,
            headers: vec![header("bullmq-id", id), header("bullmq-name", name)],
            payload: data.to_vec(),
        })
    }

    /// Whether the newest of the jobs that were not added because of it is to follow it.
    fn is_followed(&self) -> bool {
        #[derive(Deserialize)]
        struct Options {
            de: Option<Deduplication>,
        }
        #[derive(Deserialize)]
        struct Deduplication {
            #[serde(default, rename = "keepLastIfActive")]
            is_followed: bool,
        }
        let options = self.options.as_deref().map(serde_json::from_slice::<Options>);
        let deduplication = options.and_then(Result::ok).and_then(|options| options.de);
        deduplication.is_some_and(|it| it.is_followed)
    }
}

/// What the data of a job is.
enum Form {
    Envelope,
    Event,
    Other,
}

impl Form {
    fn of(data: &[u8], id: &str) -> Self {
        #[derive(Deserialize)]
        struct Members<'a> {
            #[serde(borrow)]
            id: Cow<'a, str>,
            specversion: Option<IgnoredAny>,
            topic: Option<IgnoredAny>,
            enqueued_at: Option<IgnoredAny>,
        }
        match serde_json::from_slice::<Members<'_>>(data) {
            Ok(members) if members.id != id => Self::Other,
            Ok(Members { specversion: Some(_), .. }) => Self::Event,
            Ok(Members { topic: Some(_), enqueued_at: Some(_), .. }) => Self::Envelope,
            _ => Self::Other,
        }
    }
}

fn text<'a>(field: &str, value: Option<&'a Vec<u8>>) -> Result<&'a str, UnreadableMessage> {
    let value = value.ok_or_else(|| unreadable(field, "present"))?;
    std::str::from_utf8(value).map_err(|_| unreadable(field, "valid UTF-8"))
}

fn unreadable(field: &str, rule: &'static str) -> UnreadableMessage {
    UnreadableMessage { field: field.to_owned(), rule }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "01920000-0000-7000-8000-000000000001";
    const ENVELOPE: &str = r#"{"id":"01920000-0000-7000-8000-000000000001","topic":"t","content_type":"text/plain","enqueued_at":"2026-01-02T03:04:05.000006Z","headers":{"posthaste-job":"j"},"payload":"x"}"#;
    const EVENT: &str = r#"{"specversion":"1.0","id":"01920000-0000-7000-8000-000000000001","source":"posthaste","type":"t","time":"2026-01-02T03:04:05.000006Z","datacontenttype":"text/plain","data":"x"}"#;

    fn origin(topic: TopicOf) -> Origin {
        Origin { base: "bull:mail".to_owned(), queue: "mail".to_owned(), topic }
    }

    fn job(id: &str, data: &str) -> Job {
        let some = |text: &str| Some(text.as_bytes().to_vec());
        Job {
            id: id.as_bytes().to_vec(),
            name: some("welcome"),
            data: some(data),
            timestamp: some("1767323045000"),
            ..Job::default()
        }
    }

    #[test]
    fn what_the_relay_wrote_is_that_message_again() {
        for data in [ENVELOPE, EVENT] {
            let message = job(ID, data).task(&origin(TopicOf::Name)).unwrap();
            assert_eq!((message.id.to_string().as_str(), message.topic.as_str()), (ID, "t"));
            assert_eq!(message.payload, b"x");
        }
        let torn = r#"{"id":"01920000-0000-7000-8000-000000000001","topic":"t","enqueued_at":"x"}"#;
        assert_eq!(job(ID, torn).task(&origin(TopicOf::Name)).unwrap_err().field, "payload");
    }

    #[test]
    fn any_other_job_is_a_message_of_its_own() {
        for (topic, expected) in [(TopicOf::Name, "welcome"), (TopicOf::Queue, "mail")] {
            for data in ["{\"user\":7}", ENVELOPE, "[1]", "no JSON"] {
                let message = job("7", data).task(&origin(topic)).unwrap();
                assert_eq!(
                    (message.topic.as_str(), &*message.payload),
                    (expected, data.as_bytes())
                );
                assert_eq!(message.header("bullmq-id"), Some("7"));
                assert_eq!(message.header("bullmq-name"), Some("welcome"));
                assert_eq!(message.enqueued_at, Timestamp(1_767_323_045_000_000));
            }
        }
    }

    #[test]
    fn id_of_a_message_is_that_of_its_job_and_of_no_other() {
        let id = |job: &Job, base: &str| {
            let origin = Origin { base: base.to_owned(), ..origin(TopicOf::Name) };
            job.task(&origin).unwrap().id
        };
        let one = job("7", "1");
        assert_eq!(id(&one, "bull:mail"), id(&job("7", "2"), "bull:mail"));
        assert_ne!(id(&one, "bull:mail"), id(&job("8", "1"), "bull:mail"));
        assert_ne!(id(&one, "bull:mail"), id(&one, "bull:post"));
        let again = Job { timestamp: Some(b"1767323045001".to_vec()), ..job("7", "1") };
        assert_ne!(id(&one, "bull:mail"), id(&again, "bull:mail"));
    }

    #[test]
    fn what_only_bullmq_can_end_is_refused_by_name() {
        let set = |text: &str| Some(text.as_bytes().to_vec());
        let followed = r#"{"attempts":0,"de":{"id":"x","keepLastIfActive":true}}"#;
        let plain = job("7", "{}");
        let cases = [
            ("parentKey", Job { parent: set("bull:mail:1"), ..job("7", "{}") }),
            ("rjk", Job { scheduler: set("nightly"), ..job("7", "{}") }),
            ("opts.deduplication.keepLastIfActive", Job { options: set(followed), ..plain }),
            ("defa", Job { given_up: set("job stalled"), ..job("7", "{}") }),
            ("timestamp", Job { timestamp: set("soon"), ..job("7", "{}") }),
            ("name", Job { name: set(""), ..job("7", "{}") }),
            ("data", Job { data: None, ..job("7", "{}") }),
        ];
        for (field, job) in cases {
            assert_eq!(job.task(&origin(TopicOf::Name)).unwrap_err().field, field);
        }
        let own = Job { given_up: set("job stalled"), ..job(ID, ENVELOPE) };
        assert!(own.task(&origin(TopicOf::Name)).is_ok(), "its attempts are Posthaste's to count");
    }
}
