//! `streams`: from commit to the page. An orchestrator writes the events of many runs, each run is watched by one client
//! of `posthaste serve`, and the server is restarted twice meanwhile; then what many clients cost that watch runs in
//! which nothing happens.

mod client;

use std::time::{Duration, Instant};

use posthaste::{Message, Outbox};
use posthaste_testkit::failure::{During, Failure, Result};
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, sleep_until},
};
use tokio_postgres::Client;

use self::client::Seen;
use crate::{
    Options,
    open_loop::millis,
    process, progress,
    report::{Report, Spread, percentile, rounded},
    serve::Server,
    servers::{Log, Servers, connect},
};

const SECONDS: u64 = 30;
/// Runs, each with a client.
const RUNS: u32 = 100;
/// Connections that share the load; each has its own runs.
const CONNECTIONS: u32 = 10;
/// Clients that see nothing.
const IDLE: usize = 1_000;
const TOPIC: &str = "run.events";
/// Time for all to get ready.
const LEAD: Duration = Duration::from_millis(500);
/// Everything is there by then, or lost.
const LIMIT: Duration = Duration::from_secs(30);
/// Memory settles.
const SETTLING: Duration = Duration::from_secs(3);
/// Bars: of the time from commit to client, and of memory.
const P99_MS_MAX: f64 = 100.0;
const IDLE_MIB_MAX: f64 = 64.0;

/// Of one message: when it was due, and when its commit was answered.
type Sent = (Instant, Instant);

/// One round, in milliseconds and MiB.
#[derive(Debug)]
struct Round {
    /// Sorted: from the commit, and from the due time.
    from_commit: Vec<f64>,
    from_due: Vec<f64>,
    /// Without those that were committed while a restart was under way.
    between_restarts: Vec<f64>,
    restart_ms: Vec<f64>,
    idle_mib: f64,
}

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    let seconds = options.seconds.unwrap_or(SECONDS);
    let mut rounds = Vec::new();
    for number in 0..=options.runs {
        let log = servers.log().await?;
        let round = round(options, &log, seconds).await?;
        progress(format_args!(
            "round {number} of {}: commit to client p99 {:.1} ms, between restarts {:.1} ms; {IDLE} idle clients {:.1} MiB",
            options.runs,
            percentile(&round.from_commit, 0.99),
            percentile(&round.between_restarts, 0.99),
            round.idle_mib
        ));
        // The first round warms the caches.
        if number > 0 {
            rounds.push(round);
        }
    }
    Ok(report(options, seconds, &rounds))
}

async fn round(options: &Options, log: &Log, seconds: u64) -> Result<Round> {
    let mut server = Server::start(&options.posthaste, &log.url, "relay = false\n").await?;
    let address = server.address();
    let (over, is_over) = watch::channel(false);
    let mut clients = JoinSet::new();
    for run in 0..RUNS {
        clients.spawn(client::watch(address, run, is_over.clone()));
    }
    let url = log.url.clone();
    let writing = tokio::spawn(write(url, options.rate, seconds));
    let mut restarts = Vec::new();
    for _ in 0..2 {
        sleep(Duration::from_secs(seconds) / 3).await;
        let began = Instant::now();
        server = server.restart().await?;
        restarts.push((began, Instant::now()));
    }
    let sent = writing.await.during("write messages")??;
    let deadline = Instant::now() + LIMIT;
    let newest = sent.len() as u64;
    sleep(LEAD).await;
    over.send_replace(true);
    let mut seen: Vec<Seen> = Vec::new();
    while let Some(run) = clients.join_next().await {
        seen.push(run.during("watch a run")?);
    }
    if Instant::now() > deadline {
        return Err(Failure::new("the clients did not end"));
    }
    let mut round = judge(&sent, newest, &seen, &restarts)?;
    round.idle_mib = idle(&server).await?;
    server.stop().await?;
    Ok(round)
}

/// Writes `rate` messages a second by the clock, each in a transaction of its own.
async fn write(url: String, rate: u32, seconds: u64) -> Result<Vec<Sent>> {
    let count = u64::from(rate) * seconds;
    let start = Instant::now() + LEAD;
    let mut senders = JoinSet::new();
    for part in 0..u64::from(CONNECTIONS) {
        let client = connect(&url).await?;
        let own = (part..count).step_by(CONNECTIONS as usize);
        senders.spawn(send(client, own.collect::<Vec<_>>(), start, rate));
    }
    let mut sent = vec![(start, start); count as usize];
    while let Some(part) = senders.join_next().await {
        for (nth, at) in part.during("send messages")?? {
            sent[nth as usize] = at;
        }
    }
    Ok(sent)
}

