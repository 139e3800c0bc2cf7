//! A database with the log, hand-driven writers, and a reader as the relay is one.

use std::time::Duration;

use crate::taking::taken;
use posthaste_core::{PageLimit, Place, TickRef, TopicFilter};
use posthaste_store::{
    Start, Store, SubscriptionSpec, Ticker,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::{Database, Postgres, PostgresOptions as ServerOptions, eventually_async};
use tokio_postgres::{Client, GenericClient};

/// No wait takes longer unless something is broken.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);
/// A limit that no window here exceeds unless the test means it.
pub(crate) const WIDE: PageLimit = PageLimit { stride: 100_000, bytes: 64 << 20 };
/// Looks without a tick after which nothing is left to be ticked, unless a transaction is open.
const QUIET_LOOKS: u32 = 4;

/// A migrated database.
pub(crate) struct Log {
    pub(crate) database: Database,
    pub(crate) store: PostgresStore,
}

impl Log {
    /// On the server that the tests share.
    pub(crate) async fn shared() -> Self {
        Self::on(Postgres::shared(), &PostgresOptions::default()).await
    }

    pub(crate) async fn on(postgres: &Postgres, options: &PostgresOptions) -> Self {
        let database = postgres.database().await;
        let store = PostgresStore::connect(database.url(), options).unwrap();
        store.migrate().await.unwrap();
        Self { database, store }
    }

    /// One more store, as another process would open it: what it knows, it has learnt itself.
    pub(crate) fn another_store(&self) -> PostgresStore {
        PostgresStore::connect(self.database.url(), &PostgresOptions::default()).unwrap()
    }

    /// A connection of an application.
    pub(crate) async fn writer(&self) -> Client {
        self.database.connect().await
    }

    /// One value from SQL.
    pub(crate) async fn ask<T>(&self, sql: &str) -> T
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        self.writer().await.query_one(sql, &[]).await.unwrap().get(0)
    }

    /// Waits until a statement of the store waits for a lock.
    pub(crate) async fn somebody_waits(&self) {
        let waits = "select exists (select from pg_stat_activity where wait_event_type = 'Lock' \
                     and application_name = 'posthaste' and datname = current_database())";
        eventually_async("a wait for a lock", LIMIT, async || self.ask(waits).await).await;
    }

    /// A subscription to everything.
    pub(crate) async fn subscribe(&self, name: &str) {
        let (name, filter) = (name.to_owned(), TopicFilter::all());
        let spec = SubscriptionSpec { name, filter, start: Start::Beginning };
        self.store.reconcile(&[spec]).await.unwrap();
    }

    /// Ticks, takes the subscription over, reads it to its end and settles; answers the texts.
    pub(crate) async fn publish(&self, name: &str) -> Vec<String> {
        tick(self.store.ticker().as_mut()).await;
        let (epoch, mut place) = taken(&self.store, name, "test").await;
        let texts = read(&self.store, &mut place).await;
        self.store.settle(name, epoch, &place).await.unwrap();
        texts
    }
}

/// A server on which nothing takes a transaction id but the test, with further settings.
pub(crate) fn quiet_server(settings: &[(&str, &str)]) -> Postgres {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let mut settings: Vec<(String, String)> = settings.iter().map(own).collect();
    settings.push(("autovacuum".to_owned(), "off".to_owned()));
    Postgres::start_with(ServerOptions { settings, ..ServerOptions::default() })
}

/// Enqueues one message and answers its position.
pub(crate) async fn enqueue(writer: &impl GenericClient, text: &str) -> i64 {
    let insert = "insert into posthaste.log (id, topic, payload, content_type, headers) \
                  values (gen_random_uuid(), 't', $1, 'text/plain', '{}') returning position";
    writer.query_one(insert, &[&text.as_bytes()]).await.unwrap().get(0)
}

/// Enqueues `count` messages in one transaction; their texts are `prefix` and a number.
pub(crate) async fn enqueue_many(writer: &impl GenericClient, prefix: &str, count: i64) {
    let insert = "insert into posthaste.log (id, topic, payload, content_type, headers) \
                  select gen_random_uuid(), 't', convert_to($1 || n, 'UTF8'), 'text/plain', '{}' \
                  from generate_series(1, $2::bigint) n";
    writer.execute(insert, &[&prefix, &count]).await.unwrap();
}

/// Ticks until everything that is committed is covered, and answers the newest tick.
pub(crate) async fn tick(ticker: &mut dyn Ticker) -> TickRef {
    let mut quiet = 0;
    loop {
        let advance = ticker.advance().await.unwrap();
        quiet = if advance.window.is_some() { 0 } else { quiet + 1 };
        if quiet == QUIET_LOOKS {
            return advance.tick;
        }
    }
}

/// Reads from `place` to the newest tick, moves the place there, and answers the texts.
pub(crate) async fn read(store: &PostgresStore, place: &mut Place) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(window) = store.window(place.base, None).await.unwrap() {
        let mut after = 0;
        while let Some(page) = store.read(&window, after, &TopicFilter::all(), WIDE).await.unwrap()
        {
            after = page.through();
            let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
            texts.extend(page.iter().map(|message| text(message.payload)));
            place.message = page.iter().last().map(|message| message.id).or(place.message);
        }
        *place = place.finished(window.head.at);
    }
    texts
}
