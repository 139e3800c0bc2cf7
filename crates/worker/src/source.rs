//! The seam between the worker and a queue: messages come out, and each is settled once.
//!
//! A source keeps what it has handed out for its worker until that is settled, and takes over what dead workers
//! have held. What follows from a message (run it, try it again, bury it) is decided by the worker. A new kind
//! of source is one file under `sources/` and runs the source contract suite.

use std::{error::Error, fmt, time::Duration};

use async_trait::async_trait;
use posthaste::{Received, UnreadableMessage};
use posthaste_redis::{ConnectionError, InvalidSettings};

use crate::listener::Additions;

/// A queue, connected. Its calls run side by side.
#[async_trait]
pub trait Source: Send + Sync + 'static {
    /// The queue for logs, without secrets: `redis://host:6379/0 list jobs`.
    fn describe(&self) -> &str;

    /// Takes at most `limit` messages (at least 1) in the queue's order, and waits up to `wait` for the
    /// first. What was held by a worker that is gone comes before that. One call at a time.
    ///
    /// # Errors
    /// The queue did not answer. Nothing is lost: what was taken meanwhile comes again.
    ///
    /// # Cancel safety
    /// As an error.
    async fn take(&self, limit: usize, wait: Duration) -> Result<Vec<Delivery>, SourceError>;

    /// Settles messages that [`take`](Self::take) handed out.
    ///
    /// # Errors
    /// The queue did not answer: some may be settled. Settling them again does no harm.
    async fn settle(&self, settled: &[(Token, Fate)]) -> Result<(), SourceError>;

    /// After how long a silent worker is taken for dead, if the source takes anything over.
    fn lease(&self) -> Option<Duration> {
        None
    }

    /// Says that the worker is alive, so that nobody takes over what it holds. Called several times within
    /// [`lease`](Self::lease), whatever else is under way.
    ///
    /// # Errors
    /// The queue did not answer.
    async fn beat(&self) -> Result<(), SourceError> {
        Ok(())
    }

    /// Gives up its name, after the last message was settled. What is still held comes again.
    ///
    /// # Errors
    /// The queue did not answer.
    async fn close(&self) -> Result<(), SourceError> {
        Ok(())
    }
}

#[async_trait]
impl Source for Box<dyn Source> {
    fn describe(&self) -> &str {
        (**self).describe()
    }

    async fn take(&self, limit: usize, wait: Duration) -> Result<Vec<Delivery>, SourceError> {
        (**self).take(limit, wait).await
    }

    async fn settle(&self, settled: &[(Token, Fate)]) -> Result<(), SourceError> {
        (**self).settle(settled).await
    }

    fn lease(&self) -> Option<Duration> {
        (**self).lease()
    }

    async fn beat(&self) -> Result<(), SourceError> {
        (**self).beat().await
    }

    async fn close(&self) -> Result<(), SourceError> {
        (**self).close().await
    }
}

/// Checks a configuration table of a source (without its `kind`) for a [listener](crate::Listener).
pub type Listen = fn(toml::Table) -> Result<Box<dyn Additions>, InvalidSource>;

/// A kind of source, as the registry lists it.
#[derive(Clone, Copy)]
pub struct SourceKind {
    /// The value of `kind` in the configuration.
    pub name: &'static str,
    /// One line for the reference page.
    pub about: &'static str,
    /// Checks a configuration table (without its `kind`). The source connects when it is first asked.
    pub parse: fn(toml::Table) -> Result<Box<dyn Source>, InvalidSource>,
    /// The same table for a listener on what is added to the queue; none where the queue says nothing of that.
    pub listen: Option<Listen>,
    /// The JSON Schema of that table, for the reference page and for "did you mean".
    pub schema: fn() -> schemars::Schema,
}

impl fmt::Debug for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceKind").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A source's configuration that does not hold up: the key, the value and the remedy in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidSource {
    /// The key at fault, relative to the source's table; empty for the table as a whole.
    pub key: String,
    /// What is wrong and what to write instead. Never a secret.
    pub message: String,
}

impl From<InvalidSettings> for InvalidSource {
    fn from(InvalidSettings { key, message }: InvalidSettings) -> Self {
        Self { key, message }
    }
}

/// How a source knows a message that it has handed out. Opaque to the worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub Vec<u8>);

/// A message that a source hands out.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// How the source knows it.
    pub token: Token,
    /// The message; or why what lay in the queue is none.
    pub message: Result<Received, UnreadableMessage>,
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is handled: the queue forgets it.
    Done,
    /// It comes again, to this worker or another one.
    GiveBack,
    /// Nobody can handle it: it goes to the queue's dead letters.
    Bury {
        /// Why, for people; never payload bytes.
        reason: String,
    },
}

/// Why a queue did not answer.
#[derive(Debug)]
pub struct SourceError {
    doing: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl SourceError {
    /// An error without a deeper cause.
    pub fn new(doing: impl Into<String>) -> Self {
        Self { doing: doing.into(), source: None }
    }

    /// An error that keeps its cause.
    pub fn caused(
        doing: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { doing: doing.into(), source: Some(source.into()) }
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.doing)
    }
}

impl Error for SourceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl From<ConnectionError> for SourceError {
    fn from(error: ConnectionError) -> Self {
        let doing = error.to_string();
        let (_, source) = error.into_parts();
        Self { doing, source }
    }
}
