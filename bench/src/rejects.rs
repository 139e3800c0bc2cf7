//! `rejects`: the drain of a log of which a sink rejects one message in a hundred, beside the
//! same log without rejections.
//!
//! Both logs hold the same messages, and both relays the same settings; the name of the stream
//! comes from a header, which the messages to be rejected lack. Each rejected one becomes a dead
//! letter, and its key moves on.

use posthaste_core::Message;
use posthaste_testkit::failure::{During, Failure, Result};

use crate::{
    Options,
    duel::{Duel, Side},
    messages::{Messages, PAYLOAD_BYTES, STREAM},
    progress,
    relay::EXACTLY_ONCE,
    report::Report,
    servers::{Log, Servers, settle_tables},
};

const MESSAGES: u64 = 500_000;
/// One message in so many is rejected.
const REJECTED: usize = 100;
const HEADER: &str = "to";

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    let count = options.messages.unwrap_or(MESSAGES);
    let (clean, faulty) = (servers.log().await?, servers.log().await?);
    progress(format_args!("writing {count} messages twice"));
    fill(&clean, count, false).await?;
    fill(&faulty, count, true).await?;
    let dead = count / REJECTED as u64;
    let stream = format!("{{header:{HEADER}}}");
    let measured = Side {
        key: "rejects",
        name: "one in a hundred rejected",
        servers,
        log: &faulty,
        stream: &stream,
        delivery: EXACTLY_ONCE,
        expected: count - dead,
    };
    let beside =
        Side { key: "clean", name: "none rejected", log: &clean, expected: count, ..measured };
    let duel = Duel { name: "rejects", measured, beside, count };
    let report = duel.run(options).await?;
    let status = faulty.store.status().await.during("read the status")?;
    for name in (0..=options.runs).map(|round| measured.subscription(round)) {
        let found = status.subscriptions.iter().find(|it| it.name == name);
        if found.map(|it| it.dead_letters) != Some(dead) {
            return Err(Failure::new(format!("not {dead} dead letters: {found:?}")));
        }
    }
    Ok(report)
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
