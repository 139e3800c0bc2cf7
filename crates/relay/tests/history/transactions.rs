//! Every shape that an application's transaction can have, under load.

use std::time::Duration;

use posthaste_testkit::Postgres;
use rand::Rng as _;

use super::{
    application::{self, Ending, Plan, SHARED_KEYS, enqueue, write_for},
    scene::{Scene, recorded},
    seed::Seed,
};

const LOAD_TIME: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_writers_with_pauses_and_rollbacks_lose_repeat_and_reorder_nothing() {
    let seed = Seed::of("transactions::sixty_four_writers");
    // A server of its own: 64 connections are too many beside other tests.
    let postgres = Postgres::start();
    let scene = Scene::on(&postgres).await;
    write_for(&scene.database, &seed, 64, LOAD_TIME, |rng, _| Plan::random(rng)).await;
    scene.assert_exactly_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_rolled_back_savepoints_never_arrive_and_all_others_do() {
    let seed = Seed::of("transactions::messages_of_rolled_back_savepoints");
    let scene = Scene::on(Postgres::shared()).await;
    let draw = |rng: &mut _, _| Plan { savepoints: true, parts: 3, ..Plan::random(rng) };
    write_for(&scene.database, &seed, 8, LOAD_TIME, draw).await;
    let recorded = recorded(&scene.database).await;
    assert!(recorded.iter().all(|entry| entry.part % 2 == 0), "odd parts are rolled back");
    scene.assert_exactly_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_with_an_early_xid_that_commit_late_lose_nothing() {
    let seed = Seed::of("transactions::transactions_with_an_early_xid");
    let scene = Scene::on(Postgres::shared()).await;
    write_for(&scene.database, &seed, 16, LOAD_TIME, |rng, _| {
        let before = Duration::from_millis(rng.random_range(0..400));
        Plan { early_xid: true, before, ..Plan::random(rng) }
    })
    .await;
    scene.assert_exactly_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_with_an_early_position_that_commit_late_lose_nothing() {
    let seed = Seed::of("transactions::transactions_with_an_early_position");
    let scene = Scene::on(Postgres::shared()).await;
    write_for(&scene.database, &seed, 16, LOAD_TIME, |rng, nth| {
        // An entity of its own, or the pause would hold the other writers up.
        let after = Duration::from_millis(rng.random_range(0..400));
        Plan { key: SHARED_KEYS + nth, after, ..Plan::random(rng) }
    })
    .await;
    scene.assert_exactly_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_busy_in_another_database_change_nothing() {
    let seed = Seed::of("transactions::writers_busy_in_another_database");
    let scene = Scene::on(Postgres::shared()).await;
    let other = Postgres::shared().database().await;
    application::create(&other).await;
    let noise = tokio::spawn(async move {
        // Holds transaction ids for a while, which every snapshot of the cluster lists.
        let mut client = other.connect().await;
        loop {
            let transaction = client.transaction().await.unwrap();
            transaction.batch_execute("insert into app.other values (1)").await.unwrap();
            tokio::time::sleep(Duration::from_millis(30)).await;
            transaction.commit().await.unwrap();
        }
    });
    // Few writers, so that the log stands still while the snapshots keep changing.
    write_for(&scene.database, &seed, 2, LOAD_TIME, |rng, nth| {
        let pause = |rng: &mut rand::rngs::SmallRng| {
            Duration::from_millis([0, 2, 10, 50, 300][rng.random_range(0..5)])
        };
        let (before, after) = (pause(rng), pause(rng));
        Plan { key: SHARED_KEYS + nth, before, after, ..Plan::random(rng) }
    })
    .await;
    scene.arrived().await;
    noise.abort();
    scene.assert_exactly_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_transaction_with_300_000_messages_goes_beside_small_ones() {
    const MANY: i64 = 300_000;
    let seed = Seed::of("transactions::one_transaction_with_300_000_messages");
    let scene = Scene::on(Postgres::shared()).await;
    let mut client = scene.database.connect().await;
    let big = async {
        let transaction = client.transaction().await.unwrap();
        let mut rng = seed.rng(1_000);
        let change = application::change(&transaction, &mut rng, 999).await.unwrap();
        let insert = "with recorded as (insert into app.mirror \
                      select $1, $2, part, $3 from generate_series(0, $4::bigint - 1) part \
                      returning k, n, part, tx) \
                      insert into posthaste.log (id, topic, key, payload, content_type, headers) \
                      select gen_random_uuid(), 'history', k::text, \
                      convert_to(concat_ws(' ', k, n, part, tx), 'UTF8'), 'text/plain', '{}' \
                      from recorded order by part";
        let params: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
            &[&change.key, &change.n, &change.transaction, &MANY];
        assert_eq!(transaction.execute(insert, params).await.unwrap(), MANY as u64);
        enqueue(&transaction, posthaste_testkit::history::Entry { part: MANY, ..change }, true)
            .await
            .unwrap();
        transaction.commit().await.unwrap();
    };
    let small = write_for(&scene.database, &seed, 4, LOAD_TIME, |rng, _| Plan::random(rng));
    tokio::join!(big, small);
    scene.assert_exactly_once().await;
}

#[tokio::test]
async fn first_message_of_a_fresh_database_arrives() {
    let seed = Seed::of("transactions::first_message_of_a_fresh_database");
    let scene = Scene::on(Postgres::shared()).await;
    // The relay has looked at the empty log before the first message comes.
    assert!(scene.monitor().wait_for(|all| all[0].settled.is_some()).await);
    let mut client = scene.database.connect().await;
    application::transact(&mut client, &mut seed.rng(0), Plan::plain(0)).await.unwrap();
    scene.assert_exactly_once().await;
}

#[tokio::test]
async fn late_commit_in_a_quiet_database_arrives() {
    let seed = Seed::of("transactions::late_commit_in_a_quiet_database");
    // A server of its own: no other transaction id is taken while this transaction is open.
    let postgres = Postgres::start();
    let scene = Scene::on(&postgres).await;
    let mut client = scene.database.connect().await;
    for ending in [Ending::Commit, Ending::Rollback, Ending::Commit] {
        let plan = Plan { after: Duration::from_secs(1), ending, ..Plan::plain(0) };
        application::transact(&mut client, &mut seed.rng(0), plan).await.unwrap();
        scene.arrived().await;
    }
    scene.assert_exactly_once().await;
}
