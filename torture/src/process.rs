//! A relay or a worker in a process of its own, which stops at fail points and dies on demand.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions},
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use posthaste_testkit::{
    Clock,
    failure::{During, Failure, Result},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{sleep, timeout},
};

/// A process that was killed is gone at once.
const END_LIMIT: Duration = Duration::from_secs(10);
/// How long a process that was disarmed may still say that it has stopped.
const LATE_LIMIT: Duration = Duration::from_millis(50);
/// How often it is looked whether one has stopped, and the pause between two looks: 5 s in all.
const FREEZE_LOOKS: u32 = 5_000;
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// How processes of one kind are started.
#[derive(Debug)]
pub(crate) struct Program<'a> {
    /// Built with fail points.
    pub(crate) binary: &'a Path,
    pub(crate) arguments: Vec<OsString>,
    /// What all of them log to.
    pub(crate) log: &'a Path,
    /// A defect that they have.
    pub(crate) defect: Option<&'a str>,
    /// Their wall clock.
    pub(crate) clock: &'a Clock,
}

/// A process that was started and not waited for; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

/// Where a process has stopped itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reached {
    /// The lane, as the point names it; empty where there is none.
    pub(crate) lane: String,
}

impl Process {
    /// Starts one that stops when it comes to `point` for the `nth` time, if one is given.
    pub(crate) async fn start(program: &Program<'_>, stop: Option<(&str, u32)>) -> Result<Self> {
        let log = OpenOptions::new().append(true).create(true).open(program.log);
        let log: File = log.during("open the log")?;
        let mut command = Command::new(program.binary);
        command.args(&program.arguments);
        // Variables of the caller would change what is tortured.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("POSTHASTE_") {
                command.env_remove(name);
            }
        }
        command.env_remove("TORTURE_DEFECT").env("TORTURE_FAILPOINTS", "1");
        command.envs(program.defect.map(|defect| ("TORTURE_DEFECT", defect)));
        command.envs(program.clock.environment());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().during("start a process")?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output)) = (input, output) else {
            return Err(Failure::new("a process has no pipes"));
        };
        let mut process = Self { child, input, output: BufReader::new(output).lines() };
        match stop {
            Some((point, nth)) => process.arm(point, nth).await,
            None => process.tell("disarm").await,
        }
        Ok(process)
    }

    /// Has it stop when it comes to `point` for the `nth` time from now on.
    pub(crate) async fn arm(&mut self, point: &str, nth: u32) {
        self.tell(&format!("arm {point} {nth}")).await;
    }

    /// Waits until it has stopped itself; `None` when it has ended, or did not within `limit`. It
    /// does not stop after that.
    pub(crate) async fn reached(&mut self, limit: Duration) -> Option<Reached> {
        let Ok(line) = timeout(limit, self.output.next_line()).await else {
            self.tell("disarm").await;
            // It may have come there in between.
            if timeout(LATE_LIMIT, self.output.next_line()).await.is_ok() {
                self.is_frozen().await;
                self.go().await;
            }
            return None;
        };
        let line = line.ok()??;
        let (_, lane) = line.split_once(' ')?;
        // It says so just before: to be continued before it has stopped would leave it stopped.
        self.is_frozen().await.then(|| Reached { lane: lane.to_owned() })
    }

    /// Waits until the kernel has stopped it; false when it does not.
    async fn is_frozen(&self) -> bool {
        let Some(id) = self.child.id() else { return false };
        for _ in 0..FREEZE_LOOKS {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            // The name stands in parentheses and may itself hold some.
            if stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')) {
                return true;
            }
            sleep(LOOK_INTERVAL).await;
        }
        false
    }

    /// Lets it go on from where it has stopped.
    pub(crate) async fn go(&mut self) {
        self.signal(Signal::CONT);
        self.tell("go").await;
    }

    /// Has what stands still panic there; the process goes on.
    pub(crate) async fn panic(&mut self) {
        self.signal(Signal::CONT);
        self.tell("panic").await;
    }

    /// Kills it, and waits until it is gone.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.end().await
    }

    /// The same; also of one that has ended.
    pub(crate) async fn end(&mut self) -> Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        self.child.start_kill().during("kill a process")?;
        self.ended(END_LIMIT)
            .await
            .map(drop)
            .ok_or_else(|| Failure::new("a killed process lives on"))
    }

    /// Asks it to drain, and waits for its end; `None` when it takes longer.
    pub(crate) async fn drain(mut self, limit: Duration) -> Option<ExitStatus> {
        self.signal(Signal::TERM);
        self.ended(limit).await
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it has ended by itself, within `limit`.
    pub(crate) async fn ended(&mut self, limit: Duration) -> Option<ExitStatus> {
        timeout(limit, self.child.wait()).await.ok()?.ok()
    }

    /// One that has ended hears nothing, which `reached` and `ended` tell.
    async fn tell(&mut self, line: &str) {
        let _ = self.input.write_all(format!("{line}\n").as_bytes()).await;
        let _ = self.input.flush().await;
    }

    /// Not sent to one that has been waited for: its id may be another's by now.
    fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(id) = id {
            let _ = kill_process(id, signal);
        }
    }
}
