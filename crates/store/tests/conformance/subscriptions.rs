//! Subscriptions: their start, their place, FENCED, and what people are told.

use posthaste_core::{PageLimit, Place, TickRef, TopicFilter};
use posthaste_store::{Settled, Start, Store, StoreErrorKind, SubscriptionStatus};
use uuid::Uuid;

use super::{
    harness::{Harness, LONG, commit, migrated},
    reader::{Reader, WIDE, publish_all, subscription, tick},
};
use crate::taking::{LEASE, taken};

async fn state(store: &dyn Store, name: &str) -> SubscriptionStatus {
    let status = store.status().await.unwrap();
    status.subscriptions.into_iter().find(|state| state.name == name).unwrap()
}

pub(crate) async fn settled_place_is_what_the_next_holder_acquires<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    store.reconcile(&[subscription("s", &["*"], Start::Beginning)]).await.unwrap();
    let (first, place) = taken(&*store, "s", "one").await;
    assert_eq!(place, Place::beginning());
    let mut expected = commit(&harness, &["a"; 10]).await;
    tick(store.ticker().as_mut()).await;
    let limit = PageLimit { stride: 4, bytes: WIDE.bytes };
    let mut reader = Reader { limit, ..Reader::at(place) };
    reader.step(&*store).await;
    assert_eq!(store.settle("s", first, &reader.place).await.unwrap(), Settled::Recorded);
    expected.extend(commit(&harness, &["a"; 3]).await);
    tick(store.ticker().as_mut()).await;

    let other = harness.open(LONG).await;
    let (second, place) = taken(&*other, "s", "two").await;
    assert!(second > first);
    assert_eq!(place, reader.place);
    reader.drain(&*other).await;
    assert_eq!(reader.ids(), expected);
}

pub(crate) async fn settled_tick_is_what_the_next_holder_acquires<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    store.reconcile(&[subscription("s", &["*"], Start::Beginning)]).await.unwrap();
    commit(&harness, &["a"]).await;
    let head = tick(store.ticker().as_mut()).await;
    let (epoch, place) = taken(&*store, "s", "one").await;
    let place = place.finished(head);
    assert_eq!(store.settle("s", epoch, &place).await.unwrap(), Settled::Recorded);
    assert_eq!(taken(&*store, "s", "two").await.1, place);
    assert_eq!(state(&*store, "s").await.progress.place, place);
    assert!(state(&*store, "s").await.progress.at.is_some());
}

pub(crate) async fn stale_settle_is_fenced_after_takeover<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    store.reconcile(&[subscription("s", &["*"], Start::Beginning)]).await.unwrap();
    commit(&harness, &["a"]).await;
    let head = tick(store.ticker().as_mut()).await;
    let (stale, _) = taken(&*store, "s", "one").await;
    let (epoch, before) = taken(&*harness.open(LONG).await, "s", "two").await;
    let settled = store.settle("s", stale, &Place::at(head)).await.unwrap();
    assert_eq!(settled, Settled::Fenced);
    assert_eq!(state(&*store, "s").await.progress.place, before);
    assert_eq!(state(&*store, "s").await.progress.at, None);
    assert_eq!(store.settle("s", epoch, &Place::at(head)).await.unwrap(), Settled::Recorded);
}

pub(crate) async fn place_of_another_incarnation_cannot_be_settled<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    store.reconcile(&[subscription("s", &["*"], Start::Beginning)]).await.unwrap();
    commit(&harness, &["a"]).await;
    let head = tick(store.ticker().as_mut()).await;
    let (epoch, before) = taken(&*store, "s", "one").await;
    let elsewhere = TickRef { id: Uuid::new_v4(), ..head };
    let error = store.settle("s", epoch, &Place::at(elsewhere)).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Rewound, "{error}");
    assert_eq!(state(&*store, "s").await.progress.place, before);
}

