//! Idempotency tokens where transactions race, and through the SQL functions.

use posthaste::{EnqueueErrorKind, Message, MessageId, Outbox};
use posthaste_testkit::Database;
use tokio_postgres::Client;

use crate::support;

fn message(text: &str) -> Message {
    Message::new("orders.created").text(text).token("request-17")
}

/// A first transaction that has enqueued and not ended, and a second that waits for it.
struct Race {
    database: Database,
    first: Client,
    first_id: MessageId,
    second: tokio::task::JoinHandle<MessageId>,
}

impl Race {
    async fn begin() -> Self {
        let database = support::postgres().await;
        let (first, second) = (database.connect().await, database.connect().await);
        first.batch_execute("begin").await.unwrap();
        let first_id = Outbox::default().enqueue(&first, &message("first")).await.unwrap();
        let second = tokio::spawn(async move {
            Outbox::default().enqueue(&second, &message("second")).await.unwrap()
        });
        support::somebody_waits(&database).await;
        Self { database, first, first_id, second }
    }

    async fn payloads(&self) -> Vec<Vec<u8>> {
        support::postgres_log(&self.database).await.into_iter().map(|row| row.payload).collect()
    }
}

#[tokio::test]
async fn r4_second_of_two_racing_transactions_answers_the_id_that_the_first_committed() {
    let mut race = Race::begin().await;
    race.first.batch_execute("commit").await.unwrap();
    assert_eq!((&mut race.second).await.unwrap(), race.first_id);
    assert_eq!(race.payloads().await, [b"first"]);
}

#[tokio::test]
async fn r4_second_of_two_racing_transactions_writes_when_the_first_rolls_back() {
    let mut race = Race::begin().await;
    race.first.batch_execute("rollback").await.unwrap();
    assert_ne!((&mut race.second).await.unwrap(), race.first_id);
    assert_eq!(race.payloads().await, [b"second"]);
}

#[tokio::test]
async fn r4_token_outside_the_snapshot_is_a_conflict_above_read_committed() {
    let database = support::postgres().await;
    let (first, second) = (database.connect().await, database.connect().await);
    second.batch_execute("begin isolation level repeatable read; select 1").await.unwrap();
    let id = Outbox::default().enqueue(&first, &message("first")).await.unwrap();
    let error = Outbox::default().enqueue(&second, &message("second")).await.unwrap_err();
    assert_eq!(error.kind(), &EnqueueErrorKind::Conflict);
    second.batch_execute("rollback").await.unwrap();
    assert_eq!(Outbox::default().enqueue(&second, &message("again")).await.unwrap(), id);
}

#[tokio::test]
async fn r4_many_connections_with_one_token_write_one_message() {
    let database = support::postgres().await;
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let client = database.connect().await;
        tasks.push(tokio::spawn(async move {
            let mut ids = Vec::new();
            for n in 0..50 {
                let message = Message::new("t").token(format!("token-{n}"));
                ids.push(Outbox::default().enqueue(&client, &message).await.unwrap());
            }
            ids
        }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    assert!(answers.iter().all(|ids| ids == &answers[0]));
    let mut written: Vec<_> =
        support::postgres_log(&database).await.into_iter().map(|row| row.id).collect();
    let mut expected = answers[0].clone();
    written.sort_unstable();
    expected.sort_unstable();
    assert_eq!(written, expected);
}

#[tokio::test]
async fn r4_sql_functions_take_a_token() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let call = async |sql: &str| -> Vec<MessageId> {
        client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let id = call("select posthaste.enqueue('t', '1', token => 'a')").await;
    assert_eq!(call("select posthaste.enqueue('u', '2', token => 'a')").await, id);
    assert_eq!(call("select posthaste.enqueue_bytes('u', 'x', token => 'a')").await, id);
    let many = r#"select posthaste.enqueue_many(
        '[{"topic":"t"},{"topic":"t","token":"a"},{"topic":"t","token":"b"},
          {"topic":"t","token":"b","payload_base64":""},{"topic":"t","token":null}]')"#;
    let ids = call(many).await;
    assert_eq!((ids[1], ids[2]), (id[0], ids[3]));
    let log: Vec<_> =
        support::postgres_log(&database).await.into_iter().map(|row| row.id).collect();
    assert_eq!(log, [id[0], ids[0], ids[2], ids[4]]);
}

#[tokio::test]
async fn r3_invalid_tokens_are_refused_by_the_sql_function_with_the_texts_of_the_adapters() {
    let database = support::postgres().await;
    let client = database.connect().await;
    for token in ["", "a\nb", "a\u{85}", &"ö".repeat(129)] {
        let text = posthaste::Limits::DEFAULT
            .check(&Message::new("t").token(token))
            .unwrap_err()
            .to_string();
        let call = "select posthaste.enqueue('t', token => $1)";
        assert_eq!(crate::sql_function::refusal(&client, call, &[&token]).await, text);
    }
    assert_eq!(support::postgres_log(&database).await, []);
}
