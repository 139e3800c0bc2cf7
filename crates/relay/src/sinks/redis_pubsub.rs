//! `redis-pubsub`: publishes messages to Redis channels, for whoever listens at that moment.
//!
//! Says what is published where, and what becomes of a message that nobody received; how batches
//! become calls of `redis_pubsub.lua`, and how order is kept, is `redis_script`'s job. Accepted
//! means that Redis has handed the message to its subscribers' connections: it keeps nothing for
//! one that is away, and drops one that is too slow.

mod unheard;

use async_trait::async_trait;
use posthaste_core::{MessageRef, Template};
use posthaste_redis::{RedisServer, RedisSettings};
use redis::Cmd;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    body::{Body, BodyFormat},
    redis_script::{self, Connect, Delivery, Script, ScriptSink},
};
use crate::{
    envelope,
    sink::{
        Batch, Context, InvalidTarget, Lane, Mark, Outcome, PlaceKeeping, Receipt, Scope, Sink,
        SinkError, SinkKind, Target,
    },
};
use unheard::{Change, Unheard};

/// The registry entry.
pub(super) const KIND: SinkKind = SinkKind {
    name: "redis-pubsub",
    about: "publishes messages to Redis channels",
    place: PlaceKeeping::Held,
    parse,
    schema: || RedisSettings::extend_schema(schemars::schema_for!(PubsubSettings)),
};

/// Settings of a `redis-pubsub` sink.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PubsubSettings {
    /// Name of the channel: text with `{topic}`, `{key}` or `{header:NAME}`. A message that lacks
    /// the value is rejected. The text before the first of them also begins the name of the hash
    /// in which the relay keeps its place: `posthaste:place:SUBSCRIPTION` with the default.
    #[serde(default = "default_channel")]
    channel: String,
    /// What becomes of a message that no subscriber received: `accept`, `wait` or `park`. Redis
    /// counts those that are connected to the same server: where they listen on replicas or on
    /// other nodes of a cluster, only `accept` is of use.
    #[serde(default)]
    no_subscriber: NoSubscriber,
    /// What is published: `payload`, `envelope` or `cloudevents`.
    #[serde(default = "envelope")]
    format: BodyFormat,
    /// The `source` of events, a URI reference.
    #[serde(default = "envelope::default_source")]
    cloudevents_source: String,
    /// `exactly-once`: the subscription's place is kept in Redis, together with the messages.
    /// `at-least-once`: no place is kept, and a fault repeats what was in flight.
    #[serde(default)]
    delivery: Delivery,
}

/// What becomes of a message that no subscriber received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum NoSubscriber {
    /// It counts as published. The relay warns at the first one and says how many there were.
    #[default]
    Accept,
    /// It is published again until somebody has received it, and holds its subscription back
    /// meanwhile.
    Wait,
    /// It is rejected, and the subscription's failure policy parks it.
    Park,
}

fn default_channel() -> String {
    "posthaste:{topic}".to_owned()
}

fn envelope() -> BodyFormat {
    BodyFormat::Envelope
}

fn parse(table: toml::Table) -> Result<Box<dyn Target>, InvalidTarget> {
    let (server, settings) = redis_script::parse_table::<PubsubSettings>(table)?;
    Ok(Box::new(PubsubTarget {
        server,
        channel: redis_script::parse_name("channel", &settings.channel)?,
        no_subscriber: settings.no_subscriber,
        format: settings.format,
        source: redis_script::check_event_source(settings.cloudevents_source)?,
        delivery: settings.delivery,
    }))
}

/// Checked settings.
#[derive(Debug)]
struct PubsubTarget {
    server: RedisServer,
    channel: Template,
    no_subscriber: NoSubscriber,
    format: BodyFormat,
    source: String,
    delivery: Delivery,
}

impl PubsubTarget {
    fn at<'a>(&'a self, lane: &'a Lane) -> Connect<'a> {
        let (server, destination, delivery) = (&self.server, &self.channel, self.delivery);
        Connect { server, lane, destination, delivery }
    }
}

#[async_trait]
impl Target for PubsubTarget {
    fn describe(&self) -> String {
        format!("{} channel {}", self.server, self.channel.source())
    }

    fn destination(&self) -> Option<&Template> {
        Some(&self.channel)
    }

    async fn preflight(&self) -> Result<Vec<String>, SinkError> {
        let (server, channel) = (&self.server, &self.channel);
        let connection =
            redis_script::probe::<PubsubScript>(server, channel, self.delivery).await?;
        Ok(connection.preflight(Vec::new()).await)
    }

    async fn connect(&self, _context: &Context, lane: &Lane) -> Result<Box<dyn Sink>, SinkError> {
        let script = || PubsubScript {
            no_subscriber: self.no_subscriber,
            body: Body::new(self.format, &self.source),
            unheard: 0,
        };
        let inner = ScriptSink::connect(&self.at(lane), script).await?;
        let subscription = lane.name.clone();
        Ok(Box::new(PubsubSink { inner, subscription, unheard: Unheard::default() }))
    }
}

struct PubsubSink {
    inner: ScriptSink<PubsubScript>,
    subscription: String,
    unheard: Unheard,
}

#[async_trait]
impl Sink for PubsubSink {
    async fn publish(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
        let published = self.inner.publish(batch).await;
        let unheard = self.inner.scripts().map(|script| std::mem::take(&mut script.unheard)).sum();
        match self.unheard.count(unheard, Instant::now()) {
            Some(Change::Deserted) => tracing::warn!(
                subscription = self.subscription,
                "published to a channel without subscribers; no_subscriber = \"wait\" would hold \
                 such messages"
            ),
            Some(Change::Attended { missed }) => self.report(missed),
            None => {}
        }
        published
    }

    fn mark(&self) -> Option<&Mark> {
        self.inner.mark()
    }

    fn calls(&self) -> Option<i64> {
        self.inner.calls()
    }

    async fn close(&mut self) -> Result<(), SinkError> {
        if self.unheard.messages() > 0 {
            self.report(self.unheard.messages());
        }
        self.inner.close().await
    }
}

impl PubsubSink {
    fn report(&self, messages: u64) {
        let subscription = &self.subscription;
        tracing::warn!(subscription, messages, "messages were published to nobody");
    }
}

/// What a call of `redis_pubsub.lua` holds.
struct PubsubScript {
    no_subscriber: NoSubscriber,
    body: Body,
    /// Messages that were accepted although nobody received them; the sink takes their number.
    unheard: u64,
}

impl Script for PubsubScript {
    const TEXT: &'static str =
        concat!(include_str!("redis_script/place.lua"), include_str!("redis_pubsub.lua"));
    const FREE_TEXT: &'static str =
        concat!(include_str!("redis_script/free.lua"), include_str!("redis_pubsub.lua"));
    const DESTINATION: &'static str = "channel";
    const ARE_KEYS: bool = false;
    type Shape = ();

    fn configure(&self, command: &mut Cmd) {
        command.arg(u8::from(self.no_subscriber != NoSubscriber::Accept));
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

    fn explain(&mut self, channel: &str, _receivers: i64) -> Option<Outcome> {
        let reason = || format!("channel {channel:?} has no subscriber");
        Some(match self.no_subscriber {
            NoSubscriber::Accept => {
                self.unheard += 1;
                Outcome::Accepted
            }
            NoSubscriber::Wait => Outcome::Retry { scope: Scope::Destination, reason: reason() },
            NoSubscriber::Park => Outcome::Reject { reason: reason() },
        })
    }
}
