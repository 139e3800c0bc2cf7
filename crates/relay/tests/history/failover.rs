//! Redis fails over under load: replication is asynchronous, so a replica is promoted without the
//! last messages that the primary has acknowledged. The relay finds that and publishes them again.

use std::sync::Arc;

use posthaste_relay::{Relay, sink::Context, sinks};
use posthaste_store::Store;
use posthaste_testkit::{
    Postgres, RedisSentinels, eventually_async,
    history::{Entry, check},
};

use super::{
    application::{Plan, write_during},
    faults::{STREAM, all_settled, stream},
    scene::{self, LIMIT, recorded},
    seed::Seed,
};
use crate::pipeline::support::{Running, settings, subscription};

/// What the primary takes before it is killed, and no replica has.
const TAIL: u64 = 200;

fn relay(store: &Arc<dyn Store>, sentinels: &RedisSentinels) -> Relay {
    let mut table = toml::Table::new();
    table.insert("url".to_owned(), format!("redis://{}/0", RedisSentinels::MASTER).into());
    table.insert("sentinels".to_owned(), sentinels.addresses().into());
    table.insert("stream".to_owned(), STREAM.into());
    let target = (sinks::find("redis-stream").unwrap().parse)(table).unwrap();
    let subscriptions = vec![subscription("test", &["*"], target.into())];
    Relay::new(Arc::clone(store), settings(), subscriptions, Context::default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_redis_failover_under_load_publishes_the_lost_tail_again() {
    let seed = Seed::of("failover::r12_redis_failover_under_load");
    let sentinels = tokio::task::block_in_place(RedisSentinels::start);
    let [primary, replica] = &sentinels.nodes;
    let (database, store) = scene::prepare(Postgres::shared()).await;
    let running = Running::start(relay(&store, &sentinels));
    let published = || running.monitor.snapshot()[0].published;
    let fault = async {
        let some = async || published() > TAIL;
        eventually_async("messages in Redis", LIMIT, some).await;
        tokio::task::block_in_place(|| replica.pause());
        // Nothing more is on its way to the replica.
        let mut client = crate::sinks::redis_server::client(primary).await;
        let cut = redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("replica").to_owned();
        cut.exec_async(&mut client).await.unwrap();
        let before = published();
        let tail = async || published() > before + TAIL;
        eventually_async("a tail that no replica has", LIMIT, tail).await;
        tokio::task::block_in_place(|| {
            primary.kill();
            replica.resume();
        });
        let promoted = async || tokio::task::block_in_place(|| sentinels.is_primary(1));
        eventually_async("a promoted replica", LIMIT, promoted).await;
    };
    write_during(&database, &seed, 8, fault, |rng, _| Plan::random(rng)).await;
    all_settled(&*store).await;
    let arrived: Vec<Entry> = stream(replica).await.into_iter().map(|(_, entry)| entry).collect();
    let repaired = published() - arrived.len() as u64;
    assert!(repaired >= TAIL, "{repaired} messages were published again, of a tail of {TAIL}");
    let verdict = check(&recorded(&database).await, &arrived);
    assert!(verdict.is_exactly_once(), "{verdict}");
    running.drain().await.unwrap();
}
