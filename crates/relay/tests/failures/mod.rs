//! Messages that a sink rejects: parked keys, parked messages, dead letters, on both stores.

pub(crate) mod keeper;
mod losses;
pub(crate) mod picky;

use std::{sync::Arc, time::Duration};

use posthaste_core::{Message, MessageId};
use posthaste_relay::{
    AtLimit, FailureSettings, Policy, Relay, RelaySettings, RetrySettings, State,
    SubscriptionSnapshot,
    sink::{Context, Mark},
};
use posthaste_store::{
    Acquired, Aside, FailedMessage, Operations, ParkedKey, ReplayChunk, Request, RewindTo,
    Selection, Store, SubscriptionStatus, rewind_handed_over,
};
use posthaste_testkit::eventually_async;

use self::{keeper::Keeper, picky::Picky};
use crate::pipeline::support::{LIMIT, Running, on_both_stores, settings, subscription};

on_both_stores!(
    r13_message_is_tried_three_times_then_a_dead_letter_and_its_key_moves_on,
    r13_message_carries_its_own_limit,
    r13_full_dead_letters_stop_the_subscription_and_drop_nothing,
    parked_key_waits_in_order_while_its_neighbours_go_on,
    parked_key_waits_across_a_restart,
    dead_letter_holds_its_key,
    keyless_message_is_parked_alone,
    park_message_lets_its_key_move_on,
    broken_destination_holds_its_own_keys_and_burns_no_attempts,
    what_waits_for_a_broken_destination_is_tried_by_one_message_at_a_time,
    lane_that_holds_the_publishers_turn_catches_up_with_its_sink,
    r14_replayed_dead_letter_arrives_before_its_followers,
    r14_discarded_dead_letter_lets_its_followers_arrive,
    published_messages_are_replayed_beside_the_stream,
    paused_subscription_publishes_nothing_until_it_is_resumed,
    relay_hands_over_what_is_rewound_and_publishes_it_again,
    messages_with_one_id_are_told_apart,
    hot_key_is_parked_while_its_neighbours_run_and_drained_afterwards,
);

/// Quick retries, many of them.
fn failure(policy: Policy) -> FailureSettings {
    let retry =
        RetrySettings { initial: Duration::from_millis(10), cap: Duration::from_millis(50) };
    FailureSettings { policy, attempts: 1_000, retry, ..FailureSettings::default() }
}

fn start(store: &Arc<dyn Operations>, picky: &Picky, failure: FailureSettings) -> Running {
    let mut subscription = subscription("test", &["*"], Arc::new(picky.clone()));
    subscription.failure = failure;
    let relay = Relay::new(
        Arc::clone(store) as Arc<dyn Store>,
        settings(),
        vec![subscription],
        Context::default(),
    );
    Running::start(relay)
}

/// Messages `a0`, `a1` … of the key `a`.
fn of_key(key: &str, range: std::ops::Range<u32>) -> Vec<Message> {
    range.map(|n| Message::new("t").key(key).text(format!("{key}{n}"))).collect()
}

fn texts(key: &str, range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| format!("{key}{n}")).collect()
}

async fn until(running: &Running, condition: impl Fn(&SubscriptionSnapshot) -> bool) {
    let waited = running.monitor.wait_for(|all| condition(&all[0]));
    let told = tokio::time::timeout(LIMIT, waited).await;
    assert_eq!(told, Ok(true), "{:?}", running.monitor.snapshot());
}

async fn taken(picky: &Picky, prefix: &str, expected: Vec<String>) {
    let what = format!("{} messages of {prefix}", expected.len());
    eventually_async(&what, LIMIT, async || picky.taken(prefix).len() >= expected.len()).await;
    assert_eq!(picky.taken(prefix), expected);
}

async fn status(store: &Arc<dyn Operations>) -> SubscriptionStatus {
    store.status().await.unwrap().subscriptions.remove(0)
}

