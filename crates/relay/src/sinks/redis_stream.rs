//! `redis-stream`: appends messages to Redis streams.
//!
//! Says what an entry holds and where it goes; how batches become calls of `redis_stream.lua`, and
//! how order is kept, is `redis_script`'s job. It makes no consumer groups and deletes nothing but
//! what `maxlen` says.

mod entry;
mod groups;

use async_trait::async_trait;
use posthaste_core::{MessageRef, Template};
use posthaste_redis::{RedisServer, RedisSettings};
use redis::Cmd;
use schemars::JsonSchema;
use serde::Deserialize;

use super::redis_script::{self, Connect, Delivery, Script, ScriptSink};
use crate::{
    envelope::{self, Format},
    sink::{Context, InvalidTarget, Lane, PlaceKeeping, Sink, SinkError, SinkKind, Target},
};
use entry::{Body, Shape, VALUES_MAX};

/// The registry entry.
pub(super) const KIND: SinkKind = SinkKind {
    name: "redis-stream",
    about: "appends messages to Redis streams",
    place: PlaceKeeping::Held,
    parse,
    schema: || RedisSettings::extend_schema(schemars::schema_for!(StreamSettings)),
};

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
    /// the value is rejected. The text before the first of them also begins the name of the hash
    /// in which the relay keeps its place: `posthaste:place:SUBSCRIPTION` with the default. In a Redis
    /// Cluster it must hold a hash tag, `{{posthaste}}:{topic}`, whatever `delivery` says.
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
    /// `exactly-once`: the subscription's place is kept in Redis, together with the messages.
    /// `at-least-once`: no place is kept, and a fault repeats what was in flight.
    #[serde(default)]
    delivery: Delivery,
}

fn default_stream() -> String {
    "posthaste:{topic}".to_owned()
}

fn parse(table: toml::Table) -> Result<Box<dyn Target>, InvalidTarget> {
    let (server, settings) = redis_script::parse_table::<StreamSettings>(table)?;
    Ok(Box::new(StreamTarget {
        server,
        stream: redis_script::parse_name("stream", &settings.stream)?,
        maxlen: redis_script::check_maxlen(settings.maxlen)?,
        format: settings.format,
        source: redis_script::check_event_source(settings.cloudevents_source)?,
        delivery: settings.delivery,
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
    delivery: Delivery,
}

impl StreamTarget {
    fn at<'a>(&'a self, lane: &'a Lane) -> Connect<'a> {
        let (server, destination, delivery) = (&self.server, &self.stream, self.delivery);
        Connect { server, lane, destination, delivery }
    }
}

#[async_trait]
impl Target for StreamTarget {
    fn describe(&self) -> String {
        format!("{} stream {}", self.server, self.stream.source())
    }

    fn destination(&self) -> Option<&Template> {
        Some(&self.stream)
    }

    async fn preflight(&self) -> Result<Vec<String>, SinkError> {
        let (server, stream) = (&self.server, &self.stream);
        let connection = redis_script::probe::<StreamScript>(server, stream, self.delivery).await?;
        let more = match self.maxlen {
            0 => Vec::new(),
            maxlen => groups::findings(&connection, stream, maxlen).await,
        };
        Ok(connection.preflight(more).await)
    }

    async fn connect(&self, _context: &Context, lane: &Lane) -> Result<Box<dyn Sink>, SinkError> {
        let script =
            || StreamScript { maxlen: self.maxlen, body: Body::new(self.format, &self.source) };
        let sink = ScriptSink::connect(&self.at(lane), script).await?;
        Ok(Box::new(sink))
    }
}

/// What a call of `redis_stream.lua` holds.
struct StreamScript {
    maxlen: u64,
    body: Body,
}

impl Script for StreamScript {
    const TEXT: &'static str =
        concat!(include_str!("redis_script/place.lua"), include_str!("redis_stream.lua"));
    const FREE_TEXT: &'static str =
        concat!(include_str!("redis_script/free.lua"), include_str!("redis_stream.lua"));
    const DESTINATION: &'static str = "stream";
    const ARE_KEYS: bool = true;
    type Shape = Shape;

    fn configure(&self, command: &mut Cmd) {
        command.arg(self.maxlen);
    }

    fn plan<'a>(
        &mut self,
        message: &MessageRef<'a>,
        named: &mut Option<MessageRef<'a>>,
        plan: &mut Vec<u8>,
    ) -> Result<Shape, String> {
        let (shape, values) = self.body.shape(message, named.as_ref());
        if values > VALUES_MAX {
            return Err(format!("it has more than {VALUES_MAX} fields; send fewer headers"));
        }
        if shape != Shape::Free {
            *named = Some(*message);
        }
        let [high, low] = (values as u16).to_be_bytes();
        plan.extend([shape as u8, high, low]);
        Ok(shape)
    }

    fn write(&mut self, message: &MessageRef<'_>, shape: Shape, command: &mut Cmd) {
        self.body.write(message, shape, command);
    }
}
