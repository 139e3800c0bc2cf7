//! What the libraries refuse, with which text, and what becomes of the transaction.

use posthaste::{Limits, Message, SchemaName, Timestamp};
use serde_json::{Value, json};

use super::{
    log, open, orders, row,
    session::{Driver, Failure, Session, fields},
};

const REFUSED_TOPIC: &str = "orders created";

/// A message that every library can build and none may send.
fn refused() -> Value {
    json!({ "topic": REFUSED_TOPIC })
}

fn good() -> Message {
    Message::new("t").text("good")
}

/// What the Rust side says of `message`.
fn says(message: &Message) -> Failure {
    let invalid = Limits::DEFAULT.check(message).unwrap_err();
    Failure {
        kind: "invalid_message".into(),
        text: invalid.to_string(),
        field: invalid.field.into(),
        limit: invalid.limit,
        value: invalid.value,
        aborted: true,
        ..Failure::default()
    }
}

async fn assert_aborted(session: &mut Session) {
    let failure = session.execute("select 1").await.unwrap_err();
    assert_eq!(failure.sqlstate, "25P02", "in_failed_sql_transaction: {failure:?}");
}

/// Commits as an application does that ignores errors; the transaction must not be able to.
async fn commit_in_vain(session: &mut Session) {
    assert_aborted(session).await;
    session.transaction("commit").await;
}

/// Messages that break one limit each. In Go an empty text is one that is absent.
fn invalid_messages(driver: Driver) -> Vec<Message> {
    let topics =
        ["", "orders created", ".orders", "ö", "a\nb", "a\n", "\"q\" \\ \t\r\u{1}\u{85}\0"];
    let mut messages: Vec<_> = topics.into_iter().map(Message::new).collect();
    let many = (0..65).fold(good(), |message, n| message.header(format!("h{n}"), "v"));
    messages.extend([
        Message::new("t".repeat(256)),
        good().key("a\nb"),
        good().key("a\0"),
        good().key("a\u{7f}"),
        good().key("a\u{85}"),
        good().key("ö".repeat(257)),
        good().bytes("x\ny", vec![]),
        good().bytes("ö/b", vec![]),
        good().bytes("x".repeat(129), vec![]),
        good().correlation_id("a\u{1b}b"),
        good().correlation_id("c".repeat(257)),
        good().token("a\nb"),
        good().token("ö".repeat(129)),
        good().deliver_at(Timestamp(-1_000)),
        good().header("", "v"),
        good().header("a b", "v"),
        good().header("a\n", "v"),
        good().header("é", "v"),
        good().header("n".repeat(129), "v"),
        good().header("a", "v\0"),
        good().header("a", "ö".repeat(8 * 1024)),
        many,
        good().bytes("a/b", vec![0; 256 * 1024 + 1]),
    ]);
    if !driver.is_go() {
        messages.extend([good().key(""), good().bytes("", vec![]), good().correlation_id("")]);
        messages.push(good().token(""));
    }
    // Python has no such time.
    if !Driver::PSYCOPG.contains(&driver) {
        messages.push(good().deliver_at(Timestamp(253_402_300_800_000_000)));
    }
    messages
}

#[tokio::test]
async fn r5_clients_refuse_with_the_texts_of_the_rust_side() {
    for driver in Driver::ALL {
        let (database, mut session) = open(driver).await;
        let mut cases: Vec<_> = invalid_messages(driver)
            .iter()
            .map(|message| (fields(message), says(message)))
            .collect();
        let twice = json!({ "topic": "t", "headers": { "traceparent": "a" }, "traceparent": "b" });
        cases.push((twice, says(&good().header("traceparent", "a").trace_context("b", ""))));
        for (wire, expected) in cases {
            session.transaction("begin").await;
            assert_eq!(session.enqueue(&wire).await.unwrap_err(), expected);
            session.transaction("rollback").await;
        }
        assert_eq!(log(&database).await, []);
    }
}

#[tokio::test]
async fn r5_clients_refused_message_aborts_the_transaction() {
    let (invalid, good) = (Message::new(REFUSED_TOPIC), fields(&good()));
    for driver in Driver::ALL {
        let (database, mut session) = open(driver).await;
        session.begin().await;
        session.enqueue(&good).await.unwrap();
        assert_eq!(session.enqueue(&refused()).await.unwrap_err(), says(&invalid));
        commit_in_vain(&mut session).await;

        session.begin().await;
        let failure = session.enqueue_many(&[good.clone(), refused()]).await.unwrap_err();
        let text = format!("messages[1]: {}", says(&invalid).text);
        assert_eq!(failure, Failure { index: Some(1), text, ..says(&invalid) });
        commit_in_vain(&mut session).await;
        assert_eq!((log(&database).await, orders(&database).await), (vec![], 0));
    }
}

