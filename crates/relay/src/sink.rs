//! The seam between the pipeline and a sink: a batch goes in, one outcome per message comes out.
//!
//! A sink only classifies what happened; what follows from it (retry, back off, stop) is decided
//! in one place, the pipeline. A new kind of sink is one file under `sinks/`, one `mod` line and
//! one entry in `sinks::KINDS`, and runs the sink contract suite of the testkit.

use std::{error::Error, fmt, ops::Range};

use async_trait::async_trait;
use posthaste_core::{Epoch, MessageRef, Page, Position, Template};
use posthaste_redis::{ConnectionError, ConnectionErrorKind, InvalidSettings};
use uuid::Uuid;

use crate::sinks::local::LocalHub;

/// Consecutive messages of one page, in position order. Never empty.
#[derive(Clone)]
pub struct Batch<'a> {
    page: &'a Page,
    indices: &'a [u32],
    marks: &'a dyn Marks,
}

/// How a lane writes down where it stands, for sinks that keep that with its messages.
pub trait Marks: Sync {
    /// Where the lane stands once `message`, and everything before it, has been handed over.
    fn text(&self, message: &MessageRef<'_>) -> String;

    /// Positions, ascending, of messages that the lane has passed and that are still missing.
    fn open(&self) -> &[Position] {
        &[]
    }

    /// Positions, ascending, of messages between those of the batch that are not handed over: missing
    /// as soon as a message behind them is.
    fn withheld(&self) -> &[Position] {
        &[]
    }
}

impl<'a> Batch<'a> {
    /// The messages of `page` at `indices` (ascending), which move the lane on as `marks` say.
    pub fn new(page: &'a Page, indices: &'a [u32], marks: &'a dyn Marks) -> Self {
        Self { page, indices, marks }
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// The messages in the order in which they must arrive.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = MessageRef<'a>> + use<'a> {
        let page = self.page;
        self.indices.iter().map(move |index| page.get(*index as usize))
    }

    /// The message with this number in the batch.
    pub fn message(&self, nth: usize) -> MessageRef<'a> {
        self.page.get(self.indices[nth] as usize)
    }

    /// A part of this batch by message number.
    #[must_use]
    pub fn slice(&self, range: Range<usize>) -> Self {
        Self { page: self.page, indices: &self.indices[range], marks: self.marks }
    }

    /// How the lane writes down where it stands.
    pub const fn marks(&self) -> &'a dyn Marks {
        self.marks
    }
}

/// What became of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The sink's durable word that it has the message.
    Accepted,
    /// Not this message's fault: try again after a back-off of that scope, attempts are not
    /// counted against the message.
    Retry {
        /// What has to recover.
        scope: Scope,
        /// Why, for people.
        reason: String,
    },
    /// This message's fault: the same message would be refused again.
    Reject {
        /// Why, for people; never payload bytes.
        reason: String,
    },
}

/// What backs off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The whole sink.
    Sink,
    /// One destination of it (a stream, a queue, a URL).
    Destination,
    /// One ordering key.
    Key,
}

/// The outcomes of one batch, message by message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// Every message was accepted.
    AllAccepted,
    /// One outcome per message, in order. A sink that keeps order answers `Retry` for every
    /// message of a destination that follows one it did not accept there.
    Each(Vec<Outcome>),
}

/// A sink, connected. Owned by one pipeline; at most one batch is in flight.
#[async_trait]
pub trait Sink: Send {
    /// Hands a batch over and waits for the sink's word on each message. Returns in bounded time.
    ///
    /// # Errors
    /// When nothing is known of any message (connection lost, time-out): the pipeline drops the
    /// sink, connects anew and publishes the whole batch again.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the outcome unknown, as an error does.
    async fn publish(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError>;

    /// Where the sink said that the lane stood when it was connected. `None` if it keeps no places.
    fn mark(&self) -> Option<&Mark> {
        None
    }

    /// Calls that the sink has counted for the lane by now. `None` if it keeps no places.
    fn calls(&self) -> Option<i64> {
        None
    }

    /// Flushes and closes. Called once after the last batch.
    async fn close(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Where a sink says that a lane stands. It changes together with the messages that it speaks of:
/// both or neither (ONCE).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Calls that the sink has counted for the lane, ever; 0 where it knows of none.
    pub calls: i64,
    /// What [`Marks::text`] said of the last message that was handed over; empty before the first.
    pub text: String,
    /// Positions of messages before it that the sink has not taken.
    pub missing: Vec<Position>,
}

/// On whose behalf a sink is connected.
#[derive(Clone, Debug)]
pub struct Lane {
    /// Under which name the sink keeps its place: the subscription's, or one made from it.
    pub name: String,
    /// The holder's epoch. A sink that keeps places takes nothing from holders with a lower one,
    /// nor from earlier connections of this one, as soon as the connection is made (FENCED).
    pub epoch: Epoch,
    /// The random id of the log that is read.
    pub log: Uuid,
    /// A person has rebased the subscription: whatever log the sink's place is of, it is taken over
    /// with its count of calls alone.
    pub adopts: bool,
}

/// A sink's checked configuration: where pipelines connect, again after every fault.
#[async_trait]
pub trait Target: fmt::Debug + Send + Sync {
    /// The target for logs, without secrets: `redis://host:6379/0 stream {topic}`.
    fn describe(&self) -> String;

    /// How its streams, queues or channels are named, if it has any.
    fn destination(&self) -> Option<&Template> {
        None
    }

    /// Connects, and names what of the other side's settings threatens messages that it has
    /// accepted, each with the remedy. In bounded time.
    async fn preflight(&self) -> Result<Vec<String>, SinkError> {
        Ok(Vec::new())
    }

    /// Connects for a lane of a pipeline, in bounded time.
    async fn connect(&self, context: &Context, lane: &Lane) -> Result<Box<dyn Sink>, SinkError>;
}

/// What a sink may use of the process it runs in.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Where `local` sinks meet their in-process consumers.
    pub locals: LocalHub,
}

/// How far a kind of sink can promise ONCE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlaceKeeping {
    /// It can hold the subscription's place atomically with the messages: each is published once.
    Held,
    /// It cannot: duplicates are bounded by what was in flight and carry the same message id.
    None,
}

