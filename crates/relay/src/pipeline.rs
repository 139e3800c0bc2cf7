//! One subscription's pipeline: `read page → publish → settle`, three stages side by side with
//! room for one page between them, so that the next page is read while the last is published.

use std::{panic::resume_unwind, sync::Arc};

use posthaste_core::TopicFilter;
use posthaste_store::{Settled, Store, StoreError};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    drain::Draining,
    monitor::{Gauge, State},
    pages::Pages,
    publisher::{Ended, Publisher, Signals},
    reader::Reader,
    settler::Settler,
    sink::SinkError,
    source::Newest,
};

/// Pages between the reader and the publisher.
const PAGES_AHEAD: usize = 1;

/// What a pipeline works with. Cloned for each run of it.
#[derive(Clone)]
pub(crate) struct Pipeline {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) pages: Arc<Pages>,
    pub(crate) filter: TopicFilter,
    pub(crate) newest: watch::Receiver<Option<Newest>>,
    pub(crate) gauge: Arc<Gauge>,
    pub(crate) draining: Draining,
    /// Who holds the subscription, for people.
    pub(crate) holder: Arc<str>,
    /// Ends once everything up to this tick is published; `None` goes on.
    pub(crate) until: Option<i64>,
}

/// How one run of a pipeline ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Drained, or everything that was asked for is published.
    Done,
    /// Another relay took over.
    Fenced,
    /// The database failed; the next run begins at the stored place.
    Store(StoreError),
    /// The sink failed in a way that does not pass by itself.
    Sink(SinkError),
}

impl Pipeline {
    /// Runs from the stored place, never from memory, until the drain or a failure.
    pub(crate) async fn run(self, publisher: &mut Publisher) -> Outcome {
        let name = self.gauge.name().to_owned();
        let (epoch, place) = match self.store.acquire(&name, &self.holder).await {
            Ok(acquired) => acquired,
            Err(error) => return Outcome::Store(error),
        };
        tracing::debug!(subscription = name, epoch, ?place, "acquired");
        self.gauge.settled(place);
        self.gauge.running();

        let (portions_in, mut portions) = mpsc::channel(PAGES_AHEAD);
        let (places_in, places) = watch::channel(place);
        let (fence, fenced) = watch::channel(false);
        let reader = Reader {
            store: Arc::clone(&self.store),
            pages: Arc::clone(&self.pages),
            filter: self.filter.clone(),
            newest: self.newest.clone(),
            draining: self.draining.clone(),
            until: self.until,
        };
        let settler =
            Settler { store: Arc::clone(&self.store), gauge: Arc::clone(&self.gauge), epoch };
        let mut signals = Signals { draining: self.draining.clone(), fenced };

        let publish = async {
            let published = publisher.run(&mut portions, &places_in, &mut signals).await;
            // The reader stops when its pages find no taker, the settler after the last place.
            portions.close();
            drop(places_in);
            published
        };
        let settle = async {
            let settled = settler.run(place, places).await;
            if !matches!(settled, Ok(Settled::Recorded)) {
                fence.send_replace(true);
            }
            settled
        };
        // The reader has a task of its own: decoding a page must not hold up the answer to a batch.
        // It is joined below, and aborted with this future.
        let mut reading = JoinSet::new();
        reading.spawn(reader.run(place, portions_in));
        let read = async {
            match reading.join_next().await {
                Some(Ok(read)) => read,
                Some(Err(error)) if error.is_panic() => resume_unwind(error.into_panic()),
                _ => Ok(()),
            }
        };
        let (read, published, settled) = tokio::join!(read, publish, settle);

        let outcome = conclude(read, published, settled);
        if matches!(outcome, Outcome::Done) {
            self.gauge.enter(State::Draining);
            if let Err(error) = self.store.release(&name, epoch).await {
                return Outcome::Store(error);
            }
        }
        outcome
    }
}

/// The most telling of three results: a fence first, then the sink, then the database.
fn conclude(
    read: Result<(), StoreError>,
    published: Result<(), Ended>,
    settled: Result<Settled, StoreError>,
) -> Outcome {
    match (settled, published, read) {
        (Ok(Settled::Fenced), _, _) => Outcome::Fenced,
        (_, Err(Ended::Sink(error)), _) => Outcome::Sink(error),
        (Err(error), _, _) | (_, _, Err(error)) => Outcome::Store(error),
        (Ok(Settled::Recorded), Err(Ended::Fenced), _) => Outcome::Fenced,
        (Ok(Settled::Recorded), Ok(()) | Err(Ended::Draining), Ok(())) => Outcome::Done,
    }
}
