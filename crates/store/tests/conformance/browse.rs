//! What people see of the log: lists by every filter, page by page, and a message's timeline.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use posthaste_core::{Message, MessageId, Timestamp, TopicFilter};
use posthaste_store::{
    Aside, FailedMessage, ListedMessage, MessageDetail, MessageFilter, MessageState, Operations,
    ParkedKey, Settled, Start, Store, StoreErrorKind,
};
use posthaste_testkit::eventually_async;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::{
    harness::{Harness, migrated},
    reader::{publish_all, subscription, tick},
};
use crate::taking::taken;

/// Nothing here takes longer on a machine that is busy.
const LIMIT: Duration = Duration::from_mins(2);
/// Far beyond every run of these tests.
const NEVER: Timestamp = Timestamp(4_000_000_000_000_000);

pub(crate) fn any() -> MessageFilter {
    MessageFilter::default()
}

fn topics(pattern: &str) -> Vec<TopicFilter> {
    vec![TopicFilter::new(&[pattern]).unwrap()]
}

pub(crate) fn in_state(state: MessageState) -> MessageFilter {
    MessageFilter { state: Some(state), ..any() }
}

/// All pages of a filter, each of at most `limit`.
async fn pages(store: &dyn Operations, which: &MessageFilter, limit: u32) -> Vec<ListedMessage> {
    let (mut which, mut all) = (which.clone(), Vec::new());
    loop {
        let page = store.messages(&which, limit).await.unwrap();
        assert!(page.messages.len() <= limit as usize, "{page:?}");
        all.extend(page.messages);
        let Some(next) = page.next else { return all };
        assert_ne!(which.before, Some(next), "a page moves on");
        which.before = Some(next);
    }
}

pub(crate) async fn ids(store: &dyn Operations, which: &MessageFilter) -> Vec<MessageId> {
    let all = pages(store, which, 3).await;
    assert_eq!(pages(store, which, 200).await, all, "{which:?}");
    all.into_iter().map(|message| message.id).collect()
}

async fn find(store: &dyn Operations, id: MessageId) -> MessageDetail {
    store.message(id, true).await.unwrap().unwrap()
}

/// Of `all`, the newest first.
pub(crate) fn newest(all: &[MessageId], at: &[usize]) -> Vec<MessageId> {
    at.iter().rev().map(|at| all[*at]).collect()
}

pub(crate) async fn every_filter_finds_what_it_names_and_nothing_else<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let browse = harness.operations().await;
    let own = MessageId::new_v4();
    let long = "k".repeat(512);
    let messages = [
        Message::new("a").key("k").correlation_id("c"),
        Message::new("a.b").header("h", "1").header("g", "2"),
        Message::new("a.b.c").key("k").header("h", "2").header("1", "h"),
        Message::new("b").key(&*long).correlation_id("c").id(own),
        Message::new("a").key("l").correlation_id("C").text("text"),
    ];
    let all = store.append(&messages).await.unwrap();
    let key = |key: &str| MessageFilter { key: Some(key.to_owned()), ..any() };
    let correlation = |id: &str| MessageFilter { correlation_id: Some(id.to_owned()), ..any() };
    let topic = |pattern: &str| MessageFilter { topics: topics(pattern), ..any() };
    let header = |name: &str, value: &str| MessageFilter {
        header: Some((name.to_owned(), value.to_owned())),
        since: Some(Timestamp(NEVER.0 - 86_400_000_000)),
        until: Some(NEVER),
        ..any()
    };
    for (which, expected) in [
        (any(), &[0, 1, 2, 3, 4][..]),
        (topic("a"), &[0, 4]),
        (topic("a.*"), &[1, 2]),
        (topic("a*"), &[0, 1, 2, 4]),
        (topic("*"), &[0, 1, 2, 3, 4]),
        (topic("a."), &[]),
        (topic("zz*"), &[]),
        (key("k"), &[0, 2]),
        (key(&long), &[3]),
        (key("'"), &[]),
        (correlation("c"), &[0, 3]),
        (correlation("\u{e4}"), &[]),
        (MessageFilter { id: Some(own), ..any() }, &[3]),
        (MessageFilter { id: Some(MessageId::nil()), ..any() }, &[]),
        (MessageFilter { id: Some(own), ..topic("a*") }, &[]),
        (MessageFilter { topics: topics("a.*"), ..key("k") }, &[2]),
        (MessageFilter { topics: topics("b"), key: Some(long.clone()), ..correlation("c") }, &[3]),
        (MessageFilter { topics: [topics("a*"), topics("a.b*")].concat(), ..any() }, &[1, 2]),
        // Nobody has written it then.
        (header("h", "1"), &[]),
    ] {
        assert_eq!(ids(&*browse, &which).await, newest(&all, expected), "{which:?}");
    }
    let written: Vec<i64> =
        pages(&*browse, &any(), 9).await.iter().rev().map(|it| it.enqueued_at.0).collect();
    let since = Some(Timestamp(written[0] - 1_000_000));
    let until = Some(Timestamp(written[4] + 1_000_000));
    for ((name, value), expected) in [
        (("h", "1"), &[1][..]),
        (("h", "2"), &[2]),
        (("1", "h"), &[2]),
        (("g", "h"), &[]),
        (("2", "h"), &[]),
    ] {
        let which = MessageFilter { since, until, ..header(name, value) };
        assert_eq!(ids(&*browse, &which).await, newest(&all, expected), "{which:?}");
    }
    let listed = browse.messages(&any(), 1).await.unwrap().messages.remove(0);
    assert_eq!((listed.payload_bytes, &*listed.content_type), (4, "text/plain; charset=utf-8"));
    assert_eq!((listed.key.as_deref(), listed.correlation_id.as_deref()), (Some("l"), Some("C")));
    let open = MessageFilter { until: None, ..header("h", "1") };
    let refused = browse.messages(&open, 1).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Invalid);
}

