//! Why an enqueue or the handling of a message failed: a kind to act on and the untouched cause.

use std::{error::Error, fmt};

use posthaste_core::InvalidMessage;
#[cfg(feature = "contracts")]
use posthaste_core::contract::Breach;
use posthaste_store::statements::PostgresWriter;

use crate::{Statements, Writer};

pub(crate) type Source = Box<dyn Error + Send + Sync>;

/// A failed enqueue. Unless [`transaction_aborted`](Self::transaction_aborted) says otherwise, the
/// caller's transaction cannot commit any more.
///
/// `Display` holds no payload and no secret, and neither does `Debug`. The database's own error is
/// in [`Error::source`], untouched: its detail may quote the row that the database refused.
pub struct EnqueueError {
    kind: EnqueueErrorKind,
    /// Where the message at fault stands among several.
    index: Option<usize>,
    aborted: bool,
    source: Option<Source>,
}

/// What kind of failure it was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnqueueErrorKind {
    /// The message is not allowed; nothing was written.
    Invalid(InvalidMessage),
    /// The message does not keep the contract of its topic; nothing was written.
    #[cfg(feature = "contracts")]
    Contract(Breach),
    /// Posthaste's tables are not there.
    MissingSchema,
    /// The role may not write messages.
    Privilege,
    /// A deadlock, a serialisation failure or a lock time-out: run the transaction again.
    Conflict,
    /// The connection is gone or the server is stopping: run the transaction again.
    Unavailable,
    /// The database's disk is full, or another resource of it is used up.
    Resources,
    /// The topic is strict, and the transaction has not locked the message's key before.
    KeyNotLocked,
    /// A function of Posthaste refused what it was asked.
    Refused(Refusal),
    /// The transaction had failed before.
    AlreadyAborted,
    /// Anything else that the database or its client reports.
    Database,
}

/// Why a function of Posthaste refuses, by its error code; the database's message has the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// `22023`: an argument is out of bounds.
    Argument,
    /// `PH010`: the machine does not begin there, or does not go from the one state to the other.
    IllegalStep,
    /// `PH011`: the entity is not where the request expected it.
    Moved,
    /// `PH012`: the idempotency key stands for another request.
    KeyTaken,
    /// `PH013`: there is no such machine, state or entity.
    Unknown,
    /// `PH014`: the step is for others, or asks for metadata.
    Guarded,
    /// `PH015`: the entity has begun already.
    Begun,
    /// `PH016`: the request is in progress elsewhere.
    InProgress,
}

impl Refusal {
    const CODES: [(&'static str, Self); 8] = [
        ("22023", Self::Argument),
        ("PH010", Self::IllegalStep),
        ("PH011", Self::Moved),
        ("PH012", Self::KeyTaken),
        ("PH013", Self::Unknown),
        ("PH014", Self::Guarded),
        ("PH015", Self::Begun),
        ("PH016", Self::InProgress),
    ];

    fn from_sqlstate(code: &str) -> Option<Self> {
        Self::CODES.iter().find(|(known, _)| *known == code).map(|(_, refusal)| *refusal)
    }

    pub(crate) const fn remedy(self) -> &'static str {
        match self {
            Self::Argument => "correct the argument that the cause names",
            Self::IllegalStep => "take one of the steps that the cause names",
            Self::Moved => "read the entity again: somebody was faster",
            Self::KeyTaken => "use a new key for a new request",
            Self::Unknown => "check the names; `posthaste machines push` adds machines",
            Self::Guarded => "the cause names what the step asks for",
            Self::Begun => "the entity is there: take it on with a transition",
            Self::InProgress => "ask again later",
        }
    }
}

impl EnqueueErrorKind {
    /// The kind that a PostgreSQL error code stands for (PostgreSQL manual, appendix A).
    pub fn from_sqlstate(code: &str) -> Self {
        match code {
            "3F000" | "42P01" | "42883" | "42703" => Self::MissingSchema,
            "42501" => Self::Privilege,
            "40001" | "40P01" | "55P03" => Self::Conflict,
            PostgresWriter::KEY_NOT_LOCKED => Self::KeyNotLocked,
            "25P02" => Self::AlreadyAborted,
            "57P01" | "57P02" | "57P03" => Self::Unavailable,
            other if other.starts_with("08") => Self::Unavailable,
            other if other.starts_with("53") => Self::Resources,
            other => Refusal::from_sqlstate(other).map_or(Self::Database, Self::Refused),
        }
    }

    pub(crate) const fn remedy(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "correct the message",
            #[cfg(feature = "contracts")]
            Self::Contract(_) => "correct the message",
            Self::MissingSchema => "run `posthaste migrate`, or check the schema name",
            Self::Privilege => "grant the role the writer's privileges",
            Self::Conflict | Self::Unavailable => "run the transaction again",
            Self::Resources => "free disk space or connections on the database server",
            Self::KeyNotLocked => {
                "the topic is strict; call `lock_keys` for the message's key in an earlier statement \
                 of the transaction"
            }
            Self::Refused(refusal) => refusal.remedy(),
            Self::AlreadyAborted => "an earlier statement failed; roll back",
            Self::Database => "see the cause",
        }
    }
}