#[tokio::test]
async fn r5_clients_savepoint_rolled_back_after_a_refusal_lets_the_rest_commit() {
    for driver in Driver::ALL {
        let (database, mut session) = open(driver).await;
        session.begin().await;
        session.execute("savepoint attempt").await.unwrap();
        session.enqueue(&fields(&good())).await.unwrap();
        session.enqueue(&refused()).await.unwrap_err();
        assert_aborted(&mut session).await;
        session.execute("rollback to savepoint attempt").await.unwrap();
        let id = session.enqueue(&fields(&good())).await.unwrap();
        session.transaction("commit").await;
        assert_eq!(log(&database).await, [row(id, &good())]);
        assert_eq!(orders(&database).await, 1);
    }
}

#[tokio::test]
async fn r5_clients_pass_on_what_the_database_refuses() {
    // Larger than the database's own limit, in an outbox that lets it pass.
    let large = Message::new("t").bytes("a/b", vec![0; 256 * 1024 + 1]);
    for driver in Driver::ALL {
        let (database, mut session) = open(driver).await;
        session.ask(&json!({ "do": "outbox", "payload_bytes_max": 1024 * 1024 })).await.unwrap();
        session.begin().await;
        let failure = session.enqueue(&fields(&large)).await.unwrap_err();
        assert_eq!((failure.kind.as_str(), failure.sqlstate.as_str()), ("database", "22023"));
        assert!(failure.text.contains(&says(&large).text), "{failure:?}");
        commit_in_vain(&mut session).await;

        session.begin().await;
        let many = [fields(&good()), fields(&large)];
        let failure = session.enqueue_many(&many).await.unwrap_err();
        assert_eq!(failure.sqlstate, "22023", "{failure:?}");
        commit_in_vain(&mut session).await;
        assert_eq!((log(&database).await, orders(&database).await), (vec![], 0));
    }
}

#[tokio::test]
async fn r5_clients_refuse_a_payload_above_the_limit_they_are_given() {
    for driver in Driver::ALL {
        let (_database, mut session) = open(driver).await;
        session.ask(&json!({ "do": "outbox", "payload_bytes_max": 3 })).await.unwrap();
        session.begin().await;
        let failure = session.enqueue(&fields(&good())).await.unwrap_err();
        let text = "message refused: payload must be at most 3 bytes, not \"4 bytes\"";
        assert_eq!((failure.kind.as_str(), failure.text.as_str()), ("invalid_message", text));
    }
}

#[tokio::test]
async fn r5_clients_refuse_a_schema_name_that_needs_quoting() {
    let long = "a".repeat(41);
    let names =
        ["2a", "Outbox", "a-b", "a\".b", "a b", "a\n", "pg_x", "ö", "x;drop table orders", &long];
    for driver in Driver::ALL {
        let (_database, mut session) = open(driver).await;
        for name in names {
            let failure =
                session.ask(&json!({ "do": "outbox", "schema": name })).await.unwrap_err();
            let text = name.parse::<SchemaName>().unwrap_err().to_string();
            assert_eq!((failure.kind.as_str(), failure.text), ("invalid_schema_name", text));
        }
        let longest = "a".repeat(40);
        session.ask(&json!({ "do": "outbox", "schema": longest })).await.unwrap();
    }
}

#[tokio::test]
async fn r5_clients_missing_schema_aborts_the_transaction() {
    for driver in Driver::ALL {
        let (database, mut session) = open(driver).await;
        session.ask(&json!({ "do": "outbox", "schema": "elsewhere" })).await.unwrap();
        session.begin().await;
        let failure = session.enqueue(&fields(&good())).await.unwrap_err();
        assert_eq!(failure.sqlstate, "3F000", "invalid_schema_name: {failure:?}");
        commit_in_vain(&mut session).await;

        session.begin().await;
        let failure = session.enqueue(&refused()).await.unwrap_err();
        assert_eq!(failure, says(&Message::new(REFUSED_TOPIC)));
        commit_in_vain(&mut session).await;
        assert_eq!(orders(&database).await, 0);
    }
}

#[tokio::test]
async fn r5_clients_say_when_the_transaction_could_not_be_aborted() {
    let answering = "create or replace function posthaste.refuse(reason text) returns void \
                     language sql as ''";
    for driver in Driver::ALL {
        let (database, mut session) = open(driver).await;
        database.connect().await.batch_execute(answering).await.unwrap();
        session.begin().await;
        let failure = session.enqueue(&refused()).await.unwrap_err();
        let expected = says(&Message::new(REFUSED_TOPIC));
        let warning = "; the transaction can still commit without the message: roll it back";
        let text = format!("{}{warning}", expected.text);
        assert_eq!(failure, Failure { text, aborted: false, ..expected });
    }
}