pub(crate) async fn release_clears_the_holder_under_its_own_epoch_only<H: Harness>() {
    let (_harness, store) = migrated::<H>().await;
    store.reconcile(&[subscription("s", &["*"], Start::Beginning)]).await.unwrap();
    let (first, _) = taken(&*store, "s", "one").await;
    let (second, _) = taken(&*store, "s", "two").await;
    store.release("s", first).await.unwrap();
    assert_eq!(state(&*store, "s").await.holder.as_deref(), Some("two"));
    store.release("s", second).await.unwrap();
    let released = state(&*store, "s").await;
    assert_eq!((released.holder, released.epoch), (None, second));
    assert!(taken(&*store, "s", "three").await.0 > second);
}

pub(crate) async fn subscription_from_now_skips_what_was_committed_before<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    commit(&harness, &["a"]).await;
    tick(store.ticker().as_mut()).await;
    // Committed, but not covered by a tick yet.
    commit(&harness, &["a"]).await;
    store.reconcile(&[subscription("s", &["*"], Start::Now)]).await.unwrap();
    assert_eq!(state(&*store, "s").await.backlog, 0);
    let expected = commit(&harness, &["a", "b"]).await;
    assert_eq!(state(&*store, "s").await.backlog, 2);
    assert_eq!(publish_all(&*store, "s").await, expected);
}

pub(crate) async fn subscription_from_the_beginning_gets_everything<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let mut expected = commit(&harness, &["a"]).await;
    tick(store.ticker().as_mut()).await;
    expected.extend(commit(&harness, &["b"]).await);
    store.reconcile(&[subscription("s", &["*"], Start::Beginning)]).await.unwrap();
    expected.extend(commit(&harness, &["c"]).await);
    assert_eq!(publish_all(&*store, "s").await, expected);
    assert!(publish_all(&*store, "s").await.is_empty());
}

pub(crate) async fn reconciling_again_keeps_the_place_and_updates_the_filter<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    store.reconcile(&[subscription("s", &["a"], Start::Beginning)]).await.unwrap();
    let ids = commit(&harness, &["a", "b"]).await;
    assert_eq!(publish_all(&*store, "s").await, ids[..1]);
    let before = state(&*store, "s").await;
    let specs =
        [subscription("s", &["a", "b*"], Start::Now), subscription("t", &["b"], Start::Beginning)];
    store.reconcile(&specs).await.unwrap();
    store.reconcile(&specs).await.unwrap();
    let after = state(&*store, "s").await;
    assert_eq!((after.epoch, after.progress), (before.epoch, before.progress));
    assert_eq!(after.filter, TopicFilter::new(&["a", "b*"]).unwrap());
    let later = commit(&harness, &["bb"]).await;
    assert_eq!(publish_all(&*store, "s").await, later);
    assert_eq!(publish_all(&*store, "t").await, ids[1..]);
}

pub(crate) async fn unknown_subscription_is_named<H: Harness>() {
    let (_harness, store) = migrated::<H>().await;
    let error = store.acquire("nobody", "one", LEASE).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("\"nobody\""), "{error}");
}

pub(crate) async fn status_counts_what_matches_and_is_not_settled<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    store.reconcile(&[subscription("s", &["a"], Start::Beginning)]).await.unwrap();
    commit(&harness, &["a", "b", "a"]).await;
    let waiting = state(&*store, "s").await;
    assert_eq!((waiting.backlog, waiting.holder), (2, None));
    assert!(waiting.lag_micros >= 0);
    let status = store.status().await.unwrap();
    assert_eq!((status.messages, status.head >= 3), (3, true));
    publish_all(&*store, "s").await;
    let settled = state(&*store, "s").await;
    assert_eq!((settled.backlog, settled.lag_micros), (0, 0));
    assert_eq!(settled.holder.as_deref(), Some("publish_all"));
}

pub(crate) async fn status_tells_of_slots_and_dead_tuples_where_there_are_any<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let empty = store.status().await.unwrap();
    assert_eq!((empty.slots.is_some(), empty.dead_tuples.is_some()), (H::HAS_SLOTS, H::HAS_SLOTS));
    assert!(empty.slots.is_none_or(|slots| slots.used == 0 && slots.total > 1));
    commit(&harness, &["a"; 3]).await;
    let status = store.status().await.unwrap();
    assert!(status.slots.is_none_or(|slots| slots.used == 1 && slots.shared == 0), "{status:?}");
    assert!(status.dead_tuples.is_none_or(|dead| dead == 0), "{status:?}");
}
