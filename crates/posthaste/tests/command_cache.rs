//! Commands behind a cache in Redis: what may get in, what a reader makes of it, and what a Redis
//! at fault costs.

mod twins;

use std::time::Duration;

use deadpool_postgres::{Manager, Pool};
use posthaste::{
    Begun, CacheCounts, CacheSettings, Command, CommandCache, CommandErrorKind, Commands, Refusal,
};
use posthaste_testkit::{Redis, eventually_async};
use redis::{Cmd, FromRedisValue, aio::MultiplexedConnection};
use tokio::{task::JoinSet, time::timeout};
use tokio_postgres::NoTls;
use uuid::Uuid;

use crate::support::Place;

const LEASE: Duration = Duration::from_mins(1);
/// No wait takes longer unless something is broken.
const LIMIT: Duration = Duration::from_mins(1);
/// So that a slow machine is no Redis that hangs.
const PATIENT: CacheSettings = CacheSettings {
    ttl: Duration::from_hours(24),
    timeout: Duration::from_secs(10),
    pause: Duration::from_secs(1),
};
/// What a hundred requests share.
const CONNECTIONS: usize = 16;
const ANSWER: &[u8] = b"\x00\xff{}\r\n'";

/// An application with one database and one cache.
struct App {
    place: Place,
    pool: Pool,
    cache: CommandCache,
    commands: Commands,
    namespace: String,
}

impl App {
    /// One whose cache has a connection.
    async fn new(redis: &Redis) -> Self {
        let app = Self::with(&redis.url(), &PATIENT).await;
        app.commands.answer(&Command::new("warm", "up", b"")).await.unwrap();
        app
    }

    async fn with(url: &str, settings: &CacheSettings) -> Self {
        let place = Place::postgres().await;
        let manager = Manager::new(place.database().url().parse().unwrap(), NoTls);
        let pool = Pool::builder(manager).max_size(CONNECTIONS).build().unwrap();
        let namespace = format!("t:{}", Uuid::now_v7());
        let client = redis::Client::open(url).unwrap();
        let cache = CommandCache::new(client, &namespace, settings).unwrap();
        let commands = Commands::default().with_cache(cache.clone());
        Self { place, pool, cache, commands, namespace }
    }

    /// The same application in another process, with other settings.
    fn again(&self, redis: &Redis, settings: &CacheSettings) -> (Commands, CommandCache) {
        let client = redis::Client::open(redis.url()).unwrap();
        let cache = CommandCache::new(client, &self.namespace, settings).unwrap();
        (Commands::default().with_cache(cache.clone()), cache)
    }

    /// Begins on a bare connection.
    async fn begin(&self, command: &Command) -> Begun {
        let connection = self.pool.get().await.unwrap();
        self.commands.begin(&connection, command, LEASE).await.unwrap()
    }

    /// Executes the attempt, whose answer does not get into the cache.
    async fn execute(&self, command: &Command) {
        assert_eq!(self.begin(command).await, Begun::First);
        let connection = self.pool.get().await.unwrap();
        self.commands.complete(&connection, command, ANSWER).await.unwrap();
    }

    async fn answer(&self) -> Option<Vec<u8>> {
        self.commands.answer(&attempt()).await.unwrap()
    }

    fn counts(&self) -> CacheCounts {
        self.cache.counts()
    }
}

fn attempt() -> Command {
    Command::new("pay", "key", b"5 euros to anna")
}

fn repeat() -> Begun {
    Begun::Repeat(ANSWER.to_vec())
}

async fn connection(redis: &Redis) -> MultiplexedConnection {
    let client = redis::Client::open(redis.url()).unwrap();
    client.get_multiplexed_async_connection().await.unwrap()
}

async fn told<T: FromRedisValue>(redis: &mut MultiplexedConnection, command: &Cmd) -> T {
    command.query_async(redis).await.unwrap()
}

/// The one key of the application.
async fn key(redis: &mut MultiplexedConnection, app: &App) -> String {
    let pattern = format!("{}:*", app.namespace);
    let mut keys: Vec<String> = told(redis, redis::cmd("KEYS").arg(pattern)).await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys.remove(0)
}

