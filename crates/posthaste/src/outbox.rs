//! Checks messages, gives them ids and has an adapter write them.
//!
//! The one place that decides what happens after a failure: whatever it was, the caller's
//! transaction is aborted (ATOMIC would otherwise rest on the caller's error handling).

use std::sync::Arc;

#[cfg(feature = "contracts")]
use posthaste_core::contract::{Breach, CONTRACT_HEADER, Checked, Contracts};
use posthaste_core::{Limits, Message, MessageId, SchemaName};
use uuid::Uuid;

use crate::{EnqueueError, Entry, Statements, Writer, chunks::chunks};

/// Enqueues messages in the caller's own transaction. Cheap to clone; one per process is enough.
///
/// # Examples
/// ```
/// use posthaste::{Limits, Outbox, SchemaName};
///
/// let schema: SchemaName = "billing_outbox".parse()?;
/// let outbox = Outbox::new(schema).with_limits(Limits { payload_bytes: 64 * 1024, ..Limits::DEFAULT });
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Outbox {
    schema: SchemaName,
    statements: Arc<Statements>,
    limits: Limits,
    #[cfg(feature = "contracts")]
    contracts: Arc<Contracts>,
}

impl Outbox {
    /// An outbox in `schema`, with the default limits.
    pub fn new(schema: SchemaName) -> Self {
        let statements = Arc::new(Statements::new(&schema));
        Self {
            schema,
            statements,
            limits: Limits::DEFAULT,
            #[cfg(feature = "contracts")]
            contracts: Arc::default(),
        }
    }

    /// The schema that it writes to.
    pub const fn schema(&self) -> &SchemaName {
        &self.schema
    }

    /// Sets the limits that messages are checked against before anything is written.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Sets the contracts that messages of their topics must keep: each is checked before anything
    /// is written. Topics without a contract are not looked at.
    ///
    /// # Examples
    /// ```
    /// use posthaste::{Message, Outbox, contract::{Contract, Contracts}};
    ///
    /// let schema = serde_json::json!({ "type": "object", "required": ["order"] });
    /// let contracts = Contracts::new([Contract::new("orders.created", 1, schema)?])?;
    /// let outbox = Outbox::default().with_contracts(contracts);
    /// let message = Message::new("orders.created").contract(1).json(&serde_json::json!({ "order": 17 }));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[cfg(feature = "contracts")]
    #[must_use]
    pub fn with_contracts(self, contracts: impl Into<Arc<Contracts>>) -> Self {
        Self { contracts: contracts.into(), ..self }
    }

    /// Writes one message in the transaction that `writer` stands in, and answers its id; or, if
    /// its token was used before, writes nothing and answers the first message's. In one statement,
    /// which is one round trip (see the adapters in [`crate::adapters`]).
    ///
    /// # Errors
    /// The message is invalid or the database failed. Either way the caller's transaction is
    /// aborted: roll back, to a savepoint or altogether.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the message is in the transaction. It opens no
    /// transaction and keeps none open; roll yours back (dropping it does).
    pub async fn enqueue<W: Writer>(
        &self,
        mut writer: W,
        message: &Message,
    ) -> Result<MessageId, EnqueueError> {
        match self.write_one(&mut writer, message).await {
            Ok(id) => Ok(id),
            Err(error) => Err(self.aborted(&mut writer, error).await),
        }
    }

    /// Writes messages in their order, and answers their ids in the same order. All are checked
    /// before the first is written; up to 1,000 neighbours share a statement, unless only some of
    /// them have tokens or are scheduled.
    ///
    /// Hand it a transaction: on a bare connection every statement commits by itself, and a
    /// failure in the middle leaves the messages before it written.
    ///
    /// # Errors
    /// As [`enqueue`](Self::enqueue); [`EnqueueError::index`] says which message was invalid.
    ///
    /// # Cancel safety
    /// As [`enqueue`](Self::enqueue): some of the messages may be in the transaction.
    pub async fn enqueue_many<W: Writer>(
        &self,
        mut writer: W,
        messages: &[Message],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        match self.write_many(&mut writer, messages).await {
            Ok(ids) => Ok(ids),
            Err(error) => Err(self.aborted(&mut writer, error).await),
        }
    }