async fn send(
    mut client: Client,
    numbers: Vec<u64>,
    start: Instant,
    rate: u32,
) -> Result<Vec<(u64, Sent)>> {
    let outbox = Outbox::default();
    let mut sent = Vec::with_capacity(numbers.len());
    for nth in numbers {
        let due = start + Duration::from_secs_f64(nth as f64 / f64::from(rate));
        sleep_until(due.into()).await;
        let key = format!("r{}", nth % u64::from(RUNS));
        let message =
            Message::new(TOPIC).key(key).json(&json!({ "n": nth, "step": "a step of the run" }));
        let transaction = client.transaction().await.during("begin")?;
        outbox.enqueue(&transaction, &message).await.during("enqueue")?;
        transaction.commit().await.during("commit")?;
        sent.push((nth, (due, Instant::now())));
    }
    Ok(sent)
}

/// Compares what was committed with what clients saw: all of it, once, in order.
fn judge(
    sent: &[Sent],
    count: u64,
    seen: &[Seen],
    restarts: &[(Instant, Instant)],
) -> Result<Round> {
    let mut round = Round {
        from_commit: Vec::new(),
        from_due: Vec::new(),
        between_restarts: Vec::new(),
        restart_ms: restarts.iter().map(|(began, ended)| millis(*began, *ended)).collect(),
        idle_mib: 0.0,
    };
    for Seen { run, events } in seen {
        let own: Vec<u64> = (u64::from(*run)..count).step_by(RUNS as usize).collect();
        let theirs: Vec<u64> = events.iter().map(|(n, _)| *n).collect();
        if own != theirs {
            let text = format!(
                "run {run}: {} events instead of {}, first difference at {:?}",
                theirs.len(),
                own.len(),
                own.iter().zip(&theirs).find(|(own, theirs)| own != theirs)
            );
            return Err(Failure::new(text));
        }
        for (n, at) in events {
            let (due, committed) = sent[*n as usize];
            let late = millis(committed, *at);
            round.from_commit.push(late);
            round.from_due.push(millis(due, *at));
            let is_within = restarts
                .iter()
                .any(|(began, ended)| committed + LEAD > *began && committed < *ended + LEAD);
            if !is_within {
                round.between_restarts.push(late);
            }
        }
    }
    for list in [&mut round.from_commit, &mut round.from_due, &mut round.between_restarts] {
        list.sort_by(f64::total_cmp);
    }
    Ok(round)
}

/// What clients cost that see nothing.
async fn idle(server: &Server) -> Result<f64> {
    let memory =
        || process::rss_mib(server.pid()).ok_or_else(|| Failure::new("the server is gone"));
    let before = memory()?;
    let mut clients = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        clients.push(client::open(server.address(), "idle", None).await?);
    }
    sleep(SETTLING).await;
    let after = memory()?;
    drop(clients);
    Ok(after - before)
}

fn report(options: &Options, seconds: u64, rounds: &[Round]) -> Report {
    let mut report = Report::new("streams");
    let mut figure = |key: &str, name: &str, unit: &str, value: &dyn Fn(&Round) -> f64| {
        let spread = Spread::of(rounds.iter().map(value));
        report.figure(key, name, unit, spread);
        spread.median
    };
    let mut p99 = f64::NAN;
    for (part, at) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
        let name = |what: &str| format!("{what}, {part}");
        let median = figure(&format!("{part}_ms"), &name("commit to client"), "ms", &|round| {
            percentile(&round.from_commit, at)
        });
        if part == "p99" {
            p99 = median;
        }
        figure(&format!("due_{part}_ms"), &name("due time to client"), "ms", &|round| {
            percentile(&round.from_due, at)
        });
        figure(&format!("between_{part}_ms"), &name("the same between restarts"), "ms", &|round| {
            percentile(&round.between_restarts, at)
        });
    }
    figure("restart_ms", "a restart of the server", "ms", &|round| {
        round.restart_ms.iter().copied().fold(0.0, f64::max)
    });
    let idle = figure("idle_mib", "1,000 idle clients", "MiB", &|round| round.idle_mib);
    for (what, found, bar) in [("p99_ms", p99, P99_MS_MAX), ("idle_mib", idle, IDLE_MIB_MAX)] {
        let word = if found <= bar { "met" } else { "MISSED" };
        report.note(format!("bar {what} ≤ {bar}: {word} ({})", rounded(found, 1)));
    }
    report.set("target_rate", options.rate);
    report.note(format!(
        "open loop: {} messages/s over {RUNS} runs for {seconds} s, each run watched by one client; the server is \
         restarted twice meanwhile; every client saw every event of its run once and in order",
        options.rate
    ));
    report
}
