//! What a relay tells machines, asserted to the last message after scenarios with known ends.

mod flaky;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use posthaste_core::Message;
use posthaste_relay::{
    FailureSettings, Policy, Relay, RetrySettings,
    sink::{Context, Mark},
    telemetry::Telemetry,
};
use posthaste_store::{
    Store,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::{SqliteOptions, SqliteStore},
};
use posthaste_testkit::{Postgres, eventually_async, exposition::Scrape};

use self::flaky::Flaky;
use crate::{
    failures::{keeper::Keeper, picky::Picky},
    pipeline::support::{LIMIT, Running, on_both_stores, settings, subscription},
};

/// Long enough that nothing is read from the database a second time.
const ONCE: Duration = Duration::from_hours(1);

on_both_stores!(
    r38_counters_agree_with_a_rejected_message_that_became_a_dead_letter,
    r38_sink_that_is_away_is_counted_by_class_and_attempt,
    r38_gauges_of_the_database_are_read_apart_from_scrapes,
    r38_what_a_sink_has_lost_is_counted,
    r38_number_of_series_does_not_grow_with_topics_and_keys,
);

/// A value of the subscription `test`.
#[track_caller]
fn value(scrape: &Scrape, name: &str, labels: &[(&str, &str)]) -> u64 {
    let labels = [&[("subscription", "test")], labels].concat();
    scrape.value(&format!("posthaste_{name}"), &labels) as u64
}

fn scrape(telemetry: &Telemetry) -> Scrape {
    Scrape::parse(&telemetry.metrics())
}

/// When the values of the database were read.
fn read_at(scrape: &Scrape) -> Option<f64> {
    scrape.find("posthaste_observed_timestamp_seconds", &[])
}

/// What is told after one more read of the database.
async fn observed(telemetry: &Telemetry) -> Scrape {
    let before = read_at(&scrape(telemetry));
    let read = async || read_at(&scrape(telemetry)) != before;
    tokio::select! {
        () = telemetry.observe(ONCE) => unreachable!("it goes on"),
        () = eventually_async("values of the database", LIMIT, read) => scrape(telemetry),
    }
}

fn relay(store: &Arc<dyn Store>, picky: &Picky, failure: FailureSettings) -> Relay {
    let mut subscription = subscription("test", &["*"], Arc::new(picky.clone()));
    subscription.failure = failure;
    Relay::new(Arc::clone(store), settings(), vec![subscription], Context::default())
}

fn failure(policy: Policy, attempts: u32) -> FailureSettings {
    let retry =
        RetrySettings { initial: Duration::from_millis(10), cap: Duration::from_millis(50) };
    FailureSettings { policy, attempts, retry, ..FailureSettings::default() }
}

fn of_key(key: &str, range: std::ops::Range<u32>) -> Vec<Message> {
    range.map(|n| Message::new("t").key(key).text(format!("{key}{n}"))).collect()
}

async fn r38_what_a_sink_has_lost_is_counted(store: Arc<dyn Store>) {
    let keeper = Keeper::new();
    let publish = async |text: &str| {
        store.append(&[Message::new("t").text(text)]).await.unwrap();
        let subscription = subscription("test", &["*"], Arc::new(keeper.clone()));
        let store = Arc::clone(&store);
        let relay = Relay::new(store, settings(), vec![subscription], Context::default());
        let telemetry = relay.telemetry();
        relay.run_once(std::future::pending()).await.unwrap();
        let scrape = scrape(&telemetry);
        ["place", "tail", "retries"]
            .map(|what| value(&scrape, "sink_losses_total", &[("what", what)]))
    };
    assert_eq!(publish("kept").await, [0, 0, 0]);
    let kept = keeper.kept("test");
    assert_eq!(publish("lost").await, [0, 0, 0]);
    keeper.keep("test", kept);
    assert_eq!(publish("new").await, [0, 1, 0]);
    keeper.keep("test", Mark::default());
    assert_eq!(publish("newer").await, [1, 0, 0]);
    assert_eq!(keeper.taken(), ["kept", "lost", "lost", "new", "newer"]);
}