async fn r13_message_is_tried_three_times_then_a_dead_letter_and_its_key_moves_on(
    store: Arc<dyn Operations>,
) {
    let picky = Picky::default();
    picky.reject("a1");
    store.append(&of_key("a", 0..5)).await.unwrap();
    let settings = FailureSettings { attempts: 3, ..failure(Policy::DeadLetter) };
    let running = start(&store, &picky, settings);
    taken(&picky, "a", ["a0", "a2", "a3", "a4"].map(str::to_owned).to_vec()).await;
    until(&running, |s| s.aside.dead_letters == 1 && s.aside.keys == 0).await;
    assert_eq!(picky.rejections("a1"), 3);
    running.drain().await.unwrap();
    let status = status(&store).await;
    assert_eq!((status.dead_letters, status.parked_keys, status.backlog), (1, 0, 0));
    let aside = store.aside("test").await.unwrap();
    assert_eq!(aside.messages[0].attempts, 3);
    assert_eq!(aside.messages[0].reason, "picky dislikes a1");
}

async fn r13_message_carries_its_own_limit(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    picky.reject("x");
    let message = Message::new("t").text("x").header("posthaste-max-attempts", "2");
    store.append(&[message]).await.unwrap();
    let running = start(&store, &picky, failure(Policy::ParkKey));
    until(&running, |s| s.aside.dead_letters == 1).await;
    assert_eq!(picky.rejections("x"), 2);
    running.drain().await.unwrap();
}

async fn r13_full_dead_letters_stop_the_subscription_and_drop_nothing(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    for text in texts("a", 0..4) {
        picky.reject(&text);
    }
    store.append(&of_key("a", 0..6)).await.unwrap();
    let settings =
        FailureSettings { attempts: 1, dead_letters_max: 3, ..failure(Policy::DeadLetter) };
    let running = start(&store, &picky, settings);
    until(&running, |s| s.state == State::Blocked && s.aside.dead_letters == 3).await;
    let error = running.monitor.snapshot()[0].last_error.clone().unwrap();
    assert!(error.contains("dead_letters_max") && error.contains("picky dislikes a3"), "{error}");
    assert!(picky.taken("a").is_empty());
    assert_eq!(status(&store).await.dead_letters, 3);
    picky.relent("a3");
    taken(&picky, "a", texts("a", 3..6)).await;
    running.drain().await.unwrap();
}

async fn parked_key_waits_in_order_while_its_neighbours_go_on(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    picky.reject("a3");
    picky.reject("b0");
    let running = start(&store, &picky, failure(Policy::ParkKey));
    for round in 0..20 {
        let range = round * 10..round * 10 + 10;
        let mut messages = of_key("a", range.clone());
        messages.extend(of_key("b", range.clone()));
        messages.extend(of_key("c", range));
        store.append(&messages).await.unwrap();
    }
    taken(&picky, "c", texts("c", 0..200)).await;
    until(&running, |s| s.aside.keys == 2).await;
    assert_eq!(picky.taken("a"), texts("a", 0..3));
    assert!(picky.taken("b").is_empty());
    // Nothing stands aside but two rows: followers wait in the log.
    assert_eq!(status(&store).await.parked_messages, 0);

    picky.relent("a3");
    let more = of_key("a", 200..210);
    store.append(&more).await.unwrap();
    taken(&picky, "a", texts("a", 0..210)).await;
    picky.relent("b0");
    taken(&picky, "b", texts("b", 0..200)).await;
    until(&running, |s| s.aside.keys == 0).await;
    store.append(&of_key("a", 210..220)).await.unwrap();
    taken(&picky, "a", texts("a", 0..220)).await;
    running.drain().await.unwrap();
    assert_eq!(status(&store).await.parked_keys, 0);
}

async fn parked_key_waits_across_a_restart(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    picky.reject("a1");
    store.append(&of_key("a", 0..3)).await.unwrap();
    let running = start(&store, &picky, failure(Policy::ParkKey));
    until(&running, |s| s.aside.keys == 1).await;
    running.drain().await.unwrap();

    store.append(&of_key("a", 3..6)).await.unwrap();
    store.append(&of_key("b", 0..3)).await.unwrap();
    let running = start(&store, &picky, failure(Policy::ParkKey));
    taken(&picky, "b", texts("b", 0..3)).await;
    assert_eq!(picky.taken("a"), ["a0"]);
    picky.relent("a1");
    taken(&picky, "a", texts("a", 0..6)).await;
    running.drain().await.unwrap();
}

