//! `jobs`: a worker on a Redis stream. Messages through the inbox, whole lives of jobs, the time from `XADD`
//! to the handler, the order of keys and what becomes of jobs whose handlers fail, each against the bar that we
//! hold it to; and peers that live the same life on the same server.

mod drains;
mod failures;
mod latency;
mod peers;
mod queue;

use posthaste_testkit::failure::Result;
use serde_json::{Map, Value, json};

use self::{drains::Life, failures::Outcome, latency::Latencies, peers::Peer};
use crate::{
    Options,
    messages::PAYLOAD_BYTES,
    progress,
    report::{Report, Spread, percentile, rounded},
    servers::{Log, Servers},
};

/// Messages of a drain through the inbox; a drain of jobs has half as many.
const MESSAGES: u64 = 60_000;
const SECONDS: u64 = 10;
/// Submitted at once over so many keys.
const ORDERED: (u64, Option<u64>) = (100, Some(5));
/// Submitted at once without keys.
const FAILING: (u64, Option<u64>) = (5_000, None);

/// Messages or jobs a second, by the key of the figure.
const RATES: [(&str, &str); 4] = [
    ("inbox_rate", "messages through the inbox"),
    ("queued_rate", "jobs, all in the stream before"),
    ("live_rate", "jobs, published meanwhile"),
    ("keyed_rate", "jobs of 10,000 keys, all in the stream before"),
];
const LIVES: [Life; 3] = [Life::Queued, Life::Live, Life::Keyed];

/// What a figure's median is held to, and whether more of it is better.
const BARS: [(&str, f64, bool); 7] = [
    ("inbox_rate", 15_000.0, true),
    ("queued_rate", 5_000.0, true),
    ("live_rate", 5_000.0, true),
    ("keyed_rate", 5_000.0, true),
    ("message_p99_ms", 10.0, false),
    ("ordered_completed_percent", 100.0, true),
    ("failing_completed_percent", 100.0, true),
];

/// One round.
#[derive(Debug)]
struct Round {
    /// As in `RATES`.
    rates: [f64; 4],
    message: Latencies,
    job: Latencies,
    ordered: Outcome,
    failing: Outcome,
    /// As the peers stand.
    peers: Vec<f64>,
}

/// A figure of a round.
type OutcomeOf = fn(&Round) -> Outcome;

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Load {
    messages: u64,
    jobs: u64,
    seconds: u64,
}

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    let messages = options.messages.unwrap_or(MESSAGES);
    let seconds = options.seconds.unwrap_or(SECONDS);
    let load = Load { messages, jobs: messages / 2, seconds };
    let (peers, missing) = peers::ready(options);
    for why in &missing {
        progress(format_args!("{why}"));
    }
    let log = servers.log().await?;
    log.fill(PAYLOAD_BYTES, load.messages).await?;
    let mut rounds = Vec::new();
    for number in 0..=options.runs {
        let round = round(options, servers, (&log, number, load), &peers).await?;
        let [inbox, queued, live, keyed] = round.rates;
        progress(format_args!(
            "round {number} of {}: inbox {inbox:.0}/s; jobs {queued:.0}/s, live {live:.0}/s, keyed \
             {keyed:.0}/s; p99 {:.1} ms, of jobs {:.1} ms; peers {:.0?}",
            options.runs,
            percentile(&round.message.from_due, 0.99),
            percentile(&round.job.from_due, 0.99),
            round.peers
        ));
        // The first round warms the caches.
        if number > 0 {
            rounds.push(round);
        }
    }
    let mut report = report(&rounds, &peers);
    for why in missing {
        report.note(why);
    }
    explain(&mut report, options, load);
    Ok(report)
}

async fn round(
    options: &Options,
    servers: &Servers,
    (log, number, load): (&Log, u32, Load),
    peers: &[Peer],
) -> Result<Round> {
    let mut rates = [0.0; 4];
    rates[0] = drains::inbox(options, servers, log, (number, load.messages)).await?;
    for (rate, life) in rates[1..].iter_mut().zip(LIVES) {
        *rate = drains::lives(options, servers, life, load.jobs).await?;
    }
    let mut of_peers = Vec::new();
    for peer in peers {
        of_peers.push(peer.drain(servers, load.jobs).await?);
    }
    let quiet = servers.log().await?;
    let load = (&quiet, number, load.seconds);
    Ok(Round {
        rates,
        message: latency::run(options, servers, load, false).await?,
        job: latency::run(options, servers, load, true).await?,
        ordered: failures::run(options, servers, (number, ORDERED.0, ORDERED.1)).await?,
        failing: failures::run(options, servers, (number, FAILING.0, FAILING.1)).await?,
        peers: of_peers,
    })
}

