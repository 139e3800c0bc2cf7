//! Slots of the log: none is emptied or passed over too early, and none stalls a writer.

use std::time::Duration;

use posthaste_store::{Pin, RingSizes, Store, postgres::PostgresOptions};
use posthaste_testkit::{Postgres, eventually_async};

use super::database::{LIMIT, Log, enqueue, enqueue_many, quiet_server};

/// Positions 1 to 9, 10 to 19, 20 to 29 and 30 to 39, then the next lap.
const RINGS: RingSizes = RingSizes { slots: 4, slot_size: 10 };

fn options() -> PostgresOptions {
    PostgresOptions { rings: RINGS, retention: Duration::ZERO, ..PostgresOptions::default() }
}

/// The positions that each slot holds.
async fn slots(log: &Log) -> Vec<Vec<i64>> {
    let mut slots = Vec::new();
    for slot in 0..RINGS.slots {
        let positions = format!(
            "select coalesce(array_agg(position order by position), '{{}}') \
             from posthaste.log_{slot}"
        );
        slots.push(log.ask(&positions).await);
    }
    slots
}

/// Defence: a passed slot is sealed only once `xmin` has passed an xid taken after that. Until
/// then it is read and kept, whatever the highest xid in it.
#[tokio::test]
async fn slot_whose_position_an_open_transaction_holds_is_not_sealed() {
    let postgres = quiet_server(&[]);
    let log = Log::on(&postgres, &options()).await;
    log.subscribe("s").await;
    let (mut open, writer) = (log.writer().await, log.writer().await);
    enqueue_many(&writer, "a", 8).await;
    let open = open.transaction().await.unwrap();
    assert_eq!(enqueue(&open, "late").await, 9);
    enqueue_many(&writer, "b", 15).await;
    assert_eq!(log.publish("s").await.len(), 23);
    // Everything else in slot 0 is older than every open transaction.
    for _ in 0..3 {
        assert_eq!(log.store.sweep().await.unwrap().slots_emptied, 0);
    }
    open.commit().await.unwrap();
    assert_eq!(log.publish("s").await, ["late"], "its slot is still read");
    log.store.sweep().await.unwrap();
    assert_eq!(log.store.sweep().await.unwrap().slots_emptied, 0, "the first one did it");
    assert_eq!(slots(&log).await[..2], [Vec::<i64>::new(), Vec::new()]);
}

/// Defence: `newest_stretch_in` and the guard under the lock keep a slot that is in use again; what
/// a lagging subscription needs is shared, not emptied.
#[tokio::test]
async fn slot_with_unsettled_messages_is_shared_and_emptied_later() {
    let log = Log::on(Postgres::shared(), &options()).await;
    log.subscribe("prompt").await;
    log.subscribe("lagging").await;
    let writer = log.writer().await;
    let mut expected = Vec::new();
    let mut shared = 0;
    for lap in 0..12 {
        let prefix = format!("{lap} ");
        enqueue_many(&writer, &prefix, 17).await;
        let fresh: Vec<String> = (1..=17).map(|n| format!("{prefix}{n}")).collect();
        assert_eq!(log.publish("prompt").await, fresh);
        expected.extend(fresh);
        let report = log.store.sweep().await.unwrap();
        assert_eq!(report.slots_emptied, 0, "the lagging one needs every slot");
        shared = report.slots_shared;
        let lagging = Pin::Subscription("lagging".to_owned());
        assert_eq!(report.pin, (shared > 0).then_some(lagging));
    }
    assert_eq!(shared, 4, "every slot holds several laps");
    let slots = log.store.status().await.unwrap().slots.unwrap();
    assert_eq!((slots.total, slots.used, slots.shared), (4, 4, 4));
    assert_eq!(log.publish("lagging").await, expected);
    // Settled; the head's slot stays, and other databases may hold the seal up for a moment.
    let is_empty = async || {
        enqueue(&writer, "more").await;
        log.publish("prompt").await;
        log.publish("lagging").await;
        log.store.sweep().await.unwrap();
        let status = log.store.status().await.unwrap();
        status.messages < 2 * u64::from(RINGS.slot_size)
    };
    eventually_async("emptied slots", LIMIT, is_empty).await;
    // One lap on, the slot that was the head's is emptied too, and nothing is shared any more.
    let is_unshared = async || {
        enqueue_many(&writer, "lap ", 7).await;
        assert_eq!(log.publish("prompt").await.len(), 7);
        assert_eq!(log.publish("lagging").await.len(), 7);
        log.store.sweep().await.unwrap().slots_shared == 0
    };
    eventually_async("no shared slot", LIMIT, is_unshared).await;
}

