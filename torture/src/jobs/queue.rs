//! The queue, past the proxy: what is in it, and how all of it goes.

use std::time::Duration;

use posthaste_testkit::failure::{During, Result};
use redis::{AsyncCommands as _, AsyncConnectionConfig, aio::MultiplexedConnection};

use super::scenery::QUEUE;
use crate::stage::SinkKind;

/// Redis answers within this, however busy the machine is.
const LIMIT: Duration = Duration::from_secs(20);

/// The queue that the workers take from.
pub(crate) struct Queue {
    url: String,
    sink: SinkKind,
}

impl Queue {
    pub(crate) fn new(url: String, sink: SinkKind) -> Self {
        Self { url, sink }
    }

    async fn connect(&self) -> Result<MultiplexedConnection> {
        let client = redis::Client::open(&*self.url).during("read the URL of Redis")?;
        let limits = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(LIMIT))
            .set_response_timeout(Some(LIMIT));
        client.get_multiplexed_async_connection_with_config(&limits).await.during("reach Redis")
    }

    /// Empties Redis.
    pub(crate) async fn flush(&self) -> Result<()> {
        let mut connection = self.connect().await?;
        redis::cmd("FLUSHALL").query_async(&mut connection).await.during("empty Redis")
    }

    /// How many messages are in it, in workers' hands included, and how many in its dead letters.
    pub(crate) async fn left(&self) -> Result<(u64, u64)> {
        let mut connection = self.connect().await?;
        let (dead, doing) = (format!("{QUEUE}:dead"), "look into the queue");
        if self.sink == SinkKind::Stream {
            let waiting: u64 = connection.xlen(QUEUE).await.during(doing)?;
            return Ok((waiting, connection.xlen(dead).await.during(doing)?));
        }
        let mut left: u64 = connection.llen(QUEUE).await.during(doing)?;
        let held: Vec<String> =
            connection.keys(format!("{QUEUE}:processing:*")).await.during(doing)?;
        for list in held {
            left += connection.llen::<_, u64>(list).await.during(doing)?;
        }
        Ok((left, connection.llen(dead).await.during(doing)?))
    }
}
