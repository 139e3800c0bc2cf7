//! Records, in the transaction of a message's effect, that a consumer has handled the message.
//!
//! The consumer's half of exactly-once: a message that is delivered again is found in the table
//! `inbox` and does nothing. Reading messages and acknowledging them is the consumer's own; what
//! stands in them is read by [`Received`](crate::Received).

use std::sync::Arc;

use posthaste_core::{InvalidMessage, Limits, MessageId, SchemaName};

use crate::{
    EnqueueError, InboxError, Statements, Writer,
    caller::{Caller, Value},
};

/// Tells first deliveries of messages from repeats, for one consumer. Cheap to clone; one per process
/// is enough.
///
/// A consumer is a name: whoever must not repeat each other's effects shares one, such as all workers
/// of a consumer group. Consumers of different names do not see each other.
///
/// # Examples
/// A worker of a consumer group of a Redis stream. `handle` and the effect stand in one transaction,
/// and `XACK` follows its commit:
#[cfg_attr(feature = "tokio-postgres", doc = "```no_run")]
#[cfg_attr(not(feature = "tokio-postgres"), doc = "```text")]
/// use posthaste::{Delivery, Inbox, Received, SchemaName};
/// use redis::AsyncTypedCommands;
///
/// /// Streams, their entries, and the fields of each.
/// type Read = Vec<(String, Vec<(String, Vec<(String, Vec<u8>)>)>)>;
///
/// # async fn example(
/// #     redis: &mut redis::aio::MultiplexedConnection,
/// #     database: &mut tokio_postgres::Client,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let inbox = Inbox::new(SchemaName::default(), "invoices")?;
/// loop {
///     // `>`: new entries. `0` instead gives this worker its own that were never acknowledged, and
///     // `XAUTOCLAIM` those of workers that are gone.
///     let read: Option<Read> = redis::cmd("XREADGROUP")
///         .arg(&["GROUP", "invoices", "worker-1", "COUNT", "100", "BLOCK", "1000"])
///         .arg(&["STREAMS", "posthaste:orders.paid", ">"])
///         .query_async(redis)
///         .await?;
///     for (stream, entries) in read.unwrap_or_default() {
///         for (entry, fields) in entries {
///             let message = Received::from_stream_entry(fields)?;
///
///             let transaction = database.transaction().await?;
///             if inbox.handle(&transaction, message.id).await? == Delivery::First {
///                 let order: serde_json::Value = serde_json::from_slice(&message.payload)?;
///                 let sql = "insert into invoices (number) values ($1)";
///                 transaction.execute(sql, &[&order["order"].as_i64()]).await?;
///             }
///             transaction.commit().await?;
///             redis.xack(&stream, "invoices", &[&entry]).await?;
///         }
///     }
/// }
/// # }
/// ```
/// A crash before the commit leaves neither the effect nor the record: the entry is still pending, is
/// delivered again and takes effect then. A crash between commit and `XACK` leaves both, and the entry
/// pending: it is delivered again, is a [`Repeat`](Delivery::Repeat), does nothing and is
/// acknowledged. `XACK` before the commit would lose the message instead.
#[derive(Clone, Debug)]
pub struct Inbox {
    schema: SchemaName,
    consumer: Arc<str>,
    statements: Arc<Statements>,
}

/// Whether a consumer meets a message for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[must_use = "a repeat must have no effect"]
pub enum Delivery {
    /// It has not been handled: its effect belongs into this transaction.
    First,
    /// It has been handled, and its effect is committed, or stands in this same transaction.
    Repeat,
}

impl Delivery {
    pub(crate) const fn of(is_first: bool) -> Self {
        if is_first { Self::First } else { Self::Repeat }
    }

    /// Whether it is [`First`](Self::First).
    pub const fn is_first(self) -> bool {
        matches!(self, Self::First)
    }
}

impl Inbox {
    /// The inbox of `consumer` in `schema`.
    ///
    /// # Errors
    /// The name is empty, longer than 255 bytes, or holds a control character.
    pub fn new(schema: SchemaName, consumer: impl Into<String>) -> Result<Self, InvalidMessage> {
        let consumer = consumer.into();
        Limits::check_consumer(&consumer)?;
        let statements = Arc::new(Statements::new(&schema));
        Ok(Self { schema, consumer: consumer.into(), statements })
    }

