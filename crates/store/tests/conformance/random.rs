//! Random schedules of writers, ticks, pages, settles, restarts and sweeps against a model:
//! COMPLETE, ORDERED, FENCED.

use std::{collections::HashMap, sync::Arc, time::Duration};

use posthaste_core::{Epoch, Message, MessageId, PageLimit, Place, TopicFilter};
use posthaste_store::{Settled, Start, Store, Ticker};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};

use super::{
    harness::{Application, Harness, migrated},
    reader::{Reader, subscription, tick},
};
use crate::taking::taken;

/// Repeats one schedule: `POSTHASTE_SEED=… cargo test -p posthaste-store random`.
const SEED: &str = "POSTHASTE_SEED";
const STEPS: u32 = 600;
const SUBSCRIPTIONS: [(&str, &[&str]); 2] = [("all", &["*"]), ("some", &["b", "c*"])];
const TOPICS: [&str; 4] = ["a", "b", "cc", "d"];

pub(crate) async fn random_schedules_lose_repeat_and_reorder_nothing<H: Harness>() {
    let seed = std::env::var(SEED).map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("repeat with {SEED}={seed} cargo test -p posthaste-store random");
    let mut world = World::<H>::new(seed).await;
    for _ in 0..STEPS {
        world.step().await;
    }
    world.finish().await;
}

/// A message as the model knows it.
#[derive(Clone, Copy, Debug)]
struct Written {
    id: MessageId,
    topic: &'static str,
    /// Transactions that had committed when it was inserted.
    inserted_after: usize,
    /// Number of its own transaction among the committed ones, from 1.
    committed_as: usize,
}

struct OpenTransaction<A> {
    application: A,
    written: Vec<Written>,
}

/// A relay of one subscription. Its sink forgets what was not settled when it restarts.
struct Relay {
    name: &'static str,
    epoch: Epoch,
    stale: Option<Epoch>,
    reader: Reader,
    settled: usize,
}

struct World<H: Harness> {
    random: SmallRng,
    harness: H,
    store: Arc<dyn Store>,
    tickers: Vec<Box<dyn Ticker>>,
    open: Vec<OpenTransaction<H::Application>>,
    committed: Vec<Written>,
    commits: usize,
    relays: Vec<Relay>,
}

impl<H: Harness> World<H> {
    async fn new(seed: u64) -> Self {
        let (harness, store) = migrated::<H>().await;
        let specs =
            SUBSCRIPTIONS.map(|(name, topics)| subscription(name, topics, Start::Beginning));
        store.reconcile(&specs).await.unwrap();
        let mut relays = Vec::new();
        for (name, topics) in SUBSCRIPTIONS {
            let (epoch, place) = taken(&*store, name, "first").await;
            let filter = TopicFilter::new(topics).unwrap();
            let reader = Reader { filter, ..Reader::at(place) };
            relays.push(Relay { name, epoch, stale: None, reader, settled: 0 });
        }
        let other = harness.open(Duration::ZERO).await;
        let tickers = vec![store.ticker(), other.ticker()];
        Self {
            random: SmallRng::seed_from_u64(seed),
            harness,
            store: other,
            tickers,
            open: Vec::new(),
            committed: Vec::new(),
            commits: 0,
            relays,
        }
    }

    async fn step(&mut self) {
        // A store with one writer cannot write while an application does.
        let store_may_write = H::WRITERS_MAX > 1 || self.open.is_empty();
        match self.random.random_range(0..100) {
            0..15 => self.begin().await,
            15..35 => self.insert().await,
            35..50 => self.end().await,
            50..65 if store_may_write => {
                let chosen = self.random.random_range(0..self.tickers.len());
                self.tickers[chosen].advance().await.unwrap();
            }
            65..85 => self.page().await,
            85..93 if store_may_write => self.settle().await,
            93..97 if store_may_write => self.restart().await,
            97..99 if store_may_write => drop(self.store.sweep().await.unwrap()),
            99 => self.exchange_store().await,
            _ => {}
        }
    }

    async fn begin(&mut self) {
        if self.open.len() < H::WRITERS_MAX {
            let application = self.harness.begin().await;
            self.open.push(OpenTransaction { application, written: Vec::new() });
        }
    }

    async fn insert(&mut self) {
        let topic = TOPICS.choose(&mut self.random).unwrap();
        let payload = vec![b'x'; self.random.random_range(0..200)];
        let inserted_after = self.commits;
        let Some(index) = self.any_open() else { return };
        let transaction = &mut self.open[index];
        let message = Message::new(*topic).bytes("a/b", payload);
        let id = transaction.application.insert(&message).await;
        transaction.written.push(Written { id, topic, inserted_after, committed_as: 0 });
    }

