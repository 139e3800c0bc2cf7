//! Transactions that stay open or prepared for long delay their own messages and nobody else's.

use std::{collections::HashSet, time::Duration};

use posthaste_testkit::{Postgres, history::Entry};

use super::{
    application::{self, Plan, enqueue, write_for},
    scene::{Scene, recorded},
    seed::Seed,
};

/// How long the long transaction stays open; two minutes with `POSTHASTE_TEST_LONG=1`.
const OPEN_TIME: Duration = Duration::from_secs(20);
const OPEN_TIME_LONG: Duration = Duration::from_mins(2);
/// An entity that no other writer touches.
const OWN_KEY: i64 = 900;

fn open_time() -> Duration {
    let is_long = std::env::var("POSTHASTE_TEST_LONG").is_ok_and(|value| value == "1");
    if is_long { OPEN_TIME_LONG } else { OPEN_TIME }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_open_transaction_delays_its_own_messages_only() {
    let seed = Seed::of("long_transactions::long_open_transaction");
    let scene = Scene::on(Postgres::shared()).await;
    let mut client = scene.database.connect().await;
    let long = client.transaction().await.unwrap();
    let change = application::change(&long, &mut seed.rng(1_000), OWN_KEY).await.unwrap();
    enqueue(&long, change, false).await.unwrap();
    write_for(&scene.database, &seed, 4, open_time(), |rng, _| Plan::random(rng)).await;
    enqueue(&long, Entry { part: 1, ..change }, true).await.unwrap();
    // Everybody else's messages arrive while it is still open, its own do not.
    scene.arrived().await;
    assert!(scene.arrivals.entries().iter().all(|entry| entry.key != OWN_KEY));
    long.commit().await.unwrap();
    scene.arrived().await;
    let own = |entry: &&Entry| entry.key == OWN_KEY;
    assert_eq!(scene.arrivals.entries().iter().filter(own).count(), 2);
    scene.assert_exactly_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_transactions_arrive_after_they_are_committed_behind_a_restart() {
    let seed = Seed::of("long_transactions::prepared_transactions");
    let postgres = Postgres::start();
    let scene = Scene::on(&postgres).await;
    for nth in 0..10 {
        prepare(&scene, &seed, nth).await;
    }
    let load = Duration::from_secs(2);
    write_for(&scene.database, &seed, 4, load, |rng, _| Plan::random(rng)).await;
    scene.arrived().await;
    tokio::task::block_in_place(|| postgres.restart());
    write_for(&scene.database, &seed, 4, load, |rng, _| Plan::random(rng)).await;
    let client = scene.database.connect().await;
    for nth in 0..10 {
        // Half of them are rolled back.
        let verb = if nth % 2 == 0 { "commit" } else { "rollback" };
        client.batch_execute(&format!("{verb} prepared 'p{nth}'")).await.unwrap();
    }
    let prepared = recorded(&scene.database).await;
    let prepared: HashSet<i64> =
        prepared.iter().map(|entry| entry.key).filter(|key| *key >= OWN_KEY).collect();
    assert_eq!(prepared, HashSet::from([0, 2, 4, 6, 8].map(|nth| OWN_KEY + nth)));
    // The restart may have repeated a batch; nothing else may differ.
    let verdict = scene.verdict().await;
    assert!(verdict.is_at_least_once(), "{verdict}");
}

/// A transaction with two messages that is left prepared.
async fn prepare(scene: &Scene, seed: &Seed, nth: i64) {
    let mut client = scene.database.connect().await;
    let transaction = client.transaction().await.unwrap();
    let key = OWN_KEY + nth;
    let change = application::change(&transaction, &mut seed.rng(key as u64), key).await.unwrap();
    for part in 0..2 {
        enqueue(&transaction, Entry { part, ..change }, part == 0).await.unwrap();
    }
    transaction.batch_execute(&format!("prepare transaction 'p{nth}'")).await.unwrap();
}
