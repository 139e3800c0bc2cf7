//! What can go wrong while a private server is prepared, started or driven.

use std::io;
use std::process::{Command, Output};

/// Why a private server could not be prepared, started or driven.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestkitError {
    /// A program is missing and cannot be installed from here.
    #[error("{0}")]
    Missing(String),
    /// A file, a directory or a process could not be reached.
    #[error("cannot {action}")]
    Io {
        /// What was tried, with its path or program.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("`{command}` failed with {status}:\n{output}")]
    Command {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: String,
        /// What it printed on both streams.
        output: String,
    },
    /// A server did not come up.
    #[error("{server} on port {port} {reason}; the end of its log:\n{log}")]
    Start {
        /// `PostgreSQL` or `Redis`.
        server: &'static str,
        /// The port it was told to listen on.
        port: u16,
        /// `exited` or `was not ready within …`.
        reason: String,
        /// The last lines the server wrote.
        log: String,
    },
    /// The guard process refused a command or has gone.
    #[error("the guard of {directory} answered {answer:?} to `{command}`")]
    Guard {
        /// The directory that the guard holds.
        directory: String,
        /// What it was asked to do.
        command: String,
        /// Its answer; empty when it has gone.
        answer: String,
    },
}

impl TestkitError {
    /// Whether another process took the port between the choice and the start.
    pub(crate) fn is_port_taken(&self) -> bool {
        matches!(self, Self::Start { log, .. } if log.contains("Address already in use"))
    }

    /// Keeps `source` and says what was tried.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action: action.into(), source }
    }
}

/// Runs `command` to its end and keeps its output for the error.
pub(crate) fn run(command: &mut Command) -> Result<Output, TestkitError> {
    let shown = show(command);
    let output = command.output().map_err(TestkitError::io(format!("run `{shown}`")))?;
    if output.status.success() {
        return Ok(output);
    }
    let streams = [output.stdout, output.stderr].concat();
    Err(TestkitError::Command {
        command: shown,
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&streams).into_owned(),
    })
}

fn show(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy()));
    words.join(" ")
}
