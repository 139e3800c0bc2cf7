//! Where it happens: private servers behind proxies, a log with an application beside it, and the
//! configuration of the relays.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use posthaste_store::{
    RingSizes, Store,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::{SqliteOptions, SqliteStore},
};
use posthaste_testkit::{
    Clock, Disk, Pgbouncer, Postgres, Redis,
    failure::{During, Failure, Result},
    proxy::Proxy,
};
use tempfile::TempDir;
use tokio::task::block_in_place;
use tokio_postgres::{Client, NoTls};

use crate::book::Book;

/// Entities that writers compete for. Even ones are about plain messages, odd ones about routed.
pub(crate) const KEYS: i64 = 200;
/// Values of the header that names the destination of a routed message.
pub(crate) const SHARDS: i64 = 4;
/// The header itself. A message that lacks it is rejected.
pub(crate) const SHARD_HEADER: &str = "shard";
/// The subscriptions, and the topic of each.
pub(crate) const SUBSCRIPTIONS: [&str; 2] = ["plain", "routed"];

/// So small that a run goes round several times, with slots emptied under way.
const RINGS: RingSizes = RingSizes { slots: 64, slot_size: 1_024 };

/// How long an application waits for the one writer that a file has.
const BUSY_LIMIT: Duration = Duration::from_secs(10);
/// Lines of the relays that a report shows.
const TAIL_LINES: usize = 40;

const APPLICATION_OF_POSTGRES: &str = "
    create table app_entity (k bigint primary key, n bigint not null);
    insert into app_entity select k, 0 from generate_series(0, 199) k;
    create table app_mirror (k bigint, n bigint, part bigint, tx uuid, id uuid, rejected boolean);
    create index on app_mirror (k, n, part);
    create table app_other (x int);
    create table app_stolen (subscription int, at timestamptz default clock_timestamp());
    create table app_raised (subscription int, epoch bigint, n bigint);
    create function app_watch() returns trigger language plpgsql as $$
    begin
      if new.epoch > old.epoch then
        insert into app_raised
          select new.subscription, new.epoch, last_value from posthaste.progress_n_seq;
      end if;
      if new.epoch > old.epoch and new.holder <> old.holder
        and old.expires_at > clock_timestamp() then
        insert into app_stolen (subscription) values (new.subscription);
      end if;
      return new;
    end $$;
    create trigger watch after update on posthaste.lease
      for each row execute function app_watch();
    select posthaste.set_strict('plain')";

const APPLICATION_OF_SQLITE: &str = "
    create table app_entity (k integer primary key, n integer not null);
    insert into app_entity select value, 0 from
      (with recursive k (value) as (select 0 union all select value + 1 from k where value < 199)
       select value from k);
    create table app_mirror (k integer, n integer, part integer, tx text, id blob, rejected integer);
    create index app_mirror_by_key on app_mirror (k, n, part);
    create table app_stolen (subscription integer);
    create table app_raised (subscription integer, epoch integer, n integer);
    create trigger app_raise after update on posthaste_subscription when new.epoch > old.epoch
    begin
      insert into app_raised
        select new.id, new.epoch, coalesce(max(n), 0) from posthaste_progress;
    end;
    create trigger app_watch after update on posthaste_subscription
      when new.epoch > old.epoch and new.holder <> old.holder and old.expires_at >
        cast((julianday('now') - 2440587.5) * 86400000000.0 as integer)
    begin
      insert into app_stolen values (new.id);
    end";

/// A kind of database that the log is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StoreKind {
    Postgres,
    Sqlite,
}

impl StoreKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
        }
    }
}

/// Where applications connect, past all faults.
#[derive(Clone, Debug)]
pub(crate) enum Database {
    /// A URL.
    Postgres(String),
    Sqlite(PathBuf),
}

/// A database server, and what stands before it.
pub(crate) struct Server {
    pub(crate) postgres: Postgres,
    /// Between it and the proxy.
    pooler: Option<Pgbouncer>,
    pub(crate) proxy: Proxy,
    /// What its data is on.
    pub(crate) disk: Arc<Disk>,
}

