//! The sources: every kind runs the contract suite, and tests of its own beside it. What they hand out is written
//! by a real relay, with its real sinks.

mod bullmq;
mod bullmq_clients;
mod contract;
mod end_to_end;
mod redis_own;

use std::{
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use posthaste::Message;
use posthaste_relay::sink::Context;
use posthaste_store::Jobs;
use posthaste_testkit::{Redis, RedisCluster};
use posthaste_worker::{
    source::{Delivery, InvalidSource, Source, SourceKind, Token},
    sources::{self, local::LocalSource},
};
use redis::aio::MultiplexedConnection;
use tokio::{task::JoinHandle, time::Instant};

use crate::support::{LIMIT, Place, Published, local, publish, relay};

/// Longer than any test: what is a worker's own does not become another's by waiting.
pub(crate) const LEASE: &str = "1h";
const WAIT: Duration = Duration::from_secs(1);

/// A kind of queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Local,
    /// Envelopes, pushed onto the left.
    List,
    /// Events, pushed onto the right.
    ListOfEvents,
    Stream,
    /// Envelopes as jobs.
    Bullmq,
    /// In a cluster, found by way of a node that does not hold it.
    ClusteredList,
    /// The same.
    ClusteredStream,
    /// The same.
    ClusteredBullmq,
}

/// A cluster is three servers: one serves all tests that break nothing.
static CLUSTER: LazyLock<RedisCluster> = LazyLock::new(RedisCluster::start);

enum Server {
    Shared,
    Alone(Box<Redis>),
    /// The number of the node that holds the queue.
    Cluster(usize),
}

/// A queue that a relay fills, on a server of its own or one that is shared.
pub(crate) struct Queue {
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) store: Arc<dyn Jobs>,
    server: Server,
    _place: Place,
    published: Mutex<Option<Published>>,
    local: Mutex<Option<Arc<LocalSource>>>,
    relay: Option<JoinHandle<()>>,
}

impl Drop for Queue {
    fn drop(&mut self) {
        if let Some(relay) = &self.relay {
            relay.abort();
        }
    }
}

impl Queue {
    pub(crate) async fn shared(kind: Kind) -> Self {
        Self::start(kind, Place::sqlite().await).await
    }

    /// On a server that the test may stop.
    pub(crate) async fn alone(kind: Kind) -> Self {
        let name = format!("{}jobs", Redis::shared().prefix());
        let server = Server::Alone(Box::new(Redis::start()));
        Self::start_on(kind, name, server, Place::sqlite().await).await
    }

    /// With messages of a database.
    pub(crate) async fn start(kind: Kind, place: Place) -> Self {
        let name = format!("{}jobs", Redis::shared().prefix());
        let kind = match kind {
            Kind::ClusteredList => Kind::List,
            Kind::ClusteredStream => Kind::Stream,
            Kind::ClusteredBullmq => Kind::Bullmq,
            kind => return Self::start_on(kind, name, Server::Shared, place).await,
        };
        let name = format!("{{{name}}}");
        let server = Server::Cluster(CLUSTER.node_of(&name));
        Self::start_on(kind, name, server, place).await
    }

    async fn start_on(kind: Kind, name: String, server: Server, place: Place) -> Self {
        let store = place.store().await;
        let mut queue = Self {
            kind,
            name,
            store,
            server,
            _place: place,
            published: Mutex::default(),
            local: Mutex::default(),
            relay: None,
        };
        if kind == Kind::Local {
            let published = publish(&queue.store).await;
            *queue.published.lock().unwrap() = Some(published);
        } else {
            let (kind, settings) = queue.sink();
            let relay = relay(&queue.store, kind, settings, Context::default());
            queue.relay = Some(tokio::spawn(async move {
                let _ = relay.run(std::future::pending()).await;
            }));
        }
        queue
    }

    /// The server that holds the queue.
    pub(crate) fn redis(&self) -> &Redis {
        match &self.server {
            Server::Shared => Redis::shared(),
            Server::Alone(redis) => redis,
            Server::Cluster(node) => &CLUSTER.nodes[*node],
        }
    }

