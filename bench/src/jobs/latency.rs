//! From `XADD` to the handler, open loop: entries as the relay's sink writes them are due by the clock.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use posthaste_core::{Message, job::JOB_HEADER};
use posthaste_relay::clock;
use posthaste_testkit::failure::{During, Failure, Result};
use posthaste_worker::{Done, Task};
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::queue::{self, jobs_of, settings, start};
use crate::{
    Options,
    messages::{Messages, PAYLOAD_BYTES, STREAM, TOPIC},
    open_loop::millis,
    resp,
    servers::{Log, Servers},
};

/// At the beginning connections meet every statement for the first time: not counted.
const WARM_UP: u64 = 2;
/// Time for the sender to get ready.
const LEAD: Duration = Duration::from_millis(200);

/// When an entry was due, and sent.
type Sent = HashMap<Uuid, (Instant, Instant)>;

/// Sorted milliseconds of the entries that count.
#[derive(Debug)]
pub(super) struct Latencies {
    pub(super) from_due: Vec<f64>,
    pub(super) from_call: Vec<f64>,
}

/// Messages that are no jobs, or jobs (`is_jobs`) that have been submitted, at the rate and for the seconds asked for.
pub(super) async fn run(
    options: &Options,
    servers: &Servers,
    (log, round, seconds): (&Log, u32, u64),
    is_jobs: bool,
) -> Result<Latencies> {
    servers.flush_redis()?;
    let count = u64::from(options.rate) * (seconds + WARM_UP);
    let store = jobs_of(log)?;
    let ids = if is_jobs {
        queue::submit(log, &*store, count, true).await?
    } else {
        (0..count).map(|_| Uuid::now_v7()).collect()
    };
    let entries: Vec<(Uuid, Vec<u8>)> = ids
        .into_iter()
        .zip(Messages::new(PAYLOAD_BYTES).take(count as usize))
        .map(|(id, message)| (id, entry(id, &message, is_jobs)))
        .collect();
    let handled = Arc::new(Mutex::new(HashMap::with_capacity(entries.len())));
    let of_handler = Arc::clone(&handled);
    let handler = move |task: Task| {
        let now = Instant::now();
        let mut handled = of_handler.lock().unwrap_or_else(PoisonError::into_inner);
        handled.entry(task.message().id).or_insert(now);
        async { Ok(Done::default()) }
    };
    let worker = start(servers, store, settings(format!("latency-{round}")), handler)?;
    worker.until_ready().await?;
    let redis = servers.redis_client()?;
    let rate = options.rate;
    let sent = spawn_blocking(move || send(redis, &entries, rate)).await.during("send")??;
    worker.until(count).await?;
    worker.stop().await?;
    let handled = handled.lock().unwrap_or_else(PoisonError::into_inner);
    matched(&sent, &handled)
}

/// Adds each entry at its time or, behind a slow predecessor, at once.
fn send(mut redis: resp::Client, entries: &[(Uuid, Vec<u8>)], rate: u32) -> Result<Sent> {
    let start = Instant::now() + LEAD;
    let mut sent = HashMap::with_capacity(entries.len());
    for (nth, (id, command)) in entries.iter().enumerate() {
        let due = start + Duration::from_secs_f64(nth as f64 / f64::from(rate));
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let called = Instant::now();
        redis.pipeline(command, 1)?;
        sent.insert(*id, (due, called));
    }
    Ok(sent)
}

/// What the sink `redis-stream` adds for a message, `posthaste-xid` aside.
fn entry(id: Uuid, message: &Message, is_job: bool) -> Vec<u8> {
    let id = id.to_string();
    let header = format!("h:{JOB_HEADER}");
    let mut arguments = vec!["XADD", STREAM, "*", "id", &id, "topic", TOPIC];
    let now = clock::rfc3339(clock::now());
    if let Some(key) = message.ordering_key() {
        arguments.extend(["key", key]);
    }
    arguments.extend(["content_type", message.media_type(), "enqueued_at", &now]);
    if is_job {
        arguments.extend([&*header, &*id]);
    }
    let mut arguments: Vec<&[u8]> = arguments.into_iter().map(str::as_bytes).collect();
    arguments.extend([b"payload".as_slice(), message.payload()]);
    let mut command = Vec::new();
    resp::write_command(&mut command, &arguments);
    command
}

fn matched(sent: &Sent, handled: &HashMap<Uuid, Instant>) -> Result<Latencies> {
    let warm = sent.values().map(|(due, _)| *due + Duration::from_secs(WARM_UP)).min();
    let mut latencies = Latencies { from_due: Vec::new(), from_call: Vec::new() };
    for (id, (due, called)) in sent {
        let Some(at) = handled.get(id) else {
            return Err(Failure::new(format!("message {id} never came to the handler")));
        };
        if Some(*due) >= warm {
            latencies.from_due.push(millis(*due, *at));
            latencies.from_call.push(millis(*called, *at));
        }
    }
    latencies.from_due.sort_by(f64::total_cmp);
    latencies.from_call.sort_by(f64::total_cmp);
    Ok(latencies)
}