/// A kind of sink that is tortured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SinkKind {
    #[value(name = "redis-stream")]
    Stream,
    #[value(name = "redis-list")]
    List,
    #[value(name = "redis-pubsub")]
    Pubsub,
}

impl SinkKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stream => "redis-stream",
            Self::List => "redis-list",
            Self::Pubsub => "redis-pubsub",
        }
    }

    const fn settings(self) -> (&'static str, &'static str) {
        match self {
            Self::Stream => ("stream", ""),
            Self::List => ("list", "side = \"right\"\n"),
            Self::Pubsub => ("channel", "format = \"payload\"\n"),
        }
    }
}

/// What is played on the stage.
pub(crate) struct Play {
    /// The application's tables, on PostgreSQL.
    pub(crate) application: &'static str,
    /// How long published messages stay readable, at least.
    pub(crate) retention: &'static str,
    /// The subscriptions, as the relays' configuration has them, to a sink at a URL.
    pub(crate) subscriptions: fn(SinkKind, &str) -> String,
}

/// Plain messages, which a consumer takes from the sink.
pub(crate) const MESSAGES: Play = Play {
    application: APPLICATION_OF_POSTGRES,
    retention: "1s",
    subscriptions: subscriptions_of_messages,
};

/// Everything that outlives a relay.
pub(crate) struct Stage {
    pub(crate) database: Database,
    /// None where the log is in a file.
    pub(crate) server: Option<Server>,
    pub(crate) redis: Redis,
    pub(crate) redis_proxy: Proxy,
    store: Arc<dyn Store>,
    /// What the relays take for the time.
    pub(crate) clock: Clock,
    directory: TempDir,
}

impl Stage {
    /// `is_forgetful`: Redis keeps nothing on disk. `is_pooled`: relays meet PostgreSQL through
    /// pgbouncer.
    pub(crate) async fn build(
        play: &Play,
        store: StoreKind,
        sink: SinkKind,
        is_forgetful: bool,
        is_pooled: bool,
    ) -> Result<Self> {
        let redis = Redis::try_start_with(posthaste_testkit::RedisOptions {
            append_only: !is_forgetful,
            ..posthaste_testkit::RedisOptions::default()
        });
        let redis = redis.during("start Redis")?;
        let redis_proxy = Proxy::start(redis.port()).await.during("start a proxy")?;
        let directory = tempfile::tempdir().during("make a directory for the relays")?;
        let (database, server, store) = match store {
            StoreKind::Postgres => on_server(play.application, is_pooled).await?,
            StoreKind::Sqlite => in_file(directory.path().join("log.db")).await?,
        };
        let clock = Clock::new();
        let stage = Self { database, server, redis, redis_proxy, store, clock, directory };
        let text = stage.configuration_text(play, sink);
        fs::write(stage.configuration(), text).during("write the configuration")?;
        Ok(stage)
    }

    /// The application's record.
    pub(crate) async fn book(&self) -> Result<Book> {
        self.database.book().await
    }