pub(crate) async fn messages_are_found_by_the_time_at_which_they_were_written<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let browse = harness.operations().await;
    // Several slots, whose messages lie minutes apart.
    let mut all = Vec::new();
    for round in 0..5 {
        let some: Vec<Message> = (0..70).map(|_| Message::new(format!("t{round}"))).collect();
        all.extend(store.append(&some).await.unwrap());
    }
    harness.spread_times(60_000_000).await;
    let listed = pages(&*browse, &any(), 200).await;
    let time = |nth: usize| Some(listed[listed.len() - 1 - nth].enqueued_at);
    for (since, until) in [(0, 349), (3, 4), (99, 101), (120, 320), (349, 349)] {
        let which = MessageFilter { since: time(since), until: time(until), ..any() };
        let expected: Vec<MessageId> = all[since..until].iter().rev().copied().collect();
        let found = pages(&*browse, &which, 50).await;
        assert!(found.iter().map(|it| it.id).eq(expected), "{since} to {until}");
    }
    let which = MessageFilter { since: time(100), topics: topics("t1"), ..any() };
    assert_eq!(pages(&*browse, &which, 9).await.len(), 40);
    let which = MessageFilter { until: time(0), ..any() };
    assert!(pages(&*browse, &which, 9).await.is_empty());
    let which = MessageFilter { since: Some(NEVER), ..any() };
    assert!(pages(&*browse, &which, 9).await.is_empty());
}

pub(crate) async fn pages_hold_every_message_once_while_others_arrive<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let browse = harness.operations().await;
    // More than two slots, and some that wait.
    let mut all = Vec::new();
    for _ in 0..5 {
        all.extend(store.append(&vec![Message::new("t").key("k"); 50]).await.unwrap());
    }
    let later = Message::new("t").key("k").deliver_at(NEVER);
    let waiting = store.append(&vec![later; 4]).await.unwrap();
    for which in [
        any(),
        MessageFilter { topics: topics("t"), ..any() },
        MessageFilter { key: Some("k".to_owned()), ..any() },
    ] {
        let (mut seen, mut place) = (Vec::new(), None);
        loop {
            let asked = MessageFilter { before: place, ..which.clone() };
            let page = browse.messages(&asked, 7).await.unwrap();
            seen.extend(page.messages.iter().map(|message| message.id));
            // Whatever comes now stands before the first page.
            store.append(&[Message::new("t").key("k")]).await.unwrap();
            let Some(next) = page.next else { break };
            place = Some(next);
        }
        assert_eq!(seen[..4], newest(&waiting, &[0, 1, 2, 3]));
        let expected: Vec<MessageId> = all.iter().rev().copied().collect();
        // Some came before the first page of the log was read.
        assert!(seen.ends_with(&expected), "{which:?}");
        all = browse_all(&*browse).await;
    }
    let page = browse.messages(&any(), 10_000).await.unwrap();
    assert_eq!(page.messages.len(), 200, "no page has more");
}

