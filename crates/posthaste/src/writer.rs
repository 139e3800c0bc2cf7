//! The seam between outbox and inbox on one side and a database client on the other.
//!
//! An adapter sends statements; it decides nothing. Checks, ids, chunks and what happens after a
//! failure are the caller's. Called by [`Outbox`](crate::Outbox) and [`Inbox`](crate::Inbox) only.

use posthaste_core::{Message, MessageId, SchemaName};
use posthaste_store::statements::{PostgresWriter, SqliteWriter};

use crate::EnqueueError;

/// A message that passed the checks, with the id that it will have.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The message's own id, or the one made for it.
    pub id: MessageId,
    /// The message.
    pub message: &'a Message,
}

impl Entry<'_> {
    /// Whether the message is nothing but a row of the log: it has no token and is not scheduled.
    pub fn is_plain(&self) -> bool {
        self.message.idempotency_token().is_none() && self.message.due().is_none()
    }
}

/// The statement texts for one schema.
#[derive(Clone, Debug)]
pub struct Statements {
    /// For adapters of PostgreSQL clients.
    pub postgres: PostgresWriter,
    /// For adapters of SQLite clients.
    pub sqlite: SqliteWriter,
}

impl Statements {
    pub(crate) fn new(schema: &SchemaName) -> Self {
        Self { postgres: PostgresWriter::new(schema), sqlite: SqliteWriter::new(schema) }
    }
}

/// Sends statements over a connection that stands in the caller's transaction.
///
/// Implemented here for references to the clients' connections and transactions. Implement it for
/// a client of your own to enqueue and to handle messages through that.
pub trait Writer: Send {
    /// Writes `entries`, plain ones and few enough for one statement, in their order: one entry by the
    /// plain insert, several by whatever is the client's fastest way.
    fn write(
        &mut self,
        statements: &Statements,
        entries: &[Entry<'_>],
    ) -> impl Future<Output = Result<(), EnqueueError>> + Send;

    /// Writes `entries`, each of which [asks for more](Entry::is_plain) than a row of the log, in
    /// their order, and answers for each the id of the message that now stands for it.
    fn write_each(
        &mut self,
        statements: &Statements,
        entries: &[Entry<'_>],
    ) -> impl Future<Output = Result<Vec<MessageId>, EnqueueError>> + Send;

    /// Cancels a scheduled message, and answers whether it was still waiting.
    fn cancel(
        &mut self,
        statements: &Statements,
        id: MessageId,
    ) -> impl Future<Output = Result<bool, EnqueueError>> + Send;

    /// Locks ordering keys until the transaction ends, in a statement of its own. Where the database
    /// has one writer at a time there is nothing to lock.
    fn lock_keys(
        &mut self,
        statements: &Statements,
        keys: &[&str],
    ) -> impl Future<Output = Result<(), EnqueueError>> + Send;

    /// Records that `consumer` handles a message, and answers whether it is the first time.
    fn handle_once(
        &mut self,
        statements: &Statements,
        consumer: &str,
        id: MessageId,
    ) -> impl Future<Output = Result<bool, EnqueueError>> + Send;

    /// Records that `consumer` handles some messages, and answers those that are new, each once, in
    /// their order. Where several transactions write at once, two calls with the same messages must
    /// not wait for each other both.
    fn handle_many(
        &mut self,
        statements: &Statements,
        consumer: &str,
        ids: &[MessageId],
    ) -> impl Future<Output = Result<Vec<MessageId>, EnqueueError>> + Send;

    /// Sees to it that the caller's transaction cannot commit. Called after every failure, also
    /// when nothing was sent yet and when the database has already aborted the transaction.
    ///
    /// # Errors
    /// Only when the transaction may still commit. A lost connection took its transaction along,
    /// and outside a transaction there is nothing to abort: both are `Ok`.
    fn abort(
        &mut self,
        statements: &Statements,
        reason: &str,
    ) -> impl Future<Output = Result<(), EnqueueError>> + Send;
}