fn report(rounds: &[Round], peers: &[Peer]) -> Report {
    let mut report = Report::new("jobs");
    let mut medians = Map::new();
    let mut figure = |key: &str, name: &str, unit: &str, values: &dyn Fn(&Round) -> f64| {
        let spread = Spread::of(rounds.iter().map(values));
        report.figure(key, name, unit, spread);
        medians.insert(key.to_owned(), spread.median.into());
    };
    for (nth, (key, name)) in RATES.into_iter().enumerate() {
        figure(key, name, "/s", &|round| round.rates[nth]);
    }
    for (nth, peer) in peers.iter().enumerate() {
        let name = format!("jobs of {}", peer.name);
        figure(&format!("{}_rate", peer.key), &name, "/s", &|round| round.peers[nth]);
    }
    for (part, at) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        let name = |what: &str| format!("{what}, {part}");
        figure(&format!("message_{part}_ms"), &name("due time to handler"), "ms", &|round| {
            percentile(&round.message.from_due, at)
        });
        figure(&format!("message_from_call_{part}_ms"), &name("XADD to handler"), "ms", &|round| {
            percentile(&round.message.from_call, at)
        });
        figure(&format!("job_{part}_ms"), &name("due time to handler of a job"), "ms", &|round| {
            percentile(&round.job.from_due, at)
        });
    }
    let failing: [(&str, &str, OutcomeOf); 2] = [
        ("ordered", "100 jobs of 5 keys", |round| round.ordered),
        ("failing", "5,000 jobs", |round| round.failing),
    ];
    for (key, name, of) in failing {
        let name = |what: &str| format!("{name}, one run in ten fails: {what}");
        let key = |what: &str| format!("{key}_{what}");
        figure(&key("completed_percent"), &name("completed"), "%", &|round| {
            of(round).completed_percent
        });
        figure(&key("failures"), &name("failed runs"), "", &|round| of(round).failures as f64);
        figure(&key("rate"), &name("completed"), "/s", &|round| of(round).rate);
    }
    judge(&mut report, &medians);
    report.set("runs", rounds.iter().map(|round| summary(round, peers)).collect::<Vec<_>>());
    report
}

/// Says of each bar whether it is met.
fn judge(report: &mut Report, medians: &Map<String, Value>) {
    let mut met = Map::new();
    for (key, bar, is_more_better) in BARS {
        let found = medians.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let is_met = if is_more_better { found >= bar } else { found <= bar };
        let (sign, word) =
            (if is_more_better { "≥" } else { "≤" }, if is_met { "met" } else { "MISSED" });
        report.note(format!("bar {key} {sign} {bar}: {word} ({})", rounded(found, 1)));
        met.insert(key.to_owned(), is_met.into());
    }
    report.set("bars_met", met);
}

fn summary(round: &Round, peers: &[Peer]) -> Value {
    let mut object = Map::new();
    for ((key, _), rate) in RATES.into_iter().zip(round.rates) {
        object.insert(key.to_owned(), rounded(rate, 0).into());
    }
    for (peer, rate) in peers.iter().zip(&round.peers) {
        object.insert(format!("{}_rate", peer.key), rounded(*rate, 0).into());
    }
    let p99 = |list: &[f64]| rounded(percentile(list, 0.99), 3);
    object.insert("message_p99_ms".to_owned(), json!(p99(&round.message.from_due)));
    object.insert("job_p99_ms".to_owned(), json!(p99(&round.job.from_due)));
    Value::Object(object)
}

fn explain(report: &mut Report, options: &Options, load: Load) {
    report.set("messages", load.messages);
    report.set("jobs", load.jobs);
    report.set("target_rate", options.rate);
    report.note(format!(
        "{} messages, {} jobs of {PAYLOAD_BYTES} bytes; {} in hand at a time; from the start of the worker until \
         all is recorded; each was handled once, each job has one execution and one receipt",
        load.messages,
        load.jobs,
        queue::IN_HAND
    ));
    report.note(format!(
        "open loop: {} entries/s for {} s; a job is begun by a synced transaction before its handler",
        options.rate, load.seconds
    ));
    report
        .note("Graphile Worker keeps no receipt and forgets what is done; River records an output");
}
