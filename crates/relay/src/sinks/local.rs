//! `local`: hands messages to a consumer in the same process over a bounded channel.
//!
//! For tests, the demo and embedded use. A message is accepted when the consumer's channel has
//! taken it; what the consumer does with it is not known here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use posthaste_core::{MessageId, MessageRef, Position, Timestamp};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::{sync::mpsc, time::timeout};

use crate::sink::{
    Batch, Context, InvalidTarget, Lane, Outcome, PlaceKeeping, Receipt, Scope, Sink, SinkError,
    SinkErrorKind, SinkKind, Target,
};

/// The registry entry.
pub const KIND: SinkKind = SinkKind {
    name: "local",
    about: "hands messages to a consumer in the same process",
    place: PlaceKeeping::None,
    parse,
    schema: || schemars::schema_for!(LocalTarget),
};

/// Longest wait for room in the consumer's channel before the batch is tried again.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of a `local` sink.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LocalTarget {
    /// Name under which a consumer subscribes in this process.
    channel: String,
}

fn parse(table: toml::Table) -> Result<Box<dyn Target>, InvalidTarget> {
    let target: LocalTarget = table
        .try_into()
        .map_err(|error| InvalidTarget { key: String::new(), message: error.to_string() })?;
    Ok(Box::new(target))
}

/// A message as a local consumer receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Id that its writer gave it.
    pub id: MessageId,
    /// Position in the log.
    pub position: Position,
    /// When it was written.
    pub enqueued_at: Timestamp,
    /// Topic.
    pub topic: String,
    /// Ordering key.
    pub key: Option<String>,
    /// Content type.
    pub content_type: String,
    /// Correlation id.
    pub correlation_id: Option<String>,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// Payload.
    pub payload: Vec<u8>,
}

impl From<MessageRef<'_>> for Delivery {
    fn from(message: MessageRef<'_>) -> Self {
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        Self {
            id: message.id,
            position: message.position,
            enqueued_at: message.enqueued_at,
            topic: message.topic.to_owned(),
            key: message.key.map(str::to_owned),
            content_type: message.content_type.to_owned(),
            correlation_id: message.correlation_id.map(str::to_owned),
            headers: message.headers.iter().map(own).collect(),
            payload: message.payload.to_vec(),
        }
    }
}

/// Where `local` sinks and their consumers meet, by channel name. Clones share the same hub.
#[derive(Clone, Debug, Default)]
pub struct LocalHub {
    channels: Arc<Mutex<HashMap<String, mpsc::Sender<Delivery>>>>,
}

impl LocalHub {
    /// Subscribes to a channel with room for `capacity` messages (at least 1), replacing any
    /// earlier consumer of that name.
    pub fn subscribe(&self, channel: &str, capacity: usize) -> mpsc::Receiver<Delivery> {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        self.lock().insert(channel.to_owned(), sender);
        receiver
    }

    fn sender(&self, channel: &str) -> Option<mpsc::Sender<Delivery>> {
        self.lock().get(channel).filter(|sender| !sender.is_closed()).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, mpsc::Sender<Delivery>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Target for LocalTarget {
    fn describe(&self) -> String {
        format!("local channel {:?}", self.channel)
    }

    async fn connect(&self, context: &Context, _lane: &Lane) -> Result<Box<dyn Sink>, SinkError> {
        let sender = context.locals.sender(&self.channel).ok_or_else(|| {
            let doing = format!("nobody in this process consumes channel {:?}", self.channel);
            SinkError::new(SinkErrorKind::Unavailable, doing)
        })?;
        Ok(Box::new(LocalSink { sender }))
    }
}

struct LocalSink {
    sender: mpsc::Sender<Delivery>,
}

#[async_trait]
impl Sink for LocalSink {
    async fn publish(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
        let mut accepted = 0;
        for message in batch.messages() {
            match timeout(ROOM_TIMEOUT, self.sender.reserve()).await {
                Ok(Ok(room)) => room.send(message.into()),
                Ok(Err(_closed)) => break,
                Err(_elapsed) => break,
            }
            accepted += 1;
        }
        if accepted == batch.len() {
            return Ok(Receipt::AllAccepted);
        }
        let retry = Outcome::Retry {
            scope: Scope::Sink,
            reason: "the local consumer is gone or takes no more messages".to_owned(),
        };
        let mut outcomes = vec![Outcome::Accepted; accepted];
        outcomes.resize(batch.len(), retry);
        Ok(Receipt::Each(outcomes))
    }
}
