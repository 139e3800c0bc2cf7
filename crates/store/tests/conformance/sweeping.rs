//! Retention: what may be deleted, and above all what may not.

use std::{sync::Arc, time::Duration};

use posthaste_core::{Message, MessageId, PageLimit};
use posthaste_store::{Aside, ParkedKey, Pin, Start, Store};
use posthaste_testkit::eventually_async;

use super::{
    harness::{Harness, commit, migrated},
    reader::{Reader, WIDE, publish_all, subscription, tick},
};
use crate::taking::taken;

/// Sweeps needed until nothing changes: a slot is sealed by one and emptied by another.
const SWEEPS: u32 = 4;
/// Well above the moment that open transactions of other tests keep a slot from being sealed.
const LIMIT: Duration = Duration::from_mins(2);

/// A migrated database, and a store that keeps nothing longer than it must.
async fn without_retention<H: Harness>() -> (H, Arc<dyn Store>) {
    let (harness, _store) = migrated::<H>().await;
    let store = harness.open(Duration::ZERO).await;
    (harness, store)
}

async fn append(store: &dyn Store, count: usize) -> Vec<MessageId> {
    let messages: Vec<Message> = (0..count).map(|_| Message::new("a")).collect();
    store.append(&messages).await.unwrap()
}

async fn sweep(store: &dyn Store) {
    for _ in 0..SWEEPS {
        store.sweep().await.unwrap();
    }
}

async fn held(store: &dyn Store) -> u64 {
    store.status().await.unwrap().messages
}

pub(crate) async fn sweep_keeps_what_a_parked_key_needs<H: Harness>() {
    let (_harness, store) = without_retention::<H>().await;
    store.reconcile(&[subscription("s", &["*"], Start::Beginning)]).await.unwrap();
    let ids = append(&*store, 500).await;
    let head = tick(store.ticker().as_mut()).await;
    let (epoch, start) = taken(&*store, "s", "one").await;
    let place = start.moved_to(head, 100, None);
    let parked = ParkedKey {
        key: "k".to_owned(),
        place,
        message: ids[100],
        attempts: 1,
        reason: "no".to_owned(),
        retry_in: None,
        parked_for: Duration::ZERO,
    };
    store.set_aside("s", epoch, &[Aside::ParkKey(parked)], None).await.unwrap();
    publish_all(&*store, "s").await;
    sweep(&*store).await;
    assert!(held(&*store).await >= 400);
    assert!(store.window(place.base, Some(head)).await.unwrap().is_some(), "its ticks are kept");
}

pub(crate) async fn sweep_keeps_what_a_lagging_subscription_needs<H: Harness>() {
    let (_harness, store) = without_retention::<H>().await;
    let specs = ["fast", "slow"].map(|name| subscription(name, &["*"], Start::Beginning));
    store.reconcile(&specs).await.unwrap();
    let expected = append(&*store, 500).await;
    publish_all(&*store, "fast").await;

    tick(store.ticker().as_mut()).await;
    let (epoch, place) = taken(&*store, "slow", "one").await;
    let mut reader =
        Reader { limit: PageLimit { stride: 150, bytes: WIDE.bytes }, ..Reader::at(place) };
    reader.step(&*store).await;
    store.settle("slow", epoch, &reader.place).await.unwrap();
    sweep(&*store).await;
    let published = reader.received.len() as u64;
    assert!(held(&*store).await >= 500 - published);
    reader.drain(&*store).await;
    assert_eq!(reader.ids(), expected);
}

pub(crate) async fn sweep_empties_what_every_subscription_has_passed<H: Harness>() {
    let (_harness, store) = without_retention::<H>().await;
    let specs =
        [subscription("s", &["*"], Start::Beginning), subscription("t", &["b"], Start::Beginning)];
    store.reconcile(&specs).await.unwrap();
    append(&*store, 2_500).await;
    publish_all(&*store, "s").await;
    publish_all(&*store, "t").await;
    let store = &*store;
    eventually_async("settled messages are gone", LIMIT, || async move {
        sweep(store).await;
        held(store).await <= H::SWEEP_LEAVES_MAX
    })
    .await;
}

pub(crate) async fn sweep_keeps_messages_for_the_retention_time<H: Harness>() {
    let (_harness, store) = migrated::<H>().await;
    store.reconcile(&[subscription("s", &["*"], Start::Beginning)]).await.unwrap();
    append(&*store, 500).await;
    publish_all(&*store, "s").await;
    sweep(&*store).await;
    assert_eq!(held(&*store).await, 500);
}

