//! Databases with Posthaste's schema, and what stands in their logs. Used by every module here.

pub(crate) mod proxy;
pub(crate) mod sessions;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use posthaste::{Message, MessageId, Timestamp, machine::Machine};
use posthaste_store::{
    Operations, Request, Store,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::{SqliteOptions, SqliteStore},
};
use posthaste_testkit::{Database, Postgres, eventually_async};
use rusqlite::Connection;
use tempfile::TempDir;

/// No wait takes longer unless something is broken.
const LIMIT: Duration = Duration::from_mins(1);
/// A table of the application's own, to see what else a transaction left.
const ORDERS: &str = "create table orders (id integer)";

/// A database with the schema, the application's table and nothing in either.
pub(crate) enum Place {
    Postgres(Box<Database>),
    Sqlite(TempDir),
}

/// A message as it stands in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: MessageId,
    pub(crate) topic: String,
    pub(crate) key: Option<String>,
    pub(crate) payload: Vec<u8>,
    pub(crate) content_type: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) correlation_id: Option<String>,
}

impl Row {
    pub(crate) fn of(id: MessageId, message: &Message) -> Self {
        Self {
            id,
            topic: message.topic().to_owned(),
            key: message.ordering_key().map(str::to_owned),
            payload: message.payload().to_vec(),
            content_type: message.media_type().to_owned(),
            headers: message.header_pairs().to_vec(),
            correlation_id: message.correlation().map(str::to_owned),
        }
    }
}

impl Place {
    pub(crate) async fn postgres() -> Self {
        Self::Postgres(Box::new(postgres().await))
    }

    pub(crate) async fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = sqlite_file(directory.path());
        let options = SqliteOptions { create: true, ..SqliteOptions::default() };
        SqliteStore::open(&file, &options).await.unwrap().migrate().await.unwrap();
        Connection::open(&file).unwrap().execute_batch(ORDERS).unwrap();
        Self::Sqlite(directory)
    }

    pub(crate) fn database(&self) -> &Database {
        let Self::Postgres(database) = self else { panic!("this place is not PostgreSQL") };
        database
    }

    pub(crate) fn file(&self) -> PathBuf {
        let Self::Sqlite(directory) = self else { panic!("this place is not SQLite") };
        sqlite_file(directory.path())
    }

    /// Makes the topics of `pattern` strict where there is more than one writer at a time.
    pub(crate) async fn make_strict(&self, pattern: &str) {
        if let Self::Postgres(database) = self {
            let client = database.connect().await;
            client.execute("select posthaste.set_strict($1)", &[&pattern]).await.unwrap();
        }
    }

    /// Moves what is due into the log, as a relay does.
    pub(crate) async fn move_due(&self) {
        self.store().await.move_due(1_000).await.unwrap();
    }

    /// Pushes a machine, as its owner does.
    pub(crate) async fn push(&self, machine: &Machine) {
        let by_hand = Request { actor: "test".to_owned(), is_dry_run: false, is_forced: false };
        self.store().await.push_machine(machine, &by_hand).await.unwrap();
    }

    /// Jobs, as workers see them.
    pub(crate) async fn jobs(&self) -> Box<dyn posthaste_store::Jobs> {
        match self {
            Self::Postgres(database) => Box::new(
                PostgresStore::connect(database.url(), &PostgresOptions::default()).unwrap(),
            ),
            Self::Sqlite(_) => {
                Box::new(SqliteStore::open(&self.file(), &SqliteOptions::default()).await.unwrap())
            }
        }
    }

    async fn store(&self) -> Box<dyn Operations> {
        match self {
            Self::Postgres(database) => Box::new(
                PostgresStore::connect(database.url(), &PostgresOptions::default()).unwrap(),
            ),
            Self::Sqlite(_) => {
                Box::new(SqliteStore::open(&self.file(), &SqliteOptions::default()).await.unwrap())
            }
        }
    }

    /// The committed rows of one of Posthaste's tables, and of what is joined to it.
    pub(crate) async fn rows_of(&self, table: &str) -> i64 {
        match self {
            Self::Postgres(database) => {
                let count = format!("select count(*) from posthaste.{table}");
                database.connect().await.query_one(&count, &[]).await.unwrap().get(0)
            }
            Self::Sqlite(_) => {
                let count = format!("select count(*) from posthaste_{table}");
                let connection = Connection::open(self.file()).unwrap();
                connection.query_row(&count, [], |row| row.get(0)).unwrap()
            }
        }
    }

    /// Sweeps as a relay does that keeps commands for an hour, and answers how many it forgot.
    pub(crate) async fn sweep_commands(&self) -> u64 {
        let command_retention = Duration::from_hours(1);
        let store: Box<dyn Store> = match self {
            Self::Postgres(database) => {
                let options = PostgresOptions { command_retention, ..PostgresOptions::default() };
                Box::new(PostgresStore::connect(database.url(), &options).unwrap())
            }
            Self::Sqlite(_) => {
                let options = SqliteOptions { command_retention, ..SqliteOptions::default() };
                Box::new(SqliteStore::open(&self.file(), &options).await.unwrap())
            }
        };
        store.sweep().await.unwrap().commands_deleted
    }

    /// The committed messages in log order.
    pub(crate) async fn log(&self) -> Vec<Row> {
        match self {
            Self::Postgres(database) => postgres_log(database).await,
            Self::Sqlite(_) => sqlite_log(&self.file()),
        }
    }

    /// The committed messages that wait, in the order in which they were written, and their times.
    pub(crate) async fn scheduled(&self) -> Vec<(Row, Timestamp)> {
        match self {
            Self::Postgres(database) => {
                let time = "(extract(epoch from deliver_at) * 1000000)::bigint";
                let rows = postgres_rows(
                    database,
                    &format!("{time}, s.* from posthaste.scheduled s order by n"),
                )
                .await;
                rows.iter().map(|row| (postgres_row(row), Timestamp(row.get(0)))).collect()
            }
            Self::Sqlite(_) => {
                let file = self.file();
                let due = |row: &rusqlite::Row<'_>| row.get("deliver_at").map(Timestamp).unwrap();
                sqlite_rows(&file, "posthaste_scheduled order by n", due)
            }
        }
    }

    /// What is committed to inboxes: consumers and messages.
    pub(crate) async fn inbox(&self) -> Vec<(String, MessageId)> {
        match self {
            Self::Postgres(database) => {
                let sql = "consumer, message_id from posthaste.inbox order by 1, 2";
                let rows = postgres_rows(database, sql).await;
                rows.iter().map(|row| (row.get(0), row.get(1))).collect()
            }
            Self::Sqlite(_) => {
                let connection = Connection::open(self.file()).unwrap();
                let sql = "select consumer, message_id from posthaste_inbox order by 1, 2";
                let mut statement = connection.prepare(sql).unwrap();
                let row =
                    |row: &rusqlite::Row<'_>| Ok((row.get(0)?, MessageId::from_bytes(row.get(1)?)));
                let rows = statement.query_map([], row);
                rows.unwrap().map(Result::unwrap).collect()
            }
        }
    }

    /// The application's committed rows.
    pub(crate) async fn orders(&self) -> i64 {
        let count = "select count(*) from orders";
        match self {
            Self::Postgres(database) => {
                database.connect().await.query_one(count, &[]).await.unwrap().get(0)
            }
            Self::Sqlite(_) => {
                let connection = Connection::open(self.file()).unwrap();
                connection.query_row(count, [], |row| row.get(0)).unwrap()
            }
        }
    }
}

