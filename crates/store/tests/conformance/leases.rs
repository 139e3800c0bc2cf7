//! Leases: who holds a subscription, and until when.

use std::time::Duration;

use posthaste_core::{Epoch, Place, RelayView};
use posthaste_store::{Acquired, Leases, Settled, Start, Store, StoreErrorKind};
use posthaste_testkit::eventually_async;

use super::{
    harness::{Harness, LONG, commit, migrated},
    reader::{subscription, tick},
};
use crate::taking::{LEASE, taken};

/// Runs out while a test looks on.
const SHORT: Duration = Duration::from_millis(150);

fn relay(holder: &str) -> RelayView {
    let subscriptions = vec!["s".to_owned(), "t".to_owned(), "unknown".to_owned()];
    RelayView { holder: holder.to_owned(), subscriptions }
}

async fn renewed(store: &dyn Store, holder: &str) -> Leases {
    store.renew(&relay(holder), LEASE).await.unwrap()
}

/// Who holds `s` and `t`.
fn holders(leases: &Leases) -> Vec<(&str, Option<&str>)> {
    leases.leases.iter().map(|it| (&*it.subscription, it.holder.as_deref())).collect()
}

/// Takes `s`, which nobody else holds.
async fn taken_for(store: &dyn Store, holder: &str, lease: Duration) -> Epoch {
    match store.acquire("s", holder, lease).await.unwrap() {
        Acquired::Taken(epoch, _) => epoch,
        held @ Acquired::Held { .. } => panic!("{held:?}"),
    }
}

async fn two<H: Harness>() -> (H, std::sync::Arc<dyn Store>) {
    let (harness, store) = migrated::<H>().await;
    let all = ["s", "t"].map(|name| subscription(name, &["*"], Start::Beginning));
    store.reconcile(&all).await.unwrap();
    (harness, store)
}

pub(crate) async fn lease_keeps_others_out_until_it_runs_out<H: Harness>() {
    let (harness, store) = two::<H>().await;
    let other = harness.open(LONG).await;
    // On a busy machine it may run out before the other has asked: then once more.
    let mut attempts = 0..20;
    let first = loop {
        let first = taken_for(&*store, "one", SHORT).await;
        match other.acquire("s", "two", LEASE).await.unwrap() {
            Acquired::Held { holder, left } => {
                assert!(holder == "one" && left <= SHORT, "{holder} for {left:?}");
                break first;
            }
            Acquired::Taken(epoch, _) => other.release("s", epoch).await.unwrap(),
        }
        assert!(attempts.next().is_some(), "it keeps nobody out");
    };
    // Its own holder may take it again, which fences its earlier self.
    let again = taken_for(&*store, "one", SHORT).await;
    assert_eq!(again, first + 1);
    let second = loop {
        match other.acquire("s", "two", LEASE).await.unwrap() {
            Acquired::Taken(epoch, _) => break epoch,
            Acquired::Held { left, .. } => tokio::time::sleep(left).await,
        }
    };
    assert_eq!(second, again + 1);
    commit(&harness, &["a"]).await;
    let head = tick(store.ticker().as_mut()).await;
    let stale = store.settle("s", again, &Place::at(head)).await.unwrap();
    assert_eq!(stale, Settled::Fenced);
}

pub(crate) async fn released_subscription_is_taken_at_once<H: Harness>() {
    let (harness, store) = two::<H>().await;
    let (epoch, _) = taken(&*store, "s", "one").await;
    store.release("s", epoch).await.unwrap();
    let taken = harness.open(LONG).await.acquire("s", "two", LEASE).await.unwrap();
    assert!(matches!(taken, Acquired::Taken(..)), "{taken:?}");
}

pub(crate) async fn halt_holds_under_an_epoch_that_went_back_and_not_under_a_later_one<
    H: Harness,
>() {
    let (_harness, store) = two::<H>().await;
    for (name, ahead) in [("s", 1), ("t", -1)] {
        let (epoch, place) = taken(&*store, name, "one").await;
        // What the database knew before it went back, or what another relay has been given since.
        store.halt(name, epoch + ahead, "it is older").await.unwrap();
        let confirmed = store.confirm(name, &place, None).await;
        if ahead > 0 {
            let error = confirmed.unwrap_err();
            assert_eq!(error.kind(), StoreErrorKind::Rewound, "{error}");
            assert!(error.to_string().contains("it is older"), "{error}");
        } else {
            confirmed.unwrap();
        }
    }
}

pub(crate) async fn reserved_subscription_is_asked_of_its_holder<H: Harness>() {
    let (harness, store) = two::<H>().await;
    let operator = harness.operations().await;
    let reserved = async || {
        let told = renewed(&*store, "one").await;
        told.leases.iter().map(|lease| lease.is_reserved).collect::<Vec<bool>>()
    };
    assert_eq!(operator.reserve("s", LEASE).await.unwrap(), None);
    assert_eq!(reserved().await, [true, false]);
    operator.reserve("s", Duration::ZERO).await.unwrap();
    assert_eq!(reserved().await, [false, false]);
    let (epoch, _) = taken(&*store, "s", "one").await;
    assert_eq!(operator.reserve("s", SHORT).await.unwrap().as_deref(), Some("one"));
    // It runs out by itself, and takes nothing from its holder.
    eventually_async("its end", Duration::from_mins(1), async || {
        reserved().await == [false, false]
    })
    .await;
    let head = tick(store.ticker().as_mut()).await;
    let settled = store.settle("s", epoch, &Place::at(head)).await.unwrap();
    assert_eq!(settled, Settled::Recorded);
    let error = operator.reserve("nobody", LEASE).await.unwrap_err();
    assert!(error.to_string().contains("nobody"), "{error}");
}

pub(crate) async fn renewal_prolongs_what_is_held_and_nothing_else<H: Harness>() {
    let (_harness, store) = two::<H>().await;
    // On a busy machine they may run out before they are renewed: then once more.
    let mut attempts = 0..20;
    loop {
        store.acquire("s", "one", SHORT).await.unwrap();
        store.acquire("t", "two", SHORT).await.unwrap();
        let told = renewed(&*store, "one").await;
        if holders(&told) == [("s", Some("one")), ("t", Some("two"))] {
            break;
        }
        assert!(attempts.next().is_some(), "{told:?}");
    }
    tokio::time::sleep(SHORT).await;
    // What has run out is nobody's, and a renewal that comes too late does not bring it back.
    let told = renewed(&*store, "two").await;
    assert_eq!(holders(&told), [("s", Some("one")), ("t", None)]);
    let held = store.acquire("s", "two", LEASE).await.unwrap();
    assert!(matches!(held, Acquired::Held { .. }), "{held:?}");
}

pub(crate) async fn renewal_tells_of_the_relays_that_are_alive<H: Harness>() {
    let (harness, store) = two::<H>().await;
    let other = harness.open(LONG).await;
    assert_eq!(renewed(&*store, "one").await.relays, [relay("one")]);
    assert_eq!(renewed(&*other, "two").await.relays, [relay("one"), relay("two")]);
    store.leave("one").await.unwrap();
    assert_eq!(renewed(&*other, "two").await.relays, [relay("two")]);
    tokio::time::sleep(SHORT).await;
    let told = store.renew(&relay("three"), SHORT).await.unwrap();
    assert_eq!(told.relays, [relay("three")]);
}
