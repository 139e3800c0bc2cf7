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
        let call =
            || Call::new(self.stream.clone(), self.maxlen, Body::new(self.format, &self.source));
        let mut sink = StreamSink {
            connection: self.server.open().await?,
            call: call(),
            next: call(),
            script_sha: redis::Script::new(SCRIPT).get_hash().to_owned(),
        };
        // Here and not at the first batch, so that a missing permission shows at once.
        let loaded = load_script(&mut sink.connection).await;
        loaded.map_err(|error| sink.connection.fault("loading the script", error))?;
        Ok(Box::new(sink))
    }
}

/// Two calls take turns: while Redis works on one, the other is made ready.
struct StreamSink {
    connection: RedisConnection,
    call: Call,
    next: Call,
    script_sha: String,
}

#[async_trait]
impl Sink for StreamSink {
    async fn publish(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
        let Self { connection, call, next, script_sha } = self;
        let mut outcomes = Outcomes::accepted(batch.len());
        call.begin_batch();
        let mut is_planned = call.prepare(batch, 0, script_sha, &mut outcomes);
        for start in (0..batch.len()).step_by(SCRIPT_MESSAGES_MAX) {
            let following = start + SCRIPT_MESSAGES_MAX;
            next.begin_batch_after(call);
            let answer =
                async { if is_planned { append(connection, call).await } else { Ok(Value::Nil) } };
            let prepare = async { next.prepare(batch, following, script_sha, &mut outcomes) };
            let (answer, is_next_planned) = tokio::join!(answer, prepare);
            is_planned = is_next_planned;
            match answer {
                Ok(Value::Nil) => {}
                Ok(answer) => {
                    let what = "the script answered what it never should";
                    let is_stopped = call.apply(&answer, &mut outcomes);
                    if is_stopped.ok_or_else(|| connection.unexpected(APPENDING, what))? {
                        break;
                    }
                    // What was refused decides what may follow: the next call is made anew.
                    next.begin_batch_after(call);
                    is_planned = next.prepare(batch, following, script_sha, &mut outcomes);
                }
                Err(error) if start == 0 => return Err(error),
                // The parts before it were accepted; only this one is in doubt.
                Err(error) => {
                    outcomes.retry_sink_from(start, &error.to_string());
                    break;
                }
            }
            std::mem::swap(call, next);
        }
        Ok(outcomes.into_receipt())
    }
}

/// Runs the script; loads it again where the server has forgotten it (`SCRIPT FLUSH`, another
/// server behind the same name). `NOSCRIPT` means that nothing was appended.
async fn append(connection: &mut RedisConnection, call: &Call) -> Result<Value, SinkError> {
    let mut answer = connection.query(call.command()).await;
    if answer.as_ref().is_err_and(is_forgotten) {
        answer = load_script(connection).await;
        if answer.is_ok() {
            answer = connection.query(call.command()).await;
        }
    }
    answer.map_err(|error| connection.fault(APPENDING, error))
}

async fn load_script(connection: &mut RedisConnection) -> Result<Value, RedisError> {
    connection.query(redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT)).await
}

fn is_forgotten(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