    /// Where sinks and sources connect.
    pub(crate) fn url(&self) -> String {
        match &self.server {
            Server::Cluster(node) => CLUSTER.nodes[(node + 1) % CLUSTER.nodes.len()].url(),
            _ => self.redis().url(),
        }
    }

    fn sink(&self) -> (&'static str, toml::Table) {
        let mut settings = toml::Table::from_iter([("url".to_owned(), self.url().into())]);
        let mut set = |key: &str, value: &str| settings.insert(key.to_owned(), value.into());
        // Names of sinks are templates.
        let name = &*self.name.replace('{', "{{").replace('}', "}}");
        match self.kind {
            Kind::List => {
                set("list", name);
                set("format", "envelope");
                ("redis-list", settings)
            }
            Kind::ListOfEvents => {
                set("list", name);
                set("format", "cloudevents");
                set("side", "right");
                ("redis-list", settings)
            }
            Kind::Stream => {
                set("stream", name);
                ("redis-stream", settings)
            }
            Kind::Bullmq => {
                // Not a template.
                set("prefix", &self.name);
                set("queue", "q");
                set("format", "envelope");
                ("bullmq", settings)
            }
            _ => unreachable!("it has no settings"),
        }
    }

    /// Settings of a source of this queue on a server.
    pub(crate) fn settings(&self, url: &str) -> toml::Table {
        let texts = [("url", url), ("lease", LEASE), ("operation_timeout", "5s")];
        let texts = texts.map(|(key, value)| (key.to_owned(), value.into()));
        let mut settings = toml::Table::from_iter(texts);
        match self.kind {
            Kind::List => drop(settings.insert("list".to_owned(), self.name.clone().into())),
            Kind::ListOfEvents => {
                settings.insert("list".to_owned(), self.name.clone().into());
                settings.insert("side".to_owned(), "right".into());
            }
            Kind::Stream => {
                settings.insert("streams".to_owned(), vec![self.name.clone()].into());
            }
            Kind::Bullmq => {
                settings.insert("prefix".to_owned(), self.name.clone().into());
                settings.insert("queue".to_owned(), "q".into());
            }
            _ => {}
        }
        settings
    }

    /// Checks settings of a source of this queue.
    pub(crate) fn parse(&self, settings: toml::Table) -> Result<Box<dyn Source>, InvalidSource> {
        (self.source_kind().parse)(settings)
    }

