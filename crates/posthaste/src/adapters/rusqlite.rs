//! rusqlite: hand `&transaction` (or `&connection`) to the blocking calls below.
//!
//! What [`sqlx_sqlite`](super) says about poison, foreign keys and savepoints holds here as well:
//! a failed enqueue makes `commit` fail; where `pragma foreign_keys` is off (the bundled SQLite
//! has it on), the transaction is rolled back at once instead. Begin with
//! `TransactionBehavior::Immediate`, because a transaction that reads first and enqueues later
//! can fail when another writer is faster.
//!
//! # Examples
//! ```no_run
//! # use posthaste::{Message, Outbox};
//! # fn example(outbox: &Outbox, connection: &mut rusqlite::Connection) -> Result<(), Box<dyn std::error::Error>> {
//! use rusqlite::TransactionBehavior::Immediate;
//!
//! let transaction = connection.transaction_with_behavior(Immediate)?;
//! transaction.execute("insert into orders (id) values (17)", [])?;
//! outbox.enqueue_blocking(&transaction, &Message::new("orders.created").text("17"))?;
//! transaction.commit()?;
//! # Ok(())
//! # }
//! ```

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use ::rusqlite::{
    Connection, Error, OptionalExtension as _, Row, params, params_from_iter,
    types::{ToSqlOutput, ValueRef},
};
use posthaste_core::{HeaderObject, Message, MessageId};
use posthaste_store::statements::SqliteWriter;

use super::sqlite_kind;
use crate::{
    Attempt, Begun, Command, CommandError, Commands, Delivery, EnqueueError, EnqueueErrorKind,
    Entry, Inbox, InboxError, JobId, Jobs, Machines, NewJob, Outbox, Receipt, Statements, Step,
    Taken, Wait,
    caller::{Answer, Caller, Value},
};

impl Outbox {
    /// Writes one message in the transaction that `connection` stands in, and answers its id.
    /// Blocks the thread; a `&rusqlite::Transaction` will do as a connection.
    ///
    /// # Errors
    /// The message is invalid or the database failed. Either way the caller's transaction cannot
    /// commit any more: roll back, to a savepoint or altogether.
    pub fn enqueue_blocking(
        &self,
        connection: &Connection,
        message: &Message,
    ) -> Result<MessageId, EnqueueError> {
        let outcome = self.entry(message).and_then(|entry| self.write_blocking(connection, &entry));
        outcome.map_err(|error| self.aborted_blocking(connection, error))
    }

    /// Writes messages in their order, and answers their ids in the same order. All are checked
    /// before the first is written.
    ///
    /// # Errors
    /// As [`enqueue_blocking`](Self::enqueue_blocking); [`EnqueueError::index`] says which message
    /// was invalid.
    pub fn enqueue_many_blocking(
        &self,
        connection: &Connection,
        messages: &[Message],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        let outcome = self.entries(messages).and_then(|entries| {
            entries.iter().map(|entry| self.write_blocking(connection, entry)).collect()
        });
        outcome.map_err(|error| self.aborted_blocking(connection, error))
    }

    /// Cancels a scheduled message in the transaction that `connection` stands in, and answers
    /// whether it was still waiting. If not, it is in the log, was cancelled before or never was.
    ///
    /// # Errors
    /// The database failed. The caller's transaction cannot commit any more, as after a failed
    /// [`enqueue_blocking`](Self::enqueue_blocking).
    pub fn cancel_blocking(
        &self,
        connection: &Connection,
        id: MessageId,
    ) -> Result<bool, EnqueueError> {
        let cancelled = connection.execute(&self.statements().sqlite.cancel, [id.as_bytes()]);
        match cancelled {
            Ok(rows) => Ok(rows > 0),
            Err(error) => Err(self.aborted_blocking(connection, failed(error))),
        }
    }

    /// Does nothing, as [`lock_keys`](Self::lock_keys) on SQLite: there is one writer at a time, so the
    /// log holds the messages of a key in commit order. For code that is written for both databases.
    ///
    /// # Errors
    /// Never.
    #[allow(clippy::unused_self, clippy::unnecessary_wraps)] // The call of the other databases.
    pub fn lock_keys_blocking(&self, _: &Connection, _: &[&str]) -> Result<(), EnqueueError> {
        Ok(())
    }

    fn write_blocking(
        &self,
        connection: &Connection,
        entry: &Entry<'_>,
    ) -> Result<MessageId, EnqueueError> {
        let statements = &self.statements().sqlite;
        let written = if entry.is_plain() {
            insert(connection, &statements.insert, entry).map(|()| entry.id)
        } else {
            write_one(connection, statements, entry)
        };
        written.map_err(failed)
    }

