//! A database whose transactions are `repeatable read` unless they say otherwise.

use posthaste_core::Place;
use posthaste_store::{
    Settled, Store,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::{Database, Postgres};
use tokio::task::JoinSet;

use super::database::{Log, enqueue, enqueue_many, read, tick};
use crate::taking::taken;

async fn strict_database() -> Database {
    let database = Postgres::shared().database().await;
    let alter = "alter database {name} set default_transaction_isolation = 'repeatable read'";
    let alter = alter.replace("{name}", database.name());
    database.connect().await.batch_execute(&alter).await.unwrap();
    database
}

fn store(database: &Database) -> PostgresStore {
    PostgresStore::connect(database.url(), &PostgresOptions::default()).unwrap()
}

/// Defence: every transaction that waits for a lock names its isolation level.
#[tokio::test]
async fn several_processes_migrate_a_repeatable_read_database() {
    let database = strict_database().await;
    let mut migrations = JoinSet::new();
    for _ in 0..4 {
        let store = store(&database);
        migrations.spawn(async move { store.migrate().await.unwrap() });
    }
    migrations.join_all().await;
    store(&database).check().await.unwrap();
}

/// Defence: a tick's transaction is `read committed`, so that it sees the tick that another
/// process committed while it waited.
#[tokio::test]
async fn ticker_that_waited_for_another_goes_on_in_a_repeatable_read_database() {
    let database = strict_database().await;
    let store = store(&database);
    store.migrate().await.unwrap();
    let log = Log { database, store };
    let writer = log.writer().await;
    enqueue(&writer, "before").await;
    let mut another = log.writer().await;
    let ticking = another.transaction().await.unwrap();
    let tick_one = "select from posthaste.meta for update; \
                    insert into posthaste.tick (n, snapshot) values (1, pg_current_snapshot())";
    ticking.batch_execute(tick_one).await.unwrap();
    let mut ticker = log.store.ticker();
    let advance = tokio::spawn(async move { (ticker.advance().await, ticker) });
    log.somebody_waits().await;
    ticking.commit().await.unwrap();
    let (advance, mut ticker) = advance.await.unwrap();
    assert_eq!(advance.unwrap().tick.n, 1, "the other process's tick shows the message");
    enqueue(&writer, "after").await;
    assert_eq!(tick(ticker.as_mut()).await.n, 2);
    assert_eq!(read(&log.store, &mut Place::beginning()).await, ["before", "after"]);
}

/// Defence: a settle that waited behind a takeover is fenced, not failed: after a failure the
/// relay would take the subscription back.
#[tokio::test]
async fn stale_settle_is_fenced_in_a_repeatable_read_database() {
    let database = strict_database().await;
    let store = store(&database);
    store.migrate().await.unwrap();
    let log = Log { database, store };
    log.subscribe("s").await;
    enqueue_many(&log.writer().await, "message ", 3).await;
    let newest = tick(log.store.ticker().as_mut()).await;
    let (epoch, place) = taken(&log.store, "s", "holder").await;
    let mut another = log.writer().await;
    let takeover = another.transaction().await.unwrap();
    takeover.batch_execute("update posthaste.lease set epoch = epoch + 1").await.unwrap();
    let (old, place) = (log.store.clone(), place.finished(newest));
    let settle = tokio::spawn(async move { old.settle("s", epoch, &place).await });
    log.somebody_waits().await;
    takeover.commit().await.unwrap();
    assert_eq!(settle.await.unwrap().unwrap(), Settled::Fenced);
    assert_eq!(log.publish("s").await, ["message 1", "message 2", "message 3"]);
}