pub(crate) async fn sweep_without_subscriptions_deletes_nothing<H: Harness>() {
    let (_harness, store) = without_retention::<H>().await;
    append(&*store, 500).await;
    tick(store.ticker().as_mut()).await;
    sweep(&*store).await;
    assert_eq!(held(&*store).await, 500);
}

/// Messages of a kilobyte each.
async fn append_large(store: &dyn Store, count: usize) {
    let messages: Vec<Message> =
        (0..count).map(|_| Message::new("a").key("k").text("x".repeat(1_000))).collect();
    store.append(&messages).await.unwrap();
}

pub(crate) async fn log_above_its_size_loses_the_oldest_published_messages_first<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    store.reconcile(&[subscription("s", &["*"], Start::Beginning)]).await.unwrap();
    append_large(&*store, 1_500).await;
    publish_all(&*store, "s").await;
    let before = store.status().await.unwrap();
    assert_eq!((before.size.bytes_max, &before.size.pin), (None, &None));
    assert!(before.size.bytes > 1_500_000, "{:?}", before.size);
    // A third of the messages has to go.
    let limit = before.size.bytes - 500_000;
    let sized = harness.sized(limit).await;
    let sized = &*sized;
    eventually_async("room", LIMIT, || async move {
        sized.sweep().await.unwrap();
        sized.status().await.unwrap().size.bytes <= limit
    })
    .await;
    let status = sized.status().await.unwrap();
    assert_eq!((status.size.bytes_max, &status.size.pin), (Some(limit), &None));
    assert!((500..1_200).contains(&status.messages), "{} messages", status.messages);
    let held = sized.recent(None, 2_000).await.unwrap();
    let oldest = held[0].position;
    let expected: Vec<i64> = (oldest..=before.head).collect();
    let held: Vec<i64> = held.iter().map(|message| message.position).collect();
    assert_eq!(held, expected, "the newest stay");
    // Within its size, the retention time alone decides.
    sweep(sized).await;
    assert_eq!(sized.status().await.unwrap().messages, status.messages);
}

pub(crate) async fn log_above_its_size_keeps_what_is_pinned_and_names_who_pins_it<H: Harness>() {
    let (harness, _) = migrated::<H>().await;
    let store = harness.sized(1).await;
    append_large(&*store, 500).await;
    sweep(&*store).await;
    let unread = store.sweep().await.unwrap();
    assert_eq!((unread.pin, held(&*store).await), (Some(Pin::Unread), 500));

    let specs = ["fast", "slow"].map(|name| subscription(name, &["*"], Start::Beginning));
    store.reconcile(&specs).await.unwrap();
    publish_all(&*store, "fast").await;
    sweep(&*store).await;
    let report = store.sweep().await.unwrap();
    let slow = Some(Pin::Subscription("slow".to_owned()));
    assert_eq!((&report.pin, held(&*store).await), (&slow, 500));
    let size = store.status().await.unwrap().size;
    assert_eq!(size.pin, slow);
    assert!(size.over() > 0 && report.bytes_over > 0, "{size:?}, {report:?}");

    let head = tick(store.ticker().as_mut()).await;
    let (epoch, start) = taken(&*store, "slow", "one").await;
    let parked = ParkedKey {
        key: "k".to_owned(),
        place: start.moved_to(head, 1, None),
        message: MessageId::from_u128(1),
        attempts: 1,
        reason: "no".to_owned(),
        retry_in: None,
        parked_for: Duration::ZERO,
    };
    store.set_aside("slow", epoch, &[Aside::ParkKey(parked)], None).await.unwrap();
    publish_all(&*store, "slow").await;
    sweep(&*store).await;
    let key = Some(Pin::ParkedKey("slow".to_owned()));
    assert_eq!(store.sweep().await.unwrap().pin, key);
    assert_eq!(store.status().await.unwrap().size.pin, key);
    assert!(held(&*store).await >= 400);
}

pub(crate) async fn positions_and_ticks_go_on_after_everything_was_swept<H: Harness>() {
    let (harness, store) = without_retention::<H>().await;
    store.reconcile(&[subscription("s", &["*"], Start::Beginning)]).await.unwrap();
    append(&*store, 500).await;
    publish_all(&*store, "s").await;
    let before = store.status().await.unwrap();
    sweep(&*store).await;
    sweep(&*store).await;
    let expected = commit(&harness, &["a", "b"]).await;
    assert_eq!(publish_all(&*store, "s").await, expected);
    let after = store.status().await.unwrap();
    assert_eq!(after.tick.n, before.tick.n + 1);
    assert!(after.head >= before.head + 2, "{} after {}", after.head, before.head);
}
