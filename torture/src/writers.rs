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
    task::{AbortHandle, JoinSet, spawn_blocking},
    time::sleep,
};
use tokio_postgres::{Client, NoTls, Transaction};
use uuid::Uuid;

use crate::{
    message::{Body, ENTRY_HEADER},
    sqlite_writers,
    stage::{Database, KEYS, SHARD_HEADER, SHARDS, SUBSCRIPTIONS},
};

/// Writers at once.
const WRITERS: u64 = 12;
/// Messages of most transactions, and of a few, at most.
const PARTS_MAX: i64 = 5;
const MANY_PARTS_MAX: i64 = 150;
/// Longest pause of a writer between two transactions, in milliseconds.
pub(crate) const PAUSE_MILLIS_MAX: u64 = 4;
/// The same where no writer waits for the disk: so seldom that messages are published one by one,
/// before the relay settles others and has made the log durable with that.
const SELDOM_MILLIS_MAX: u64 = 1_000;
/// Messages that may wait for the relay before the writers wait for it too.
const BACKLOG_MAX: u64 = 20_000;
pub(crate) const RECONNECT_INTERVAL: Duration = Duration::from_millis(50);

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
    stop: AtomicBool,
}

impl Written {
    /// Ends the writers.
    pub(crate) fn end(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Writers that begin from now on write.
    pub(crate) fn go_on(&self) {
        self.stop.store(false, Ordering::Release);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// What is to arrive.
    pub(crate) fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// The database knows of that many.
    pub(crate) fn set_committed(&self, messages: u64) {
        self.committed.store(messages, Ordering::Release);
    }
}

/// What writers are given.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) database: Database,
    pub(crate) seed: u64,
    /// No writer waits for the disk: hardly anything but the relay makes the log durable.
    pub(crate) is_asynchronous: bool,
    /// Bytes of a payload at least.
    pub(crate) bytes_min: usize,
    pub(crate) written: Arc<Written>,
    /// Messages that have arrived.
    pub(crate) arrived: Arc<AtomicU64>,
}

/// How one transaction goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) key: i64,
    pub(crate) parts: i64,
    /// Takes its transaction id long before its first position.
    early_xid: bool,
    before: Duration,
    /// Takes its positions long before its commit.
    pub(crate) after: Duration,
    pub(crate) ending: Ending,
    pub(crate) savepoints: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
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
    pub(crate) fn draw(rng: &mut SmallRng) -> Self {
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
        let most = if rng.random_bool(0.1) { MANY_PARTS_MAX } else { PARTS_MAX };
        let (parts, savepoints) = (rng.random_range(1..=most), rng.random_bool(0.1));
        Self { key: zipf(rng), parts, early_xid, before, after, ending, savepoints }
    }
}

/// Whether the messages of a key go to the second subscription, which has several destinations.
const fn is_routed(key: i64) -> bool {
    key % 2 != 0
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
        let setup = setup.clone();
        match setup.database.clone() {
            Database::Postgres(url) => writers.spawn(write_on(url, setup, nth)),
            Database::Sqlite(file) => {
                writers.spawn_blocking(move || sqlite_writers::write_on(&file, &setup, nth))
            }
        };
    }
    writers.join_all().await;
}

