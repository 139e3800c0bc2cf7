//! Why a run could not be finished: what was being done, and the cause. Nothing that a run finds is one.

use std::{error::Error, fmt};

type Source = Box<dyn Error + Send + Sync>;

/// Whatever a step of a run answers.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// A run that did not finish, which says nothing about what it was to find.
#[derive(Debug)]
pub(crate) struct Failure {
    doing: String,
    source: Option<Source>,
}

impl Failure {
    /// A failure without a cause of its own.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { doing: what.into(), source: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.doing)?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(formatter, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|error| &**error as &(dyn Error + 'static))
    }
}

/// Says what was being done when something failed.
pub(crate) trait During<T> {
    /// `doing` completes "cannot …".
    fn during(self, doing: &str) -> Result<T>;
}

impl<T, E: Into<Source>> During<T> for std::result::Result<T, E> {
    fn during(self, doing: &str) -> Result<T> {
        self.map_err(|error| Failure {
            doing: format!("cannot {doing}"),
            source: Some(error.into()),
        })
    }
}
