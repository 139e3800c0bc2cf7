//! A large log with a history: topics, keys and ids that are common, rare and gathered in bursts; subscriptions at the
//! end, in the middle and at the beginning; some of it parked and dead.

mod postgres;
mod sqlite;

use std::{sync::Arc, time::Duration};

use posthaste_core::{Place, TopicFilter};
use posthaste_store::{Acquired, Operations, Start, Store, SubscriptionSpec};
use posthaste_testkit::failure::{During, Failure, Result};
use tempfile::TempDir;

use crate::{
    progress,
    servers::{Servers, StoreKind},
};

/// Messages of one statement.
const CHUNK: u64 = 250_000;
/// Milliseconds between two messages: ten million take 28 hours.
pub(super) const SPACING_MS: u64 = 10;
/// When the first of them was written, in seconds.
pub(super) const BEGINS: u64 = 1_700_000_000;
/// What is settled stays, whatever its age.
const RETENTION: Duration = Duration::from_hours(24 * 365 * 100);
const LEASE: Duration = Duration::from_hours(1);

/// Subscriptions, and how much of the log they have published, in percent. Relays that are at the end are a second
/// behind.
const SUBSCRIPTIONS: [(&str, &str, u64); 4] = [
    ("everything", "*", 99),
    ("orders", "orders.*", 50),
    ("mail", "mail.*", 99),
    ("rare", "rare.*", 10),
];

/// Topic, key and correlation id of message `n`.
const COLUMNS: &str = "\
    case when n % 500000 = 17 then 'rare.one' when n % 250000 < 8000 then 'burst.job' \
         when n % 100 < 60 then 'orders.created' when n % 100 < 85 then 'orders.' || (n % 20) \
         when n % 100 < 99 then 'mail.sent' else 'audit.' || (n % 3000) end, \
    case when n % 20 = 3 then 'hot' when n % 1000000 = 77 then 'rare' when n % 10 = 9 then null \
         else 'key-' || ((n * 7919) % 100000) end, \
    case when n % 10 < 9 then 'c-' || (n / 10) end";

/// A log that is ready.
pub(super) struct Filled {
    pub(super) store: Arc<dyn Operations>,
    pub(super) count: u64,
    /// Its file stands there.
    _directory: Option<TempDir>,
}

/// A log that is being filled, by statements of its own.
enum Filling {
    Postgres(postgres::Filling),
    Sqlite(sqlite::Filling),
}

impl Filling {
    fn store(&self) -> &Arc<dyn Operations> {
        match self {
            Self::Postgres(log) => &log.store,
            Self::Sqlite(log) => &log.store,
        }
    }

    /// Messages from one number to another.
    async fn write(&self, from: u64, to: u64) -> Result<()> {
        match self {
            Self::Postgres(log) => log.write(from, to).await,
            Self::Sqlite(log) => log.write(from, to),
        }
    }

    /// Dead letters and parked messages below a position, and parked keys.
    async fn set_aside(&self, below: u64) -> Result<()> {
        match self {
            Self::Postgres(log) => log.set_aside(below).await,
            Self::Sqlite(log) => log.set_aside(below),
        }
    }
}

/// Of `count` messages, or as many as are usual for the store.
pub(super) async fn log(servers: &Servers, kind: StoreKind, count: Option<u64>) -> Result<Filled> {
    let (filling, count) = match kind {
        StoreKind::Postgres => {
            let count = count.unwrap_or(postgres::MESSAGES);
            (Filling::Postgres(postgres::Filling::begin(servers, count).await?), count)
        }
        StoreKind::Sqlite => {
            let filling = sqlite::Filling::begin().await?;
            (Filling::Sqlite(filling), count.unwrap_or(sqlite::MESSAGES))
        }
    };
    let specs = SUBSCRIPTIONS.map(|(name, pattern, _)| SubscriptionSpec {
        name: name.to_owned(),
        filter: TopicFilter::new(&[pattern]).unwrap_or_else(|_| TopicFilter::all()),
        start: Start::Beginning,
    });
    let store = Arc::clone(filling.store());
    store.reconcile(&specs).await.during("create subscriptions")?;
    let mut written = 0;
    let mut percents: Vec<u64> = SUBSCRIPTIONS.iter().map(|(.., percent)| *percent).collect();
    percents.sort_unstable();
    percents.dedup();
    for percent in percents.into_iter().chain([100]) {
        while written < count * percent / 100 {
            let to = (written + CHUNK).min(count * percent / 100);
            filling.write(written + 1, to).await?;
            written = to;
            progress(format_args!("{written} messages written"));
        }
        for (name, _, _) in SUBSCRIPTIONS.iter().filter(|(.., until)| *until >= percent) {
            settle(&*store, name).await?;
        }
    }
    filling.set_aside(count * 99 / 100).await?;
    let directory = match filling {
        Filling::Postgres(log) => log.finish(count).await.map(|()| None),
        Filling::Sqlite(log) => Ok(Some(log.directory)),
    }?;
    Ok(Filled { store, count, _directory: directory })
}

/// Takes a tick and settles the subscription there.
async fn settle(store: &dyn Store, name: &str) -> Result<()> {
    let mut ticker = store.ticker();
    let mut tick = ticker.advance().await.during("tick")?.tick;
    for _ in 0..3 {
        tick = ticker.advance().await.during("tick")?.tick;
    }
    match store.acquire(name, "bench", LEASE).await.during("take a subscription")? {
        Acquired::Taken(epoch, _) => {
            store.settle(name, epoch, &Place::at(tick)).await.during("settle")?;
            store.release(name, epoch).await.during("release a subscription")
        }
        Acquired::Held { .. } => Err(Failure::new("a relay holds the subscription")),
    }
}
