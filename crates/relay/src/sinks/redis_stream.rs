//! `redis-stream`: appends messages to Redis streams.
//!
//! A batch goes out as a few script calls (`redis_stream.lua`), the next one on its way while Redis
//! works on the last, and Redis says of every message whether it has it. Each stream is a
//! destination and keeps its order: a call names the place that it continues from, so that
//! whatever follows a call that failed, or arrives after its connection was given up, does nothing.
//! It makes no consumer groups and deletes nothing but what `maxlen` says; connections are
//! `redis_connection`'s job, retries the pipeline's.

mod call;
mod entry;

use std::collections::HashMap;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream::FuturesOrdered};
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
        Batch, Context, InvalidTarget, PlaceKeeping, Receipt, Sink, SinkError, SinkErrorKind,
        SinkKind, Target,
    },
};
use call::{Answer, Call, Frame};
use entry::Body;

/// The registry entry.
pub(super) const KIND: SinkKind = SinkKind {
    name: "redis-stream",
    about: "appends messages to Redis streams",
    place: PlaceKeeping::None,
    parse,
    schema: || RedisSettings::extend_schema(schemars::schema_for!(StreamSettings)),
};

/// Calls that are under way at once: one that Redis works on and one that waits for it there.
const CALLS_IN_FLIGHT: usize = 2;
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
    /// the value is rejected. The text before the first of them also begins the name of the string
    /// in which the relay keeps its place: `posthaste:place:SUBSCRIPTION` with the default.
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

    async fn connect(
        &self,
        _context: &Context,
        subscription: &str,
    ) -> Result<Box<dyn Sink>, SinkError> {
        let connection = self.server.open().await?;
        // Here and not at the first batch, so that a missing permission shows at once.
        load_script(&connection).await?;
        let call =
            || Call::new(self.stream.clone(), self.maxlen, Body::new(self.format, &self.source));
        Ok(Box::new(StreamSink {
            connection,
            script_sha: redis::Script::new(SCRIPT).get_hash().to_owned(),
            place_key: format!("{}place:{subscription}", self.stream.prefix()),
            place: None,
            idle: std::iter::repeat_with(call).take(CALLS_IN_FLIGHT).collect(),
        }))
    }
}

struct StreamSink {
    connection: RedisConnection,
    script_sha: String,
    place_key: String,
    /// Where the last call left the place; `None` before the first.
    place: Option<u64>,
    /// Calls that are not under way, of [`CALLS_IN_FLIGHT`] in all.
    idle: Vec<Call>,
}

#[async_trait]
impl Sink for StreamSink {
    async fn publish(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
        let Self { connection, script_sha, place_key, place, idle } = self;
        let connection = &*connection;
        let mut outcomes = Outcomes::accepted(batch.len());
        let mut failed = HashMap::new();
        let mut under_way = FuturesOrdered::new();
        let mut is_reloaded = false;
        let (mut start, mut from) = (0, *place);
        loop {
            while start < batch.len()
                && let Some(mut call) = idle.pop()
            {
                let to = from.map_or_else(first_place, |place| place + 1);
                let frame = Frame { script_sha, place_key, from, to };
                let is_planned = call.prepare(batch, start, &frame, &mut failed, &mut outcomes);
                start = call.part().end;
                if is_planned {
                    from = Some(to);
                    under_way.push_back(async move {
                        let answer = connection.query(call.command()).await;
                        (call, to, answer)
                    });
                } else {
                    idle.push(call);
                }
            }
            let Some((call, to, answer)) = under_way.next().await else { break };
            let part = call.part();
            let resume_at = match answer {
                Ok(value) => match call.read(&value, &mut failed, &mut outcomes) {
                    Some(Answer::Appended) => {
                        *place = Some(to);
                        idle.push(call);
                        continue;
                    }
                    Some(Answer::Refused) => Ok(part.end),
                    Some(Answer::Stopped) => Ok(batch.len()),
                    Some(Answer::Moved) => Err(displaced(place_key)),
                    None => Err(connection.unexpected(APPENDING, "no answer of the script's")),
                },
                Err(error) if is_forgotten(&error) && !is_reloaded => {
                    is_reloaded = true;
                    load_script(connection).await.map(|_| part.start)
                }
                Err(error) => Err(connection.fault(APPENDING, error)),
            };
            idle.push(call);
            // What was sent behind it finds the place unmoved and does nothing.
            while let Some((call, ..)) = under_way.next().await {
                idle.push(call);
            }
            start = match resume_at {
                Ok(at) => at,
                Err(error) if part.start == 0 => return Err(error),
                // The parts before it were accepted; it and what follows are in doubt.
                Err(error) => {
                    outcomes.retry_sink_from(part.start, &error.to_string());
                    batch.len()
                }
            };
            from = *place;
        }
        Ok(outcomes.into_receipt())
    }
}

/// Loads the script: at the start, and where the server has forgotten it (`SCRIPT FLUSH`, another
/// server behind the same name). `NOSCRIPT` means that nothing was appended.
async fn load_script(connection: &RedisConnection) -> Result<Value, SinkError> {
    let loaded = connection.query(redis::cmd("SCRIPT").arg("LOAD").arg(SCRIPT)).await;
    loaded.map_err(|error| connection.fault("loading the script", error))
}

fn is_forgotten(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// The place of a new connection. Random, so that no call of an earlier connection continues
/// from it.
fn first_place() -> u64 {
    rand::random::<u64>() >> 1
}

fn displaced(place_key: &str) -> SinkError {
    let doing = format!("the place {place_key:?} in Redis was moved or removed by another");
    SinkError::new(SinkErrorKind::Displaced, doing)
}
