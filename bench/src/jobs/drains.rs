//! Drains: messages through the inbox, and whole lives of jobs.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use posthaste_testkit::failure::{During, Failure, Result};
use posthaste_worker::{Done, Task};

use super::queue::{self, jobs_of, settings, start};
use crate::{
    Options,
    servers::{Log, Servers, connect},
};

/// How jobs come to the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// All are in the stream before it begins.
    Queued,
    /// The relay starts when it does, and publishes beside it.
    Live,
    /// As queued, with 10,000 keys.
    Keyed,
}

/// Messages a second, from the start of a worker until all of a full stream are handled and its inbox knows.
/// The log holds `count` of them, and nothing else.
pub(super) async fn inbox(
    options: &Options,
    servers: &Servers,
    log: &Log,
    (round, count): (u32, u64),
) -> Result<f64> {
    servers.flush_redis()?;
    queue::publish(options, servers, log, format!("inbox-{round}"), count).await?;
    let runs = Arc::new(AtomicU64::new(0));
    let of_handler = Arc::clone(&runs);
    let handler = move |_: Task| {
        of_handler.fetch_add(1, Ordering::Relaxed);
        async { Ok(Done::default()) }
    };
    let consumer = format!("round-{round}");
    let worker = start(servers, jobs_of(log)?, settings(consumer.clone()), handler)?;
    let took = worker.until(count).await?;
    worker.stop().await?;
    let sql = "select count(*) from posthaste.inbox where consumer = $1";
    let row = connect(&log.url).await?.query_one(sql, &[&consumer]).await.during("count rows")?;
    let (rows, runs) = (row.get::<_, i64>(0) as u64, runs.load(Ordering::Relaxed));
    if rows != count || runs != count {
        let found =
            format!("of {count} messages the inbox has {rows}, and the handler ran {runs} times");
        return Err(Failure::new(found));
    }
    Ok(count as f64 / took.as_secs_f64())
}

/// Jobs a second, from the start of a worker until all are completed, each with a receipt.
pub(super) async fn lives(
    options: &Options,
    servers: &Servers,
    life: Life,
    count: u64,
) -> Result<f64> {
    servers.flush_redis()?;
    let log = servers.log().await?;
    let store = jobs_of(&log)?;
    queue::submit(&log, &*store, count, life == Life::Keyed).await?;
    let name = "jobs".to_owned();
    let relay = if life == Life::Live {
        Some(queue::relay(options, servers, &log, name, false)?)
    } else {
        queue::publish(options, servers, &log, name, count).await?;
        None
    };
    let worker = start(servers, store, settings("jobs".to_owned()), queue::trivial)?;
    let took = worker.until(count).await?;
    worker.stop().await?;
    if let Some(relay) = relay {
        relay.stop().await?;
    }
    queue::check_each_was_run_once(&log, count).await?;
    Ok(count as f64 / took.as_secs_f64())
}
