//! `bullmq`: adds messages to BullMQ queues, as jobs that its workers run.
//!
//! Says what a job is and where it goes; how batches become calls of `bullmq.lua`, and how order is
//! kept, is `redis_script`'s job. A job is what the `add` of BullMQ's own `Queue` leaves in Redis, with
//! the message's id for its id. It runs no jobs and removes none: workers do.

mod keep;
mod options;

use async_trait::async_trait;
use posthaste_core::{MessageRef, Template, template};
use posthaste_redis::{RedisServer, RedisSettings};
use redis::{Cmd, Value};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    body::{Body, BodyFormat},
    redis_script::{self, Connect, Delivery, Script, ScriptSink},
};
use crate::{
    envelope,
    sink::{Context, InvalidTarget, Lane, PlaceKeeping, Sink, SinkError, SinkKind, Target},
};
use keep::Keep;
use options::{Backoff, Options, Own};

/// The registry entry.
pub(super) const KIND: SinkKind = SinkKind {
    name: "bullmq",
    about: "adds messages to BullMQ queues as jobs",
    place: PlaceKeeping::Held,
    parse,
    schema: || RedisSettings::extend_schema(schemars::schema_for!(BullmqSettings)),
};

/// The header that names a job otherwise than `name` does.
const NAME_HEADER: &str = "bullmq-name";
/// The versions of BullMQ whose queues `bullmq.lua` knows.
const KNOWN_VERSIONS: &str = "bullmq 5 from 5.10 on and bullmq 6";
/// What BullMQ stores for a job without data.
const NO_DATA: &[u8] = b"{}";

/// Settings of a `bullmq` sink.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BullmqSettings {
    /// BullMQ's `prefix`: what the names of all its keys begin with, as its workers and queues have
    /// it. The relay keeps its place beside them, in the hash `PREFIX::posthaste:place:SUBSCRIPTION`.
    /// In a Redis Cluster it must hold a hash tag, `{bull}`, whatever `delivery` says.
    #[serde(default = "default_prefix")]
    prefix: String,
    /// Name of the queue: text with `{topic}`, `{key}` or `{header:NAME}`. A message that lacks the
    /// value, or whose queue's name would have a colon in it, is rejected.
    #[serde(default = "topic")]
    queue: String,
    /// Name of the job, likewise, with any characters. The header `bullmq-name` goes before it.
    #[serde(default = "topic")]
    name: String,
    /// How often a job is tried at most; once unless given. The header `bullmq-attempts` goes before
    /// it.
    attempts: Option<u32>,
    /// The wait before a job that has failed is tried again; none unless given.
    backoff: Option<Backoff>,
    /// 1 for the jobs that run first, up to 2097151; 0 for jobs that run before all of those, in
    /// their order. The header `bullmq-priority` goes before it.
    #[serde(default)]
    priority: u32,
    /// What becomes of a job when it is done: `true` removes it, a number keeps as many, a table
    /// `{ age = "1d", count = 1000 }` keeps those that are younger and at most as many, and `false`
    /// keeps all. What its worker is set to unless given. A job that was removed is not known any
    /// more if its message comes again.
    #[schemars(with = "Option<serde_json::Value>")]
    remove_on_complete: Option<Keep>,
    /// What becomes of a job that has failed for good, likewise.
    #[schemars(with = "Option<serde_json::Value>")]
    remove_on_fail: Option<Keep>,
    /// What the data of a job is: `payload`, `envelope` or `cloudevents`. A payload must be JSON,
    /// or its message is rejected; an empty one becomes `{}`, as in BullMQ. Topic, key, headers and
    /// time stand in the other two alone.
    #[serde(default = "payload")]
    format: BodyFormat,
    /// The `source` of events, a URI reference.
    #[serde(default = "envelope::default_source")]
    cloudevents_source: String,
    /// `exactly-once`: the subscription's place is kept in Redis, together with the jobs.
    /// `at-least-once`: no place is kept, and a fault repeats what was in flight, which BullMQ drops
    /// where it still has the job.
    #[serde(default)]
    delivery: Delivery,
}

