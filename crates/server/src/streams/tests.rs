//! Streams on real databases: clients that come late, go, come again, and are slow.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use posthaste_core::{Message, Place, TickRef, TopicFilter};
use posthaste_store::{
    Acquired, RingSizes, Settled, Start, Store, SubscriptionSpec,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::{SqliteOptions, SqliteStore},
};
use posthaste_testkit::{Database, Postgres};
use tempfile::TempDir;
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

use super::{Follower, From, StreamError, StreamSettings, Streams, Wish, frame, hub::Joined};
use crate::clock;

/// Nothing here takes longer on a machine that is busy.
const LIMIT: Duration = Duration::from_mins(1);

/// A log, and what keeps it.
struct Log {
    store: Arc<dyn Store>,
    database: Option<Database>,
    _directory: Option<TempDir>,
}

impl Log {
    async fn postgres() -> Self {
        let database = Postgres::shared().database().await;
        let rings = RingSizes { slots: 32, slot_size: 200 };
        let options =
            PostgresOptions { rings, retention: Duration::ZERO, ..PostgresOptions::default() };
        let store = Arc::new(PostgresStore::connect(database.url(), &options).unwrap());
        store.migrate().await.unwrap();
        Self { store, database: Some(database), _directory: None }
    }

    async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options =
            SqliteOptions { create: true, retention: Duration::ZERO, ..SqliteOptions::default() };
        let store = SqliteStore::open(directory.path().join("log.db"), &options).await.unwrap();
        store.migrate().await.unwrap();
        Self { store: Arc::new(store), database: None, _directory: Some(directory) }
    }

    fn database(&self) -> &Database {
        self.database.as_ref().unwrap()
    }

    async fn write(&self, key: &str, numbers: std::ops::Range<u32>) {
        let message = |n: u32| Message::new("run.events").key(key).json(&n);
        let messages: Vec<Message> = numbers.map(message).collect();
        self.store.append(&messages).await.unwrap();
    }

    /// A relay publishes all that is written, and it is swept but for what shares a slot with the newest.
    async fn empty(&self) {
        let spec = SubscriptionSpec {
            name: "orders".to_owned(),
            filter: TopicFilter::all(),
            start: Start::Beginning,
        };
        self.store.reconcile(&[spec]).await.unwrap();
        let lease = Duration::from_mins(10);
        let Acquired::Taken(epoch, start) =
            self.store.acquire("orders", "a relay", lease).await.unwrap()
        else {
            panic!("nobody holds it")
        };
        let mut ticker = self.store.ticker();
        let mut head = ticker.advance().await.unwrap().tick;
        // What is committed is covered after some looks.
        for _ in 0..5 {
            head = ticker.advance().await.unwrap().tick;
        }
        let settled = self.store.settle("orders", epoch, &start.finished(head)).await.unwrap();
        assert_eq!(settled, Settled::Recorded);
        let deadline = Instant::now() + LIMIT;
        while self.store.recent(None, 1_000).await.unwrap().len() > 200 {
            assert!(Instant::now() < deadline, "nothing is swept");
            self.store.sweep().await.unwrap();
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Streams that run until they are dropped, as those of a server do.
struct Running {
    streams: Streams,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn start(log: &Log, settings: StreamSettings) -> Running {
    let streams = Streams::new(Arc::clone(&log.store), settings, Arc::default());
    let task = run(&streams);
    Running { streams, task }
}

fn run(streams: &Streams) -> JoinHandle<()> {
    let streams = streams.clone();
    tokio::spawn(async move { match streams.run().await {} })
}

fn wish(key: Option<&str>, from: From) -> Wish {
    let key = key.map(str::to_owned);
    Wish { topics: TopicFilter::all(), key, with_payloads: true, from }
}

/// What a client remembers.
#[derive(Default)]
struct Memory {
    last: Option<String>,
    /// Numbers by key, as they came.
    seen: BTreeMap<String, Vec<u64>>,
}

impl Memory {
    fn from(&self) -> From {
        self.last.as_deref().map_or(From::Beginning, |id| From::parse(id).unwrap())
    }

    fn count(&self) -> usize {
        self.seen.values().map(Vec::len).sum()
    }

    fn take(&mut self, frame: &Bytes) {
        let text = std::str::from_utf8(frame).unwrap();
        for line in text.lines() {
            if let Some(id) = line.strip_prefix("id: ") {
                self.last = Some(id.to_owned());
            } else if let Some(data) = line.strip_prefix("data: ") {
                let event: serde_json::Value = serde_json::from_str(data).unwrap();
                let key = event["key"].as_str().unwrap().to_owned();
                self.seen.entry(key).or_default().push(event["payload"].as_u64().unwrap());
            }
        }
    }

    /// Takes until it has so many, or the stream ends. Answers whether it has.
    async fn take_until(&mut self, follower: &mut Follower, count: usize) -> bool {
        while self.count() < count {
            let next = timeout(LIMIT, follower.next()).await.expect("the next frame");
            let Some(frame) = next else { return false };
            self.take(&frame);
        }
        true
    }

    fn has_all(&self, keys: &[&str], count: u32) {
        let all: Vec<u64> = (0..count.into()).collect();
        assert_eq!(self.seen.keys().collect::<Vec<_>>(), keys);
        assert!(self.seen.values().all(|seen| *seen == all), "{:?}", self.seen);
    }
}

macro_rules! on_both_stores {
    ($($test:ident,)*) => {
        mod postgres {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::Log::postgres().await).await; }
        )*}
        mod sqlite {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::Log::sqlite().await).await; }
        )*}
    };
}

