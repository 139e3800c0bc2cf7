//! The private servers of one call: the same for all contestants, synced to disk as a production
//! database is, and gone with the process.

use std::{path::Path, sync::Arc};

use posthaste_store::{
    Operations, RingSizes, Store,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::{SqliteOptions, SqliteStore},
};
use posthaste_testkit::{
    Database, Postgres, Redis, RedisOptions,
    failure::{During, Failure, Result},
};
use tokio_postgres::{Client, NoTls};

use crate::{
    messages::Messages,
    progress,
    resp::{self, Reply},
};

/// As on a small production server; the working set fits, so that nobody waits for the disk to
/// read, and no checkpoint falls into a run because of its WAL.
const POSTGRES_SETTINGS: [(&str, &str); 3] =
    [("shared_buffers", "1GB"), ("max_wal_size", "8GB"), ("checkpoint_timeout", "30min")];

/// What Redis keeps on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Persistence {
    /// `appendonly no`
    None,
    /// `appendonly yes`, `appendfsync everysec`
    Everysec,
    /// `appendonly yes`, `appendfsync always`
    Always,
}

/// Where a log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum StoreKind {
    /// A PostgreSQL of its own
    Postgres,
    /// A file
    Sqlite,
}

/// One PostgreSQL and one Redis.
#[derive(Debug)]
pub(crate) struct Servers {
    pub(crate) postgres: Postgres,
    pub(crate) redis: Redis,
}

/// A migrated log in a database of its own.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) url: String,
    pub(crate) store: Arc<dyn Operations>,
}

impl Servers {
    pub(crate) fn start(persistence: Persistence) -> Result<Self> {
        let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        let postgres = Postgres::try_start_with(posthaste_testkit::PostgresOptions {
            durable: true,
            settings: POSTGRES_SETTINGS.into_iter().map(own).collect(),
            ..posthaste_testkit::PostgresOptions::default()
        });
        let fsync = if persistence == Persistence::Everysec { "everysec" } else { "always" };
        let redis = Redis::try_start_with(RedisOptions {
            append_only: persistence != Persistence::None,
            settings: vec![own(("appendfsync", fsync))],
            ..RedisOptions::default()
        });
        Ok(Self {
            postgres: postgres.during("start PostgreSQL")?,
            redis: redis.during("start Redis")?,
        })
    }

    pub(crate) fn redis_client(&self) -> Result<resp::Client> {
        resp::Client::connect(self.redis.port())
    }

    /// Empties Redis before the next contestant.
    pub(crate) fn flush_redis(&self) -> Result<()> {
        self.redis_client()?.query(&[b"FLUSHALL", b"SYNC"]).map(drop)
    }

    /// How many entries a stream holds.
    pub(crate) fn stream_length(&self, stream: &str) -> Result<u64> {
        match self.redis_client()?.query(&[b"XLEN", stream.as_bytes()])? {
            Reply::Integer(length) => Ok(length as u64),
            _ => Err(Failure::new("XLEN answered no number")),
        }
    }

    /// A fresh database with Posthaste's schema.
    pub(crate) async fn log(&self) -> Result<Log> {
        self.log_with(RingSizes::default()).await
    }

    /// The same with rings of these sizes.
    pub(crate) async fn log_with(&self, rings: RingSizes) -> Result<Log> {
        let database: Database = self.postgres.database().await;
        let url = database.url().to_owned();
        let options = PostgresOptions { rings, ..PostgresOptions::default() };
        let store = PostgresStore::connect(&url, &options).during("open the store")?;
        store.migrate().await.during("create the schema")?;
        Ok(Log { url, store: Arc::new(store) })
    }
}

impl Log {
    /// A fresh one in a file.
    pub(crate) async fn in_file(file: &Path, options: &SqliteOptions) -> Result<Self> {
        let options = SqliteOptions { create: true, ..options.clone() };
        let store = SqliteStore::open(file, &options).await.during("open the store")?;
        store.migrate().await.during("create the schema")?;
        Ok(Self { url: format!("sqlite:{}", file.display()), store: Arc::new(store) })
    }

    /// Commits `count` messages of one size and brings the tables to rest.
    pub(crate) async fn fill(&self, payload_bytes: usize, count: u64) -> Result<()> {
        progress(format_args!("writing {count} messages"));
        Messages::new(payload_bytes).fill(&*self.store, count).await?;
        settle_tables(&self.url).await
    }
}

/// A connection over TCP, as the relay's are.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.during("connect to PostgreSQL")?;
    // Ends with the client; what goes wrong in between is an error of the client's next call.
    tokio::spawn(connection);
    Ok(client)
}

/// Brings tables and checkpoints to rest, so that the first contestant does not pay for the
/// writing.
pub(crate) async fn settle_tables(url: &str) -> Result<()> {
    let client = connect(url).await?;
    for statement in ["vacuum analyze", "checkpoint"] {
        client.batch_execute(statement).await.during(statement)?;
    }
    Ok(())
}

/// Dead rows of all slots of the log, counted row by row.
pub(crate) async fn dead_rows(client: &Client) -> Result<u64> {
    let extension = "create extension if not exists pgstattuple";
    client.batch_execute(extension).await.during("create the extension pgstattuple")?;
    let sql = "select sum((pgstattuple(inhrelid)).dead_tuple_count)::bigint from pg_inherits \
               where inhparent = 'posthaste.log'::regclass";
    let row = client.query_one(sql, &[]).await.during("count dead rows")?;
    row.get::<_, Option<i64>>(0)
        .map(|dead| dead as u64)
        .ok_or_else(|| Failure::new("the log has no slots"))
}
