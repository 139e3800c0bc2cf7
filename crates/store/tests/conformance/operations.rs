//! What operators do by hand, and the trail that it leaves.

use std::{sync::Arc, time::Duration};

use posthaste_core::{
    Epoch, Message, MessageId, Place, RelayView, TickRef, Timestamp, TopicFilter,
};
use posthaste_store::{
    Aside, FailedMessage, Operations, ParkedKey, ReplayChunk, Replayed, Request, RewindTo,
    Selection, Settled, Start, StoreErrorKind, rewind_handed_over,
};
use posthaste_testkit::eventually_async;

use super::{
    harness::{Harness, LONG},
    reader::{publish_all, subscription, tick},
};
use crate::taking::{LEASE, taken};

const LIMIT: Duration = Duration::from_mins(1);

/// Six messages of two topics and keys, published by `s` except for three dead letters.
struct Scene {
    store: Arc<dyn Operations>,
    ids: Vec<MessageId>,
    head: TickRef,
    epoch: Epoch,
}

async fn scene<H: Harness>() -> (H, Scene) {
    let harness = H::empty().await;
    let store = harness.operations().await;
    store.migrate().await.unwrap();
    store.reconcile(&[subscription("s", &["*"], Start::Beginning)]).await.unwrap();
    let messages: Vec<Message> = (0..6)
        .map(|n| {
            let topic = if n % 2 == 0 { "even" } else { "odd" };
            Message::new(topic).key(format!("k{}", n / 2)).text(format!("{n}")).header("h", "v")
        })
        .collect();
    let ids = store.append(&messages).await.unwrap();
    let head = tick(store.ticker().as_mut()).await;
    let (epoch, start) = taken(&*store, "s", "one").await;
    let scene = Scene { store, ids, head, epoch };
    let held = ParkedKey {
        key: "k1".to_owned(),
        place: start.moved_to(head, 2, None),
        message: scene.ids[2],
        attempts: 3,
        reason: "held".to_owned(),
        retry_in: None,
        parked_for: Duration::ZERO,
    };
    let changes = [
        Aside::Keep(scene.dead(1, false)),
        Aside::Keep(scene.dead(3, true)),
        Aside::Keep(scene.dead(4, false)),
        Aside::ParkKey(held),
    ];
    let place = start.finished(head);
    let settled = scene.store.set_aside("s", epoch, &changes, Some(&place)).await.unwrap();
    assert_eq!(settled, Settled::Recorded);
    (harness, scene)
}

impl Scene {
    fn dead(&self, position: i64, holds_key: bool) -> FailedMessage {
        FailedMessage {
            position,
            id: self.ids[position as usize - 1],
            tick: self.head.n,
            attempts: 3,
            reason: format!("because of {position}"),
            retry_in: None,
            holds_key,
        }
    }

    async fn positions(&self, which: &Selection) -> Vec<i64> {
        let letters = self.store.dead_letters(which, 100).await.unwrap();
        letters.iter().map(|letter| letter.message.position).collect()
    }

    async fn due(&self) -> Vec<i64> {
        let due = self.store.due_messages("s", 100).await.unwrap();
        due.page.iter().map(|message| message.position).collect()
    }
}

fn request() -> Request {
    Request { actor: "ann".to_owned(), is_dry_run: false, is_forced: false }
}

fn preview() -> Request {
    Request { is_dry_run: true, ..request() }
}

fn all() -> Selection {
    Selection::default()
}

pub(crate) async fn r14_dead_letters_are_listed_by_every_condition<H: Harness>() {
    let (_harness, scene) = scene::<H>().await;
    let letters = scene.store.dead_letters(&all(), 100).await.unwrap();
    assert_eq!(letters.len(), 3);
    let second = &letters[1];
    assert_eq!((second.subscription.as_str(), second.attempts), ("s", 3));
    assert_eq!((second.reason.as_str(), second.holds_key), ("because of 3", true));
    assert_eq!(second.message.payload, b"2");
    assert_eq!(second.message.headers, [("h".to_owned(), "v".to_owned())]);
    assert_eq!(scene.store.dead_letters(&all(), 2).await.unwrap().len(), 2);

    let odd = TopicFilter::new(&["od*"]).unwrap();
    let at = second.failed_at;
    for (which, expected) in [
        (Selection { subscription: Some("s".to_owned()), ..all() }, vec![1, 3, 4]),
        (Selection { subscription: Some("t".to_owned()), ..all() }, vec![]),
        (Selection { ids: vec![scene.ids[3], scene.ids[0]], ..all() }, vec![1, 4]),
        (Selection { topics: Some(odd), ..all() }, vec![4]),
        (Selection { topics: Some(TopicFilter::new(&["even"]).unwrap()), ..all() }, vec![1, 3]),
        (Selection { key: Some("k1".to_owned()), ..all() }, vec![3, 4]),
        (Selection { reason: Some("of 4".to_owned()), ..all() }, vec![4]),
        (Selection { reason: Some("%".to_owned()), ..all() }, vec![]),
        (Selection { since: Some(Timestamp(at.0 + 3_600_000_000)), ..all() }, vec![]),
        (Selection { since: Some(Timestamp(at.0 - 3_600_000_000)), ..all() }, vec![1, 3, 4]),
        (Selection { until: Some(Timestamp(at.0 - 3_600_000_000)), ..all() }, vec![]),
    ] {
        assert_eq!(scene.positions(&which).await, expected, "{which:?}");
    }
}