/// The log, oldest first.
async fn browse_all(browse: &dyn Operations) -> Vec<MessageId> {
    let mut all = pages(browse, &any(), 200).await;
    all.retain(|message| message.position.is_some());
    all.iter().rev().map(|message| message.id).collect()
}

/// Messages in every state: what each subscription has set aside, and what it has yet to read.
struct Scene {
    browse: Arc<dyn Operations>,
    store: Arc<dyn Store>,
    ids: Vec<MessageId>,
}

/// `s` reads a*, b*, c; `t` reads b*; nobody reads d. The first six were seen by both, and `s` parks the key `k` behind
/// the third, keeps the fourth until its next attempt and has the second as a dead letter.
async fn scene<H: Harness>() -> (H, Scene) {
    let (harness, store) = migrated::<H>().await;
    let browse = harness.operations().await;
    let specs = [
        subscription("s", &["a*", "b*", "c"], Start::Beginning),
        subscription("t", &["b*"], Start::Beginning),
    ];
    store.reconcile(&specs).await.unwrap();
    let message = |topic: &str, key: &str| Message::new(topic).key(key).text("p").header("h", "1");
    let first = [
        message("a", "x"),
        message("b", "y"),
        message("a", "k"),
        message("b.1", "z"),
        message("b", "k"),
        message("d", "x"),
    ];
    let mut ids = store.append(&first).await.unwrap();
    let head = tick(store.ticker().as_mut()).await;
    let (epoch, start) = taken(&*store, "s", "one").await;
    let failed = |position: i64, retry_in| FailedMessage {
        position,
        id: ids[position as usize - 1],
        tick: head.n,
        attempts: 3,
        reason: format!("no {position}"),
        retry_in,
        holds_key: false,
    };
    let parked = ParkedKey {
        key: "k".to_owned(),
        place: start.moved_to(head, 2, None),
        message: ids[2],
        attempts: 2,
        reason: "not yet".to_owned(),
        retry_in: Some(Duration::from_hours(1)),
        parked_for: Duration::ZERO,
    };
    let changes = [
        Aside::Keep(failed(2, None)),
        Aside::ParkKey(parked),
        Aside::Keep(failed(4, Some(Duration::from_hours(1)))),
    ];
    let changed = store.set_aside("s", epoch, &changes, None).await.unwrap();
    assert_eq!(changed, Settled::Recorded);
    publish_all(&*store, "s").await;
    publish_all(&*store, "t").await;
    let last = [message("b", "y"), message("c", "x"), message("d", "k"), message("a", "k")];
    ids.extend(store.append(&last).await.unwrap());
    let later = message("a", "x").deliver_at(NEVER);
    ids.extend(store.append(&[later]).await.unwrap());
    (harness, Scene { browse, store, ids })
}

