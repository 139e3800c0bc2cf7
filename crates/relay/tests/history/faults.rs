//! PostgreSQL and Redis go away and come back under load: nothing is lost, and nothing is called
//! published that did not arrive.

use std::{collections::HashSet, sync::Arc, time::Duration};

use posthaste_core::MessageId;
use posthaste_relay::{Relay, State, sink::Context, sinks};
use posthaste_store::Store;
use posthaste_testkit::{
    Database, Postgres, Redis, eventually_async,
    history::{Entry, check},
};
use tokio::time::sleep;

use super::{
    application::{self, Plan, write_for},
    scene::{self, LIMIT, Scene, published, recorded},
    seed::Seed,
};
use crate::pipeline::support::{Running, settings, subscription};

const BETWEEN_FAULTS: Duration = Duration::from_secs(1);
pub(crate) const STREAM: &str = "history";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_postgres_restart_under_load_loses_nothing() {
    let seed = Seed::of("faults::r12_postgres_restart_under_load");
    let postgres = Postgres::start();
    let scene = Scene::on(&postgres).await;
    let faults = async {
        for fault in [Postgres::stop as fn(&Postgres), Postgres::kill, Postgres::kill] {
            sleep(BETWEEN_FAULTS).await;
            tokio::task::block_in_place(|| fault(&postgres));
            sleep(Duration::from_millis(300)).await;
            tokio::task::block_in_place(|| postgres.restart());
            // Read before what has arrived: a message is published only after its arrival.
            let published = published(&scene.database).await;
            let unfounded = published.difference(&scene.arrivals.ids()).count();
            assert_eq!(unfounded, 0, "published without having arrived");
        }
    };
    let load =
        write_for(&scene.database, &seed, 16, 8 * BETWEEN_FAULTS, |rng, _| Plan::random(rng));
    tokio::join!(load, faults);
    let (received, monitor) = (scene.arrivals.clone(), scene.monitor().clone());
    assert!(monitor.snapshot()[0].retries > 0, "the relay noticed nothing");
    let verdict = scene.verdict().await;
    assert!(verdict.is_at_least_once(), "{verdict}");
    println!("{} arrivals, {} of them repeats", received.len(), verdict.repeated.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r12_redis_down_loses_nothing_and_marks_nothing_published() {
    let seed = Seed::of("faults::r12_redis_down");
    let redis = Redis::start();
    let (database, store) = scene::prepare(Postgres::shared()).await;
    let running = Running::start(relay_to_redis(&store, &redis));
    let mut client = database.connect().await;
    let mut rng = seed.rng(1_000);
    for down in [Redis::stop as fn(&Redis), Redis::kill] {
        let load = Duration::from_secs(1);
        write_for(&database, &seed, 8, load, |rng, _| Plan::random(rng)).await;
        all_settled(&*store).await;
        let before = published(&database).await;
        tokio::task::block_in_place(|| down(&redis));
        for key in 0..20 {
            application::transact(&mut client, &mut rng, Plan::plain(key)).await.unwrap();
        }
        let noticed = running.monitor.wait_for(|all| all[0].state == State::BackingOff);
        tokio::time::timeout(LIMIT, noticed).await.unwrap();
        assert_eq!(published(&database).await, before, "published while Redis was down");
        tokio::task::block_in_place(|| redis.restart());
        all_settled(&*store).await;
    }
    stop_under_load(&database, &seed, &redis).await;
    all_settled(&*store).await;
    let arrived = stream(&redis).await;
    let ids: HashSet<MessageId> = arrived.iter().map(|(id, _)| *id).collect();
    assert_eq!(published(&database).await, ids);
    let entries: Vec<Entry> = arrived.into_iter().map(|(_, entry)| entry).collect();
    let verdict = check(&recorded(&database).await, &entries);
    assert!(verdict.is_at_least_once(), "{verdict}");
    running.drain().await.unwrap();
}

/// Redis is stopped, killed and started again while writers go on.
async fn stop_under_load(database: &Database, seed: &Seed, redis: &Redis) {
    let faults = async {
        for fault in [Redis::stop as fn(&Redis), Redis::kill] {
            sleep(BETWEEN_FAULTS).await;
            tokio::task::block_in_place(|| fault(redis));
            sleep(Duration::from_millis(300)).await;
            tokio::task::block_in_place(|| redis.restart());
        }
    };
    let time = 4 * BETWEEN_FAULTS;
    let load = write_for(database, seed, 8, time, |rng, _| Plan::random(rng));
    tokio::join!(load, faults);
}

fn relay_to_redis(store: &Arc<dyn Store>, redis: &Redis) -> Relay {
    let mut table = toml::Table::new();
    table.insert("url".to_owned(), redis.url().into());
    table.insert("stream".to_owned(), STREAM.into());
    let target = (sinks::find("redis-stream").unwrap().parse)(table).unwrap();
    let subscriptions = vec![subscription("test", &["*"], target.into())];
    Relay::new(Arc::clone(store), settings(), subscriptions, Context::default())
}

/// Waits until the relay has settled everything. (The views would say the same, but date each
/// message.)
pub(crate) async fn all_settled(store: &dyn Store) {
    let is_so = async || store.status().await.unwrap().subscriptions[0].backlog == 0;
    eventually_async("a settled backlog", LIMIT, is_so).await;
}

/// The stream's entries: message id and payload.
pub(crate) async fn stream(redis: &Redis) -> Vec<(MessageId, Entry)> {
    let mut client = crate::sinks::redis_server::client(redis).await;
    let entries: Vec<(String, Vec<(String, String)>)> =
        redis::cmd("XRANGE").arg(STREAM).arg("-").arg("+").query_async(&mut client).await.unwrap();
    let read = |(_, fields): (String, Vec<(String, String)>)| {
        let field = |name: &str| fields.iter().find(|(n, _)| n == name).unwrap().1.clone();
        (field("id").parse().unwrap(), field("payload").parse().unwrap())
    };
    entries.into_iter().map(read).collect()
}
