//! `latency`: from commit to subscriber at a steady rate, with an open loop: messages are due by
//! the clock, whatever became of those before them, so that a stall is seen by every message that
//! it delays.
//!
//! Each round has a relay process of its own, from a fresh subscription.

mod subscriber;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use posthaste::{Message, Outbox};
use serde_json::json;
use tokio::{task::JoinSet, time::sleep_until};
use tokio_postgres::Client;
use uuid::Uuid;

use self::subscriber::Subscriber;
use crate::{
    Options,
    failure::{During, Failure, Result},
    messages::{Messages, PAYLOAD_BYTES, STREAM},
    progress,
    relay::{Relay, Setup},
    report::{Report, Spread, percentile, rounded},
    servers::{Log, Servers, connect},
};

const SECONDS: u64 = 20;
const CONNECTIONS: u32 = 10;
/// A relay that has not published a first message by then is broken.
const FIRST_MESSAGE_LIMIT: Duration = Duration::from_secs(15);
/// What is not received by then is lost.
const LAST_MESSAGE_LIMIT: Duration = Duration::from_secs(10);
/// Time for all senders to get ready.
const LEAD: Duration = Duration::from_millis(200);

/// When the commit of one message was due, called and answered.
#[derive(Clone, Copy, Debug)]
struct Sent {
    due: Instant,
    called: Instant,
    committed: Instant,
}

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
        dead_letters_max: 1_000,
        from: "now",
        once: false,
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

async fn send_all(url: &str, rate: u32, seconds: u64) -> Result<HashMap<Uuid, Sent>> {
    let count = u64::from(rate) * seconds;
    let mut messages = Messages::new(PAYLOAD_BYTES);
    let mut senders = JoinSet::new();
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(connect(url).await?);
    }
    let mut parts: Vec<Vec<(u64, Message)>> = clients.iter().map(|_| Vec::new()).collect();
    for nth in 0..count {
        parts[(nth % u64::from(CONNECTIONS)) as usize].push((nth, messages.next()));
    }
    let start = Instant::now() + LEAD;
    for (client, part) in clients.into_iter().zip(parts) {
        senders.spawn(send(client, part, start, rate));
    }
    let mut sent = HashMap::new();
    while let Some(part) = senders.join_next().await {
        sent.extend(part.during("send messages")??);
    }
    Ok(sent)
}

/// One connection: each message in a transaction of its own, at its time or, behind a slow
/// predecessor, at once.
async fn send(
    mut client: Client,
    messages: Vec<(u64, Message)>,
    start: Instant,
    rate: u32,
) -> Result<Vec<(Uuid, Sent)>> {
    let outbox = Outbox::default();
    let mut sent = Vec::with_capacity(messages.len());
    for (nth, message) in messages {
        let due = start + Duration::from_secs_f64(nth as f64 / f64::from(rate));
        sleep_until(due.into()).await;
        let transaction = client.transaction().await.during("begin")?;
        let id = outbox.enqueue(&transaction, &message).await.during("enqueue")?;
        let called = Instant::now();
        transaction.commit().await.during("commit")?;
        sent.push((id, Sent { due, called, committed: Instant::now() }));
    }
    Ok(sent)
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

/// Negative where `to` came first.
fn millis(from: Instant, to: Instant) -> f64 {
    let later = to.saturating_duration_since(from).as_secs_f64();
    let earlier = from.saturating_duration_since(to).as_secs_f64();
    (later - earlier) * 1_000.0
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