fn default_prefix() -> String {
    "bull".to_owned()
}

fn topic() -> String {
    "{topic}".to_owned()
}

fn payload() -> BodyFormat {
    BodyFormat::Payload
}

fn parse(table: toml::Table) -> Result<Box<dyn Target>, InvalidTarget> {
    let (server, settings) = redis_script::parse_table::<BullmqSettings>(table)?;
    let options = Options::checked(
        settings.attempts,
        settings.backoff,
        settings.priority,
        settings.remove_on_complete,
        settings.remove_on_fail,
    )?;
    Ok(Box::new(BullmqTarget {
        server,
        destination: qualified(&settings.prefix, &settings.queue)?,
        name: redis_script::parse_name("name", &settings.name)?,
        options,
        format: settings.format,
        source: redis_script::check_event_source(settings.cloudevents_source)?,
        delivery: settings.delivery,
    }))
}

/// What the keys of each queue begin with: the prefix, a colon and the queue's name.
fn qualified(prefix: &str, queue: &str) -> Result<Template, InvalidTarget> {
    let invalid = |key: &str, message: &str| InvalidTarget {
        key: key.to_owned(),
        message: format!("{key} {message}"),
    };
    if prefix.is_empty() {
        return Err(invalid("prefix", "must not be empty; BullMQ's own is \"bull\""));
    }
    redis_script::parse_name("queue", queue)?;
    let has_colon = |piece: &template::Piece| matches!(piece, template::Piece::Text(text) if text.contains(':'));
    if template::pieces(queue).is_ok_and(|pieces| pieces.iter().any(has_colon)) {
        let message = "must have no colon, which names of BullMQ's queues must not; what stands \
                       before it belongs into prefix";
        return Err(invalid("queue", message));
    }
    let prefix = prefix.replace('{', "{{").replace('}', "}}");
    redis_script::parse_name("queue", &format!("{prefix}:{queue}"))
}

/// Checked settings.
#[derive(Debug)]
struct BullmqTarget {
    server: RedisServer,
    /// Prefix and queue.
    destination: Template,
    /// Of jobs.
    name: Template,
    options: Options,
    format: BodyFormat,
    source: String,
    delivery: Delivery,
}

impl BullmqTarget {
    fn at<'a>(&'a self, lane: &'a Lane) -> Connect<'a> {
        let (server, destination, delivery) = (&self.server, &self.destination, self.delivery);
        Connect { server, lane, destination, delivery }
    }
}

#[async_trait]
impl Target for BullmqTarget {
    fn describe(&self) -> String {
        format!("{} queue {}", self.server, self.destination.source())
    }

    fn destination(&self) -> Option<&Template> {
        Some(&self.destination)
    }

    async fn preflight(&self) -> Result<Vec<String>, SinkError> {
        let (server, destination) = (&self.server, &self.destination);
        let connection =
            redis_script::probe::<BullmqScript>(server, destination, self.delivery).await?;
        Ok(connection.preflight(Vec::new()).await)
    }

    async fn connect(&self, _context: &Context, lane: &Lane) -> Result<Box<dyn Sink>, SinkError> {
        let mut default = String::new();
        self.options.write(Own::default(), &mut default);
        let script = || BullmqScript {
            prefix_bytes: prefix_of(&self.destination).len(),
            name: self.name.clone(),
            default: default.clone(),
            options: self.options.clone(),
            is_payload: self.format == BodyFormat::Payload,
            body: Body::new(self.format, &self.source),
            text: String::new(),
        };
        let sink = ScriptSink::connect(&self.at(lane), script).await?;
        Ok(Box::new(sink))
    }
}

/// BullMQ's prefix, of what [`qualified`] has made: queues have no colon in their names.
fn prefix_of(destination: &Template) -> &str {
    destination.prefix().rsplit_once(':').map_or("", |(prefix, _)| prefix)
}

/// What a call of `bullmq.lua` holds.
struct BullmqScript {
    prefix_bytes: usize,
    name: Template,
    /// The options of most jobs, up to their id.
    default: String,
    options: Options,
    is_payload: bool,
    body: Body,
    /// A name or options in the making.
    text: String,
}