/// A PostgreSQL database with the schema and the application's table.
pub(crate) async fn postgres() -> Database {
    postgres_on(Postgres::shared()).await
}

/// The same on a server of the test's own.
pub(crate) async fn postgres_on(server: &Postgres) -> Database {
    let database = server.database().await;
    let store = PostgresStore::connect(database.url(), &PostgresOptions::default()).unwrap();
    store.migrate().await.unwrap();
    database.connect().await.batch_execute(ORDERS).await.unwrap();
    database
}

/// Waits until a statement in this database waits for another transaction.
pub(crate) async fn somebody_waits(database: &Database) {
    let client = database.connect().await;
    let waits = "select exists (select from pg_stat_activity where wait_event_type = 'Lock' \
                 and datname = current_database())";
    let waits = async || client.query_one(waits, &[]).await.unwrap().get(0);
    eventually_async("a wait for a lock", LIMIT, waits).await;
}

pub(crate) async fn postgres_log(database: &Database) -> Vec<Row> {
    let rows = postgres_rows(database, "* from posthaste.log order by position").await;
    rows.iter().map(postgres_row).collect()
}

async fn postgres_rows(database: &Database, what: &str) -> Vec<tokio_postgres::Row> {
    database.connect().await.query(&format!("select {what}"), &[]).await.unwrap()
}

fn postgres_row(row: &tokio_postgres::Row) -> Row {
    Row {
        id: row.get("id"),
        topic: row.get("topic"),
        key: row.get("key"),
        payload: row.get("payload"),
        content_type: row.get("content_type"),
        headers: pairs(&row.get::<_, Vec<String>>("headers")),
        correlation_id: row.get("correlation_id"),
    }
}

fn sqlite_log(file: &Path) -> Vec<Row> {
    let rows = sqlite_rows(file, "posthaste_log order by position", |_| ());
    rows.into_iter().map(|(row, ())| row).collect()
}

/// Messages of a table, each with what `more` reads of its row.
fn sqlite_rows<T>(
    file: &Path,
    table: &str,
    more: impl Fn(&rusqlite::Row<'_>) -> T,
) -> Vec<(Row, T)> {
    let connection = Connection::open(file).unwrap();
    let mut statement = connection.prepare(&format!("select * from {table}")).unwrap();
    let rows = statement.query_map([], |row| {
        let message = Row {
            id: MessageId::from_bytes(row.get("id")?),
            topic: row.get("topic")?,
            key: row.get("key")?,
            payload: row.get("payload")?,
            content_type: row.get("content_type")?,
            headers: sqlite_headers(&connection, row.get("headers")?),
            correlation_id: row.get("correlation_id")?,
        };
        Ok((message, more(row)))
    });
    rows.unwrap().map(Result::unwrap).collect()
}

/// Through SQLite's own reader of JSON, which keeps the order.
fn sqlite_headers(connection: &Connection, json: String) -> Vec<(String, String)> {
    let mut statement = connection.prepare("select key, value from json_each(?1)").unwrap();
    let pairs = statement.query_map([json], |row| Ok((row.get(0)?, row.get(1)?)));
    pairs.unwrap().map(Result::unwrap).collect()
}

fn pairs(flat: &[String]) -> Vec<(String, String)> {
    let (pairs, rest) = flat.as_chunks::<2>();
    assert!(rest.is_empty(), "headers are not pairs: {flat:?}");
    pairs.iter().map(|[name, value]| (name.clone(), value.clone())).collect()
}

fn sqlite_file(directory: &Path) -> PathBuf {
    directory.join("shop.sqlite")
}
