//! Messages that break their contract in front of a sink that keeps places: what is not handed over
//! is missing there, and neither lost nor repeated by a crash.

use std::sync::Arc;

use posthaste_core::Message;
use posthaste_relay::{OnBreach, Policy, Relay, Subscription, sink::Context};
use posthaste_store::{
    Operations, Store,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::{Database, Postgres, Redis, eventually_async};
use redis::aio::MultiplexedConnection;

use super::{ORDER, aside, bad, failure, good, on_breach, order, prompt, push, until};
use crate::{
    pipeline::support::{LIMIT, Running, subscription},
    sinks::redis_stream::{entries, target},
};

/// A database, a stream, and the relays between them.
struct Scene {
    database: Database,
    store: Arc<dyn Operations>,
    prefix: String,
    client: MultiplexedConnection,
}

impl Scene {
    async fn new() -> Self {
        let database = Postgres::shared().database().await;
        let store = PostgresStore::connect(database.url(), &PostgresOptions::default()).unwrap();
        store.migrate().await.unwrap();
        let redis = Redis::shared();
        let client = crate::sinks::redis_server::client(redis).await;
        Self { database, store: Arc::new(store), prefix: redis.prefix(), client }
    }

    fn subscription(&self, breach: OnBreach) -> Subscription {
        let stream = format!("{}{{topic}}", self.prefix);
        let settings = toml::Table::from_iter([("stream".to_owned(), stream.into())]);
        let target = target(&Redis::shared().url(), settings);
        let mut subscription = subscription("test", &["*"], target.into());
        subscription.failure = failure(Policy::DeadLetter, 2);
        subscription.contracts = on_breach(breach);
        subscription
    }

    fn start(&self, breach: OnBreach) -> Running {
        let store = Arc::clone(&self.store) as Arc<dyn Store>;
        let subscriptions = vec![self.subscription(breach)];
        Running::start(Relay::new(store, prompt(), subscriptions, Context::default()))
    }

    /// The names of what stands in the stream.
    async fn arrived(&self) -> Vec<String> {
        let entries = entries(&mut self.client.clone(), &format!("{}orders", self.prefix)).await;
        let name = |(_, fields): &(String, Vec<(String, Vec<u8>)>)| {
            let (_, payload) = fields.iter().find(|(name, _)| name == "payload").unwrap();
            let payload: serde_json::Value = serde_json::from_slice(payload).unwrap();
            payload["name"].as_str().unwrap().to_owned()
        };
        entries.iter().map(name).collect()
    }

    async fn arrives(&self, expected: &[&str]) {
        let what = format!("{expected:?}");
        eventually_async(&what, LIMIT, async || self.arrived().await.len() >= expected.len()).await;
        assert_eq!(self.arrived().await, expected);
    }
}

#[tokio::test]
async fn r31_relay_that_dies_before_it_writes_a_breach_down_loses_and_repeats_nothing() {
    for breach in [OnBreach::Park, OnBreach::DeadLetter] {
        let scene = Scene::new().await;
        push(&scene.store, "orders", 1, ORDER).await;
        let running = scene.start(breach);
        scene.store.append(&[good("z", "z0")]).await.unwrap();
        scene.arrives(&["z0"]).await;
        // Nothing can be set aside from here on.
        let mut locker = scene.database.connect().await;
        let lock = locker.transaction().await.unwrap();
        let tables = "lock table posthaste.parked_key, posthaste.failed_message in share mode";
        lock.batch_execute(tables).await.unwrap();
        let newer = order("c", r#"{"order":1,"name":"c0"}"#.to_owned()).contract(2);
        let messages = [good("a", "a0"), bad("a", "a1"), good("a", "a2"), newer, good("b", "b0")];
        scene.store.append(&messages).await.unwrap();
        scene.arrives(&["z0", "a0", "b0"]).await;
        running.kill().await;
        // Whatever of it still waits for the lock.
        let client = scene.database.connect().await;
        let end = "select pg_terminate_backend(pid) from pg_stat_activity \
                   where datname = current_database() and wait_event_type = 'Lock'";
        client.execute(end, &[]).await.unwrap();
        lock.rollback().await.unwrap();

        let running = scene.start(breach);
        scene.arrives(&["z0", "a0", "b0", "a2"]).await;
        until(&running, |s| (s.aside.keys, s.aside.dead_letters) == (1, 1)).await;
        push(&scene.store, "orders", 2, "true").await;
        scene.arrives(&["z0", "a0", "b0", "a2", "c0"]).await;
        until(&running, |s| (s.aside.keys, s.aside.dead_letters) == (0, 1)).await;
        running.drain().await.unwrap();
        let [dead] = aside(&scene.store).await.try_into().unwrap();
        assert!(dead.reason.contains("/order: not of type integer"), "{dead:?}");
    }
}

/// Copies of keyless messages are handed over together; what of them has to wait on stays.
#[tokio::test]
async fn what_waits_for_different_versions_goes_on_one_by_one() {
    let scene = Scene::new().await;
    push(&scene.store, "orders", 1, ORDER).await;
    let of = |version: u32| {
        let payload = format!(r#"{{"name":"v{version}"}}"#);
        Message::new("orders").contract(version).bytes("application/json", payload)
    };
    scene.store.append(&[of(2), of(3), of(4)]).await.unwrap();
    let running = scene.start(OnBreach::Park);
    until(&running, |s| s.aside.messages == 3).await;
    for (version, expected) in [(3, &["v3"][..]), (2, &["v3", "v2"]), (4, &["v3", "v2", "v4"])] {
        push(&scene.store, "orders", version, "true").await;
        scene.arrives(expected).await;
    }
    until(&running, |s| s.aside.messages == 0).await;
    running.drain().await.unwrap();
    scene.arrives(&["v3", "v2", "v4"]).await;
}
