//! Taking subscriptions over, one holder after the other.

use std::time::Duration;

use posthaste_core::{Epoch, Place};
use posthaste_store::{Acquired, Store};

/// Longer than any test.
pub(crate) const LEASE: Duration = Duration::from_mins(5);

/// Takes a subscription over, from its holder if it has one: the lease is given up for that.
pub(crate) async fn taken(store: &dyn Store, subscription: &str, holder: &str) -> (Epoch, Place) {
    loop {
        if let Acquired::Taken(epoch, place) =
            store.acquire(subscription, holder, LEASE).await.unwrap()
        {
            return (epoch, place);
        }
        let all = store.status().await.unwrap().subscriptions;
        let held = all.iter().find(|it| it.name == subscription).unwrap();
        store.release(subscription, held.epoch).await.unwrap();
    }
}