on_both_stores! {
    r36_clients_that_come_and_go_see_every_message_once_and_in_order,
    client_of_a_time_sees_what_was_committed_from_then_on,
    client_of_now_sees_what_comes_of_its_topics_and_key,
    client_that_takes_nothing_is_cut_off_and_goes_on_where_it_was,
    client_that_waits_at_the_end_lets_others_read,
    client_that_sees_nothing_is_told_how_far_it_is,
    event_of_another_log_is_refused,
    r36_streams_end_where_the_log_was_emptied_while_nobody_read,
    r36_client_that_retention_overtakes_is_told_so,
    r36_client_of_the_beginning_that_retention_overtakes_is_told_so,
    time_whose_messages_are_swept_is_refused,
    streams_that_begin_at_the_end_of_a_server_end_with_it,
}

async fn r36_clients_that_come_and_go_see_every_message_once_and_in_order(log: Log) {
    const COUNT: u32 = 600;
    let log = Arc::new(log);
    log.write("a", 0..100).await;
    let running = start(&log, StreamSettings::default());
    let writing = Arc::clone(&log);
    let writer = tokio::spawn(async move {
        for n in (0..COUNT).step_by(10) {
            writing.write("b", n..n + 10).await;
            if n >= 100 {
                writing.write("a", n..n + 10).await;
            }
        }
    });
    // One stays, one goes after every 7th message, one changes to another server now and then.
    let streams = &running.streams;
    let stays = async {
        let mut memory = Memory::default();
        let mut follower = streams.follow(wish(None, memory.from())).await.unwrap();
        assert!(memory.take_until(&mut follower, 2 * COUNT as usize).await);
        memory
    };
    let leaves = async {
        let mut memory = Memory::default();
        while memory.count() < 2 * COUNT as usize {
            let mut follower = streams.follow(wish(None, memory.from())).await.unwrap();
            let next = (memory.count() + 7).min(2 * COUNT as usize);
            assert!(memory.take_until(&mut follower, next).await);
        }
        memory
    };
    let changes = async {
        let mut memory = Memory::default();
        while memory.count() < COUNT as usize {
            let running = start(&log, StreamSettings::default());
            let mut follower =
                running.streams.follow(wish(Some("b"), memory.from())).await.unwrap();
            let next = (memory.count() + 100).min(COUNT as usize);
            assert!(memory.take_until(&mut follower, next).await);
        }
        memory
    };
    let (stayed, left, changed) = tokio::join!(stays, leaves, changes);
    writer.await.unwrap();
    stayed.has_all(&["a", "b"], COUNT);
    left.has_all(&["a", "b"], COUNT);
    changed.has_all(&["b"], COUNT);
}

