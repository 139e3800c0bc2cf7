//! The demo's consumer: in this process, or reading a Redis stream as any client would.

use std::{sync::Arc, time::Instant};

use posthaste_relay::{
    sink::{Context, Target},
    sinks::{self, local::Delivery},
};
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection, streams::StreamReadReply};
use serde::Deserialize;
use tokio::{
    sync::{Mutex, mpsc},
    task::JoinHandle,
};
use uuid::Uuid;

use super::{NAME, SharedLedger};
use crate::{
    exit::Exit,
    failure::{Failure, Result},
};

/// Messages that wait for the local consumer.
const LOCAL_CAPACITY: usize = 10_000;
/// Entries of one read, and how long a read waits for the first.
const READ_COUNT: usize = 1_000;
const READ_BLOCK_MS: usize = 200;

/// Where the demo's messages arrive.
pub(super) enum Arrivals {
    /// A channel in this process.
    Local { consumer: Arc<Mutex<mpsc::Receiver<Delivery>>> },
    /// A stream of its own on a Redis server.
    Redis { url: String, stream: String, connection: MultiplexedConnection },
}

/// The payload of an order's message.
#[derive(Debug, Deserialize)]
struct Order {
    customer: u32,
    number: u64,
}

impl Arrivals {
    /// Opens the consumer's side.
    pub(super) async fn open(sink: Option<&str>, context: &Context, run: &str) -> Result<Self> {
        let Some(url) = sink else {
            let consumer = context.locals.subscribe(NAME, LOCAL_CAPACITY);
            return Ok(Self::Local { consumer: Arc::new(Mutex::new(consumer)) });
        };
        let client = redis::Client::open(url)
            .map_err(|_| Failure::usage("--sink: not a redis:// or rediss:// URL"))?;
        // A blocking read has a connection of its own, without a response time-out.
        let settings = AsyncConnectionConfig::new().set_response_timeout(None);
        let connection = client.get_multiplexed_async_connection_with_config(&settings).await;
        let connection = connection.map_err(|error| {
            Failure::caused(Exit::Unreachable, "--sink: cannot connect to Redis", error)
        })?;
        let stream = format!("posthaste-demo:{run}");
        Ok(Self::Redis { url: url.to_owned(), stream, connection })
    }

    /// The sink for people, without secrets.
    pub(super) fn describe(&self) -> String {
        self.target().map_or_else(|error| error, |target| target.describe())
    }

    /// The relay's side.
    pub(super) fn target(&self) -> Result<Arc<dyn Target>, String> {
        let (kind, keys) = match self {
            Self::Local { .. } => ("local", vec![("channel", NAME)]),
            Self::Redis { url, stream, .. } => {
                ("redis-stream", vec![("url", url.as_str()), ("stream", stream.as_str())])
            }
        };
        let kind = sinks::find(kind).ok_or_else(|| format!("this build lacks the sink {kind}"))?;
        let table = keys.into_iter().map(|(key, value)| (key.to_owned(), value.into()));
        let target = (kind.parse)(table.collect()).map_err(|error| format!("--sink: {error}"))?;
        Ok(target.into())
    }

    /// Enters every arrival into the ledger until the task is aborted.
    pub(super) fn watch(&self, ledger: SharedLedger) -> JoinHandle<()> {
        match self {
            Self::Local { consumer } => {
                let consumer = Arc::clone(consumer);
                tokio::spawn(async move {
                    let mut consumer = consumer.lock().await;
                    while let Some(delivery) = consumer.recv().await {
                        enter(&ledger, delivery.id, &delivery.payload);
                    }
                })
            }
            Self::Redis { stream, connection, .. } => {
                tokio::spawn(read_stream(connection.clone(), stream.clone(), ledger))
            }
        }
    }

    /// Removes what the demo wrote to Redis.
    pub(super) async fn clean_up(&self) {
        if let Self::Redis { url, stream, .. } = self {
            let remove = async {
                let mut connection =
                    redis::Client::open(url.as_str())?.get_multiplexed_async_connection().await?;
                // The stream, and the relay's place beside it.
                let place = format!("{stream}place:{NAME}");
                let unlink = redis::cmd("UNLINK").arg(stream).arg(place).to_owned();
                unlink.query_async::<i64>(&mut connection).await
            };
            if let Err(error) = remove.await {
                tracing::warn!("the stream {stream} is left behind: {error}");
            }
        }
    }
}

async fn read_stream(mut connection: MultiplexedConnection, stream: String, ledger: SharedLedger) {
    let mut after = "0-0".to_owned();
    loop {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(READ_COUNT).arg("BLOCK").arg(READ_BLOCK_MS);
        read.arg("STREAMS").arg(&stream).arg(&after);
        let reply: Option<StreamReadReply> = match read.query_async(&mut connection).await {
            Ok(reply) => reply,
            Err(error) => {
                tracing::error!("the demo's consumer lost Redis: {error}");
                return;
            }
        };
        for entry in reply.into_iter().flat_map(|reply| reply.keys).flat_map(|key| key.ids) {
            let id: Option<String> = entry.get("id");
            let payload: Option<Vec<u8>> = entry.get("payload");
            if let Some(id) = id.and_then(|id| id.parse().ok()) {
                enter(&ledger, id, &payload.unwrap_or_default());
            }
            after = entry.id;
        }
    }
}

fn enter(ledger: &SharedLedger, id: Uuid, payload: &[u8]) {
    match serde_json::from_slice::<Order>(payload) {
        Ok(Order { customer, number }) => {
            ledger.lock().arrived(customer, number, id, Instant::now());
        }
        Err(error) => tracing::error!(%id, "a message arrived that is no order: {error}"),
    }
}
