//! What a command that did not succeed says: one line naming thing, value and remedy, then the
//! causes; or one JSON object. Secrets never get here: stores, sinks and the configuration mask
//! them where they make their errors.

use std::{error::Error, io};

use anstyle::{AnsiColor, Style};
use posthaste_relay::RelayError;
use posthaste_store::{StoreError, StoreErrorKind};
use serde_json::{Value, json};

use crate::{config::Problem, exit::Exit};

type Cause = Box<dyn Error + Send + Sync>;

/// A command's result.
pub(crate) type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// Why a command ends without success.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    cause: Option<Cause>,
    problems: Vec<Problem>,
}

impl Failure {
    /// A failure without a deeper cause.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), cause: None, problems: Vec::new() }
    }

    /// A wrong command line or configuration.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// A failure that keeps its cause.
    pub(crate) fn caused(exit: Exit, message: impl Into<String>, cause: impl Into<Cause>) -> Self {
        Self { cause: Some(cause.into()), ..Self::new(exit, message) }
    }

    /// A configuration with mistakes, all of them.
    pub(crate) fn configuration(problems: Vec<Problem>) -> Self {
        let message = match problems.len() {
            1 => "the configuration has a mistake".to_owned(),
            n => format!("the configuration has {n} mistakes"),
        };
        Self { problems, ..Self::usage(message) }
    }

    /// How the process ends.
    pub(crate) const fn exit(&self) -> Exit {
        self.exit
    }

    /// Whether the reader of our output went away, which is no fault (`posthaste tail | head`).
    pub(crate) fn is_broken_pipe(&self) -> bool {
        let cause = self.cause.as_deref().and_then(|cause| cause.downcast_ref::<io::Error>());
        cause.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The lines for people, with colours that the stream may take away.
    pub(crate) fn human(&self) -> String {
        let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
        if !self.problems.is_empty() {
            let line = |problem| format!("{red}error:{red:#} {problem}");
            return self.problems.iter().map(line).collect::<Vec<_>>().join("\n");
        }
        let mut text = format!("{red}error:{red:#} {}", one_line(&self.message));
        for cause in self.causes() {
            text.push_str("\n  caused by: ");
            text.push_str(&cause);
        }
        text
    }

    /// The object for programs.
    pub(crate) fn json(&self) -> Value {
        let mut error = json!({
            "kind": self.exit.word(),
            "message": one_line(&self.message),
            "exit_code": self.exit.code(),
        });
        let causes = self.causes();
        if !causes.is_empty() {
            error["causes"] = json!(causes);
        }
        if !self.problems.is_empty() {
            error["problems"] = self.problems.iter().map(Problem::json).collect();
        }
        json!({ "error": error })
    }

    fn causes(&self) -> Vec<String> {
        let first = self.cause.as_deref().map(|cause| cause as &(dyn Error + 'static));
        let chain = std::iter::successors(first, |&cause| cause.source());
        let mut texts: Vec<String> = Vec::new();
        for text in chain.map(|cause| one_line(&cause.to_string())) {
            // Many errors repeat their source in their own text; a reader needs it once.
            let said = self.message.contains(&text)
                || texts.last().is_some_and(|above: &String| above.contains(&text));
            if !said {
                texts.push(text);
            }
        }
        texts
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::caused(Exit::Failed, "cannot write the output", error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        with_source(exit_of(error.kind()), error)
    }
}

impl From<RelayError> for Failure {
    fn from(error: RelayError) -> Self {
        let exit = error.store_error().map_or(Exit::Failed, |error| exit_of(error.kind()));
        with_source(exit, error)
    }
}

const fn exit_of(kind: StoreErrorKind) -> Exit {
    match kind {
        StoreErrorKind::Unavailable | StoreErrorKind::Timeout | StoreErrorKind::Authentication => {
            Exit::Unreachable
        }
        StoreErrorKind::MissingSchema
        | StoreErrorKind::OlderSchema
        | StoreErrorKind::NewerSchema => Exit::Schema,
        StoreErrorKind::Invalid => Exit::Usage,
        _ => Exit::Failed,
    }
}

/// The message is the error's own text; as the cause the error keeps its chain, whose first link
/// is left out because the message says it already.
fn with_source(exit: Exit, error: impl Error + Send + Sync + 'static) -> Failure {
    let message = error.to_string();
    Failure::caused(exit, message, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_stands_once_and_causes_follow_indented() {
        let cause = io::Error::other("connection refused\n (os error 111)");
        let error = StoreError::caused(
            StoreErrorKind::Unavailable,
            "cannot connect to postgres://h",
            cause,
        );
        let failure = Failure::from(error);
        let text = anstream::adapter::strip_str(&failure.human()).to_string();
        let mut lines = text.lines();
        assert!(lines.next().unwrap().starts_with("error: cannot connect to postgres://h ("));
        assert_eq!(lines.next(), Some("  caused by: connection refused; (os error 111)"));
        assert_eq!(lines.next(), None);
        assert_eq!(failure.json()["error"]["causes"][0], "connection refused; (os error 111)");
        assert_eq!(failure.exit(), Exit::Unreachable);
    }

    #[test]
    fn each_kind_of_store_error_has_its_exit_code() {
        for (kind, exit) in [
            (StoreErrorKind::Unavailable, Exit::Unreachable),
            (StoreErrorKind::Authentication, Exit::Unreachable),
            (StoreErrorKind::MissingSchema, Exit::Schema),
            (StoreErrorKind::OlderSchema, Exit::Schema),
            (StoreErrorKind::NewerSchema, Exit::Schema),
            (StoreErrorKind::Invalid, Exit::Usage),
            (StoreErrorKind::Rewound, Exit::Failed),
        ] {
            assert_eq!(Failure::from(StoreError::new(kind, "x")).exit(), exit, "{kind:?}");
        }
    }

    #[test]
    fn only_a_broken_pipe_is_quiet() {
        assert!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).is_broken_pipe());
        assert!(!Failure::from(io::Error::from(io::ErrorKind::WriteZero)).is_broken_pipe());
    }
}