async fn client_of_a_time_sees_what_was_committed_from_then_on(log: Log) {
    let running = start(&log, StreamSettings::default());
    let mut other = running.streams.follow(wish(None, From::Beginning)).await.unwrap();
    log.write("a", 0..3).await;
    // The log has ticked by then.
    assert!(Memory::default().take_until(&mut other, 3).await);
    sleep(Duration::from_millis(10)).await;
    let time = clock::rfc3339(clock::now());
    sleep(Duration::from_millis(10)).await;
    log.write("a", 3..5).await;
    let from = From::parse(&time).unwrap();
    let mut memory = Memory::default();
    let mut follower = running.streams.follow(wish(None, from)).await.unwrap();
    assert!(memory.take_until(&mut follower, 2).await);
    assert_eq!(memory.seen["a"], [3, 4]);
    let early = From::parse("1970-01-01T00:00:00Z").unwrap();
    let mut all = Memory::default();
    let mut follower = running.streams.follow(wish(None, early)).await.unwrap();
    assert!(all.take_until(&mut follower, 5).await);
}

async fn client_of_now_sees_what_comes_of_its_topics_and_key(log: Log) {
    let running = start(&log, StreamSettings::default());
    log.write("a", 100..110).await;
    let topics = TopicFilter::new(&["run.*"]).unwrap();
    let wished = Wish { topics, ..wish(Some("a"), From::Now) };
    let mut follower = running.streams.follow(wished).await.unwrap();
    log.store.append(&[Message::new("other").key("a").json(&7)]).await.unwrap();
    log.write("b", 0..10).await;
    log.write("a", 0..10).await;
    let mut memory = Memory::default();
    assert!(memory.take_until(&mut follower, 10).await);
    // What was there before may come, where it was committed just before: never what it did not wish.
    memory.has_all(&["a"], 10);
}

async fn client_that_takes_nothing_is_cut_off_and_goes_on_where_it_was(log: Log) {
    let settings = StreamSettings { events_max: 20, ..StreamSettings::default() };
    let running = start(&log, settings);
    let mut memory = Memory::default();
    let mut slow = running.streams.follow(wish(None, From::Now)).await.unwrap();
    let mut brisk = running.streams.follow(wish(None, From::Now)).await.unwrap();
    log.write("a", 0..1).await;
    assert!(memory.take_until(&mut slow, 1).await);
    let mut other = Memory::default();
    for n in (1..200).step_by(10) {
        log.write("a", n..n + 10).await;
        assert!(other.take_until(&mut brisk, n as usize + 10).await, "it was taken from in time");
    }
    assert!(!memory.take_until(&mut slow, usize::MAX).await);
    assert!(memory.count() < 201 && memory.count() >= 20, "{}", memory.count());
    let mut again = running.streams.follow(wish(None, memory.from())).await.unwrap();
    assert!(memory.take_until(&mut again, 201).await);
    memory.has_all(&["a"], 201);
    other.has_all(&["a"], 201);
}

async fn client_that_waits_at_the_end_lets_others_read(log: Log) {
    log.write("a", 0..5).await;
    let running = start(&log, StreamSettings { readers: 1, ..StreamSettings::default() });
    let mut waiting = running.streams.follow(wish(Some("none"), From::Beginning)).await.unwrap();
    assert!(waiting.next().await.is_some(), "the greeting");
    let mut waits = std::pin::pin!(waiting.next());
    // Long enough for it to come to the end.
    assert!(timeout(Duration::from_millis(500), &mut waits).await.is_err());
    let mut memory = Memory::default();
    let mut follower = running.streams.follow(wish(Some("a"), From::Beginning)).await.unwrap();
    tokio::select! {
        _ = waits => panic!("nothing comes of its key"),
        has_all = memory.take_until(&mut follower, 5) => assert!(has_all),
    }
    memory.has_all(&["a"], 5);
}

