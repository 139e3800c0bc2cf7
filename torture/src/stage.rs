//! Where it happens: private servers behind proxies, a log with an application beside it, and the
//! configuration of the relays.

use std::{fmt::Write as _, fs, path::PathBuf, sync::Arc};

use posthaste_store::{
    RingSizes, Store,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::{
    Clock, Disk, Postgres, Redis,
    failure::{During, Failure, Result},
    proxy::Proxy,
};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

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

const APPLICATION: &str = "
    create schema app;
    create table app.entity (k bigint primary key, n bigint not null);
    insert into app.entity select k, 0 from generate_series(0, 199) k;
    create table app.mirror (k bigint, n bigint, part bigint, tx uuid, id uuid, rejected boolean);
    create index on app.mirror (k, n, part);
    create table app.other (x int);
    create table app.stolen (subscription int, at timestamptz default clock_timestamp());
    create function app.watch() returns trigger language plpgsql as $$
    begin
      if new.epoch > old.epoch and new.holder <> old.holder
        and old.expires_at > clock_timestamp() then
        insert into app.stolen (subscription) values (new.subscription);
      end if;
      return new;
    end $$;
    create trigger watch after update on posthaste.lease
      for each row execute function app.watch()";

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

/// Everything that outlives a relay.
pub(crate) struct Stage {
    pub(crate) postgres: Postgres,
    pub(crate) redis: Redis,
    pub(crate) postgres_proxy: Proxy,
    pub(crate) redis_proxy: Proxy,
    /// Where the application connects: past the proxy.
    pub(crate) database_url: String,
    pub(crate) store: PostgresStore,
    /// What the database is on.
    pub(crate) disk: Arc<Disk>,
    /// What the relays take for the time.
    pub(crate) clock: Clock,
    directory: TempDir,
}

impl Stage {
    /// `is_forgetful`: Redis keeps nothing on disk.
    pub(crate) async fn build(sink: SinkKind, is_forgetful: bool) -> Result<Self> {
        let disk = Arc::new(Disk::new());
        let postgres = Postgres::try_start_with(posthaste_testkit::PostgresOptions {
            disk: Some(Arc::clone(&disk)),
            ..posthaste_testkit::PostgresOptions::default()
        });
        let postgres = postgres.during("start PostgreSQL")?;
        let redis = Redis::try_start_with(posthaste_testkit::RedisOptions {
            append_only: !is_forgetful,
            ..posthaste_testkit::RedisOptions::default()
        });
        let redis = redis.during("start Redis")?;
        let database_url = postgres.database().await.url().to_owned();
        let options = PostgresOptions { rings: RINGS, ..PostgresOptions::default() };
        let store = PostgresStore::connect(&database_url, &options);
        let store = store.during("open the store")?;
        store.migrate().await.during("create the schema")?;
        let client = connect(&database_url).await?;
        client.batch_execute(APPLICATION).await.during("create the application's tables")?;
        let postgres_proxy = Proxy::start(postgres.port()).await.during("start a proxy")?;
        let redis_proxy = Proxy::start(redis.port()).await.during("start a proxy")?;
        let directory = tempfile::tempdir().during("make a directory for the relays")?;
        let stage = Self {
            postgres,
            redis,
            postgres_proxy,
            redis_proxy,
            database_url,
            store,
            disk,
            clock: Clock::new(),
            directory,
        };
        let text = stage.configuration_text(sink);
        fs::write(stage.configuration(), text).during("write the configuration")?;
        Ok(stage)
    }

    /// The relays' configuration file.
    pub(crate) fn configuration(&self) -> PathBuf {
        self.directory.path().join("posthaste.toml")
    }

    /// What all relays log to.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Where arrivals are written down.
    pub(crate) fn arrivals(&self) -> PathBuf {
        self.directory.path().join("arrivals")
    }

    /// Short time-outs, small batches and hardly any retention, so that a run meets as many faults as it can; everything
    /// else is the default.
    fn configuration_text(&self, sink: SinkKind) -> String {
        let database = self.postgres_proxy.url(&self.database_url);
        let redis = self.redis_proxy.url(&self.redis.url());
        let (destination, more) = sink.settings();
        let mut text = format!(
            "[database]\nurl = \"{database}\"\noperation_timeout = \"2s\"\nretention = \"1s\"\n\
             [relay]\nlease = \"1s\"\noperation_timeout = \"2s\"\nbatch_messages = 500\npage_stride = 2000\n\
             restart_delay = \"100ms\"\nsweep_interval = \"200ms\"\nretry = {{ initial = \"10ms\", cap = \"200ms\" }}\n\
             [log]\nlevel = \"info\"\n"
        );
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

    /// The end of what the relays logged.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// Whether anything is left to publish: behind the subscriptions' places, or set aside and not
    /// a dead letter.
    pub(crate) async fn is_unfinished(&self) -> Result<bool> {
        let status = self.store.status().await.during("read the subscriptions' status")?;
        let client = connect(&self.database_url).await?;
        let waiting = "select exists (select from posthaste.parked_key where due is not null) or \
                       exists (select from posthaste.failed_message where due is not null)";
        let row = client.query_one(waiting, &[]).await.during("look at what is parked")?;
        Ok(row.get(0) || status.subscriptions.iter().any(|it| it.backlog > 0))
    }

    /// Leaves the configuration, the log and the arrivals on the disk, and says where.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.directory.path().to_path_buf()
    }
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
