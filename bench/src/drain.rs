//! `drain`: how fast a relay carries a large backlog from PostgreSQL to a Redis stream, beside the
//! leanest loop over the same rows.
//!
//! The log is written once. Every round runs each contestant once, into an empty Redis, and checks
//! that the stream holds every message; a first round, which is not counted, warms the caches and
//! chooses the faster way to read for the limit.

mod baselines;
mod copy;
mod limit;

use std::time::Duration;

use posthaste_testkit::failure::{During, Failure, Result};
use serde_json::json;
use tokio::time::timeout;

use self::limit::Reading;
use crate::{
    Options,
    messages::{PAYLOAD_BYTES, STREAM},
    process, progress,
    relay::{EXACTLY_ONCE, LONG, Rejected, Relay, Setup},
    report::{Report, Spread, rounded},
    resp::Reply,
    servers::{Log, Servers},
};

const MESSAGES: u64 = 1_000_000;
/// A hundredth of what we expect; beyond it something hangs.
const RATE_MIN: u64 = 2_000;

/// What one contestant did in one round.
#[derive(Clone, Copy, Debug)]
struct Run {
    /// From its start to its end.
    elapsed: Duration,
    /// Between the first and the last entry, on Redis's clock.
    between: Duration,
    rss_peak_mib: f64,
    cpu: Cpu,
}

/// Processor seconds.
#[derive(Clone, Copy, Debug)]
struct Cpu {
    contestant: f64,
    postgres: f64,
    redis: f64,
}

/// A process and its share.
type CpuPart = (&'static str, fn(Cpu) -> f64);

#[derive(Debug)]
struct Round {
    limit: Run,
    ours: Run,
    redis_benchmark: f64,
    claims: f64,
}

struct Contest<'a> {
    options: &'a Options,
    servers: &'a Servers,
    log: Log,
    count: u64,
}

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    let count = options.messages.unwrap_or(MESSAGES);
    let log = servers.log().await?;
    log.fill(PAYLOAD_BYTES, count).await?;
    let contest = Contest { options, servers, log, count };
    let reading = contest.warm_up().await?;
    let mut rounds = Vec::new();
    for number in 1..=options.runs {
        let round = contest.round(number, reading).await?;
        progress(format_args!(
            "round {number} of {}: {:.0}/s, limit {:.0}/s",
            options.runs,
            contest.rate(&round.ours),
            contest.rate(&round.limit)
        ));
        rounds.push(round);
    }
    Ok(contest.report(&rounds, reading))
}