/// Five messages of a key, the second of which is rejected for good, and one that stands alone.
async fn r38_counters_agree_with_a_rejected_message_that_became_a_dead_letter(
    store: Arc<dyn Store>,
) {
    let picky = Picky::default();
    picky.reject("a1");
    picky.reject("n");
    let mut messages = of_key("a", 0..5);
    messages.push(Message::new("t").text("n"));
    store.append(&messages).await.unwrap();
    let relay = relay(&store, &picky, failure(Policy::DeadLetter, 3));
    let telemetry = relay.telemetry();
    let running = Running::start(relay);
    let waited = running.monitor.wait_for(|all| {
        all[0].published == 4 && all[0].aside.dead_letters == 2 && all[0].aside.keys == 0
    });
    assert_eq!(tokio::time::timeout(LIMIT, waited).await, Ok(true));
    running.drain().await.unwrap();

    let told = observed(&telemetry).await;
    assert_eq!(value(&told, "published_messages_total", &[]), 4);
    assert_eq!(value(&told, "rejected_messages_total", &[]), 6);
    let errors = |class| value(&told, "publish_errors_total", &[("class", class)]);
    // The first batch met both; then two of the key, and two of the message alone.
    assert_eq!((errors("rejected"), errors("not_taken")), (5, 3));
    assert_eq!((errors("unavailable"), errors("timeout")), (0, 0));
    // The rest of the key is the one batch without a failure.
    assert_eq!(value(&told, "publish_attempts_total", &[]), 6);
    assert_eq!(value(&told, "batch_messages_count", &[]), 6);
    assert_eq!(value(&told, "batch_messages_sum", &[]), 6 + 4 + 4 + 3 + 1 + 1);
    assert_eq!(value(&told, "batch_duration_seconds_count", &[]), 6);
    assert_eq!(value(&told, "commit_to_publish_seconds_count", &[]), 1, "a0 alone went straight");
    let aside = |what| value(&told, "set_aside_total", &[("what", what)]);
    let counts = (aside("parked_key"), aside("parked_message"), aside("dead_letter"));
    assert_eq!(counts, (1, 1, 2));
    let aside = |what| value(&told, "set_aside", &[("what", what)]);
    let now = (aside("parked_key"), aside("parked_message"), aside("dead_letter"));
    assert_eq!((now, value(&told, "backlog_messages", &[])), ((0, 0, 2), 0));
    assert_eq!(value(&told, "subscription_state", &[("state", "drained")]), 1);
    assert_eq!(value(&told, "retries_total", &[]), 0);
}

async fn r38_sink_that_is_away_is_counted_by_class_and_attempt(store: Arc<dyn Store>) {
    store.append(&of_key("a", 0..5)).await.unwrap();
    let target = Arc::new(Flaky::failing(3));
    let subscriptions = vec![subscription("test", &["*"], target)];
    let relay = Relay::new(Arc::clone(&store), settings(), subscriptions, Context::default());
    let telemetry = relay.telemetry();
    let running = Running::start(relay);
    assert!(running.monitor.wait_for(|all| all[0].published == 5).await);
    running.drain().await.unwrap();
    let told = observed(&telemetry).await;
    assert_eq!(value(&told, "publish_errors_total", &[("class", "unavailable")]), 3);
    assert_eq!(value(&told, "retries_total", &[]), 3);
    assert_eq!(value(&told, "publish_attempts_total", &[]), 4);
    assert_eq!(value(&told, "batch_duration_seconds_count", &[]), 1, "answers only");
    assert_eq!(value(&told, "commit_to_publish_seconds_count", &[]), 5);
    assert_eq!(value(&told, "published_messages_total", &[]), 5);
    // No other relay has ticked.
    let tick = store.status().await.unwrap().tick.n;
    assert_eq!(told.value("posthaste_ticks_total", &[]) as i64, tick);
    assert!(told.value("posthaste_looks_total", &[]) >= told.value("posthaste_ticks_total", &[]));
    assert!(!telemetry.is_alive(), "the relay has ended");
}

async fn r38_gauges_of_the_database_are_read_apart_from_scrapes(store: Arc<dyn Store>) {
    let picky = Picky::default();
    picky.reject("a0");
    store.append(&of_key("a", 0..4)).await.unwrap();
    let settings = FailureSettings { dead_letters_max: 0, ..failure(Policy::DeadLetter, 1) };
    let relay = relay(&store, &picky, settings);
    let telemetry = relay.telemetry();
    let running = Running::start(relay);
    assert!(running.monitor.wait_for(|all| all[0].retries > 0).await);
    let before = scrape(&telemetry);
    for family in ["observed_timestamp_seconds", "enqueued_positions_total", "log_messages"] {
        assert_eq!(before.find(&format!("posthaste_{family}"), &[]), None, "{family}");
    }
    let told = observed(&telemetry).await;
    assert_eq!(value(&told, "backlog_messages", &[]), 4);
    assert_eq!(told.value("posthaste_log_messages", &[]) as u64, 4);
    assert_eq!(told.value("posthaste_enqueued_positions_total", &[]) as u64, 4);
    assert_eq!(value(&told, "lease_held", &[]), 1);
    assert_eq!(value(&told, "lease_epoch", &[]), 1);
    let age = told.value("posthaste_oldest_message_age_seconds", &[("subscription", "test")]);
    assert!(age > 0.0 && age < LIMIT.as_secs_f64(), "{age}");
    assert_eq!(value(&told, "subscription_state", &[("state", "blocked")]), 1);

    // Another scrape asks nobody: it tells the same of the database.
    store.append(&of_key("b", 0..4)).await.unwrap();
    let again = scrape(&telemetry);
    assert_eq!(value(&again, "backlog_messages", &[]), 4);
    assert_eq!(read_at(&again), read_at(&told));
    running.drain().await.unwrap();
}