async fn client_that_sees_nothing_is_told_how_far_it_is(log: Log) {
    let mark = Duration::from_millis(50);
    let running = start(&log, StreamSettings { mark, ..StreamSettings::default() });
    let mut follower = running.streams.follow(wish(Some("none"), From::Now)).await.unwrap();
    let mut memory = Memory::default();
    let base = |memory: &Memory| match memory.from() {
        From::Behind(place) => place.base.n,
        _ => 0,
    };
    follower.next().await.unwrap();
    memory.take(&follower.next().await.unwrap());
    let first = base(&memory);
    log.write("a", 0..10).await;
    while base(&memory) == first {
        memory.take(&timeout(LIMIT, follower.next()).await.unwrap().unwrap());
    }
    assert_eq!(memory.count(), 0);
    // The streams end, and the client knows where it is.
    running.streams.end();
    while let Some(frame) = timeout(LIMIT, follower.next()).await.unwrap() {
        memory.take(&frame);
    }
    log.write("none", 0..3).await;
    let running = start(&log, StreamSettings::default());
    let mut again = running.streams.follow(wish(None, memory.from())).await.unwrap();
    assert!(memory.take_until(&mut again, 3).await);
    memory.has_all(&["none"], 3);
}

async fn event_of_another_log_is_refused(log: Log) {
    log.write("a", 0..10).await;
    let running = start(&log, StreamSettings::default());
    let mut memory = Memory::default();
    let mut follower = running.streams.follow(wish(None, From::Beginning)).await.unwrap();
    assert!(memory.take_until(&mut follower, 10).await);
    let From::Behind(place) = memory.from() else { panic!("no place") };
    let elsewhere = TickRef { id: Uuid::from_u128(1), ..place.base };
    let head = place.within.map(|within| TickRef { id: Uuid::from_u128(2), ..within.head });
    let places = [
        Some(Place::at(TickRef { n: 1, id: Uuid::from_u128(1) })),
        head.map(|head| Place { base: elsewhere, ..place }.moved_to(head, 3, None)),
    ];
    for place in places.into_iter().flatten() {
        let refused = running.streams.follow(wish(None, From::Behind(place))).await.unwrap_err();
        assert!(matches!(refused, StreamError::Unknown(_)), "{refused:?}");
    }
    assert_eq!(From::parse(&frame::id_of(&place)), Some(From::Behind(place)));
}

/// It takes what comes, ends before the first gap, and cannot go on by its last id.
async fn ends_before_a_gap(streams: &Streams, follower: &mut Follower, memory: &mut Memory) {
    let ended = timeout(LIMIT, memory.take_until(follower, usize::MAX)).await;
    assert_eq!(ended, Ok(false), "it ends");
    memory.has_all(&["a"], u32::try_from(memory.count()).unwrap());
    let refused = streams.follow(wish(None, memory.from())).await.unwrap_err();
    assert!(matches!(refused, StreamError::Gone(_)), "{refused:?}");
}

async fn r36_streams_end_where_the_log_was_emptied_while_nobody_read(log: Log) {
    let mut running = start(&log, StreamSettings::default());
    let mut memory = Memory::default();
    let mut follower = running.streams.follow(wish(None, From::Now)).await.unwrap();
    log.write("a", 0..10).await;
    assert!(memory.take_until(&mut follower, 10).await);
    // As a process that is stopped, or cut off from its database, while others publish and sweep.
    running.task.abort();
    assert!((&mut running.task).await.unwrap_err().is_cancelled());
    log.write("a", 10..500).await;
    log.empty().await;
    log.write("a", 500..510).await;
    running.task = run(&running.streams);
    ends_before_a_gap(&running.streams, &mut follower, &mut memory).await;
    let mut again = running.streams.follow(wish(None, From::Now)).await.unwrap();
    log.write("b", 0..1).await;
    let mut later = Memory::default();
    assert!(later.take_until(&mut again, 1).await, "the others go on");
}

async fn r36_client_that_retention_overtakes_is_told_so(log: Log) {
    overtaken(log, true).await;
}

