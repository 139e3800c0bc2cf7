//! All SQL text of Posthaste, and the database I/O of the relay side, behind one seam: [`Store`].
//!
//! [`postgres`] and [`sqlite`] implement the seam and run one conformance suite. Without features
//! only [`statements`] remains: the texts that applications send inside their own transactions.
//! Nothing here knows sinks, HTTP or configuration files.

mod error;
mod model;
pub mod statements;

#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use posthaste_core::{
    Epoch, Message, MessageId, Page, PageLimit, Place, TickRef, TopicFilter, Window,
};

pub use crate::{
    error::{StoreError, StoreErrorKind},
    model::{
        Advance, Aside, AsideState, DueMessages, FailedMessage, Migration, MigrationReport, Moved,
        ParkedKey, Progress, RingSizes, SchemaState, Settled, Start, Status, StoredMessage,
        SubscriptionSpec, SubscriptionStatus, SweepReport,
    },
};

/// Whatever a store call answers.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The relay's view of a database that holds a log.
///
/// Every call is bounded by the store's operation time-out. Dropping a call's future leaves no
/// open transaction behind; whether a write took effect is then unknown, as after a time-out.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// The source for logs and errors, without secrets: `postgres://host:5432/db (schema x)`.
    fn describe(&self) -> &str;

    /// Which migrations the database has and lacks.
    async fn schema_state(&self) -> Result<SchemaState>;

    /// Brings the schema up to date. Safe to run twice and from several processes at once.
    ///
    /// # Errors
    /// `NewerSchema` when the database knows a migration that this build does not.
    async fn migrate(&self) -> Result<MigrationReport>;

    /// Checks that the schema is the one this build reads and that the server can be written to.
    ///
    /// # Errors
    /// `MissingSchema`, `OlderSchema`, `NewerSchema`, `Standby`, `Privilege`.
    async fn check(&self) -> Result<()>;

    /// Writes `messages`, already checked against the limits, in one transaction of its own.
    /// For the command line and for tests; applications enqueue in their own transactions.
    async fn append(&self, messages: &[Message]) -> Result<Vec<MessageId>>;

    /// The one object per process and source that looks at the log and ticks.
    fn ticker(&self) -> Box<dyn Ticker>;

    /// The window from the tick `base` to the newest tick, or to `head` if given (to go on inside
    /// a window that was begun). `None` when no tick is newer than `base`.
    ///
    /// # Errors
    /// `Rewound` when `base` or `head` is not in the database: the source is another incarnation.
    async fn window(&self, base: TickRef, head: Option<TickRef>) -> Result<Option<Arc<Window>>>;

    /// Reads the next page of `window` above the position `after`. `None` when nothing of the
    /// window lies above it. A page may be empty: its reach still moves the place.
    async fn read(
        &self,
        window: &Window,
        after: i64,
        filter: &TopicFilter,
        limit: PageLimit,
    ) -> Result<Option<Page>>;

    /// As [`Store::read`], of the messages with this ordering key.
    async fn read_key(
        &self,
        window: &Window,
        after: i64,
        filter: &TopicFilter,
        key: &str,
        limit: PageLimit,
    ) -> Result<Option<Page>>;

    /// Creates the subscriptions that do not exist, at their configured start, and updates the
    /// filters of those that do.
    async fn reconcile(&self, specs: &[SubscriptionSpec]) -> Result<()>;

    /// Takes a subscription over for `holder`: raises its epoch, which fences every earlier
    /// holder, then reads its place.
    async fn acquire(&self, subscription: &str, holder: &str) -> Result<(Epoch, Place)>;

    /// Records the place of a subscription, unless its epoch has been raised meanwhile (FENCED).
    async fn settle(&self, subscription: &str, epoch: Epoch, place: &Place) -> Result<Settled>;

    /// Changes what a subscription has set aside, and settles `place` with it if given: all of it
    /// or, under an older epoch, nothing (FENCED). Durable when it returns.
    async fn set_aside(
        &self,
        subscription: &str,
        epoch: Epoch,
        changes: &[Aside],
        place: Option<&Place>,
    ) -> Result<Settled>;

    /// All that a subscription has set aside.
    async fn aside(&self, subscription: &str) -> Result<AsideState>;

    /// Messages set aside whose next attempt is due, at most `limit`, the longest due first.
    async fn due_messages(&self, subscription: &str, limit: u32) -> Result<DueMessages>;

    /// Gives a subscription up after its last settle. Nothing happens under an older epoch.
    async fn release(&self, subscription: &str, epoch: Epoch) -> Result<()>;

    /// Moves scheduled messages that are due on the database's clock into the log, at most `limit`,
    /// in the order in which they are due. In one transaction, and not the one that ticks: a
    /// message is scheduled or in the log, at any moment and whatever is killed. While another
    /// process moves, this leaves it to that one.
    async fn move_due(&self, limit: u32) -> Result<Moved>;

    /// Empties slots whose messages every subscription has published, once they are older than
    /// the retention time, and forgets idempotency tokens that are older than theirs. A second sweep at the same time does no harm.
    async fn sweep(&self) -> Result<SweepReport>;

    /// Counts and places for people: `posthaste status`.
    async fn status(&self) -> Result<Status>;

    /// The newest `limit` messages, oldest first, or those above the position `after`. Shows what
    /// is committed, in position order; it is not a reader of the log.
    async fn recent(&self, after: Option<i64>, limit: u32) -> Result<Vec<StoredMessage>>;
}

/// Looks at the log and takes ticks. Owned by one task.
#[async_trait]
pub trait Ticker: Send {
    /// Looks, and ticks if a message may have become visible since the newest tick. A tick is
    /// durable, with every commit that it shows, before this returns it.
    ///
    /// # Cancel safety
    /// Cancelling loses at most a look: the next call ticks.
    async fn advance(&mut self) -> Result<Advance>;
}