pub(crate) async fn r14_replayed_dead_letters_are_due_with_all_their_attempts<H: Harness>() {
    let (harness, scene) = scene::<H>().await;
    let key = Selection { key: Some("k1".to_owned()), ..all() };
    let store = &scene.store;
    assert_eq!(store.replay_dead_letters(&key, None, &preview()).await.unwrap(), 2);
    assert!(scene.due().await.is_empty() && harness.audit().await.is_empty());
    assert_eq!(store.replay_dead_letters(&key, None, &request()).await.unwrap(), 2);
    assert_eq!(scene.due().await, [3, 4]);
    assert_eq!(scene.positions(&all()).await, [1]);
    let due = store.due_messages("s", 100).await.unwrap();
    assert!(due.failures.iter().all(|failed| failed.attempts == 0));
    assert_eq!(harness.audit().await, [("ann".to_owned(), "replay dead letters".to_owned())]);

    // One now, the next in a hundred seconds.
    assert_eq!(store.replay_dead_letters(&all(), Some(0.01), &request()).await.unwrap(), 1);
    assert_eq!(scene.due().await, [1, 3, 4]);
}

pub(crate) async fn replay_keeps_to_its_rate<H: Harness>() {
    let (_harness, scene) = scene::<H>().await;
    let replayed = scene.store.replay_dead_letters(&all(), Some(0.01), &request()).await.unwrap();
    assert_eq!((replayed, scene.due().await), (3, vec![1]));
    let aside = scene.store.aside("s").await.unwrap();
    let last = aside.messages.iter().find(|failed| failed.position == 4).unwrap();
    let wait = last.retry_in.unwrap();
    assert!((Duration::from_mins(3)..=Duration::from_secs(200)).contains(&wait), "{wait:?}");
}

pub(crate) async fn r14_discarded_dead_letter_lets_its_key_go_on<H: Harness>() {
    let (harness, scene) = scene::<H>().await;
    let which = Selection { ids: vec![scene.ids[2]], ..all() };
    assert_eq!(scene.store.discard_dead_letters(&which, &preview()).await.unwrap(), 1);
    assert_eq!(scene.positions(&all()).await, [1, 3, 4]);
    assert_eq!(scene.store.discard_dead_letters(&which, &request()).await.unwrap(), 1);
    assert_eq!(scene.positions(&all()).await, [1, 4]);
    let aside = scene.store.aside("s").await.unwrap();
    assert_eq!((aside.keys[0].retry_in, aside.keys[0].attempts), (Some(Duration::ZERO), 0));
    assert_eq!(aside.keys[0].place.within.unwrap().position, 3);
    assert_eq!(harness.audit().await, [("ann".to_owned(), "discard dead letters".to_owned())]);
    assert_eq!(scene.store.discard_dead_letters(&which, &request()).await.unwrap(), 0);
    assert_eq!(harness.audit().await.len(), 1, "nothing happened");
}

pub(crate) async fn r14_published_messages_are_replayed_to_this_and_another_subscription<
    H: Harness,