/// Defence: knowledge of a slot is kept by stretch, so that what was learnt of one lap never
/// answers for the next.
#[tokio::test]
async fn nothing_is_lost_across_many_laps_with_sweeps_in_between() {
    let postgres = quiet_server(&[]);
    let log = Log::on(&postgres, &options()).await;
    log.subscribe("s").await;
    let writer = log.writer().await;
    let mut emptied = 0;
    for lap in 0..60 {
        let (prefix, count) = (format!("{lap} "), 1 + lap % 13);
        enqueue_many(&writer, &prefix, count).await;
        // Sweeps before and after the messages are published.
        emptied += log.store.sweep().await.unwrap().slots_emptied;
        let fresh: Vec<String> = (1..=count).map(|n| format!("{prefix}{n}")).collect();
        assert_eq!(log.publish("s").await, fresh);
        emptied += log.store.sweep().await.unwrap().slots_emptied;
    }
    assert!(emptied > 20, "{emptied} slots were emptied on the way");
}

/// Defence: only the child is locked, for 50 ms at most. An open writer holds the parent.
#[tokio::test]
async fn emptying_a_slot_neither_waits_for_an_open_writer_nor_stalls_others() {
    let postgres = quiet_server(&[]);
    let log = Log::on(&postgres, &options()).await;
    log.subscribe("s").await;
    let (mut open, mut reader, writer) =
        (log.writer().await, log.writer().await, log.writer().await);
    enqueue_many(&writer, "a", 25).await;
    log.publish("s").await;
    // Slots 0 and 1 are sealed, and kept by a reader that holds their locks.
    let holder = reader.transaction().await.unwrap();
    holder.batch_execute("select count(*) from posthaste.log").await.unwrap();
    writer.batch_execute("set lock_timeout = '20s'").await.unwrap();
    let (swept, ()) = tokio::join!(log.store.sweep(), async {
        for _ in 0..4 {
            enqueue(&writer, "beside").await;
        }
    });
    assert_eq!(swept.unwrap().slots_emptied, 0, "the lock was not to be had");
    holder.commit().await.unwrap();
    // A writer that is open now holds the parent and the head's slot, and comes too late for the
    // sealed slots.
    log.publish("s").await;
    let open = open.transaction().await.unwrap();
    enqueue(&open, "open").await;
    assert!(log.store.sweep().await.unwrap().slots_emptied >= 2);
    assert_eq!(slots(&log).await[..2], [Vec::<i64>::new(), Vec::new()]);
    open.commit().await.unwrap();
    assert_eq!(log.publish("s").await, ["open"]);
}

