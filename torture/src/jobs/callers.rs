//! Those who want something done: submitters, who write jobs and messages with a record of them, an operator who
//! takes jobs back and runs dead ones again, and the count of what is under way. All past the faults.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use posthaste::{Jobs, Message, NewJob, Outbox, SchemaName};
use posthaste_core::Timestamp;
use posthaste_testkit::failure::{During, Result};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::{task::JoinSet, time::sleep};
use tokio_postgres::{Client, Transaction};
use uuid::Uuid;

use super::{
    scenery::{EFFECT, InputOf, KEYS, PLAIN, RECEIPT},
    work::Order,
};
use crate::stage::connect;

/// Submitters at once.
const SUBMITTERS: u64 = 4;
/// Tasks that may be under way before submitters wait.
const IN_FLIGHT_MAX: u64 = 250;
/// Longest pause of a submitter between two transactions, in milliseconds.
const PAUSE_MILLIS_MAX: u64 = 40;
const OPERATOR_INTERVAL: Duration = Duration::from_millis(150);
const LOOK_INTERVAL: Duration = Duration::from_millis(150);
const RECONNECT_INTERVAL: Duration = Duration::from_millis(50);

/// How much is under way, as it was last seen, and whether more is to come.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulse(Arc<Beats>);

#[derive(Debug, Default)]
struct Beats {
    in_flight: AtomicU64,
    effects: AtomicU64,
    is_over: AtomicBool,
}

impl Pulse {
    /// Jobs that are not over, and messages that are not handled.
    pub(crate) fn in_flight(&self) -> u64 {
        self.0.in_flight.load(Ordering::Acquire)
    }

    /// The number of the last effect or step of a job.
    pub(crate) fn effects(&self) -> u64 {
        self.0.effects.load(Ordering::Acquire)
    }

    /// Ends the callers.
    pub(crate) fn end(&self) {
        self.0.is_over.store(true, Ordering::Release);
    }

    fn is_over(&self) -> bool {
        self.0.is_over.load(Ordering::Acquire)
    }

    /// Counts.
    pub(crate) async fn look(&self, client: &Client) -> Result<()> {
        let count = "select (select count(*) from posthaste.job where finished_at is null) + \
                     (select count(*) from app_plain p where not exists \
                      (select from app_effect e where e.id = p.id)), \
                     (select coalesce(max(n), 0) from app_effect)";
        let row = client.query_one(count, &[]).await.during("count what is under way")?;
        let number = |at| row.get::<_, i64>(at).cast_unsigned();
        self.0.in_flight.store(number(0), Ordering::Release);
        self.0.effects.store(number(1), Ordering::Release);
        Ok(())
    }
}

/// All of them.
#[derive(Clone)]
pub(crate) struct Callers {
    url: String,
    seed: u64,
    pub(crate) pulse: Pulse,
}

impl Callers {
    pub(crate) fn new(url: &str, seed: u64) -> Self {
        Self { url: url.to_owned(), seed, pulse: Pulse::default() }
    }

    /// Calls until the pulse is told to end.
    pub(crate) async fn call(self) {
        let mut calling = JoinSet::new();
        for nth in 0..SUBMITTERS {
            calling.spawn(self.clone().submit(nth));
        }
        calling.spawn(self.clone().operate());
        calling.spawn(self.watch());
        calling.join_all().await;
    }

    fn rng(&self, nth: u64) -> SmallRng {
        SmallRng::seed_from_u64(self.seed.wrapping_mul(1_000).wrapping_add(nth))
    }

    async fn connect(&self) -> Option<Client> {
        let client = connect(&self.url).await.ok();
        if client.is_none() {
            sleep(RECONNECT_INTERVAL).await;
        }
        client
    }

