//! `enqueue`: what writing messages costs an application, beside a plain insert into a bare table.
//!
//! One message per transaction is one autocommitted statement for every contestant, so that they
//! differ in the statement alone; the transaction is synced to disk. Contestants take turns of a
//! few seconds.

pub(crate) mod contestants;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use posthaste_testkit::failure::{During, Result};
use serde_json::json;
use tokio::task::JoinSet;

use self::contestants::{BULK_MESSAGES, CONTESTANTS, Contestant, Writer};
use crate::{
    Options,
    messages::{Messages, PAYLOAD_BYTES},
    progress,
    report::{Report, Spread, percentile, rounded},
    servers::{Log, Servers, connect},
};

/// Seconds of one turn.
const SECONDS: u64 = 2;
/// What `enqueue_many` must reach over one connection, in messages per second.
const BULK_RATE_FLOOR: f64 = 100_000.0;
/// Messages that are written again and again; making them is not what is measured.
pub(crate) const DIFFERENT_MESSAGES: usize = 10 * BULK_MESSAGES;

/// One turn: messages per second, and sorted milliseconds of the calls.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) rate: f64,
    calls_ms: Vec<f64>,
}

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    let log = servers.log().await?;
    contestants::create_bare_table(&log.url).await?;
    let messages = Arc::new(Messages::new(PAYLOAD_BYTES).take(DIFFERENT_MESSAGES));
    let mut turns: Vec<Vec<Turn>> = CONTESTANTS.iter().map(|_| Vec::new()).collect();
    let time = Duration::from_secs(options.seconds.unwrap_or(SECONDS));
    let runs = options.runs;
    for number in 0..=runs {
        for (contestant, turns) in CONTESTANTS.iter().zip(&mut turns) {
            let turn = turn(&log, *contestant, Arc::clone(&messages), time).await?;
            // The first round warms caches and files.
            if number > 0 {
                let (name, rate) = (contestant.name(), turn.rate);
                progress(format_args!("round {number} of {runs}: {name}: {rate:.0}/s"));
                turns.push(turn);
            }
        }
        contestants::empty_tables(&log.url).await?;
    }
    Ok(report(&turns))
}

pub(crate) async fn turn(
    log: &Log,
    contestant: Contestant,
    messages: Arc<Vec<posthaste::Message>>,
    time: Duration,
) -> Result<Turn> {
    let mut writers = Vec::new();
    for _ in 0..contestant.connections {
        writers.push(Writer::new(connect(&log.url).await?, contestant.way).await?);
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for (nth, writer) in writers.into_iter().enumerate() {
        let first = nth * DIFFERENT_MESSAGES / contestant.connections;
        tasks.spawn(write(writer, Arc::clone(&messages), first, started + time));
    }
    let mut calls_ms = Vec::new();
    while let Some(part) = tasks.join_next().await {
        calls_ms.extend(part.during("write messages")??);
    }
    let written = calls_ms.len() * contestant.way.messages();
    let rate = written as f64 / started.elapsed().as_secs_f64();
    calls_ms.sort_by(f64::total_cmp);
    Ok(Turn { rate, calls_ms })
}

async fn write(
    mut writer: Writer,
    messages: Arc<Vec<posthaste::Message>>,
    first: usize,
    end: Instant,
) -> Result<Vec<f64>> {
    let step = writer.way().messages();
    let mut calls_ms = Vec::new();
    let mut at = first - first % step;
    while Instant::now() < end {
        let called = Instant::now();
        writer.write(&messages[at..at + step]).await?;
        calls_ms.push(called.elapsed().as_secs_f64() * 1_000.0);
        at = (at + step) % messages.len();
    }
    Ok(calls_ms)
}

fn report(turns: &[Vec<Turn>]) -> Report {
    let mut report = Report::new("enqueue");
    let mut contestants = serde_json::Map::new();
    for (contestant, turns) in CONTESTANTS.iter().zip(turns) {
        let over = |figure: &dyn Fn(&Turn) -> f64| Spread::of(turns.iter().map(figure));
        let rate = over(&|turn| turn.rate);
        let [p50, p99] = [0.5, 0.99].map(|part| over(&|turn| percentile(&turn.calls_ms, part)));
        report.row(&contestant.name(), "msg/s", rate);
        report.row("    call, p50", "ms", p50);
        report.row("    call, p99", "ms", p99);
        let runs: Vec<f64> = turns.iter().map(|turn| rounded(turn.rate, 0)).collect();
        let object = json!({
            "rate": rounded(rate.median, 0),
            "p50_ms": rounded(p50.median, 3),
            "p99_ms": rounded(p99.median, 3),
            "runs": runs,
        });
        contestants.insert(contestant.key(), object);
        if contestant.is_headline() {
            report.set("rate", rounded(rate.median, 0));
            report.set("p99_ms", rounded(p99.median, 3));
        }
        if contestant.is_bulk_headline() {
            report.set("bulk_rate", rounded(rate.median, 0));
            report.set("bulk_rate_floor", BULK_RATE_FLOOR);
            report.set("bulk_above_floor", rate.median >= BULK_RATE_FLOOR);
        }
    }
    report.set("contestants", contestants);
    report.note(format!(
        "one autocommitted statement per call, synced; bulk calls write {BULK_MESSAGES} messages \
         in one transaction and have a floor of {BULK_RATE_FLOOR:.0}/s"
    ));
    report
}
