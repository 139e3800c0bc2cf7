//! The benchmarks: what Posthaste costs, each figure beside the leanest thing that does the same.
//!
//! One file per benchmark. All run against private servers on the loopback interface, which end
//! with this process; `cargo xtask bench` builds everything for release and starts it.

mod browse;
mod contracts;
mod delivery;
mod drain;
mod duel;
mod enqueue;
mod held;
mod idle;
mod jobs;
mod latency;
mod machine;
mod machines;
mod memory;
mod messages;
mod open_loop;
mod parked;
mod process;
mod rejects;
mod relay;
mod report;
mod resp;
mod serve;
mod servers;
mod stream;
mod streams;
mod submissions;
mod writers;

use std::{fmt, path::PathBuf, process::ExitCode};

use clap::Parser;
use posthaste_testkit::failure::{During, Result};
use serde_json::{Map, Value};

use crate::{
    machine::Machine,
    report::Report,
    servers::{Persistence, Servers, StoreKind},
};

/// What to measure, and how long.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", max_term_width = 100)]
pub(crate) struct Options {
    /// What to measure
    #[arg(value_enum)]
    bench: Benchmark,
    /// The `posthaste` binary, built for release
    #[arg(long, value_name = "FILE")]
    posthaste: PathBuf,
    /// End with one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Rounds that count; figures are medians over them
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    runs: u32,
    /// Messages of one drain [default: 1000000; of jobs 60000; of browse 10000000, on SQLite 1000000]; of memory, in proportion to its own counts
    #[arg(long, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    messages: Option<u64>,
    /// Seconds of one run of latency (default: 20), idle (30), enqueue (2), writers (22), machines
    /// (20), jobs (10), streams (30), submissions (15) and of the writers of browse (6); of the load of held (600) and parked (3600)
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=7_200))]
    seconds: Option<u64>,
    /// Messages per second of latency, held, parked, jobs and streams
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    rate: u32,
    /// What Redis keeps on disk, the same for all contestants
    #[arg(long, value_enum, default_value_t = Persistence::None)]
    redis: Persistence,
    /// Where the log of browse is
    #[arg(long, value_enum, default_value_t = StoreKind::Postgres)]
    store: StoreKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Benchmark {
    /// A large backlog to a Redis stream, beside the leanest loop
    Drain,
    /// From commit to subscriber at a steady rate
    Latency,
    /// Writing messages, beside a plain insert
    Enqueue,
    /// What a relay costs while nothing happens
    Idle,
    /// The most memory a relay ever holds
    Memory,
    /// A drain of which the sink rejects one message in a hundred
    Rejects,
    /// A drain that publishes exactly once, beside at least once
    Delivery,
    /// A drain beside a transaction that stays open
    Held,
    /// Writing messages with a settled history, a relay and its retention, and without
    Writers,
    /// Starting an entity of a state machine with two jobs
    Machines,
    /// Checking messages against a contract, and a drain with one beside a drain without
    Contracts,
    /// A key that stays parked for an hour, its followers and its neighbours
    Parked,
    /// Workers on a Redis stream, beside peers
    Jobs,
    /// Live streams of a server that is restarted, and what idle clients cost
    Streams,
    /// Jobs over HTTP, as fast as a server takes them
    Submissions,
    /// Lists of messages of a large log, by every filter, and what their indexes cost a writer
    Browse,
    /// All of them but `parked` and `browse`
    All,
}

impl Benchmark {
    fn each(self) -> Vec<Self> {
        match self {
            Self::All => {
                vec![
                    Self::Drain,
                    Self::Latency,
                    Self::Enqueue,
                    Self::Idle,
                    Self::Memory,
                    Self::Rejects,
                    Self::Delivery,
                    Self::Held,
                    Self::Writers,
                    Self::Machines,
                    Self::Contracts,
                    Self::Jobs,
                    Self::Streams,
                    Self::Submissions,
                ]
            }
            one => vec![one],
        }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    match measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("bench: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new().during("start threads")?;
    let mut objects = Map::new();
    for bench in options.bench.each() {
        let report = runtime.block_on(measure_one(options, bench))?;
        println!("{}", report.text());
        objects.insert(format!("{bench:?}").to_lowercase(), report.json());
    }
    if options.json {
        println!("{}", last_line(options.bench, objects));
    }
    Ok(())
}

/// Every benchmark has servers of its own, so that none inherits what another left in a cache.
async fn measure_one(options: &Options, bench: Benchmark) -> Result<Report> {
    let servers = Servers::start(options.redis)?;
    let machine = Machine::of(&servers).await?;
    eprintln!("{}", machine.text());
    let mut report = match bench {
        Benchmark::Drain => drain::run(options, &servers).await,
        Benchmark::Latency => latency::run(options, &servers).await,
        Benchmark::Enqueue => enqueue::run(options, &servers).await,
        Benchmark::Idle => idle::run(options, &servers).await,
        Benchmark::Rejects => rejects::run(options, &servers).await,
        Benchmark::Delivery => delivery::run(options, &servers).await,
        Benchmark::Held => held::run(options, &servers).await,
        Benchmark::Writers => writers::run(options, &servers).await,
        Benchmark::Machines => machines::run(options, &servers).await,
        Benchmark::Contracts => contracts::run(options, &servers).await,
        Benchmark::Parked => parked::run(options, &servers).await,
        Benchmark::Jobs => jobs::run(options, &servers).await,
        Benchmark::Browse => browse::run(options, &servers).await,
        Benchmark::Streams => streams::run(options, &servers).await,
        Benchmark::Submissions => submissions::run(options, &servers).await,
        Benchmark::Memory | Benchmark::All => memory::run(options, &servers).await,
    }?;
    if machine.is_noisy() {
        report.note("something else was running before: these figures are noisy");
    }
    report.on(&machine)?;
    Ok(report)
}

fn last_line(bench: Benchmark, mut objects: Map<String, Value>) -> Value {
    if bench != Benchmark::All {
        return objects.into_iter().next().map_or(Value::Null, |(_, object)| object);
    }
    objects.insert("bench".to_owned(), "all".into());
    Value::Object(objects)
}

/// Says how far a benchmark has come; results go to the standard output alone.
fn progress(text: fmt::Arguments<'_>) {
    eprintln!("  {text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::Options;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }
}
