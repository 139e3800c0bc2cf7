//! Messages that break the contract of their topic, or whose contract is not known yet, on both
//! stores.

mod redis_stream;

use std::{sync::Arc, time::Duration};

use posthaste_core::{Message, TopicFilter};
use posthaste_relay::{
    ContractSettings, Counts, FailureSettings, OnBreach, Policy, Relay, RelaySettings,
    RetrySettings, SubscriptionSnapshot, sink::Context, telemetry::Telemetry,
};
use posthaste_store::{ContractText, FailedMessage, Operations, Request, Selection, Store};
use posthaste_testkit::{eventually_async, exposition::Scrape};

use crate::{
    failures::picky::Picky,
    pipeline::support::{LIMIT, Running, on_both_stores, settings, subscription},
};

on_both_stores!(
    r31_breach_is_parked_with_its_path_and_its_neighbours_go_on,
    r31_breach_is_a_dead_letter_without_further_attempts,
    r31_breaches_are_published_and_counted_where_that_is_asked_for,
    r31_nobody_looks_where_contracts_are_off,
    r31_message_of_an_unknown_version_waits_for_it_and_its_key_stays_in_order,
    r31_message_of_a_required_topic_waits_for_its_contract,
    contract_that_cannot_be_read_holds_its_messages_until_it_is_removed,
    key_moves_on_past_a_breach_where_messages_are_parked_alone,
    replayed_dead_letter_is_checked_with_the_contracts_of_its_day,
    large_deep_and_undecodable_payloads_are_judged_like_others,
);

/// An order is a number.
const ORDER: &str = r#"{
  "type": "object", "required": ["order"], "properties": { "order": { "type": "integer" } }
}"#;

fn request() -> Request {
    Request { actor: "test".to_owned(), is_dry_run: false, is_forced: false }
}

async fn push(store: &Arc<dyn Operations>, topic: &str, version: u32, schema: &str) {
    let contract = ContractText { topic: topic.to_owned(), version, schema: schema.to_owned() };
    assert_eq!(store.push_contracts(&[contract], &request()).await.unwrap(), [true]);
}

