//! Handlers of which one run in ten fails: jobs that are submitted at once keep the order of their keys,
//! and all of them complete.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use posthaste::{Message, NewJob};
use posthaste_core::{Backoff, RetryPolicy};
use posthaste_testkit::failure::{During, Failure, Result};
use posthaste_worker::{Answer, Done, Failed, Task, WorkerSettings};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

use super::queue::{self, jobs_of, settings, start};
use crate::{
    Options,
    messages::TOPIC,
    servers::{Servers, connect},
};

/// Of a hundred runs.
const FAILURES: u32 = 10;
/// As many attempts as no job needs.
const ATTEMPTS: u32 = 10;
const BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(50), cap: Duration::from_millis(500) };

/// What became of the jobs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    pub(super) completed_percent: f64,
    /// Attempts that failed.
    pub(super) failures: u64,
    /// Jobs a second.
    pub(super) rate: f64,
}

/// What the handler has done: numbers of jobs in the order in which they were completed, by key.
struct Flaky {
    random: SmallRng,
    completed: HashMap<Option<String>, Vec<u64>>,
}

/// Submits `count` jobs at once, over `keys` keys if any, and waits until all are over.
pub(super) async fn run(
    options: &Options,
    servers: &Servers,
    (round, count, keys): (u32, u64, Option<u64>),
) -> Result<Outcome> {
    servers.flush_redis()?;
    let log = servers.log().await?;
    let store = jobs_of(&log)?;
    let state =
        Flaky { random: SmallRng::seed_from_u64(u64::from(round)), completed: HashMap::new() };
    let state = Arc::new(Mutex::new(state));
    let of_handler = Arc::clone(&state);
    let retry = RetryPolicy { attempts: ATTEMPTS, backoff: BACKOFF };
    let settings = WorkerSettings { retry, ..settings("failures".to_owned()) };
    let handler = move |task: Task| {
        let answer = flaky(&of_handler, &task);
        async { answer }
    };
    let relay = queue::relay(options, servers, &log, "jobs".to_owned(), false)?;
    let worker = start(servers, store.clone(), settings, handler)?;
    worker.until_ready().await?;
    let jobs: Vec<NewJob> = (0..count).map(|number| job(number, keys)).collect();
    let began = std::time::Instant::now();
    store.submit_jobs(&jobs).await.during("submit jobs")?;
    worker.until(count).await?;
    let took = began.elapsed();
    let counts = worker.stop().await?;
    relay.stop().await?;
    let sql = "select count(*) from posthaste.job where state = 'completed'";
    let row = connect(&log.url).await?.query_one(sql, &[]).await.during("count jobs")?;
    let completed: i64 = row.get(0);
    check_order(&state.lock().unwrap_or_else(PoisonError::into_inner).completed)?;
    Ok(Outcome {
        completed_percent: completed as f64 / count as f64 * 100.0,
        failures: counts.failed,
        rate: count as f64 / took.as_secs_f64(),
    })
}

fn job(number: u64, keys: Option<u64>) -> NewJob {
    let message = Message::new(TOPIC).json(&number);
    NewJob::of(match keys {
        Some(keys) => message.key(format!("key-{}", number % keys)),
        None => message,
    })
}

fn flaky(state: &Mutex<Flaky>, task: &Task) -> Answer {
    let number: u64 = serde_json::from_slice(&task.message().payload)?;
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    if state.random.random_range(0..100) < FAILURES {
        return Err(Failed::retry("one in ten"));
    }
    state.completed.entry(task.message().key.clone()).or_default().push(number);
    Ok(Done::default())
}

fn check_order(completed: &HashMap<Option<String>, Vec<u64>>) -> Result<()> {
    for (key, numbers) in completed {
        if key.is_some() && !numbers.is_sorted_by(|one, next| one < next) {
            return Err(Failure::new(format!("out of order: {key:?}: {numbers:?}")));
        }
    }
    Ok(())
}