    async fn watch(self) {
        let mut client = None;
        while !self.pulse.is_over() {
            let Some(connected) = &client else {
                client = self.connect().await;
                continue;
            };
            if self.pulse.look(connected).await.is_err() {
                client = None;
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    async fn submit(self, nth: u64) {
        let (mut rng, mut client) = (self.rng(nth), None);
        let outbox = Outbox::new(SchemaName::default());
        let jobs = Jobs::new(outbox.clone());
        while !self.pulse.is_over() {
            if self.pulse.in_flight() > IN_FLIGHT_MAX {
                sleep(LOOK_INTERVAL).await;
                continue;
            }
            let Some(connected) = &mut client else {
                client = self.connect().await;
                continue;
            };
            if transact(connected, &outbox, &jobs, &mut rng).await.is_none() {
                client = None;
            }
            sleep(Duration::from_millis(rng.random_range(0..PAUSE_MILLIS_MAX))).await;
        }
    }

    async fn operate(self) {
        let (mut rng, mut client, jobs) = (self.rng(SUBMITTERS), None, Jobs::default());
        while !self.pulse.is_over() {
            sleep(OPERATOR_INTERVAL).await;
            let Some(connected) = &mut client else {
                client = self.connect().await;
                continue;
            };
            let done = if rng.random_bool(0.8) {
                cancel(connected, &jobs, rng.random_bool(0.5)).await
            } else {
                retry(connected).await
            };
            if done.is_none() {
                client = None;
            }
        }
    }
}

/// One transaction of a submitter; `None` where its connection is of no use any more.
async fn transact(
    client: &mut Client,
    outbox: &Outbox,
    jobs: &Jobs,
    rng: &mut SmallRng,
) -> Option<()> {
    let transaction = client.transaction().await.ok()?;
    let key = rng.random_bool(0.3).then(|| rng.random_range(0..KEYS));
    if let Some(key) = key {
        // Whoever submits with a key serialises on it.
        let lock = "update app_key set n = n + 1 where k = $1";
        transaction.execute(lock, &[&key]).await.ok()?;
    }
    for _ in 0..rng.random_range(1..=4) {
        if rng.random_bool(0.25) {
            let message = Message::new(PLAIN).json(&order(rng, false));
            let id = outbox.enqueue(&transaction, &message).await.ok()?;
            transaction.execute("insert into app_plain values ($1)", &[&id]).await.ok()?;
        } else {
            submit_job(&transaction, jobs, rng, key).await?;
        }
    }
    match rng.random_range(0..100) {
        0..15 => transaction.rollback().await.ok(),
        15..17 => {
            let broken = sleep(Duration::from_micros(rng.random_range(0..2_000)));
            tokio::select! {
                _ = transaction.commit() => {}
                () = broken => {}
            }
            None
        }
        _ => transaction.commit().await.ok(),
    }
}

async fn submit_job(
    transaction: &Transaction<'_>,
    jobs: &Jobs,
    rng: &mut SmallRng,
    key: Option<i32>,
) -> Option<()> {
    let topic = if rng.random_bool(0.65) { EFFECT } else { RECEIPT };
    let is_rejected = rng.random_bool(0.02);
    let mut message = Message::new(topic).json(&order(rng, is_rejected));
    if let Some(key) = key {
        message = message.key(key.to_string());
    }
    if rng.random_bool(0.1) {
        let now = "select (extract(epoch from clock_timestamp()) * 1000000)::int8";
        let now: i64 = transaction.query_one(now, &[]).await.ok()?.get(0);
        message = message.deliver_at(Timestamp(now + rng.random_range(100_000..2_000_000)));
    }
    let mut job = NewJob::of(message);
    if rng.random_bool(0.05) {
        job = job.unique_key(format!("unique-{}", rng.random_range(0..10)));
    }
    if rng.random_bool(0.2) {
        job = job.attempts(rng.random_range(3..7));
    }
    let id = jobs.submit(transaction, &job).await.ok()?;
    // With a unique key it may be another's, whose record that one has written.
    let record = "insert into app_job values ($1, $2, $3) on conflict do nothing";
    transaction.execute(record, &[&id, &topic, &is_rejected]).await.ok()?;
    if rng.random_bool(0.9) {
        let input = "insert into app_input values ($1, $2) on conflict do nothing";
        transaction.execute(input, &[&id, &InputOf::Submitter.name()]).await.ok()?;
    }
    Some(())
}

fn order(rng: &mut SmallRng, is_rejected: bool) -> Order {
    let millis = if rng.random_bool(0.05) { 400 } else { 15 };
    Order { is_rejected, millis: rng.random_range(0..millis) }
}

/// Takes a job back that waits or runs, and notes it where that was in time.
async fn cancel(client: &mut Client, jobs: &Jobs, of_running: bool) -> Option<()> {
    let find = "select id from posthaste.job where finished_at is null and (state = 'running') = $1 \
                order by random() limit 1";
    let transaction = client.transaction().await.ok()?;
    let Some(row) = transaction.query_opt(find, &[&of_running]).await.ok()? else {
        return Some(());
    };
    let id: Uuid = row.get(0);
    if jobs.cancel(&transaction, id).await.ok()? {
        transaction.execute("insert into app_cancelled values ($1)", &[&id]).await.ok()?;
    }
    transaction.commit().await.ok()
}

/// Runs a dead job again.
async fn retry(client: &mut Client) -> Option<()> {
    let retry = "select posthaste.retry_job(id, 3) from \
                 (select id from posthaste.job where state = 'dead' order by random() limit 1) dead";
    client.query_opt(retry, &[]).await.ok().map(drop)
}
