//! The settling stage of a pipeline: records the newest published place, never an older one.

use std::{sync::Arc, time::Duration};

use posthaste_core::Place;
use posthaste_store::{Settled, StoreError};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::ledger::Ledger;

/// Places that moved past messages of other subscriptions only are settled at most this often:
/// nothing is lost by settling them late.
const QUIET_INTERVAL: Duration = Duration::from_secs(1);

/// Settles for one subscription. Owned by its pipeline.
pub(crate) struct Settler {
    pub(crate) ledger: Arc<Ledger>,
}

impl Settler {
    /// Settles what the publisher reports until it ends, and then the last place. Places that
    /// come while a settle is under way are passed over for the newest.
    pub(crate) async fn run(
        self,
        mut settled: Place,
        mut places: watch::Receiver<Place>,
    ) -> Result<Settled, StoreError> {
        let mut at = Instant::now();
        loop {
            let is_open = self.wait_for_more(&settled, at, &mut places).await;
            let place = *places.borrow_and_update();
            if place != settled {
                let answer = self.ledger.settle(place).await?;
                if answer == Settled::Fenced {
                    return Ok(answer);
                }
                settled = place;
                at = Instant::now();
            }
            if !is_open {
                return Ok(Settled::Recorded);
            }
        }
    }

    /// Waits until there is a place worth settling; false when the publisher has ended.
    async fn wait_for_more(
        &self,
        settled: &Place,
        at: Instant,
        places: &mut watch::Receiver<Place>,
    ) -> bool {
        if places.wait_for(|place| place != settled).await.is_err() {
            return false;
        }
        let quiet = QUIET_INTERVAL.saturating_sub(at.elapsed());
        let published = places.wait_for(|place| place.message != settled.message);
        !matches!(timeout(quiet, published).await, Ok(Err(_ended)))
    }
}