    /// Cancels a scheduled message in the transaction that `writer` stands in, and answers whether
    /// it was still waiting. If not, it is in the log, was cancelled before or never was.
    ///
    /// While a relay moves the message into the log, this waits for the outcome. Until the caller's
    /// transaction ends the message stays where it is, and later ones with its key may pass it.
    ///
    /// # Errors
    /// The database failed. The caller's transaction is aborted, as by [`enqueue`](Self::enqueue).
    ///
    /// # Cancel safety
    /// As [`enqueue`](Self::enqueue).
    pub async fn cancel<W: Writer>(
        &self,
        mut writer: W,
        id: MessageId,
    ) -> Result<bool, EnqueueError> {
        match writer.cancel(&self.statements, id).await {
            Ok(was_waiting) => Ok(was_waiting),
            Err(error) => Err(self.aborted(&mut writer, error).await),
        }
    }

    /// Locks ordering keys until the transaction that `writer` stands in ends, waiting for whoever
    /// has locked them. Messages that are enqueued afterwards with these keys stand in the log in
    /// the order in which their transactions commit. Strict topics ask for it; elsewhere it is up
    /// to the writers, all of which must then do it.
    ///
    /// At most 1,000 keys in a transaction; better in one call, because two calls in two
    /// transactions can wait for each other. SQLite has one writer at a time: nothing happens.
    ///
    /// # Errors
    /// The keys are too many or the database failed (`Conflict` for a deadlock). The caller's
    /// transaction is aborted, as by [`enqueue`](Self::enqueue).
    ///
    /// # Cancel safety
    /// As [`enqueue`](Self::enqueue): some of the keys may be locked.
    pub async fn lock_keys<W: Writer>(
        &self,
        mut writer: W,
        keys: &[&str],
    ) -> Result<(), EnqueueError> {
        match writer.lock_keys(&self.statements, keys).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.aborted(&mut writer, error).await),
        }
    }

    async fn write_one<W: Writer>(
        &self,
        writer: &mut W,
        message: &Message,
    ) -> Result<MessageId, EnqueueError> {
        let entry = self.entry(message)?;
        if entry.is_plain() {
            writer.write(&self.statements, &[entry]).await?;
            return Ok(entry.id);
        }
        let ids = writer.write_each(&self.statements, &[entry]).await?;
        Ok(ids.first().copied().unwrap_or(entry.id))
    }

    async fn write_many<W: Writer>(
        &self,
        writer: &mut W,
        messages: &[Message],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        let entries = self.entries(messages)?;
        let mut ids = Vec::with_capacity(entries.len());
        for chunk in chunks(&entries) {
            if chunk.iter().all(Entry::is_plain) {
                writer.write(&self.statements, chunk).await?;
                ids.extend(chunk.iter().map(|entry| entry.id));
            } else {
                ids.extend(writer.write_each(&self.statements, chunk).await?);
            }
        }
        Ok(ids)
    }

    async fn aborted<W: Writer>(&self, writer: &mut W, error: EnqueueError) -> EnqueueError {
        error.after_abort(writer, &self.statements).await
    }

    /// The statement texts, for the adapters that are not a [`Writer`].
    pub(crate) fn statements(&self) -> &Statements {
        &self.statements
    }

    /// Checks one message.
    pub(crate) fn entry<'a>(&self, message: &'a Message) -> Result<Entry<'a>, EnqueueError> {
        self.check(message, None)?;
        Ok(Entry::new(message))
    }

    /// Checks all messages before any of them is written.
    pub(crate) fn entries<'a>(
        &self,
        messages: &'a [Message],
    ) -> Result<Vec<Entry<'a>>, EnqueueError> {
        for (index, message) in messages.iter().enumerate() {
            self.check(message, Some(index))?;
        }
        Ok(messages.iter().map(Entry::new).collect())
    }

    fn check(&self, message: &Message, index: Option<usize>) -> Result<(), EnqueueError> {
        self.limits.check(message).map_err(|cause| EnqueueError::invalid(cause, index))?;
        #[cfg(feature = "contracts")]
        self.check_contract(message).map_err(|breach| EnqueueError::breach(breach, index))?;
        Ok(())
    }

    #[cfg(feature = "contracts")]
    fn check_contract(&self, message: &Message) -> Result<Checked, Breach> {
        let mut headers = message.header_pairs().iter();
        let version = headers.find(|(name, _)| name == CONTRACT_HEADER);
        let version = version.map(|(_, version)| version.as_str());
        self.contracts.check(message.topic(), version, message.payload())
    }
}

impl Default for Outbox {
    /// An outbox in the schema `posthaste`.
    fn default() -> Self {
        Self::new(SchemaName::default())
    }
}

impl<'a> Entry<'a> {
    /// Ids made here rise within a process, also inside one millisecond.
    fn new(message: &'a Message) -> Self {
        Self { id: message.message_id().unwrap_or_else(Uuid::now_v7), message }
    }
}
