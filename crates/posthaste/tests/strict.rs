//! Strict topics: the log holds the messages of a key in commit order, whatever else their writers
//! lock.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use posthaste::{EnqueueErrorKind, Message, Outbox};
use posthaste_testkit::Database;
use sqlx::{Connection as _, PgConnection};

use crate::{sql_function::refusal, support};

fn message(text: &str) -> Message {
    Message::new("orders.created").key("k").text(text)
}

/// A database in which the topics of `pattern` are strict.
async fn strict(pattern: &str) -> Database {
    let database = support::postgres().await;
    let client = database.connect().await;
    client.execute("select posthaste.set_strict($1)", &[&pattern]).await.unwrap();
    database
}

async fn texts(database: &Database) -> Vec<String> {
    let rows = support::postgres_log(database).await.into_iter();
    rows.map(|row| String::from_utf8(row.payload).unwrap()).collect()
}

#[tokio::test]
async fn writers_that_share_no_lock_reorder_without_lock_keys_and_keep_the_order_with_it() {
    let database = support::postgres().await;
    let outbox = Outbox::default();
    let (first, second) = (database.connect().await, database.connect().await);
    // Without: the one that commits last stands first.
    first.batch_execute("begin").await.unwrap();
    second.batch_execute("begin").await.unwrap();
    outbox.enqueue(&first, &message("commits last")).await.unwrap();
    outbox.enqueue(&second, &message("commits first")).await.unwrap();
    second.batch_execute("commit").await.unwrap();
    first.batch_execute("commit").await.unwrap();
    assert_eq!(texts(&database).await, ["commits last", "commits first"]);

    // With: the second cannot take a position before the first has committed.
    first.batch_execute("begin").await.unwrap();
    second.batch_execute("begin").await.unwrap();
    outbox.lock_keys(&first, &["k"]).await.unwrap();
    let waiting = tokio::spawn(async move {
        let outbox = Outbox::default();
        outbox.lock_keys(&second, &["j", "k"]).await.unwrap();
        outbox.enqueue(&second, &message("second")).await.unwrap();
        second.batch_execute("commit").await.unwrap();
    });
    support::somebody_waits(&database).await;
    outbox.enqueue(&first, &message("first")).await.unwrap();
    first.batch_execute("commit").await.unwrap();
    waiting.await.unwrap();
    assert_eq!(texts(&database).await[2..], ["first", "second"]);
}

