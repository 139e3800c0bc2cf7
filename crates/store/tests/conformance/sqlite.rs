//! SQLite runs every case, and what only an embedded file promises.

use std::{path::PathBuf, sync::Arc, time::Duration};

use posthaste_core::{Message, MessageId, RelayView, SchemaName};
use posthaste_store::{
    Acquired, Incidents, Jobs, Operations, Store, StoreErrorKind,
    sqlite::{SqliteOptions, SqliteStore},
    statements::SqliteWriter,
};
use posthaste_testkit::eventually_async;
use rusqlite::{Connection, Params, Row};
use tempfile::TempDir;
use uuid::Uuid;

use super::{
    harness::{Application, Delivery, Harness, LONG, commit, migrated},
    reader::{read_all, tick},
};

every_case!(crate::conformance::sqlite::SqliteHarness);

/// A file in a directory of its own, which goes away with the harness.
pub(crate) struct SqliteHarness {
    directory: TempDir,
}

impl SqliteHarness {
    fn path(&self) -> PathBuf {
        self.directory.path().join("app.db")
    }

    /// A connection as an application opens it.
    fn connect(&self) -> Connection {
        let connection = Connection::open(self.path()).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        connection.pragma_update(None, "foreign_keys", true).unwrap();
        connection
    }

    fn execute(&self, sql: &str, values: impl Params) {
        assert_eq!(self.connect().execute(sql, values).unwrap(), 1, "{sql}");
    }

    fn rows<T>(&self, sql: &str, row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
        let connection = self.connect();
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap()
    }
}

impl Harness for SqliteHarness {
    const WRITERS_MAX: usize = 1;
    const SWEEP_LEAVES_MAX: u64 = 0;
    const HAS_SLOTS: bool = false;
    const INBOX: &'static str = "posthaste_inbox";
    const CONTRACT: &'static str = "posthaste_contract";
    type Application = Transaction;

    async fn empty() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    async fn open(&self, retention: Duration) -> Arc<dyn Store> {
        let options = SqliteOptions {
            create: true,
            retention,
            token_retention: retention,
            inbox_retention: retention,
            command_retention: retention,
            job_retention: retention,
            ..SqliteOptions::default()
        };
        Arc::new(SqliteStore::open(self.path(), &options).await.unwrap())
    }

    async fn sized(&self, bytes: u64) -> Arc<dyn Store> {
        let options = SqliteOptions {
            retention_bytes: Some(bytes),
            create: true,
            ..SqliteOptions::default()
        };
        Arc::new(SqliteStore::open(self.path(), &options).await.unwrap())
    }

    async fn operations(&self) -> Arc<dyn Operations> {
        let options = SqliteOptions { create: true, ..SqliteOptions::default() };
        Arc::new(SqliteStore::open(self.path(), &options).await.unwrap())
    }

    async fn incidents(&self) -> Arc<dyn Incidents> {
        let options = SqliteOptions { create: true, ..SqliteOptions::default() };
        Arc::new(SqliteStore::open(self.path(), &options).await.unwrap())
    }

    async fn jobs(&self) -> Arc<dyn Jobs> {
        let options = SqliteOptions { create: true, ..SqliteOptions::default() };
        Arc::new(SqliteStore::open(self.path(), &options).await.unwrap())
    }

    async fn forget_message_of_jobs(&self) {
        let sql = "update posthaste_job set message_position = null where state = 'created'";
        self.connect().execute(sql, []).unwrap();
    }

    async fn audit(&self) -> Vec<(String, String)> {
        let sql = "select actor, action from posthaste_audit order by n";
        self.rows(sql, |row| Ok((row.get(0)?, row.get(1)?)))
    }

    async fn count(&self, query: &str) -> i64 {
        self.connect().query_row(query, [], |row| row.get(0)).unwrap()
    }

    async fn begin(&self) -> Transaction {
        let connection = self.connect();
        connection.execute_batch("begin").unwrap();
        Transaction { connection, writer: SqliteWriter::new(&SchemaName::default()) }
    }

    async fn spread_times(&self, micros: i64) {
        let sql = "update posthaste_log set enqueued_at = 1700000000000000 + position * ?1";
        self.connect().execute(sql, [micros]).unwrap();
    }

    async fn outbox(&self) -> Vec<(MessageId, Option<String>)> {
        let sql = "select id, published_at from posthaste_outbox order by position";
        self.rows(sql, |row| Ok((uuid(row)?, row.get(1)?)))
    }

    async fn messages(&self) -> Vec<Delivery> {
        let sql = "select id, subscription, state, published_at from posthaste_messages \
                   order by position, subscription";
        self.rows(sql, |row| {
            Ok(Delivery {
                id: uuid(row)?,
                subscription: row.get(1)?,
                state: row.get(2)?,
                published_at: row.get(3)?,
            })
        })
    }

    async fn exchange_tick(&self, n: i64) {
        let id = Uuid::new_v4();
        self.execute("update posthaste_tick set id = ?2 where n = ?1", (n, id.as_bytes()));
    }

    async fn remove_tick(&self, n: i64) {
        self.execute("delete from posthaste_tick where n = ?1", [n]);
    }

