//! A reader as the relay is one: follows the ticks, reads windows page by page, moves its place.

use crate::taking::taken;
use posthaste_core::{MessageId, MessageRef, PageLimit, Place, Position, TickRef, TopicFilter};
use posthaste_store::{Start, Store, SubscriptionSpec, Ticker};

/// A limit that no case's window exceeds.
pub(crate) const WIDE: PageLimit = PageLimit { stride: 100_000, bytes: 64 << 20 };

/// Looks without a tick after which nothing is left to be ticked.
const QUIET_LOOKS: u32 = 3;
/// Ticks that what one case committed can need, with room for those of other tickers.
const TICKS_MAX: u32 = 100;

/// A message as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) position: Position,
    pub(crate) id: MessageId,
    pub(crate) topic: String,
    pub(crate) key: Option<String>,
    pub(crate) content_type: String,
    pub(crate) correlation_id: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) payload: Vec<u8>,
}

impl From<MessageRef<'_>> for Received {
    fn from(message: MessageRef<'_>) -> Self {
        let headers = message.headers.iter();
        Self {
            position: message.position,
            id: message.id,
            topic: message.topic.to_owned(),
            key: message.key.map(str::to_owned),
            content_type: message.content_type.to_owned(),
            correlation_id: message.correlation_id.map(str::to_owned),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            payload: message.payload.to_vec(),
        }
    }
}

/// Where a reader stands, and what it has read.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) place: Place,
    pub(crate) filter: TopicFilter,
    pub(crate) limit: PageLimit,
    pub(crate) received: Vec<Received>,
}

impl Reader {
    /// A reader of every topic at `place`.
    pub(crate) fn at(place: Place) -> Self {
        Self { place, filter: TopicFilter::all(), limit: WIDE, received: Vec::new() }
    }

    /// Reads one page and moves past it; `false` when nothing lies above the place.
    pub(crate) async fn step(&mut self, store: &dyn Store) -> bool {
        let Place { base, within, .. } = self.place;
        let head = within.map(|within| within.head);
        let Some(window) = store.window(base, head).await.unwrap() else { return false };
        assert!(window.head.at.n > base.n, "a window ends after its base");
        let after = within.map_or(0, |within| within.position);
        match store.read(&window, after, &self.filter, self.limit).await.unwrap() {
            Some(page) => {
                assert!(page.through() > after, "a page moves on: {after} to {}", page.through());
                assert!(page.iter().all(|m| m.position > after && m.position <= page.through()));
                let last = page.iter().last().map(|message| message.id);
                self.received.extend(page.iter().map(Received::from));
                self.place = self.place.moved_to(window.head.at, page.through(), last);
            }
            None => self.place = self.place.finished(window.head.at),
        }
        true
    }

    /// Reads to the newest tick.
    pub(crate) async fn drain(&mut self, store: &dyn Store) {
        while self.step(store).await {}
    }

    /// Ids in the order they were read.
    pub(crate) fn ids(&self) -> Vec<MessageId> {
        self.received.iter().map(|message| message.id).collect()
    }
}

/// Ticks until everything committed is covered, and answers the newest tick.
pub(crate) async fn tick(ticker: &mut dyn Ticker) -> TickRef {
    let mut quiet = 0;
    for _ in 0..TICKS_MAX {
        let advance = ticker.advance().await.unwrap();
        quiet = if advance.window.is_some() { 0 } else { quiet + 1 };
        if quiet == QUIET_LOOKS {
            return advance.tick;
        }
    }
    panic!("{TICKS_MAX} looks found ever more to tick");
}

/// Ticks, then reads everything from the beginning.
pub(crate) async fn read_all(store: &dyn Store) -> Vec<Received> {
    tick(store.ticker().as_mut()).await;
    let mut reader = Reader::at(Place::beginning());
    reader.drain(store).await;
    reader.received
}

/// A subscription as the configuration would name it.
pub(crate) fn subscription(name: &str, patterns: &[&str], start: Start) -> SubscriptionSpec {
    SubscriptionSpec { name: name.to_owned(), filter: TopicFilter::new(patterns).unwrap(), start }
}

/// Ticks, takes the subscription over, reads it to its end and settles.
pub(crate) async fn publish_all(store: &dyn Store, name: &str) -> Vec<MessageId> {
    tick(store.ticker().as_mut()).await;
    let (epoch, place) = taken(store, name, "publish_all").await;
    let status = store.status().await.unwrap();
    let state = status.subscriptions.into_iter().find(|state| state.name == name).unwrap();
    let mut reader = Reader { filter: state.filter, ..Reader::at(place) };
    reader.drain(store).await;
    store.settle(name, epoch, &reader.place).await.unwrap();
    reader.ids()
}
