//! `parked`: a hot key whose destination refuses it for an hour, while its followers wait in the log
//! and its neighbours run: what that costs the neighbours, the relay's memory and the tables, and how
//! fast the followers drain afterwards, in order.
//!
//! The destination of the hot key is a Redis key of another type; deleting it is the remedy.

mod arrivals;

use std::time::{Duration, Instant};

use posthaste::{Message, Outbox};
use posthaste_core::message::TEXT;
use posthaste_store::Request;
use posthaste_testkit::failure::{During, Failure, Result};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_postgres::Client;

use self::arrivals::Arrivals;
use crate::{
    Options,
    messages::{PAYLOAD_BYTES, TOPIC},
    process, progress,
    relay::{EXACTLY_ONCE, LONG, Rejected, Relay, Setup},
    report::{Report, Spread, rounded},
    servers::{Log, Servers, connect, dead_rows},
};

const SECONDS: u64 = 3_600;
const SUBSCRIPTION: &str = "parked";
/// Where a message goes stands in its header; both streams begin alike, as their place's name does.
const STREAM: &str = "bench:{header:to}";
const HEADER: &str = "to";
const HOT: &str = "hot";
const HOT_STREAM: &str = "bench:hot";
const COLD: &str = "cold";
const COLD_STREAM: &str = "bench:cold";
/// One message in so many is of the hot key.
const HOT_SHARE: u64 = 3;
const COLD_KEYS: u64 = 10_000;
/// Transactions of the load in a second.
const TRANSACTIONS_PER_SECOND: u32 = 50;
/// Messages of a burst of the neighbours.
const BURST: u64 = 200_000;
const BURST_TRANSACTION: u64 = 1_000;
/// How long a relay takes to notice that a subscription was paused, and to come to rest.
const PAUSING: Duration = Duration::from_secs(2);
/// Looks at memory and tables during the load.
const SAMPLES: u64 = 60;
/// How many of them are its beginning, and its end.
const EDGE: usize = 10;
/// What has not arrived by then hangs.
const LIMIT: Duration = Duration::from_mins(10);

/// A figure of a look.
type Look = fn(&Sample) -> f64;

/// What stands on one machine for one run.
struct Run<'a> {
    options: &'a Options,
    servers: &'a Servers,
    log: Log,
    relay: Relay,
    writer: Writer,
    cold: Arrivals,
}

/// Writes messages, numbered in the order of their commits.
struct Writer {
    client: Client,
    outbox: Outbox,
    number: u64,
    hot: u64,
    cold: u64,
}

/// One look at what should not grow.
#[derive(Clone, Copy, Debug)]
struct Sample {
    rss_mib: f64,
    /// Tables and indexes that hold neither messages nor their ticks and places.
    tables_kib: f64,
    log_mib: f64,
    /// Neighbours that have been committed and have not arrived.
    behind: f64,
}

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    let log = servers.log().await?;
    let relay = Relay::start(&Setup {
        program: &options.posthaste,
        database_url: &log.url,
        redis_url: &servers.redis.url(),
        subscriptions: vec![SUBSCRIPTION.to_owned()],
        stream: STREAM,
        delivery: EXACTLY_ONCE,
        rejected: Rejected::ParkKey,
        from: "beginning",
        once: false,
        retention: LONG,
    })?;
    servers.redis_client()?.query(&[b"SET", HOT_STREAM.as_bytes(), b"not a stream"])?;
    let writer = Writer::connect(&log.url).await?;
    let cold = Arrivals::start(servers.redis.port(), COLD_STREAM)?;
    Run { options, servers, log, relay, writer, cold }.measure().await
}

