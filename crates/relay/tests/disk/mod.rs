//! A database whose disk is full: a real server that finds no room, and gets it back.

use std::{cell::RefCell, collections::BTreeSet, sync::Arc};

use posthaste_relay::{Monitor, State, sinks::local::Delivery, telemetry::Telemetry};
use posthaste_store::{
    Store,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::{
    Database, Disk, Postgres, PostgresOptions as ServerOptions, eventually_async,
    exposition::Scrape,
};
use tokio::sync::mpsc;
use tokio_postgres::{Client, Error};

use crate::pipeline::support::{LIMIT, Running, relay_to_local};

/// More than a page of ticks or of places takes, so that one of them finds no room.
const MESSAGES_MAX: u32 = 200;
/// Written after that: none of them can be published before there is room.
const WAITING: u32 = 20;

/// A server on a disk of its own, with a log that has room for more messages.
struct Scene {
    disk: Arc<Disk>,
    postgres: Postgres,
    database: Database,
    store: Arc<dyn Store>,
    writer: Client,
}

impl Scene {
    async fn new() -> Self {
        let disk = Arc::new(Disk::new());
        // Nothing else may take room or give it back.
        let settings = vec![("autovacuum".to_owned(), "off".to_owned())];
        let options =
            ServerOptions { disk: Some(Arc::clone(&disk)), settings, ..ServerOptions::default() };
        let postgres = Postgres::start_with(options);
        let database = postgres.database().await;
        let store = PostgresStore::connect(database.url(), &PostgresOptions::default()).unwrap();
        store.migrate().await.unwrap();
        let writer = database.connect().await;
        let orders = "create table orders (id int); insert into orders values (0)";
        writer.batch_execute(orders).await.unwrap();
        // Pages with room in them, left by a transaction that rolled back.
        writer
            .batch_execute(
                "begin; insert into posthaste.log \
                 (id, topic, payload, content_type, headers) select gen_random_uuid(), 'room', \
                 'x', 'a/b', '{}' from generate_series(1, 3000); rollback",
            )
            .await
            .unwrap();
        writer.batch_execute("vacuum (truncate false) posthaste.log_0").await.unwrap();
        Self { disk, postgres, database, store: Arc::new(store), writer }
    }

    async fn enqueue(&self, n: u32) -> Result<(), Error> {
        let sql = "select posthaste.enqueue('numbers', to_json($1::int))";
        self.writer.execute(sql, &[&(n as i32)]).await.map(drop)
    }

    /// Rows that tell of a message's publication to people.
    async fn published_rows(&self) -> i64 {
        let sql = "select count(*) from posthaste.outbox where published_at is not null";
        self.database.connect().await.query_one(sql, &[]).await.unwrap().get(0)
    }
}

fn scrape(telemetry: &Telemetry) -> Scrape {
    Scrape::parse(&telemetry.metrics())
}

/// How often the database has said that it has no room.
fn refusals(telemetry: &Telemetry) -> u64 {
    let labels = [("class", "resources")];
    scrape(telemetry).value("posthaste_database_errors_total", &labels) as u64
}

/// Whether the relay says that it backs off, and why.
fn is_told(monitor: &Monitor) -> bool {
    let snapshot = &monitor.snapshot()[0];
    let held = snapshot.last_error.clone().filter(|_| snapshot.state == State::BackingOff);
    held.or(monitor.trouble()).is_some_and(|told| {
        assert!(told.contains("No space left on device"), "{told}");
        assert!(told.contains("free disk space"), "{told}");
        true
    })
}

/// The numbers that have arrived, in their order.
struct Arrivals(RefCell<(mpsc::Receiver<Delivery>, Vec<u32>)>);

impl Arrivals {
    fn at(consumer: mpsc::Receiver<Delivery>) -> Self {
        Self(RefCell::new((consumer, Vec::new())))
    }

    fn numbers(&self) -> Vec<u32> {
        let (consumer, numbers) = &mut *self.0.borrow_mut();
        while let Ok(Delivery { payload, .. }) = consumer.try_recv() {
            numbers.push(String::from_utf8(payload).unwrap().parse().unwrap());
        }
        numbers.clone()
    }
}

#[tokio::test]
async fn r12_full_disk_holds_the_relay_and_nothing_is_lost_or_repeated_when_there_is_room() {
    let scene = Scene::new().await;
    let (relay, consumer) = relay_to_local(&scene.store);
    let arrivals = Arrivals::at(consumer);
    let telemetry = relay.telemetry();
    let running = Running::start(relay);
    scene.enqueue(0).await.unwrap();
    assert!(running.monitor.wait_for(|all| all[0].published == 1).await);
    scene.disk.fill(&scene.postgres.data_dir().join("base"));
    let mut written = 1;
    while refusals(&telemetry) == 0 {
        assert!(written < MESSAGES_MAX, "nothing was refused for want of room");
        scene.enqueue(written).await.unwrap();
        written += 1;
        eventually_async("a message, or no room for it", LIMIT, async || {
            arrivals.numbers().len() as u32 == written || refusals(&telemetry) > 0
        })
        .await;
    }
    let held = async || is_told(&running.monitor);
    eventually_async("a relay that says why it waits", LIMIT, held).await;

    // The application's own transaction fails with the cause, and whole; small ones still go.
    let mut other = scene.database.connect().await;
    let transaction = other.transaction().await.unwrap();
    transaction.batch_execute("insert into orders values (17)").await.unwrap();
    let big = "select posthaste.enqueue_bytes('numbers', string_agg(sha256(n::text::bytea), '')) \
               from generate_series(1, 1000) n";
    let error = transaction.batch_execute(big).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "53100", "{error:?}");
    transaction.commit().await.unwrap();
    let orders = other.query_one("select count(*) from orders", &[]).await.unwrap();
    assert_eq!(orders.get::<_, i64>(0), 1, "the order went with its message");
    let before = refusals(&telemetry);
    for n in written..written + WAITING {
        scene.enqueue(n).await.unwrap();
    }
    written += WAITING;

    // It goes on trying, publishes nothing that it could not settle, and marks nothing.
    let again = async || refusals(&telemetry) >= before + 5;
    eventually_async("more tries", LIMIT, again).await;
    let published = arrivals.numbers().len();
    assert!(published as u32 <= written - WAITING + 1, "{published} of {written}");
    let status = &scene.store.status().await.unwrap().subscriptions[0];
    assert!(status.backlog >= u64::from(WAITING), "{status:?}");
    assert!(scene.published_rows().await <= published as i64);

    scene.disk.free();
    eventually_async("all messages", LIMIT, async || {
        let status = scene.store.status().await.unwrap();
        arrivals.numbers().len() as u32 >= written && status.subscriptions[0].backlog == 0
    })
    .await;
    assert_eq!(arrivals.numbers(), (0..written).collect::<Vec<_>>(), "once each, and in order");
    assert!(running.monitor.wait_for(|all| all[0].state == State::Running).await);
    eventually_async("ticks", LIMIT, async || running.monitor.trouble().is_none()).await;
    assert_eq!(scrape(&telemetry).value("posthaste_ticking", &[]) as u64, 1);
    running.drain().await.unwrap();
}

