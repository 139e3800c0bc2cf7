//! The application: writers that change an entity, enqueue messages about it and record them, all
//! in one transaction, and that fail in every way an application can.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use posthaste::{Message, Outbox, SchemaName};
use posthaste_testkit::history::Entry;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::{
    task::{AbortHandle, JoinSet},
    time::sleep,
};
use tokio_postgres::{Client, NoTls, Transaction};
use uuid::Uuid;

use crate::{
    message::{Body, ENTRY_HEADER},
    stage::{KEYS, SHARD_HEADER, SHARDS, SUBSCRIPTIONS},
};

/// Writers at once.
const WRITERS: u64 = 8;
/// Messages that may wait for the relay before the writers wait for it too.
const BACKLOG_MAX: u64 = 10_000;
const RECONNECT_INTERVAL: Duration = Duration::from_millis(50);

/// What the writers have done, counted in messages.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Written in a transaction, however that ended.
    pub(crate) attempted: AtomicU64,
    /// The answer to their commit came.
    pub(crate) acknowledged: AtomicU64,
    /// Their commit was sent and its answer not waited for, or lost.
    pub(crate) in_doubt: AtomicU64,
    /// Known to be committed, and not to be rejected: what is to arrive.
    pub(crate) committed: AtomicU64,
    /// Set to end them.
    pub(crate) stop: AtomicBool,
}

/// What writers are given.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) url: String,
    pub(crate) seed: u64,
    /// Bytes of a payload at least.
    pub(crate) bytes_min: usize,
    pub(crate) written: Arc<Written>,
    /// Messages that have arrived.
    pub(crate) arrived: Arc<AtomicU64>,
}

/// How one transaction goes.
#[derive(Clone, Copy, Debug)]
struct Plan {
    key: i64,
    parts: i64,
    /// Takes its transaction id long before its first position.
    early_xid: bool,
    before: Duration,
    /// Takes its positions long before its commit.
    after: Duration,
    ending: Ending,
    savepoints: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Commit,
    Rollback,
    /// The connection breaks while the commit is on its way.
    Break(Duration),
}

/// What a transaction has written.
#[derive(Clone, Copy, Debug)]
struct Change {
    key: i64,
    tx: Uuid,
    messages: u64,
    /// Of them, those that the sink is to take.
    publishable: u64,
}

/// How a transaction ended.
enum Ended {
    /// As it was to.
    Sure,
    /// Before its commit; the connection is of no use any more.
    Failed,
    /// Whether it has committed is not known; nor is the connection of use.
    InDoubt(Change),
}

/// A connection, and what ends it.
struct Session {
    client: Client,
    connection: AbortHandle,
}

impl Plan {
    fn draw(rng: &mut SmallRng) -> Self {
        let early_xid = rng.random_bool(0.2);
        let mut pause = |chance: f64, millis_max: u64| {
            let is_drawn = rng.random_bool(chance);
            let millis = if is_drawn { rng.random_range(0..millis_max) } else { 0 };
            Duration::from_millis(millis)
        };
        let before = pause(if early_xid { 0.8 } else { 0.1 }, 60);
        let after = pause(0.15, 60);
        let ending = match rng.random_range(0..100) {
            0..20 => Ending::Rollback,
            20..22 => Ending::Break(Duration::from_micros(rng.random_range(0..2_000))),
            _ => Ending::Commit,
        };
        let (parts, savepoints) = (rng.random_range(1..=5), rng.random_bool(0.1));
        Self { key: zipf(rng), parts, early_xid, before, after, ending, savepoints }
    }
}

/// A key: the first is drawn most, about `1/k` of it each other one.
fn zipf(rng: &mut SmallRng) -> i64 {
    let keys = KEYS as f64;
    ((keys + 1.0).powf(rng.random::<f64>()) as i64 - 1).clamp(0, KEYS - 1)
}

/// Runs the writers until they are told to stop.
pub(crate) async fn write(setup: Setup) {
    let mut writers = JoinSet::new();
    for nth in 0..WRITERS {
        writers.spawn(write_on(setup.clone(), nth));
    }
    writers.join_all().await;
}

async fn write_on(setup: Setup, nth: u64) {
    let mut rng = SmallRng::seed_from_u64(setup.seed.wrapping_mul(1_000).wrapping_add(nth));
    let outbox = Outbox::new(SchemaName::default());
    let mut session = None;
    let mut in_doubt = None;
    while !setup.written.stop.load(Ordering::Acquire) {
        if setup.has_backlog() {
            sleep(RECONNECT_INTERVAL).await;
            continue;
        }
        let Some(Session { client, connection }) = &mut session else {
            // A part of the writers does without a synchronous commit, as applications may.
            session = connect(&setup.url, nth.is_multiple_of(4)).await;
            if session.is_none() {
                sleep(RECONNECT_INTERVAL).await;
            }
            continue;
        };
        if let Some(change) = in_doubt {
            match resolve(client, &setup, &change).await {
                Some(()) => in_doubt = None,
                None => session = None,
            }
            continue;
        }
        let plan = Plan::draw(&mut rng);
        match transact(client, &outbox, &setup, &mut rng, plan).await {
            Ended::Sure => {}
            Ended::Failed => session = None,
            Ended::InDoubt(change) => {
                connection.abort();
                (session, in_doubt) = (None, Some(change));
            }
        }
        sleep(Duration::from_millis(rng.random_range(0..15))).await;
    }
}

impl Setup {
    /// Messages that are known to be committed and have not arrived.
    pub(crate) fn in_flight(&self) -> u64 {
        let committed = self.written.committed.load(Ordering::Acquire);
        committed.saturating_sub(self.arrived.load(Ordering::Acquire))
    }

    fn has_backlog(&self) -> bool {
        self.in_flight() > BACKLOG_MAX
    }
}

