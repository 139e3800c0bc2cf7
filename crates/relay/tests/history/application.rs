//! The application: writers that change an entity, enqueue messages about it and record them, all
//! in one transaction.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use posthaste_testkit::{Database, history::Entry};
use rand::{Rng as _, rngs::SmallRng};
use tokio::{task::JoinSet, time::sleep};
use tokio_postgres::{Client, NoTls, Transaction};
use uuid::Uuid;

use super::seed::Seed;

/// Entities that writers compete for. Those above belong to one writer each.
pub(crate) const SHARED_KEYS: i64 = 8;

const TABLES: &str = "
    create schema app;
    create table app.entity (k bigint primary key, n bigint not null);
    insert into app.entity select k, 0 from generate_series(0, 999) k;
    create table app.mirror (k bigint, n bigint, part bigint, tx uuid);
    create table app.other (x int)";

/// How one transaction goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) key: i64,
    pub(crate) parts: i64,
    /// Takes its transaction id before anything else.
    pub(crate) early_xid: bool,
    /// Pause before the entity is locked.
    pub(crate) before: Duration,
    /// Pause between the last message and the end.
    pub(crate) after: Duration,
    pub(crate) ending: Ending,
    /// Wraps each message in a savepoint and rolls back those with an odd number.
    pub(crate) savepoints: bool,
    /// Enqueues with the SQL function instead of the plain insert.
    pub(crate) by_function: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Commit,
    Rollback,
}

impl Plan {
    /// One message about `key`, committed at once.
    pub(crate) const fn plain(key: i64) -> Self {
        Self {
            key,
            parts: 1,
            early_xid: false,
            before: Duration::ZERO,
            after: Duration::ZERO,
            ending: Ending::Commit,
            savepoints: false,
            by_function: false,
        }
    }

    /// One to three messages about a shared entity, a fifth of them rolled back, with pauses.
    pub(crate) fn random(rng: &mut SmallRng) -> Self {
        let mut pause = |chance: f64, millis: Range<u64>| {
            let is_drawn = rng.random_bool(chance);
            if is_drawn { Duration::from_millis(rng.random_range(millis)) } else { Duration::ZERO }
        };
        let (before, after) = (pause(0.3, 0..30), pause(0.2, 0..10));
        Self {
            key: rng.random_range(0..SHARED_KEYS),
            parts: rng.random_range(1..=3),
            early_xid: rng.random_bool(0.5),
            before,
            after,
            ending: if rng.random_bool(0.2) { Ending::Rollback } else { Ending::Commit },
            savepoints: false,
            by_function: rng.random_bool(0.5),
        }
    }
}

/// Creates the application's tables.
pub(crate) async fn create(database: &Database) {
    database.connect().await.batch_execute(TABLES).await.unwrap();
}

/// A connection as an application makes one.
pub(crate) async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Runs one transaction. After an error it may have committed or not: the mirror knows.
pub(crate) async fn transact(
    client: &mut Client,
    rng: &mut SmallRng,
    plan: Plan,
) -> Result<(), tokio_postgres::Error> {
    let mut transaction = client.transaction().await?;
    if plan.early_xid {
        transaction.batch_execute("insert into app.other values (1)").await?;
    }
    pause(plan.before).await;
    let change = change(&transaction, rng, plan.key).await?;
    for part in 0..plan.parts {
        let entry = Entry { part, ..change };
        if plan.savepoints {
            let savepoint = transaction.transaction().await?;
            enqueue(&savepoint, entry, plan.by_function).await?;
            if part % 2 == 0 { savepoint.commit().await? } else { savepoint.rollback().await? }
        } else {
            enqueue(&transaction, entry, plan.by_function).await?;
        }
    }
    pause(plan.after).await;
    match plan.ending {
        Ending::Commit => transaction.commit().await,
        Ending::Rollback => transaction.rollback().await,
    }
}

/// Locks an entity and counts its change: the earlier statement that makes ORDERED hold.
pub(crate) async fn change(
    transaction: &Transaction<'_>,
    rng: &mut SmallRng,
    key: i64,
) -> Result<Entry, tokio_postgres::Error> {
    let update = "update app.entity set n = n + 1 where k = $1 returning n";
    let row = transaction.query_one(update, &[&key]).await?;
    let transaction = Uuid::from_u128(rng.random());
    Ok(Entry { key, n: row.get(0), part: 0, transaction })
}

/// Enqueues the message for `entry` and records it.
pub(crate) async fn enqueue(
    transaction: &Transaction<'_>,
    entry: Entry,
    by_function: bool,
) -> Result<(), tokio_postgres::Error> {
    let (key, text) = (entry.key.to_string(), entry.to_string());
    if by_function {
        let call = "select posthaste.enqueue_bytes('history', $1, $2)";
        transaction.execute(call, &[&text.as_bytes(), &key]).await?;
    } else {
        let insert = "insert into posthaste.log (id, topic, key, payload, content_type, headers) \
                      values (gen_random_uuid(), 'history', $2, $1, 'text/plain', '{}')";
        transaction.execute(insert, &[&text.as_bytes(), &key]).await?;
    }
    let record = "insert into app.mirror values ($1, $2, $3, $4)";
    let Entry { key, n, part, transaction: tx } = entry;
    transaction.execute(record, &[&key, &n, &part, &tx]).await?;
    Ok(())
}

/// Runs `count` writers for `time`, each with plans drawn by `draw`; writers whose connection
/// breaks connect anew.
pub(crate) async fn write_for(
    database: &Database,
    seed: &Seed,
    count: u64,
    time: Duration,
    draw: fn(&mut SmallRng, nth: i64) -> Plan,
) {
    write_during(database, seed, count, sleep(time), draw).await;
}

/// The same until `work` is done.
pub(crate) async fn write_during(
    database: &Database,
    seed: &Seed,
    count: u64,
    work: impl Future<Output = ()>,
    draw: fn(&mut SmallRng, nth: i64) -> Plan,
) {
    let is_over = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for nth in 0..count {
        let (url, rng, is_over) = (database.url().to_owned(), seed.rng(nth), Arc::clone(&is_over));
        writers.spawn(async move { write(&url, rng, &is_over, |rng| draw(rng, nth as i64)).await });
    }
    work.await;
    is_over.store(true, Ordering::Release);
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
}

async fn write(
    url: &str,
    mut rng: SmallRng,
    is_over: &AtomicBool,
    mut draw: impl FnMut(&mut SmallRng) -> Plan,
) {
    let mut client = None;
    while !is_over.load(Ordering::Acquire) {
        let Some(connected) = &mut client else {
            client = connect(url).await.ok();
            pause(Duration::from_millis(10)).await;
            continue;
        };
        let plan = draw(&mut rng);
        if let Err(error) = transact(connected, &mut rng, plan).await {
            let is_lost = connected.is_closed() || error.as_db_error().is_none();
            let is_stopping = error.code().is_some_and(|code| code.code().starts_with("57"));
            assert!(is_lost || is_stopping, "{plan:?}: {error:?}");
            client = None;
        }
        pause(Duration::from_millis(rng.random_range(0..10))).await;
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}
