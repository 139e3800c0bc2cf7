//! What the libraries of `clients/` promise, run on every driver: one contract suite.
//!
//! The Rust side says what is right: each message in the log is compared with the [`Message`] that
//! it stands for, each refusal with the text that [`Limits`] has for it.

mod drivers;
mod handling;
mod native;
mod refusals;
mod session;
mod writing;

use std::path::{Path, PathBuf};

use posthaste::{Limits, Message, MessageId};
use posthaste_store::{
    Store as _,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::Database;
use serde_json::{Value, json};

use crate::{
    contract::hostile_messages,
    support::{self, Row},
};
use session::{Driver, Session, fields};

/// The libraries' directory.
pub(crate) fn libraries() -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../clients")).canonicalize().unwrap()
}

/// A database with the schema, and a session of `driver` in it.
async fn open(driver: Driver) -> (Database, Session) {
    let database = support::postgres().await;
    let session = Session::open(driver, &database);
    (database, session)
}

/// The committed messages. A mapping's order is its language's own, so headers are compared sorted.
async fn log(database: &Database) -> Vec<Row> {
    support::postgres_log(database).await.into_iter().map(sorted).collect()
}

fn row(id: MessageId, message: &Message) -> Row {
    sorted(Row::of(id, message))
}

fn sorted(mut row: Row) -> Row {
    row.headers.sort();
    row
}

async fn orders(database: &Database) -> i64 {
    let count = "select count(*) from orders";
    database.connect().await.query_one(count, &[]).await.unwrap().get(0)
}

/// Every kind of payload and every field, as the programs take them and as Rust builds them.
fn every_field() -> Vec<(Value, Message)> {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let given = MessageId::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
    let order = json!({ "note": "✓ ü \"", "order": 17 });
    let t = || Message::new("t");
    vec![
        (json!({ "topic": "t", "json": order }), t().json(&order)),
        (json!({ "topic": "t", "json": "text" }), t().json("text")),
        (json!({ "topic": "t", "text": "✓\0\n" }), t().text("✓\0\n")),
        (json!({ "topic": "t" }), t()),
        (
            json!({ "topic": "t", "json": 1, "content_type": "application/cloudevents+json" }),
            t().bytes("application/cloudevents+json", "1"),
        ),
        (
            json!({ "topic": "t", "traceparent": trace, "headers": { "a": "b" } }),
            t().header("a", "b").trace_context(trace, ""),
        ),
        (
            json!({ "topic": "t", "traceparent": trace, "tracestate": "rojo=00f067aa0ba902b7" }),
            t().trace_context(trace, "rojo=00f067aa0ba902b7"),
        ),
        (
            json!({ "topic": "t", "id": given, "key": "k", "correlation_id": "c" }),
            t().id(given).key("k").correlation_id("c"),
        ),
    ]
}

#[tokio::test]
async fn r5_clients_committed_messages_arrive_byte_exact() {
    let hostile = hostile_messages();
    let mut cases: Vec<_> =
        hostile.iter().map(|message| (fields(message), message.clone())).collect();
    cases.extend(every_field());
    let (wire, messages): (Vec<_>, Vec<_>) = cases.into_iter().unzip();
    for driver in Driver::ALL {
        let (database, mut session) = open(driver).await;
        session.begin().await;
        let mut ids = Vec::new();
        for message in &wire {
            ids.push(session.enqueue(message).await.unwrap());
        }
        ids.extend(session.enqueue_many(&wire).await.unwrap());
        session.transaction("commit").await;

        let expected: Vec<_> = ids.iter().zip(messages.iter().chain(&messages)).collect();
        let log = log(&database).await;
        assert_eq!((log.len(), orders(&database).await), (2 * messages.len(), 1));
        for (found, (id, message)) in log.into_iter().zip(expected) {
            assert_eq!(found, row(*id, message));
        }
    }
}

#[tokio::test]
async fn r5_clients_rolled_back_messages_leave_nothing() {
    let message = json!({ "topic": "t", "json": 1 });
    for driver in Driver::ALL {
        let (database, mut session) = open(driver).await;
        session.begin().await;
        session.enqueue(&message).await.unwrap();
        session.enqueue_many(&[message.clone(), message.clone()]).await.unwrap();
        session.transaction("rollback").await;
        assert_eq!((log(&database).await, orders(&database).await), (vec![], 0));
    }
}

#[tokio::test]
async fn r5_clients_bulk_enqueue_keeps_order() {
    // More than two statements carry; the remainder is one message.
    let numbers: Vec<_> = (0..2_001).map(|n: u32| n.to_string()).collect();
    let messages: Vec<_> = numbers.iter().map(|n| json!({ "topic": "t", "text": n })).collect();
    for driver in Driver::ALL {
        let (database, mut session) = open(driver).await;
        session.begin().await;
        let ids = session.enqueue_many(&messages).await.unwrap();
        assert!(session.enqueue_many(&[]).await.unwrap().is_empty());
        session.transaction("commit").await;
        let message = |n: &String| Message::new("t").text(n.as_str());
        let expected: Vec<_> =
            ids.iter().zip(&numbers).map(|(id, n)| row(*id, &message(n))).collect();
        assert_eq!(expected.len(), numbers.len());
        assert_eq!(log(&database).await, expected);
    }
}

#[tokio::test]
async fn r5_clients_write_to_the_schema_and_the_limit_they_are_given() {
    for driver in Driver::ALL {
        let (database, mut session) = open(driver).await;
        let limits = Limits { payload_bytes: 1024 * 1024, ..Limits::DEFAULT };
        let schema = "billing_outbox".parse().unwrap();
        let options = PostgresOptions { schema, limits, ..PostgresOptions::default() };
        let store = PostgresStore::connect(database.url(), &options).unwrap();
        store.migrate().await.unwrap();

        let outbox = json!({
            "do": "outbox", "schema": "billing_outbox", "payload_bytes_max": 1024 * 1024,
        });
        session.ask(&outbox).await.unwrap();
        session.begin().await;
        let large = fields(&Message::new("t").bytes("a/b", vec![1; 1024 * 1024]));
        session.enqueue(&large).await.unwrap();
        session.enqueue_many(&[large.clone(), large]).await.unwrap();
        session.transaction("commit").await;
        let count = "select count(*) from billing_outbox.log where octet_length(payload) = 1048576";
        let found = database.connect().await.query_one(count, &[]).await.unwrap();
        assert_eq!(found.get::<_, i64>(0), 3);
        assert_eq!(log(&database).await, []);
    }
}
