//! PostgreSQL runs every case, with several writers at once.

use std::{sync::Arc, time::Duration};

use posthaste_core::{Message, MessageId, SchemaName};
use posthaste_store::{
    Incidents, Jobs, Operations, RingSizes, Store,
    postgres::{PostgresOptions, PostgresStore},
    statements::{PostgresWriter, array_literal},
};
use posthaste_testkit::{Database, Postgres};
use tokio_postgres::{Client, types::Type};
use uuid::Uuid;

use super::harness::{Application, Delivery, Harness};

every_case!(crate::conformance::postgres::PostgresHarness);
every_concurrent_case!(crate::conformance::postgres::PostgresHarness);

/// Small slots, so that sweeps have something to empty.
const RINGS: RingSizes = RingSizes { slots: 32, slot_size: 100 };

/// A database of its own on the shared server.
pub(crate) struct PostgresHarness {
    database: Database,
}

impl PostgresHarness {
    async fn execute(&self, sql: &str) {
        assert_eq!(self.database.connect().await.execute(sql, &[]).await.unwrap(), 1, "{sql}");
    }
}

impl Harness for PostgresHarness {
    const WRITERS_MAX: usize = 6;
    const SWEEP_LEAVES_MAX: u64 = RINGS.slot_size as u64;
    const HAS_SLOTS: bool = true;
    const INBOX: &'static str = "posthaste.inbox";
    const CONTRACT: &'static str = "posthaste.contract";
    type Application = Transaction;

    async fn empty() -> Self {
        Self { database: Postgres::shared().database().await }
    }

    async fn open(&self, retention: Duration) -> Arc<dyn Store> {
        let options = PostgresOptions {
            retention,
            token_retention: retention,
            inbox_retention: retention,
            command_retention: retention,
            job_retention: retention,
            rings: RINGS,
            ..PostgresOptions::default()
        };
        Arc::new(PostgresStore::connect(self.database.url(), &options).unwrap())
    }

    async fn sized(&self, bytes: u64) -> Arc<dyn Store> {
        let options = PostgresOptions {
            retention_bytes: Some(bytes),
            rings: RINGS,
            ..PostgresOptions::default()
        };
        Arc::new(PostgresStore::connect(self.database.url(), &options).unwrap())
    }

    async fn operations(&self) -> Arc<dyn Operations> {
        let options = PostgresOptions { rings: RINGS, ..PostgresOptions::default() };
        Arc::new(PostgresStore::connect(self.database.url(), &options).unwrap())
    }

    async fn incidents(&self) -> Arc<dyn Incidents> {
        let options = PostgresOptions { rings: RINGS, ..PostgresOptions::default() };
        Arc::new(PostgresStore::connect(self.database.url(), &options).unwrap())
    }

    async fn jobs(&self) -> Arc<dyn Jobs> {
        let options = PostgresOptions { rings: RINGS, ..PostgresOptions::default() };
        Arc::new(PostgresStore::connect(self.database.url(), &options).unwrap())
    }

    async fn forget_message_of_jobs(&self) {
        let sql = "update posthaste.job set message_position = null, message_xid = null \
                   where state = 'created'";
        self.execute(sql).await;
    }

    async fn audit(&self) -> Vec<(String, String)> {
        let sql = "select actor, action from posthaste.audit order by n";
        let rows = self.database.connect().await.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    async fn count(&self, query: &str) -> i64 {
        self.database.connect().await.query_one(query, &[]).await.unwrap().get(0)
    }

    async fn begin(&self) -> Transaction {
        let client = self.database.connect().await;
        client.batch_execute("begin").await.unwrap();
        Transaction { client, writer: PostgresWriter::new(&SchemaName::default()) }
    }

    async fn spread_times(&self, micros: i64) {
        let sql = "update posthaste.log set enqueued_at = \
                   to_timestamp(1700000000) + position * $1 * interval '1 microsecond'";
        self.database.connect().await.execute(sql, &[&micros]).await.unwrap();
    }

    async fn outbox(&self) -> Vec<(MessageId, Option<String>)> {
        let sql = "select id, published_at::text from posthaste.outbox order by position";
        let rows = self.database.connect().await.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    async fn messages(&self) -> Vec<Delivery> {
        let sql = "select id, subscription, state, published_at::text from posthaste.messages \
                   order by position, subscription";
        let rows = self.database.connect().await.query(sql, &[]).await.unwrap();
        let delivery = |row: &tokio_postgres::Row| Delivery {
            id: row.get(0),
            subscription: row.get(1),
            state: row.get(2),
            published_at: row.get(3),
        };
        rows.iter().map(delivery).collect()
    }

    async fn exchange_tick(&self, n: i64) {
        self.execute(&format!("update posthaste.tick set id = gen_random_uuid() where n = {n}"))
            .await;
    }

    async fn remove_tick(&self, n: i64) {
        self.execute(&format!("delete from posthaste.tick where n = {n}")).await;
    }

    async fn age_inbox(&self, consumer: &str, age: Duration) {
        let sql = "update posthaste.inbox \
                   set handled_at = handled_at - make_interval(secs => $2) where consumer = $1";
        let client = self.database.connect().await;
        client.execute(sql, &[&consumer, &age.as_secs_f64()]).await.unwrap();
    }

    async fn write_inbox(&self, consumer: &str) -> bool {
        let sql = "insert into posthaste.inbox values ($1, gen_random_uuid())";
        self.database.connect().await.execute(sql, &[&consumer]).await.is_ok()
    }

    async fn takes(&self, statement: &str) -> bool {
        self.database.connect().await.execute(statement, &[]).await.is_ok()
    }

    async fn record_unknown_migration(&self) {
        self.execute("insert into posthaste.migration (version, name) values (9999, 'unknown')")
            .await;
    }
}

/// An application's transaction on a connection of its own.
pub(crate) struct Transaction {
    client: Client,
    writer: PostgresWriter,
}

impl Application for Transaction {
    async fn insert(&mut self, message: &Message) -> MessageId {
        let id = Uuid::now_v7();
        // The text of a single insert takes the array itself, so the literal goes in as text.
        let sql = self.writer.insert.replace("$6", "$6::text::text[]");
        let headers = array_literal(message.header_pairs());
        let written = self
            .client
            .execute_typed(
                &sql,
                &[
                    (&id, Type::UUID),
                    (&message.topic(), Type::TEXT),
                    (&message.ordering_key(), Type::TEXT),
                    (&message.payload(), Type::BYTEA),
                    (&message.media_type(), Type::TEXT),
                    (&headers, Type::TEXT),
                    (&message.correlation(), Type::TEXT),
                ],
            )
            .await;
        assert_eq!(written.unwrap(), 1);
        id
    }

    async fn cancel(&mut self, id: MessageId) -> bool {
        self.client.query_one(&self.writer.cancel, &[&id]).await.unwrap().get(0)
    }

    async fn handle(&mut self, consumer: &str, id: MessageId) -> bool {
        let answer = self.client.query_one(&self.writer.handle_once, &[&consumer, &id]).await;
        answer.unwrap().get(0)
    }

    async fn commit(self) {
        self.client.batch_execute("commit").await.unwrap();
    }

    async fn rollback(self) {
        self.client.batch_execute("rollback").await.unwrap();
    }
}
