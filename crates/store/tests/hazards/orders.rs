//! What writers can and cannot do to positions and xids: ORDERED, COMPLETE.

use posthaste_core::Place;
use posthaste_store::Store;
use posthaste_testkit::eventually_async;
use tokio_postgres::error::SqlState;

use super::database::{LIMIT, Log, enqueue, read, tick};

const ENTITY: &str = "create table entity (k text primary key, n int); \
                      insert into entity values ('x', 0)";
const LOCK: &str = "update entity set n = n + 1 where k = 'x'";

/// Defence: the writer's earlier statement locks the entity, and `cache 1` on the sequence (with a
/// larger cache the first session would enqueue below the second one's position).
#[tokio::test]
async fn position_order_follows_commit_order_for_a_locked_key() {
    let log = Log::shared().await;
    let (mut first, mut second) = (log.writer().await, log.writer().await);
    first.batch_execute(ENTITY).await.unwrap();
    let mut expected = Vec::new();
    for round in 0..3 {
        let holder = first.transaction().await.unwrap();
        holder.batch_execute(LOCK).await.unwrap();
        let waiter = async {
            let waiter = second.transaction().await.unwrap();
            waiter.batch_execute(LOCK).await.unwrap();
            enqueue(&waiter, &format!("{round} second")).await;
            waiter.commit().await.unwrap();
        };
        let hold = async {
            let waits = "select exists (select from pg_stat_activity where wait_event_type = \
                         'Lock' and datname = current_database())";
            eventually_async("the second writer waits", LIMIT, async || log.ask(waits).await).await;
            enqueue(&holder, &format!("{round} first")).await;
            holder.commit().await.unwrap();
        };
        tokio::join!(waiter, hold);
        expected.extend([format!("{round} first"), format!("{round} second")]);
    }
    tick(log.store.ticker().as_mut()).await;
    assert_eq!(read(&log.store, &mut Place::beginning()).await, expected);
}

/// Defence: `cache 1`.
#[tokio::test]
async fn sequence_cache_is_one() {
    let log = Log::shared().await;
    let (one, other) = (log.writer().await, log.writer().await);
    let mut positions = Vec::new();
    for writer in [&one, &other, &one, &other] {
        positions.push(enqueue(writer, "message").await);
    }
    assert_eq!(positions, [1, 2, 3, 4]);
    let cache = "select count(*) from pg_sequences where schemaname = 'posthaste' \
                 and cache_size <> 1";
    assert_eq!(log.ask::<i64>(cache).await, 0);
}

/// Defence: the column `xid` stands before `position`. Defaults are evaluated in column order, so
/// no position is handed out to a transaction without an xid; the look rule rests on it.
#[tokio::test]
async fn no_position_is_handed_out_before_an_xid() {
    let log = Log::shared().await;
    let writer = log.writer().await;
    // Stands in for the sequence and fails where the transaction has no xid yet.
    writer
        .batch_execute(
            "create function watched() returns bigint language plpgsql as $$ begin \
             if pg_current_xact_id_if_assigned() is null then raise 'no xid yet'; end if; \
             return nextval('posthaste.log_position_seq'); end $$; \
             alter table posthaste.log alter position set default watched()",
        )
        .await
        .unwrap();
    assert_eq!(enqueue(&writer, "message").await, 1);
}

/// Defence: writers are granted the payload columns only. A forged xid would be in no window.
#[tokio::test]
async fn forged_xid_is_refused() {
    let log = Log::shared().await;
    let owner = log.writer().await;
    let insert = |columns: &str, values: &str| {
        format!(
            "insert into posthaste.log (id, topic, payload, content_type, headers{columns}) \
             values (gen_random_uuid(), 't', 'x', 'a/b', '{{}}'{values})"
        )
    };
    let mut place = Place::beginning();
    enqueue(&owner, "first").await;
    tick(log.store.ticker().as_mut()).await;
    assert_eq!(read(&log.store, &mut place).await, ["first"]);
    // What the grant keeps out: committed, and in no window.
    owner.batch_execute(&insert(", xid", ", '1'")).await.unwrap();
    tick(log.store.ticker().as_mut()).await;
    assert!(read(&log.store, &mut place).await.is_empty());

    let (role, writer) = (format!("w_{}", log.database.name()), log.writer().await);
    let grants = format!(
        "create role {role}; grant usage on schema posthaste to {role}; \
         grant insert (id, topic, key, payload, content_type, headers, correlation_id) \
         on posthaste.log to {role}; grant usage on sequence posthaste.log_position_seq to {role}"
    );
    owner.batch_execute(&grants).await.unwrap();
    writer.batch_execute(&format!("set session authorization {role}")).await.unwrap();
    for (columns, values) in [(", xid", ", '1'"), (", position", ", 7")] {
        let error = writer.batch_execute(&insert(columns, values)).await.unwrap_err();
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{columns}");
    }
    writer.batch_execute(&insert("", "")).await.unwrap();
    tick(log.store.ticker().as_mut()).await;
    assert_eq!(read(&log.store, &mut place).await, ["x"]);
}
