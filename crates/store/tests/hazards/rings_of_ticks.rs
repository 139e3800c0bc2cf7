//! The rings of ticks and of progress: swept behind every place, never under one.
//!
//! Their size is fixed, so the tests set the numbers ahead instead of writing that many rows.

use posthaste_core::{Place, TickRef};
use posthaste_store::Store;

use super::database::{Log, enqueue, tick};
use crate::taking::taken;

/// Numbers in one slot of either ring, and the slots (see the migration).
const SLOT_SIZE: i64 = 32_768;
const SLOTS: i64 = 8;

async fn rows(log: &Log, table: &str) -> i64 {
    log.ask(&format!("select count(*) from posthaste.{table}")).await
}

/// Moves the numbers of the progress rows to the start of a stretch.
async fn set_progress(log: &Log, stretch: i64) {
    let set = format!("select setval('posthaste.progress_n_seq', {})", stretch * SLOT_SIZE);
    log.writer().await.batch_execute(&set).await.unwrap();
}

/// Takes a tick with a number at the start of a stretch, as if all before it had been taken.
async fn set_tick(log: &Log, stretch: i64) -> TickRef {
    let insert = format!(
        "insert into posthaste.tick (n, snapshot) \
         values ({}, pg_current_snapshot()) returning n, id",
        stretch * SLOT_SIZE
    );
    let row = log.writer().await.query_one(&insert, &[]).await.unwrap();
    TickRef { n: row.get(0), id: row.get(1) }
}

/// Defence: `copy_forward` before the slot is emptied, and the guard that no place is in it.
#[tokio::test]
async fn place_of_an_idle_subscription_outlives_the_slot_it_was_settled_in() {
    let log = Log::shared().await;
    log.subscribe("idle").await;
    enqueue(&log.writer().await, "message").await;
    assert_eq!(log.publish("idle").await, ["message"]);
    let place = log.store.status().await.unwrap().subscriptions[0].progress;
    for lap in 1..=3 {
        // Two stretches before the slot would be reached again.
        set_progress(&log, lap * SLOTS - 2).await;
        log.store.sweep().await.unwrap();
        assert_eq!(rows(&log, "progress").await, 1, "only the newest place is left");
        let now = log.store.status().await.unwrap().subscriptions[0].progress;
        assert_eq!(now, place, "the place and the time it was settled at");
    }
    let (_, acquired) = taken(&log.store, "idle", "next").await;
    assert_eq!(acquired, place.place);
}

/// Defence: `copy_forward` copies the count of the sink's calls as well. Without it a run that
/// begins there takes the place for a person's choice, and publishes again what the sink has.
#[tokio::test]
async fn place_of_an_idle_subscription_keeps_its_count_of_calls() {
    let log = Log::shared().await;
    log.subscribe("idle").await;
    enqueue(&log.writer().await, "message").await;
    let at = tick(log.store.ticker().as_mut()).await;
    let (epoch, place) = taken(&log.store, "idle", "test").await;
    let settled = place.finished(at).counted(Some(7));
    log.store.settle("idle", epoch, &settled).await.unwrap();
    set_progress(&log, SLOTS - 2).await;
    log.store.sweep().await.unwrap();
    assert_eq!(rows(&log, "progress").await, 1, "the place was copied");
    let (_, acquired) = taken(&log.store, "idle", "next").await;
    assert_eq!(acquired, settled);
}

/// Defence: `STRETCHES_AHEAD`: a slot is left alone until the head is close to it.
#[tokio::test]
async fn progress_that_the_head_is_far_from_is_kept_for_its_dates() {
    let log = Log::shared().await;
    log.subscribe("s").await;
    for text in ["one", "two"] {
        enqueue(&log.writer().await, text).await;
        log.publish("s").await;
    }
    let before = rows(&log, "progress").await;
    set_progress(&log, SLOTS - 3).await;
    log.store.sweep().await.unwrap();
    assert_eq!(rows(&log, "progress").await, before);
}

/// Defence: ticks are kept from the lowest tick that a place names (`needs.tick`).
#[tokio::test]
async fn ticks_that_a_lagging_place_names_are_kept() {
    let log = Log::shared().await;
    log.subscribe("lagging").await;
    log.subscribe("prompt").await;
    enqueue(&log.writer().await, "one").await;
    log.publish("lagging").await;
    enqueue(&log.writer().await, "two").await;
    log.publish("prompt").await;
    let old = rows(&log, "tick").await;
    let ahead = set_tick(&log, SLOTS - 2).await;
    let (epoch, place) = taken(&log.store, "prompt", "test").await;
    log.store.settle("prompt", epoch, &place.finished(ahead)).await.unwrap();
    log.store.sweep().await.unwrap();
    assert_eq!(rows(&log, "tick").await, old + 1, "nothing is emptied under a place");
    assert_eq!(log.publish("lagging").await, ["two"]);
    log.store.sweep().await.unwrap();
    assert_eq!(rows(&log, "tick_0").await, 0, "now nobody needs the old ticks");
    // Numbers go on, and so do both subscriptions.
    enqueue(&log.writer().await, "three").await;
    assert_eq!(tick(log.store.ticker().as_mut()).await.n, ahead.n + 1);
    assert_eq!(log.publish("prompt").await, ["three"]);
    assert_eq!(log.publish("lagging").await, ["three"]);
}

/// Defence: `window` reads the tick of a place in the slot of its number, which a later lap shares.
#[tokio::test]
async fn tick_slots_of_two_laps_are_told_apart() {
    let log = Log::shared().await;
    log.subscribe("s").await;
    enqueue(&log.writer().await, "one").await;
    let first = tick(log.store.ticker().as_mut()).await;
    enqueue(&log.writer().await, "two").await;
    let lap = set_tick(&log, SLOTS).await;
    let window = log.store.window(first, None).await.unwrap().unwrap();
    assert_eq!((window.base.at, window.head.at), (first, lap));
    let mut place = Place::at(first);
    assert_eq!(super::database::read(&log.store, &mut place).await, ["two"]);
}
