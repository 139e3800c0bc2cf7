//! `redis-list`: pushes messages onto Redis lists, as queues for workers.
//!
//! Says what an element is and where it goes; how batches become calls of `redis_list.lua`, and
//! how order is kept, is `redis_script`'s job. It never takes an element off a list: a list that
//! is full holds its messages back.

use async_trait::async_trait;
use posthaste_core::{MessageRef, Template};
use posthaste_redis::{RedisServer, RedisSettings};
use redis::Cmd;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    body::{Body, BodyFormat},
    redis_script::{self, Connect, Delivery, Script, ScriptSink},
};
use crate::{
    envelope,
    sink::{
        Context, InvalidTarget, Lane, Outcome, PlaceKeeping, Scope, Sink, SinkError, SinkKind,
        Target,
    },
};

/// The registry entry.
pub(super) const KIND: SinkKind = SinkKind {
    name: "redis-list",
    about: "pushes messages onto Redis lists",
    place: PlaceKeeping::Held,
    parse,
    schema: || RedisSettings::extend_schema(schemars::schema_for!(ListSettings)),
};

/// Settings of a `redis-list` sink.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListSettings {
    /// Name of the list: text with `{topic}`, `{key}` or `{header:NAME}`. A message that lacks the
    /// value is rejected. The text before the first of them also begins the name of the hash in
    /// which the relay keeps its place: `posthaste:place:SUBSCRIPTION` with the default. In a Redis
    /// Cluster it must hold a hash tag, `{{posthaste}}:{topic}`, whatever `delivery` says.
    #[serde(default = "default_list")]
    list: String,
    /// The end of the list that messages are pushed onto. Consumers take them in order from the
    /// other end.
    #[serde(default)]
    side: Side,
    /// How many elements a list may hold. Messages for a full one are held back, and their
    /// subscription with them, until consumers have made room: nothing is ever trimmed. Unlimited
    /// unless given.
    maxlen: Option<u64>,
    /// What an element is: `payload`, `envelope` or `cloudevents`.
    #[serde(default = "payload")]
    format: BodyFormat,
    /// The `source` of events, a URI reference.
    #[serde(default = "envelope::default_source")]
    cloudevents_source: String,
    /// `exactly-once`: the subscription's place is kept in Redis, together with the messages.
    /// `at-least-once`: no place is kept, and a fault repeats what was in flight.
    #[serde(default)]
    delivery: Delivery,
}

/// An end of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Side {
    /// `LPUSH`: consumers use `BRPOP`, or `BLMOVE` from the right. `LRANGE name 0 -1` shows the
    /// newest first.
    #[default]
    Left,
    /// `RPUSH`: consumers use `BLPOP`, or `BLMOVE` from the left.
    Right,
}

fn default_list() -> String {
    "posthaste:{topic}".to_owned()
}

fn payload() -> BodyFormat {
    BodyFormat::Payload
}

fn parse(table: toml::Table) -> Result<Box<dyn Target>, InvalidTarget> {
    let (server, settings) = redis_script::parse_table::<ListSettings>(table)?;
    Ok(Box::new(ListTarget {
        server,
        list: redis_script::parse_name("list", &settings.list)?,
        side: settings.side,
        maxlen: redis_script::check_maxlen(settings.maxlen)?,
        format: settings.format,
        source: redis_script::check_event_source(settings.cloudevents_source)?,
        delivery: settings.delivery,
    }))
}

/// Checked settings.
#[derive(Debug)]
struct ListTarget {
    server: RedisServer,
    list: Template,
    side: Side,
    /// 0 for no limit.
    maxlen: u64,
    format: BodyFormat,
    source: String,
    delivery: Delivery,
}

impl ListTarget {
    fn at<'a>(&'a self, lane: &'a Lane) -> Connect<'a> {
        let (server, destination, delivery) = (&self.server, &self.list, self.delivery);
        Connect { server, lane, destination, delivery }
    }
}

#[async_trait]
impl Target for ListTarget {
    fn describe(&self) -> String {
        format!("{} list {}", self.server, self.list.source())
    }

    fn destination(&self) -> Option<&Template> {
        Some(&self.list)
    }

    async fn preflight(&self) -> Result<Vec<String>, SinkError> {
        let (server, list) = (&self.server, &self.list);
        let connection = redis_script::probe::<ListScript>(server, list, self.delivery).await?;
        Ok(connection.preflight(Vec::new()).await)
    }

    async fn connect(&self, _context: &Context, lane: &Lane) -> Result<Box<dyn Sink>, SinkError> {
        let script = || ListScript {
            side: self.side,
            maxlen: self.maxlen,
            body: Body::new(self.format, &self.source),
        };
        let sink = ScriptSink::connect(&self.at(lane), script).await?;
        Ok(Box::new(sink))
    }
}

/// What a call of `redis_list.lua` holds.
struct ListScript {
    side: Side,
    maxlen: u64,
    body: Body,
}

impl Script for ListScript {
    const TEXT: &'static str =
        concat!(include_str!("redis_script/place.lua"), include_str!("redis_list.lua"));
    const FREE_TEXT: &'static str =
        concat!(include_str!("redis_script/free.lua"), include_str!("redis_list.lua"));
    const DESTINATION: &'static str = "list";
    const ARE_KEYS: bool = true;
    type Shape = ();

    fn configure(&self, command: &mut Cmd) {
        let push = match self.side {
            Side::Left => "LPUSH",
            Side::Right => "RPUSH",
        };
        command.arg(self.maxlen).arg(push);
    }

    fn plan<'a>(
        &mut self,
        _message: &MessageRef<'a>,
        _named: &mut Option<MessageRef<'a>>,
        _plan: &mut Vec<u8>,
    ) -> Result<(), String> {
        Ok(())
    }

    fn write(&mut self, message: &MessageRef<'_>, _shape: (), command: &mut Cmd) {
        command.arg(self.body.of(message));
    }

    fn explain(&mut self, list: &str, elements: i64) -> Option<Outcome> {
        let maxlen = self.maxlen;
        let reason = format!("list {list:?} holds {elements} elements, and maxlen is {maxlen}");
        Some(Outcome::Retry { scope: Scope::Destination, reason })
    }
}
