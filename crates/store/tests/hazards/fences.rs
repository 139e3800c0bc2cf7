//! A settle under an older epoch changes nothing, whatever stands beside it: FENCED.

use std::sync::Arc;

use posthaste_core::Place;
use posthaste_store::{Settled, Store, postgres::PostgresStore};
use tokio::task::JoinHandle;

use super::database::{Log, enqueue, tick};
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
