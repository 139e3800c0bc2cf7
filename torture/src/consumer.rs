//! The other end: takes everything from the sink's destinations, each message once, and hands it
//! to the arrivals.
//!
//! What a consumer takes is known to it even if its connection breaks in between: streams are read
//! from the last id that was seen, and a list gives up its elements in numbered portions.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use posthaste_testkit::failure::{During, Failure, Result};
use redis::{
    Cmd, FromRedisValue, RedisResult, Value,
    aio::MultiplexedConnection,
    streams::{StreamReadOptions, StreamReadReply},
};
use tokio::time::{sleep, timeout};

use crate::{
    arrivals::Arrivals,
    message::{ENTRY_HEADER, read},
    stage::{SinkKind, Stage, connect_redis},
};

const PORTION: usize = 500;
/// Pause where there is nothing to take, or nobody to ask.
const IDLE_INTERVAL: Duration = Duration::from_millis(10);
/// Redis is killed every few seconds, so that no answer is waited for longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Streams are trimmed after this many reads.
const READS_PER_TRIM: u32 = 50;

/// Takes a portion off a list and keeps it until the next one is asked for, so that an answer that
/// was lost can be had again. `KEYS`: the list, and what was taken last; `ARGV`: the number of the
/// portion, and its size.
const TAKE: &str = "
    if redis.call('GET', KEYS[2] .. ':n') ~= ARGV[1] then
      local taken = redis.call('LRANGE', KEYS[1], 0, ARGV[2] - 1)
      if #taken == 0 then return {} end
      redis.call('LTRIM', KEYS[1], #taken, -1)
      redis.call('DEL', KEYS[2])
      for _, element in ipairs(taken) do redis.call('RPUSH', KEYS[2], element) end
      redis.call('SET', KEYS[2] .. ':n', ARGV[1])
    end
    return redis.call('LRANGE', KEYS[2], 0, -1)";

/// Where consumers take from, and to whom they hand over.
#[derive(Clone)]
pub(crate) struct Consumer {
    pub(crate) url: String,
    pub(crate) arrivals: Arc<Mutex<Arrivals>>,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Consumer {
    /// Consumes until it is told to stop.
    pub(crate) async fn consume(self, sink: SinkKind) -> Result<()> {
        match sink {
            SinkKind::Stream => self.read_streams().await,
            SinkKind::List => self.take_from_lists().await,
            SinkKind::Pubsub => self.subscribe().await,
        }
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn none(&self) {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).none();
    }

    fn arrived(&self, header: Option<&[u8]>, payload: &[u8]) -> Result<()> {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.take(&read(header, payload))
    }

    async fn connected(&self) -> MultiplexedConnection {
        loop {
            match timeout(ANSWER_LIMIT, connect_redis(&self.url)).await {
                Ok(Ok(connection)) => return connection,
                _ => sleep(IDLE_INTERVAL).await,
            }
        }
    }

    async fn read_streams(self) -> Result<()> {
        let names = Stage::destinations();
        let mut seen: HashMap<String, String> =
            names.iter().map(|name| (name.clone(), "0-0".to_owned())).collect();
        let header = format!("h:{ENTRY_HEADER}");
        let mut connection = self.connected().await;
        let mut reads = 0;
        while !self.is_over() {
            let ids: Vec<&String> = names.iter().map(|name| &seen[name]).collect();
            let options = StreamReadOptions::default().count(PORTION);
            let read = Cmd::xread_options(&names, &ids, &options);
            let Some(reply) = ask::<Option<StreamReadReply>>(&read, &mut connection).await else {
                connection = self.connected().await;
                continue;
            };
            let Some(reply) = reply else {
                self.none();
                sleep(IDLE_INTERVAL).await;
                continue;
            };
            for stream in reply.keys {
                for entry in stream.ids {
                    let field = |name: &str| entry.map.get(name).and_then(bytes);
                    self.arrived(field(&header), field("payload").unwrap_or_default())?;
                    seen.insert(stream.key.clone(), entry.id);
                }
            }
            reads += 1;
            if reads % READS_PER_TRIM == 0 {
                trim(&seen, &mut connection).await;
            }
        }
        Ok(())
    }

    async fn take_from_lists(self) -> Result<()> {
        let names = Stage::destinations();
        let mut numbers = vec![1_u64; names.len()];
        let mut connection = self.connected().await;
        while !self.is_over() {
            let mut is_idle = true;
            for (name, number) in names.iter().zip(&mut numbers) {
                let mut take = redis::cmd("EVAL");
                take.arg(TAKE).arg(2).arg(name).arg(format!("taken:{name}"));
                take.arg(*number).arg(PORTION);
                let Some(taken) = ask::<Vec<Vec<u8>>>(&take, &mut connection).await else {
                    connection = self.connected().await;
                    continue;
                };
                for payload in &taken {
                    self.arrived(None, payload)?;
                }
                *number += u64::from(!taken.is_empty());
                is_idle &= taken.is_empty();
            }
            if is_idle {
                self.none();
                sleep(IDLE_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// Whatever is published while nobody listens is gone, so this never reconnects: Redis stays.
    async fn subscribe(self) -> Result<()> {
        let client = redis::Client::open(&*self.url).during("read the URL of Redis")?;
        let mut messages = client.get_async_pubsub().await.during("connect to Redis")?;
        messages.psubscribe("*").await.during("subscribe to all channels")?;
        let mut messages = messages.into_on_message();
        while !self.is_over() {
            match timeout(IDLE_INTERVAL, messages.next()).await {
                Ok(Some(message)) => self.arrived(None, message.get_payload_bytes())?,
                Ok(None) => return Err(Failure::new("the subscriber was cut off")),
                Err(_elapsed) => self.none(),
            }
        }
        Ok(())
    }
}

/// An answer, unless the connection is of no use any more.
async fn ask<T: FromRedisValue>(
    command: &Cmd,
    connection: &mut MultiplexedConnection,
) -> Option<T> {
    let answer: RedisResult<T> =
        timeout(ANSWER_LIMIT, command.query_async(connection)).await.ok()?;
    answer.ok()
}

/// Removes what was read: a run is longer than memory.
async fn trim(seen: &HashMap<String, String>, connection: &mut MultiplexedConnection) {
    for (name, id) in seen {
        let mut trim = redis::cmd("XTRIM");
        trim.arg(name).arg("MINID").arg(id);
        // What stays is trimmed next time.
        ask::<u64>(&trim, connection).await;
    }
}

fn bytes(value: &Value) -> Option<&[u8]> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}