#[tokio::test]
async fn r22_repeat_through_the_cache_is_the_answer_byte_for_byte_and_needs_no_connection() {
    let app = App::new(Redis::shared()).await;
    app.execute(&attempt()).await;
    assert_eq!(app.answer().await, None);
    assert_eq!(app.begin(&attempt()).await, repeat());
    app.pool.close();
    assert_eq!(app.answer().await, Some(ANSWER.to_vec()));
    let CacheCounts { hits, misses, fills, errors, .. } = app.counts();
    assert_eq!((hits, misses, fills, errors), (1, 2, 1, 0));
}

#[tokio::test]
async fn r22_answer_that_is_remembered_after_its_commit_is_there_for_the_first_repeat() {
    let app = App::new(Redis::shared()).await;
    let first = attempt();
    let mut client = app.pool.get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    app.commands.begin(&transaction, &first, LEASE).await.unwrap();
    app.commands.complete(&transaction, &first, ANSWER).await.unwrap();
    transaction.commit().await.unwrap();
    app.commands.remember(&client, &first, ANSWER).await.unwrap();
    assert_eq!(app.answer().await, Some(ANSWER.to_vec()));
    let error = app.commands.remember(&client, &first, b"another answer").await.unwrap_err();
    assert_eq!(*error.kind(), CommandErrorKind::TakenOver);
    assert_eq!((app.answer().await, app.counts().fills), (Some(ANSWER.to_vec()), 1));
}

#[tokio::test]
async fn answer_of_a_transaction_that_is_open_is_never_kept() {
    let app = App::new(Redis::shared()).await;
    let first = attempt();
    let mut client = app.pool.get().await.unwrap();
    let mut transaction = client.transaction().await.unwrap();
    let savepoint = transaction.savepoint("attempt").await.unwrap();
    app.commands.begin(&savepoint, &first, LEASE).await.unwrap();
    app.commands.complete(&savepoint, &first, ANSWER).await.unwrap();
    // Its own answer, which nobody else can see.
    assert_eq!(app.commands.begin(&savepoint, &attempt(), LEASE).await.unwrap(), repeat());
    app.commands.remember(&savepoint, &first, ANSWER).await.unwrap();
    let elsewhere = app.pool.get().await.unwrap();
    assert!(app.commands.remember(&elsewhere, &first, ANSWER).await.is_err());
    savepoint.rollback().await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!((app.answer().await, app.counts().fills), (None, 0));
    assert_eq!(app.begin(&attempt()).await, Begun::First);
}

#[tokio::test]
async fn answer_of_a_completion_that_commits_by_itself_is_not_kept_before_it_has() {
    let app = App::new(Redis::shared()).await;
    let first = attempt();
    assert_eq!(app.begin(&first).await, Begun::First);
    let mut client = app.pool.get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    // Completes it, for the first time.
    app.commands.remember(&transaction, &first, ANSWER).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!((app.answer().await, app.counts().fills), (None, 0));
}

#[tokio::test]
async fn r22_another_request_under_the_key_is_a_typed_conflict_through_the_cache() {
    let app = App::new(Redis::shared()).await;
    app.execute(&attempt()).await;
    app.begin(&attempt()).await;
    let other = Command::new("pay", "key", b"6 euros to anna");
    let error = app.commands.answer(&other).await.unwrap_err();
    assert_eq!(*error.kind(), CommandErrorKind::Refused(Refusal::KeyTaken));
    assert_eq!(app.counts().hits, 1);
    let elsewhere = Command::new("refund", "key", b"6 euros to anna");
    assert_eq!(app.commands.answer(&elsewhere).await.unwrap(), None);
    let error = app.commands.answer(&Command::new("pay", "a\tb", b"")).await.unwrap_err();
    assert_eq!(*error.kind(), CommandErrorKind::Refused(Refusal::Argument));
}

