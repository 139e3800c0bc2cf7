//! Moves of scheduled messages that are killed, that meet each other, and that meet a cancel.

use posthaste_core::{Message, MessageId, Timestamp};
use posthaste_store::Store as _;
use posthaste_testkit::eventually_async;
use tokio_postgres::Client;

use super::database::{LIMIT, Log};

/// Due messages with one key.
async fn schedule(log: &Log, count: i64) -> Vec<MessageId> {
    let due = |n| Message::new("t").key("k").deliver_at(Timestamp(n * 1_000_000));
    let messages: Vec<_> = (0..count).map(due).collect();
    log.store.append(&messages).await.unwrap()
}

/// How many messages wait, how many stand in the log, and how many ids there are in both: all of
/// one snapshot.
async fn places(log: &Log) -> (i64, i64, i64) {
    let sql = "select (select count(*) from posthaste.scheduled), \
               (select count(*) from posthaste.log), \
               (select count(distinct id) from (select id from posthaste.scheduled \
                union all select id from posthaste.log) m)";
    let row = log.writer().await.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

/// Holds every move between its delete and its insert until the answered connection commits.
async fn stall(log: &Log) -> Client {
    let blocker = log.writer().await;
    let trigger = "create function stall() returns trigger language plpgsql as \
         'begin perform pg_advisory_xact_lock(1, 1); return new; end'; \
         create trigger stall before insert on posthaste.log for each row execute function stall()";
    blocker.batch_execute(trigger).await.unwrap();
    blocker.batch_execute("begin; select pg_advisory_xact_lock(1, 1)").await.unwrap();
    blocker
}

async fn in_the_log(log: &Log) -> Vec<MessageId> {
    let sql = "select id from posthaste.log order by position";
    let rows = log.writer().await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn killed_move_leaves_every_message_where_it_was() {
    let log = Log::shared().await;
    let written = schedule(&log, 10).await;
    let blocker = stall(&log).await;
    let store = log.another_store();
    let moving = tokio::spawn(async move { store.move_due(100).await });
    log.somebody_waits().await;
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity \
                where wait_event_type = 'Lock' and application_name = 'posthaste' \
                and datname = current_database()";
    blocker.execute(kill, &[]).await.unwrap();
    moving.await.unwrap().unwrap_err();
    blocker.batch_execute("commit").await.unwrap();
    assert_eq!(places(&log).await, (10, 0, 10));

    assert_eq!(log.store.move_due(100).await.unwrap().count, 10);
    assert_eq!(in_the_log(&log).await, written);
}

#[tokio::test]
async fn message_is_scheduled_or_in_the_log_at_every_moment() {
    let log = Log::shared().await;
    schedule(&log, 500).await;
    let stores = [log.another_store(), log.another_store()];
    let tasks = stores.map(|store| {
        tokio::spawn(async move {
            for _ in 0..200 {
                store.move_due(5).await.unwrap();
            }
        })
    });
    let mut seen = 0;
    loop {
        let (scheduled, moved, distinct) = places(&log).await;
        assert_eq!((scheduled + moved, distinct), (500, 500));
        seen += u32::from(scheduled > 0 && moved > 0);
        if scheduled == 0 {
            break;
        }
    }
    assert!(seen > 0, "no look fell between two moves");
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn second_move_leaves_the_messages_to_the_one_that_runs() {
    let log = Log::shared().await;
    let written = schedule(&log, 10).await;
    let blocker = stall(&log).await;
    let store = log.another_store();
    // The first four are on their way; the others must not come before them.
    let moving = tokio::spawn(async move { store.move_due(4).await });
    log.somebody_waits().await;
    assert_eq!(log.store.move_due(4).await.unwrap().count, 0);
    blocker.batch_execute("commit").await.unwrap();
    assert_eq!(moving.await.unwrap().unwrap().count, 4);
    log.store.move_due(100).await.unwrap();
    assert_eq!(in_the_log(&log).await, written);
}

#[tokio::test]
async fn cancel_waits_for_the_move_of_its_message_and_comes_too_late() {
    let log = Log::shared().await;
    let written = schedule(&log, 1).await;
    let (blocker, canceller) = (stall(&log).await, log.writer().await);
    let store = log.another_store();
    let moving = tokio::spawn(async move { store.move_due(100).await });
    log.somebody_waits().await;
    let id = written[0];
    let cancel = tokio::spawn(async move {
        let row = canceller.query_one("select posthaste.cancel($1)", &[&id]).await.unwrap();
        row.get::<_, bool>(0)
    });
    let waits = "select count(*) = 2 from pg_stat_activity where wait_event_type = 'Lock' \
                 and datname = current_database()";
    let waits = async || log.ask::<bool>(waits).await;
    eventually_async("both wait", LIMIT, waits).await;
    blocker.batch_execute("commit").await.unwrap();
    assert_eq!(moving.await.unwrap().unwrap().count, 1);
    assert!(!cancel.await.unwrap());
    assert_eq!(in_the_log(&log).await, written);
}

#[tokio::test]
async fn open_cancel_holds_back_its_own_message_only() {
    let log = Log::shared().await;
    let written = schedule(&log, 3).await;
    let canceller = log.writer().await;
    canceller.batch_execute("begin").await.unwrap();
    canceller.query_one("select posthaste.cancel($1)", &[&written[0]]).await.unwrap();
    assert_eq!(log.store.move_due(100).await.unwrap().count, 2);
    canceller.batch_execute("rollback").await.unwrap();
    assert_eq!(log.store.move_due(100).await.unwrap().count, 1);
    assert_eq!(in_the_log(&log).await, [written[1], written[2], written[0]]);
}

#[tokio::test]
async fn due_messages_of_a_strict_topic_wait_for_the_lock_of_their_key_and_others_do_not() {
    let log = Log::shared().await;
    let writer = log.writer().await;
    writer.batch_execute("select posthaste.set_strict('strict.*')").await.unwrap();
    let due = |n: i64, topic: &str, key: &str| {
        Message::new(topic).key(key).deliver_at(Timestamp(n * 1_000_000))
    };
    let messages = [
        due(1, "strict.a", "busy"),
        due(2, "strict.b", "free"),
        due(3, "strict.a", "busy"),
        due(4, "other", "k"),
    ];
    let written = log.store.append(&messages).await.unwrap();
    writer.batch_execute("begin; select posthaste.lock_keys('{busy}')").await.unwrap();
    // The busy key fills the chunk and lets the others through all the same.
    assert_eq!(log.store.move_due(1).await.unwrap().count, 1);
    assert_eq!(log.store.move_due(2).await.unwrap().count, 1);
    assert_eq!(log.store.move_due(100).await.unwrap().count, 0);
    writer.batch_execute("commit").await.unwrap();
    assert_eq!(log.store.move_due(100).await.unwrap().count, 2);
    assert_eq!(in_the_log(&log).await, [1, 3, 0, 2].map(|at| written[at]));
    assert_eq!(log.store.append(&[Message::new("strict.a").key("k")]).await.unwrap().len(), 1);
}