async fn dead_letter_holds_its_key(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    picky.reject("a1");
    store.append(&of_key("a", 0..4)).await.unwrap();
    let settings = FailureSettings { attempts: 2, ..failure(Policy::ParkKey) };
    let running = start(&store, &picky, settings);
    until(&running, |s| s.aside.dead_letters == 1).await;
    store.append(&of_key("b", 0..2)).await.unwrap();
    taken(&picky, "b", texts("b", 0..2)).await;
    let aside = store.aside("test").await.unwrap();
    assert_eq!((aside.keys.len(), aside.messages.len()), (1, 1));
    assert_eq!((aside.keys[0].retry_in, aside.messages[0].holds_key), (None, true));
    assert_eq!(picky.taken("a"), ["a0"]);
    assert_eq!(picky.rejections("a1"), 2);
    running.drain().await.unwrap();
}

async fn keyless_message_is_parked_alone(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    picky.reject("n1");
    let messages: Vec<Message> =
        texts("n", 0..4).into_iter().map(|text| Message::new("t").text(text)).collect();
    store.append(&messages).await.unwrap();
    let running = start(&store, &picky, failure(Policy::ParkKey));
    taken(&picky, "n", ["n0", "n2", "n3"].map(str::to_owned).to_vec()).await;
    picky.relent("n1");
    taken(&picky, "n", ["n0", "n2", "n3", "n1"].map(str::to_owned).to_vec()).await;
    until(&running, |s| s.aside.messages == 0).await;
    running.drain().await.unwrap();
    assert!(store.aside("test").await.unwrap().messages.is_empty());
}

async fn park_message_lets_its_key_move_on(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    picky.reject("a0");
    picky.reject("a2");
    store.append(&of_key("a", 0..4)).await.unwrap();
    let settings = FailureSettings {
        parked_max: 1,
        at_limit: AtLimit::DeadLetter,
        ..failure(Policy::ParkMessage)
    };
    let running = start(&store, &picky, settings);
    taken(&picky, "a", ["a1", "a3"].map(str::to_owned).to_vec()).await;
    // Beyond the limit of what may be parked.
    until(&running, |s| (s.aside.messages, s.aside.dead_letters) == (1, 1)).await;
    picky.relent("a0");
    taken(&picky, "a", ["a1", "a3", "a0"].map(str::to_owned).to_vec()).await;
    running.drain().await.unwrap();
}

/// Messages of the keys `a` to `d`, those of `c` and `d` to another destination.
fn to_two_destinations(range: std::ops::Range<u32>) -> Vec<Message> {
    let of = |key: &str, topic: &str| {
        let text = |n| Message::new(topic).key(key).text(format!("{key}{n}"));
        range.clone().map(text).collect::<Vec<_>>()
    };
    [of("a", "full"), of("b", "full"), of("c", "free"), of("d", "free")].concat()
}

async fn broken_destination_holds_its_own_keys_and_burns_no_attempts(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    picky.break_down("full");
    store.append(&to_two_destinations(0..3)).await.unwrap();
    let quick = RetrySettings { initial: Duration::from_millis(5), cap: Duration::from_millis(9) };
    let mut subscription = subscription("test", &["*"], Arc::new(picky.clone()));
    // One attempt: a rejected message would be dead at once.
    subscription.failure = FailureSettings { attempts: 1, ..failure(Policy::DeadLetter) };
    let settings = RelaySettings { retry: quick, ..settings() };
    let relay = Relay::new(store.clone(), settings, vec![subscription], Context::default());
    let running = Running::start(relay);
    taken(&picky, "c", texts("c", 0..3)).await;
    taken(&picky, "d", texts("d", 0..3)).await;
    until(&running, |s| s.aside.keys == 2 && s.state == State::Running).await;
    store.append(&to_two_destinations(3..6)).await.unwrap();
    taken(&picky, "c", texts("c", 0..6)).await;
    let tried_again = async || picky.rejections("a0") + picky.rejections("b0") > 5;
    eventually_async("more attempts", LIMIT, tried_again).await;
    let keys = store.aside("test").await.unwrap().keys;
    assert!(keys.len() == 2 && keys.iter().all(|key| key.attempts == 0), "{keys:?}");
    assert!(picky.taken("a").is_empty() && picky.taken("b").is_empty());

    picky.mend("full");
    taken(&picky, "a", texts("a", 0..6)).await;
    taken(&picky, "b", texts("b", 0..6)).await;
    until(&running, |s| s.aside == posthaste_relay::Counts::default()).await;
    running.drain().await.unwrap();
}

