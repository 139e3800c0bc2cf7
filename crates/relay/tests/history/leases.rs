//! Several relays over the same subscriptions: one holder each, and a takeover that loses nothing.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use posthaste_relay::{
    Monitor, Relay, RelaySettings, State, sink::Context, sinks::local::Delivery,
};
use posthaste_store::Store;
use posthaste_testkit::{Postgres, eventually_async, history};
use tokio::sync::mpsc::Receiver;

use super::{
    application::{self, Plan},
    scene::{self, Arrivals},
    seed::Seed,
    targets::{Mood, Moody},
};
use crate::pipeline::support::{
    LIMIT, Running, local, numbered, numbers, receive, settings, subscription,
};

async fn running(monitor: &Monitor) {
    let told = monitor.wait_for(|all| all[0].state == State::Running);
    assert_eq!(tokio::time::timeout(LIMIT, told).await, Ok(true));
}

/// What a relay holds, by name.
fn held(monitor: &Monitor) -> BTreeSet<String> {
    let all = monitor.snapshot().into_iter();
    all.filter(|it| it.state == State::Running).map(|it| it.name).collect()
}

#[tokio::test]
async fn second_relay_waits_until_the_first_has_drained() {
    let (_, store) = scene::prepare(Postgres::shared()).await;
    let (first, second) = (Arrivals::default(), Arrivals::default());
    let older = Running::start(scene::relay(&store, &first));
    running(&older.monitor).await;
    let newer = Running::start(scene::relay(&store, &second));
    // It has asked for it at least once.
    let knows = async || {
        let relay = posthaste_core::RelayView { holder: "test".into(), subscriptions: vec![] };
        store.renew(&relay, Duration::from_secs(5)).await.unwrap().relays.len() == 3
    };
    eventually_async("both relays", LIMIT, knows).await;
    assert!(held(&newer.monitor).is_empty());
    older.drain().await.unwrap();
    running(&newer.monitor).await;
    newer.drain().await.unwrap();
}

#[tokio::test]
async fn relay_that_is_gone_is_replaced_and_nothing_is_lost() {
    let (database, store) = scene::prepare(Postgres::shared()).await;
    let (first, second) = (Arrivals::default(), Arrivals::default());
    let older = Running::start(scene::relay(&store, &first));
    running(&older.monitor).await;
    let newer = Running::start(scene::relay(&store, &second));
    let seed = Seed::of("leases::relay_that_is_gone_is_replaced");
    let load = Duration::from_secs(2);
    let writing = application::write_for(&database, &seed, 4, load, |rng, _| Plan::random(rng));
    let killing = async {
        tokio::time::sleep(load / 4).await;
        older.kill().await;
        running(&newer.monitor).await;
    };
    tokio::join!(writing, killing);
    let recorded = scene::recorded(&database).await;
    let all = async || {
        let mut arrived = first.entries();
        arrived.extend(second.entries());
        history::check(&recorded, &arrived).is_at_least_once()
    };
    eventually_async("every message", LIMIT, all).await;
    newer.drain().await.unwrap();
    assert_eq!(store.status().await.unwrap().subscriptions[0].backlog, 0);
}

/// A relay with a subscription for each name, and their consumers.
fn relay(store: &Arc<dyn Store>, names: &[&str]) -> (Relay, Vec<Receiver<Delivery>>) {
    let context = Context::default();
    let consumers = names.iter().map(|name| context.locals.subscribe(name, 10)).collect();
    let subscriptions = names.iter().map(|name| subscription(name, &["*"], local(name))).collect();
    // Longer than a busy machine may hold up a renewal.
    let settings = RelaySettings { lease: Duration::from_secs(4), ..settings() };
    (Relay::new(Arc::clone(store), settings, subscriptions, context), consumers)
}

#[tokio::test]
async fn relays_share_their_subscriptions_evenly_and_alone_hold_all() {
    let store = crate::pipeline::support::store().await;
    let names = ["a", "b", "c", "d", "e", "f"];
    let (first, _consumers) = relay(&store, &names);
    let first = Running::start(first);
    let all = async || held(&first.monitor).len() == 6;
    eventually_async("one relay for all", LIMIT, all).await;
    let (second, _consumers) = relay(&store, &names);
    let second = Running::start(second);
    let shared = async || {
        let (one, two) = (held(&first.monitor), held(&second.monitor));
        one.len() == 3 && two.len() == 3 && one.is_disjoint(&two)
    };
    eventually_async("three for each", LIMIT, shared).await;
    second.drain().await.unwrap();
    eventually_async("all again", LIMIT, all).await;
    first.drain().await.unwrap();
}

#[tokio::test]
async fn subscription_that_its_relay_had_to_stop_is_taken_by_another_relay() {
    let store = crate::pipeline::support::store().await;
    let context = Context::default();
    let _consumer = context.locals.subscribe("b", 10);
    let wrong = Arc::new(Moody::new(Mood::Misconfigured));
    let subscriptions =
        vec![subscription("a", &["*"], wrong), subscription("b", &["*"], local("b"))];
    let stopped =
        Running::start(Relay::new(Arc::clone(&store), settings(), subscriptions, context));
    let is_stopped = async || {
        let all = stopped.monitor.snapshot();
        all[0].state == State::Stopped && all[1].state == State::Running
    };
    store.append(&numbered(0..1)).await.unwrap();
    eventually_async("one stopped, one running", LIMIT, is_stopped).await;
    let (other, mut consumers) = relay(&store, &["a", "b"]);
    let other = Running::start(other);
    assert_eq!(numbers(&receive(&mut consumers[0], 1).await), [0]);
    assert!(is_stopped().await && held(&other.monitor) == ["a".to_owned()].into());
    other.drain().await.unwrap();
    stopped.drain().await.unwrap_err();
}
