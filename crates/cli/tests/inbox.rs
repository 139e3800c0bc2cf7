//! A message's whole way into consumers that die all the time: enqueued, carried by the relay to a
//! Redis stream, handled through the inbox, once.

use std::{
    collections::BTreeSet,
    error::Error,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    time::Duration,
};

use posthaste::{Delivery, Inbox, Message, MessageId, Outbox, Received, SchemaName};
use posthaste_testkit::{Database, Postgres, Redis, eventually_async};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use redis::aio::MultiplexedConnection;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinError, JoinHandle},
};
use tokio_postgres::Client;

use crate::{harness::Place, servers::patient};

/// Longest wait for all messages, on a machine that runs all tests at once.
const LIMIT: Duration = Duration::from_mins(5);
const MESSAGES: usize = 300;
const WORKERS: u64 = 3;
const GROUP: &str = "effects";
/// How many of a hundred steps end a life.
const DEATHS_PERCENT: u32 = 5;
const SEED: &str = "POSTHASTE_SEED";

/// Entries of a stream: ids, and names and values of their fields.
type Entries = Vec<(String, Vec<(String, Vec<u8>)>)>;
/// How a life ends, unless somebody ends it.
type Death = Box<dyn Error + Send + Sync>;

/// What the workers share.
struct World {
    database: Database,
    /// Ends the connections of others.
    killer: Client,
    stream: String,
    seed: u64,
    /// The running life of each worker. Written by its supervisor, read by whoever kills.
    lives: Mutex<Vec<Option<AbortHandle>>>,
    /// Steps of all workers, which set the pace of the kills.
    steps: watch::Sender<u32>,
    is_over: AtomicBool,
    tally: Tally,
}

/// What happened, to see that it did.
#[derive(Debug, Default)]
struct Tally {
    dropped: AtomicU32,
    disconnected: AtomicU32,
    dead_before_commit: AtomicU32,
    dead_before_ack: AtomicU32,
    repeats: AtomicU32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Handled,
    Affected,
    Committed,
}