>() {
    let (_harness, scene) = scene::<H>().await;
    let store = &scene.store;
    let even = Selection { topics: Some(TopicFilter::new(&["even"]).unwrap()), ..all() };
    let whole = ReplayChunk::default();
    let two = ReplayChunk { limit: 2, ..whole };
    // The first is dead, the second parked, the third published.
    assert_eq!(store.replay(&even, "s", &whole, &preview()).await.unwrap().messages, 1);
    assert_eq!(store.replay(&even, "s", &whole, &request()).await.unwrap().messages, 1);
    assert_eq!(scene.due().await, [5]);

    store.reconcile(&[subscription("other", &["nothing"], Start::Now)]).await.unwrap();
    let from = Selection { subscription: Some("s".to_owned()), ..even };
    assert_eq!(store.replay(&from, "other", &two, &request()).await.unwrap().messages, 2);
    let due = store.due_messages("other", 10).await.unwrap();
    assert!(due.page.iter().map(|message| message.id).eq([scene.ids[0], scene.ids[2]]));

    // What a subscription has yet to come to is not replayed to it.
    store.reconcile(&[subscription("late", &["*"], Start::Beginning)]).await.unwrap();
    let none = store.replay(&all(), "late", &whole, &request()).await.unwrap();
    assert_eq!(none, Replayed { messages: 0, reached: None, through: 6 });
    let error = store.replay(&all(), "nobody", &whole, &request()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    assert!(error.to_string().contains("nobody"), "{error}");
}

pub(crate) async fn r14_replay_goes_on_behind_its_last_piece_up_to_where_it_began<H: Harness>() {
    let (harness, scene) = scene::<H>().await;
    let store = &scene.store;
    store.reconcile(&[subscription("other", &["nothing"], Start::Now)]).await.unwrap();
    let mut chunk = ReplayChunk { limit: 4, ..ReplayChunk::default() };
    let first = store.replay(&all(), "other", &chunk, &request()).await.unwrap();
    assert_eq!(first, Replayed { messages: 4, reached: Some(4), through: 6 });
    store.append(&[Message::new("even")]).await.unwrap();
    chunk = ReplayChunk { after: 4, through: Some(first.through), ..chunk };
    let second = ReplayChunk { starts_in: Duration::from_hours(1), ..chunk };
    let seen = store.replay(&all(), "other", &second, &preview()).await.unwrap();
    let expected = Replayed { messages: 2, reached: Some(6), through: 6 };
    assert_eq!(seen, expected);
    assert_eq!(store.replay(&all(), "other", &second, &request()).await.unwrap(), expected);
    let end = ReplayChunk { after: 6, ..chunk };
    let none = store.replay(&all(), "other", &end, &request()).await.unwrap();
    assert_eq!((none.messages, none.reached), (0, None));
    // Those of the second piece are due in an hour.
    let due = store.due_messages("other", 10).await.unwrap();
    assert!(due.page.iter().map(|message| message.position).eq(1..=4));
    assert_eq!(harness.audit().await.len(), 2);
}

pub(crate) async fn scheduled_message_is_cancelled_by_hand<H: Harness>() {
    let (harness, scene) = scene::<H>().await;
    let store = &scene.store;
    let later = Timestamp(4_000_000_000_000_000);
    let ids = store.append(&[Message::new("later").deliver_at(later)]).await.unwrap();
    assert!(store.cancel(ids[0], None, &preview()).await.unwrap());
    assert!(store.cancel(ids[0], None, &request()).await.unwrap());
    assert!(!store.cancel(ids[0], None, &request()).await.unwrap());
    assert!(!store.cancel(scene.ids[0], None, &request()).await.unwrap());
    assert_eq!(harness.audit().await, [("ann".to_owned(), "cancel".to_owned())]);
}

pub(crate) async fn of_scheduled_messages_with_one_id_the_one_that_was_seen_is_cancelled<
    H: Harness,
>() {
    let (_harness, scene) = scene::<H>().await;
    let store = &scene.store;
    let (later, id) = (Timestamp(4_000_000_000_000_000), MessageId::now_v7());
    let twin = |topic: &str| Message::new(topic).id(id).deliver_at(later);
    store.append(&[twin("first"), twin("second")]).await.unwrap();
    let newest = async || store.message(id, false).await.unwrap().map(|it| it.message);
    let seen = newest().await.unwrap();
    assert_eq!(seen.topic, "second");
    assert!(store.cancel(id, seen.number, &preview()).await.unwrap());
    assert!(store.cancel(id, seen.number, &request()).await.unwrap());
    assert_eq!(newest().await.unwrap().topic, "first");
    assert!(!store.cancel(id, seen.number, &request()).await.unwrap());
    assert!(store.cancel(id, None, &request()).await.unwrap());
    assert_eq!(newest().await, None);
}

pub(crate) async fn erased_message_keeps_its_place_and_says_so<H: Harness>() {
    let (_harness, scene) = scene::<H>().await;
    let store = &scene.store;
    let error = store.erase(&all(), &request()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    let now = store.recent(None, 1).await.unwrap()[0].enqueued_at;
    let waiting = Message::new("odd").key("k1").text("secret").deliver_at(now);
    store.append(&[waiting]).await.unwrap();
    let which = Selection { key: Some("k1".to_owned()), ..all() };
    assert_eq!(store.erase(&which, &preview()).await.unwrap(), 2);
    assert_eq!(store.erase(&which, &request()).await.unwrap(), 2);
    let recent = store.recent(None, 10).await.unwrap();
    let erased: Vec<i64> = recent
        .iter()
        .filter(|message| message.payload.is_empty())
        .map(|message| {
            assert_eq!(message.headers[0].0, "posthaste-erased");
            message.position
        })
        .collect();
    assert_eq!((recent.len(), erased), (6, vec![3, 4]));
    let dead = store.dead_letters(&which, 10).await.unwrap();
    assert!(dead.iter().all(|letter| letter.message.payload.is_empty()));
    // The scheduled one comes without its payload as well.
    assert_eq!(store.move_due(10).await.unwrap().count, 1);
    assert!(store.recent(None, 1).await.unwrap()[0].payload.is_empty());
}

pub(crate) async fn paused_subscription_says_so<H: Harness>() {
    let (harness, scene) = scene::<H>().await;
    let store = &scene.store;
    let is_paused = async || {
        let status = store.status().await.unwrap().subscriptions.remove(0);
        assert_eq!(store.aside("s").await.unwrap().is_paused, status.is_paused);
        status.is_paused
    };
    assert!(!is_paused().await);
    store.pause("s", true, &preview()).await.unwrap();
    assert!(!is_paused().await);
    store.pause("s", true, &request()).await.unwrap();
    assert!(is_paused().await);
    store.pause("s", false, &request()).await.unwrap();
    assert!(!is_paused().await);
    let actions: Vec<String> =
        harness.audit().await.into_iter().map(|(_, action)| action).collect();
    assert_eq!(actions, ["pause", "resume"]);
    let error = store.pause("nobody", true, &request()).await.unwrap_err();
    assert!(error.to_string().contains("nobody"), "{error}");
}

pub(crate) async fn subscription_is_rewound_once_it_is_handed_over<H: Harness>() {
    let (_harness, scene) = scene::<H>().await;
    let store = &scene.store;
    let rewind = async |request: &Request, patience: Duration| {
        rewind_handed_over(&**store, "s", RewindTo::Beginning, request, patience).await
    };
    let is_reserved = async || {
        let relay = RelayView { holder: "two".to_owned(), subscriptions: vec!["s".to_owned()] };
        store.renew(&relay, LEASE).await.unwrap().leases[0].is_reserved
    };
    let error = rewind(&request(), Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Conflict, "{error}");
    assert!(!is_reserved().await, "its relay keeps it");
    assert_eq!(rewind(&preview(), Duration::ZERO).await.unwrap().messages, Some(3));
    let hand_over = async {
        eventually_async("a request for it", LIMIT, async || is_reserved().await).await;
        store.release("s", scene.epoch).await.unwrap();
    };
    let change = request();
    let (rewound, ()) = tokio::join!(rewind(&change, LONG), hand_over);
    assert_eq!(rewound.unwrap().place, Place::beginning());
    assert!(!is_reserved().await, "relays may have it again");
    assert_eq!(taken(&**store, "s", "two").await.1, Place::beginning());
    let request = request();
    let nobody = rewind_handed_over(&**store, "nobody", RewindTo::Beginning, &request, LONG);
    let error = nobody.await.unwrap_err();
    assert!(error.to_string().contains("nobody"), "{error}");
}

pub(crate) async fn rewound_subscription_gets_again_what_it_had<H: Harness>() {
    let (_harness, scene) = scene::<H>().await;
    let store = &scene.store;
    let error = store.rewind("s", RewindTo::Beginning, &request()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Conflict, "{error}");
    // What it would be is told at any time.
    let seen = store.rewind("s", RewindTo::Beginning, &preview()).await.unwrap();
    assert_eq!((seen.messages, seen.place), (Some(3), Place::beginning()));
    let first = &store.recent(Some(1), 1).await.unwrap()[0];
    assert_eq!(seen.oldest, Some((2, first.enqueued_at)));
    store.release("s", scene.epoch).await.unwrap();

    let later = Timestamp(i64::MAX / 2);
    let none = store.rewind("s", RewindTo::Time(later), &preview()).await.unwrap();
    assert_eq!((none.messages, none.oldest, none.place.base), (Some(0), None, scene.head));
    assert!(store.rewind("s", RewindTo::Beginning, &request()).await.unwrap().is_moved);
    let (epoch, place) = taken(&**store, "s", "two").await;
    assert_eq!(place, Place::beginning());
    // Whoever held it before is fenced.
    let stale = store.settle("s", scene.epoch, &Place::at(scene.head)).await.unwrap();
    assert_eq!(stale, Settled::Fenced);
    store.release("s", epoch).await.unwrap();
    publish_all(&**store, "s").await;
}

pub(crate) async fn rewind_never_moves_a_place_forward<H: Harness>() {
    let (harness, scene) = scene::<H>().await;
    let store = &scene.store;
    store.release("s", scene.epoch).await.unwrap();
    // What nobody has published yet, with ticks behind it.
    store.append(&[Message::new("even"), Message::new("odd")]).await.unwrap();
    tick(store.ticker().as_mut()).await;
    store.append(&[Message::new("even")]).await.unwrap();
    let head = tick(store.ticker().as_mut()).await;
    assert!(head.n > scene.head.n);
    let newest = store.recent(None, 1).await.unwrap()[0].enqueued_at;
    for time in [Timestamp(i64::MAX / 2), newest] {
        for request in [preview(), request()] {
            let rewound = store.rewind("s", RewindTo::Time(time), &request).await.unwrap();
            assert_eq!((rewound.is_moved, rewound.messages), (false, Some(0)));
            assert_eq!(rewound.place.base, scene.head);
        }
    }
    assert_eq!(store.status().await.unwrap().subscriptions[0].backlog, 3);
    assert!(harness.audit().await.is_empty(), "nothing has happened");
    store.rewind("s", RewindTo::Beginning, &request()).await.unwrap();
    // It is there already.
    assert!(!store.rewind("s", RewindTo::Beginning, &request()).await.unwrap().is_moved);
}

pub(crate) async fn removed_subscription_leaves_nothing<H: Harness>() {
    let (harness, scene) = scene::<H>().await;
    let store = &scene.store;
    let error = store.remove("s", &request()).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Conflict, "{error}");
    store.release("s", scene.epoch).await.unwrap();
    store.remove("s", &preview()).await.unwrap();
    assert_eq!(store.status().await.unwrap().subscriptions.len(), 1);
    store.remove("s", &request()).await.unwrap();
    assert!(store.status().await.unwrap().subscriptions.is_empty());
    assert!(scene.positions(&all()).await.is_empty());
    assert_eq!(harness.audit().await, [("ann".to_owned(), "remove".to_owned())]);
    // Another store on the database finds it gone as well.
    let error = harness.open(LONG).await.acquire("s", "two", LEASE).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Invalid, "{error}");
}

