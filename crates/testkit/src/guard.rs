//! The guard: a small shell process that holds a server and outlives the test process by a moment.
//!
//! A test process can end without running any destructor: Ctrl-C, `kill -9`, an abort; and a server
//! in a `static` is never dropped at all. What always happens is that the kernel closes the
//! process's end of a pipe. The guard reads that pipe, and at its end kills the server with all its
//! descendants and removes its directory. It also starts the server itself, so there is no moment
//! at which a server runs unguarded.
//!
//! The script is `guard.sh`; [`Guard`] is its caller.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::account::Account;
use crate::error::TestkitError;

const SCRIPT: &str = include_str!("guard.sh");

/// A running guard. Dropping it removes the server and its directory before it returns.
#[derive(Debug)]
pub(crate) struct Guard {
    process: Child,
    /// Closed by `drop`, or by the kernel when this process ends. Rust opens it close-on-exec, so
    /// no other child of this process keeps it open.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    directory: PathBuf,
}

impl Guard {
    /// Makes `directory` as `account`; `server` is what [`Guard::start`] will run.
    pub(crate) fn new(
        account: Account,
        directory: &Path,
        server: &[&OsStr],
    ) -> Result<Self, TestkitError> {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "testkit-guard"]).arg(directory).args(server);
        // Variables such as PGDATA and PGPORT would reach the server.
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        command.current_dir("/").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = account
            .apply(&mut command)
            .spawn()
            .map_err(TestkitError::io("start `sh` as the guard of a server"))?;
        let (commands, answers) = (process.stdin.take(), process.stdout.take());
        let answers = BufReader::new(answers.expect("the guard's output was asked for above"));
        let directory = directory.to_path_buf();
        let mut guard = Self { process, commands, answers, directory };
        guard.answer("mkdir")?;
        Ok(guard)
    }

    /// Starts the server and returns its process id; one that still runs is killed first.
    pub(crate) fn start(&mut self) -> Result<u32, TestkitError> {
        let answer = self.ask("start")?;
        answer.parse().map_err(|_| self.refused("start", &answer))
    }

    /// Gives the guard a command and returns what it adds to its `ok`.
    pub(crate) fn ask(&mut self, command: &str) -> Result<String, TestkitError> {
        if let Some(commands) = &mut self.commands {
            writeln!(commands, "{command}").map_err(TestkitError::io(format!(
                "tell the guard of {} to {command}",
                self.directory.display()
            )))?;
        }
        self.answer(command)
    }

    fn answer(&mut self, command: &str) -> Result<String, TestkitError> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(TestkitError::io(format!(
            "read the answer of the guard of {}",
            self.directory.display()
        )))?;
        match line.strip_prefix("ok") {
            Some(rest) => Ok(rest.trim().to_owned()),
            None => Err(self.refused(command, line.trim())),
        }
    }

    fn refused(&self, command: &str, answer: &str) -> TestkitError {
        TestkitError::Guard {
            directory: self.directory.display().to_string(),
            command: command.to_owned(),
            answer: answer.to_owned(),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.commands.take());
        // The guard's own limits bound this wait; a failure leaves nothing else to try.
        let _ = self.process.wait();
    }
}
