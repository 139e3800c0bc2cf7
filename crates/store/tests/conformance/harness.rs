//! What a case needs of a database besides the store's own seam.

use std::{sync::Arc, time::Duration};

use posthaste_core::{Message, MessageId};
use posthaste_store::{Incidents, Jobs, Operations, Store};

/// How long messages are kept where a case is not about retention.
pub(crate) const LONG: Duration = Duration::from_hours(1);

/// A private database, and everybody who touches it beside the store.
pub(crate) trait Harness: Sized {
    /// How many application transactions may write at once. With 1, the store cannot write while
    /// one is open.
    const WRITERS_MAX: usize;

    /// Settled messages that a sweep may leave (a slot that is not full).
    const SWEEP_LEAVES_MAX: u64;

    /// Whether the log is a ring of slots, whose dead tuples the server counts.
    const HAS_SLOTS: bool;

    /// The table of handled messages.
    const INBOX: &'static str;

    /// The table of contracts.
    const CONTRACT: &'static str;

    /// A transaction of an application.
    type Application: Application;

    /// A new database without the schema.
    async fn empty() -> Self;

    /// One more store on the database, as another process would open it. It keeps published
    /// messages, tokens and what was handled for `retention`.
    async fn open(&self, retention: Duration) -> Arc<dyn Store>;

    /// One more store, which keeps messages for long unless the log takes more than `bytes`.
    async fn sized(&self, bytes: u64) -> Arc<dyn Store>;

    /// As [`Harness::open`], for an operator.
    async fn operations(&self) -> Arc<dyn Operations>;

    /// As [`Harness::open`], for whoever tells people of incidents.
    async fn incidents(&self) -> Arc<dyn Incidents>;

    /// As [`Harness::open`], for workers.
    async fn jobs(&self) -> Arc<dyn Jobs>;

    /// Jobs that wait look as if somebody had written them without their messages.
    async fn forget_message_of_jobs(&self);

    /// The audit trail: who did what.
    async fn audit(&self) -> Vec<(String, String)>;

    /// The number that a query of the application's answers.
    async fn count(&self, query: &str) -> i64;

    /// Begins a transaction on an application's own connection.
    async fn begin(&self) -> Self::Application;

    /// Messages of the log look as if they had been written one after the other, so many microseconds apart.
    async fn spread_times(&self, micros: i64);

    /// The view `outbox` in the order of positions: id and `published_at`.
    async fn outbox(&self) -> Vec<(MessageId, Option<String>)>;

    /// The view `messages` in the order of positions, then subscriptions.
    async fn messages(&self) -> Vec<Delivery>;

    /// Gives the tick `n` another id, as a restored copy of the database would.
    async fn exchange_tick(&self, n: i64);

    /// Removes the tick `n`.
    async fn remove_tick(&self, n: i64);

    /// Makes what `consumer` has handled older by `age`.
    async fn age_inbox(&self, consumer: &str, age: Duration);

    /// Writes a handled message past the adapters' checks, and answers whether the database took it.
    async fn write_inbox(&self, consumer: &str) -> bool;

    /// Whether the database takes a statement of the owner's.
    async fn takes(&self, statement: &str) -> bool;

    /// Records a migration that this build does not know.
    async fn record_unknown_migration(&self);
}

/// A transaction of an application; dropping it rolls back.
pub(crate) trait Application {
    /// Writes one message with the texts of `posthaste_store::statements`.
    async fn insert(&mut self, message: &Message) -> MessageId;

    /// Cancels a scheduled message with the text of `posthaste_store::statements`, and answers
    /// whether it was still waiting.
    async fn cancel(&mut self, id: MessageId) -> bool;

    /// Handles a message with the text of `posthaste_store::statements`, and answers whether it is
    /// the first time.
    async fn handle(&mut self, consumer: &str, id: MessageId) -> bool;

    /// Commits.
    async fn commit(self);

    /// Rolls back.
    async fn rollback(self);
}

/// A row of the view `messages`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) id: MessageId,
    pub(crate) subscription: String,
    pub(crate) state: String,
    pub(crate) published_at: Option<String>,
}

/// A database with the schema, and a store on it.
pub(crate) async fn migrated<H: Harness>() -> (H, Arc<dyn Store>) {
    let harness = H::empty().await;
    let store = harness.open(LONG).await;
    store.migrate().await.unwrap();
    (harness, store)
}

/// Commits one transaction with a message for each of `topics`.
pub(crate) async fn commit<H: Harness>(harness: &H, topics: &[&str]) -> Vec<MessageId> {
    let mut application = harness.begin().await;
    let mut ids = Vec::new();
    for topic in topics {
        ids.push(application.insert(&Message::new(*topic)).await);
    }
    application.commit().await;
    ids
}
