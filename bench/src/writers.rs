//! `writers`: what a settled history, a relay and its retention cost those who enqueue, with an open
//! loop; each case has a database of its own, and they take turns.

use std::time::{Duration, Instant};

use posthaste_store::RingSizes;
use posthaste_testkit::failure::{During, Failure, Result};
use serde_json::json;
use tokio::time::sleep;

use crate::{
    Options,
    messages::{PAYLOAD_BYTES, STREAM},
    open_loop::{CONNECTIONS, millis, send_all},
    progress,
    relay::{EXACTLY_ONCE, LONG, Rejected, Relay, Setup},
    report::{Report, Spread, percentile, rounded},
    servers::{Log, Servers, settle_tables},
};

const SECONDS: u64 = 22;
/// At the beginning of a turn connections meet every statement for the first time: not counted.
const WARM_UP: Duration = Duration::from_secs(2);
const HISTORY: u64 = 1_000_000;
const SUBSCRIPTION: &str = "writers";
/// So small that the load fills a slot every ten seconds, 26 times as often as by default, and the
/// sweep empties it.
const SMALL_SLOTS: RingSizes = RingSizes { slots: 32, slot_size: 10_000 };
/// What is not published by then hangs.
const READY_LIMIT: Duration = Duration::from_mins(2);

/// What stands beside the writers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    /// Nothing: an empty log that nobody reads.
    Alone,
    /// A relay; the log was empty.
    Relay,
    /// A relay, and a log of settled messages that are kept.
    History,
    /// A relay that empties a slot every few seconds.
    Retention,
}

const CASES: [Case; 4] = [Case::Alone, Case::Relay, Case::History, Case::Retention];

impl Case {
    const fn key(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Relay => "relay",
            Self::History => "history",
            Self::Retention => "retention",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Alone => "without a relay, empty log",
            Self::Relay => "with a relay, empty log",
            Self::History => "with a relay and a settled history",
            Self::Retention => "with a relay that empties slots",
        }
    }

    const fn rings(self) -> RingSizes {
        match self {
            Self::Alone | Self::Relay | Self::History => {
                RingSizes { slots: 32, slot_size: 262_144 }
            }
            Self::Retention => SMALL_SLOTS,
        }
    }

    const fn retention(self) -> &'static str {
        match self {
            Self::Alone | Self::Relay | Self::History => LONG,
            Self::Retention => "1s",
        }
    }
}

/// One turn: sorted milliseconds.
#[derive(Debug)]
struct Turn {
    /// From begin to the answer to commit.
    transaction: Vec<f64>,
    /// From the time at which it was due.
    from_due: Vec<f64>,
}

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    let mut logs = Vec::new();
    for case in CASES {
        let log = servers.log_with(case.rings()).await?;
        if case == Case::History {
            log.fill(PAYLOAD_BYTES, options.messages.unwrap_or(HISTORY)).await?;
        }
        logs.push(log);
    }
    let mut turns: Vec<Vec<Turn>> = CASES.iter().map(|_| Vec::new()).collect();
    // The first round warms caches and files, and settles the history.
    for number in 0..=options.runs {
        for ((case, log), turns) in CASES.iter().zip(&logs).zip(&mut turns) {
            let turn = turn(options, servers, log, *case).await?;
            if number > 0 {
                let (p99, runs) = (percentile(&turn.transaction, 0.99), options.runs);
                progress(format_args!("round {number} of {runs}: {}: p99 {p99:.2} ms", case.key()));
                turns.push(turn);
            } else {
                // What the first drain has touched is not written while others are measured.
                settle_tables(&log.url).await?;
            }
        }
    }
    Ok(report(options, &turns))
}

