//! The contestant: `posthaste relay`, the release binary in a process of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use posthaste_core::SchemaName;
use posthaste_testkit::failure::{During, Failure, Result};
use tempfile::TempDir;
use tokio::time::sleep;
use toml::{Table, Value};

use crate::process;

/// How often a process is looked at: often enough for its end to be dated, rarely enough to cost
/// nothing.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// Looks between two readings of its memory. The peak only grows, so nothing is missed but the
/// last moments.
const LOOKS_PER_READING: u32 = 5;
/// A drain that is asked for ends within the relay's own limit of 10 s.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// A retention under which no slot is emptied while a benchmark may still read it.
pub(crate) const LONG: &str = "24h";
/// What a sink does by default.
pub(crate) const EXACTLY_ONCE: &str = "exactly-once";

/// What a relay is started with.
#[derive(Debug)]
pub(crate) struct Setup<'a> {
    /// The `posthaste` binary.
    pub(crate) program: &'a Path,
    pub(crate) database_url: &'a str,
    pub(crate) redis_url: &'a str,
    /// Names of the subscriptions.
    pub(crate) subscriptions: Vec<String>,
    /// Where all of them publish to.
    pub(crate) stream: &'a str,
    pub(crate) delivery: &'static str,
    /// What becomes of what a sink rejects.
    pub(crate) rejected: Rejected,
    /// `beginning` or `now`.
    pub(crate) from: &'a str,
    /// Whether it ends when all that is committed is published.
    pub(crate) once: bool,
    /// How long settled messages are kept.
    pub(crate) retention: &'static str,
}

/// What becomes of messages that a sink rejects.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rejected {
    /// Dead letters at the first rejection, up to `max` of them.
    DeadLetter { max: i64 },
    /// As by default: the key waits.
    ParkKey,
}

/// A relay that runs; dropping it kills it.
#[derive(Debug)]
pub(crate) struct Relay {
    child: Child,
    started: Instant,
    directory: TempDir,
    rss_peak_mib: f64,
    cpu_seconds_before: f64,
}

/// A relay that has ended well.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    /// From the start of the process to its exit.
    pub(crate) elapsed: Duration,
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_peak_mib: f64,
}

impl Relay {
    pub(crate) fn start(setup: &Setup<'_>) -> Result<Self> {
        let directory = tempfile::tempdir().during("make a directory for the relay")?;
        let file = directory.path().join("posthaste.toml");
        fs::write(&file, configuration(setup).to_string()).during("write the configuration")?;
        let log = fs::File::create(log_file(&directory)).during("make the relay's log")?;
        let mut command = Command::new(setup.program);
        command.arg("relay").arg("--config").arg(&file);
        if setup.once {
            command.args(["--once", "--timeout", "1h"]);
        }
        // Variables of the caller would change what is measured.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("POSTHASTE_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let cpu_seconds_before = process::cpu_seconds_of_ended_children();
        let started = Instant::now();
        let child = command.spawn().during("start the relay")?;
        Ok(Self { child, started, directory, rss_peak_mib: 0.0, cpu_seconds_before })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory it has held so far.
    pub(crate) fn rss_peak_mib(&mut self) -> f64 {
        let read = process::rss_peak_mib(self.pid()).unwrap_or(0.0);
        self.rss_peak_mib = self.rss_peak_mib.max(read);
        self.rss_peak_mib
    }

    /// Fails if it has ended.
    pub(crate) fn must_run(&mut self) -> Result<()> {
        match self.child.try_wait().during("look at the relay")? {
            None => Ok(()),
            Some(status) => Err(self.failed(&format!("ended too early ({status})"))),
        }
    }

    /// Waits until it ends by itself, which must be a success.
    pub(crate) async fn end(mut self, limit: Duration) -> Result<Ended> {
        let deadline = Instant::now() + limit;
        for look in 0_u32.. {
            if let Some(status) = self.child.try_wait().during("look at the relay")? {
                let elapsed = self.started.elapsed();
                if !status.success() {
                    return Err(self.failed(&format!("failed ({status})")));
                }
                let ended = process::cpu_seconds_of_ended_children();
                let cpu_seconds = ended - self.cpu_seconds_before;
                return Ok(Ended { elapsed, cpu_seconds, rss_peak_mib: self.rss_peak_mib });
            }
            if Instant::now() > deadline {
                return Err(self.failed(&format!("did not end within {limit:?}")));
            }
            if look.is_multiple_of(LOOKS_PER_READING) {
                self.rss_peak_mib();
            }
            sleep(LOOK_INTERVAL).await;
        }
        Err(Failure::new("the relay was looked at too often"))
    }

    /// Asks it to drain, and waits for its end.
    pub(crate) async fn stop(self) -> Result<Ended> {
        let pid = self.pid().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        if !asked.during("run `kill`")?.success() {
            return Err(self.failed("could not be asked to drain"));
        }
        self.end(STOP_LIMIT).await
    }

    fn failed(&self, what: &str) -> Failure {
        let log = fs::read_to_string(log_file(&self.directory)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(10)..].join("\n");
        Failure::new(format!("the relay {what}; it said:\n{tail}"))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Both fail only for a process that has ended and was waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_file(directory: &TempDir) -> PathBuf {
    directory.path().join("log")
}

/// Everything else is the relay's default.
fn configuration(setup: &Setup<'_>) -> Table {
    let text = |value: &str| Value::String(value.to_owned());
    let table = |entries: &[(&str, Value)]| {
        let own = |(name, value): &(&str, Value)| ((*name).to_owned(), value.clone());
        Value::Table(entries.iter().map(own).collect())
    };
    let sink = table(&[
        ("kind", text("redis-stream")),
        ("url", text(setup.redis_url)),
        ("stream", text(setup.stream)),
        ("delivery", text(setup.delivery)),
    ]);
    let failure = match setup.rejected {
        Rejected::DeadLetter { max } => table(&[
            ("policy", text("dead-letter")),
            ("attempts", Value::Integer(1)),
            ("dead_letters_max", Value::Integer(max)),
        ]),
        Rejected::ParkKey => table(&[("policy", text("park-key"))]),
    };
    let subscription = table(&[("from", text(setup.from)), ("sink", sink), ("failure", failure)]);
    let all = setup.subscriptions.iter().map(|name| (name.clone(), subscription.clone()));
    let database = table(&[
        ("url", text(setup.database_url)),
        ("schema", text(SchemaName::default().as_str())),
        ("retention", text(setup.retention)),
    ]);
    Table::from_iter([
        ("database".to_owned(), database),
        ("subscriptions".to_owned(), Value::Table(all.collect())),
        ("log".to_owned(), table(&[("level", text("warn"))])),
    ])
}