async fn connect(url: &str, is_asynchronous: bool) -> Option<Session> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.ok()?;
    let connection = tokio::spawn(connection).abort_handle();
    if is_asynchronous {
        client.batch_execute("set synchronous_commit = off").await.ok()?;
    }
    Some(Session { client, connection })
}

/// Runs one transaction.
async fn transact(
    client: &mut Client,
    outbox: &Outbox,
    setup: &Setup,
    rng: &mut SmallRng,
    plan: Plan,
) -> Ended {
    let Some((transaction, change)) = begin(client, outbox, setup, rng, plan).await else {
        return Ended::Failed;
    };
    let written = &setup.written;
    written.attempted.fetch_add(change.messages, Ordering::AcqRel);
    sleep(plan.after).await;
    let is_sure = match plan.ending {
        Ending::Rollback => {
            let ended = transaction.rollback().await;
            return if ended.is_ok() { Ended::Sure } else { Ended::Failed };
        }
        Ending::Commit => transaction.commit().await.is_ok(),
        Ending::Break(after) => tokio::select! {
            committed = transaction.commit() => committed.is_ok(),
            () = sleep(after) => false,
        },
    };
    if !is_sure {
        written.in_doubt.fetch_add(change.messages, Ordering::AcqRel);
        return Ended::InDoubt(change);
    }
    written.acknowledged.fetch_add(change.messages, Ordering::AcqRel);
    written.committed.fetch_add(change.publishable, Ordering::AcqRel);
    Ended::Sure
}

/// Finds out whether a transaction has committed, once it is over: until then it holds its entity.
async fn resolve(client: &Client, setup: &Setup, change: &Change) -> Option<()> {
    let wait = "select n from app.entity where k = $1 for update";
    client.query_one(wait, &[&change.key]).await.ok()?;
    let find = "select exists (select from app.mirror where k = $1 and tx = $2)";
    let row = client.query_one(find, &[&change.key, &change.tx]).await.ok()?;
    if row.get(0) {
        setup.written.committed.fetch_add(change.publishable, Ordering::AcqRel);
    }
    Some(())
}

/// Begins a transaction, locks an entity, counts its change, and enqueues and records the messages
/// about it; `None` when something failed.
async fn begin<'a>(
    client: &'a mut Client,
    outbox: &Outbox,
    setup: &Setup,
    rng: &mut SmallRng,
    plan: Plan,
) -> Option<(Transaction<'a>, Change)> {
    let mut transaction = client.transaction().await.ok()?;
    if plan.early_xid {
        transaction.batch_execute("insert into app.other values (1)").await.ok()?;
    }
    sleep(plan.before).await;
    let update = "update app.entity set n = n + 1 where k = $1 returning n";
    let row = transaction.query_one(update, &[&plan.key]).await.ok()?;
    let tx = Uuid::from_u128(rng.random());
    let mut change = Change { key: plan.key, tx, messages: 0, publishable: 0 };
    for part in 0..plan.parts {
        let entry = Entry { key: plan.key, n: row.get(0), part, transaction: tx };
        // One in two savepoints is rolled back.
        let is_kept = !plan.savepoints || part % 2 == 0;
        let is_rejected = if plan.savepoints {
            let savepoint = transaction.transaction().await.ok()?;
            let is_rejected = record(&savepoint, outbox, setup, rng, entry).await?;
            let ended = if is_kept { savepoint.commit().await } else { savepoint.rollback().await };
            ended.ok()?;
            is_rejected
        } else {
            record(&transaction, outbox, setup, rng, entry).await?
        };
        change.messages += u64::from(is_kept);
        change.publishable += u64::from(is_kept && !is_rejected);
    }
    Some((transaction, change))
}

/// Enqueues one message and records it, and answers whether it will be rejected; `None` when either
/// failed.
async fn record(
    transaction: &Transaction<'_>,
    outbox: &Outbox,
    setup: &Setup,
    rng: &mut SmallRng,
    entry: Entry,
) -> Option<bool> {
    let Entry { key, n, part, transaction: tx } = entry;
    let topic = SUBSCRIPTIONS[usize::from(key % 2 != 0)];
    let body = Body::draw(&entry, rng, setup.bytes_min);
    // About one in a hundred of all messages.
    let is_rejected = key % 2 != 0 && rng.random_bool(0.02);
    let mut message = Message::new(topic).key(key.to_string());
    message = message.bytes("application/octet-stream", body.payload);
    if let Some(header) = body.header {
        message = message.header(ENTRY_HEADER, header);
    }
    if key % 2 != 0 && !is_rejected {
        message = message.header(SHARD_HEADER, (key / 2 % SHARDS).to_string());
    }
    let id = outbox.enqueue(transaction, &message).await.ok()?;
    let record = "insert into app.mirror values ($1, $2, $3, $4, $5, $6)";
    let recorded = transaction.execute(record, &[&key, &n, &part, &tx, &id, &is_rejected]).await;
    recorded.ok().map(|_| is_rejected)
}

/// A transaction that has taken an id and a position, and commits after `time`.
pub(crate) async fn write_slowly(setup: Setup, seed: u64, time: Duration) {
    let Some(Session { mut client, .. }) = connect(&setup.url, false).await else { return };
    let mut rng = SmallRng::seed_from_u64(seed);
    let plan = Plan {
        key: zipf(&mut rng).max(KEYS / 2),
        parts: 3,
        early_xid: true,
        before: Duration::ZERO,
        after: time,
        ending: Ending::Commit,
        savepoints: false,
    };
    let outbox = Outbox::new(SchemaName::default());
    // Whether it came to its end, the mirror knows.
    transact(&mut client, &outbox, &setup, &mut rng, plan).await;
}