#[tokio::test]
async fn r22_repeats_that_come_at_once_fill_the_cache_once() {
    let app = App::new(Redis::shared()).await;
    let first = attempt();
    let mut client = app.pool.get().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    app.commands.begin(&transaction, &first, LEASE).await.unwrap();
    app.commands.complete(&transaction, &first, ANSWER).await.unwrap();
    let mut twins = JoinSet::new();
    for _ in 1..CONNECTIONS {
        let (pool, commands) = (app.pool.clone(), app.commands.clone());
        twins.spawn(async move {
            let connection = pool.get().await.unwrap();
            commands.begin(&connection, &attempt(), LEASE).await.unwrap()
        });
    }
    let watcher = app.place.database().connect().await;
    let waiting = "select count(*) from pg_stat_activity \
                   where wait_event_type = 'Lock' and datname = current_database()";
    let all_wait = async || {
        let row = watcher.query_one(waiting, &[]).await.unwrap();
        row.get::<_, i64>(0) == CONNECTIONS as i64 - 1
    };
    eventually_async("all twins wait for the first", LIMIT, all_wait).await;
    transaction.commit().await.unwrap();
    assert!(twins.join_all().await.iter().all(|begun| *begun == repeat()));
    assert_eq!(app.counts().fills, 1);
}

#[tokio::test]
async fn whatever_else_stands_under_the_key_is_a_miss_and_is_replaced() {
    let app = App::new(Redis::shared()).await;
    app.execute(&attempt()).await;
    app.begin(&attempt()).await;
    let mut redis = connection(Redis::shared()).await;
    let key = key(&mut redis, &app).await;
    let value: Vec<u8> = told(&mut redis, redis::cmd("GET").arg(&key)).await;
    let mut torn = value.clone();
    *torn.last_mut().unwrap() ^= 1;
    let del = redis::cmd("DEL").arg(&key).to_owned();
    for replacement in [
        redis::cmd("SET").arg(&key).arg("").to_owned(),
        redis::cmd("SET").arg(&key).arg("garbage").to_owned(),
        redis::cmd("SET").arg(&key).arg(&value[..value.len() - 1]).to_owned(),
        redis::cmd("SET").arg(&key).arg(torn).to_owned(),
        redis::cmd("SET").arg(&key).arg(vec![b'1'; 2 << 20]).to_owned(),
        redis::cmd("HSET").arg(&key).arg("field").arg("value").to_owned(),
    ] {
        assert_eq!(app.answer().await, Some(ANSWER.to_vec()));
        let _: redis::Value = told(&mut redis, &del).await;
        let _: redis::Value = told(&mut redis, &replacement).await;
        assert_eq!(app.answer().await, None);
        assert_eq!(app.begin(&attempt()).await, repeat());
    }
    assert_eq!(app.answer().await, Some(ANSWER.to_vec()));
    assert_eq!((app.counts().errors, app.counts().fills), (0, 7));
}

#[tokio::test]
async fn answer_is_kept_for_its_time_and_read_from_the_database_after_that() {
    let redis = Redis::shared();
    let app = App::new(redis).await;
    app.execute(&attempt()).await;
    app.begin(&attempt()).await;
    let mut connection = connection(redis).await;
    let key = key(&mut connection, &app).await;
    let left_ms: i64 = told(&mut connection, redis::cmd("PTTL").arg(&key)).await;
    assert!(left_ms > 23 * 3_600_000 && left_ms <= 24 * 3_600_000, "{left_ms}");

    let brief = CacheSettings { ttl: Duration::from_secs(1), ..PATIENT };
    let app = App::with(&redis.url(), &brief).await;
    app.execute(&attempt()).await;
    app.begin(&attempt()).await;
    eventually_async("the answer has expired", LIMIT, async || app.answer().await.is_none()).await;
    assert_eq!(app.begin(&attempt()).await, repeat());
}

