//! The database goes back in time under a relay: it stops before it publishes anything, says what it
//! found, and after a rebase nothing is skipped because a position was used twice.

use std::sync::Arc;

use posthaste_core::Message;
use posthaste_relay::{Relay, State, sink::Context, sinks};
use posthaste_store::{
    Operations, Rebased, Request, Store,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::{
    PgVersion, Postgres, PostgresOptions as ServerOptions, Redis, eventually_async,
};

use tokio_postgres::NoTls;

use super::scene::LIMIT;
use crate::pipeline::support::{
    Running, numbered, numbers, receive, relay_to_local, settings, subscription,
};

const STREAM: &str = "rewound";

fn server() -> Postgres {
    Postgres::start_with(ServerOptions { version: PgVersion::Debian, ..ServerOptions::default() })
}

/// The log in the database `url`; another process, as far as anybody can tell.
fn open(url: &str) -> Arc<dyn Operations> {
    Arc::new(PostgresStore::connect(url, &PostgresOptions::default()).unwrap())
}

fn relay(store: &Arc<dyn Operations>, redis: &Redis) -> Running {
    let mut table = toml::Table::new();
    table.insert("url".to_owned(), redis.url().into());
    table.insert("stream".to_owned(), STREAM.into());
    let target = (sinks::find("redis-stream").unwrap().parse)(table).unwrap();
    let subscriptions = vec![subscription("test", &["*"], target.into())];
    let store: Arc<dyn Store> = Arc::clone(store) as Arc<dyn Store>;
    Running::start(Relay::new(store, settings(), subscriptions, Context::default()))
}

/// Has a relay publish everything, and end.
async fn publish(store: &Arc<dyn Operations>, redis: &Redis, texts: &[&str]) {
    let messages: Vec<Message> =
        texts.iter().map(|text| Message::new("t").key("k").text(*text)).collect();
    store.append(&messages).await.unwrap();
    let running = relay(store, redis);
    settled(&**store).await;
    running.drain().await.unwrap();
}

async fn settled(store: &dyn Store) {
    let is_so = async || {
        let status = store.status().await.unwrap();
        status.subscriptions.first().is_some_and(|it| it.backlog == 0)
    };
    eventually_async("a settled backlog", LIMIT, is_so).await;
}

/// A relay that must stop before it publishes, and what it says.
async fn halts(store: &Arc<dyn Operations>, redis: &Redis) -> String {
    let running = relay(store, redis);
    let monitor = running.monitor.clone();
    running.ended().await.unwrap_err();
    let found = monitor.snapshot().remove(0);
    assert_eq!((found.state, found.published), (State::Stopped, 0), "{found:?}");
    let said = found.last_error.unwrap();
    assert!(said.contains("posthaste subscriptions rebase"), "{said}");
    said
}

async fn rebase(store: &dyn Operations) -> Rebased {
    let request = Request { actor: "test".to_owned(), is_dry_run: false, is_forced: false };
    store.rebase("test", &request).await.unwrap()
}

/// The payloads of the stream, in order.
async fn stream(redis: &Redis) -> Vec<String> {
    let mut client = crate::sinks::redis_server::client(redis).await;
    let entries: Vec<(String, Vec<(String, String)>)> =
        redis::cmd("XRANGE").arg(STREAM).arg("-").arg("+").query_async(&mut client).await.unwrap();
    entries.into_iter().map(|(_, mut fields)| fields.pop().unwrap().1).collect()
}

/// What stands in the stream after the log went back from "lost" to "kept", and "instead" was
/// written at the position of "lost".
const ARRIVED: [&str; 4] = ["kept", "lost", "instead", "then"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_volume_halts_the_relay_until_it_is_rebased() {
    let (server, redis) = (server(), Redis::start());
    let database = server.database().await;
    let store = open(database.url());
    store.migrate().await.unwrap();
    publish(&store, &redis, &["kept"]).await;
    tokio::task::block_in_place(|| server.save_files());
    publish(&store, &redis, &["lost"]).await;
    tokio::task::block_in_place(|| server.restore_files());

    let store = open(database.url());
    store.append(&[Message::new("t").key("k").text("instead")]).await.unwrap();
    let said = halts(&store, &redis).await;
    assert!(said.contains("not handed out") || said.contains("not of this log"), "{said}");
    // It stays so, whoever looks.
    assert!(halts(&store, &redis).await.contains("halted"));
    assert_eq!(stream(&redis).await, ARRIVED[..2]);
    let rebased = rebase(&*store).await;
    assert_eq!((rebased.pending, rebased.was_copied), (1, false));
    publish(&store, &redis, &["then"]).await;
    assert_eq!(stream(&redis).await, ARRIVED);
    // The sink is this log's from now on: a relay that starts anew finds nothing.
    publish(&store, &redis, &["more"]).await;
    assert_eq!(stream(&redis).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promoted_replica_that_lagged_halts_the_relay_until_it_is_rebased() {
    let (primary, redis) = (server(), Redis::start());
    let database = primary.database().await;
    let store = open(database.url());
    store.migrate().await.unwrap();
    publish(&store, &redis, &["kept"]).await;
    let standby = tokio::task::block_in_place(|| Postgres::standby_of(&primary));
    // It is away while the rest is written, and is all that is left then.
    tokio::task::block_in_place(|| standby.stop());
    publish(&store, &redis, &["lost"]).await;
    tokio::task::block_in_place(|| {
        primary.kill();
        standby.restart();
    });
    let (replica, connection) =
        tokio_postgres::connect(&standby.url(database.name()), NoTls).await.unwrap();
    tokio::spawn(connection);
    replica.batch_execute("select pg_promote()").await.unwrap();

    let store = open(&standby.url(database.name()));
    store.append(&[Message::new("t").key("k").text("instead")]).await.unwrap();
    halts(&store, &redis).await;
    assert_eq!(rebase(&*store).await.pending, 1);
    publish(&store, &redis, &["then"]).await;
    assert_eq!(stream(&redis).await, ARRIVED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dump_in_another_cluster_halts_the_relay_until_it_is_rebased() {
    let (one, another, redis) = (server(), server(), Redis::start());
    let database = one.database().await;
    let store = open(database.url());
    store.migrate().await.unwrap();
    publish(&store, &redis, &["kept"]).await;
    let dump = tokio::task::block_in_place(|| one.dump(&database));
    publish(&store, &redis, &["lost"]).await;

    // Twice from the same dump: the second time the sink has the place of the first restored log.
    for expected in [&ARRIVED[..], &["kept", "lost", "instead", "then", "instead", "then"]] {
        let database = another.database().await;
        tokio::task::block_in_place(|| another.load(&dump, &database));
        let store = open(database.url());
        store.append(&[Message::new("t").key("k").text("instead")]).await.unwrap();
        assert!(relay(&store, &redis).ended().await.is_err());
        let rebased = rebase(&*store).await;
        assert_eq!((rebased.pending, rebased.was_copied), (1, true));
        publish(&store, &redis, &["then"]).await;
        assert_eq!(stream(&redis).await, expected);
    }
}

/// The sink keeps no place, but the relay that runs on remembers its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_that_outlives_its_database_stops_when_it_comes_back_older() {
    let server = server();
    let database = server.database().await;
    let store: Arc<dyn Store> =
        Arc::new(PostgresStore::connect(database.url(), &PostgresOptions::default()).unwrap());
    store.migrate().await.unwrap();
    let (relay, mut consumer) = relay_to_local(&store);
    let running = Running::start(relay);
    store.append(&numbered(0..1)).await.unwrap();
    assert_eq!(numbers(&receive(&mut consumer, 1).await), [0]);
    settled(&*store).await;
    tokio::task::block_in_place(|| server.save_files());
    eventually_async("the database", LIMIT, async || store.append(&numbered(1..2)).await.is_ok())
        .await;
    assert_eq!(numbers(&receive(&mut consumer, 1).await), [1]);
    settled(&*store).await;
    tokio::task::block_in_place(|| server.restore_files());
    let monitor = running.monitor.clone();
    running.ended().await.unwrap_err();
    let found = monitor.snapshot().remove(0);
    assert_eq!(found.state, State::Stopped, "{found:?}");
    assert!(found.last_error.unwrap().contains("posthaste subscriptions rebase"));
    // Noted in the database, so that a relay that remembers nothing stops as well.
    let (relay, _consumer) = relay_to_local(&store);
    Running::start(relay).ended().await.unwrap_err();
}