    async fn age_inbox(&self, consumer: &str, age: Duration) {
        let sql = "update posthaste_inbox set handled_at = handled_at - ?2 where consumer = ?1";
        let micros = age.as_micros() as i64;
        self.connect().execute(sql, (consumer, micros)).unwrap();
    }

    async fn write_inbox(&self, consumer: &str) -> bool {
        let sql = "insert into posthaste_inbox (consumer, message_id) values (?1, ?2)";
        let id = Uuid::new_v4();
        self.connect().execute(sql, (consumer, id.as_bytes())).is_ok()
    }

    async fn takes(&self, statement: &str) -> bool {
        self.connect().execute(statement, []).is_ok()
    }

    async fn record_unknown_migration(&self) {
        let sql = "insert into posthaste_migration (version, name) values (9999, 'unknown')";
        self.execute(sql, []);
    }
}

fn uuid(row: &Row<'_>) -> rusqlite::Result<Uuid> {
    let text: String = row.get(0)?;
    Ok(text.parse().expect("the view shows ids in their text form"))
}

/// An application's transaction on a connection of its own.
pub(crate) struct Transaction {
    connection: Connection,
    writer: SqliteWriter,
}

impl Application for Transaction {
    async fn insert(&mut self, message: &Message) -> MessageId {
        let id = Uuid::now_v7();
        let text = |text: &String| serde_json::to_string(text).unwrap();
        let pairs = message.header_pairs().iter();
        let headers: Vec<String> =
            pairs.map(|(name, value)| format!("{}:{}", text(name), text(value))).collect();
        let values = (
            id.as_bytes(),
            message.topic(),
            message.ordering_key(),
            message.payload(),
            message.media_type(),
            format!("{{{}}}", headers.join(",")),
            message.correlation(),
        );
        self.connection.execute(&self.writer.insert, values).unwrap();
        id
    }

    async fn cancel(&mut self, id: MessageId) -> bool {
        self.connection.execute(&self.writer.cancel, [id.as_bytes()]).unwrap() > 0
    }

    async fn handle(&mut self, consumer: &str, id: MessageId) -> bool {
        let values = (consumer, id.as_bytes());
        self.connection.execute(&self.writer.handle_once, values).unwrap() > 0
    }

    async fn commit(self) {
        self.connection.execute_batch("commit").unwrap();
    }

    async fn rollback(self) {
        self.connection.execute_batch("rollback").unwrap();
    }
}

#[tokio::test]
async fn refused_message_makes_the_whole_transaction_fail() {
    let (harness, store) = migrated::<SqliteHarness>().await;
    let mut application = harness.begin().await;
    application.insert(&Message::new("a")).await;
    let connection = &application.connection;
    let on: bool = connection.query_row(SqliteWriter::FOREIGN_KEYS, [], |row| row.get(0)).unwrap();
    assert!(on);
    connection.execute(&application.writer.refuse, []).unwrap();
    let error = connection.execute_batch("commit").unwrap_err();
    assert!(error.to_string().contains("FOREIGN KEY"), "{error}");
    drop(application);
    assert!(read_all(&*store).await.is_empty());
}

#[tokio::test]
async fn pages_and_looks_do_not_wait_for_an_open_writer() {
    let (harness, store) = migrated::<SqliteHarness>().await;
    let mut ticker = store.ticker();
    let expected = commit(&harness, &["a"]).await;
    let newest = tick(ticker.as_mut()).await;
    let mut application = harness.begin().await;
    application.insert(&Message::new("open")).await;
    assert_eq!(tick(ticker.as_mut()).await, newest);
    assert!(read_all(&*store).await.iter().map(|message| message.id).eq(expected));
    application.rollback().await;
}