    fn aborted_blocking(&self, connection: &Connection, error: EnqueueError) -> EnqueueError {
        aborted(connection, self.statements(), error)
    }
}

impl Inbox {
    /// Records in the transaction that `connection` stands in that the message is handled, and
    /// answers whether it is the first time. Blocks the thread; a `&rusqlite::Transaction` will do
    /// as a connection.
    ///
    /// # Errors
    /// As [`handle`](Self::handle).
    pub fn handle_blocking(
        &self,
        connection: &Connection,
        id: MessageId,
    ) -> Result<Delivery, InboxError> {
        let handled = handle_once(connection, self.statements(), self.consumer(), id);
        let outcome = handled.map(Delivery::of).map_err(failed);
        outcome.map_err(|error| aborted(connection, self.statements(), error).into())
    }

    /// Records that the messages are handled, and answers those that are new, each once, in their
    /// order.
    ///
    /// # Errors
    /// As [`handle_many`](Self::handle_many).
    pub fn handle_many_blocking(
        &self,
        connection: &Connection,
        ids: &[MessageId],
    ) -> Result<Vec<MessageId>, InboxError> {
        let outcome = Self::check(ids).and_then(|()| {
            let mut fresh = Vec::with_capacity(ids.len());
            for id in ids {
                let handled = handle_once(connection, self.statements(), self.consumer(), *id);
                if handled.map_err(failed)? {
                    fresh.push(*id);
                }
            }
            Ok(fresh)
        });
        outcome.map_err(|error| aborted(connection, self.statements(), error).into())
    }
}

fn handle_once(
    connection: &Connection,
    statements: &Statements,
    consumer: &str,
    id: MessageId,
) -> Result<bool, Error> {
    let mut handle = connection.prepare_cached(&statements.sqlite.handle_once)?;
    Ok(handle.execute(params![consumer, id.as_bytes()])? > 0)
}

fn aborted(connection: &Connection, statements: &Statements, error: EnqueueError) -> EnqueueError {
    match abort(connection, &statements.sqlite.refuse) {
        Ok(()) => error,
        Err(why) => error.not_aborted(failed(why)),
    }
}

/// Every call blocks the thread and answers at once.
impl Caller for &Connection {
    fn is_sqlite(&self) -> Result<bool, EnqueueError> {
        Ok(true)
    }

    async fn call(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<Option<Answer>, EnqueueError> {
        let row = |row: &Row<'_>| {
            Ok(Answer { text: row.get(0)?, bytes: row.get(1)?, number: row.get(2)? })
        };
        let mut statement = self.prepare_cached(sql).map_err(failed)?;
        let values = params_from_iter(values.iter().map(parameter));
        statement.query_row(values, row).optional().map_err(failed)
    }
}

fn parameter<'a>(value: &'a Value<'_>) -> ToSqlOutput<'a> {
    ToSqlOutput::Borrowed(match value {
        Value::Text(text) => text.map_or(ValueRef::Null, |text| ValueRef::Text(text.as_bytes())),
        Value::Bytes(bytes) => ValueRef::Blob(bytes),
        Value::Id(id) => ValueRef::Blob(id.as_bytes()),
        Value::Number(number) => ValueRef::Integer(*number),
    })
}

impl Commands {
    /// [`begin`](Self::begin), which blocks the thread.
    ///
    /// # Errors
    /// As there.
    pub fn begin_blocking(
        &self,
        connection: &Connection,
        command: &Command,
        lease: Duration,
    ) -> Result<Begun, CommandError> {
        at_once(self.begin(connection, command, lease))
    }

    /// [`begin_blocking`](Self::begin_blocking) of a guarded request whose twins wait, which blocks
    /// the thread for at most `wait`, and a day: while another attempt has it, looks again after
    /// the pauses of a [`Wait`]. For a bare connection: others could not complete beside a
    /// transaction that writes.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub fn begin_or_wait_blocking(
        &self,
        connection: &Connection,
        command: &Command,
        lease: Duration,
        wait: Duration,
    ) -> Result<Begun, CommandError> {
        let mut wait = Wait::at_most(wait);
        loop {
            let begun = self.begin_blocking(connection, command, lease)?;
            let Begun::InProgress { lease_left } = begun else { return Ok(begun) };
            let Some(pause) = wait.pause(lease_left) else { return Ok(begun) };
            thread::sleep(pause);
        }
    }

    /// [`complete`](Self::complete), which blocks the thread.
    ///
    /// # Errors
    /// As there.
    pub fn complete_blocking(
        &self,
        connection: &Connection,
        command: &Command,
        response: &[u8],
    ) -> Result<(), CommandError> {
        at_once(self.complete(connection, command, response))
    }

    /// [`renew`](Self::renew), which blocks the thread.
    ///
    /// # Errors
    /// As there.
    pub fn renew_blocking(
        &self,
        connection: &Connection,
        command: &Command,
        lease: Duration,
    ) -> Result<(), CommandError> {
        at_once(self.renew(connection, command, lease))
    }

    /// [`abandon`](Self::abandon), which blocks the thread.
    ///
    /// # Errors
    /// As there.
    pub fn abandon_blocking(
        &self,
        connection: &Connection,
        command: &Command,
    ) -> Result<(), CommandError> {
        at_once(self.abandon(connection, command))
    }
}

