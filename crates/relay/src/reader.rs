//! The reading stage of a pipeline: from the place on, window after window, page after page.

use std::sync::Arc;

use posthaste_core::{Page, Place, Position, Step, TickRef, TopicFilter, Window};
use posthaste_store::{Store, StoreError, defect};
use tokio::sync::{mpsc, watch};

use crate::{drain::Draining, failpoint, pages::Pages, source::Newest};

/// A page for the publisher, and the place once it is published.
#[derive(Debug)]
pub(crate) struct Portion {
    pub(crate) page: Arc<Page>,
    /// The place before this page; batches inside the page move on from it.
    pub(crate) before: Place,
    /// The window's closing tick.
    pub(crate) window: Arc<Window>,
    /// The place after this page.
    pub(crate) after: Place,
}

/// Reads for one subscription. Owned by its pipeline.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) pages: Arc<Pages>,
    pub(crate) filter: TopicFilter,
    pub(crate) newest: watch::Receiver<Option<Newest>>,
    pub(crate) draining: Draining,
    /// Ends once everything up to this tick has been read; `None` goes on.
    pub(crate) until: Option<i64>,
}

impl Reader {
    /// Reads from `place` on until the drain, `until`, or a failure. Ends quietly when the
    /// publisher is gone.
    pub(crate) async fn run(
        mut self,
        mut place: Place,
        portions: mpsc::Sender<Portion>,
    ) -> Result<(), StoreError> {
        loop {
            let Some((window, in_step)) = self.next_window(&place, &portions).await? else {
                return Ok(());
            };
            let Some(next) = self.read_window(place, &window, in_step, &portions).await? else {
                return Ok(());
            };
            place = next;
        }
    }

    /// The window to read next: the rest of one that was begun, else what has come since the
    /// place's tick. `None` ends the reading.
    async fn next_window(
        &mut self,
        place: &Place,
        portions: &mpsc::Sender<Portion>,
    ) -> Result<Option<(Arc<Window>, bool)>, StoreError> {
        if self.draining.has_begun() {
            return Ok(None);
        }
        if let Some(within) = place.within {
            let window = self.store.window(place.base, Some(within.head)).await?;
            return Ok(window.map(|window| (window, false)));
        }
        if self.until.is_some_and(|until| place.base.n >= until) {
            return Ok(None);
        }
        let Some(newest) = self.newer(place.base, portions).await? else { return Ok(None) };
        match newest.window {
            Some(window) if window.base.at == place.base => Ok(Some((window, true))),
            _ => {
                let window = self.store.window(place.base, None).await?;
                Ok(window.map(|window| (window, false)))
            }
        }
    }

    /// Waits for a tick after `base`. Another one that is not later either was announced late, or
    /// the log has gone back in time: the store says which. `None` ends the reading.
    async fn newer(
        &mut self,
        base: TickRef,
        portions: &mpsc::Sender<Portion>,
    ) -> Result<Option<Newest>, StoreError> {
        let (mut draining, mut seen) = (self.draining.clone(), base);
        loop {
            let is_news = |newest: &Option<Newest>| {
                newest
                    .as_ref()
                    .is_some_and(|it| it.tick.n > base.n || ![base, seen].contains(&it.tick))
            };
            let newest = tokio::select! {
                biased;
                () = draining.begun() => return Ok(None),
                () = portions.closed() => return Ok(None),
                newest = self.newest.wait_for(is_news) => match newest {
                    Ok(newest) => newest.clone(),
                    Err(_ticker_ended) => return Ok(None),
                },
            };
            match newest {
                Some(newest) if newest.tick.n > base.n => return Ok(Some(newest)),
                Some(newest) => seen = newest.tick,
                None => {}
            }
            self.store.window(base, None).await?;
        }
    }

    /// Hands the window's pages over; returns the place behind the window, or `None` when the
    /// reading should end.
    async fn read_window(
        &mut self,
        mut place: Place,
        window: &Arc<Window>,
        in_step: bool,
        portions: &mpsc::Sender<Portion>,
    ) -> Result<Option<Place>, StoreError> {
        let head = window.head.at;
        let mut position = place.within.map_or(0, |within| within.position);
        loop {
            if self.draining.has_begun() {
                return Ok(None);
            }
            let read = self.pages.read(window, position, &self.filter, in_step).await?;
            let (page, after) = match read {
                Some(page) => {
                    position = page.through();
                    let after = if is_finished(window, position) {
                        place.finished(head)
                    } else {
                        place.moved_to(head, position, None)
                    };
                    (page, after)
                }
                None => (Arc::new(Page::new(position)), place.finished(head)),
            };
            let portion = Portion { page, before: place, window: Arc::clone(window), after };
            failpoint::reach("page-read", "");
            if defect::is("drop-on-full-queue") && portions.capacity() == 0 {
                place = after;
                if after.within.is_none() {
                    return Ok(Some(place));
                }
                continue;
            }
            if portions.send(portion).await.is_err() {
                return Ok(None);
            }
            place = after;
            if after.within.is_none() {
                return Ok(Some(place));
            }
        }
    }
}

/// Whether it is certain, without asking the store, that nothing of the window lies above.
fn is_finished(window: &Window, position: Position) -> bool {
    window.step(position, 1) == Step::Done
}