/// A message of the key `key` that keeps the contract; `name` tells it apart.
fn good(key: &str, name: &str) -> Message {
    order(key, format!(r#"{{"order":1,"name":"{name}"}}"#)).contract(1)
}

/// One that does not.
fn bad(key: &str, name: &str) -> Message {
    order(key, format!(r#"{{"order":"secret","name":"{name}"}}"#)).contract(1)
}

fn order(key: &str, payload: String) -> Message {
    Message::new("orders").key(key).bytes("application/json", payload)
}

/// Quick retries.
fn failure(policy: Policy, attempts: u32) -> FailureSettings {
    let retry =
        RetrySettings { initial: Duration::from_millis(10), cap: Duration::from_millis(50) };
    FailureSettings { policy, attempts, retry, ..FailureSettings::default() }
}

/// Looks for contracts all the time.
fn prompt() -> RelaySettings {
    RelaySettings { contracts_interval: Duration::from_millis(20), ..settings() }
}

fn relay(
    store: &Arc<dyn Operations>,
    picky: &Picky,
    failure: FailureSettings,
    contracts: ContractSettings,
) -> Relay {
    let mut subscription = subscription("test", &["*"], Arc::new(picky.clone()));
    (subscription.failure, subscription.contracts) = (failure, contracts);
    let store = Arc::clone(store) as Arc<dyn Store>;
    Relay::new(store, prompt(), vec![subscription], Context::default())
}

fn on_breach(on_breach: OnBreach) -> ContractSettings {
    ContractSettings { on_breach, ..ContractSettings::default() }
}

async fn until(running: &Running, condition: impl Fn(&SubscriptionSnapshot) -> bool) {
    let waited = running.monitor.wait_for(|all| condition(&all[0]));
    let told = tokio::time::timeout(LIMIT, waited).await;
    assert_eq!(told, Ok(true), "{:?}", running.monitor.snapshot());
}

/// The names of what was taken.
fn names(picky: &Picky) -> Vec<String> {
    let name = |payload: &String| {
        let payload: serde_json::Value = serde_json::from_str(payload).unwrap();
        payload["name"].as_str().unwrap().to_owned()
    };
    picky.taken("").iter().map(name).collect()
}

async fn taken(picky: &Picky, expected: &[&str]) {
    let what = format!("{} messages", expected.len());
    eventually_async(&what, LIMIT, async || names(picky).len() >= expected.len()).await;
    assert_eq!(names(picky), expected);
}

/// What is counted of the subscription `test`.
fn counted(telemetry: &Telemetry, name: &str, labels: &[(&str, &str)]) -> u64 {
    let labels = [&[("subscription", "test")], labels].concat();
    Scrape::parse(&telemetry.metrics()).value(&format!("posthaste_{name}"), &labels) as u64
}

fn breaches(telemetry: &Telemetry, code: &str) -> u64 {
    counted(telemetry, "contract_breaches_total", &[("code", code)])
}

async fn aside(store: &Arc<dyn Operations>) -> Vec<FailedMessage> {
    store.aside("test").await.unwrap().messages
}

async fn r31_breach_is_parked_with_its_path_and_its_neighbours_go_on(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    push(&store, "orders", 1, ORDER).await;
    let other = Message::new("other").text(r#"{"name":"other"}"#);
    let messages = [good("a", "a0"), bad("a", "a1"), good("a", "a2"), good("b", "b0"), other];
    store.append(&messages).await.unwrap();
    let failure = failure(Policy::DeadLetter, 3);
    let relay = relay(&store, &picky, failure, ContractSettings::default());
    let telemetry = relay.telemetry();
    let running = Running::start(relay);
    // Its attempts run out as if the sink had rejected it, and then its key moves on.
    taken(&picky, &["a0", "b0", "other", "a2"]).await;
    until(&running, |s| s.aside == Counts { dead_letters: 1, ..Counts::default() }).await;
    running.drain().await.unwrap();
    let [dead] = aside(&store).await.try_into().unwrap();
    assert_eq!(dead.attempts, 3);
    assert_eq!(
        dead.reason,
        "topic \"orders\" does not keep contract version 1: /order: not of type integer"
    );
    assert_eq!(["violation", "no-version"].map(|code| breaches(&telemetry, code)), [3, 0]);
    // None of them is the sink's.
    assert_eq!(counted(&telemetry, "rejected_messages_total", &[]), 0);
}

async fn r31_breach_is_a_dead_letter_without_further_attempts(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    push(&store, "orders", 1, ORDER).await;
    let unversioned = order("c", r#"{"order":1,"name":"c0"}"#.to_owned());
    let misversioned = unversioned.clone().key("d").header("posthaste-contract", "v1");
    let messages = [bad("a", "a0"), good("a", "a1"), unversioned, misversioned, good("b", "b0")];
    store.append(&messages).await.unwrap();
    let failure = failure(Policy::ParkKey, 1_000);
    let relay = relay(&store, &picky, failure, on_breach(OnBreach::DeadLetter));
    let running = Running::start(relay);
    taken(&picky, &["b0"]).await;
    until(&running, |s| s.aside.dead_letters == 3).await;
    let dead = aside(&store).await;
    assert!(dead.iter().all(|it| it.attempts == 1 && it.holds_key), "{dead:?}");
    // The key waits for a person, as the failure policy says.
    assert_eq!(names(&picky), ["b0"]);
    store.discard_dead_letters(&Selection::default(), &request()).await.unwrap();
    taken(&picky, &["b0", "a1"]).await;
    running.drain().await.unwrap();
}

async fn r31_breaches_are_published_and_counted_where_that_is_asked_for(
    store: Arc<dyn Operations>,
) {
    let picky = Picky::default();
    push(&store, "orders", 1, ORDER).await;
    let unknown = order("a", r#"{"order":1,"name":"a2"}"#.to_owned()).contract(2);
    let unversioned = order("a", r#"{"order":1,"name":"a3"}"#.to_owned());
    let messages = [good("a", "a0"), bad("a", "a1"), unknown, unversioned];
    store.append(&messages).await.unwrap();
    let failure = failure(Policy::ParkKey, 1_000);
    let relay = relay(&store, &picky, failure, on_breach(OnBreach::Publish));
    let telemetry = relay.telemetry();
    relay.run_once(std::future::pending()).await.unwrap();
    assert_eq!(names(&picky), ["a0", "a1", "a2", "a3"]);
    let codes = ["no-version", "bad-version", "unknown-topic", "unknown-version", "violation"];
    assert_eq!(codes.map(|code| breaches(&telemetry, code)), [1, 0, 0, 1, 1]);
}

async fn r31_nobody_looks_where_contracts_are_off(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    push(&store, "orders", 1, ORDER).await;
    store.append(&[bad("a", "a0"), good("a", "a1")]).await.unwrap();
    let relay = relay(&store, &picky, failure(Policy::ParkKey, 1), on_breach(OnBreach::Off));
    relay.run_once(std::future::pending()).await.unwrap();
    assert_eq!(names(&picky), ["a0", "a1"]);
}

async fn r31_message_of_an_unknown_version_waits_for_it_and_its_key_stays_in_order(
    store: Arc<dyn Operations>,
) {
    let picky = Picky::default();
    push(&store, "orders", 1, ORDER).await;
    let newer =
        |name: &str| Message::new("orders").contract(2).text(format!(r#"{{"name":"{name}"}}"#));
    let messages =
        [good("a", "a0"), newer("a1").key("a"), good("a", "a2"), newer("n"), good("b", "b0")];
    store.append(&messages).await.unwrap();
    // One attempt: what burned one would be dead at once.
    let failure = failure(Policy::DeadLetter, 1);
    let relay = relay(&store, &picky, failure, on_breach(OnBreach::DeadLetter));
    let running = Running::start(relay);
    taken(&picky, &["a0", "b0"]).await;
    until(&running, |s| (s.aside.keys, s.aside.messages) == (1, 1)).await;
    let waits = store.aside("test").await.unwrap();
    assert_eq!((waits.keys[0].attempts, waits.messages[0].attempts), (0, 0));
    assert!(waits.keys[0].reason.contains("version 2 is not known here"), "{waits:?}");
    store.append(&[good("b", "b1"), good("a", "a3")]).await.unwrap();
    taken(&picky, &["a0", "b0", "b1"]).await;

    push(&store, "orders", 2, "true").await;
    until(&running, |s| s.aside == Counts::default()).await;
    let of = |prefix: &str| -> Vec<String> {
        names(&picky).into_iter().filter(|name| name.starts_with(prefix)).collect()
    };
    assert_eq!(
        (of("a"), of("n")),
        (["a0", "a1", "a2", "a3"].map(str::to_owned).to_vec(), vec!["n".to_owned()])
    );
    running.drain().await.unwrap();
}

async fn r31_message_of_a_required_topic_waits_for_its_contract(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    let other = Message::new("other").text(r#"{"name":"other"}"#);
    store.append(&[good("a", "a0"), good("a", "a1"), other]).await.unwrap();
    let required = Some(TopicFilter::new(&["ord*"]).unwrap());
    let contracts = ContractSettings { required, ..ContractSettings::default() };
    let running = Running::start(relay(&store, &picky, failure(Policy::DeadLetter, 1), contracts));
    taken(&picky, &["other"]).await;
    until(&running, |s| s.aside.keys == 1).await;
    let reason = store.aside("test").await.unwrap().keys[0].reason.clone();
    assert!(reason.contains("no contract of it is known here"), "{reason}");
    push(&store, "orders", 1, ORDER).await;
    taken(&picky, &["other", "a0", "a1"]).await;
    running.drain().await.unwrap();
}

async fn contract_that_cannot_be_read_holds_its_messages_until_it_is_removed(
    store: Arc<dyn Operations>,
) {
    let picky = Picky::default();
    push(&store, "orders", 1, r#"{"type":"no such type"}"#).await;
    let other = Message::new("other").text(r#"{"name":"other"}"#);
    store.append(&[good("a", "a0"), other]).await.unwrap();
    let failure = failure(Policy::DeadLetter, 1);
    let running = Running::start(relay(&store, &picky, failure, ContractSettings::default()));
    taken(&picky, &["other"]).await;
    until(&running, |s| s.aside.keys == 1).await;
    assert!(store.remove_contract("orders", 1, &request()).await.unwrap());
    taken(&picky, &["other", "a0"]).await;
    running.drain().await.unwrap();
}

async fn key_moves_on_past_a_breach_where_messages_are_parked_alone(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    push(&store, "orders", 1, ORDER).await;
    store.append(&[good("a", "a0"), bad("a", "a1"), good("a", "a2")]).await.unwrap();
    let failure = failure(Policy::ParkMessage, 1_000);
    let running = Running::start(relay(&store, &picky, failure, ContractSettings::default()));
    taken(&picky, &["a0", "a2"]).await;
    until(&running, |s| (s.aside.keys, s.aside.messages) == (0, 1)).await;
    running.drain().await.unwrap();
}

async fn replayed_dead_letter_is_checked_with_the_contracts_of_its_day(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    push(&store, "orders", 1, ORDER).await;
    store.append(&[bad("a", "a0")]).await.unwrap();
    let failure = failure(Policy::DeadLetter, 1);
    let relay = relay(&store, &picky, failure, ContractSettings::default());
    let telemetry = relay.telemetry();
    let running = Running::start(relay);
    until(&running, |s| s.aside.dead_letters == 1).await;
    let replay = async || {
        store.replay_dead_letters(&Selection::default(), None, &request()).await.unwrap();
    };
    replay().await;
    let is_checked_again = async || breaches(&telemetry, "violation") == 2;
    eventually_async("another attempt", LIMIT, is_checked_again).await;
    until(&running, |s| s.aside.dead_letters == 1).await;
    assert!(names(&picky).is_empty());

    // Removed because it was wrong, and pushed anew.
    assert!(store.remove_contract("orders", 1, &request()).await.unwrap());
    push(&store, "orders", 1, "true").await;
    store.append(&[bad("b", "b0")]).await.unwrap();
    taken(&picky, &["b0"]).await;
    replay().await;
    taken(&picky, &["b0", "a0"]).await;
    running.drain().await.unwrap();
}

async fn large_deep_and_undecodable_payloads_are_judged_like_others(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    push(&store, "orders", 1, ORDER).await;
    let raw = |key: &str, payload: Vec<u8>| {
        Message::new("orders").key(key).contract(1).bytes("application/json", payload)
    };
    let large = format!(r#"{{"order":1,"name":"large","fill":"{}"}}"#, "x".repeat(3 << 20));
    let large_and_bad = large.replace(r#""order":1"#, r#""order":"1""#);
    let messages = [
        raw("a", large.into()),
        raw("b", large_and_bad.into()),
        raw("c", vec![b'['; 1 << 20]),
        raw("d", br#"{"order":"#.repeat(1_000)),
        raw("e", b"{\"order\":1,\"name\":\"\xff\"}".to_vec()),
        raw("f", Vec::new()),
        raw("g", br#"{"order":1,"name":"last"}"#.to_vec()),
    ];
    store.append(&messages).await.unwrap();
    let relay =
        relay(&store, &picky, failure(Policy::DeadLetter, 1_000), on_breach(OnBreach::DeadLetter));
    relay.run_once(std::future::pending()).await.unwrap();
    assert_eq!(names(&picky), ["large", "last"]);
    let dead = aside(&store).await;
    assert_eq!(dead.len(), 5, "{dead:?}");
    assert!(dead.iter().all(|it| it.reason.len() < 200 && !it.reason.contains("xx")), "{dead:?}");
}