async fn r38_number_of_series_does_not_grow_with_topics_and_keys(store: Arc<dyn Store>) {
    let picky = Picky::default();
    let relay = relay(&store, &picky, failure(Policy::ParkKey, 1_000));
    let telemetry = relay.telemetry();
    let running = Running::start(relay);
    assert!(running.monitor.wait_for(|all| all[0].acquired).await);
    let before = observed(&telemetry).await;
    let many = |n: u32| {
        let text = format!("p{n}");
        picky.reject(&text);
        Message::new(format!("topic.{n}")).key(format!("key-{n}")).text(text)
    };
    store.append(&(0..100).map(many).collect::<Vec<_>>()).await.unwrap();
    assert!(running.monitor.wait_for(|all| all[0].aside.keys == 100).await);
    let after = observed(&telemetry).await;
    assert_eq!(before.series(), after.series());
    running.drain().await.unwrap();

    // Whatever a label says is known before the relay starts.
    let mut words = BTreeSet::new();
    for (_, labels, _) in &after.samples {
        let known = labels.iter().filter(|(label, _)| !["le", "subscription"].contains(&&***label));
        words.extend(known.map(|(_, value)| value.clone()));
    }
    let page = posthaste_relay::telemetry::reference();
    for word in words {
        assert!(page.contains(&format!("`{word}`")), "{word}");
    }
}

#[tokio::test]
async fn r38_log_above_its_size_is_told_with_what_pins_it() {
    let directory = tempfile::tempdir().unwrap();
    let options =
        SqliteOptions { create: true, retention_bytes: Some(1), ..SqliteOptions::default() };
    let store = SqliteStore::open(directory.path().join("log.db"), &options).await.unwrap();
    store.migrate().await.unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    store.append(&of_key("a", 0..3)).await.unwrap();
    let telemetry = relay(&store, &Picky::default(), FailureSettings::default()).telemetry();
    let pinned = |told: &Scrape, by| told.value("posthaste_log_pinned", &[("by", by)]) as u64;
    let told = observed(&telemetry).await;
    assert_eq!((pinned(&told, "unread"), pinned(&told, "subscription")), (1, 0));
    assert_eq!(told.value("posthaste_log_bytes_max", &[]) as u64, 1);
    assert!(told.value("posthaste_log_bytes", &[]) > 100.0);

    store
        .reconcile(&[subscription("test", &["*"], Arc::new(Picky::default())).spec])
        .await
        .unwrap();
    let told = observed(&telemetry).await;
    assert_eq!((pinned(&told, "unread"), pinned(&told, "subscription")), (0, 1));
}

#[test]
fn r38_scrape_holds_every_metric_of_the_reference_page_and_nothing_else() {
    let options = PostgresOptions::default();
    let store = PostgresStore::connect("postgres://nobody@127.0.0.1:1/none", &options);
    let Ok(store) = store else { unreachable!("it connects when it is used") };
    let store: Arc<dyn Store> = Arc::new(store);
    let told = scrape(&relay(&store, &Picky::default(), FailureSettings::default()).telemetry());
    let page = posthaste_relay::telemetry::reference();
    let row = |line: &str| {
        let mut cells = line.split('|').map(|cell| cell.trim().trim_matches('`').to_owned());
        Some((cells.nth(1)?, cells.next()?))
    };
    let is_kind =
        |(_, kind): &(String, String)| ["counter", "gauge", "histogram"].contains(&kind.as_str());
    let listed: Vec<_> = page.lines().filter_map(row).filter(is_kind).collect();
    assert!(listed.len() > 20);
    assert_eq!(told.families, listed);
}

#[tokio::test]
async fn r38_late_transactions_are_counted() {
    let database = Postgres::shared().database().await;
    let store = PostgresStore::connect(database.url(), &PostgresOptions::default()).unwrap();
    store.migrate().await.unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    let relay = relay(&store, &Picky::default(), FailureSettings::default());
    let telemetry = relay.telemetry();
    let running = Running::start(relay);
    let mut client = database.connect().await;
    let open = client.transaction().await.unwrap();
    let enqueue = "select posthaste.enqueue('t', '{}')";
    open.execute(enqueue, &[]).await.unwrap();
    // A message of somebody else closes a window while that transaction is in progress.
    store.append(&of_key("a", 0..1)).await.unwrap();
    assert!(running.monitor.wait_for(|all| all[0].published == 1).await);
    assert_eq!(scrape(&telemetry).find("posthaste_late_transactions_total", &[]), Some(0.0));
    open.commit().await.unwrap();
    assert!(running.monitor.wait_for(|all| all[0].published == 2).await);
    assert_eq!(scrape(&telemetry).find("posthaste_late_transactions_total", &[]), Some(1.0));
    running.drain().await.unwrap();
}