impl Run<'_> {
    async fn measure(mut self) -> Result<Report> {
        self.writer.write(1, false).await?;
        self.all_neighbours().await?;
        let mut free = self.bursts("nothing parked").await?;
        let since = Instant::now();
        let samples = self.load().await?;
        let beside = Spread::of(self.bursts("a key parked").await?);
        let parked_for = since.elapsed();
        self.must_have_parked_one_key().await?;
        let drained_in = self.drain_followers().await?;
        // Before and after, so that what else the machine did weighs on both.
        free.extend(self.bursts("nothing parked any more").await?);
        let free = Spread::of(free);
        let dead = dead_rows(&self.writer.client).await?;
        self.relay.stop().await?;
        let (written, arrived) = (self.writer.cold, self.cold.stop()?);
        if arrived != written {
            let message = format!("{arrived} of {written} neighbours arrived");
            return Err(Failure::new(message));
        }
        let followers = self.writer.hot;
        let mut report = Report::new("parked");
        report.figure("rate_free", "neighbours, nothing parked", "msg/s", free);
        report.figure("rate_parked", "neighbours beside the parked key", "msg/s", beside);
        report.set("ratio", rounded(beside.median / free.median, 3));
        flat(&mut report, &samples);
        let minutes = parked_for.as_secs_f64() / 60.0;
        report.figure("parked_minutes", "parked for", "min", Spread::of([minutes]));
        report.figure("followers", "followers", "", Spread::of([followers as f64]));
        let drain_rate = followers as f64 / drained_in.as_secs_f64();
        report.figure(
            "drain_rate",
            "followers drained, from the remedy on",
            "msg/s",
            Spread::of([drain_rate]),
        );
        report.figure("dead_rows", "dead rows in the log", "", Spread::of([dead as f64]));
        report.note(format!(
            "one key parked for {minutes:.0} min with {followers} followers, {written} neighbours: \
             all arrived, each key in order, nothing twice"
        ));
        Ok(report)
    }

    /// How fast neighbours drain that were written while the subscription was paused: from the
    /// first to the last entry, on Redis's clock.
    async fn bursts(&mut self, what: &str) -> Result<Vec<f64>> {
        let mut rates = Vec::new();
        for number in 0..=self.options.runs {
            self.pause(true).await?;
            sleep(PAUSING).await;
            self.cold.mark();
            for _ in 0..BURST / BURST_TRANSACTION {
                self.writer.write(BURST_TRANSACTION, false).await?;
            }
            self.pause(false).await?;
            self.all_neighbours().await?;
            let seen = self.cold.seen();
            let elapsed = seen.last_ms.saturating_sub(seen.first_ms.unwrap_or(seen.last_ms));
            let rate = BURST as f64 * 1_000.0 / elapsed.max(1) as f64;
            // The first warms the caches.
            if number > 0 {
                let runs = self.options.runs;
                progress(format_args!("round {number} of {runs}, {what}: {rate:.0}/s"));
                rates.push(rate);
            }
        }
        Ok(rates)
    }

    async fn pause(&self, is_paused: bool) -> Result<()> {
        let request = Request { actor: "bench".to_owned(), is_dry_run: false, is_forced: false };
        self.log.store.pause(SUBSCRIPTION, is_paused, &request).await.during("pause")
    }

    async fn all_neighbours(&mut self) -> Result<()> {
        self.arrived(self.writer.cold, None).await
    }

    /// Waits until so many messages have arrived, of the neighbours unless others are given.
    async fn arrived(&mut self, count: u64, of: Option<&Arrivals>) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        let arrivals = of.unwrap_or(&self.cold);
        while arrivals.seen().count < count {
            self.relay.must_run()?;
            if arrivals.has_failed() || Instant::now() > deadline {
                let seen = arrivals.seen();
                return Err(Failure::new(format!("{seen:?} and not {count} have arrived")));
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Messages at a steady rate, one in three for the hot key, with looks at memory and tables.
    async fn load(&mut self) -> Result<Vec<Sample>> {
        let seconds = self.options.seconds.unwrap_or(SECONDS);
        let rate = u64::from(self.options.rate.max(TRANSACTIONS_PER_SECOND));
        progress(format_args!("{rate} messages/s for {seconds} s"));
        let transactions = seconds * u64::from(TRANSACTIONS_PER_SECOND);
        let mut ticks = interval(Duration::from_secs(1) / TRANSACTIONS_PER_SECOND);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut samples = Vec::new();
        for nth in 1..=transactions {
            ticks.tick().await;
            self.writer.write(rate / u64::from(TRANSACTIONS_PER_SECOND), true).await?;
            if nth * SAMPLES / transactions > samples.len() as u64 {
                let sample = self.sample().await?;
                let Sample { rss_mib, tables_kib, log_mib, behind } = sample;
                progress(format_args!(
                    "{} of {SAMPLES}: {} followers, relay {rss_mib:.1} MiB, tables {tables_kib:.0} \
                     KiB, log {log_mib:.0} MiB, {behind} behind",
                    samples.len() + 1,
                    self.writer.hot
                ));
                samples.push(sample);
            }
        }
        self.all_neighbours().await?;
        Ok(samples)
    }

    async fn sample(&mut self) -> Result<Sample> {
        self.relay.must_run()?;
        let sql = "select (sum(size) filter (where not is_ring))::float8 / 1024, \
                   (sum(size) filter (where is_ring))::float8 / 1048576 from \
                   (select pg_total_relation_size(oid) size, \
                           relname ~ '^(log|tick|progress)_[0-9]+$' is_ring from pg_class \
                    where relnamespace = 'posthaste'::regnamespace and relkind = 'r') tables";
        let row = self.writer.client.query_one(sql, &[]).await.during("read the tables' sizes")?;
        let behind = self.writer.cold.saturating_sub(self.cold.seen().count);
        Ok(Sample {
            rss_mib: process::rss_mib(self.relay.pid()).unwrap_or(0.0),
            tables_kib: row.get(0),
            log_mib: row.get(1),
            behind: behind as f64,
        })
    }

    async fn must_have_parked_one_key(&self) -> Result<()> {
        let aside = self.log.store.aside(SUBSCRIPTION).await.during("read what is parked")?;
        match (aside.keys.len(), aside.messages.len()) {
            (1, 0) => Ok(()),
            (keys, messages) => {
                let message = format!("{keys} keys and {messages} messages are set aside, not one");
                Err(Failure::new(message))
            }
        }
    }

    /// Removes what stands in the hot key's way, and waits for its followers.
    async fn drain_followers(&mut self) -> Result<Duration> {
        self.servers.redis_client()?.query(&[b"DEL", HOT_STREAM.as_bytes()])?;
        let since = Instant::now();
        let hot = Arrivals::start(self.servers.redis.port(), HOT_STREAM)?;
        let arrived = self.arrived(self.writer.hot, Some(&hot)).await;
        let elapsed = since.elapsed();
        let count = hot.stop()?;
        arrived?;
        if count == self.writer.hot {
            return Ok(elapsed);
        }
        Err(Failure::new(format!("{count} followers arrived, not {}", self.writer.hot)))
    }
}

/// The beginning of the load beside its end.
fn flat(report: &mut Report, samples: &[Sample]) {
    let edge = EDGE.min(samples.len());
    let (first, last) = (&samples[..edge], &samples[samples.len() - edge..]);
    let figures: [(&str, &str, &str, Look); 2] = [
        ("rss_mib", "relay's memory", "MiB", |sample| sample.rss_mib),
        ("tables_kib", "tables beside the log", "KiB", |sample| sample.tables_kib),
    ];
    for (key, name, unit, of) in figures {
        for (part, samples) in [("first", first), ("last", last)] {
            let spread = Spread::of(samples.iter().map(of));
            let name = format!("{name}, {part} {edge} of {SAMPLES} looks");
            report.figure(&format!("{key}_{part}"), &name, unit, spread);
        }
    }
    let behind = Spread::of(samples.iter().map(|sample| sample.behind));
    report.figure("behind", "neighbours on their way", "", behind);
    let log = samples.last().map_or(0.0, |sample| sample.log_mib);
    report.figure("log_mib", "the log, which keeps what follows", "MiB", Spread::of([log]));
}

impl Writer {
    async fn connect(url: &str) -> Result<Self> {
        let client = connect(url).await?;
        Ok(Self { client, outbox: Outbox::default(), number: 0, hot: 0, cold: 0 })
    }

    /// Commits `count` messages, of the hot key as often as its share is, or never.
    async fn write(&mut self, count: u64, with_hot: bool) -> Result<()> {
        let messages: Vec<Message> = (0..count).map(|_| self.next(with_hot)).collect();
        let transaction = self.client.transaction().await.during("begin")?;
        self.outbox.enqueue_many(&transaction, &messages).await.during("enqueue")?;
        transaction.commit().await.during("commit")
    }

    fn next(&mut self, with_hot: bool) -> Message {
        self.number += 1;
        let is_hot = with_hot && self.number.is_multiple_of(HOT_SHARE);
        let (key, to) = if is_hot {
            self.hot += 1;
            (HOT.to_owned(), HOT)
        } else {
            self.cold += 1;
            (format!("{COLD}-{}", self.number % COLD_KEYS), COLD)
        };
        let payload = format!("{:0PAYLOAD_BYTES$}", self.number);
        Message::new(TOPIC).key(key).header(HEADER, to).bytes(TEXT, payload.into_bytes())
    }
}
