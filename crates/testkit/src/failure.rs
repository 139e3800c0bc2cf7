//! Why a program that drives private servers, a benchmark or a torture, could not finish.

use std::{error::Error, fmt};

type Source = Box<dyn Error + Send + Sync>;

/// Whatever a step of a run answers.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// What was being done, and the cause. There are no figures then: half a run proves nothing.
#[derive(Debug)]
pub struct Failure {
    doing: String,
    source: Option<Source>,
}

impl Failure {
    /// A failure without a cause of its own.
    pub fn new(what: impl Into<String>) -> Self {
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
pub trait During<T> {
    /// `doing` completes "cannot …".
    ///
    /// # Errors
    ///
    /// The failure, with what caused it.
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
