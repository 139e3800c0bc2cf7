//! What an enqueue may ask for beyond a row of the log, by every driver: once, later, with its key
//! locked.

use posthaste::{Message, MessageId, Timestamp};
use posthaste_testkit::Database;
use serde_json::json;

use super::{
    log, open, row,
    session::{Driver, fields},
};

/// In the year 2096, to the millisecond.
const LATER: Timestamp = Timestamp(4_000_000_000_500_000);

/// The scheduled messages: id, topic and time.
async fn scheduled(database: &Database) -> Vec<(MessageId, String, i64)> {
    let sql = "select id, topic, (extract(epoch from deliver_at) * 1000000)::int8 \
               from posthaste.scheduled order by n";
    let rows = database.connect().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

#[tokio::test]
async fn r4_clients_messages_with_one_token_are_written_once() {
    let first = Message::new("t").text("first").token("request-17");
    let again = Message::new("t").text("again").token("request-17");
    for driver in Driver::ALL {
        let (database, mut session) = open(driver).await;
        session.transaction("begin").await;
        let id = session.enqueue(&fields(&first)).await.unwrap();
        session.transaction("commit").await;
        session.transaction("begin").await;
        assert_eq!(session.enqueue(&fields(&again)).await.unwrap(), id);
        let other = Message::new("t").text("other").token("ö-18");
        let many = [fields(&again), fields(&other), fields(&again)];
        let ids = session.enqueue_many(&many).await.unwrap();
        assert_eq!((ids[0], ids[2]), (id, id));
        session.transaction("commit").await;
        assert_eq!(log(&database).await, [row(id, &first), row(ids[1], &other)]);
    }
}

#[tokio::test]
async fn clients_scheduled_messages_wait_and_are_cancelled_with_their_transaction() {
    let message = Message::new("later").key("k").text("1").deliver_at(LATER);
    for driver in Driver::ALL {
        let (database, mut session) = open(driver).await;
        session.transaction("begin").await;
        let one = session.enqueue(&fields(&message)).await.unwrap();
        let two = session.enqueue_many(&[fields(&message)]).await.unwrap()[0];
        session.transaction("commit").await;
        let expected = [one, two].map(|id| (id, "later".to_owned(), LATER.0));
        assert_eq!(scheduled(&database).await, expected);
        assert_eq!(log(&database).await, []);

        session.transaction("begin").await;
        assert_eq!(session.cancel(one).await, Ok(true));
        assert_eq!(session.cancel(one).await, Ok(false));
        session.transaction("rollback").await;
        session.transaction("begin").await;
        assert_eq!(session.cancel(two).await, Ok(true));
        session.transaction("commit").await;
        assert_eq!(scheduled(&database).await, expected[..1]);
    }
}

#[tokio::test]
async fn clients_locked_keys_let_messages_of_strict_topics_pass() {
    let message = fields(&Message::new("strict").key("k \"{},").text("1"));
    for driver in Driver::ALL {
        let (database, mut session) = open(driver).await;
        let client = database.connect().await;
        client.batch_execute("select posthaste.set_strict('strict')").await.unwrap();
        session.transaction("begin").await;
        let failure = session.enqueue(&message).await.unwrap_err();
        assert_eq!(failure.sqlstate, "PH001", "{failure:?}");
        session.transaction("rollback").await;

        session.transaction("begin").await;
        session.lock_keys(&[]).await.unwrap();
        session.lock_keys(&["other", "k \"{},"]).await.unwrap();
        session.enqueue(&message).await.unwrap();
        session.transaction("commit").await;
        assert_eq!(log(&database).await.len(), 1);
    }
}

#[tokio::test]
async fn clients_calls_that_fail_abort_the_transaction() {
    let keys: Vec<String> = (0..1_001).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    for driver in Driver::ALL {
        let (database, mut session) = open(driver).await;
        session.begin().await;
        let failure = session.lock_keys(&keys).await.unwrap_err();
        assert_eq!((failure.kind.as_str(), failure.sqlstate.as_str()), ("database", "22023"));
        let failure = session.execute("select 1").await.unwrap_err();
        assert_eq!(failure.sqlstate, "25P02", "{failure:?}");
        session.transaction("commit").await;

        session.ask(&json!({ "do": "outbox", "schema": "elsewhere" })).await.unwrap();
        session.begin().await;
        let failure = session.cancel(MessageId::nil()).await.unwrap_err();
        assert_eq!(failure.sqlstate, "3F000", "{failure:?}");
        session.transaction("commit").await;
        assert_eq!(super::orders(&database).await, 0);
    }
}

#[tokio::test]
async fn clients_cancel_and_lock_nothing_outside_a_transaction() {
    // In Go such a call does not compile.
    for driver in Driver::ALL.into_iter().filter(|driver| !driver.is_go()) {
        let (_database, mut session) = open(driver).await;
        assert_eq!(session.cancel(MessageId::nil()).await.unwrap_err().kind, "no_transaction");
        assert_eq!(session.lock_keys(&["k"]).await.unwrap_err().kind, "no_transaction");
    }
}