    async fn end(&mut self) {
        let Some(index) = self.any_open() else { return };
        let OpenTransaction { application, written } = self.open.swap_remove(index);
        if self.random.random_bool(0.25) {
            return application.rollback().await;
        }
        application.commit().await;
        self.commits += 1;
        let committed_as = self.commits;
        self.committed.extend(written.into_iter().map(|w| Written { committed_as, ..w }));
    }

    fn any_open(&mut self) -> Option<usize> {
        (!self.open.is_empty()).then(|| self.random.random_range(0..self.open.len()))
    }

    fn any_relay(&mut self) -> &mut Relay {
        self.relays.choose_mut_by(&mut self.random)
    }

    async fn page(&mut self) {
        let stride = [1, 3, 10, 1_000].choose(&mut self.random).copied().unwrap();
        let bytes = [1, 300, 100_000].choose(&mut self.random).copied().unwrap();
        let store = Arc::clone(&self.store);
        let relay = self.any_relay();
        relay.reader.limit = PageLimit { stride, bytes };
        relay.reader.step(&*store).await;
    }

    async fn settle(&mut self) {
        let store = Arc::clone(&self.store);
        let relay = self.any_relay();
        if let Some(stale) = relay.stale {
            let fenced = store.settle(relay.name, stale, &relay.reader.place).await.unwrap();
            assert_eq!(fenced, Settled::Fenced);
        }
        let settled = store.settle(relay.name, relay.epoch, &relay.reader.place).await.unwrap();
        assert_eq!(settled, Settled::Recorded);
        relay.settled = relay.reader.received.len();
    }

    async fn restart(&mut self) {
        let store = Arc::clone(&self.store);
        let relay = self.any_relay();
        let (epoch, place) = taken(&*store, relay.name, "next").await;
        assert!(epoch > relay.epoch);
        relay.stale = Some(relay.epoch);
        relay.epoch = epoch;
        relay.reader.place = place;
        relay.reader.received.truncate(relay.settled);
        let last = relay.reader.received.last().map(|message| message.id);
        assert_eq!(place.message, last, "the place names the last message before it");
    }

    async fn exchange_store(&mut self) {
        self.store = self.harness.open(Duration::ZERO).await;
        self.tickers[1] = self.store.ticker();
    }

    async fn finish(&mut self) {
        while !self.open.is_empty() {
            self.end().await;
        }
        let newest = tick(self.tickers[0].as_mut()).await;
        for relay in &mut self.relays {
            relay.reader.drain(&*self.store).await;
            assert_eq!(relay.reader.place.base, newest);
        }
        for relay in &self.relays {
            self.compare(relay);
        }
        assert!(self.relays[0].reader.place != Place::beginning(), "the schedule was not empty");
    }

    /// Nothing lost, nothing repeated, and nothing before a message that had been committed when
    /// it was enqueued.
    fn compare(&self, relay: &Relay) {
        let matching = self.committed.iter().filter(|w| relay.reader.filter.matches(w.topic));
        let mut left: HashMap<MessageId, &Written> = matching.map(|w| (w.id, w)).collect();
        let (mut latest_insert, mut in_transaction) = (0, HashMap::new());
        for received in &relay.reader.received {
            let written = left.remove(&received.id);
            let written = written.unwrap_or_else(|| {
                panic!("{} repeated or invented {received:?}", relay.name);
            });
            assert!(written.committed_as > latest_insert, "{} reordered {written:?}", relay.name);
            latest_insert = latest_insert.max(written.inserted_after);
            let earlier = in_transaction.insert(written.committed_as, received.position);
            assert!(earlier.is_none_or(|earlier| earlier < received.position));
        }
        assert!(left.is_empty(), "{} lost {left:?}", relay.name);
        if H::WRITERS_MAX == 1 {
            let expected = self.committed.iter().filter(|w| relay.reader.filter.matches(w.topic));
            assert!(relay.reader.ids().into_iter().eq(expected.map(|w| w.id)), "{}", relay.name);
        }
    }
}

/// Chooses one of a list that is never empty.
trait ChooseMut<T> {
    fn choose_mut_by(&mut self, random: &mut SmallRng) -> &mut T;
}

impl<T> ChooseMut<T> for Vec<T> {
    fn choose_mut_by(&mut self, random: &mut SmallRng) -> &mut T {
        let chosen = random.random_range(0..self.len());
        &mut self[chosen]
    }
}