pub(crate) async fn state_is_the_worst_over_all_subscriptions<H: Harness>() {
    let (harness, scene) = scene::<H>().await;
    let Scene { browse, store, ids: all } = scene;
    let states: [(MessageState, &[usize]); 6] = [
        (MessageState::Scheduled, &[10]),
        (MessageState::Unread, &[5, 8]),
        (MessageState::Pending, &[6, 7, 9]),
        (MessageState::Published, &[0]),
        (MessageState::Parked, &[2, 3, 4]),
        (MessageState::Dead, &[1]),
    ];
    for (state, expected) in states {
        assert_eq!(ids(&*browse, &in_state(state)).await, newest(&all, expected), "{state}");
        for listed in pages(&*browse, &in_state(state), 2).await {
            assert_eq!(listed.state, state);
            assert_eq!(find(&*browse, listed.id).await.message.state, state);
        }
        // With every other filter as well.
        for (at, id) in all.iter().enumerate() {
            let detail = find(&*browse, *id).await.message;
            let is_it = expected.contains(&at);
            for which in [
                MessageFilter { id: Some(detail.id), ..in_state(state) },
                MessageFilter { id: Some(detail.id), key: detail.key.clone(), ..in_state(state) },
                MessageFilter {
                    id: Some(detail.id),
                    topics: topics(&detail.topic),
                    ..in_state(state)
                },
            ] {
                let found = ids(&*browse, &which).await;
                assert_eq!(found.len(), usize::from(is_it), "{which:?}");
            }
        }
    }
    let everything = pages(&*browse, &any(), 4).await;
    let expected: Vec<MessageId> = all.iter().rev().copied().collect();
    assert!(everything.iter().map(|message| message.id).eq(expected));
    for listed in everything {
        let (state, _) =
            states.iter().find(|(_, at)| at.iter().any(|at| all[*at] == listed.id)).unwrap();
        assert_eq!(listed.state, *state, "{listed:?}");
    }
    // As soon as both have read on, only what is set aside is left.
    publish_all(&*store, "s").await;
    assert_eq!(ids(&*browse, &in_state(MessageState::Pending)).await, newest(&all, &[6]));
    publish_all(&*store, "t").await;
    assert!(ids(&*browse, &in_state(MessageState::Pending)).await.is_empty());
    let parked = newest(&all, &[2, 3, 4, 9]);
    assert_eq!(ids(&*browse, &in_state(MessageState::Parked)).await, parked);
    assert_eq!(ids(&*browse, &in_state(MessageState::Published)).await, newest(&all, &[0, 6, 7]));
    // One that stands exactly where both come to.
    let last = store.append(&[Message::new("b").key("y")]).await.unwrap();
    assert_eq!(ids(&*browse, &in_state(MessageState::Pending)).await, last);
    publish_all(&*store, "s").await;
    publish_all(&*store, "t").await;
    assert!(ids(&*browse, &in_state(MessageState::Pending)).await.is_empty());
    assert_eq!(ids(&*browse, &in_state(MessageState::Published)).await[0], last[0]);
    drop(harness);
}

pub(crate) async fn timeline_tells_what_each_subscription_has_done<H: Harness>() {
    let (harness, scene) = scene::<H>().await;
    let Scene { browse, ids: all, .. } = scene;
    // As the view has it.
    let mut seen: BTreeMap<MessageId, Vec<(String, String, bool)>> = BTreeMap::new();
    for row in harness.messages().await {
        let delivery = (row.subscription, row.state, row.published_at.is_some());
        seen.entry(row.id).or_default().push(delivery);
    }
    for id in &all[..10] {
        let detail = find(&*browse, *id).await;
        let of = |it: &posthaste_store::MessageDelivery| {
            (it.subscription.clone(), it.state.to_string(), it.published_at.is_some())
        };
        let told: Vec<_> = detail.deliveries.iter().map(of).collect();
        assert_eq!(told, seen.remove(id).unwrap_or_default(), "{detail:?}");
        assert_eq!(
            (&detail.payload[..], &detail.headers[..]),
            (&b"p"[..], &[("h".to_owned(), "1".to_owned())][..])
        );
        assert_eq!(browse.message(*id, false).await.unwrap().unwrap().payload, b"");
    }
    let failure = async |at: usize| {
        let detail = find(&*browse, all[at]).await;
        detail.deliveries.into_iter().find_map(|delivery| delivery.failure).unwrap()
    };
    let dead = failure(1).await;
    assert_eq!((dead.attempts, &*dead.reason, dead.message), (3, "no 2", all[1]));
    assert_eq!(dead.next_attempt_at, None);
    let alone = failure(3).await;
    assert!(alone.next_attempt_at.unwrap() > alone.since);
    // A follower names the message that its key waits for.
    let follower = failure(4).await;
    assert_eq!((follower.attempts, &*follower.reason, follower.message), (2, "not yet", all[2]));
    let waiting = find(&*browse, all[10]).await;
    assert_eq!((waiting.message.position, waiting.message.deliver_at), (None, Some(NEVER)));
    assert!(waiting.deliveries.is_empty());
    assert!(browse.message(MessageId::nil(), true).await.unwrap().is_none());
}

