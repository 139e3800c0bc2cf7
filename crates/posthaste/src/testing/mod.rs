//! Assertions on what was enqueued, for an application's own tests. Needs the feature `testing`.
//!
//! They read the log and the scheduled messages over the connection that they are handed, so they
//! see what it sees: inside the transaction under test also what is not committed yet. Nothing is
//! written or cleared; a [`Mark`] says from where on a test looks. Tests that share a database tell
//! their messages apart by what is theirs, an ordering key for example.
//!
//! The connections are those of the adapters; rusqlite's goes to the calls that end in `_blocking`.
//! Their role must be allowed to read the log, which a mere writer is not: take the schema's owner.
//!
//! # Examples
#![cfg_attr(feature = "tokio-postgres", doc = "```no_run")]
#![cfg_attr(not(feature = "tokio-postgres"), doc = "```text")]
//! use posthaste::{Outbox, testing};
//! use serde_json::json;
//!
//! # async fn place_order(_: &Outbox, _: &tokio_postgres::Transaction<'_>) {}
//! # async fn example(outbox: Outbox, mut client: tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let mark = testing::mark(&outbox, &client).await?;
//! let transaction = client.transaction().await?;
//! place_order(&outbox, &transaction).await;
//!
//! let enqueued = testing::enqueued_since(&outbox, &transaction, &mark).await?;
//! let order = testing::topic("orders.created").key("customer-3");
//! let message = enqueued.assert_one(order.json_with(&json!({ "order": 17 })));
//! assert_eq!(message.header("tenant"), Some("acme"));
//! enqueued.refute(testing::topic("invoices.*"));
//! # Ok(())
//! # }
//! ```
//!
//! An assertion that fails shows what was enqueued instead, the likeliest message first, and where
//! each differs.

mod enqueued;
mod expected;
mod json;
mod readers;

use std::{collections::HashSet, error::Error, fmt};

use posthaste_core::MessageId;

pub use self::{
    enqueued::{Enqueued, EnqueuedMessage},
    expected::{Expected, anything, like, topic},
    readers::Reader,
};
use crate::{EnqueueError, EnqueueErrorKind, Outbox, error::Source};

/// Messages that one look reads. A test that meets it looks at a log that is not its own.
const MESSAGES_MAX: usize = 10_000;

/// A moment in the life of a log; what was enqueued before it is of no concern.
#[derive(Clone, Debug)]
pub struct Mark {
    position: i64,
    /// Ids of the messages that were waiting for their time. They have no place in the log yet, and
    /// are not new when they get one.
    waiting: HashSet<MessageId>,
}

impl Mark {
    /// Before the first message.
    fn beginning() -> Self {
        Self { position: 0, waiting: HashSet::new() }
    }

    fn enqueued(&self, mut messages: Vec<EnqueuedMessage>) -> Result<Enqueued, ReadError> {
        if messages.len() > MESSAGES_MAX {
            return Err(ReadError::too_many());
        }
        messages.retain(|message| !self.waiting.contains(&message.id));
        Ok(Enqueued::new(messages))
    }

    fn at(position: i64, waiting: &[EnqueuedMessage]) -> Result<Self, ReadError> {
        if waiting.len() > MESSAGES_MAX {
            return Err(ReadError::too_many());
        }
        Ok(Self { position, waiting: waiting.iter().map(|message| message.id).collect() })
    }
}

/// Marks the present moment, for [`enqueued_since`].
///
/// # Errors
/// The log cannot be read.
pub async fn mark<R: Reader>(outbox: &Outbox, mut reader: R) -> Result<Mark, ReadError> {
    let position = reader.position(outbox.schema()).await?;
    // Behind the last position of all there are only those that wait.
    let waiting = reader.read(outbox.schema(), i64::MAX, limit()).await?;
    Mark::at(position, &waiting)
}

/// The messages that `reader` sees: those of the log that retention has left, and those that wait
/// for their time.
///
/// # Errors
/// The log cannot be read, or there are more than 10,000 of them.
pub async fn enqueued<R: Reader>(outbox: &Outbox, reader: R) -> Result<Enqueued, ReadError> {
    enqueued_since(outbox, reader, &Mark::beginning()).await
}

/// The messages that `reader` sees and that were enqueued after `mark`.
///
/// # Errors
/// As [`enqueued`].
pub async fn enqueued_since<R: Reader>(
    outbox: &Outbox,
    mut reader: R,
    mark: &Mark,
) -> Result<Enqueued, ReadError> {
    mark.enqueued(reader.read(outbox.schema(), mark.position, limit()).await?)
}

/// One more than may be, to tell.
const fn limit() -> i64 {
    MESSAGES_MAX as i64 + 1
}

#[cfg(feature = "rusqlite")]
pub use self::readers::{enqueued_blocking, enqueued_since_blocking, mark_blocking};

/// Why what was enqueued could not be read.
pub struct ReadError {
    message: &'static str,
    source: Option<Source>,
}

impl ReadError {
    fn too_many() -> Self {
        let message = "the log holds more than 10,000 messages: take a mark before the test, and \
                       read what came since";
        Self { message, source: None }
    }

    /// The row is not one that an adapter or the SQL functions write.
    #[cfg(feature = "_sqlite")]
    fn strange(source: impl Into<Source>) -> Self {
        Self { message: "a message in the log cannot be read", source: Some(source.into()) }
    }
}

impl From<EnqueueError> for ReadError {
    fn from(error: EnqueueError) -> Self {
        let (kind, source) = error.into_parts();
        let message = match kind {
            EnqueueErrorKind::MissingSchema => {
                "cannot read the log (run `posthaste migrate`, or check the schema name)"
            }
            EnqueueErrorKind::Privilege => {
                "cannot read the log (writers may not: test as the schema's owner)"
            }
            EnqueueErrorKind::AlreadyAborted => {
                "cannot read the log (an earlier statement of the transaction failed)"
            }
            _ => "cannot read the log (see the cause)",
        };
        Self { message, source }
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

/// With the cause: tests print this one, and reading quotes no payload.
impl fmt::Debug for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)?;
        self.source.as_ref().map_or(Ok(()), |source| write!(f, ": {source}"))
    }
}

impl Error for ReadError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| -> &(dyn Error + 'static) { source.as_ref() })
    }
}
