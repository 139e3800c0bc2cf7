//! Why the server does not run.

use std::{error::Error, fmt};

type Source = Box<dyn Error + Send + Sync>;

/// A server that cannot begin, or ended by itself.
pub struct ServerError {
    kind: ServerErrorKind,
    what: String,
    source: Option<Source>,
}

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerErrorKind {
    /// The settings do not hold up.
    Settings,
    /// The address cannot be listened on.
    Address,
    /// A task of the server's ended in the middle.
    Broken,
}

impl ServerError {
    pub(crate) fn settings(what: impl Into<String>, source: Option<Source>) -> Self {
        Self { kind: ServerErrorKind::Settings, what: what.into(), source }
    }

    pub(crate) fn address(what: impl Into<String>, source: impl Into<Source>) -> Self {
        Self { kind: ServerErrorKind::Address, what: what.into(), source: Some(source.into()) }
    }

    pub(crate) fn broken(what: impl Into<String>, source: impl Into<Source>) -> Self {
        Self { kind: ServerErrorKind::Broken, what: what.into(), source: Some(source.into()) }
    }

    /// The kind of failure.
    pub const fn kind(&self) -> ServerErrorKind {
        self.kind
    }

    /// The cause, for those who tell what failed in their own way.
    pub fn into_source(self) -> Option<Source> {
        self.source
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ServerError");
        shown.field("kind", &self.kind).field("what", &self.what);
        shown.field("source", &self.source).finish()
    }
}

impl Error for ServerError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