#[tokio::test]
async fn writer_that_holds_the_lock_too_long_is_a_conflict_or_a_timeout() {
    let (harness, _store) = migrated::<SqliteHarness>().await;
    let operation_timeout = Duration::from_millis(200);
    let options = SqliteOptions { operation_timeout, ..SqliteOptions::default() };
    let store = SqliteStore::open(harness.path(), &options).await.unwrap();
    let mut application = harness.begin().await;
    application.insert(&Message::new("a")).await;
    let error = store.append(&[Message::new("b")]).await.unwrap_err();
    assert!(error.kind().is_transient(), "{error}");
    application.commit().await;
    // A machine that is busy may need longer than the time-out even so.
    eventually_async("the lock is free", Duration::from_mins(2), async || {
        store.append(&[Message::new("b")]).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn several_schemas_share_one_file() {
    let (harness, store) = migrated::<SqliteHarness>().await;
    let options = SqliteOptions { schema: "other".parse().unwrap(), ..SqliteOptions::default() };
    let other = SqliteStore::open(harness.path(), &options).await.unwrap();
    assert_eq!(other.check().await.unwrap_err().kind(), StoreErrorKind::MissingSchema);
    other.migrate().await.unwrap();
    other.append(&[Message::new("a")]).await.unwrap();
    assert_eq!(read_all(&*store).await.len(), 0);
    assert_eq!(read_all(&other).await.len(), 1);
}

#[tokio::test]
async fn missing_file_is_a_missing_schema_and_named() {
    let harness = SqliteHarness::empty().await;
    let error = SqliteStore::open(harness.path(), &SqliteOptions::default()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::MissingSchema);
    assert!(error.to_string().contains("app.db"), "{error}");
}

#[tokio::test]
async fn row_that_is_not_utf8_is_named_and_neither_altered_nor_skipped() {
    let (harness, store) = migrated::<SqliteHarness>().await;
    commit(&harness, &["a", "a"]).await;
    harness.execute("update posthaste_log set key = cast(x'ff' as text) where position = 2", []);
    tick(store.ticker().as_mut()).await;
    let begin = posthaste_core::TickRef::BEGINNING;
    let window = store.window(begin, None).await.unwrap().unwrap();
    let filter = posthaste_core::TopicFilter::all();
    let error = store.read(&window, 0, &filter, super::reader::WIDE).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    assert!(error.to_string().contains("position 2 has a key"), "{error}");
}

#[tokio::test]
async fn sweep_keeps_the_ticks_and_settles_that_messages_need() {
    let (harness, _long) = migrated::<SqliteHarness>().await;
    let store = harness.open(Duration::ZERO).await;
    let start = posthaste_store::Start::Beginning;
    store.reconcile(&[super::reader::subscription("s", &["*"], start)]).await.unwrap();
    for _ in 0..5 {
        commit(&harness, &["a"]).await;
        super::reader::publish_all(&*store, "s").await;
    }
    let count = |table: &str| {
        let sql = format!("select count(*) from posthaste_{table}");
        harness.rows(&sql, |row| row.get::<_, i64>(0))[0]
    };
    // Retained messages keep what dates them and what a sink that fell behind would start from.
    harness.open(LONG).await.sweep().await.unwrap();
    assert_eq!([count("log"), count("tick"), count("progress")], [5, 5, 5]);
    store.sweep().await.unwrap();
    assert_eq!([count("log"), count("tick"), count("progress")], [0, 1, 1]);
}

#[tokio::test]
async fn clock_that_was_set_back_takes_along_what_waits_for_a_time() {
    let (harness, store) = migrated::<SqliteHarness>().await;
    let start = posthaste_store::Start::Beginning;
    store.reconcile(&[super::reader::subscription("s", &["*"], start)]).await.unwrap();
    let (lease, long) = (Duration::from_millis(150), Duration::from_hours(1));
    let relay =
        |holder: &str| RelayView { holder: holder.to_owned(), subscriptions: vec!["s".to_owned()] };
    let Acquired::Taken(first, _) = store.acquire("s", "gone", lease).await.unwrap() else {
        panic!("nobody holds it")
    };
    store.renew(&relay("gone"), lease).await.unwrap();
    // What was written while the clock was ahead by so much.
    let ahead = 75 * 86_400_000_000_i64;
    let set_back = || {
        for (table, column) in
            [("meta", "seen_at"), ("subscription", "expires_at"), ("relay", "seen_at")]
        {
            let sql = format!("update posthaste_{table} set {column} = {column} + ?1");
            harness.execute(&sql, [ahead]);
        }
    };
    set_back();
    harness.execute(
        "insert into posthaste_parked_key (subscription, key, base_tick, base_id, head_tick, \
         head_id, position, through, message_id, attempts, reason, due, parked_at) \
         select s.id, 'k', 0, m.incarnation, 0, m.incarnation, 0, 0, m.incarnation, 1, 'r', \
         m.seen_at + 5000000, m.seen_at from posthaste_subscription s, posthaste_meta m",
        [],
    );
    // Not at once: the one that is gone may live, and say so.
    let Acquired::Held { left, .. } = store.acquire("s", "next", long).await.unwrap() else {
        panic!("its lease has not run out")
    };
    assert!(left <= lease, "{left:?}");
    tokio::time::sleep(lease).await;
    let Acquired::Taken(second, _) = store.acquire("s", "next", long).await.unwrap() else {
        panic!("its lease has run out")
    };
    assert_eq!(second, first + 1);
    let others = store.renew(&relay("next"), lease).await.unwrap().relays;
    assert_eq!(others.len(), 1, "{others:?}");
    let parked = "select (due - parked_at) / 1000000, due <= seen_at + 5000000 \
                  from posthaste_parked_key, posthaste_meta";
    let parked = harness.rows(parked, |row| Ok((row.get(0)?, row.get(1)?)));
    assert_eq!(parked, [(5_i64, true)]);
    // One that lives keeps what it holds, by the clock as it is now.
    store.leave("gone").await.unwrap();
    store.renew(&relay("next"), long).await.unwrap();
    set_back();
    let leases = store.renew(&relay("next"), long).await.unwrap();
    assert_eq!(leases.leases[0].holder.as_deref(), Some("next"));
    let Acquired::Held { left, .. } = store.acquire("s", "other", lease).await.unwrap() else {
        panic!("it is held")
    };
    assert!(left > long / 2 && left <= long, "{left:?}");
}
