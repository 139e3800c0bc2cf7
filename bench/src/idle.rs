//! `idle`: what a relay costs while nothing happens: processor time of the relay, of all of
//! PostgreSQL and of Redis, in percent of one core.
//!
//! The servers are private, so all that they use is counted, their own housekeeping included; a
//! case without a relay shows how much that is.

use std::time::{Duration, Instant};

use posthaste_testkit::failure::{During, Failure, Result};
use serde_json::json;
use tokio::time::sleep;
use tokio_postgres::Client;

use crate::{
    Options,
    messages::{Messages, PAYLOAD_BYTES, STREAM},
    process, progress,
    relay::{EXACTLY_ONCE, LONG, Rejected, Relay, Setup},
    report::{Report, Spread, rounded},
    servers::{Log, Servers, connect},
};

const SECONDS: u64 = 30;
/// A relay of 100 subscriptions that has not published by then is broken.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Time for the relay to settle and to slow its looks down, and for the servers to have met every
/// statement on every connection: what a start costs is not what idling costs.
const SETTLING: Duration = Duration::from_secs(20);

const READY_LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// One way to have nothing to do.
#[derive(Clone, Copy, Debug)]
struct Case {
    key: &'static str,
    name: &'static str,
    subscriptions: u32,
    /// Whether a transaction with an id stays open in another database.
    holds_transaction: bool,
}

const CASES: [Case; 4] = [
    Case { key: "servers", name: "servers alone", subscriptions: 0, holds_transaction: false },
    Case { key: "one", name: "1 subscription", subscriptions: 1, holds_transaction: false },
    Case {
        key: "hundred",
        name: "100 subscriptions",
        subscriptions: 100,
        holds_transaction: false,
    },
    Case {
        key: "held",
        name: "100, transaction held",
        subscriptions: 100,
        holds_transaction: true,
    },
];
/// The case that the headline is about.
const HEADLINE: &str = "one";

/// Percent of one core.
#[derive(Clone, Copy, Debug)]
struct Usage {
    relay: f64,
    postgres: f64,
    redis: f64,
}

/// A process and its share.
type Part = (&'static str, fn(Usage) -> f64);

impl Usage {
    const fn all(self) -> f64 {
        self.relay + self.postgres + self.redis
    }
}

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    let mut usages: [Vec<Usage>; CASES.len()] = Default::default();
    let runs = options.runs;
    for number in 1..=runs {
        for (case, usages) in CASES.iter().zip(&mut usages) {
            let usage = measure(options, servers, case).await?;
            let (name, all) = (case.name, usage.all());
            progress(format_args!("round {number} of {runs}: {name}: {all:.2} % of a core"));
            usages.push(usage);
        }
    }
    Ok(report(options, &usages))
}

/// In a database of its own, so that no case has the subscriptions of another.
async fn measure(options: &Options, servers: &Servers, case: &Case) -> Result<Usage> {
    let log = servers.log().await?;
    let held = if case.holds_transaction { Some(hold_transaction(servers).await?) } else { None };
    let mut relay = start(options, servers, &log, case)?;
    if let Some(relay) = &mut relay {
        wait_until_ready(servers, &log, case, relay).await?;
    }
    sleep(SETTLING).await;
    let pid = relay.as_ref().map(Relay::pid);
    let before = cpu_seconds(servers, pid);
    let started = Instant::now();
    sleep(Duration::from_secs(options.seconds.unwrap_or(SECONDS))).await;
    let after = cpu_seconds(servers, pid);
    let percent = 100.0 / started.elapsed().as_secs_f64();
    if let Some(relay) = &mut relay {
        relay.must_run()?;
    }
    drop(held);
    if let Some(relay) = relay {
        relay.stop().await?;
    }
    let of = |part: fn(Usage) -> f64| (part(after) - part(before)) * percent;
    Ok(Usage { relay: of(|it| it.relay), postgres: of(|it| it.postgres), redis: of(|it| it.redis) })
}

fn start(options: &Options, servers: &Servers, log: &Log, case: &Case) -> Result<Option<Relay>> {
    if case.subscriptions == 0 {
        return Ok(None);
    }
    let subscriptions = (1..=case.subscriptions).map(|number| format!("idle-{number}"));
    let relay = Relay::start(&Setup {
        program: &options.posthaste,
        database_url: &log.url,
        redis_url: &servers.redis.url(),
        subscriptions: subscriptions.collect(),
        stream: STREAM,
        delivery: EXACTLY_ONCE,
        rejected: Rejected::DeadLetter { max: 1_000 },
        from: "beginning",
        once: false,
        retention: LONG,
    })?;
    Ok(Some(relay))
}

/// Every subscription publishes one message: a relay that does not work would be the most idle.
async fn wait_until_ready(
    servers: &Servers,
    log: &Log,
    case: &Case,
    relay: &mut Relay,
) -> Result<()> {
    servers.flush_redis()?;
    let message = Messages::new(PAYLOAD_BYTES).take(1);
    log.store.append(&message).await.during("write a first message")?;
    let deadline = Instant::now() + READY_LIMIT;
    while servers.stream_length(STREAM)? < u64::from(case.subscriptions) {
        relay.must_run()?;
        if Instant::now() > deadline {
            return Err(Failure::new(format!("{}: not every one published", case.name)));
        }
        sleep(READY_LOOK_INTERVAL).await;
    }
    Ok(())
}

/// The client holds the transaction until it is dropped.
async fn hold_transaction(servers: &Servers) -> Result<Client> {
    let database = servers.postgres.database().await;
    let client = connect(database.url()).await?;
    let held = client.batch_execute("begin; select pg_current_xact_id()").await;
    held.during("hold a transaction open")?;
    Ok(client)
}

fn cpu_seconds(servers: &Servers, relay: Option<u32>) -> Usage {
    Usage {
        relay: relay.map_or(0.0, process::cpu_seconds),
        postgres: process::cpu_seconds_of_tree(servers.postgres.pid()),
        redis: process::cpu_seconds(servers.redis.pid()),
    }
}

fn report(options: &Options, usages: &[Vec<Usage>]) -> Report {
    let mut report = Report::new("idle");
    let mut cases = serde_json::Map::new();
    for (case, usages) in CASES.iter().zip(usages) {
        let over = |part: fn(Usage) -> f64| Spread::of(usages.iter().map(|usage| part(*usage)));
        let parts: [Part; 4] = [
            ("all", Usage::all),
            ("relay", |usage| usage.relay),
            ("postgres", |usage| usage.postgres),
            ("redis", |usage| usage.redis),
        ];
        let mut object = serde_json::Map::new();
        for (part, of) in parts {
            let spread = over(of);
            report.row(&format!("{}: {part}", case.name), "% of a core", spread);
            object.insert(format!("{part}_percent"), rounded(spread.median, 3).into());
        }
        if case.key == HEADLINE {
            report.set("cpu_percent", rounded(over(Usage::all).median, 3));
        }
        let runs = usages.iter().map(|usage| json!(rounded(usage.all(), 3)));
        object.insert("runs".to_owned(), runs.collect());
        cases.insert(case.key.to_owned(), object.into());
    }
    report.set("cases", cases);
    let seconds = options.seconds.unwrap_or(SECONDS);
    report.note(format!("{seconds} s each; the kernel counts in ticks of 10 ms"));
    report
}