#[tokio::test]
async fn locked_writers_stand_in_commit_order_and_never_deadlock() {
    let database = strict("*").await;
    let next = Arc::new(AtomicU32::new(0));
    let mut tasks = Vec::new();
    for writer in 0..6 {
        let (client, next) = (database.connect().await, Arc::clone(&next));
        tasks.push(tokio::spawn(async move {
            // Each names the keys in another order.
            let mut keys = ["k", "a", "b", "c", "d", "e"];
            keys.rotate_left(writer);
            for _ in 0..30 {
                client.batch_execute("begin").await.unwrap();
                Outbox::default().lock_keys(&client, &keys).await.unwrap();
                let n = next.fetch_add(1, Ordering::SeqCst);
                Outbox::default().enqueue(&client, &message(&n.to_string())).await.unwrap();
                client.batch_execute("commit").await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let expected: Vec<String> = (0..180).map(|n: u32| n.to_string()).collect();
    assert_eq!(texts(&database).await, expected);
}

#[tokio::test]
async fn strict_topic_refuses_messages_whose_key_is_not_locked_from_every_writer() {
    let database = strict("orders.*").await;
    let outbox = Outbox::default();
    let client = database.connect().await;
    let mut connection = PgConnection::connect(database.url()).await.unwrap();
    let both = [message("1"), message("2")];
    for error in [
        outbox.enqueue(&client, &message("1")).await.unwrap_err(),
        outbox.enqueue(&client, &message("1").token("t")).await.unwrap_err(),
        outbox.enqueue_many(&client, &both).await.unwrap_err(),
        outbox.enqueue(&mut connection, &message("1")).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), &EnqueueErrorKind::KeyNotLocked);
        assert!(error.to_string().contains("call `lock_keys`"), "{error}");
    }
    for call in [
        "select posthaste.enqueue('orders.created', key => 'k')",
        r#"select posthaste.enqueue_many('[{"topic":"orders.created","key":"k"}]')"#,
        "insert into posthaste.log (id, topic, key, payload, content_type, headers) \
         values (gen_random_uuid(), 'orders.created', 'k', '', 'a/b', '{}')",
    ] {
        let error = client.execute(call, &[]).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "PH001");
        assert!(error.message().contains("call lock_keys for its key"), "{error}");
    }
    assert_eq!(texts(&database).await, [""; 0]);

    // Other topics and messages without a key are free.
    for free in [Message::new("orders.created"), Message::new("order").key("k")] {
        outbox.enqueue(&client, &free).await.unwrap();
        outbox.enqueue(&mut connection, &free).await.unwrap();
    }
    for _ in 0..2 {
        client.batch_execute("begin").await.unwrap();
        outbox.lock_keys(&client, &["j", "k", "j"]).await.unwrap();
        outbox.enqueue_many(&client, &both).await.unwrap();
        outbox.enqueue(&client, &message("3").token("t")).await.unwrap();
        client.batch_execute("commit").await.unwrap();
        // The lock ended with its transaction.
        outbox.enqueue(&client, &message("4")).await.unwrap_err();
    }
    sqlx::raw_sql("begin").execute(&mut connection).await.unwrap();
    outbox.lock_keys(&mut connection, &["k"]).await.unwrap();
    outbox.enqueue(&mut connection, &message("5")).await.unwrap();
    sqlx::raw_sql("commit").execute(&mut connection).await.unwrap();
    assert_eq!(texts(&database).await[4..], ["1", "2", "3", "1", "2", "5"]);
}

#[tokio::test]
async fn lock_of_another_key_of_a_rolled_back_savepoint_or_of_the_same_statement_does_not_count() {
    let database = strict("orders.created").await;
    let outbox = Outbox::default();
    let client = database.connect().await;
    let refused = async || {
        let error = outbox.enqueue(&client, &message("1")).await.unwrap_err();
        assert_eq!(error.kind(), &EnqueueErrorKind::KeyNotLocked);
        client.batch_execute("rollback").await.unwrap();
    };
    client.batch_execute("begin").await.unwrap();
    outbox.lock_keys(&client, &["another"]).await.unwrap();
    refused().await;

    client.batch_execute("begin; savepoint s; select posthaste.lock_keys('{k}')").await.unwrap();
    client.batch_execute("rollback to savepoint s").await.unwrap();
    refused().await;

    // Columns are evaluated in their order: the position is taken before the lock.
    let at_once = "insert into posthaste.log (id, topic, key, payload, content_type, headers) \
         values (gen_random_uuid(), 'orders.created', 'k', \
         convert_to((select posthaste.lock_keys('{k}'))::text, 'UTF8'), 'a/b', '{}')";
    client.batch_execute("begin").await.unwrap();
    let error = client.execute(at_once, &[]).await.unwrap_err();
    assert_eq!(error.as_db_error().unwrap().code().code(), "PH001", "{error:?}");
    client.batch_execute("rollback").await.unwrap();
    // An earlier statement in one message of the client's, or in a block, is one.
    let block = "do $$ begin perform posthaste.lock_keys('{k}'); \
                 perform posthaste.enqueue('orders.created', '1', key => 'k'); end $$";
    client.batch_execute(block).await.unwrap();
    assert_eq!(texts(&database).await, ["1"]);
}

#[tokio::test]
async fn a_transaction_locks_1000_keys_at_most() {
    let database = strict("*").await;
    let client = database.connect().await;
    let keys: Vec<String> = (0..1_001).map(|n| n.to_string()).collect();
    let call = "select posthaste.lock_keys($1)";
    client.batch_execute("begin").await.unwrap();
    client.execute(call, &[&&keys[..600]]).await.unwrap();
    client.execute(call, &[&&keys[..1_000]]).await.unwrap();
    let last = Message::new("t").key("999");
    Outbox::default().enqueue(&client, &last).await.unwrap();
    let text = "message refused: keys must be at most 1000 in one transaction, not \"1001\"";
    assert_eq!(refusal(&client, call, &[&&keys[1_000..]]).await, text);
    client.batch_execute("rollback").await.unwrap();
    assert_eq!(refusal(&client, call, &[&keys]).await, text);
}

#[tokio::test]
async fn strictness_is_switched_by_pattern_and_off_again() {
    let database = strict("orders.*").await;
    let client = database.connect().await;
    let outbox = Outbox::default();
    client.execute("select posthaste.set_strict('orders.*')", &[]).await.unwrap();
    client.execute("select posthaste.set_strict('orders.created')", &[]).await.unwrap();
    client.execute("select posthaste.set_strict('orders.*', false)", &[]).await.unwrap();
    outbox.enqueue(&client, &Message::new("orders.paid").key("k").text("paid")).await.unwrap();
    outbox.enqueue(&client, &message("1")).await.unwrap_err();
    client.execute("select posthaste.set_strict('orders.created', false)", &[]).await.unwrap();
    outbox.enqueue(&client, &message("2")).await.unwrap();
    let triggers = "select count(*) from pg_trigger where tgrelid = 'posthaste.log'::regclass";
    assert_eq!(client.query_one(triggers, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert_eq!(texts(&database).await, ["paid", "2"]);
    for bad in ["", "a*b", "a b", "**", "'"] {
        let text = refusal(&client, "select posthaste.set_strict($1)", &[&bad]).await;
        assert!(text.contains("pattern must be a topic, a prefix followed by one *"), "{text}");
    }
}