/// Without room for its write-ahead log PostgreSQL ends itself. What was acknowledged is there again
/// after its restart.
#[tokio::test]
async fn r12_server_that_died_of_a_full_disk_loses_nothing_and_the_relay_goes_on() {
    let scene = Scene::new().await;
    let (relay, consumer) = relay_to_local(&scene.store);
    let arrivals = Arrivals::at(consumer);
    let running = Running::start(relay);
    scene.enqueue(0).await.unwrap();
    assert!(running.monitor.wait_for(|all| all[0].published == 1).await);
    scene.disk.fill(&scene.postgres.data_dir());
    let mut committed = BTreeSet::from([0]);
    for n in 1.. {
        assert!(n < 100, "the server goes on without room");
        let switched = scene.writer.execute("select pg_switch_wal()", &[]).await;
        if switched.is_err() || scene.enqueue(n).await.is_err() {
            break;
        }
        committed.insert(n);
    }
    let is_away = |all: &[posthaste_relay::SubscriptionSnapshot]| {
        all[0].state == State::BackingOff || running.monitor.trouble().is_some()
    };
    let away = async || is_away(&running.monitor.snapshot());
    eventually_async("a relay without its database", LIMIT, away).await;
    scene.disk.free();
    // What is left of it may take its time over a shutdown.
    scene.postgres.kill();
    scene.postgres.restart();

    eventually_async("all messages", LIMIT, async || {
        let numbers = arrivals.numbers();
        let status = scene.store.status().await;
        let is_settled = status.is_ok_and(|status| status.subscriptions[0].backlog == 0);
        is_settled && committed.iter().all(|n| numbers.contains(n))
    })
    .await;
    let numbers = arrivals.numbers();
    let repeated = numbers.len() - numbers.iter().collect::<BTreeSet<_>>().len();
    assert!(repeated <= committed.len(), "{numbers:?}");
    running.drain().await.unwrap();
}
