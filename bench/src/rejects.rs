//! `rejects`: the drain of a log of which a sink rejects one message in a hundred, beside the
//! same log without rejections.
//!
//! Both logs hold the same messages, and both relays the same settings; the name of the stream
//! comes from a header, which the messages to be rejected lack. Each rejected one becomes a dead
//! letter, and its key moves on.

use std::time::Duration;

use posthaste_core::Message;
use posthaste_testkit::failure::{During, Failure, Result};
use serde_json::json;

use crate::{
    Options,
    messages::{Messages, PAYLOAD_BYTES, STREAM},
    progress,
    relay::{LONG, Relay, Setup},
    report::{Report, Spread, rounded},
    servers::{Log, Servers, settle_tables},
};

const MESSAGES: u64 = 500_000;
/// One message in so many is rejected.
const REJECTED: usize = 100;
const HEADER: &str = "to";
/// A hundredth of what we expect; beyond it something hangs.
const RATE_MIN: u64 = 2_000;

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    let count = options.messages.unwrap_or(MESSAGES);
    let (clean, faulty) = (servers.log().await?, servers.log().await?);
    progress(format_args!("writing {count} messages twice"));
    fill(&clean, count, false).await?;
    fill(&faulty, count, true).await?;
    let mut rounds = Vec::new();
    // The first round warms the caches and does not count.
    for number in 0..=options.runs {
        let name = format!("rejects-{number}");
        let without = drain(options, servers, &clean, &name, count).await?;
        let dead = count / REJECTED as u64;
        let with = drain(options, servers, &faulty, &name, count - dead).await?;
        let status = faulty.store.status().await.during("read the status")?;
        let found = status.subscriptions.iter().find(|it| it.name == name);
        if found.map(|it| it.dead_letters) != Some(dead) {
            return Err(Failure::new(format!("not {dead} dead letters: {found:?}")));
        }
        if number > 0 {
            let rate = |elapsed: Duration| count as f64 / elapsed.as_secs_f64();
            rounds.push((rate(without), rate(with)));
            let (without, with) = (rate(without), rate(with));
            progress(format_args!("round {number}: {with:.0}/s, without {without:.0}/s"));
        }
    }
    Ok(report(&rounds, count))
}

async fn fill(log: &Log, count: u64, rejects: bool) -> Result<()> {
    let mut messages = Messages::new(PAYLOAD_BYTES);
    let mut written = 0;
    while written < count {
        let part = messages.take((count - written).min(1_000) as usize).into_iter().enumerate();
        let addressed = |(nth, message): (usize, Message)| {
            let is_rejected = rejects && nth % REJECTED == REJECTED - 1;
            // As long a header in both, so that both logs are of one size.
            let name = if is_rejected { "xx" } else { HEADER };
            message.header(name, STREAM)
        };
        let part: Vec<Message> = part.map(addressed).collect();
        log.store.append(&part).await.during("fill the log")?;
        written += part.len() as u64;
    }
    settle_tables(&log.url).await
}

async fn drain(
    options: &Options,
    servers: &Servers,
    log: &Log,
    name: &str,
    expected: u64,
) -> Result<Duration> {
    let relay = Relay::start(&Setup {
        program: &options.posthaste,
        database_url: &log.url,
        redis_url: &servers.redis.url(),
        subscriptions: vec![name.to_owned()],
        stream: &format!("{{header:{HEADER}}}"),
        dead_letters_max: 100_000,
        from: "beginning",
        once: true,
        retention: LONG,
    })?;
    let ended = relay.end(Duration::from_secs(60 + expected / RATE_MIN)).await?;
    let length = servers.stream_length(STREAM)?;
    if length != expected {
        return Err(Failure::new(format!("the stream holds {length} of {expected}")));
    }
    servers.flush_redis()?;
    Ok(ended.elapsed)
}

fn report(rounds: &[(f64, f64)], count: u64) -> Report {
    let mut report = Report::new("rejects");
    let clean = Spread::of(rounds.iter().map(|(clean, _)| *clean));
    let faulty = Spread::of(rounds.iter().map(|(_, faulty)| *faulty));
    report.figure("rate", "one in a hundred rejected", "msg/s", faulty);
    report.figure("clean_rate", "none rejected", "msg/s", clean);
    report.set("ratio_to_clean", rounded(faulty.median / clean.median, 3));
    report.row("ratio within a round", "", Spread::of(rounds.iter().map(|(c, f)| f / c)));
    report.set("messages", count);
    let runs = rounds.iter().map(
        |(clean, faulty)| json!({ "rate": rounded(*faulty, 0), "clean_rate": rounded(*clean, 0) }),
    );
    report.set("runs", runs.collect::<Vec<_>>());
    report.note(format!("ratio of medians {:.3}", faulty.median / clean.median));
    report
}
