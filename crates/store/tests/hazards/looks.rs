//! When a look must tick, and who may take `cur`: COMPLETE.

use std::time::Duration;

use posthaste_core::Place;
use posthaste_store::{
    Store, StoreErrorKind,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::{Postgres, eventually_async};
use tokio::time::sleep;

use super::database::{LIMIT, Log, enqueue, quiet_server, read, tick};

/// Defence: `LookRule` takes an xid X when the sequence first stands still, and ticks on every
/// changed snapshot until `xmin` has passed X.
#[tokio::test]
async fn open_writer_that_is_not_in_xip_is_found() {
    let postgres = quiet_server(&[]);
    let log = Log::on(&postgres, &PostgresOptions::default()).await;
    let mut ticker = log.store.ticker();
    tick(ticker.as_mut()).await;
    let mut writer = log.writer().await;
    let transaction = writer.transaction().await.unwrap();
    enqueue(&transaction, "late").await;
    // The hazard is there: the writer's xid is the next one, which no snapshot lists.
    let is_listed = "select pg_snapshot_xmin(pg_current_snapshot()) \
                     <> pg_snapshot_xmax(pg_current_snapshot())";
    assert!(!log.ask::<bool>(is_listed).await, "the writer is listed in xip");
    for _ in 0..20 {
        assert!(ticker.advance().await.unwrap().window.is_none());
    }
    sleep(Duration::from_millis(300)).await;
    transaction.commit().await.unwrap();
    tick(ticker.as_mut()).await;
    assert_eq!(read(&log.store, &mut Place::beginning()).await, ["late"]);
}

/// Defence: a look reads `is_called` beside `last_value`.
#[tokio::test]
async fn first_message_of_a_fresh_sequence_is_seen() {
    let postgres = quiet_server(&[]);
    let log = Log::on(&postgres, &PostgresOptions::default()).await;
    let mut ticker = log.store.ticker();
    tick(ticker.as_mut()).await;
    let last_value = "select last_value from posthaste.log_position_seq";
    let before: i64 = log.ask(last_value).await;
    enqueue(&log.writer().await, "first").await;
    assert_eq!(log.ask::<i64>(last_value).await, before, "only is_called has changed");
    tick(ticker.as_mut()).await;
    assert_eq!(read(&log.store, &mut Place::beginning()).await, ["first"]);
}

/// Shows why `cur` must be taken by a statement that holds no xid: a snapshot never lists its own
/// transaction, so a message enqueued by it afterwards would be in no window.
#[tokio::test]
async fn cur_taken_by_a_transaction_with_an_xid_would_lose_its_messages() {
    let log = Log::shared().await;
    let (mut mover, writer) = (log.writer().await, log.writer().await);
    let transaction = mover.transaction().await.unwrap();
    transaction.batch_execute("select pg_current_xact_id()").await.unwrap();
    enqueue(&writer, "another").await;
    let claims_to_show_itself =
        "select pg_visible_in_snapshot(pg_current_xact_id(), pg_current_snapshot())";
    let row = transaction.query_one(claims_to_show_itself, &[]).await.unwrap();
    assert!(row.get::<_, bool>(0), "its own snapshot shows the transaction as ended");
    enqueue(&transaction, "moved").await;
    transaction.commit().await.unwrap();
}

/// Defence: `current_snapshot` is one autocommit statement without an xid. At rest a look takes no
/// xid at all, so it costs the cluster nothing either.
#[tokio::test]
async fn looks_take_cur_without_a_transaction_id() {
    let postgres = quiet_server(&[]);
    let log = Log::on(&postgres, &PostgresOptions::default()).await;
    let mut ticker = log.store.ticker();
    enqueue(&log.writer().await, "message").await;
    tick(ticker.as_mut()).await;
    let next_xid = "select pg_snapshot_xmax(pg_current_snapshot())::text";
    let before: String = log.ask(next_xid).await;
    for _ in 0..50 {
        assert!(ticker.advance().await.unwrap().window.is_none());
    }
    assert_eq!(log.ask::<String>(next_xid).await, before, "fifty looks took no xid");
    let held = "select count(*) from pg_stat_activity where application_name = 'posthaste' \
                and datname = current_database() \
                and (backend_xid is not null or state like 'idle in%')";
    assert_eq!(log.ask::<i64>(held).await, 0, "no transaction stays behind");
    // No tick shows the transaction that wrote it.
    let own = "select count(*) from posthaste.tick \
               where pg_visible_in_snapshot(xmin::text::xid8, snapshot)";
    assert_eq!(log.ask::<i64>(own).await, 0);
}

/// Defence: `current_snapshot` asks for `pg_is_in_recovery()`. A standby's snapshot lists no
/// transaction in progress, so a late message would be lost.
#[tokio::test]
async fn standby_is_refused() {
    let primary = Postgres::start();
    let log = Log::on(&primary, &PostgresOptions::default()).await;
    let standby = Postgres::standby_of(&primary);
    let url = standby.url(log.database.name());
    let store = PostgresStore::connect(&url, &PostgresOptions::default()).unwrap();
    // A standby answers once it has replayed what was there when it was copied.
    let answers = async || matches!(store.check().await, Err(error) if error.kind() == StoreErrorKind::Standby);
    eventually_async("the standby's refusal", LIMIT, answers).await;
    let error = store.ticker().advance().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Standby, "{error}");
    assert!(error.to_string().contains("primary"), "{error}");
}

/// Defence: a look that was not acted on is forgotten (`advance` puts the rule back only after
/// success).
#[tokio::test]
async fn message_found_by_a_cancelled_look_is_ticked_by_the_next() {
    let postgres = quiet_server(&[]);
    let log = Log::on(&postgres, &PostgresOptions::default()).await;
    let mut ticker = log.store.ticker();
    let (mut writer, mut blocker) = (log.writer().await, log.writer().await);
    let late = writer.transaction().await.unwrap();
    enqueue(&late, "late").await;
    for _ in 0..20 {
        assert!(ticker.advance().await.unwrap().window.is_none());
    }
    late.commit().await.unwrap();
    // The look finds that every open transaction has ended, and gets no further.
    let blocker = blocker.transaction().await.unwrap();
    blocker.batch_execute("lock table posthaste.log_0 in access exclusive mode").await.unwrap();
    tokio::select! {
        advanced = ticker.advance() => panic!("nothing blocked it: {advanced:?}"),
        () = log.somebody_waits() => {}
    }
    blocker.commit().await.unwrap();
    tick(ticker.as_mut()).await;
    assert_eq!(read(&log.store, &mut Place::beginning()).await, ["late"]);
}