    /// The schema that it writes to.
    pub const fn schema(&self) -> &SchemaName {
        &self.schema
    }

    /// The consumer's name.
    pub fn consumer(&self) -> &str {
        &self.consumer
    }

    /// Records in the transaction that `writer` stands in that the message is handled, and answers
    /// whether it is the first time. In one statement, which is one round trip (see the adapters in
    /// [`crate::adapters`]).
    ///
    /// While another transaction is handling the message, this waits for the outcome: a repeat if that
    /// one commits, the first time if it rolls back. On SQLite one transaction writes at a time.
    ///
    /// Hand it a transaction, with the effect: on a bare connection the record commits by itself, and
    /// a crash before the effect loses the message.
    ///
    /// # Errors
    /// The database failed. The caller's transaction is aborted: roll back, to a savepoint or
    /// altogether, and have the message delivered again. `Conflict` above read committed may just be a
    /// repeat that committed meanwhile: run the transaction again, and it is found.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the record is in the transaction. It opens no
    /// transaction and keeps none open; roll yours back (dropping it does), and the message is handled
    /// at its next delivery.
    pub async fn handle<W: Writer>(
        &self,
        mut writer: W,
        id: MessageId,
    ) -> Result<Delivery, InboxError> {
        match writer.handle_once(&self.statements, &self.consumer, id).await {
            Ok(is_first) => Ok(Delivery::of(is_first)),
            Err(error) => Err(error.after_abort(&mut writer, &self.statements).await.into()),
        }
    }

    /// Records that up to 10,000 messages are handled, and answers those that are new, each once, in
    /// their order: the effects of all of these belong into the transaction. On PostgreSQL in one
    /// statement.
    ///
    /// Two consumers with the same messages wait for each other without a deadlock, as long as each
    /// makes one call in a transaction.
    ///
    /// # Errors
    /// They are too many, or as [`handle`](Self::handle).
    ///
    /// # Cancel safety
    /// As [`handle`](Self::handle): some of the records may be in the transaction.
    pub async fn handle_many<W: Writer>(
        &self,
        mut writer: W,
        ids: &[MessageId],
    ) -> Result<Vec<MessageId>, InboxError> {
        match self.record(&mut writer, ids).await {
            Ok(fresh) => Ok(fresh),
            Err(error) => Err(error.after_abort(&mut writer, &self.statements).await.into()),
        }
    }

    /// [`handle`](Self::handle), over what commands and jobs go through as well.
    ///
    /// # Errors
    /// The database failed. Roll back.
    ///
    /// # Cancel safety
    /// As [`handle`](Self::handle).
    pub async fn handle_over<C: Caller>(
        &self,
        mut caller: C,
        id: MessageId,
    ) -> Result<Delivery, EnqueueError> {
        let values = [Value::Text(Some(&self.consumer)), Value::Id(id)];
        if !caller.is_sqlite()? {
            let answer = caller.call(&self.statements.postgres.handle_over, &values).await?;
            let is_first = answer.and_then(|answer| answer.number) == Some(1);
            return Ok(Delivery::of(is_first));
        }
        // Nobody else writes between the two.
        let known = self.statements.sqlite.handled.as_str();
        let answer = caller.call(known, &values).await?;
        let is_first = answer.and_then(|answer| answer.number) == Some(0);
        if is_first {
            caller.call(&self.statements.sqlite.handle_once, &values).await?;
        }
        Ok(Delivery::of(is_first))
    }

    async fn record<W: Writer>(
        &self,
        writer: &mut W,
        ids: &[MessageId],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        Self::check(ids)?;
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        writer.handle_many(&self.statements, &self.consumer, ids).await
    }

    pub(crate) fn check(ids: &[MessageId]) -> Result<(), EnqueueError> {
        Limits::check_handled(ids.len()).map_err(|cause| EnqueueError::invalid(cause, None))
    }

    /// The statement texts, for the adapters that are not a [`Writer`].
    #[cfg(feature = "rusqlite")]
    pub(crate) fn statements(&self) -> &Statements {
        &self.statements
    }
}
