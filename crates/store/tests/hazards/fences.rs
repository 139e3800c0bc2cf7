//! A settle under an older epoch changes nothing, whatever stands beside it: FENCED.

use std::{sync::Arc, time::Duration};

use posthaste_core::Place;
use posthaste_store::{Acquired, Settled, Store, StoreErrorKind, postgres::PostgresStore};
use posthaste_testkit::eventually_async;
use tokio::task::JoinHandle;

use super::database::{LIMIT, Log, enqueue, tick};
use crate::taking::taken;

const RAISE: &str = "update posthaste.lease set epoch = epoch + 1, holder = 'another'";
const PLACES: &str = "select count(*) from posthaste.progress";

/// A subscription that is held, and a place it could settle.
async fn held(log: &Log) -> (i64, Place) {
    log.subscribe("s").await;
    enqueue(&log.writer().await, "message").await;
    let newest = tick(log.store.ticker().as_mut()).await;
    let (epoch, place) = taken(&log.store, "s", "holder").await;
    (epoch, place.finished(newest))
}

/// Starts a settle and waits until it waits for a lock.
async fn blocked_settle(log: &Log, epoch: i64, place: Place) -> JoinHandle<Settled> {
    let store: Arc<PostgresStore> = Arc::new(log.store.clone());
    let settle = tokio::spawn(async move { store.settle("s", epoch, &place).await.unwrap() });
    log.somebody_waits().await;
    assert!(!settle.is_finished());
    settle
}

/// Defence: `for share` on the lease row. A plain `exists` does not wait and sees the old epoch.
#[tokio::test]
async fn stale_settle_is_refused_beside_an_uncommitted_takeover() {
    let log = Log::shared().await;
    let (epoch, place) = held(&log).await;
    let before: i64 = log.ask(PLACES).await;
    let mut another = log.writer().await;
    let takeover = another.transaction().await.unwrap();
    takeover.batch_execute(RAISE).await.unwrap();
    let settle = blocked_settle(&log, epoch, place).await;
    takeover.commit().await.unwrap();
    assert_eq!(settle.await.unwrap(), Settled::Fenced);
    assert_eq!(log.ask::<i64>(PLACES).await, before, "nothing was written");
}

/// Defence: the guard's condition is evaluated anew after the wait.
#[tokio::test]
async fn settle_beside_a_takeover_that_is_rolled_back_is_recorded() {
    let log = Log::shared().await;
    let (epoch, place) = held(&log).await;
    let mut another = log.writer().await;
    let takeover = another.transaction().await.unwrap();
    takeover.batch_execute(RAISE).await.unwrap();
    let settle = blocked_settle(&log, epoch, place).await;
    takeover.rollback().await.unwrap();
    assert_eq!(settle.await.unwrap(), Settled::Recorded);
    assert_eq!(taken(&log.store, "s", "next").await.1, place);
}

/// Defence: `acquire` raises the epoch before it reads the place, and the raise waits for a settle
/// that is under way.
#[tokio::test]
async fn takeover_waits_for_a_settle_and_begins_at_its_place() {
    let log = Log::shared().await;
    let (epoch, place) = held(&log).await;
    let mut holder = log.writer().await;
    let settle = holder.transaction().await.unwrap();
    let settled = format!(
        "insert into posthaste.progress (subscription, base_tick, base_id, epoch) \
         select subscription, {}, '{}', {epoch} from (select subscription from posthaste.lease \
         where epoch = {epoch} for share) held",
        place.base.n, place.base.id
    );
    assert_eq!(settle.execute(&settled, &[]).await.unwrap(), 1);
    let store = log.store.clone();
    let takeover = tokio::spawn(async move { taken(&store, "s", "another").await });
    log.somebody_waits().await;
    settle.commit().await.unwrap();
    let (raised, found) = takeover.await.unwrap();
    assert_eq!((raised, found.base), (epoch + 1, place.base));
    assert_eq!(log.store.settle("s", epoch, &place).await.unwrap(), Settled::Fenced);
}

/// Defence: `acquire` looks at the lease again when it raises the epoch.
#[tokio::test]
async fn renewal_whose_commit_comes_late_keeps_the_lease() {
    let log = Log::shared().await;
    log.subscribe("s").await;
    let lease = Duration::from_millis(1);
    log.store.acquire("s", "holder", lease).await.unwrap();
    let mut holder = log.writer().await;
    let renewal = holder.transaction().await.unwrap();
    let prolong = "update posthaste.lease set expires_at = clock_timestamp() + interval '1 hour'";
    assert_eq!(renewal.execute(prolong, &[]).await.unwrap(), 1);
    // What others see of the lease has run out.
    let has_run_out = "select expires_at < clock_timestamp() from posthaste.lease";
    eventually_async("the end of a lease", LIMIT, async || log.ask(has_run_out).await).await;
    let store = log.store.clone();
    let takeover = tokio::spawn(async move { store.acquire("s", "another", LIMIT).await });
    log.somebody_waits().await;
    renewal.commit().await.unwrap();
    let refused = takeover.await.unwrap().unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Conflict, "{refused:?}");
    let held = log.store.acquire("s", "another", LIMIT).await.unwrap();
    assert!(matches!(&held, Acquired::Held { holder, .. } if holder == "holder"), "{held:?}");
}