async fn r36_client_of_the_beginning_that_retention_overtakes_is_told_so(log: Log) {
    overtaken(log, false).await;
}

/// More than a page of messages follow where the client begins; they are swept behind its first page.
async fn overtaken(log: Log, is_resumed: bool) {
    let running = start(&log, StreamSettings::default());
    let mut memory = Memory::default();
    log.write("a", 0..10).await;
    if is_resumed {
        let mut early = running.streams.follow(wish(None, From::Beginning)).await.unwrap();
        assert!(memory.take_until(&mut early, 10).await);
    }
    for n in (10..4_010).step_by(1_000) {
        log.write("a", n..n + 1_000).await;
    }
    let mut follower = running.streams.follow(wish(None, memory.from())).await.unwrap();
    let count = memory.count() + 1;
    assert!(memory.take_until(&mut follower, count).await);
    log.empty().await;
    log.write("a", 4_010..4_020).await;
    ends_before_a_gap(&running.streams, &mut follower, &mut memory).await;
    assert!(memory.count() < 4_010, "it was overtaken");
}

async fn time_whose_messages_are_swept_is_refused(log: Log) {
    let running = start(&log, StreamSettings::default());
    let mut other = running.streams.follow(wish(None, From::Beginning)).await.unwrap();
    let mut memory = Memory::default();
    log.write("a", 0..500).await;
    assert!(memory.take_until(&mut other, 500).await);
    sleep(Duration::from_millis(10)).await;
    let early = From::Since(clock::now());
    sleep(Duration::from_millis(10)).await;
    log.write("a", 500..1_000).await;
    assert!(memory.take_until(&mut other, 1_000).await);
    log.empty().await;
    let oldest = From::parse("1970-01-01T00:00:00Z").unwrap();
    for from in [early, oldest] {
        let refused = running.streams.follow(wish(None, from)).await.unwrap_err();
        assert!(matches!(refused, StreamError::Gone(_)), "{refused:?}");
    }
    sleep(Duration::from_millis(10)).await;
    let late = From::Since(clock::now());
    running.streams.follow(wish(None, late)).await.unwrap();
    // Who has seen nothing of the beginning begins there again, wherever it is by then.
    let mut begun = running.streams.follow(wish(None, From::Beginning)).await.unwrap();
    log.write("b", 0..1).await;
    let mut seen = Memory::default();
    for _ in 0..2 {
        assert_eq!(seen.from(), From::Beginning);
        seen.take(&timeout(LIMIT, begun.next()).await.unwrap().unwrap());
    }
    assert_eq!(seen.count(), 1, "what it remembers is an event");
}

async fn streams_that_begin_at_the_end_of_a_server_end_with_it(log: Log) {
    // Nobody reads, so nobody is told where now is.
    let streams = Streams::new(Arc::clone(&log.store), StreamSettings::default(), Arc::default());
    let of_task = streams.clone();
    let begins = tokio::spawn(async move { of_task.follow(wish(None, From::Now)).await });
    let running = start(&log, StreamSettings::default());
    let mut early = running.streams.follow(wish(None, From::Now)).await.unwrap();
    for streams in [&streams, &running.streams] {
        streams.end();
    }
    let mut waited = timeout(LIMIT, begins).await.expect("it begins").unwrap().unwrap();
    let Joined::Here(mut seat) = join_at_the_end(&running.streams).await else {
        panic!("it is where the others are")
    };
    assert_eq!(timeout(LIMIT, seat.next()).await.expect("a seat that is cut"), None);
    for follower in [&mut waited, &mut early] {
        let frames = async { while follower.next().await.is_some() {} };
        timeout(LIMIT, frames).await.expect("it ends");
    }
}

async fn join_at_the_end(streams: &Streams) -> Joined {
    let mut tick = streams.hub.tick();
    let tick = *timeout(LIMIT, tick.wait_for(Option::is_some)).await.unwrap().unwrap();
    streams.hub.join(tick.unwrap(), &wish(None, From::Now))
}

