//! A database with an application and a relay, and everything that arrived from it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use posthaste_core::MessageId;
use posthaste_relay::{Monitor, Relay, sink::Context, sinks::local::Delivery};
use posthaste_store::{
    Store,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::{
    Database, Postgres, eventually_async,
    history::{Entry, Verdict, check},
};
use tokio::sync::mpsc;

use super::application;
use crate::pipeline::support::{Running, local, settings, subscription};

/// No wait takes longer unless something is broken; generous, because the machine may be busy with
/// the writers of other tests.
pub(crate) const LIMIT: Duration = Duration::from_mins(2);

/// What a consumer received, in the order it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrivals {
    received: Arc<Mutex<Vec<(MessageId, Entry)>>>,
}

/// One database, its application and a relay with one subscription to everything.
pub(crate) struct Scene {
    pub(crate) database: Database,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) arrivals: Arrivals,
    running: Running,
}

impl Arrivals {
    /// Starts to take in what the consumer receives.
    pub(crate) fn follow(&self, mut consumer: mpsc::Receiver<Delivery>) {
        let arrivals = self.clone();
        tokio::spawn(async move {
            while let Some(delivery) = consumer.recv().await {
                let text = String::from_utf8(delivery.payload).unwrap();
                arrivals.lock().push((delivery.id, text.parse().unwrap()));
            }
        });
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.lock().iter().map(|(_, entry)| *entry).collect()
    }

    pub(crate) fn ids(&self) -> HashSet<MessageId> {
        self.lock().iter().map(|(id, _)| *id).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(MessageId, Entry)>> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A database with the log and the application's tables.
pub(crate) async fn prepare(postgres: &Postgres) -> (Database, Arc<dyn Store>) {
    let database = postgres.database().await;
    let store = PostgresStore::connect(database.url(), &PostgresOptions::default()).unwrap();
    store.migrate().await.unwrap();
    application::create(&database).await;
    (database, Arc::new(store))
}

/// A relay with one subscription to everything, named `test`, and its consumer.
pub(crate) fn relay(store: &Arc<dyn Store>, arrivals: &Arrivals) -> Relay {
    let context = Context::default();
    arrivals.follow(context.locals.subscribe("test", 10_000));
    let subscriptions = vec![subscription("test", &["*"], local("test"))];
    Relay::new(Arc::clone(store), settings(), subscriptions, context)
}

/// What the application's committed transactions recorded.
pub(crate) async fn recorded(database: &Database) -> Vec<Entry> {
    let rows = "select k, n, part, tx from app.mirror order by k, n, part";
    let rows = database.connect().await.query(rows, &[]).await.unwrap();
    let entry = |row: &tokio_postgres::Row| Entry {
        key: row.get(0),
        n: row.get(1),
        part: row.get(2),
        transaction: row.get(3),
    };
    rows.iter().map(entry).collect()
}

/// The messages that the view `outbox` calls published.
pub(crate) async fn published(database: &Database) -> HashSet<MessageId> {
    let client = database.connect().await;
    // Compiling this view takes seconds, reading it milliseconds.
    client.batch_execute("set jit = off").await.unwrap();
    let rows = "select id from posthaste.outbox where published_at is not null";
    let rows = client.query(rows, &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Waits until all of `recorded` has arrived.
pub(crate) async fn arrived(recorded: &[Entry], arrivals: &Arrivals) {
    let mut missing: HashSet<Entry> = recorded.iter().copied().collect();
    let mut looked = 0;
    let what = format!("the arrival of {} messages", missing.len());
    eventually_async(&what, LIMIT, || {
        let received = arrivals.lock();
        for (_, entry) in &received[looked..] {
            missing.remove(entry);
        }
        looked = received.len();
        std::future::ready(missing.is_empty())
    })
    .await;
}

impl Scene {
    /// A fresh database on `postgres`, with the relay running.
    pub(crate) async fn on(postgres: &Postgres) -> Self {
        let (database, store) = prepare(postgres).await;
        let arrivals = Arrivals::default();
        let running = Running::start(relay(&store, &arrivals));
        Self { database, store, arrivals, running }
    }

    pub(crate) fn monitor(&self) -> &Monitor {
        &self.running.monitor
    }

    /// Waits until everything recorded so far has arrived.
    pub(crate) async fn arrived(&self) {
        arrived(&recorded(&self.database).await, &self.arrivals).await;
    }

    /// Waits for the rest, drains, and judges. What the relay says is compared too: no backlog.
    pub(crate) async fn verdict(self) -> Verdict {
        let recorded = recorded(&self.database).await;
        arrived(&recorded, &self.arrivals).await;
        self.running.drain().await.unwrap();
        let status = self.store.status().await.unwrap();
        assert_eq!(status.subscriptions[0].backlog, 0);
        check(&recorded, &self.arrivals.entries())
    }

    /// As [`Scene::verdict`], where nothing went wrong that could repeat a message.
    pub(crate) async fn assert_exactly_once(self) {
        let count = recorded(&self.database).await.len();
        assert!(count > 0, "nothing was written");
        let verdict = self.verdict().await;
        assert!(verdict.is_exactly_once(), "of {count}: {verdict}");
    }
}