    /// The relays' configuration file.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.directory.path().join("posthaste.toml")
    }

    /// What all relays log to.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Where a copy of the database's data goes.
    pub(crate) fn backup(&self) -> PathBuf {
        self.directory.path().join("backup")
    }

    /// Where arrivals are written down.
    pub(crate) fn arrivals(&self) -> PathBuf {
        self.directory.path().join("arrivals")
    }

    /// Short time-outs, small batches and hardly any retention, so that a run meets as many faults as it can; everything
    /// else is the default.
    fn configuration_text(&self, play: &Play, sink: SinkKind) -> String {
        let (database, retention) = (self.database_url(), play.retention);
        let mut text = format!(
            "[database]\nurl = \"{database}\"\noperation_timeout = \"2s\"\nretention = \"{retention}\"\n\
             [relay]\nlease = \"1s\"\noperation_timeout = \"2s\"\nbatch_messages = 500\npage_stride = 2000\n\
             restart_delay = \"100ms\"\nsweep_interval = \"200ms\"\nretry = {{ initial = \"10ms\", cap = \"200ms\" }}\n\
             [log]\nlevel = \"info\"\n"
        );
        text.push_str(&(play.subscriptions)(sink, &self.redis_url()));
        text
    }

    /// Where the database is, past the proxy; empty where it is in a file.
    pub(crate) fn server_url(&self) -> &str {
        match &self.database {
            Database::Postgres(url) => url,
            Database::Sqlite(_) => "",
        }
    }

    /// Where relays and workers find the database.
    pub(crate) fn database_url(&self) -> String {
        match (&self.database, &self.server) {
            (Database::Postgres(url), Some(server)) => server.url(url),
            (Database::Postgres(url), None) => url.clone(),
            (Database::Sqlite(file), _) => format!("sqlite:{}", file.display()),
        }
    }

    /// Where they find Redis.
    pub(crate) fn redis_url(&self) -> String {
        self.redis_proxy.url(&self.redis.url())
    }

    /// How a relay is called.
    pub(crate) fn relay_arguments(&self) -> Vec<OsString> {
        vec!["relay".into(), "--config".into(), self.configuration().into()]
    }

    /// `kill -9` of Redis, and a restart.
    pub(crate) fn restart_redis(&self) {
        block_in_place(|| {
            self.redis.kill();
            self.redis.restart();
        });
    }

    /// The names that messages are published under.
    pub(crate) fn destinations() -> Vec<String> {
        let routed = (0..SHARDS).map(|shard| format!("routed:{shard}"));
        std::iter::once("plain:plain".to_owned()).chain(routed).collect()
    }

    /// The hash in which Redis keeps a lane's place.
    pub(crate) fn place_key(lane: &str) -> String {
        let subscription = lane.split(':').next().unwrap_or(lane);
        format!("{subscription}:place:{lane}")
    }

    /// Says something among what the relays say.
    pub(crate) fn note(&self, what: &str) {
        let log = fs::OpenOptions::new().append(true).create(true).open(self.log());
        // Without it, a finding is harder to understand and no less true.
        let _ = log.and_then(|mut log| writeln!(log, "torture: {what}"));
    }

    /// The end of what the relays logged.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// How far the subscriptions are, for people.
    pub(crate) async fn state(&self) -> String {
        let status = match self.store.status().await {
            Ok(status) => status,
            Err(error) => return format!("the database does not answer: {error}"),
        };
        let lines = status.subscriptions.into_iter().map(|it| {
            let holder = it.holder.unwrap_or_else(|| "nobody".to_owned());
            format!(
                "{}: held by {holder}, backlog {}, keys set aside {}",
                it.name, it.backlog, it.parked_keys
            )
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Whether anything is left to publish: behind the subscriptions' places, or set aside and not
    /// a dead letter.
    pub(crate) async fn is_unfinished(&self) -> Result<bool> {
        let status = self.store.status().await.during("read the subscriptions' status")?;
        let waiting = "select (select count(*) from posthaste.parked_key where due is not null) + \
                       (select count(*) from posthaste.failed_message where due is not null)";
        let waiting = self.book().await?.count("look at what is parked", waiting).await?;
        Ok(waiting > 0 || status.subscriptions.iter().any(|it| it.backlog > 0))
    }

    /// Leaves the configuration, the log and the arrivals on the disk, and says where.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.directory.path().to_path_buf()
    }
}

impl Server {
    /// Where relays connect.
    fn url(&self, url: &str) -> String {
        let pooled = self.pooler.as_ref().map(|pooler| pooler.url(url, self.postgres.port()));
        self.proxy.url(pooled.as_deref().unwrap_or(url))
    }
}

impl Database {
    pub(crate) async fn book(&self) -> Result<Book> {
        Ok(match self {
            Self::Postgres(url) => Book::Postgres(connect(url).await?),
            Self::Sqlite(file) => Book::Sqlite(open(file).during("open the log")?),
        })
    }
}

/// Both topics, of which the second is routed by a header.
fn subscriptions_of_messages(sink: SinkKind, redis: &str) -> String {
    let (destination, more) = sink.settings();
    let mut text = String::new();
    for (name, rest) in SUBSCRIPTIONS.into_iter().zip(["{topic}", "{header:shard}"]) {
        let _ = write!(
            text,
            "[subscriptions.{name}]\ntopics = [\"{name}\"]\n\
             [subscriptions.{name}.sink]\nkind = \"{kind}\"\nurl = \"{redis}\"\n\
             operation_timeout = \"2s\"\nconnect_timeout = \"2s\"\n\
             {destination} = \"{name}:{rest}\"\n{more}\
             [subscriptions.{name}.failure]\npolicy = \"dead-letter\"\nattempts = 2\n\
             retry = {{ initial = \"20ms\", cap = \"100ms\" }}\nparked_max = 100000\n\
             dead_letters_max = 1000000\n",
            kind = sink.name(),
        );
    }
    text
}

/// A fresh database on a server of its own.
async fn on_server(
    application: &str,
    is_pooled: bool,
) -> Result<(Database, Option<Server>, Arc<dyn Store>)> {
    let disk = Arc::new(Disk::new());
    let postgres = Postgres::try_start_with(posthaste_testkit::PostgresOptions {
        disk: Some(Arc::clone(&disk)),
        ..posthaste_testkit::PostgresOptions::default()
    });
    let postgres = postgres.during("start PostgreSQL")?;
    let url = postgres.database().await.url().to_owned();
    let options = PostgresOptions { rings: RINGS, ..PostgresOptions::default() };
    let store = PostgresStore::connect(&url, &options).during("open the store")?;
    store.migrate().await.during("create the schema")?;
    let client = connect(&url).await?;
    let doing = "create the application's tables";
    client.batch_execute(application).await.during(doing)?;
    let pooler = is_pooled.then(|| Pgbouncer::try_before(postgres.port())).transpose();
    let pooler = pooler.during("start pgbouncer")?;
    let port = pooler.as_ref().map_or_else(|| postgres.port(), Pgbouncer::port);
    let proxy = Proxy::start(port).await.during("start a proxy")?;
    let server = Server { postgres, pooler, proxy, disk };
    Ok((Database::Postgres(url), Some(server), Arc::new(store)))
}

/// A fresh file.
async fn in_file(file: PathBuf) -> Result<(Database, Option<Server>, Arc<dyn Store>)> {
    let options = SqliteOptions { create: true, ..SqliteOptions::default() };
    let store = SqliteStore::open(&file, &options).await.during("open the store")?;
    store.migrate().await.during("create the schema")?;
    let doing = "create the application's tables";
    open(&file).during(doing)?.execute_batch(APPLICATION_OF_SQLITE).during(doing)?;
    Ok((Database::Sqlite(file), None, Arc::new(store)))
}

/// A connection to a log in a file, as an application makes one.
pub(crate) fn open(file: &Path) -> rusqlite::Result<rusqlite::Connection> {
    let connection = rusqlite::Connection::open(file)?;
    connection.busy_timeout(BUSY_LIMIT)?;
    Ok(connection)
}

/// A connection as an application makes one.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.during("connect to PostgreSQL")?;
    // Ends with the client; what goes wrong in between is an error of the client's next call.
    tokio::spawn(connection);
    Ok(client)
}

/// A connection to Redis, past the proxy.
pub(crate) async fn connect_redis(url: &str) -> Result<redis::aio::MultiplexedConnection> {
    let client = redis::Client::open(url).during("read the URL of Redis")?;
    let connection = client.get_multiplexed_async_connection().await;
    connection.map_err(|error| Failure::new(format!("cannot connect to Redis: {error}")))
}
