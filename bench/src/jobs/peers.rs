//! Peers on the same server: Graphile Worker and River, each a small program of `bench/peers` as its users
//! would write it. What is not installed here is passed over, with the reason.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use posthaste_testkit::failure::{During, Failure, Result};
use serde_json::Value;
use tokio::task::spawn_blocking;

use super::queue::IN_HAND;
use crate::{
    Options, progress,
    servers::{Servers, settle_tables},
};

/// A peer whose program is ready.
#[derive(Debug)]
pub(super) struct Peer {
    /// Of its figure: `river_rate`.
    pub(super) key: &'static str,
    pub(super) name: &'static str,
    program: Vec<String>,
    /// Counts what is completed, or (Graphile Worker forgets what is done) what is left.
    check: &'static str,
    is_all_left: bool,
}

/// Those that are here, and why others are not.
pub(super) fn ready(options: &Options) -> (Vec<Peer>, Vec<String>) {
    let place = options.posthaste.with_file_name("bench-peers");
    let graphile = graphile(&place).map(|program| Peer {
        key: "graphile_worker",
        name: "Graphile Worker 0.17.3",
        program,
        check: "select count(*) from graphile_worker._private_jobs",
        is_all_left: false,
    });
    let river = river(&place).map(|program| Peer {
        key: "river",
        name: "River 0.51.1",
        program,
        check: "select count(*) from river_job where state = 'completed'",
        is_all_left: true,
    });
    let (mut peers, mut missing) = (Vec::new(), Vec::new());
    for (name, peer) in [("Graphile Worker", graphile), ("River", river)] {
        match peer {
            Ok(peer) => peers.push(peer),
            Err(why) => missing.push(format!("without {name}: {why}")),
        }
    }
    (peers, missing)
}

fn graphile(place: &Path) -> Result<Vec<String>> {
    let (source, place) = (source("graphile-worker"), place.join("graphile-worker"));
    fs::create_dir_all(&place).during("make a directory")?;
    for file in ["package.json", "package-lock.json", ".npmrc", "drain.js"] {
        fs::copy(source.join(file), place.join(file)).during("copy a program")?;
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]);
    said(npm.current_dir(&place), "install it with npm")?;
    Ok(vec!["node".to_owned(), place.join("drain.js").display().to_string()])
}

fn river(place: &Path) -> Result<Vec<String>> {
    fs::create_dir_all(place).during("make a directory")?;
    let program = place.join("river");
    let mut build = Command::new("go");
    build.args(["build", "-mod=readonly", "-o"]).arg(&program).arg(".");
    said(build.current_dir(source("river")), "build it with Go")?;
    Ok(vec![program.display().to_string()])
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

impl Peer {
    /// Jobs a second: `count` of them, inserted beforehand, from the start of its client until all are done.
    pub(super) async fn drain(&self, servers: &Servers, count: u64) -> Result<f64> {
        let database = servers.postgres.database().await;
        let url = database.url().to_owned();
        self.call("fill", &url, count).await?;
        settle_tables(&url).await?;
        let answer = self.call("drain", &url, count).await?;
        let answer: Value = serde_json::from_str(&answer).during("read a peer's answer")?;
        let seconds = answer["seconds"].as_f64().filter(|seconds| *seconds > 0.0);
        let seconds = seconds.ok_or_else(|| Failure::new("a peer said no time"))?;
        let client = crate::servers::connect(&url).await?;
        let row = client.query_one(self.check, &[]).await.during("count a peer's jobs")?;
        let expected = if self.is_all_left { count } else { 0 };
        if row.get::<_, i64>(0) as u64 != expected {
            return Err(Failure::new(format!("{} did not do all", self.name)));
        }
        Ok(count as f64 / seconds)
    }

    async fn call(&self, verb: &str, url: &str, count: u64) -> Result<String> {
        let (count, workers) = (count.to_string(), IN_HAND.to_string());
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).args([verb, url, &count, &workers]);
        // Else Graphile Worker writes a line for each job.
        command.env("NO_LOG_SUCCESS", "1");
        let name = self.name;
        spawn_blocking(move || said(&mut command, &format!("run {name}"))).await.during("run it")?
    }
}

fn said(command: &mut Command, doing: &str) -> Result<String> {
    let output = command.output().during(doing)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    progress(format_args!("{}", complaint.trim()));
    Err(Failure::new(format!("cannot {doing} ({})", output.status)))
}