async fn what_waits_for_a_broken_destination_is_tried_by_one_message_at_a_time(
    store: Arc<dyn Operations>,
) {
    let picky = Picky::default();
    picky.break_down("t");
    let keys: Vec<String> = (0..50).map(|n| format!("k{n:02}-")).collect();
    let messages: Vec<Message> = keys.iter().flat_map(|key| of_key(key, 0..2)).collect();
    store.append(&messages).await.unwrap();
    let mut subscription = subscription("test", &["*"], Arc::new(picky.clone()));
    subscription.failure = failure(Policy::ParkKey);
    let pause = Duration::from_millis(400);
    let settings =
        RelaySettings { retry: RetrySettings { initial: pause, cap: pause }, ..settings() };
    let relay = Relay::new(store.clone(), settings, vec![subscription], Context::default());
    let running = Running::start(relay);
    until(&running, |s| s.aside.keys == 50).await;
    let first = picky.knocks().len();
    let tried_thrice = async || picky.knocks().len() >= first + 3;
    eventually_async("three more tries", LIMIT, tried_thrice).await;
    // A wait is never shorter than a tenth of its ceiling.
    let knocks = picky.knocks();
    let gaps = knocks[first..].windows(2).map(|pair| pair[1] - pair[0]);
    assert!(gaps.clone().all(|gap| gap >= pause / 10), "{:?}", gaps.collect::<Vec<_>>());
    picky.mend("t");
    for key in &keys {
        taken(&picky, key, texts(key, 0..2)).await;
    }
    running.drain().await.unwrap();
}

/// A copy was taken and its relay ended before it wrote that down. The next relay's retry lane
/// connects for a key that has caught up with the publisher, so it holds the publisher's turn.
async fn lane_that_holds_the_publishers_turn_catches_up_with_its_sink(store: Arc<dyn Operations>) {
    let keeper = Keeper::new();
    let relay = |keeper: &Keeper| {
        let subscription = subscription("test", &["*"], Arc::new(keeper.clone()));
        Relay::new(store.clone(), settings(), vec![subscription], Context::default())
    };
    let copied = Message::new("t").text("copied");
    let id = store.append(&[copied]).await.unwrap()[0];
    relay(&keeper).run_once(std::future::pending()).await.unwrap();
    let settled = status(&store).await.progress.place;
    let taken = store.acquire("test", "hand", Duration::from_mins(1)).await.unwrap();
    let Acquired::Taken(epoch, _) = taken else { panic!("{taken:?}") };
    // The publisher is at the gate before the key is due, or there is nothing to catch up with.
    let wait = Duration::from_secs(3);
    let key = ParkedKey {
        key: "a".to_owned(),
        place: settled,
        message: id,
        attempts: 0,
        reason: "by hand".to_owned(),
        retry_in: Some(wait),
        parked_for: Duration::ZERO,
    };
    let copy = FailedMessage {
        position: 1,
        id,
        tick: settled.base.n,
        attempts: 0,
        reason: "by hand".to_owned(),
        retry_in: Some(Duration::from_hours(1)),
        holds_key: false,
    };
    let changes = [Aside::ParkKey(key), Aside::Keep(copy)];
    store.set_aside("test", epoch, &changes, None).await.unwrap();
    store.release("test", epoch).await.unwrap();

    keeper.shut();
    let text = format!("copies 1/{}", id.simple());
    keeper.keep("test:retries", Mark { calls: 1, text, missing: Vec::new() });
    let running = Running::start(relay(&keeper));
    store.append(&[of_key("b", 0..1), of_key("a", 0..1)].concat()).await.unwrap();
    let is_held = async || keeper.knocks() == 2;
    eventually_async("the publisher at the gate", LIMIT, is_held).await;
    // The key's attempt is due by then, and waits for the publisher's turn.
    tokio::time::sleep(wait + wait / 3).await;
    keeper.open();
    let all = async || keeper.taken() == ["copied", "b0", "a0"];
    eventually_async("both keys", LIMIT, all).await;
    until(&running, |s| s.aside == posthaste_relay::Counts::default()).await;
    running.drain().await.unwrap();
}

fn request() -> Request {
    Request { actor: "test".to_owned(), is_dry_run: false, is_forced: false }
}