#[tokio::test]
async fn stream_of_a_database_that_is_away_is_refused_at_once() {
    let options = PostgresOptions::default();
    let store = PostgresStore::connect("postgres://nobody@127.0.0.1:1/none", &options).unwrap();
    let streams = Streams::new(Arc::new(store), StreamSettings::default(), Arc::default());
    let task = run(&streams);
    for _ in 0..2 {
        let begins = timeout(LIMIT, streams.follow(wish(None, From::Now)));
        let refused = begins.await.expect("an answer").unwrap_err();
        let StreamError::Store(error) = refused else { panic!("{refused:?}") };
        assert!(error.kind().is_transient(), "{error:?}");
    }
    task.abort();
}

/// Transactions that commit late, in every order, and a database that goes away in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r36_late_commits_come_once_whoever_reads() {
    let log = Log::postgres().await;
    let running = start(&log, StreamSettings::default());
    let (mut live, mut late) = (Memory::default(), Memory::default());
    let mut follower = running.streams.follow(wish(None, From::Beginning)).await.unwrap();
    let mut open = Vec::new();
    for n in 0..20 {
        let client = log.database().connect().await;
        let enqueue = format!(
            "begin; select posthaste.enqueue('run.events', '0', key => 'k{n}'); \
             select posthaste.enqueue('run.events', '1', key => 'k{n}')"
        );
        client.batch_execute(&enqueue).await.unwrap();
        open.push(client);
    }
    let mut left: Vec<usize> = (0..20).collect();
    let mut done = 0;
    while !left.is_empty() {
        let n = left.remove((done * 7) % left.len());
        open[n].batch_execute("commit").await.unwrap();
        done += 1;
        assert!(live.take_until(&mut follower, done * 2).await);
        if done % 4 == 0 {
            // Reads by itself what the other one was handed.
            let mut again = running.streams.follow(wish(None, late.from())).await.unwrap();
            assert!(late.take_until(&mut again, done * 2).await);
        }
    }
    let keys: Vec<String> = (0..20).map(|n| format!("k{n}")).collect();
    let mut keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    keys.sort_unstable();
    live.has_all(&keys, 2);
    late.has_all(&keys, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_at_rest_while_nobody_follows() {
    let log = Log::postgres().await;
    let running = start(&log, StreamSettings::default());
    drop(running.streams.follow(wish(None, From::Now)).await.unwrap());
    let looks = async || {
        let sql = "select xact_commit from pg_stat_database where datname = current_database()";
        let client = log.database().connect().await;
        let row = client.query_one(sql, &[]).await.unwrap();
        row.get::<_, i64>(0)
    };
    // The statistics follow within a second or so, and each look here is a transaction or two itself.
    let (mut last, mut since) = (looks().await, i64::MAX);
    let deadline = Instant::now() + LIMIT;
    while since >= 20 {
        assert!(Instant::now() < deadline, "{since} looks in two seconds");
        sleep(Duration::from_secs(2)).await;
        let now = looks().await;
        since = now - std::mem::replace(&mut last, now);
    }
}

/// Fails where a client has to be where the others are before it is handed what comes: beside writers that never rest, each
/// client would read by itself for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_that_is_nearly_there_is_handed_what_comes_meanwhile() {
    let log = Log::sqlite().await;
    let running = start(&log, StreamSettings::default());
    let mut others = Memory::default();
    let mut other = running.streams.follow(wish(None, From::Beginning)).await.unwrap();
    log.write("a", 0..1).await;
    assert!(others.take_until(&mut other, 1).await);
    let early = others.last.as_deref().and_then(frame::place_of).unwrap();
    log.write("a", 1..2).await;
    assert!(others.take_until(&mut other, 2).await);
    let Joined::Behind(_, Some(mut seat)) =
        running.streams.hub.join(early.base, &wish(None, From::Now))
    else {
        panic!("it is behind and near");
    };
    log.write("a", 2..3).await;
    let mut handed = Memory::default();
    while handed.count() == 0 {
        handed.take(&timeout(LIMIT, seat.next()).await.expect("the next frame").expect("a frame"));
    }
    assert_eq!(handed.seen["a"], [2]);
}
