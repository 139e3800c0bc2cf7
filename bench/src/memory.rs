//! `memory`: the most memory a relay ever holds (`VmHWM`), whatever it carries: small, middling
//! and the largest payloads, and a backlog in front of a Redis that stands still.

use std::time::{Duration, Instant};

use posthaste_testkit::failure::{Failure, Result};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    Options,
    messages::STREAM,
    progress,
    relay::{EXACTLY_ONCE, LONG, Rejected, Relay, Setup},
    report::{Report, Spread, rounded},
    servers::{Log, Servers},
};

/// What no case may exceed.
const BAR_MIB: f64 = 64.0;
const DRAIN_LIMIT: Duration = Duration::from_mins(3);
/// How long Redis stands still: longer than the relay's read-ahead takes to fill, shorter than its
/// time-out.
const PAUSE: Duration = Duration::from_secs(4);
/// Messages that `--messages` stands for where the count of a case is given below.
const FULL: u64 = 1_000_000;

/// One backlog.
#[derive(Clone, Copy, Debug)]
struct Case {
    key: &'static str,
    name: &'static str,
    payload_bytes: usize,
    messages: u64,
    /// Whether Redis stands still for a while in the middle.
    pauses: bool,
}

const CASES: [Case; 5] = [
    Case { key: "b200", name: "200 B", payload_bytes: 200, messages: 200_000, pauses: false },
    Case { key: "k4", name: "4 KiB", payload_bytes: 4 << 10, messages: 40_000, pauses: false },
    Case { key: "k256", name: "256 KiB", payload_bytes: 256 << 10, messages: 1_000, pauses: false },
    Case {
        key: "b200_paused",
        name: "200 B, Redis paused",
        payload_bytes: 200,
        messages: 200_000,
        pauses: true,
    },
    Case {
        key: "k256_paused",
        name: "256 KiB, Redis paused",
        payload_bytes: 256 << 10,
        messages: 1_000,
        pauses: true,
    },
];

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    let mut logs = Vec::new();
    for case in &CASES {
        let count = count(options, case);
        let log = servers.log().await?;
        log.fill(case.payload_bytes, count).await?;
        logs.push(log);
    }
    let mut peaks: [Vec<f64>; CASES.len()] = Default::default();
    for number in 1..=options.runs {
        for ((case, log), peaks) in CASES.iter().zip(&logs).zip(&mut peaks) {
            let peak = measure(options, servers, log, case, number).await?;
            let runs = options.runs;
            progress(format_args!("round {number} of {runs}: {}: {peak:.1} MiB", case.name));
            peaks.push(peak);
        }
    }
    Ok(report(options, &peaks))
}

/// At least ten pages or batches of what the case is about.
fn count(options: &Options, case: &Case) -> u64 {
    (case.messages * options.messages.unwrap_or(FULL) / FULL).max(200)
}

async fn measure(
    options: &Options,
    servers: &Servers,
    log: &Log,
    case: &Case,
    number: u32,
) -> Result<f64> {
    servers.flush_redis()?;
    let count = count(options, case);
    let mut relay = Relay::start(&Setup {
        program: &options.posthaste,
        database_url: &log.url,
        redis_url: &servers.redis.url(),
        subscriptions: vec![format!("memory-{number}")],
        stream: STREAM,
        delivery: EXACTLY_ONCE,
        rejected: Rejected::DeadLetter { max: 1_000 },
        from: "beginning",
        once: true,
        retention: LONG,
    })?;
    if case.pauses {
        pause_redis(servers, &mut relay).await?;
    }
    let ended = relay.end(DRAIN_LIMIT).await?;
    let length = servers.stream_length(STREAM)?;
    servers.flush_redis()?;
    // A pause may end in a repeat, never in a loss.
    if length < count {
        return Err(Failure::new(format!("{}: {length} of {count} messages arrived", case.name)));
    }
    Ok(ended.rss_peak_mib)
}

/// As soon as the first messages have arrived, so that most of the backlog is still to come.
async fn pause_redis(servers: &Servers, relay: &mut Relay) -> Result<()> {
    let deadline = Instant::now() + DRAIN_LIMIT;
    while servers.stream_length(STREAM)? == 0 {
        relay.must_run()?;
        if Instant::now() > deadline {
            return Err(Failure::new("no message arrived before the pause"));
        }
        sleep(Duration::from_millis(2)).await;
    }
    servers.redis.pause();
    let end = Instant::now() + PAUSE;
    while Instant::now() < end {
        relay.rss_peak_mib();
        sleep(Duration::from_millis(20)).await;
    }
    servers.redis.resume();
    Ok(())
}

fn report(options: &Options, peaks: &[Vec<f64>]) -> Report {
    let mut report = Report::new("memory");
    let mut cases = serde_json::Map::new();
    let mut highest = 0.0_f64;
    for (case, peaks) in CASES.iter().zip(peaks) {
        let spread = Spread::of(peaks.iter().copied());
        highest = highest.max(spread.max);
        report.row(case.name, "MiB", spread);
        let runs: Vec<f64> = peaks.iter().map(|peak| rounded(*peak, 1)).collect();
        let object = json!({
            "rss_mib_peak": rounded(spread.max, 1),
            "messages": count(options, case),
            "runs": runs,
        });
        cases.insert(case.key.to_owned(), object);
    }
    report.set("rss_mib_peak", rounded(highest, 1));
    report.set("bar_mib", BAR_MIB);
    report.set("within_bar", highest <= BAR_MIB);
    report.set("cases", cases);
    let verdict = if highest <= BAR_MIB { "within" } else { "ABOVE" };
    report.note(format!("highest of all: {highest:.1} MiB, {verdict} the bar of {BAR_MIB} MiB"));
    report
}