pub(crate) async fn removal_by_force_takes_the_subscription_from_its_holder<H: Harness>() {
    let (_harness, scene) = scene::<H>().await;
    let store = &scene.store;
    let place = store.status().await.unwrap().subscriptions[0].progress.place;
    let forced = Request { is_forced: true, ..request() };
    store.remove("s", &forced).await.unwrap();
    assert!(store.status().await.unwrap().subscriptions.is_empty());
    let late = store.settle("s", scene.epoch, &place).await;
    assert!(!matches!(late, Ok(Settled::Recorded)), "{late:?}");
}

pub(crate) async fn r19_written_topics_are_told_with_their_counts<H: Harness>() {
    let (harness, scene) = scene::<H>().await;
    let topics = scene.store.written_topics(100).await.unwrap();
    let told: Vec<(&str, u64)> = topics.iter().map(|it| (it.topic.as_str(), it.messages)).collect();
    assert_eq!(told, [("even", 3), ("odd", 3)]);
    assert_eq!(topics[0].newest, scene.store.recent(None, 2).await.unwrap()[0].enqueued_at);
    let newest = scene.store.written_topics(1).await.unwrap();
    assert_eq!((newest.len(), newest[0].topic.as_str()), (1, "odd"));

    let same = harness.operations().await.incarnation().await.unwrap();
    assert_eq!(scene.store.incarnation().await.unwrap(), same);
    let other = H::empty().await;
    let store = other.operations().await;
    store.migrate().await.unwrap();
    assert_ne!(store.incarnation().await.unwrap(), same);
}

pub(crate) async fn r10b_compatibility_view_counts_what_is_not_processed<H: Harness>() {
    let (harness, scene) = scene::<H>().await;
    let name = "job_outbox".parse().unwrap();
    scene.store.create_compatibility_view(&name).await.unwrap();
    scene.store.create_compatibility_view(&name).await.unwrap();
    let pending = "select count(*) from job_outbox where processed_at is null";
    assert_eq!(harness.count(pending).await, 3);
    scene.store.append(&[Message::new("even")]).await.unwrap();
    assert_eq!(harness.count(pending).await, 4);
    let all = "select count(*) from job_outbox where topic is not null and created_at is not null";
    assert_eq!(harness.count(all).await, 7);
}
