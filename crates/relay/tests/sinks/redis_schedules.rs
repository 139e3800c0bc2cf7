//! Schedules in which a command that was stuck in the network repeats a batch: with `WATCH` and
//! `MULTI`, each of them did.

use std::time::Duration;

use posthaste_relay::sink::{Context, Lane, Mark, Outcome, Sink, Target};
use posthaste_testkit::{
    Redis, eventually_async,
    proxy::{NetFault, Proxy},
};
use redis::aio::MultiplexedConnection;
use tokio::{net::TcpStream, time::timeout};

use super::{
    contract::CALL_LIMIT,
    messages::{Sample, lane, publish},
    redis_server::client,
    redis_stream::{entries, target},
};

/// A batch that is stuck is given up after this.
const PATIENCE: Duration = Duration::from_millis(200);

/// A server, a network that holds bytes back, and a batch for it.
struct Scene {
    redis: Redis,
    proxy: Proxy,
    /// Behind the network.
    target: Box<dyn Target>,
    samples: Vec<Sample>,
    client: MultiplexedConnection,
}

impl Scene {
    async fn with(messages: usize) -> Self {
        let redis = Redis::start();
        let proxy = Proxy::start(redis.port()).await.unwrap();
        let target = target(&proxy.url(&redis.url()), toml::Table::new());
        let samples = (0..messages).map(|n| Sample::new("t", n.to_string())).collect();
        let client = client(&redis).await;
        Self { redis, proxy, target, samples, client }
    }

    /// Connects, publishes and gives up: nothing of the batch has reached the server by then.
    /// Answers the server's ids of the connections that the batch is stuck on.
    async fn get_stuck(&mut self) -> Vec<u64> {
        let mut sink = self.target.connect(&Context::default(), &lane("s")).await.unwrap();
        let own: u64 = redis::cmd("CLIENT").arg("ID").query_async(&mut self.client).await.unwrap();
        let mut stuck = self.connections().await;
        stuck.retain(|id| *id != own);
        self.proxy.set(NetFault::HoldBack);
        let published = timeout(PATIENCE, publish(&mut *sink, &self.samples)).await;
        assert!(published.is_err(), "{published:?}");
        assert!(!stuck.is_empty() && self.arrived().await.is_empty());
        stuck
    }

    /// Waits until what was stuck has come through, and its connections have ended behind it.
    async fn come_through(&self, stuck: &[u64]) {
        let is_over = async || {
            let now = self.connections().await;
            stuck.iter().all(|id| !now.contains(id))
        };
        eventually_async("the stuck batch", CALL_LIMIT, is_over).await;
    }

    async fn connections(&self) -> Vec<u64> {
        let mut client = self.client.clone();
        let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut client).await.unwrap();
        let id = |line: &str| line.strip_prefix("id=")?.split(' ').next()?.parse().ok();
        list.lines().filter_map(id).collect()
    }

    async fn take_all(&self, sink: &mut dyn Sink) {
        assert_eq!(sink.mark(), Some(&Mark::default()), "nothing has been taken");
        let outcomes = publish(sink, &self.samples).await.unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Accepted));
    }

    async fn arrived(&mut self) -> Vec<Vec<u8>> {
        let entries = entries(&mut self.client, "posthaste:t").await;
        let payload = |(_, fields): (String, Vec<(String, Vec<u8>)>)| {
            fields.into_iter().find(|(name, _)| name == "payload").map(|(_, payload)| payload)
        };
        entries.into_iter().filter_map(payload).collect()
    }

    async fn assert_each_once(&mut self) {
        let payloads: Vec<Vec<u8>> = self.samples.iter().map(|it| it.payload.clone()).collect();
        assert_eq!(self.arrived().await, payloads);
    }
}

async fn reconnect(messages: usize) {
    let mut scene = Scene::with(messages).await;
    let stuck = scene.get_stuck().await;
    // It is let go a moment after this.
    let mut sink = scene.target.connect(&Context::default(), &lane("s")).await.unwrap();
    scene.take_all(&mut *sink).await;
    scene.come_through(&stuck).await;
    scene.assert_each_once().await;
    assert_eq!(publish(&mut *sink, &[Sample::new("u", "on")]).await.unwrap(), [Outcome::Accepted]);
}

#[tokio::test]
async fn call_that_was_stuck_until_its_relay_had_reconnected_does_nothing() {
    reconnect(3).await;
}

#[tokio::test]
async fn calls_that_were_stuck_together_do_nothing() {
    reconnect(700).await;
}

#[tokio::test]
async fn call_that_was_stuck_until_another_relay_had_taken_over_does_nothing() {
    let mut scene = Scene::with(3).await;
    let stuck = scene.get_stuck().await;
    let direct = target(&scene.redis.url(), toml::Table::new());
    let later = Lane { epoch: 2, ..lane("s") };
    let mut sink = direct.connect(&Context::default(), &later).await.unwrap();
    scene.take_all(&mut *sink).await;
    // Bytes are held until somebody else connects.
    drop(TcpStream::connect(("127.0.0.1", scene.proxy.port())).await.unwrap());
    scene.come_through(&stuck).await;
    scene.assert_each_once().await;
    assert_eq!(publish(&mut *sink, &[Sample::new("u", "on")]).await.unwrap(), [Outcome::Accepted]);
}

#[tokio::test]
async fn call_that_comes_through_first_is_found_by_whoever_connects_next() {
    let mut scene = Scene::with(3).await;
    let stuck = scene.get_stuck().await;
    drop(TcpStream::connect(("127.0.0.1", scene.proxy.port())).await.unwrap());
    scene.come_through(&stuck).await;
    scene.assert_each_once().await;
    let sink = scene.target.connect(&Context::default(), &lane("s")).await.unwrap();
    let mark = Mark { calls: 1, text: "3".to_owned(), missing: Vec::new() };
    assert_eq!(sink.mark(), Some(&mark), "nothing is left of the batch");
}