/// A relay whose key `a` is held by the dead letter `a1`.
async fn held(store: &Arc<dyn Operations>, picky: &Picky) -> Running {
    picky.reject("a1");
    store.append(&of_key("a", 0..4)).await.unwrap();
    let settings = FailureSettings { attempts: 2, ..failure(Policy::ParkKey) };
    let running = start(store, picky, settings);
    until(&running, |s| s.aside.dead_letters == 1).await;
    running
}

async fn r14_replayed_dead_letter_arrives_before_its_followers(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    let running = held(&store, &picky).await;
    // Still refused: dead again, and its key still waits.
    store.replay_dead_letters(&Selection::default(), None, &request()).await.unwrap();
    let dead_again = async || picky.rejections("a1") == 4;
    eventually_async("two more attempts", LIMIT, dead_again).await;
    until(&running, |s| s.aside.dead_letters == 1).await;
    assert_eq!(picky.taken("a"), ["a0"]);

    picky.relent("a1");
    store.append(&of_key("a", 4..6)).await.unwrap();
    store.replay_dead_letters(&Selection::default(), None, &request()).await.unwrap();
    taken(&picky, "a", texts("a", 0..6)).await;
    until(&running, |s| s.aside == posthaste_relay::Counts::default()).await;
    running.drain().await.unwrap();
}

async fn r14_discarded_dead_letter_lets_its_followers_arrive(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    let running = held(&store, &picky).await;
    store.discard_dead_letters(&Selection::default(), &request()).await.unwrap();
    taken(&picky, "a", ["a0", "a2", "a3"].map(str::to_owned).to_vec()).await;
    running.drain().await.unwrap();
    assert_eq!(picky.rejections("a1"), 2);
}

async fn published_messages_are_replayed_beside_the_stream(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    store.append(&of_key("a", 0..3)).await.unwrap();
    let running = start(&store, &picky, failure(Policy::ParkKey));
    taken(&picky, "a", texts("a", 0..3)).await;
    until(&running, |s| s.settled.is_some_and(|place| place.base.n > 0)).await;
    let which = Selection { key: Some("a".to_owned()), ..Selection::default() };
    assert_eq!(
        store.replay(&which, "test", &ReplayChunk::default(), &request()).await.unwrap().messages,
        3
    );
    store.append(&of_key("b", 0..3)).await.unwrap();
    let again = [texts("a", 0..3), texts("a", 0..3)].concat();
    taken(&picky, "a", again).await;
    taken(&picky, "b", texts("b", 0..3)).await;
    running.drain().await.unwrap();
    assert!(store.aside("test").await.unwrap().messages.is_empty());
}

async fn paused_subscription_publishes_nothing_until_it_is_resumed(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    store.append(&of_key("a", 0..1)).await.unwrap();
    let running = start(&store, &picky, failure(Policy::ParkKey));
    taken(&picky, "a", texts("a", 0..1)).await;
    store.pause("test", true, &request()).await.unwrap();
    until(&running, |s| s.state == State::Paused).await;
    store.append(&of_key("a", 1..5)).await.unwrap();
    running.drain().await.unwrap();

    let running = start(&store, &picky, failure(Policy::ParkKey));
    until(&running, |s| s.state == State::Paused).await;
    assert_eq!(picky.taken("a"), texts("a", 0..1));
    assert_eq!(status(&store).await.backlog, 4);
    store.pause("test", false, &request()).await.unwrap();
    taken(&picky, "a", texts("a", 0..5)).await;
    until(&running, |s| s.state == State::Running).await;
    running.drain().await.unwrap();
}

async fn relay_hands_over_what_is_rewound_and_publishes_it_again(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    store.append(&of_key("a", 0..3)).await.unwrap();
    let running = start(&store, &picky, failure(Policy::ParkKey));
    taken(&picky, "a", texts("a", 0..3)).await;
    until(&running, |s| s.settled.is_some_and(|place| place.base.n > 0)).await;
    let to_beginning = async || {
        let request = request();
        rewind_handed_over(&*store, "test", RewindTo::Beginning, &request, LIMIT).await.unwrap()
    };
    assert_eq!(to_beginning().await.messages, Some(3));
    store.append(&of_key("a", 3..5)).await.unwrap();
    let again = [texts("a", 0..3), texts("a", 0..5)].concat();
    taken(&picky, "a", again.clone()).await;
    until(&running, |s| s.state == State::Running).await;
    // While it is paused as well: then it is published once it is resumed.
    store.pause("test", true, &request()).await.unwrap();
    until(&running, |s| s.state == State::Paused).await;
    assert_eq!(to_beginning().await.messages, Some(5));
    until(&running, |s| s.state == State::Paused).await;
    assert_eq!(picky.taken("a"), again);
    store.pause("test", false, &request()).await.unwrap();
    taken(&picky, "a", [again, texts("a", 0..5)].concat()).await;
    running.drain().await.unwrap();
}

