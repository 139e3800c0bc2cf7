//! Why a Redis server could not be reached, or did not do what it was asked to.
//!
//! Classified here, once; what follows from it is decided by whoever uses the connection.

use std::{error::Error, fmt};

/// Why a server could not be reached or did not answer.
#[derive(Debug)]
pub struct ConnectionError {
    kind: ConnectionErrorKind,
    doing: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionErrorKind {
    /// Away, starting or stopping, or the connection broke. Passes by itself.
    Unavailable,
    /// No answer in time; the outcome is unknown.
    Timeout,
    /// The server refused the login or its certificate, or lacks a permission for this user.
    Authentication,
    /// The server answers, but cannot do what the configuration asks for.
    Misconfigured,
    /// Out of memory or disk; read-only.
    Resources,
    /// An answer that the protocol does not allow.
    Unexpected,
}

impl ConnectionErrorKind {
    /// What an operator should do.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Unavailable => "check that the server runs and can be reached; retried meanwhile",
            Self::Timeout => "the server did not answer in time; retried meanwhile",
            Self::Authentication => "check user, password, permissions and certificates",
            Self::Misconfigured => "correct the settings",
            Self::Resources => "free memory or disk on the server; retried meanwhile",
            Self::Unexpected => "see the cause; retried meanwhile",
        }
    }
}

impl ConnectionError {
    /// An error without a deeper cause.
    pub fn new(kind: ConnectionErrorKind, doing: impl Into<String>) -> Self {
        Self { kind, doing: doing.into(), source: None }
    }

    /// An error that keeps its cause.
    pub fn caused(
        kind: ConnectionErrorKind,
        doing: impl Into<String>,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { kind, doing: doing.into(), source: Some(source.into()) }
    }

    /// The kind of failure.
    pub const fn kind(&self) -> ConnectionErrorKind {
        self.kind
    }

    /// What was being done, and the cause: for an error that is this one in other words.
    pub fn into_parts(self) -> (String, Option<Box<dyn Error + Send + Sync>>) {
        (self.doing, self.source)
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.doing, self.kind.remedy())
    }
}

impl Error for ConnectionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

/// Settings that do not hold up: the key, the value and the remedy in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidSettings {
    /// The key at fault; empty for the table as a whole.
    pub key: String,
    /// What is wrong and what to write instead. Never a secret.
    pub message: String,
}
