//! The torture: `posthaste relay` is killed, paused, cut off and taken over at every step of its
//! pipeline, while an application writes; then everything that was committed is counted against
//! everything that arrived.
//!
//! It runs against private servers on the loopback interface, which end with this process;
//! `cargo xtask torture` builds what it needs and starts it. The relay is told where to stop
//! through its fail points (`crates/relay/src/failpoint.rs`).

mod arrivals;
mod book;
mod consumer;
mod defects;
mod jobs;
mod message;
mod nemesis;
mod process;
mod report;
mod restore;
mod run;
mod schedule;
mod sqlite_writers;
mod stage;
mod truth;
mod writers;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use posthaste_testkit::failure::{During, Failure, Result};

use crate::{
    jobs::work::{WorkOptions, work},
    run::{Plan, Scene},
    schedule::Scope,
    stage::{SinkKind, StoreKind},
};

/// What to torture, and how long.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask torture", max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true)]
#[allow(clippy::struct_excessive_bools)] // Switches of a command line.
pub(crate) struct Options {
    #[command(subcommand)]
    part: Option<Part>,
    /// The `posthaste` binary, built with fail points
    #[arg(long, value_name = "FILE", default_value = "posthaste")]
    posthaste: PathBuf,
    /// What it publishes to
    #[arg(long, value_enum, default_value_t = SinkKind::Stream)]
    sink: SinkKind,
    /// What the log is in
    #[arg(long, value_enum, default_value_t = StoreKind::Postgres)]
    store: StoreKind,
    /// Goes on until that many faults have hit with messages in flight
    #[arg(long, default_value_t = 100)]
    kills: u64,
    /// Goes on until that many messages were written
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    messages: u64,
    /// Ends after that many minutes in any case
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Draws the schedule of faults; the same again for the same number [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Faults of this kind only, such as `kill Redis`; may stand several times
    #[arg(long, value_name = "KIND", conflicts_with_all = ["defect", "defects"])]
    only: Vec<String>,
    /// Faults at this step only, such as `settling`; may stand several times
    #[arg(long, value_name = "STEP", conflicts_with_all = ["defect", "defects"])]
    at: Vec<String>,
    /// Has the relay begin with a defect, which the run must find
    #[arg(long, value_name = "NAME")]
    defect: Option<String>,
    /// Runs once with every defect; fails unless each is found
    #[arg(long, conflicts_with = "defect")]
    defects: bool,
    /// Redis keeps nothing on disk: a kill empties it, which is lost and repaired as far as that goes
    #[arg(long, conflicts_with = "defects")]
    forgetful_redis: bool,
    /// Relays meet PostgreSQL through pgbouncer in transaction mode
    #[arg(long)]
    pgbouncer: bool,
    /// No writer waits for the disk (`synchronous_commit = off`), instead of one in four
    #[arg(long, conflicts_with = "defects")]
    asynchronous: bool,
    /// At the end, puts a backup of the database back that is older than what was published
    #[arg(long, conflicts_with_all = ["defect", "defects"])]
    restore: bool,
    /// Tortures so many workers of jobs and messages, instead of the relay alone, from 1 to 16
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    #[arg(conflicts_with_all = WITHOUT_WORKERS)]
    workers: Option<u8>,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
}

/// What has a meaning only where the relay alone is tortured.
const WITHOUT_WORKERS: [&str; 5] =
    ["messages", "forgetful_redis", "pgbouncer", "asynchronous", "restore"];

/// What this program is when it calls itself.
#[derive(Debug, clap::Subcommand)]
enum Part {
    /// One of the workers
    #[command(hide = true)]
    Work(WorkOptions),
}

fn main() -> ExitCode {
    let options = Options::parse();
    let ran = tokio::runtime::Runtime::new().during("start threads").and_then(|runtime| {
        match &options.part {
            Some(Part::Work(options)) => runtime.block_on(work(options)).map(|()| true),
            None => runtime.block_on(torture(&options)),
        }
    });
    match ran {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("torture: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing was found that should not be.
async fn torture(options: &Options) -> Result<bool> {
    if options.store == StoreKind::Sqlite
        && (options.pgbouncer || options.restore || options.asynchronous)
    {
        let refused =
            "--store sqlite has no server: leave out --pgbouncer, --restore and --asynchronous";
        return Err(Failure::new(refused));
    }
    let seed = options.seed.unwrap_or_else(|| rand::random::<u32>().into());
    if let Some(workers) = options.workers {
        return torture_workers(options, seed, workers.into()).await;
    }
    if options.defects {
        return defects::find_all(options, seed).await;
    }
    let defect = options.defect.as_deref();
    let scope = Scope {
        of_channels: options.sink == SinkKind::Pubsub,
        in_file: options.store == StoreKind::Sqlite,
        ..match defect {
            Some(name) => defects::scope_of(name)?,
            None => Scope {
                kinds: options.only.clone(),
                points: options.at.clone(),
                ..Scope::default()
            },
        }
    };
    let plan = Plan {
        posthaste: &options.posthaste,
        store: options.store,
        sink: options.sink,
        seed,
        scene: Scene {
            is_forgetful: options.forgetful_redis,
            is_pooled: options.pgbouncer,
            is_asynchronous: options.asynchronous
                || defect.is_some_and(defects::is_of_asynchronous),
        },
        scope,
        kills: options.kills,
        messages: options.messages,
        limit: Duration::from_mins(options.minutes),
        restores: options.restore || defect.is_some_and(defects::is_of_restored),
        defect,
    };
    eprintln!("torture: {} to {}, seed {seed}", options.store.name(), options.sink.name());
    let report = run::run(&plan).await?;
    println!("{}", report.text());
    if !report.is_clean() {
        println!("{}", repeat(options, seed));
    }
    if options.json {
        println!("{}", report.json());
    }
    Ok(report.is_clean())
}

/// The same, of workers.
async fn torture_workers(options: &Options, seed: u64, workers: usize) -> Result<bool> {
    if options.store == StoreKind::Sqlite {
        return Err(Failure::new("--workers needs a server: leave out --store sqlite"));
    }
    if options.defects {
        return defects::find_all_of_workers(options, seed, workers).await;
    }
    let scope = match options.defect.as_deref() {
        Some(name) => defects::scope_of_worker(name)?,
        None => {
            Scope { kinds: options.only.clone(), points: options.at.clone(), ..Scope::default() }
        }
    };
    let plan = jobs::Plan {
        posthaste: &options.posthaste,
        sink: options.sink,
        workers,
        seed,
        scope,
        kills: options.kills,
        limit: Duration::from_mins(options.minutes),
        defect: options.defect.as_deref(),
    };
    eprintln!("torture: {workers} workers on {}, seed {seed}", options.sink.name());
    let report = jobs::run(&plan).await?;
    println!("{}", report.text());
    if !report.is_clean() {
        println!("{}", repeat(options, seed));
    }
    if options.json {
        println!("{}", report.json());
    }
    Ok(report.is_clean())
}

/// The command that runs the same schedule again.
fn repeat(options: &Options, seed: u64) -> String {
    let Options {
        store,
        sink,
        kills,
        messages,
        defect,
        forgetful_redis,
        restore,
        pgbouncer,
        asynchronous,
        workers,
        ..
    } = options;
    let pgbouncer = if *pgbouncer { " --pgbouncer" } else { "" };
    let asynchronous = if *asynchronous { " --asynchronous" } else { "" };
    let restore = if *restore { " --restore" } else { "" };
    let messages = if *messages > 0 { format!(" --messages {messages}") } else { String::new() };
    let forgetful = if *forgetful_redis { " --forgetful-redis" } else { "" };
    let defect = defect.as_ref().map(|name| format!(" --defect {name}")).unwrap_or_default();
    let workers = workers.map(|count| format!(" --workers {count}")).unwrap_or_default();
    format!(
        "repeat with: cargo xtask torture --store {} --sink {} --kills {kills}{messages} --seed {seed}{pgbouncer}{asynchronous}{restore}{forgetful}{workers}{defect}",
        store.name(),
        sink.name()
    )
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::Options;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn what_means_nothing_to_workers_is_refused() {
        let parse = |arguments: &str| {
            Options::try_parse_from(format!("torture {arguments}").split_whitespace())
        };
        assert!(parse("--workers 3 --sink redis-list --only takeover").is_ok());
        for refused in
            ["--workers 0", "--workers 17", "--workers 3 --restore", "--workers 3 --pgbouncer"]
        {
            assert!(parse(refused).is_err(), "{refused}");
        }
    }
}
