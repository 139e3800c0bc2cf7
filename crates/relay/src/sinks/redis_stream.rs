//! `redis-stream`: appends messages to Redis streams.
//!
//! One script call per batch (`redis_stream.lua`), so that a batch costs one round trip and Redis
//! says of every message whether it has it. Each stream is a destination and keeps its order.
//! It makes no consumer groups and deletes nothing but what `maxlen` says; connections are
//! `redis_connection`'s job, retries the pipeline's.

mod call;
mod entry;

use async_trait::async_trait;
use posthaste_core::Template;
use redis::{ErrorKind, RedisError, ServerErrorKind, Value};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    outcomes::Outcomes,
    redis_connection::{RedisConnection, RedisServer, RedisSettings},
};
use crate::{
    envelope::{self, Format},
    sink::{
        Batch, Context, InvalidTarget, PlaceKeeping, Receipt, Sink, SinkError, SinkKind, Target,
    },
};
use call::Call;
use entry::Body;

/// The registry entry.
pub(super) const KIND: SinkKind = SinkKind {
    name: "redis-stream",
    about: "appends messages to Redis streams",
    place: PlaceKeeping::None,
    parse,
    schema: || RedisSettings::extend_schema(schemars::schema_for!(StreamSettings)),
};

/// Messages one script call appends at most: about 3 ms of Redis, which serves nobody else
/// meanwhile.
const SCRIPT_MESSAGES_MAX: usize = 1_000;
const SCRIPT: &str = include_str!("redis_stream.lua");
const APPENDING: &str = "appending a batch";

/// Settings of a `redis-stream` sink.
///
/// An entry of the format `raw` has the fields `id`, `topic`, `key` (if the message has one),
/// `content_type`, `enqueued_at` (RFC 3339, UTC, microseconds), `correlation_id` (if it has one),
/// each header as `h:<name>`, and last `payload`, the bytes as they were enqueued. An entry of the
/// format `cloudevents` has the one field `cloudevent`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct StreamSettings {
    /// Name of the stream: text with `{topic}`, `{key}` or `{header:NAME}`. A message that lacks
    /// the value is rejected.
    #[serde(default = "default_stream")]
    stream: String,
    /// About how many entries a stream keeps (`MAXLEN ~`): it is trimmed before each batch, so it
    /// may hold one batch more. Unlimited unless given.
    maxlen: Option<u64>,
    /// `raw` or `cloudevents`.
    #[serde(default)]
    format: Format,
    /// The `source` of events, a URI reference.
    #[serde(default = "envelope::default_source")]
    cloudevents_source: String,
}

fn default_stream() -> String {
    "posthaste:{topic}".to_owned()
}

fn parse(mut table: toml::Table) -> Result<Box<dyn Target>, InvalidTarget> {
    let invalid = |key: &str, message| InvalidTarget { key: key.to_owned(), message };
    let server = RedisSettings::take_from(&mut table)?.check()?;
    let settings: StreamSettings =
        table.try_into().map_err(|error: toml::de::Error| invalid("", error.to_string()))?;
    let stream = Template::parse(&settings.stream)
        .map_err(|error| invalid("stream", format!("stream: {error}")))?;
    if settings.maxlen == Some(0) {
        let message = "maxlen must be at least 1, not 0; leave it out for no limit".to_owned();
        return Err(invalid("maxlen", message));
    }
    if settings.cloudevents_source.is_empty() {
        let message = "cloudevents_source must not be empty; name this system, for example \
                       /shop/orders"
            .to_owned();
        return Err(invalid("cloudevents_source", message));
    }
    Ok(Box::new(StreamTarget {
        server,
        stream,
        maxlen: settings.maxlen.unwrap_or(0),
        format: settings.format,
        source: settings.cloudevents_source,
    }))
}

/// Checked settings.
#[derive(Debug)]
struct StreamTarget {
    server: RedisServer,
    stream: Template,
    /// 0 for no limit.
    maxlen: u64,
    format: Format,
    source: String,
}

#[async_trait]
impl Target for StreamTarget {
    fn describe(&self) -> String {
        format!("{} stream {}", self.server, self.stream.source())
    }

    async fn connect(&self, _context: &Context) -> Result<Box<dyn Sink>, SinkError> {
        let mut sink = StreamSink {
            connection: self.server.open().await?,
            call: Call::new(self.stream.clone(), self.maxlen, Body::new(self.format, &self.source)),
            script_sha: redis::Script::new(SCRIPT).get_hash().to_owned(),
        };
        // Here and not at the first batch, so that a missing permission shows at once.
        let loaded = sink.load_script().await;
        loaded.map_err(|error| sink.connection.fault("loading the script", error))?;
        Ok(Box::new(sink))
    }
}

struct StreamSink {
    connection: RedisConnection,
    call: Call,
    script_sha: String,
}

#[async_trait]
impl Sink for StreamSink {
    async fn publish(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
        let mut outcomes = Outcomes::accepted(batch.len());
        self.call.begin_batch();
        for start in (0..batch.len()).step_by(SCRIPT_MESSAGES_MAX) {
            let part = batch.slice(start..batch.len().min(start + SCRIPT_MESSAGES_MAX));
            if !self.call.plan(&part, start, &mut outcomes) {
                continue;
            }
            self.call.encode(&part, &self.script_sha);
            let answer = self.append().await?;
            let is_stopped = self.call.apply(&answer, &mut outcomes);
            let what = "the script answered what it never should";
            if is_stopped.ok_or_else(|| self.connection.unexpected(APPENDING, what))? {
                break;
            }
        }
        Ok(outcomes.into_receipt())
    }
}

impl StreamSink {
    /// Runs the script; loads it again where the server has forgotten it (`SCRIPT FLUSH`, another
    /// server behind the same name). `NOSCRIPT` means that nothing was appended.
    async fn append(&mut self) -> Result<Value, SinkError> {
        let mut answer = self.connection.query(self.call.command()).await;
        if answer.as_ref().is_err_and(is_forgotten) {
            answer = self.load_script().await;
            if answer.is_ok() {
                answer = self.connection.query(self.call.command()).await;
            }
        }
        answer.map_err(|error| self.connection.fault(APPENDING, error))
    }

    async fn load_script(&mut self) -> Result<Value, RedisError> {
        self.connection.query(redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT)).await
    }
}

fn is_forgotten(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
