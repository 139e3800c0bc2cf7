//! Handlers that are programs of any language: the task on their standard input, the receipt on their
//! standard output.
//!
//! It finds the trace of its attempt in `TRACEPARENT` and `TRACESTATE`.
//!
//! A program is started for every attempt, in a process group of its own, and killed with all its children when its
//! attempt ends for any other reason than that it has ended. One recorded result per job is promised; what the
//! program does elsewhere happens at least once, so make twice as good as once there.

use std::{
    io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use async_trait::async_trait;
use posthaste::Receipt;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::value::RawValue;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    time::timeout,
};

use crate::{Answer, Done, Failed, Handler, Task, handler::COMPLAINT_BYTES};

/// Exit code of a program for whose input there will never be a result (`EX_DATAERR` of `sysexits.h`).
pub const REJECTED: i32 = 65;
/// Exit code of a program that wants to be run again later (`EX_TEMPFAIL`).
pub const TEMPORARY: i32 = 75;

/// For the rest of its output after a program has ended; children of its may hold the pipe.
const REST: Duration = Duration::from_millis(500);

/// Runs a program for each task.
#[derive(Clone, Debug)]
pub struct CommandHandler {
    program: PathBuf,
    arguments: Vec<String>,
    output_bytes_max: usize,
}

impl CommandHandler {
    /// A handler that runs `program`, found as the shell finds it, without a shell.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), arguments: Vec::new(), output_bytes_max: 1 << 20 }
    }

    /// Arguments of every run.
    #[must_use]
    pub fn arguments(mut self, arguments: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.arguments = arguments.into_iter().map(Into::into).collect();
        self
    }

    /// Most bytes of its standard output, 1 MiB if not given: more are a rejection.
    #[must_use]
    pub fn output_bytes_max(mut self, bytes: usize) -> Self {
        self.output_bytes_max = bytes;
        self
    }

    fn start(&self, task: &Task) -> Result<Running, Failed> {
        let mut command = Command::new(&self.program);
        // The worker's own are about something else.
        command.env_remove("TRACEPARENT").env_remove("TRACESTATE");
        if let Some((parent, state)) = task.trace_context() {
            command.env("TRACEPARENT", &*parent);
            if !state.is_empty() {
                command.env("TRACESTATE", state);
            }
        }
        let child = command
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        match child {
            Ok(child) => Ok(Running(child)),
            // Nothing that another attempt would mend by itself, but somebody may.
            Err(error) => {
                let what = format!("{} cannot be started: {error}", self.program.display());
                Err(Failed::retry(what).class("command"))
            }
        }
    }
}

/// A program that runs, with its children: dropped, they are killed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let group = self.0.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(group) = group {
            // Fails when it has ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[async_trait]
impl Handler for CommandHandler {
    async fn run(&self, task: Task) -> Answer {
        let mut input = task.to_json().to_string().into_bytes();
        input.push(b'\n');
        let mut running = self.start(&task)?;
        let child = &mut running.0;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A program need not read all of it.
                let _ = stdin.write_all(&input).await;
            }
        };
        let limit = self.output_bytes_max;
        let read = async {
            let output = head(stdout, limit + 1).await?;
            // A program that says too much is not heard out.
            Ok::<_, io::Error>(if output.len() > limit { None } else { Some(output) })
        };
        let complain = tail(stderr, COMPLAINT_BYTES);
        let talk = async {
            // A program that ends with its pipes held open by a child is not waited for.
            let pipes = async { tokio::join!(feed, read, complain) };
            tokio::pin!(pipes);
            tokio::select! {
                ((), output, complaint) = &mut pipes => {
                    if matches!(output, Ok(None)) {
                        return Ok((None, output, complaint));
                    }
                    Ok::<_, io::Error>((Some(child.wait().await?), output, complaint))
                }
                status = child.wait() => {
                    let status = status?;
                    let ((), output, complaint) = timeout(REST, pipes).await.unwrap_or_else(|_| {
                        let held = "a child of it still holds its output open";
                        ((), Err(io::Error::other(held)), String::new())
                    });
                    Ok((Some(status), output, complaint))
                }
            }
        };
        let (status, output, complaint) = talk.await?;
        self.answer(status, output?, &complaint)
    }
}

impl CommandHandler {
    fn answer(
        &self,
        status: Option<ExitStatus>,
        output: Option<Vec<u8>>,
        complaint: &str,
    ) -> Answer {
        let (Some(status), Some(output)) = (status, output) else {
            let limit = self.output_bytes_max;
            let what = format!("its output is longer than {limit} bytes");
            return Err(Failed::reject(what).class("command"));
        };
        let said = if complaint.is_empty() { String::new() } else { format!(": {complaint}") };
        let program = self.program.display();
        match status.code() {
            Some(0) => Ok(Done { receipt: receipt(output) }),
            Some(REJECTED) => {
                Err(Failed::reject(format!("{program} rejects it{said}")).class("command"))
            }
            Some(TEMPORARY) => Err(Failed::retry(format!("{program} is busy{said}")).class("busy")),
            _ => {
                Err(Failed::retry(format!("{program} ended with {status}{said}")).class("command"))
            }
        }
    }
}

/// What a program brought back: JSON if it is, else text or bytes.
fn receipt(body: Vec<u8>) -> Option<Receipt> {
    if body.is_empty() {
        return None;
    }
    let content_type = if serde_json::from_slice::<&RawValue>(&body).is_ok() {
        "application/json"
    } else if std::str::from_utf8(&body).is_ok() {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    };
    Some(Receipt { content_type: content_type.to_owned(), body })
}

/// The first bytes of a stream.
async fn head(from: Option<impl AsyncRead + Unpin>, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(limit as u64).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// The last bytes of a stream, as text.
async fn tail(from: Option<impl AsyncRead + Unpin>, limit: usize) -> String {
    let Some(mut from) = from else { return String::new() };
    let (mut kept, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        kept.extend_from_slice(&piece[..read]);
        let excess = kept.len().saturating_sub(limit);
        kept.drain(..excess);
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}
