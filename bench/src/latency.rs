//! `latency`: from commit to subscriber at a steady rate, with an open loop.
//!
//! Each round has a relay process of its own, from a fresh subscription.

mod subscriber;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use posthaste_testkit::failure::{During, Failure, Result};
use serde_json::json;
use uuid::Uuid;

use self::subscriber::Subscriber;
use crate::{
    Options,
    messages::{Messages, PAYLOAD_BYTES, STREAM},
    open_loop::{CONNECTIONS, Sent, millis, send_all},
    progress,
    relay::{EXACTLY_ONCE, LONG, Rejected, Relay, Setup},
    report::{Report, Spread, percentile, rounded},
    servers::{Log, Servers},
};

const SECONDS: u64 = 20;
/// A relay that has not published a first message by then is broken.
const FIRST_MESSAGE_LIMIT: Duration = Duration::from_secs(15);
/// What is not received by then is lost.
const LAST_MESSAGE_LIMIT: Duration = Duration::from_secs(10);

/// Milliseconds of one round, each list sorted.
#[derive(Debug)]
struct Round {
    from_commit: Vec<f64>,
    from_call: Vec<f64>,
    from_due: Vec<f64>,
    commit: Vec<f64>,
    rate: f64,
    relay_cpu_percent: f64,
    repeats: usize,
}

/// Key, name and values of a figure.
type List = (&'static str, &'static str, fn(&Round) -> &[f64]);

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    let log = servers.log().await?;
    let mut rounds = Vec::new();
    for number in 1..=options.runs {
        let round = round(options, servers, &log, number).await?;
        let [p50, p99] = [0.5, 0.99].map(|part| percentile(&round.from_commit, part));
        let runs = options.runs;
        progress(format_args!("round {number} of {runs}: p50 {p50:.2} ms, p99 {p99:.2} ms"));
        rounds.push(round);
    }
    Ok(report(options, &rounds))
}

async fn round(options: &Options, servers: &Servers, log: &Log, number: u32) -> Result<Round> {
    let seconds = options.seconds.unwrap_or(SECONDS);
    servers.flush_redis()?;
    let mut relay = Relay::start(&Setup {
        program: &options.posthaste,
        database_url: &log.url,
        redis_url: &servers.redis.url(),
        subscriptions: vec![format!("latency-{number}")],
        stream: STREAM,
        delivery: EXACTLY_ONCE,
        rejected: Rejected::DeadLetter { max: 1_000 },
        from: "now",
        once: false,
        retention: LONG,
    })?;
    let subscriber = Subscriber::start(servers.redis.port())?;
    wait_for_first(&mut relay, log, &subscriber).await?;
    let sent = send_all(&log.url, options.rate, seconds).await?;
    relay.must_run()?;
    let deadline = Instant::now() + LAST_MESSAGE_LIMIT;
    while !subscriber.has_all(sent.keys()) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (received, repeats) = subscriber.stop()?;
    let ended = relay.stop().await?;
    let mut round = matched(&sent, &received)?;
    round.rate = rate_reached(&sent);
    round.relay_cpu_percent = ended.cpu_seconds / ended.elapsed.as_secs_f64() * 100.0;
    round.repeats = repeats;
    Ok(round)
}

/// The relay is ready once a message has come through.
async fn wait_for_first(relay: &mut Relay, log: &Log, subscriber: &Subscriber) -> Result<()> {
    let deadline = Instant::now() + FIRST_MESSAGE_LIMIT;
    let mut messages = Messages::new(PAYLOAD_BYTES);
    while subscriber.received() == 0 {
        relay.must_run()?;
        if Instant::now() > deadline {
            return Err(Failure::new("no message came through the relay"));
        }
        log.store.append(&messages.take(1)).await.during("write a first message")?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn matched(sent: &HashMap<Uuid, Sent>, received: &HashMap<Uuid, Instant>) -> Result<Round> {
    let mut round = Round {
        from_commit: Vec::with_capacity(sent.len()),
        from_call: Vec::with_capacity(sent.len()),
        from_due: Vec::with_capacity(sent.len()),
        commit: Vec::with_capacity(sent.len()),
        rate: 0.0,
        relay_cpu_percent: 0.0,
        repeats: 0,
    };
    for (id, times) in sent {
        let Some(at) = received.get(id) else {
            return Err(Failure::new(format!("message {id} never reached the subscriber")));
        };
        // A message can be received before its writer has the answer to its commit.
        round.from_commit.push(millis(times.committed, *at));
        round.from_call.push(millis(times.called, *at));
        round.from_due.push(millis(times.due, *at));
        round.commit.push(millis(times.called, times.committed));
    }
    for list in
        [&mut round.from_commit, &mut round.from_call, &mut round.from_due, &mut round.commit]
    {
        list.sort_by(f64::total_cmp);
    }
    Ok(round)
}

/// From the first due time to the last commit.
fn rate_reached(sent: &HashMap<Uuid, Sent>) -> f64 {
    let first = sent.values().map(|times| times.due).min();
    let last = sent.values().map(|times| times.committed).max();
    first.zip(last).map_or(0.0, |(first, last)| sent.len() as f64 / (last - first).as_secs_f64())
}

fn report(options: &Options, rounds: &[Round]) -> Report {
    let mut report = Report::new("latency");
    let over = |figure: &dyn Fn(&Round) -> f64| Spread::of(rounds.iter().map(figure));
    let parts = [("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)];
    for (name, part) in parts {
        let spread = over(&|round| percentile(&round.from_commit, part));
        report.figure(
            &format!("{name}_ms"),
            &format!("commit to subscriber, {name}"),
            "ms",
            spread,
        );
    }
    let lists: [List; 3] = [
        ("from_call", "commit's call to subscriber", |round| &round.from_call),
        ("from_due", "due time to subscriber", |round| &round.from_due),
        ("commit", "commit itself", |round| &round.commit),
    ];
    for (key, name, list) in lists {
        for (suffix, part) in [("p50", 0.5), ("p99", 0.99)] {
            let spread = over(&|round| percentile(list(round), part));
            report.figure(
                &format!("{key}_{suffix}_ms"),
                &format!("{name}, {suffix}"),
                "ms",
                spread,
            );
        }
    }
    report.figure("rate", "rate reached", "msg/s", over(&|round| round.rate));
    report.figure("relay_cpu_percent", "relay's processor", "%", over(&|r| r.relay_cpu_percent));
    report.set("target_rate", options.rate);
    report.set("repeats", rounds.iter().map(|round| round.repeats).sum::<usize>());
    let run = |round: &Round| {
        let at = |part| rounded(percentile(&round.from_commit, part), 3);
        json!({ "p50_ms": at(0.5), "p95_ms": at(0.95), "p99_ms": at(0.99), "max_ms": at(1.0) })
    };
    report.set("runs", rounds.iter().map(run).collect::<Vec<_>>());
    let seconds = options.seconds.unwrap_or(SECONDS);
    report.note(format!(
        "open loop: {} messages/s for {seconds} s over {CONNECTIONS} connections; every message \
         received",
        options.rate
    ));
    report
}
