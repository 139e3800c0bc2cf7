//! The load: wrk with a script of our own, in a process of its own.

use std::{fs, net::SocketAddr, path::Path};

use posthaste_testkit::failure::{During, Failure, Result};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::process::Command;
use uuid::Uuid;

/// Connections that each wait for an answer before they send again.
pub(super) const CONNECTIONS: u64 = 64;
/// Beyond what one run can send.
const NUMBERS: u64 = 1_000_000_000;

/// wrk and its script.
#[derive(Debug)]
pub(super) struct Wrk {
    address: SocketAddr,
    directory: TempDir,
    runs: u64,
}

/// What became of a run's requests.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Run {
    /// Those that were answered.
    pub(super) requests: u64,
    /// Those whose answer was no success.
    pub(super) refused: u64,
    pub(super) socket_errors: u64,
    seconds: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

impl Run {
    pub(super) const fn accepted(&self) -> u64 {
        self.requests - self.refused
    }

    pub(super) fn rate(&self) -> f64 {
        self.accepted() as f64 / self.seconds
    }
}

#[derive(Deserialize)]
struct Submitted {
    id: Uuid,
}

impl Wrk {
    pub(super) fn new(address: SocketAddr) -> Result<Self> {
        let directory = tempfile::tempdir().during("make a directory for wrk")?;
        let script = include_str!("post.lua");
        fs::write(directory.path().join("post.lua"), script).during("write wrk's script")?;
        Ok(Self { address, directory, runs: 0 })
    }

    /// Posts for so long.
    pub(super) async fn run(&mut self, seconds: u64) -> Result<Run> {
        self.post(seconds, None).await
    }

    /// The same, and the ids of the jobs that were accepted: to collect them takes time from wrk.
    pub(super) async fn run_collecting(&mut self, seconds: u64) -> Result<(Run, Vec<Uuid>)> {
        let file = self.directory.path().join("answers");
        let run = self.post(seconds, Some(&file)).await?;
        let answers = fs::read_to_string(&file).during("read the answers")?;
        let id = |line: &str| serde_json::from_str(line).map(|Submitted { id }| id);
        let ids = answers.lines().map(id).collect::<Result<Vec<_>, _>>();
        Ok((run, ids.during("read the answers")?))
    }

    async fn post(&mut self, seconds: u64, answers: Option<&Path>) -> Result<Run> {
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s"), "-s"]);
        wrk.arg(self.directory.path().join("post.lua")).arg(format!("http://{}", self.address));
        wrk.arg((self.runs * NUMBERS).to_string()).args(answers);
        self.runs += 1;
        let output = wrk.output().await.during("run wrk")?;
        let said = String::from_utf8_lossy(&output.stdout);
        let figures = said.lines().rev().find(|line| line.starts_with('{'));
        let figures = figures.filter(|_| output.status.success());
        let figures = figures.ok_or_else(|| Failure::new(format!("wrk failed: {said}")))?;
        serde_json::from_str(figures).during("read wrk's figures")
    }
}
