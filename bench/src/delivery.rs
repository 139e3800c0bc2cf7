//! `delivery`: what it costs to publish exactly once, beside at least once.

use posthaste_testkit::failure::Result;

use crate::{
    Options,
    duel::{Duel, Side},
    messages::{Messages, PAYLOAD_BYTES, STREAM},
    progress,
    relay::EXACTLY_ONCE,
    report::Report,
    servers::{Servers, settle_tables},
};

const MESSAGES: u64 = 1_000_000;

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    let count = options.messages.unwrap_or(MESSAGES);
    let log = servers.log().await?;
    progress(format_args!("writing {count} messages"));
    Messages::new(PAYLOAD_BYTES).fill(&*log.store, count).await?;
    settle_tables(&log.url).await?;
    let measured = Side {
        key: "exactly_once",
        name: "exactly once",
        servers,
        log: &log,
        stream: STREAM,
        delivery: EXACTLY_ONCE,
        expected: count,
    };
    let beside =
        Side { key: "at_least_once", name: "at least once", delivery: "at-least-once", ..measured };
    Duel { name: "delivery", measured, beside, count }.run(options).await
}