/// A kind of sink, as the registry lists it.
#[derive(Clone, Copy)]
pub struct SinkKind {
    /// The value of `kind` in the configuration.
    pub name: &'static str,
    /// One line for the reference page.
    pub about: &'static str,
    /// Whether it can hold a place.
    pub place: PlaceKeeping,
    /// Checks a configuration table (without its `kind`).
    pub parse: fn(toml::Table) -> Result<Box<dyn Target>, InvalidTarget>,
    /// The JSON Schema of that table, for the reference page and for "did you mean".
    pub schema: fn() -> schemars::Schema,
}

impl fmt::Debug for SinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkKind").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A sink's configuration that does not hold up: the key, the value and the remedy in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidTarget {
    /// The key at fault, relative to the sink's table; empty for the table as a whole.
    pub key: String,
    /// What is wrong and what to write instead. Never a secret.
    pub message: String,
}

impl From<InvalidSettings> for InvalidTarget {
    fn from(InvalidSettings { key, message }: InvalidSettings) -> Self {
        Self { key, message }
    }
}

/// Why a sink could not be reached or did not answer.
#[derive(Debug)]
pub struct SinkError {
    kind: SinkErrorKind,
    doing: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SinkErrorKind {
    /// Away, starting or stopping, or the connection broke. Passes by itself.
    Unavailable,
    /// No answer in time; the outcome is unknown.
    Timeout,
    /// The sink refused the login or its certificate, or lacks a permission for this user.
    Authentication,
    /// The sink answers, but cannot do what the configuration asks for.
    Misconfigured,
    /// Out of memory or disk; read-only.
    Resources,
    /// Somebody else publishes in this subscription's place, or did away with it.
    Displaced,
    /// The sink knows a later holder of the subscription.
    Fenced,
    /// An answer that the protocol does not allow.
    Unexpected,
}

impl SinkErrorKind {
    /// What an operator should do.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Unavailable => "check that the sink runs and can be reached; retried meanwhile",
            Self::Timeout => "the sink did not answer in time; retried meanwhile",
            Self::Authentication => "check user, password, permissions and certificates",
            Self::Misconfigured => "correct the subscription's sink settings",
            Self::Resources => "free memory or disk on the sink; retried meanwhile",
            Self::Displaced => {
                "check that one relay alone publishes for the subscription; retried meanwhile"
            }
            Self::Fenced => {
                "a later relay publishes for the subscription, or the database was restored from \
                 a backup"
            }
            Self::Unexpected => "see the cause; retried meanwhile",
        }
    }
}

impl SinkError {
    /// An error without a deeper cause.
    pub fn new(kind: SinkErrorKind, doing: impl Into<String>) -> Self {
        Self { kind, doing: doing.into(), source: None }
    }

    /// An error that keeps its cause.
    pub fn caused(
        kind: SinkErrorKind,
        doing: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { kind, doing: doing.into(), source: Some(source.into()) }
    }

    /// The kind of failure.
    pub const fn kind(&self) -> SinkErrorKind {
        self.kind
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.doing, self.kind.remedy())
    }
}

impl Error for SinkError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl From<ConnectionError> for SinkError {
    fn from(error: ConnectionError) -> Self {
        let kind = match error.kind() {
            ConnectionErrorKind::Unavailable => SinkErrorKind::Unavailable,
            ConnectionErrorKind::Timeout => SinkErrorKind::Timeout,
            ConnectionErrorKind::Authentication => SinkErrorKind::Authentication,
            ConnectionErrorKind::Misconfigured => SinkErrorKind::Misconfigured,
            ConnectionErrorKind::Resources => SinkErrorKind::Resources,
            ConnectionErrorKind::Unexpected => SinkErrorKind::Unexpected,
        };
        let (doing, source) = error.into_parts();
        Self { kind, doing, source }
    }
}