    /// The registry entry of its source.
    pub(crate) fn source_kind(&self) -> &'static SourceKind {
        let kind = match self.kind {
            Kind::Stream => "redis-stream",
            Kind::Bullmq => "bullmq",
            _ => "redis-list",
        };
        sources::find(kind).unwrap()
    }

    /// Another worker's source; in the process there is but one.
    pub(crate) fn source(&self) -> Arc<dyn Source> {
        if self.kind == Kind::Local {
            let mut published = self.published.lock().unwrap();
            let source = Arc::new(local(published.as_mut().unwrap()));
            *self.local.lock().unwrap() = Some(Arc::clone(&source));
            return source;
        }
        self.source_at(&self.url(), &[])
    }

    /// The same by another way to the server, and with other settings.
    pub(crate) fn source_at(&self, url: &str, others: &[(&str, &str)]) -> Arc<dyn Source> {
        let mut settings = self.settings(url);
        for (key, value) in others {
            settings.insert((*key).to_owned(), (*value).into());
        }
        Arc::from(self.parse(settings).unwrap())
    }

    /// Writes a message for each number, in one transaction.
    pub(crate) async fn write(&self, numbers: impl IntoIterator<Item = i64>) {
        let messages: Vec<Message> =
            numbers.into_iter().map(|number| Message::new("t").json(&number)).collect();
        self.store.append(&messages).await.unwrap();
    }

    /// Puts something into the queue that is no message, as its next.
    pub(crate) async fn spoil(&self) {
        if self.kind == Kind::Bullmq {
            let data = b"{\"order\":17}\xff";
            return bullmq::add(self, "spoilt", data, &[("parentKey", "a:b:c")]).await;
        }
        let mut command = match self.kind {
            Kind::List => redis::cmd("RPUSH"),
            Kind::ListOfEvents => redis::cmd("LPUSH"),
            _ => redis::cmd("XADD"),
        };
        command.arg(&self.name);
        if self.kind == Kind::Stream {
            command.arg("*").arg("order");
        }
        let () =
            command.arg(b"{\"order\":17}\xff").query_async(&mut self.client().await).await.unwrap();
    }

    pub(crate) async fn client(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.redis().url()).unwrap();
        let config = redis::AsyncConnectionConfig::new()
            .set_connection_timeout(Some(LIMIT))
            .set_response_timeout(Some(LIMIT));
        client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
    }

    /// Has the time of a lease pass for all workers, as far as Redis knows.
    pub(crate) async fn pass_lease(&self) {
        let mut client = self.client().await;
        if self.kind == Kind::Stream {
            for (id, consumer) in self.pending().await {
                let mut command = redis::cmd("XCLAIM");
                command.arg(&self.name).arg("posthaste").arg(consumer).arg(0).arg(id);
                command.arg("IDLE").arg(7_200_000).arg("JUSTID");
                command.exec_async(&mut client).await.unwrap();
            }
            return;
        }
        let pattern = match self.kind {
            Kind::Bullmq => format!("{}:q:*:lock", self.name),
            _ => format!("{}:alive:*", self.name),
        };
        let keys: Vec<String> =
            redis::cmd("KEYS").arg(pattern).query_async(&mut client).await.unwrap();
        for key in keys {
            redis::cmd("DEL").arg(key).exec_async(&mut client).await.unwrap();
        }
    }

    /// Entries of the stream that are held, and by whom.
    async fn pending(&self) -> Vec<(String, String)> {
        let mut command = redis::cmd("XPENDING");
        command.arg(&self.name).arg("posthaste").arg("-").arg("+").arg(10_000);
        let held: Vec<(String, String, i64, i64)> =
            command.query_async(&mut self.client().await).await.unwrap();
        held.into_iter().map(|(id, consumer, ..)| (id, consumer)).collect()
    }

    /// Payloads and reasons of what was buried.
    pub(crate) async fn dead(&self) -> Vec<(String, String)> {
        if self.kind == Kind::Local {
            let local = self.local.lock().unwrap().clone().unwrap();
            let payload = |payload: Vec<u8>| String::from_utf8(payload).unwrap();
            return local.buried().into_iter().map(|(m, why)| (payload(m.payload), why)).collect();
        }
        if self.kind == Kind::Bullmq {
            return bullmq::failed(self).await;
        }
        let mut client = self.client().await;
        let dead = format!("{}:dead", self.name);
        if self.kind == Kind::Stream {
            let mut command = redis::cmd("XRANGE");
            command.arg(&dead).arg("-").arg("+");
            let entries: Vec<(String, Fields)> = command.query_async(&mut client).await.unwrap();
            let of = |fields: &Fields, name: &str| {
                let value = fields.iter().find(|(field, _)| field == name);
                value.map(|(_, value)| String::from_utf8_lossy(value).into_owned())
            };
            let read = |(_, fields): (String, Fields)| {
                let payload = of(&fields, "payload").or_else(|| of(&fields, "order"));
                (payload.unwrap(), of(&fields, "reason").unwrap())
            };
            return entries.into_iter().map(read).collect();
        }
        let letters: Vec<String> =
            redis::cmd("LRANGE").arg(&dead).arg(0).arg(-1).query_async(&mut client).await.unwrap();
        letters.iter().map(|letter| self.read_letter(letter)).collect()
    }

    /// Whether nothing waits and nobody holds anything.
    pub(crate) async fn is_settled(&self) -> bool {
        if self.kind == Kind::Stream {
            return self.pending().await.is_empty();
        }
        let mut client = self.client().await;
        let held = match self.kind {
            Kind::Bullmq => format!("{}:q:active", self.name),
            _ => format!("{}:processing:*", self.name),
        };
        let held: Vec<String> =
            redis::cmd("KEYS").arg(held).query_async(&mut client).await.unwrap();
        held.is_empty() && self.waiting().await == 0
    }

    /// How many nobody has taken.
    pub(crate) async fn waiting(&self) -> usize {
        let mut client = self.client().await;
        if self.kind == Kind::Bullmq {
            let list = format!("{}:q:wait", self.name);
            return redis::cmd("LLEN").arg(list).query_async(&mut client).await.unwrap();
        }
        if self.kind != Kind::Stream {
            return redis::cmd("LLEN").arg(&self.name).query_async(&mut client).await.unwrap();
        }
        let groups = redis::cmd("XINFO").arg("GROUPS").arg(&self.name).to_owned();
        let groups: Vec<std::collections::HashMap<String, redis::Value>> =
            groups.query_async(&mut client).await.unwrap();
        let last: String = redis::from_redis_value(groups[0]["last-delivered-id"].clone()).unwrap();
        let mut command = redis::cmd("XRANGE");
        command.arg(&self.name).arg(format!("({last}")).arg("+");
        let left: Vec<redis::Value> = command.query_async(&mut client).await.unwrap();
        left.len()
    }

    /// Who is noted to take from the queue; nobody in whose name things are given back.
    pub(crate) async fn workers(&self) -> Vec<String> {
        let mut client = self.client().await;
        if self.kind == Kind::Stream {
            let mut command = redis::cmd("XINFO");
            command.arg("CONSUMERS").arg(&self.name).arg("posthaste");
            let consumers: Vec<std::collections::HashMap<String, redis::Value>> =
                command.query_async(&mut client).await.unwrap();
            let name = |consumer: &std::collections::HashMap<String, redis::Value>| {
                redis::from_redis_value::<String>(consumer["name"].clone()).unwrap()
            };
            return consumers.iter().map(name).filter(|name| name != "given-back").collect();
        }
        if self.kind == Kind::Bullmq {
            let locks = redis::cmd("KEYS").arg(format!("{}:q:*:lock", self.name)).to_owned();
            return locks.query_async(&mut client).await.unwrap();
        }
        let mut command = redis::cmd("ZRANGE");
        command.arg(format!("{}:workers", self.name)).arg(0).arg(-1);
        command.query_async(&mut client).await.unwrap()
    }

    fn read_letter(&self, letter: &str) -> (String, String) {
        let letter: serde_json::Value = serde_json::from_str(letter).unwrap();
        assert!(letter["worker"].as_str().unwrap().starts_with("worker-"), "{letter}");
        assert!(letter["time"].as_str().unwrap().ends_with('Z'), "{letter}");
        let reason = letter["reason"].as_str().unwrap().to_owned();
        let Some(element) = letter["element"].as_str() else {
            return (letter["element_base64"].as_str().unwrap().to_owned(), reason);
        };
        let field = if self.kind == Kind::List { "payload" } else { "data" };
        let message: serde_json::Value = serde_json::from_str(element).unwrap();
        let payload = &message[field];
        (payload.as_str().map_or_else(|| payload.to_string(), str::to_owned), reason)
    }
}

/// Names and values of an entry.
type Fields = Vec<(String, Vec<u8>)>;

/// What was handed out: tokens and numbers, in their order.
pub(crate) type Taken = Vec<(Token, i64)>;

pub(crate) fn read(delivered: Vec<Delivery>) -> Taken {
    let number = |delivery: Delivery| {
        let message = delivery.message.unwrap();
        (delivery.token, serde_json::from_slice(&message.payload).unwrap())
    };
    delivered.into_iter().map(number).collect()
}

/// Takes until there are as many, whatever errors come between.
pub(crate) async fn collect(source: &dyn Source, count: usize) -> Taken {
    let (began, mut taken) = (Instant::now(), Taken::new());
    while taken.len() < count {
        assert!(began.elapsed() < LIMIT, "{count} messages never came, but {taken:?}");
        match source.take(count - taken.len(), WAIT).await {
            Ok(delivered) => taken.extend(read(delivered)),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
    taken
}

pub(crate) fn numbers(taken: &Taken) -> Vec<i64> {
    taken.iter().map(|(_, number)| *number).collect()
}