impl World {
    fn rng(&self, nth: u64) -> SmallRng {
        SmallRng::seed_from_u64(self.seed ^ nth.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    async fn redis(&self) -> MultiplexedConnection {
        let client = redis::Client::open(Redis::shared().url()).unwrap();
        client.get_multiplexed_async_connection_with_config(&patient()).await.unwrap()
    }

    /// One number of a query's.
    async fn count(&self, sql: &str) -> i64 {
        self.killer.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Entries that are delivered and not acknowledged.
    async fn pending(&self) -> i64 {
        let mut ask = redis::cmd("XPENDING");
        let ask = ask.arg(&self.stream).arg(GROUP);
        let summary: Vec<redis::Value> = ask.query_async(&mut self.redis().await).await.unwrap();
        redis::from_redis_value(summary[0].clone()).unwrap()
    }

    async fn disconnect(&self, worker: u64) {
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity \
                   where datname = current_database() and application_name = $1";
        let ended = self.killer.query(sql, &[&format!("worker-{worker}")]).await.unwrap();
        self.tally.disconnected.fetch_add(ended.len() as u32, SeqCst);
    }

    /// A step of a life, which may be the last one: the task ends, or its connection does.
    async fn fate(&self, worker: u64, rng: &mut SmallRng, step: Step) -> Result<(), Death> {
        self.steps.send_modify(|steps| *steps += 1);
        if rng.random_range(0..100) >= DEATHS_PERCENT {
            return Ok(());
        }
        let tally = match step {
            Step::Handled | Step::Affected => &self.tally.dead_before_commit,
            Step::Committed => &self.tally.dead_before_ack,
        };
        tally.fetch_add(1, SeqCst);
        if step != Step::Committed && rng.random() {
            // Found out by the next statement.
            self.disconnect(worker).await;
            return Ok(());
        }
        Err(format!("{step:?} was its last step").into())
    }
}

/// A life: handles entries until something ends it.
async fn live(world: Arc<World>, worker: u64, mut rng: SmallRng) -> Result<(), Death> {
    let mut database = world.database.connect().await;
    let name = format!("worker-{worker}");
    database.batch_execute(&format!("set application_name = '{name}'")).await?;
    let mut redis = world.redis().await;
    let inbox = Inbox::new(SchemaName::default(), "effects")?;
    loop {
        for (entry, fields) in deliveries(&world.stream, &mut redis, &name, &mut rng).await? {
            let message = Received::from_stream_entry(fields).expect("an entry of the relay's");
            let transaction = database.transaction().await?;
            let delivery = inbox.handle(&transaction, message.id).await?;
            world.fate(worker, &mut rng, Step::Handled).await?;
            match delivery {
                Delivery::First => {
                    let sql = "insert into effect (message_id) values ($1)";
                    transaction.execute(sql, &[&message.id]).await?;
                }
                Delivery::Repeat => _ = world.tally.repeats.fetch_add(1, SeqCst),
            }
            world.fate(worker, &mut rng, Step::Affected).await?;
            transaction.commit().await?;
            world.fate(worker, &mut rng, Step::Committed).await?;
            let mut ack = redis::cmd("XACK");
            ack.arg(&world.stream).arg(GROUP).arg(entry).exec_async(&mut redis).await?;
        }
    }
}

/// New entries; or the worker's own that it never acknowledged; or anybody's, also of those that are
/// just being handled.
async fn deliveries(
    stream: &str,
    redis: &mut MultiplexedConnection,
    name: &str,
    rng: &mut SmallRng,
) -> Result<Entries, Death> {
    let choice = rng.random_range(0..4);
    if choice == 0 {
        let mut claim = redis::cmd("XAUTOCLAIM");
        let claim = claim.arg(stream).arg(GROUP).arg(name).arg(0).arg("0-0").arg("COUNT").arg(3);
        let (_, entries, _): (String, Entries, Vec<String>) = claim.query_async(redis).await?;
        return Ok(entries);
    }
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP").arg(GROUP).arg(name).arg("COUNT").arg(5).arg("BLOCK").arg(20);
    read.arg("STREAMS").arg(stream).arg(if choice == 1 { "0" } else { ">" });
    let streams: Option<Vec<(String, Entries)>> = read.query_async(redis).await?;
    Ok(streams.into_iter().flatten().flat_map(|(_, entries)| entries).collect())
}

/// Gives a worker one life after the other.
async fn supervise(world: Arc<World>, worker: u64) {
    for life in 0.. {
        if world.is_over.load(SeqCst) {
            return;
        }
        let rng = world.rng(worker << 32 | life);
        let task = tokio::spawn(live(Arc::clone(&world), worker, rng));
        world.lives.lock().unwrap()[worker as usize] = Some(task.abort_handle());
        match task.await.map_err(JoinError::try_into_panic) {
            Ok(_) => {}
            Err(Err(_cancelled)) => _ = world.tally.dropped.fetch_add(1, SeqCst),
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

/// Ends lives from outside, wherever they stand: every few steps a task or a connection.
async fn kill(world: Arc<World>) {
    let (mut rng, mut steps) = (world.rng(u64::MAX), world.steps.subscribe());
    let mut next = 0;
    loop {
        next += rng.random_range(5..30);
        steps.wait_for(|steps| *steps >= next).await.unwrap();
        let worker = rng.random_range(0..WORKERS);
        if rng.random() {
            world.disconnect(worker).await;
        } else if let Some(life) = &world.lives.lock().unwrap()[worker as usize] {
            life.abort();
        }
    }
}

/// Messages in transactions of ten, one in four rolled back; answers the committed ones.
async fn enqueue(database: &Database) -> BTreeSet<MessageId> {
    let (mut client, outbox) = (database.connect().await, Outbox::default());
    let mut committed = BTreeSet::new();
    for n in 0.. {
        let message =
            Message::new("orders.paid").header("n", n.to_string()).bytes("a/b", [n as u8]);
        let transaction = client.transaction().await.unwrap();
        let ids = outbox.enqueue_many(&transaction, &vec![message; 10]).await.unwrap();
        if n % 4 == 3 {
            transaction.rollback().await.unwrap();
            continue;
        }
        transaction.commit().await.unwrap();
        committed.extend(ids);
        if committed.len() >= MESSAGES {
            break;
        }
    }
    committed
}

async fn world(seed: u64) -> (Arc<World>, Place) {
    let database = Postgres::shared().database().await;
    let prefix = Redis::shared().prefix();
    let place = Place::with(&format!(
        "[database]\nurl = \"{}\"\n[subscriptions.orders.sink]\nkind = \"redis-stream\"\n\
         url = \"{}\"\nstream = \"{prefix}{{topic}}\"\n",
        database.url(),
        Redis::shared().url()
    ));
    place.run(&["migrate"]).succeeds();
    let killer = database.connect().await;
    // Nothing here keeps a second effect out.
    killer.batch_execute("create table effect (message_id uuid not null)").await.unwrap();
    let world = World {
        database,
        killer,
        stream: format!("{prefix}orders.paid"),
        seed,
        lives: Mutex::new((0..WORKERS).map(|_| None).collect()),
        steps: watch::Sender::new(0),
        is_over: AtomicBool::new(false),
        tally: Tally::default(),
    };
    let mut group = redis::cmd("XGROUP");
    let group = group.arg("CREATE").arg(&world.stream).arg(GROUP).arg(0).arg("MKSTREAM");
    group.exec_async(&mut world.redis().await).await.unwrap();
    (Arc::new(world), place)
}

/// Ends all lives for good.
async fn end(world: &World, killer: &JoinHandle<()>, supervisors: Vec<JoinHandle<()>>) {
    world.is_over.store(true, SeqCst);
    killer.abort();
    for (worker, supervisor) in supervisors.into_iter().enumerate() {
        let is_ended = || async {
            if let Some(life) = &world.lives.lock().unwrap()[worker] {
                life.abort();
            }
            supervisor.is_finished()
        };
        eventually_async("the end of a worker", LIMIT, is_ended).await;
        supervisor.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r28_consumers_that_die_at_every_step_take_each_message_into_effect_exactly_once() {
    let given = std::env::var(SEED).ok().map(|text| text.parse().expect("a number"));
    let seed = given.unwrap_or_else(rand::random::<u64>);
    println!(
        "seed {seed}; repeat with: {SEED}={seed} cargo test -p posthaste-cli --test main inbox"
    );
    let (world, place) = world(seed).await;
    let mut relay = place.start(&["relay"]);
    let supervisors: Vec<_> =
        (0..WORKERS).map(|n| tokio::spawn(supervise(Arc::clone(&world), n))).collect();
    let killer = tokio::spawn(kill(Arc::clone(&world)));
    let enqueued = enqueue(&world.database).await;

    let distinct = "select count(distinct message_id) from effect";
    let (the, expected) = (&*world, enqueued.len() as i64);
    eventually_async("an effect of every message", LIMIT, || async move {
        the.count(distinct).await >= expected && the.pending().await == 0
    })
    .await;
    end(&world, &killer, supervisors).await;
    relay.signal("TERM");
    assert_eq!(relay.ends().0, Some(0));

    let sql = "select message_id, count(*) from effect group by 1 order by 1";
    let rows = world.killer.query(sql, &[]).await.unwrap();
    let effects: Vec<(MessageId, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let once: Vec<_> = enqueued.iter().map(|id| (*id, 1)).collect();
    assert_eq!(effects, once);
    // All that could happen did.
    let Tally { dropped, disconnected, dead_before_commit, dead_before_ack, repeats } =
        &world.tally;
    println!("{:?}", world.tally);
    for count in [dropped, disconnected, dead_before_commit, dead_before_ack, repeats] {
        assert!(count.load(SeqCst) > 0, "{:?}", world.tally);
    }
    every_redelivery_is_a_repeat(&world, enqueued.len()).await;
}

async fn every_redelivery_is_a_repeat(world: &World, messages: usize) {
    let mut range = redis::cmd("XRANGE");
    let range = range.arg(&world.stream).arg("-").arg("+");
    let entries: Entries = range.query_async(&mut world.redis().await).await.unwrap();
    assert_eq!(entries.len(), messages, "the relay published each message once");
    let ids: Vec<_> = entries
        .into_iter()
        .map(|(_, fields)| Received::from_stream_entry(fields).unwrap().id)
        .collect();
    let inbox = Inbox::new(SchemaName::default(), "effects").unwrap();
    assert!(inbox.handle_many(&world.killer, &ids).await.unwrap().is_empty());
}
