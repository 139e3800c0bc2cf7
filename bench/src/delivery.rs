//! `delivery`: what it costs to publish exactly once, beside at least once.

use posthaste_testkit::failure::Result;

use crate::{
    Options,
    duel::{Duel, Side},
    messages::{PAYLOAD_BYTES, STREAM},
    relay::EXACTLY_ONCE,
    report::Report,
    servers::Servers,
};

const MESSAGES: u64 = 1_000_000;

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    let count = options.messages.unwrap_or(MESSAGES);
    let log = servers.log().await?;
    log.fill(PAYLOAD_BYTES, count).await?;
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