/// Defence: the guard that `truncate` evaluates under its lock. The sequence may come round to a
/// slot after the sweep has read where it stands.
#[tokio::test]
async fn slot_that_is_reached_again_during_the_sweep_is_kept() {
    let postgres = quiet_server(&[]);
    let log = Log::on(&postgres, &options()).await;
    log.subscribe("s").await;
    let (mut blocker, writer) = (log.writer().await, log.writer().await);
    enqueue_many(&writer, "a", 35).await;
    assert_eq!(log.store.sweep().await.unwrap().slots_emptied, 0, "sealed, but still needed");
    log.publish("s").await;
    // The next sweep gets as far as the places, behind its look at the sequence.
    let blocker = blocker.transaction().await.unwrap();
    let lock = "lock table posthaste.subscription in access exclusive mode";
    blocker.batch_execute(lock).await.unwrap();
    let store = log.store.clone();
    let sweep = tokio::spawn(async move { store.sweep().await.unwrap() });
    log.somebody_waits().await;
    enqueue_many(&writer, "b", 10).await;
    blocker.commit().await.unwrap();
    assert!(sweep.await.unwrap().slots_emptied >= 1, "slots 1 and 2 may go");
    let held: Vec<i64> = slots(&log).await.swap_remove(0);
    assert!(held.ends_with(&[40, 41, 42, 43, 44, 45]), "{held:?}");
    assert_eq!(log.publish("s").await.len(), 10);
}

/// Defence: what keeps a log above its size is told apart, so that the remedy fits.
#[tokio::test]
async fn log_above_its_size_tells_an_open_transaction_from_the_newest_messages() {
    let postgres = quiet_server(&[]);
    let log = Log::on(&postgres, &PostgresOptions { retention_bytes: Some(1), ..options() }).await;
    log.subscribe("s").await;
    let (mut open, writer) = (log.writer().await, log.writer().await);
    let pin = async || {
        log.store.sweep().await.unwrap();
        let report = log.store.sweep().await.unwrap();
        assert!(report.bytes_over > 0, "{report:?}");
        assert_eq!(log.store.status().await.unwrap().size.pin, report.pin);
        report.pin
    };
    enqueue_many(&writer, "a", 8).await;
    assert_eq!(pin().await, Some(Pin::Subscription("s".to_owned())));
    log.publish("s").await;
    assert_eq!(pin().await, Some(Pin::Newest));
    let open = open.transaction().await.unwrap();
    enqueue(&open, "late").await;
    enqueue_many(&writer, "b", 15).await;
    log.publish("s").await;
    assert_eq!(pin().await, Some(Pin::Transaction));
    open.rollback().await.unwrap();
    assert_eq!(pin().await, Some(Pin::Newest));
}

#[tokio::test]
async fn ring_that_is_too_small_for_the_retention_time_says_so() {
    let postgres = quiet_server(&[]);
    let options = PostgresOptions { retention: LIMIT, ..options() };
    let log = Log::on(&postgres, &options).await;
    log.subscribe("s").await;
    let writer = log.writer().await;
    for lap in 0..3 {
        enqueue_many(&writer, &lap.to_string(), 35).await;
        assert_eq!(log.publish("s").await.len(), 35);
        log.store.sweep().await.unwrap();
    }
    let report = log.store.sweep().await.unwrap();
    assert!(report.slots_shared > 0, "{report:?}");
    assert_eq!(report.pin, Some(Pin::Retention));
    assert_eq!(log.store.status().await.unwrap().size.pin, Some(Pin::Retention));
}

/// What `status` calls dead is what transactions that rolled back have left, and nothing else.
#[tokio::test]
async fn rolled_back_messages_are_dead_tuples_and_published_ones_are_not() {
    let postgres = quiet_server(&[]);
    let log = Log::on(&postgres, &options()).await;
    log.subscribe("s").await;
    let mut writer = log.writer().await;
    enqueue_many(&writer, "a", 5).await;
    assert_eq!(log.publish("s").await.len(), 5);
    let open = writer.transaction().await.unwrap();
    for _ in 0..3 {
        enqueue(&open, "never").await;
    }
    open.rollback().await.unwrap();
    // The statistics follow when the writer's session is idle, or ends.
    drop(writer);
    let is_told = async || log.store.status().await.unwrap().dead_tuples == Some(3);
    eventually_async("three dead tuples", LIMIT, is_told).await;
}
