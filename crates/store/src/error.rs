//! Why a store call failed: a kind to act on, what was being done, and the untouched cause.

use std::{error::Error, fmt};

type Source = Box<dyn Error + Send + Sync>;

/// A failed store call. `Display` says what was being done and what to do about it and never
/// holds a password or a payload; the cause is in [`Error::source`].
pub struct StoreError {
    kind: StoreErrorKind,
    doing: String,
    source: Option<Source>,
}

/// What kind of failure it was; decides whether to retry and what an operator is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// The server is away, starting, stopping, or broke the connection. Passes by itself.
    Unavailable,
    /// No answer within the operation time-out. Whether a write took effect is unknown.
    Timeout,
    /// The server is a standby, or read-only: ticks need the primary.
    Standby,
    /// A deadlock or a serialisation failure. Passes by itself.
    Conflict,
    /// Another transaction holds what it needs for longer than it waits. Passes with that one.
    Held,
    /// The server refused the login or its TLS certificate.
    Authentication,
    /// The role lacks a privilege.
    Privilege,
    /// The schema is not there.
    MissingSchema,
    /// The schema is older than this build.
    OlderSchema,
    /// The schema is newer than this build.
    NewerSchema,
    /// The log does not go with what was published of it: one of the two was restored, copied,
    /// exchanged or lost.
    Rewound,
    /// A value that the configuration or the caller got wrong.
    Invalid,
    /// The disk is full, or another resource of the server is used up.
    Resources,
    /// Anything else: a statement that should not fail did.
    Unexpected,
}

impl StoreErrorKind {
    /// Whether trying again may succeed without anybody changing anything.
    pub const fn is_transient(self) -> bool {
        matches!(
            self,
            Self::Unavailable
                | Self::Timeout
                | Self::Standby
                | Self::Conflict
                | Self::Held
                | Self::Resources
        )
    }

    /// What an operator should do.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Unavailable => {
                "check that the database runs and can be reached; retried meanwhile"
            }
            Self::Timeout => "the database did not answer in time; check its load and its locks",
            Self::Standby => "point the database URL at the primary",
            Self::Conflict => "retried by itself",
            Self::Held => "look for a transaction that was left open; retried meanwhile",
            Self::Authentication => "check user, password, sslmode and certificates",
            Self::Privilege => "grant the role the missing privilege",
            Self::MissingSchema => "run `posthaste migrate`, or check the schema setting",
            Self::OlderSchema => "run `posthaste migrate`",
            Self::NewerSchema => "upgrade this binary: the database was migrated by a newer one",
            Self::Rewound => {
                "the database or the sink was restored, copied, exchanged or lost; if these are the \
                 ones to go on with, stop the relay and run `posthaste subscriptions rebase NAME`, \
                 first with --dry-run"
            }
            Self::Invalid => "correct the value",
            Self::Resources => "free disk space or connections on the database server",
            Self::Unexpected => "see the cause",
        }
    }
}

impl StoreError {
    /// An error without a deeper cause.
    pub fn new(kind: StoreErrorKind, doing: impl Into<String>) -> Self {
        Self { kind, doing: doing.into(), source: None }
    }

    /// An error that keeps its cause.
    pub fn caused(
        kind: StoreErrorKind,
        doing: impl Into<String>,
        source: impl Into<Source>,
    ) -> Self {
        Self { kind, doing: doing.into(), source: Some(source.into()) }
    }

    /// The kind of failure.
    pub const fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// What was being done and what was found, without the remedy.
    pub fn doing(&self) -> &str {
        &self.doing
    }

    /// The same error with what the caller was doing in front.
    #[must_use]
    pub fn while_doing(mut self, doing: &str) -> Self {
        self.doing = format!("{doing}: {}", self.doing);
        self
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.doing, self.kind.remedy())
    }
}

impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreError")
            .field("kind", &self.kind)
            .field("doing", &self.doing)
            .field("source", &self.source)
            .finish()
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}