impl EnqueueError {
    /// An error from a database client; for adapters.
    pub fn new(kind: EnqueueErrorKind, source: impl Into<Source>) -> Self {
        Self { kind, index: None, aborted: true, source: Some(source.into()) }
    }

    pub(crate) fn invalid(cause: InvalidMessage, index: Option<usize>) -> Self {
        Self::refused(EnqueueErrorKind::Invalid(cause), index)
    }

    #[cfg(feature = "contracts")]
    pub(crate) fn breach(breach: Breach, index: Option<usize>) -> Self {
        Self::refused(EnqueueErrorKind::Contract(breach), index)
    }

    fn refused(kind: EnqueueErrorKind, index: Option<usize>) -> Self {
        Self { kind, index, aborted: true, source: None }
    }

    /// Aborts the caller's transaction, and answers this error with what became of that.
    pub(crate) async fn after_abort<W: Writer>(
        self,
        writer: &mut W,
        statements: &Statements,
    ) -> Self {
        match writer.abort(statements, &self.to_string()).await {
            Ok(()) => self,
            Err(why) => self.not_aborted(why),
        }
    }

    /// Records that the transaction could not be aborted, and why.
    pub(crate) fn not_aborted(mut self, why: Self) -> Self {
        self.aborted = false;
        self.source = self.source.or(why.source);
        self
    }

    /// The kind and the cause, for errors of other calls.
    pub(crate) fn into_parts(self) -> (EnqueueErrorKind, Option<Source>) {
        (self.kind, self.source)
    }

    /// The kind of failure.
    pub const fn kind(&self) -> &EnqueueErrorKind {
        &self.kind
    }

    /// Which message was refused, counted from 0, when several were enqueued at once.
    pub const fn index(&self) -> Option<usize> {
        self.index
    }

    /// Whether the caller's transaction is certain not to commit. `false` is rare (the schema's
    /// `refuse` was replaced, for example); roll back without fail then.
    pub const fn transaction_aborted(&self) -> bool {
        self.aborted
    }
}

impl fmt::Display for EnqueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(index) = self.index {
            write!(f, "messages[{index}]: ")?;
        }
        match &self.kind {
            EnqueueErrorKind::Invalid(cause) => write!(f, "{cause}")?,
            #[cfg(feature = "contracts")]
            EnqueueErrorKind::Contract(breach) => write!(f, "message refused: {breach}")?,
            kind => write!(f, "message not enqueued ({})", kind.remedy())?,
        }
        if !self.aborted {
            f.write_str("; the transaction can still commit without the message: roll it back")?;
        }
        Ok(())
    }
}

/// Leaves the cause out: a database's detail can quote the refused row.
impl fmt::Debug for EnqueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnqueueError")
            .field("kind", &self.kind)
            .field("index", &self.index)
            .field("aborted", &self.aborted)
            .field("has_source", &self.source.is_some())
            .finish()
    }
}

impl Error for EnqueueError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match (&self.source, &self.kind) {
            (Some(source), _) => Some(source.as_ref()),
            // `Display` says the same; this is for callers that look for the type in the chain.
            (None, EnqueueErrorKind::Invalid(cause)) => Some(cause),
            #[cfg(feature = "contracts")]
            (None, EnqueueErrorKind::Contract(breach)) => Some(breach),
            (None, _) => None,
        }
    }
}

/// A message that could not be recorded as handled. Unless
/// [`transaction_aborted`](Self::transaction_aborted) says otherwise, the caller's transaction cannot
/// commit any more, and the message's effect with it: deliver the message again.
///
/// The database's own error is in [`Error::source`], untouched.
#[derive(Debug)]
pub struct InboxError(EnqueueError);

impl InboxError {
    /// The kind of failure, of those that an enqueue has as well.
    pub const fn kind(&self) -> &EnqueueErrorKind {
        self.0.kind()
    }

    /// Whether the caller's transaction is certain not to commit; see
    /// [`EnqueueError::transaction_aborted`].
    pub const fn transaction_aborted(&self) -> bool {
        self.0.transaction_aborted()
    }
}

impl From<EnqueueError> for InboxError {
    fn from(error: EnqueueError) -> Self {
        Self(error)
    }
}

impl fmt::Display for InboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind() {
            EnqueueErrorKind::Invalid(cause) => write!(f, "{cause}")?,
            EnqueueErrorKind::Privilege => {
                f.write_str("message not handled (grant the role the worker's privileges)")?;
            }
            kind => write!(f, "message not handled ({})", kind.remedy())?,
        }
        if !self.transaction_aborted() {
            f.write_str("; the transaction can still commit without the record: roll it back")?;
        }
        Ok(())
    }
}

impl Error for InboxError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}
