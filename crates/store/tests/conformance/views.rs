//! The views that give people the tables they expect.

use posthaste_core::Place;
use posthaste_store::Start;

use super::{
    harness::{Harness, commit, migrated},
    reader::{publish_all, subscription, tick},
};
use crate::taking::taken;

/// State and whether it is dated, for each row of the view `messages`.
async fn states<H: Harness>(harness: &H) -> Vec<(String, String, bool)> {
    let rows = harness.messages().await.into_iter();
    rows.map(|row| (row.subscription, row.state, row.published_at.is_some())).collect()
}

fn row(subscription: &str, published: bool) -> (String, String, bool) {
    let state = if published { "published" } else { "pending" };
    (subscription.to_owned(), state.to_owned(), published)
}

pub(crate) async fn published_at_is_null_until_every_matching_subscription_has_settled<
    H: Harness,
>() {
    let (harness, store) = migrated::<H>().await;
    let specs =
        [subscription("s", &["*"], Start::Beginning), subscription("t", &["b*"], Start::Beginning)];
    store.reconcile(&specs).await.unwrap();
    let ids = commit(&harness, &["a", "bb"]).await;
    let dated = async || -> Vec<bool> {
        let rows = harness.outbox().await;
        assert!(rows.iter().map(|(id, _)| *id).eq(ids.iter().copied()), "{rows:?}");
        rows.into_iter().map(|(_, published_at)| published_at.is_some()).collect()
    };
    assert_eq!(dated().await, [false, false]);
    assert_eq!(states(&harness).await, [row("s", false), row("s", false), row("t", false)]);

    publish_all(&*store, "s").await;
    assert_eq!(dated().await, [true, false]);
    assert_eq!(states(&harness).await, [row("s", true), row("s", true), row("t", false)]);
    let recent = store.recent(None, 2).await.unwrap();
    assert!(recent.iter().map(|m| m.published_at.is_some()).eq([true, false]), "{recent:?}");

    publish_all(&*store, "t").await;
    assert_eq!(dated().await, [true, true]);
    let outbox = harness.outbox().await;
    // A later settle does not change when a message was published.
    commit(&harness, &["bb"]).await;
    publish_all(&*store, "s").await;
    publish_all(&*store, "t").await;
    assert_eq!(harness.outbox().await[..2], outbox);
}

pub(crate) async fn message_that_no_subscription_matches_is_never_published<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    store.reconcile(&[subscription("s", &["a"], Start::Beginning)]).await.unwrap();
    let ids = commit(&harness, &["other", "a"]).await;
    publish_all(&*store, "s").await;
    let rows = harness.outbox().await;
    assert_eq!(rows[0], (ids[0], None));
    assert!(rows[1].1.is_some());
    assert_eq!(states(&harness).await, [row("s", true)]);
    assert_eq!(store.recent(None, 2).await.unwrap()[0].published_at, None);
}

pub(crate) async fn messages_before_a_subscriptions_start_are_not_its_own<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    commit(&harness, &["a"]).await;
    store.reconcile(&[subscription("s", &["*"], Start::Now)]).await.unwrap();
    let ids = commit(&harness, &["a"]).await;
    let rows = harness.messages().await;
    assert!(rows.iter().map(|row| row.id).eq(ids), "{rows:?}");
    // Not even after a settle that covers them.
    let head = tick(store.ticker().as_mut()).await;
    let (epoch, _) = taken(&*store, "s", "one").await;
    store.settle("s", epoch, &Place::at(head)).await.unwrap();
    assert_eq!(states(&harness).await, [row("s", true)]);
    assert!(harness.outbox().await.iter().map(|(_, at)| at.is_some()).eq([false, true]));
}
