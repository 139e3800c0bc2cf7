//! What only some of the drivers can be asked: about connections outside a transaction, and about
//! ways of theirs to be inside one.

use std::slice;

use posthaste::Message;
use serde_json::json;

use super::{
    log, open, orders, row,
    session::{Driver, fields},
};

#[tokio::test]
async fn r5_clients_refuse_a_connection_outside_a_transaction() {
    let message = json!({ "topic": "t" });
    // In Go such a call does not compile.
    for driver in Driver::ALL.into_iter().filter(|driver| !driver.is_go()) {
        let (database, mut session) = open(driver).await;
        let failure = session.enqueue(&message).await.unwrap_err();
        assert_eq!(failure.kind, "no_transaction", "{failure:?}");
        let failure = session.enqueue_many(slice::from_ref(&message)).await.unwrap_err();
        assert_eq!(failure.kind, "no_transaction", "{failure:?}");
        // Not the message's fault, so this comes first.
        let failure = session.enqueue(&json!({ "topic": "" })).await.unwrap_err();
        assert_eq!(failure.kind, "no_transaction", "{failure:?}");
        assert_eq!(log(&database).await, []);

        session.transaction("begin").await;
        session.enqueue(&message).await.unwrap();
        session.transaction("commit").await;
        let failure = session.enqueue(&message).await.unwrap_err();
        assert_eq!(failure.kind, "no_transaction", "{failure:?}");
        assert_eq!(log(&database).await.len(), 1);
    }
}

#[tokio::test]
async fn r5_clients_node_refuses_a_pool() {
    let (database, mut session) = open(Driver::NodePostgres).await;
    let command = json!({ "do": "enqueue_through_pool", "message": { "topic": "t" } });
    let failure = session.ask(&command).await.unwrap_err();
    assert_eq!(failure.kind, "no_transaction", "{failure:?}");
    assert!(failure.text.contains("pool.connect()"), "{failure:?}");
    assert_eq!(log(&database).await, []);
}

#[tokio::test]
async fn r5_clients_node_enqueues_behind_a_begin_that_nobody_waited_for() {
    let (database, mut session) = open(Driver::NodePostgres).await;
    let message = Message::new("t");
    let command = json!({ "do": "enqueue_behind_begin", "message": fields(&message) });
    let ids = session.ask(&command).await.unwrap();
    assert_eq!(log(&database).await, []);
    session.transaction("commit").await;
    assert_eq!(log(&database).await, [row(ids[0], &message)]);
}

#[tokio::test]
async fn r5_clients_psycopg_refusal_aborts_a_transaction_not_yet_begun() {
    for driver in Driver::PSYCOPG {
        let (database, mut session) = open(driver).await;
        session.ask(&json!({ "do": "leave_autocommit" })).await.unwrap();
        let failure = session.enqueue(&json!({ "topic": "" })).await.unwrap_err();
        assert!(failure.kind == "invalid_message" && failure.aborted, "{failure:?}");
        let failure = session.execute("insert into orders (id) values (17)").await.unwrap_err();
        assert_eq!(failure.sqlstate, "25P02");
        session.transaction("commit").await;
        assert_eq!(orders(&database).await, 0);

        let message = Message::new("t");
        let id = session.enqueue(&fields(&message)).await.unwrap();
        session.transaction("commit").await;
        assert_eq!(log(&database).await, [row(id, &message)]);
    }
}

#[tokio::test]
async fn r5_clients_psycopg_enqueues_and_refuses_in_a_pipeline() {
    for driver in Driver::PSYCOPG {
        let (database, mut session) = open(driver).await;
        let message = Message::new("t").text("1");
        let command = |message| json!({ "do": "enqueue_in_a_pipeline", "message": message });
        let ids = session.ask(&command(fields(&message))).await.unwrap();
        let failure = session.ask(&command(json!({ "topic": "" }))).await.unwrap_err();
        assert!(failure.kind == "invalid_message" && failure.aborted, "{failure:?}");
        assert_eq!(log(&database).await, [row(ids[0], &message)]);
        assert_eq!(orders(&database).await, 1);
    }
}

#[tokio::test]
async fn r5_clients_go_cancelled_enqueue_aborts_the_transaction() {
    for driver in Driver::GO {
        let (database, mut session) = open(driver).await;
        session.begin().await;
        let message = json!({ "topic": "t" });
        let command = json!({ "do": "enqueue_with_cancelled_context", "message": message });
        assert_eq!(session.ask(&command).await.unwrap_err().kind, "cancelled");
        let failure = session.execute("select 1").await.unwrap_err();
        assert_eq!(failure.sqlstate, "25P02", "{failure:?}");
        session.transaction("commit").await;
        assert_eq!((log(&database).await, orders(&database).await), (vec![], 0));
    }
}