impl Contest<'_> {
    /// Tries both ways to read, and lets the relay run once.
    async fn warm_up(&self) -> Result<Reading> {
        let (pages, _) = self.limit(Reading::Pages).await?;
        let (copy, of_limit) = self.limit(Reading::Copy).await?;
        let (_, of_relay) = self.ours(0).await?;
        // Same fields, same bytes, same order: otherwise the comparison would mean nothing.
        if of_limit != of_relay {
            let message = format!("the entries differ: limit {of_limit:?}, relay {of_relay:?}");
            return Err(Failure::new(message));
        }
        let faster = if pages.elapsed < copy.elapsed { Reading::Pages } else { Reading::Copy };
        progress(format_args!(
            "limit: pages {:.0}/s, copy {:.0}/s; using {}",
            self.rate(&pages),
            self.rate(&copy),
            faster.name()
        ));
        Ok(faster)
    }

    async fn round(&self, number: u32, reading: Reading) -> Result<Round> {
        let (limit, _) = self.limit(reading).await?;
        let (ours, _) = self.ours(number).await?;
        let redis_benchmark = baselines::redis_benchmark(self.servers, self.count)?;
        self.servers.flush_redis()?;
        baselines::fill_claims(&self.log.url).await?;
        let claims = baselines::claim(&self.log.url, self.servers).await?;
        self.servers.flush_redis()?;
        Ok(Round { limit, ours, redis_benchmark, claims })
    }

    async fn limit(&self, reading: Reading) -> Result<(Run, [Reply; 2])> {
        let before = self.cpu(process::cpu_seconds(std::process::id()));
        let port = self.servers.redis.port();
        let running = limit::run(&self.log.url, port, self.count, reading);
        let elapsed =
            timeout(self.patience(), running).await.during("finish the limit in time")??;
        let cpu = self.cpu(process::cpu_seconds(std::process::id())).since(before);
        self.finish(elapsed, 0.0, cpu)
    }

    async fn ours(&self, number: u32) -> Result<(Run, [Reply; 2])> {
        let before = self.cpu(0.0);
        let relay = Relay::start(&Setup {
            program: &self.options.posthaste,
            database_url: &self.log.url,
            redis_url: &self.servers.redis.url(),
            subscriptions: vec![format!("drain-{number}")],
            stream: STREAM,
            delivery: EXACTLY_ONCE,
            rejected: Rejected::DeadLetter { max: 1_000 },
            from: "beginning",
            once: true,
            retention: LONG,
        })?;
        let ended = relay.end(self.patience()).await?;
        let cpu = self.cpu(ended.cpu_seconds).since(before);
        self.finish(ended.elapsed, ended.rss_peak_mib, cpu)
    }

    /// Checks the stream and empties it. Also returns its first and last entry without their ids.
    fn finish(&self, elapsed: Duration, rss_peak_mib: f64, cpu: Cpu) -> Result<(Run, [Reply; 2])> {
        let length = self.servers.stream_length(STREAM)?;
        if length != self.count {
            return Err(Failure::new(format!("the stream holds {length} of {}", self.count)));
        }
        let (first_ms, first) = self.entry(b"XRANGE", b"-", b"+")?;
        let (last_ms, last) = self.entry(b"XREVRANGE", b"+", b"-")?;
        self.servers.flush_redis()?;
        let between = Duration::from_millis(last_ms.saturating_sub(first_ms));
        Ok((Run { elapsed, between, rss_peak_mib, cpu }, [first, last]))
    }

    /// The first entry of a range: the time in its id, and its fields.
    fn entry(&self, command: &[u8], from: &[u8], to: &[u8]) -> Result<(u64, Reply)> {
        let mut redis = self.servers.redis_client()?;
        let range = redis.query(&[command, STREAM.as_bytes(), from, to, b"COUNT", b"1"])?;
        let mut entry = range.list().pop().map(Reply::list).unwrap_or_default().into_iter();
        let (Some(id), Some(fields)) = (entry.next(), entry.next()) else {
            return Err(Failure::new("the stream holds no entry"));
        };
        let id = id.text();
        let time = id.split_once('-').and_then(|(time, _)| time.parse().ok());
        Ok((time.ok_or_else(|| Failure::new(format!("entry id {id} has no time")))?, fields))
    }

    fn cpu(&self, contestant: f64) -> Cpu {
        let postgres = process::cpu_seconds_of_tree(self.servers.postgres.pid());
        Cpu { contestant, postgres, redis: process::cpu_seconds(self.servers.redis.pid()) }
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(60 + self.count / RATE_MIN)
    }

    fn rate(&self, run: &Run) -> f64 {
        self.count as f64 / run.elapsed.as_secs_f64()
    }

    fn rate_between(&self, run: &Run) -> f64 {
        self.count as f64 / run.between.as_secs_f64().max(0.001)
    }

    fn report(&self, rounds: &[Round], reading: Reading) -> Report {
        let mut report = Report::new("drain");
        let over = |figure: &dyn Fn(&Round) -> f64| Spread::of(rounds.iter().map(figure));
        let rate = over(&|round| self.rate(&round.ours));
        let limit = over(&|round| self.rate(&round.limit));
        report.figure("rate", "relay, whole process", "msg/s", rate);
        report.figure("limit_rate", "limit, whole run", "msg/s", limit);
        report.set("ratio_to_limit", rounded(rate.median / limit.median, 3));
        report.row(
            "ratio within a round",
            "",
            over(&|round| self.rate(&round.ours) / self.rate(&round.limit)),
        );
        let net = over(&|round| self.rate_between(&round.ours));
        report.figure("rate_net", "relay, first to last entry", "msg/s", net);
        let net = over(&|round| self.rate_between(&round.limit));
        report.figure("limit_rate_net", "limit, first to last entry", "msg/s", net);
        let rest = |round: &Round| {
            (round.ours.elapsed.saturating_sub(round.ours.between)).as_secs_f64() * 1_000.0
        };
        report.figure("startup_ms", "relay, before and after", "ms", over(&rest));
        report.figure("rss_mib_peak", "relay, memory peak", "MiB", over(&|r| r.ours.rss_peak_mib));
        report.figure(
            "redis_benchmark_rate",
            "redis-benchmark",
            "msg/s",
            over(&|r| r.redis_benchmark),
        );
        report.figure("claims_rate", "delete … skip locked", "msg/s", over(&|r| r.claims));
        self.cpu_rows(&mut report, rounds);
        report.set("messages", self.count);
        report.set("payload_bytes", PAYLOAD_BYTES);
        report.set("limit_reading", reading.name());
        report.set("runs", rounds.iter().map(|round| self.run_json(round)).collect::<Vec<_>>());
        report.note(format!(
            "{} messages of {PAYLOAD_BYTES} bytes; limit by {}; ratio of medians {:.3}",
            self.count,
            reading.name(),
            rate.median / limit.median
        ));
        report
    }

    /// Where the time goes, in microseconds of a processor per message.
    fn cpu_rows(&self, report: &mut Report, rounds: &[Round]) {
        let micros = |seconds: f64| seconds * 1e6 / self.count as f64;
        for (name, of) in [("relay", ours as fn(&Round) -> &Run), ("limit", limit)] {
            let parts: [CpuPart; 3] = [
                ("itself", |cpu| cpu.contestant),
                ("PostgreSQL", |cpu| cpu.postgres),
                ("Redis", |cpu| cpu.redis),
            ];
            for (part, seconds) in parts {
                let spread = Spread::of(rounds.iter().map(|round| micros(seconds(of(round).cpu))));
                let key = format!("{name}_cpu_us_{}", part.to_lowercase());
                report.figure(&key, &format!("{name}, CPU of {part}"), "µs/msg", spread);
            }
        }
    }

    fn run_json(&self, round: &Round) -> serde_json::Value {
        json!({
            "rate": rounded(self.rate(&round.ours), 0),
            "rate_net": rounded(self.rate_between(&round.ours), 0),
            "limit_rate": rounded(self.rate(&round.limit), 0),
            "limit_rate_net": rounded(self.rate_between(&round.limit), 0),
            "ratio_to_limit": rounded(self.rate(&round.ours) / self.rate(&round.limit), 3),
            "rss_mib_peak": rounded(round.ours.rss_peak_mib, 1),
            "redis_benchmark_rate": rounded(round.redis_benchmark, 0),
            "claims_rate": rounded(round.claims, 0),
        })
    }
}

fn ours(round: &Round) -> &Run {
    &round.ours
}

fn limit(round: &Round) -> &Run {
    &round.limit
}

impl Cpu {
    fn since(self, before: Self) -> Self {
        Self {
            contestant: self.contestant - before.contestant,
            postgres: self.postgres - before.postgres,
            redis: self.redis - before.redis,
        }
    }
}