/// Applications choose ids, and may choose one twice.
async fn messages_with_one_id_are_told_apart(store: Arc<dyn Operations>) {
    let picky = Picky::default();
    picky.reject("bad");
    let id = MessageId::from_u128(7);
    let with = |text: &str| Message::new("t").id(id).text(text);
    let settings = FailureSettings { attempts: 1, ..failure(Policy::DeadLetter) };
    store.append(&[with("good0"), with("bad")]).await.unwrap();
    let running = start(&store, &picky, settings.clone());
    until(&running, |s| s.aside.dead_letters == 1).await;
    taken(&picky, "good", vec!["good0".to_owned()]).await;
    running.drain().await.unwrap();
    // The dead letter stays one; what has its id is published, again and for the first time.
    let (to, request) = (RewindTo::Beginning, request());
    assert_eq!(store.rewind("test", to, &request).await.unwrap().messages, Some(1));
    store.append(&[with("good1"), with("good2").key("k")]).await.unwrap();
    let running = start(&store, &picky, settings.clone());
    let all = ["good0", "good0", "good1", "good2"].map(str::to_owned).to_vec();
    taken(&picky, "good", all.clone()).await;
    running.drain().await.unwrap();
    assert_eq!(status(&store).await.dead_letters, 1);
    // One that is set aside beside the dead letter is tried again.
    let patient = FailureSettings { attempts: 3, ..settings };
    store.append(&[with("bad")]).await.unwrap();
    let running = start(&store, &picky, patient);
    until(&running, |s| s.aside.dead_letters == 2).await;
    assert_eq!(picky.rejections("bad"), 1 + 3);
    running.drain().await.unwrap();
    assert_eq!(picky.taken("good"), all);
}

/// 20,000 followers of one key and as many of others; a million with `POSTHASTE_TEST_LONG`.
async fn hot_key_is_parked_while_its_neighbours_run_and_drained_afterwards(
    store: Arc<dyn Operations>,
) {
    let followers =
        if std::env::var_os("POSTHASTE_TEST_LONG").is_some() { 1_000_000 } else { 20_000 };
    let picky = Picky::default();
    picky.reject("hot0");
    let retry =
        RetrySettings { initial: Duration::from_millis(500), ..failure(Policy::ParkKey).retry };
    let settings = FailureSettings { retry, ..failure(Policy::ParkKey) };
    let settings = FailureSettings {
        retry: RetrySettings { cap: Duration::from_secs(1), ..retry },
        ..settings
    };
    let running = start(&store, &picky, settings);
    let mut written = 0;
    while written < followers {
        let range = written..written + 1_000;
        let messages = of_key("hot", range.clone()).into_iter().zip(of_key("cold", range));
        let messages: Vec<Message> = messages.flat_map(|(hot, cold)| [hot, cold]).collect();
        store.append(&messages).await.unwrap();
        written += 1_000;
    }
    let all_cold = async || picky.count("cold") == followers as usize;
    eventually_async("the neighbours", LIMIT * 10, all_cold).await;
    assert!(picky.taken("hot").is_empty() && picky.rejections("hot0") > 0);
    // One row stands aside, whatever waits behind it.
    let aside = store.aside("test").await.unwrap();
    assert_eq!((aside.keys.len(), aside.messages.len()), (1, 0));

    picky.relent("hot0");
    let all_hot = async || picky.count("hot") >= followers as usize;
    eventually_async("the followers", LIMIT * 10, all_hot).await;
    assert_eq!(picky.taken("hot"), texts("hot", 0..followers));
    assert_eq!(picky.taken("cold"), texts("cold", 0..followers));
    until(&running, |s| s.aside.keys == 0).await;
    running.drain().await.unwrap();
}