async fn turn(options: &Options, servers: &Servers, log: &Log, case: Case) -> Result<Turn> {
    servers.flush_redis()?;
    let relay = if case == Case::Alone { None } else { Some(start(options, servers, log, case)?) };
    let relay = match relay {
        Some(mut relay) => {
            wait_until_settled(log, &mut relay).await?;
            Some(relay)
        }
        None => None,
    };
    let sent = send_all(&log.url, options.rate, options.seconds.unwrap_or(SECONDS)).await?;
    if let Some(mut relay) = relay {
        relay.must_run()?;
        wait_until_settled(log, &mut relay).await?;
        relay.stop().await?;
    }
    let warm = sent.values().map(|times| times.due + WARM_UP).min();
    let counted = || sent.values().filter(|times| Some(times.due) >= warm);
    let mut transaction: Vec<f64> =
        counted().map(|times| millis(times.begun, times.committed)).collect();
    let mut from_due: Vec<f64> =
        counted().map(|times| millis(times.due, times.committed)).collect();
    transaction.sort_by(f64::total_cmp);
    from_due.sort_by(f64::total_cmp);
    Ok(Turn { transaction, from_due })
}

fn start(options: &Options, servers: &Servers, log: &Log, case: Case) -> Result<Relay> {
    Relay::start(&Setup {
        program: &options.posthaste,
        database_url: &log.url,
        redis_url: &servers.redis.url(),
        subscriptions: vec![SUBSCRIPTION.to_owned()],
        stream: STREAM,
        delivery: EXACTLY_ONCE,
        rejected: Rejected::DeadLetter { max: 1_000 },
        from: "beginning",
        once: false,
        retention: case.retention(),
    })
}

/// Everything that is committed is published and settled: what a relay does is its part.
async fn wait_until_settled(log: &Log, relay: &mut Relay) -> Result<()> {
    let deadline = Instant::now() + READY_LIMIT;
    loop {
        relay.must_run()?;
        let status = log.store.status().await.during("read the status")?;
        let found = status.subscriptions.iter().find(|it| it.name == SUBSCRIPTION);
        if found.is_some_and(|it| it.holder.is_some() && it.backlog == 0) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::new(format!("not all is published: {found:?}")));
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn report(options: &Options, turns: &[Vec<Turn>]) -> Report {
    let mut report = Report::new("writers");
    let mut cases = serde_json::Map::new();
    let spread = |turns: &[Turn], list: fn(&Turn) -> &[f64], part| {
        Spread::of(turns.iter().map(|turn| percentile(list(turn), part)))
    };
    for (case, turns) in CASES.iter().zip(turns) {
        let [p50, p99] = [0.5, 0.99].map(|part| spread(turns, |it| &it.transaction, part));
        let due = spread(turns, |it| &it.from_due, 0.99);
        report.row(&format!("{}: p50", case.name()), "ms", p50);
        report.row("    p99", "ms", p99);
        report.row("    from due time, p99", "ms", due);
        let runs = turns.iter().map(|turn| rounded(percentile(&turn.transaction, 0.99), 3));
        let object = json!({
            "p50_ms": rounded(p50.median, 3),
            "p99_ms": rounded(p99.median, 3),
            "p99_mad_ms": rounded(p99.mad, 3),
            "from_due_p99_ms": rounded(due.median, 3),
            "p99_runs": runs.collect::<Vec<_>>(),
        });
        cases.insert(case.key().to_owned(), object);
    }
    let over_relay = |case: Case| {
        let p99s = |of: Case| {
            let nth = CASES.iter().position(|it| *it == of).unwrap_or(0);
            turns[nth].iter().map(|turn| percentile(&turn.transaction, 0.99))
        };
        Spread::of(p99s(case).zip(p99s(Case::Relay)).map(|(it, relay)| it / relay))
    };
    for case in [Case::History, Case::Retention] {
        let ratio = over_relay(case);
        report.row(
            &format!("{}: p99 to that with an empty log, within a round", case.key()),
            "",
            ratio,
        );
        report.set(&format!("{}_ratio", case.key()), rounded(ratio.median, 3));
    }
    report.set("cases", cases);
    report.set("rate", options.rate);
    report.note(format!(
        "open loop: {} transactions/s of one message for {} s over {CONNECTIONS} connections, from \
         begin to the answer to commit",
        options.rate,
        options.seconds.unwrap_or(SECONDS)
    ));
    report
}