#[tokio::test]
async fn r23_answer_that_the_database_has_forgotten_stays_for_its_time_and_no_longer() {
    let app = App::new(Redis::shared()).await;
    app.execute(&attempt()).await;
    app.begin(&attempt()).await;
    let client = app.pool.get().await.unwrap();
    let aged = "update posthaste.command set created_at = created_at - interval '61 minutes'";
    client.execute(aged, &[]).await.unwrap();
    assert_eq!(app.place.sweep_commands().await, 1);
    assert_eq!(app.answer().await, Some(ANSWER.to_vec()));
    let mut redis = connection(Redis::shared()).await;
    let key = key(&mut redis, &app).await;
    let _: i64 = told(&mut redis, redis::cmd("PEXPIRE").arg(key).arg(0)).await;
    assert_eq!(app.answer().await, None);
    assert_eq!(app.begin(&attempt()).await, Begun::First);
}

#[tokio::test]
async fn r22_redis_that_hangs_costs_one_time_out_in_a_pause() {
    let redis = Redis::start();
    let app = App::new(&redis).await;
    app.execute(&attempt()).await;
    app.begin(&attempt()).await;
    let (two, pause) = (Duration::from_secs(2), Duration::from_hours(1));
    let (commands, cache) = app.again(&redis, &CacheSettings { timeout: two, pause, ..PATIENT });
    commands.answer(&attempt()).await.unwrap();
    redis.pause();
    let calls = async {
        for _ in 0..20 {
            assert_eq!(commands.answer(&attempt()).await.unwrap(), None);
        }
        let connection = app.pool.get().await.unwrap();
        commands.begin(&connection, &attempt(), LEASE).await.unwrap()
    };
    assert_eq!(timeout(LIMIT, calls).await.expect("every call of Redis ends"), repeat());
    let CacheCounts { hits, misses, fills, errors, .. } = cache.counts();
    assert_eq!((hits + misses, fills, errors), (21, 0, 1));
}

#[tokio::test]
async fn redis_that_hung_is_asked_again_when_the_pause_is_over() {
    let redis = Redis::start();
    let app = App::new(&redis).await;
    app.execute(&attempt()).await;
    app.begin(&attempt()).await;
    let (brief, pause) = (Duration::from_millis(50), Duration::from_millis(1));
    let (commands, cache) = app.again(&redis, &CacheSettings { timeout: brief, pause, ..PATIENT });
    redis.pause();
    let ask = async || commands.answer(&attempt()).await.unwrap();
    eventually_async("three failures", LIMIT, async || {
        ask().await.is_some() || cache.counts().errors >= 3
    })
    .await;
    redis.resume();
    eventually_async("a hit", LIMIT, async || ask().await == Some(ANSWER.to_vec())).await;
}

#[tokio::test]
async fn redis_that_comes_back_is_found_by_itself() {
    let redis = Redis::start();
    let settings = CacheSettings { pause: Duration::from_millis(1), ..PATIENT };
    let app = App::with(&redis.url(), &settings).await;
    app.execute(&attempt()).await;
    app.begin(&attempt()).await;
    assert_eq!(app.answer().await, Some(ANSWER.to_vec()));
    redis.kill();
    assert_eq!(app.answer().await, None);
    assert_eq!(app.begin(&attempt()).await, repeat());
    assert!(app.counts().errors > 0);
    redis.restart();
    eventually_async("a hit", LIMIT, async || app.answer().await == Some(ANSWER.to_vec())).await;
}

#[tokio::test]
async fn on_sqlite_answers_come_from_the_database() {
    let place = Place::sqlite().await;
    let connection = rusqlite::Connection::open(place.file()).unwrap();
    let client = redis::Client::open(Redis::shared().url()).unwrap();
    let cache = CommandCache::new(client, Redis::shared().prefix(), &PATIENT).unwrap();
    let commands = Commands::default().with_cache(cache.clone());
    let first = attempt();
    commands.begin_blocking(&connection, &first, LEASE).unwrap();
    commands.complete_blocking(&connection, &first, ANSWER).unwrap();
    commands.remember(&connection, &first, ANSWER).await.unwrap();
    assert_eq!(commands.begin_blocking(&connection, &attempt(), LEASE).unwrap(), repeat());
    assert_eq!(commands.answer(&attempt()).await.unwrap(), None);
    assert_eq!(cache.counts().fills, 0);
}
