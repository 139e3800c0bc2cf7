//! Order and settling with sinks that fail: a message is published only after the sink's word.

use std::sync::Arc;

use posthaste_core::Message;
use posthaste_relay::{Relay, State, Subscription, sink::Context};
use posthaste_store::Store;
use posthaste_testkit::{Postgres, eventually_async};

use super::{
    scene::{self, LIMIT, published},
    targets::{Mood, Moody},
};
use crate::pipeline::support::{Running, settings, subscription};

/// A relay whose one subscription, `test`, publishes to `target`.
pub(crate) fn relay_to(store: &Arc<dyn Store>, target: &Moody) -> Relay {
    let subscription: Subscription = subscription("test", &["*"], Arc::new(target.clone()));
    Relay::new(Arc::clone(store), settings(), vec![subscription], Context::default())
}

/// Messages of one key whose payload is their number.
pub(crate) fn events(range: std::ops::Range<u32>) -> Vec<Message> {
    range.map(|n| Message::new("events").key("one").text(n.to_string())).collect()
}

pub(crate) fn texts(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

#[tokio::test]
async fn r8_order_is_kept_for_1000_events_across_runs() {
    let (_, store) = scene::prepare(Postgres::shared()).await;
    let target = Moody::new(Mood::Accepts);
    for run in 0..10 {
        // Every other run has to publish the second half of its batches again and again.
        let mood = if run % 2 == 0 { Mood::Accepts } else { Mood::TakesHalf };
        target.turn(mood);
        store.append(&events(run * 100..run * 100 + 50)).await.unwrap();
        let turns = target.clone();
        let relents = async {
            turns.was_handed(turns.batches()).await;
            turns.turn(Mood::Accepts);
        };
        store.append(&events(run * 100 + 50..run * 100 + 100)).await.unwrap();
        let once = relay_to(&store, &target).run_once(std::future::pending());
        let (ended, ()) = tokio::join!(once, relents);
        ended.unwrap();
    }
    assert_eq!(target.texts(), texts(0..1_000));
}

#[tokio::test]
async fn r18_enqueue_failure_never_marks_a_message_published() {
    let (database, store) = scene::prepare(Postgres::shared()).await;
    store.append(&events(0..10)).await.unwrap();
    let target = Moody::new(Mood::Away);
    let running = Running::start(relay_to(&store, &target));
    for (mood, state) in [(Mood::Away, State::BackingOff), (Mood::Retries, State::BackingOff)] {
        target.turn(mood);
        // Handed over twice: the answer to the first one has been acted on.
        let before = target.batches();
        target.was_handed(before).await;
        target.was_handed(before + 1).await;
        let told = running.monitor.wait_for(|all| all[0].state == state);
        tokio::time::timeout(LIMIT, told).await.unwrap_or_else(|_| panic!("{mood:?}"));
        assert!(running.monitor.snapshot()[0].last_error.is_some());
        assert!(published(&database).await.is_empty(), "{mood:?}");
        assert_eq!(store.status().await.unwrap().subscriptions[0].backlog, 10);
    }
    // Refused messages are set aside instead, and not published either.
    target.turn(Mood::Rejects);
    assert!(running.monitor.wait_for(|all| all[0].rejections > 0).await);
    assert!(published(&database).await.is_empty());
    assert!(target.texts().is_empty());
    target.turn(Mood::Accepts);
    let is_published = async || published(&database).await.len() == 10;
    eventually_async("ten published messages", LIMIT, is_published).await;
    assert_eq!(target.texts(), texts(0..10));
    running.drain().await.unwrap();
}

#[tokio::test]
async fn r10_published_at_is_queried_in_sql() {
    let (database, store) = scene::prepare(Postgres::shared()).await;
    store.append(&events(0..30)).await.unwrap();
    let target = Moody::new(Mood::Accepts);
    let running = Running::start(relay_to(&store, &target));
    let is_published = async || published(&database).await.len() == 30;
    eventually_async("thirty published messages", LIMIT, is_published).await;
    running.drain().await.unwrap();
    store.append(&events(30..40)).await.unwrap();

    let client = database.connect().await;
    let newest = "select id, topic, published_at from posthaste.outbox order by id desc limit 20";
    let rows = client.query(newest, &[]).await.unwrap();
    let dated = rows.iter().filter(|row| {
        let at: Option<std::time::SystemTime> = row.get("published_at");
        at.is_some()
    });
    assert_eq!((rows.len(), dated.count()), (20, 10));
    let waiting = "select count(*) from posthaste.outbox where published_at is null";
    assert_eq!(client.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0), 10);
}

#[tokio::test]
async fn r54_no_transaction_or_lock_is_held_while_a_batch_is_published() {
    // The relay's own statements last microseconds: at some moment there is none.
    const HELD: &str = "select (select count(*) from pg_stat_activity \
         where application_name = 'posthaste' and datname = current_database() \
         and (xact_start is not null or backend_xid is not null or backend_xmin is not null)) \
         + (select count(*) from pg_locks l join pg_stat_activity a using (pid) \
         where a.application_name = 'posthaste' and a.datname = current_database())";
    let (database, store) = scene::prepare(Postgres::shared()).await;
    store.append(&events(0..10)).await.unwrap();
    let target = Moody::new(Mood::Blocks);
    let running = Running::start(relay_to(&store, &target));
    target.was_handed(0).await;
    let client = database.connect().await;
    let is_free = async || client.query_one(HELD, &[]).await.unwrap().get::<_, i64>(0) == 0;
    eventually_async("a moment without transaction and lock", LIMIT, is_free).await;
    // Nor does the blocked batch keep others from the strongest locks.
    let lock = "begin; set local lock_timeout = '5s'; lock table posthaste.log, posthaste.lease, \
                posthaste.progress, posthaste.tick in access exclusive mode; commit";
    client.batch_execute(lock).await.unwrap();
    assert!(target.texts().is_empty(), "the batch is still being published");
    target.turn(Mood::Accepts);
    assert!(running.monitor.wait_for(|all| all[0].published == 10).await);
    running.drain().await.unwrap();
}