async fn write_on(url: String, setup: Setup, nth: u64) {
    let mut rng = setup.rng(nth);
    let outbox = Outbox::new(SchemaName::default());
    let mut session = None;
    let mut in_doubt = None;
    while !setup.written.has_ended() {
        if setup.has_backlog() {
            sleep(RECONNECT_INTERVAL).await;
            continue;
        }
        let Some(Session { client, connection }) = &mut session else {
            // A part of the writers does without a synchronous commit, as applications may.
            session = connect(&url, setup.is_asynchronous || nth.is_multiple_of(4)).await;
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
        let most = if setup.is_asynchronous { SELDOM_MILLIS_MAX } else { PAUSE_MILLIS_MAX };
        sleep(Duration::from_millis(rng.random_range(0..most))).await;
    }
}

impl Setup {
    /// What a writer draws from.
    pub(crate) fn rng(&self, nth: u64) -> SmallRng {
        SmallRng::seed_from_u64(self.seed.wrapping_mul(1_000).wrapping_add(nth))
    }

    /// Messages that are known to be committed and have not arrived.
    pub(crate) fn in_flight(&self) -> u64 {
        self.written.committed().saturating_sub(self.arrived.load(Ordering::Acquire))
    }

    pub(crate) fn has_backlog(&self) -> bool {
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
    let wait = "select n from app_entity where k = $1 for update";
    client.query_one(wait, &[&change.key]).await.ok()?;
    let find = "select exists (select from app_mirror where k = $1 and tx = $2)";
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
    if !is_routed(plan.key) {
        // Its topic is strict: whoever has not locked the key is refused.
        outbox.lock_keys(&transaction, &[&plan.key.to_string()]).await.ok()?;
    }
    if plan.early_xid {
        transaction.batch_execute("insert into app_other values (1)").await.ok()?;
    }
    sleep(plan.before).await;
    let update = "update app_entity set n = n + 1 where k = $1 returning n";
    let row = transaction.query_one(update, &[&plan.key]).await.ok()?;
    let tx = Uuid::from_u128(rng.random());
    let mut change = Change { key: plan.key, tx, messages: 0, publishable: 0 };
    let entry = |part| Entry { key: plan.key, n: row.get(0), part, transaction: tx };
    if !plan.savepoints {
        let entries: Vec<Entry> = (0..plan.parts).map(entry).collect();
        let rejected = record(&transaction, outbox, setup, rng, &entries).await?;
        change.messages = entries.len() as u64;
        change.publishable = change.messages - rejected;
        return Some((transaction, change));
    }
    for part in 0..plan.parts {
        let savepoint = transaction.transaction().await.ok()?;
        let rejected = record(&savepoint, outbox, setup, rng, &[entry(part)]).await?;
        // One in two is rolled back.
        if part % 2 == 0 {
            savepoint.commit().await.ok()?;
            change.messages += 1;
            change.publishable += 1 - rejected;
        } else {
            savepoint.rollback().await.ok()?;
        }
    }
    Some((transaction, change))
}

/// Enqueues messages of one key and records them, and answers how many of them will be rejected;
/// `None` when something failed.
async fn record(
    transaction: &Transaction<'_>,
    outbox: &Outbox,
    setup: &Setup,
    rng: &mut SmallRng,
    entries: &[Entry],
) -> Option<u64> {
    let drafts: Vec<(Message, bool)> =
        entries.iter().map(|entry| draft(entry, rng, setup.bytes_min)).collect();
    let (messages, are_rejected): (Vec<Message>, Vec<bool>) = drafts.into_iter().unzip();
    let ids = match &messages[..] {
        [message] => vec![outbox.enqueue(transaction, message).await.ok()?],
        messages => outbox.enqueue_many(transaction, messages).await.ok()?,
    };
    let Entry { key, n, transaction: tx, .. } = entries.first()?;
    let parts: Vec<i64> = entries.iter().map(|entry| entry.part).collect();
    let record = "insert into app_mirror select $1, $2, part, $3, id, is_rejected \
                  from unnest($4::bigint[], $5::uuid[], $6::bool[]) as _ (part, id, is_rejected)";
    transaction.execute(record, &[key, n, tx, &parts, &ids, &are_rejected]).await.ok()?;
    Some(are_rejected.into_iter().filter(|is_rejected| *is_rejected).count() as u64)
}

/// A message, and whether it will be rejected: about one in a hundred.
pub(crate) fn draft(entry: &Entry, rng: &mut SmallRng, bytes_min: usize) -> (Message, bool) {
    let is_routed = is_routed(entry.key);
    let body = Body::draw(entry, rng, bytes_min);
    let is_rejected = is_routed && rng.random_bool(0.02);
    let mut message = Message::new(SUBSCRIPTIONS[usize::from(is_routed)]);
    message = message.key(entry.key.to_string());
    message = message.bytes("application/octet-stream", body.payload);
    if let Some(header) = body.header {
        message = message.header(ENTRY_HEADER, header);
    }
    if is_routed && !is_rejected {
        message = message.header(SHARD_HEADER, (entry.key / 2 % SHARDS).to_string());
    }
    (message, is_rejected)
}

/// A transaction that has taken an id and a position, and commits after `time`.
pub(crate) async fn write_slowly(setup: Setup, seed: u64, time: Duration) {
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
    let url = match setup.database.clone() {
        Database::Postgres(url) => url,
        Database::Sqlite(file) => {
            let write = move || sqlite_writers::write_once(&file, &setup, &mut rng, &plan);
            // A panic there is one of this program, which the next one shows.
            return spawn_blocking(write).await.unwrap_or_default();
        }
    };
    let Some(Session { mut client, .. }) = connect(&url, false).await else { return };
    let outbox = Outbox::new(SchemaName::default());
    // Whether it came to its end, the mirror knows.
    transact(&mut client, &outbox, &setup, &mut rng, plan).await;
}