impl BullmqScript {
    /// The name of the job for `message`.
    fn name_of<'a>(&'a mut self, message: &MessageRef<'a>) -> Result<&'a str, String> {
        match message.headers.get(NAME_HEADER) {
            Some("") => Err(format!("the header {NAME_HEADER:?} is empty")),
            Some(name) => Ok(name),
            None => {
                let rendered = self.name.render(message, &mut self.text);
                rendered.map_err(|error| error.to_string())?;
                Ok(&self.text)
            }
        }
    }
}

impl Script for BullmqScript {
    const TEXT: &'static str =
        concat!(include_str!("redis_script/place.lua"), include_str!("bullmq.lua"));
    const FREE_TEXT: &'static str =
        concat!(include_str!("redis_script/free.lua"), include_str!("bullmq.lua"));
    const DESTINATION: &'static str = "queue";
    const ARE_KEYS: bool = true;
    /// A job is seven commands, and takes several times as long as an element of a list.
    const MESSAGES_MAX: usize = 100;
    /// The options that a message has of its own.
    type Shape = Option<Own>;

    /// Where the queue's name would stand, nothing does: BullMQ refuses a queue without one, so none of
    /// its keys can be named so.
    fn place_prefix(destination: &Template) -> String {
        format!("{}::posthaste:place:", prefix_of(destination))
    }

    fn hash_tag_remedy(destination: &Template) -> String {
        let prefix = prefix_of(destination);
        format!(
            "give the queues a prefix with a hash tag, for example prefix = \"{{bull}}\" instead of \
             {prefix:?}, and BullMQ the same"
        )
    }

    fn configure(&self, command: &mut Cmd) {
        command.arg(&self.default).arg(self.options.priority());
    }

    fn check_name(&self, destination: &str) -> Result<(), String> {
        let queue = destination.get(self.prefix_bytes + 1..).unwrap_or_default();
        if queue.contains(':') {
            return Err(format!(
                "its queue would be {queue:?}, and names of BullMQ's queues have no colon"
            ));
        }
        Ok(())
    }

    fn plan<'a>(
        &mut self,
        message: &MessageRef<'a>,
        _named: &mut Option<MessageRef<'a>>,
        plan: &mut Vec<u8>,
    ) -> Result<Option<Own>, String> {
        self.name_of(message)?;
        let payload = message.payload;
        if self.is_payload
            && !payload.is_empty()
            && let Err(error) = serde_json::from_slice::<&RawValue>(payload)
        {
            return Err(format!(
                "its payload is not JSON, which the data of a job must be (line {}, column {}); \
                 format = \"envelope\" takes any payload",
                error.line(),
                error.column()
            ));
        }
        let own = Own::of(message)?;
        plan.push(u8::from(own.is_some()));
        Ok(own)
    }

    fn write(&mut self, message: &MessageRef<'_>, own: Option<Own>, command: &mut Cmd) {
        if let Some(own) = own {
            let priority = own.priority.unwrap_or(self.options.priority());
            self.options.write(own, &mut self.text);
            command.arg(&self.text).arg(priority).arg(own.delay_ms);
        }
        command.arg(message.id.hyphenated().encode_lower(&mut [0; 36]).as_bytes());
        // It was made once already, when the call was planned.
        command.arg(self.name_of(message).unwrap_or_default());
        let data = if self.is_payload && message.payload.is_empty() {
            NO_DATA
        } else {
            self.body.of(message)
        };
        command.arg(data).arg(options::milliseconds(message.enqueued_at));
    }

    fn misfit(&self, details: &[Value]) -> Option<String> {
        let text = |value: &Value| match value {
            Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        };
        let [queue, version] = details else { return None };
        let (queue, version) = (text(queue)?, text(version)?);
        Some(format!(
            "queue {queue:?} is of version {version:?}, as its meta says, and known are \
             {KNOWN_VERSIONS}; nothing was added"
        ))
    }
}
