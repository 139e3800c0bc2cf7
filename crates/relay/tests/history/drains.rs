//! How a relay ends and begins again: drains, and pipelines that panic.

use std::time::Duration;

use posthaste_relay::State;
use posthaste_testkit::{Postgres, eventually_async};
use tokio::time::timeout;

use super::{
    order::{events, relay_to, texts},
    scene::{self, LIMIT, Scene, published},
    targets::{Mood, Moody},
};
use crate::pipeline::support::Running;

#[tokio::test]
async fn r55_drain_is_no_error() {
    let scene = Scene::on(Postgres::shared()).await;
    scene.store.append(&[]).await.unwrap();
    assert!(scene.monitor().wait_for(|all| all[0].state == State::Running).await);
    let monitor = scene.monitor().clone();
    let verdict = scene.verdict().await;
    assert!(verdict.is_exactly_once(), "{verdict}");
    let ended = &monitor.snapshot()[0];
    assert_eq!((ended.state, &ended.last_error, ended.retries), (State::Drained, &None, 0));
    let waited = timeout(LIMIT, monitor.wait_for(|_| false)).await;
    assert_eq!(waited, Ok(false), "a wait ends with the relay");
}

#[tokio::test]
async fn r16_drain_finishes_the_batch_in_flight_and_settles() {
    let (database, store) = scene::prepare(Postgres::shared()).await;
    store.append(&events(0..10)).await.unwrap();
    let target = Moody::new(Mood::Blocks);
    let running = Running::start(relay_to(&store, &target));
    let monitor = running.monitor.clone();
    target.was_handed(0).await;
    let drain = tokio::spawn(running.drain());
    // The drain has begun and waits for the batch.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!drain.is_finished(), "the drain does not abandon the batch in flight");
    target.turn(Mood::Accepts);
    timeout(LIMIT, drain).await.unwrap().unwrap().unwrap();
    assert_eq!(target.texts(), texts(0..10));
    assert_eq!(published(&database).await.len(), 10);
    let status = store.status().await.unwrap();
    assert_eq!((status.subscriptions[0].backlog, &status.subscriptions[0].holder), (0, &None));
    assert_eq!(monitor.snapshot()[0].state, State::Drained);
}

#[tokio::test]
async fn drain_beside_a_failing_sink_ends_and_settles_nothing_of_its_batch() {
    let (database, store) = scene::prepare(Postgres::shared()).await;
    store.append(&events(0..10)).await.unwrap();
    let target = Moody::new(Mood::Away);
    let running = Running::start(relay_to(&store, &target));
    target.was_handed(1).await;
    running.drain().await.unwrap();
    assert!(published(&database).await.is_empty());
    target.turn(Mood::Accepts);
    relay_to(&store, &target).run_once(std::future::pending()).await.unwrap();
    assert_eq!(target.texts(), texts(0..10));
}

#[tokio::test]
async fn r15_pipeline_that_panics_begins_anew_reports_it_and_loses_nothing() {
    let (_, store) = scene::prepare(Postgres::shared()).await;
    let target = Moody::new(Mood::Accepts);
    let running = Running::start(relay_to(&store, &target));
    store.append(&events(0..10)).await.unwrap();
    assert!(running.monitor.wait_for(|all| all[0].published == 10).await);
    target.turn(Mood::Panics);
    store.append(&events(10..20)).await.unwrap();
    let told = running.monitor.wait_for(|all| all[0].panics == 1);
    timeout(LIMIT, told).await.unwrap();
    let went_on = running.monitor.wait_for(|all| all[0].published == 20);
    timeout(LIMIT, went_on).await.unwrap();
    let now = running.monitor.snapshot();
    assert_eq!((now[0].state, now[0].panics, &now[0].last_error), (State::Running, 1, &None));
    assert_eq!(target.texts(), texts(0..20));
    running.drain().await.unwrap();
}

#[tokio::test]
async fn relay_says_so_when_the_schema_goes_away() {
    let (database, store) = scene::prepare(Postgres::shared()).await;
    let running = Running::start(relay_to(&store, &Moody::new(Mood::Accepts)));
    assert!(running.monitor.wait_for(|all| all[0].state == State::Running).await);
    database.connect().await.batch_execute("drop schema posthaste cascade").await.unwrap();
    let error = running.ended().await.unwrap_err();
    let kind = error.store_error().map(posthaste_store::StoreError::kind);
    assert_eq!(kind, Some(posthaste_store::StoreErrorKind::MissingSchema), "{error}");
}

#[tokio::test]
async fn drain_cuts_a_sweep_off_that_waits() {
    let (database, store) = scene::prepare(Postgres::shared()).await;
    let blocker = database.connect().await;
    let lock = "begin; lock table posthaste.token in access exclusive mode";
    blocker.batch_execute(lock).await.unwrap();
    let running = Running::start(relay_to(&store, &Moody::new(Mood::Accepts)));
    let client = database.connect().await;
    let waits = "select exists (select from pg_stat_activity where wait_event_type = 'Lock' \
                 and datname = current_database() and query like 'delete from posthaste.token%')";
    let waits = async || client.query_one(waits, &[]).await.unwrap().get(0);
    eventually_async("a sweep that waits for a lock", LIMIT, waits).await;
    running.drain().await.unwrap();
}