pub(crate) async fn copies_of_what_the_log_has_forgotten_are_found<H: Harness>() {
    let (harness, scene) = scene::<H>().await;
    let Scene { browse, store, ids: all } = scene;
    // Nothing pins the log but what is set aside alone.
    store.append(&vec![Message::new("a"); 300]).await.unwrap();
    publish_all(&*store, "s").await;
    publish_all(&*store, "t").await;
    let (epoch, _) = taken(&*store, "s", "one").await;
    let unpark = [Aside::UnparkKey("k".to_owned())];
    store.set_aside("s", epoch, &unpark, None).await.unwrap();
    let sweeper = harness.open(Duration::ZERO).await;
    // A slot is sealed, which waits for transactions of others in the cluster, then emptied.
    let forgotten = MessageFilter { id: Some(all[0]), ..any() };
    eventually_async("the log to forget it", LIMIT, async || {
        sweeper.sweep().await.unwrap();
        ids(&*browse, &forgotten).await.is_empty()
    })
    .await;
    assert_eq!(ids(&*browse, &in_state(MessageState::Dead)).await, [all[1]]);
    assert_eq!(ids(&*browse, &in_state(MessageState::Parked)).await, [all[3]]);
    let dead = find(&*browse, all[1]).await;
    assert_eq!((dead.message.state, dead.message.topic.as_str()), (MessageState::Dead, "b"));
    assert_eq!((&dead.payload[..], dead.deliveries.len()), (&b"p"[..], 1));
    assert_eq!(dead.deliveries[0].subscription, "s");
}

pub(crate) async fn random_filters_find_what_a_look_at_everything_finds<H: Harness>() {
    let (harness, scene) = scene::<H>().await;
    let Scene { browse, store, .. } = scene;
    let mut dice = SmallRng::seed_from_u64(7);
    for round in 0..4 {
        let some: Vec<Message> = (0..60)
            .map(|_| {
                let topic = ["a", "a.b", "b", "b.1", "c", "d"][dice.random_range(0..6)];
                let message = Message::new(topic).key(["k", "x", "y"][dice.random_range(0..3)]);
                let message = message.header("h", ["1", "2"][dice.random_range(0..2)]);
                message.correlation_id(["c", "d"][dice.random_range(0..2)])
            })
            .collect();
        store.append(&some).await.unwrap();
        if round == 1 {
            publish_all(&*store, "s").await;
        }
    }
    let everything = pages(&*browse, &any(), 200).await;
    for _ in 0..60 {
        let which = random_filter(&mut dice, &everything);
        let expected: Vec<&ListedMessage> =
            everything.iter().filter(|message| meets(message, &which)).collect();
        let limit = dice.random_range(1..40);
        let found = pages(&*browse, &which, limit).await;
        assert!(found.iter().eq(expected.iter().copied()), "{which:?}: {found:?} for {expected:?}");
    }
    drop(harness);
}

fn random_filter(dice: &mut SmallRng, all: &[ListedMessage]) -> MessageFilter {
    let mut which = any();
    let one = &all[dice.random_range(0..all.len())];
    let patterns = ["a", "a*", "a.*", "b*", "c", "d*", "e"];
    if dice.random_ratio(1, 2) {
        which.topics = topics(patterns[dice.random_range(0..patterns.len())]);
    }
    if dice.random_ratio(1, 4) {
        which.key.clone_from(&one.key);
    }
    if dice.random_ratio(1, 4) {
        which.correlation_id = Some(["c", "d", "e"][dice.random_range(0..3)].to_owned());
    }
    if dice.random_ratio(1, 2) {
        which.state = Some(MessageState::ALL[dice.random_range(0..6)]);
    }
    if dice.random_ratio(1, 4) {
        which.since = Some(one.enqueued_at);
    }
    if dice.random_ratio(1, 4) {
        which.until = Some(one.enqueued_at);
    }
    which
}

fn meets(message: &ListedMessage, which: &MessageFilter) -> bool {
    which.topics.iter().all(|filter| filter.matches(&message.topic))
        && (which.key.is_none() || which.key == message.key)
        && (which.correlation_id.is_none() || which.correlation_id == message.correlation_id)
        && which.state.is_none_or(|state| state == message.state)
        && which.since.is_none_or(|since| message.enqueued_at >= since)
        && which.until.is_none_or(|until| message.enqueued_at < until)
}
