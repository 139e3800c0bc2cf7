//! What a role needs to enqueue, and what it cannot forge with that.

use posthaste::{EnqueueErrorKind, Message, Outbox};
use posthaste_testkit::Database;
use tokio_postgres::{Client, error::SqlState};

use crate::support;

/// The payload columns only: `xid`, `position` and the time come from their defaults. The SQL
/// functions also read the payload limit.
const GRANTS: &str = "grant usage on schema posthaste to {role}; \
     grant insert (id, topic, key, payload, content_type, headers, correlation_id) \
     on posthaste.log to {role}; \
     grant usage on sequence posthaste.log_position_seq to {role}; \
     grant select on posthaste.meta to {role}; \
     grant select, insert (token, message_id) on posthaste.token to {role}; \
     grant insert (id, topic, key, payload, content_type, headers, correlation_id, deliver_at), \
     select (id), delete on posthaste.scheduled to {role}";

/// A connection as a role of this database's own. Roles are the server's, so each has its name
/// from the database.
async fn as_role(database: &Database, grants: &str) -> Client {
    let client = database.connect().await;
    let role = format!("writer_{}", database.name());
    client.batch_execute(&format!("create role {role}")).await.unwrap();
    client.batch_execute(&grants.replace("{role}", &role)).await.unwrap();
    client.batch_execute(&format!("set session authorization {role}")).await.unwrap();
    client
}

#[tokio::test]
async fn forged_xid_is_refused_for_a_writer_role() {
    let database = support::postgres().await;
    let writer = as_role(&database, GRANTS).await;
    for forged in ["xid", "position", "enqueued_at"] {
        let value = if forged == "enqueued_at" { "now()" } else { "'3'" };
        let statement = format!(
            "insert into posthaste.log ({forged}, id, topic, payload, content_type, headers) \
             values ({value}, gen_random_uuid(), 't', '', 'a/b', '{{}}')"
        );
        let error = writer.execute(&statement, &[]).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{forged}");
    }
    for statement in ["update posthaste.log set topic = 'u'", "delete from posthaste.log"] {
        let error = writer.execute(statement, &[]).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{statement}");
    }
    assert_eq!(support::postgres_log(&database).await, []);
}

#[tokio::test]
async fn writer_role_can_enqueue_by_every_way() {
    let database = support::postgres().await;
    let writer = as_role(&database, GRANTS).await;
    let (outbox, message) = (Outbox::default(), Message::new("orders.created"));
    outbox.enqueue(&writer, &message).await.unwrap();
    outbox.enqueue_many(&writer, &[message.clone(), message.clone()]).await.unwrap();
    outbox.enqueue(&writer, &message.clone().token("b")).await.unwrap();
    let due = posthaste::Timestamp(4_000_000_000_000_000);
    let id = outbox.enqueue(&writer, &message.deliver_at(due)).await.unwrap();
    assert!(outbox.cancel(&writer, id).await.unwrap());
    let owner = database.connect().await;
    owner.execute("select posthaste.set_strict('strict')", &[]).await.unwrap();
    writer.batch_execute("begin").await.unwrap();
    outbox.lock_keys(&writer, &["k"]).await.unwrap();
    outbox.enqueue(&writer, &Message::new("strict").key("k")).await.unwrap();
    writer.batch_execute("commit").await.unwrap();
    for call in [
        r#"select posthaste.enqueue('t', '1', headers => '{"a":"b"}')"#,
        "select posthaste.enqueue_bytes('t', 'x')",
        "select posthaste.enqueue('t', token => 'a')",
        "select posthaste.enqueue('t', token => 'a')",
        r#"select posthaste.enqueue_many('[{"topic":"t"}]')"#,
    ] {
        writer.execute(call, &[]).await.unwrap();
    }
    assert_eq!(support::postgres_log(&database).await.len(), 9);
}

#[tokio::test]
async fn r1_role_without_privileges_is_told_and_its_transaction_aborted() {
    let database = support::postgres().await;
    let mut client = as_role(&database, "grant usage on schema posthaste to {role}").await;
    let transaction = client.transaction().await.unwrap();
    let error = Outbox::default().enqueue(&transaction, &Message::new("t")).await.unwrap_err();
    assert_eq!(error.kind(), &EnqueueErrorKind::Privilege);
    let error = transaction.query("select 1", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    let error = Outbox::default().enqueue(&transaction, &Message::new("t")).await.unwrap_err();
    assert_eq!(error.kind(), &EnqueueErrorKind::AlreadyAborted);
}
