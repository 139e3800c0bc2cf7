//! Two drains that differ in one thing, in turn.

use std::time::Duration;

use posthaste_testkit::failure::{Failure, Result};
use serde_json::json;

use crate::{
    Options, progress,
    relay::{LONG, Rejected, Relay, Setup},
    report::{Report, Spread, rounded},
    servers::{Log, Servers},
};

/// A hundredth of what we expect; beyond it something hangs.
const RATE_MIN: u64 = 2_000;

/// One of the two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side<'a> {
    /// What its figures are called: `key_rate`, and the row of the table.
    pub(crate) key: &'static str,
    pub(crate) name: &'static str,
    pub(crate) servers: &'a Servers,
    pub(crate) log: &'a Log,
    /// Where its messages go, a template; all of them to `STREAM`.
    pub(crate) stream: &'a str,
    pub(crate) delivery: &'static str,
    /// Messages that arrive.
    pub(crate) expected: u64,
}

/// Both, with the one that is measured first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Duel<'a> {
    pub(crate) name: &'static str,
    pub(crate) measured: Side<'a>,
    pub(crate) beside: Side<'a>,
    /// Messages of each log.
    pub(crate) count: u64,
}

impl Side<'_> {
    /// The name of a round's subscription: both sides may have one log.
    pub(crate) fn subscription(&self, round: u32) -> String {
        format!("{}-{round}", self.key)
    }
}

/// Messages a second.
#[derive(Clone, Copy, Debug)]
struct Round {
    measured: f64,
    beside: f64,
}

impl Duel<'_> {
    /// Drains each log once a round, by a subscription of its own; the first round warms the caches
    /// and does not count.
    pub(crate) async fn run(&self, options: &Options) -> Result<Report> {
        let mut rounds = Vec::new();
        for number in 0..=options.runs {
            let beside = drain(options, &self.beside, number).await?;
            let measured = drain(options, &self.measured, number).await?;
            if number == 0 {
                continue;
            }
            let rate = |elapsed: Duration| self.count as f64 / elapsed.as_secs_f64();
            let round = Round { measured: rate(measured), beside: rate(beside) };
            let Round { measured, beside } = round;
            progress(format_args!(
                "round {number} of {}: {} {measured:.0}/s, {} {beside:.0}/s",
                options.runs, self.measured.name, self.beside.name
            ));
            rounds.push(round);
        }
        Ok(self.report(&rounds))
    }

    fn report(&self, rounds: &[Round]) -> Report {
        let mut report = Report::new(self.name);
        let measured = Spread::of(rounds.iter().map(|round| round.measured));
        let beside = Spread::of(rounds.iter().map(|round| round.beside));
        for (side, spread) in [(self.measured, measured), (self.beside, beside)] {
            report.figure(&format!("{}_rate", side.key), side.name, "msg/s", spread);
        }
        let ratio = measured.median / beside.median;
        report.set("ratio", rounded(ratio, 3));
        let within = rounds.iter().map(|round| round.measured / round.beside);
        report.row("ratio within a round", "", Spread::of(within));
        report.set("messages", self.count);
        let runs = rounds.iter().map(|round| {
            let [measured, beside] = [round.measured, round.beside].map(|rate| rounded(rate, 0));
            json!({ self.measured.key: measured, self.beside.key: beside })
        });
        report.set("runs", runs.collect::<Vec<_>>());
        report.note(format!("ratio of medians {ratio:.3}"));
        report
    }
}

async fn drain(options: &Options, side: &Side<'_>, round: u32) -> Result<Duration> {
    let Side { servers, log, expected, .. } = side;
    let relay = Relay::start(&Setup {
        program: &options.posthaste,
        database_url: &log.url,
        redis_url: &servers.redis.url(),
        subscriptions: vec![side.subscription(round)],
        stream: side.stream,
        delivery: side.delivery,
        rejected: Rejected::DeadLetter { max: 100_000 },
        from: "beginning",
        once: true,
        retention: LONG,
    })?;
    let ended = relay.end(Duration::from_secs(60 + expected / RATE_MIN)).await?;
    let length = servers.stream_length(crate::messages::STREAM)?;
    if length != *expected {
        return Err(Failure::new(format!("the stream holds {length} of {expected}")));
    }
    servers.flush_redis()?;
    Ok(ended.elapsed)
}
