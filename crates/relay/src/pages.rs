//! Pages that several subscriptions read in step are read from the store once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use posthaste_core::{Page, PageLimit, Position, TickRef, TopicFilter, Window};
use posthaste_store::{Result, Store};
use tokio::sync::OnceCell;

/// Pages kept for the other subscriptions. With the page limit this bounds the memory.
const PAGES_KEPT: usize = 4;

/// The tick pair and the position that a page begins after. The whole ticks: a restored log hands
/// their numbers out again.
type Key = (TickRef, TickRef, Position);
type Slot = Arc<OnceCell<Option<Arc<Page>>>>;

/// Reads pages, shared by the pipelines of one relay.
#[derive(Debug)]
pub(crate) struct Pages {
    store: Arc<dyn Store>,
    limit: PageLimit,
    /// What any subscription of this relay reads; shared pages hold all of it.
    union: TopicFilter,
    /// Whether there is anybody to share with.
    is_shared: bool,
    kept: Mutex<VecDeque<(Key, Slot)>>,
}

impl Pages {
    pub(crate) fn new(store: Arc<dyn Store>, limit: PageLimit, filters: &[TopicFilter]) -> Self {
        Self {
            store,
            limit,
            union: TopicFilter::union(filters),
            is_shared: filters.len() > 1,
            kept: Mutex::default(),
        }
    }

    /// The next page of `window` after `after` for a reader of `filter`. A reader in step with
    /// the ticker shares it with the others and may find messages that its filter does not match;
    /// a laggard reads alone.
    pub(crate) async fn read(
        &self,
        window: &Window,
        after: Position,
        filter: &TopicFilter,
        in_step: bool,
    ) -> Result<Option<Arc<Page>>> {
        if !(in_step && self.is_shared) {
            let page = self.store.read(window, after, filter, self.limit).await?;
            return Ok(page.map(Arc::new));
        }
        let slot = self.slot((window.base.at, window.head.at, after));
        let read = || async {
            let page = self.store.read(window, after, &self.union, self.limit).await?;
            Ok(page.map(Arc::new))
        };
        slot.get_or_try_init(read).await.cloned()
    }

    fn slot(&self, key: Key) -> Slot {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, slot)) = kept.iter().find(|(k, _)| *k == key) {
            return Arc::clone(slot);
        }
        if kept.len() == PAGES_KEPT {
            kept.pop_front();
        }
        let slot = Slot::default();
        kept.push_back((key, Arc::clone(&slot)));
        slot
    }
}