impl Machines {
    /// [`start`](Self::start), which blocks the thread.
    ///
    /// # Errors
    /// As there.
    pub fn start_blocking(
        &self,
        connection: &Connection,
        step: &Step,
    ) -> Result<Taken, CommandError> {
        at_once(self.start(connection, step))
    }

    /// [`transition`](Self::transition), which blocks the thread.
    ///
    /// # Errors
    /// As there.
    pub fn transition_blocking(
        &self,
        connection: &Connection,
        step: &Step,
    ) -> Result<Taken, CommandError> {
        at_once(self.transition(connection, step))
    }
}

impl Jobs {
    /// [`submit`](Self::submit), which blocks the thread.
    ///
    /// # Errors
    /// As there.
    pub fn submit_blocking(
        &self,
        connection: &Connection,
        job: &NewJob,
    ) -> Result<JobId, CommandError> {
        at_once(self.submit(connection, job))
    }

    /// [`complete`](Self::complete), which blocks the thread.
    ///
    /// # Errors
    /// As there.
    pub fn complete_blocking(
        &self,
        connection: &Connection,
        attempt: Attempt,
        receipt: Option<&Receipt>,
    ) -> Result<(), CommandError> {
        at_once(self.complete(connection, attempt, receipt))
    }
}

/// The outcome of a future that never waits.
fn at_once<T>(future: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => {
            let waits = EnqueueError::new(EnqueueErrorKind::Database, "a call of rusqlite waits");
            Err(waits.into())
        }
    }
}

fn insert(
    connection: &Connection,
    statement: &str,
    Entry { id, message }: &Entry<'_>,
) -> Result<(), Error> {
    let values = params![
        id.as_bytes(),
        message.topic(),
        message.ordering_key(),
        message.payload(),
        message.media_type(),
        HeaderObject(message.header_pairs()).to_string(),
        message.correlation(),
    ];
    connection.prepare_cached(statement)?.execute(values).map(drop)
}

/// Writes one message unless its token was used before, and answers the id that stands for it.
fn write_one(
    connection: &Connection,
    statements: &SqliteWriter,
    Entry { id, message }: &Entry<'_>,
) -> Result<MessageId, Error> {
    let token = message.idempotency_token();
    let values = params![
        id.as_bytes(),
        message.topic(),
        message.ordering_key(),
        message.payload(),
        message.media_type(),
        HeaderObject(message.header_pairs()).to_string(),
        message.correlation(),
        token,
        message.due().map(|due| due.0),
    ];
    connection.prepare_cached(&statements.write_one)?.execute(values)?;
    let Some(token) = token else { return Ok(*id) };
    let mut first = connection.prepare_cached(&statements.token_id)?;
    first.query_row([token], |row| row.get(0).map(MessageId::from_bytes))
}

fn abort(connection: &Connection, refuse: &str) -> Result<(), Error> {
    // Some failures (a full disk, for example) make SQLite roll back by itself; and on a bare
    // connection every statement stands alone.
    if connection.is_autocommit() || poison(connection, refuse).is_ok_and(|poisoned| poisoned) {
        return Ok(());
    }
    connection.execute_batch(SqliteWriter::ROLLBACK)
}

/// Whether the poison could be and was written.
fn poison(connection: &Connection, refuse: &str) -> Result<bool, Error> {
    let foreign_keys: i64 =
        connection.query_row(SqliteWriter::FOREIGN_KEYS, [], |row| row.get(0))?;
    if foreign_keys != 1 {
        return Ok(false);
    }
    connection.execute(refuse, []).map(|_| true)
}

pub(crate) fn failed(error: Error) -> EnqueueError {
    let kind = match &error {
        Error::SqliteFailure(code, message) => {
            sqlite_kind(code.extended_code, message.as_deref().unwrap_or_default())
        }
        // A statement that does not compile, with SQLite's text.
        Error::SqlInputError { error, msg, .. } => sqlite_kind(error.extended_code, msg),
        _ => EnqueueErrorKind::Database,
    };
    EnqueueError::new(kind, error)
}
