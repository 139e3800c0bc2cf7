//! `held`: a drain beside a transaction that has taken a position and stays open, after minutes of
//! load with it, beside the same drain without it. Each has servers of its own: a transaction
//! that is open in one database is part of every snapshot of its server.

use std::time::{Duration, Instant};

use posthaste::Outbox;
use posthaste_testkit::failure::{During, Result};
use tokio::{task::JoinSet, time::sleep};
use tokio_postgres::Client;

use crate::{
    Options,
    duel::{Duel, Side},
    messages::{Messages, PAYLOAD_BYTES, STREAM},
    open_loop::send_all,
    progress,
    relay::{EXACTLY_ONCE, LONG, Rejected, Relay, Setup},
    report::{Report, Spread},
    servers::{Log, Servers, connect, dead_rows},
};

const MESSAGES: u64 = 500_000;
/// Time under load before the drains.
const SECONDS: u64 = 600;
/// Rows of a transaction that is rolled back, one a second.
const ROLLED_BACK: usize = 100;

/// A log, and what was done to it.
struct Loaded {
    log: Log,
    committed: u64,
    rolled_back: u64,
}

pub(crate) async fn run(options: &Options, servers: &Servers) -> Result<Report> {
    let others = Servers::start(options.redis)?;
    let (held, free) = (servers.log().await?, others.log().await?);
    let mut holder = connect(&held.url).await?;
    let open = holder.transaction().await.during("begin")?;
    let mut messages = Messages::new(PAYLOAD_BYTES);
    Outbox::default().enqueue(&open, &messages.next()).await.during("enqueue")?;
    let since = Instant::now();
    let (held, free) = tokio::join!(load(options, servers, held), load(options, &others, free));
    let (held, free) = (held?, free?);
    let measured = Side {
        key: "held",
        name: "with a transaction held open",
        servers,
        log: &held.log,
        stream: STREAM,
        delivery: EXACTLY_ONCE,
        expected: held.committed,
    };
    let beside = Side {
        key: "free",
        name: "without",
        servers: &others,
        log: &free.log,
        expected: free.committed,
        ..measured
    };
    let count = held.committed;
    let mut report = Duel { name: "held", measured, beside, count }.run(options).await?;
    let held_for = since.elapsed().as_secs_f64() / 60.0;
    report.figure("held_minutes", "held open for", "min", Spread::of([held_for]));
    let dead = dead_rows(&connect(&held.log.url).await?).await? as f64;
    report.figure("dead_rows", "dead rows in the log", "", Spread::of([dead]));
    let rolled_back = held.rolled_back as f64;
    report.figure("rolled_back", "rolled back", "", Spread::of([rolled_back]));
    open.rollback().await.during("roll back")?;
    Ok(report)
}

/// Writes beside a relay for a while, and then what is to be drained.
async fn load(options: &Options, servers: &Servers, log: Log) -> Result<Loaded> {
    let mut relay = Relay::start(&Setup {
        program: &options.posthaste,
        database_url: &log.url,
        redis_url: &servers.redis.url(),
        subscriptions: vec!["load".to_owned()],
        stream: STREAM,
        delivery: EXACTLY_ONCE,
        rejected: Rejected::DeadLetter { max: 1 },
        from: "beginning",
        once: false,
        retention: LONG,
    })?;
    // Half of it for each of the two.
    let (rate, seconds) = (options.rate / 2, options.seconds.unwrap_or(SECONDS));
    progress(format_args!("{rate} messages/s for {seconds} s"));
    let mut rolling_back = JoinSet::new();
    rolling_back.spawn(roll_back(connect(&log.url).await?, seconds));
    let sent = send_all(&log.url, rate, seconds).await?.len() as u64;
    relay.must_run()?;
    relay.stop().await?;
    let rolled_back = match rolling_back.join_next().await {
        Some(rolled_back) => rolled_back.during("roll messages back")??,
        None => 0,
    };
    servers.flush_redis()?;
    let count = options.messages.unwrap_or(MESSAGES);
    Messages::new(PAYLOAD_BYTES).fill(&*log.store, count).await?;
    // No vacuum: what is dead is to be counted.
    let client = connect(&log.url).await?;
    client.batch_execute("analyze; checkpoint").await.during("bring the tables to rest")?;
    Ok(Loaded { log, committed: sent + count, rolled_back })
}

/// Writes and takes back, once a second; answers how many rows.
async fn roll_back(mut client: Client, seconds: u64) -> Result<u64> {
    let (outbox, mut messages) = (Outbox::default(), Messages::new(PAYLOAD_BYTES));
    let mut rows = 0;
    for _ in 0..seconds {
        let transaction = client.transaction().await.during("begin")?;
        let part = messages.take(ROLLED_BACK);
        outbox.enqueue_many(&transaction, &part).await.during("enqueue")?;
        transaction.rollback().await.during("roll back")?;
        rows += part.len() as u64;
        sleep(Duration::from_secs(1)).await;
    }
    Ok(rows)
}
