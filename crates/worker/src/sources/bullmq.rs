//! `bullmq`: takes jobs from a BullMQ queue, which the relay's sink of this name or a `Queue` of BullMQ's fills.
//!
//! Workers of BullMQ may take jobs from the same queue. A job that is taken is `active`, with a lock that runs out; by
//! that it is this worker's for BullMQ too, and one whose lock has run out is taken over from whomever. Nothing is
//! kept in Redis but what BullMQ keeps there itself. Needs Redis 6.2.
//!
//! Each call that takes has a lock of its own, so that a call that arrives late settles nothing that was taken since.
//! An answer that got lost may have taken jobs that nobody knows of. So after every fault, and now and then, what
//! bears locks of this worker is compared with what was handed out.

mod additions;
mod job;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex as Shared,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use posthaste_redis::{RedisServer, RedisSettings};
use redis::{Cmd, Value, from_redis_value};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::{sync::Mutex, time::Instant};

use self::{
    additions::BullmqAdditions,
    job::{Job, Origin, TopicOf},
};
use super::{
    redis_link::{self, Call, Link, Looks},
    redis_tail::ListenFrom,
};
use crate::{
    crew::Crew,
    listener::Additions,
    source::{Delivery, Fate, InvalidSource, Source, SourceError, SourceKind, Token},
};

/// The registry entry.
pub(super) const KIND: SourceKind = SourceKind {
    name: "bullmq",
    about: "takes jobs from a BullMQ queue, beside BullMQ's own workers",
    parse,
    listen: Some(listen),
    schema: || RedisSettings::extend_schema(schemars::schema_for!(BullmqSettings)),
};

macro_rules! script {
    ($name:literal) => {
        concat!(include_str!("bullmq/queue.lua"), include_str!($name))
    };
}

const TAKE: &str = script!("bullmq/take.lua");
const CLAIM: &str = script!("bullmq/claim.lua");
const BEAT: &str = script!("bullmq/beat.lua");
const SETTLE: &str = script!("bullmq/settle.lua");

/// Jobs of one call: each is about ten commands, and a call holds Redis for a few milliseconds.
const CALL_MAX: usize = 100;
/// Jobs of one step through what is active.
const PIECE: usize = 500;
/// Bytes after which one call takes no further job: it holds Redis for a few milliseconds then.
const TAKE_BYTES: usize = 8 << 20;
/// The versions of BullMQ whose queues the scripts know.
const KNOWN_VERSIONS: &str = "bullmq 5 from 5.10 on and bullmq 6";

/// Settings of a `bullmq` source.
///
/// A handled job is `completed`, with what its options say of `removeOnComplete`; one that nobody could handle is
/// `failed`, likewise.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BullmqSettings {
    /// BullMQ's `prefix`, as its queues and workers have it. In a Redis Cluster it must hold a hash tag, `{bull}`.
    #[serde(default = "default_prefix")]
    prefix: String,
    /// Name of the queue. The relay fills it by a sink `bullmq`, with `format = "envelope"` or `"cloudevents"` where its
    /// messages are jobs or their headers count.
    queue: String,
    /// The topic of a job that is neither an envelope nor an event: the job's `name`, or the `queue`'s.
    #[serde(default)]
    topic: TopicOf,
    /// How long what a worker holds stays its own after it was last heard of, 1 second to 1 hour: the time for which
    /// jobs are locked.
    #[serde(default = "redis_link::half_a_minute", with = "humantime_serde")]
    #[schemars(with = "String")]
    lease: Duration,
    /// Where a listener begins: at the `beginning` of the events that the queue still holds, or `now`.
    #[serde(default)]
    listen_from: ListenFrom,
}

fn default_prefix() -> String {
    "bull".to_owned()
}

fn parse(table: toml::Table) -> Result<Box<dyn Source>, InvalidSource> {
    let (server, origin, settings) = checked(table)?;
    let names = std::slice::from_ref(&origin.base);
    Ok(Box::new(BullmqSource {
        about: format!("{server} queue {}", origin.base),
        calls: Link::new(&server, names),
        waits: Link::new(&server, names),
        origin,
        lease: settings.lease,
        worker: redis_link::worker_name(),
        count: AtomicU64::new(0),
        taking: Mutex::default(),
        held: Shared::default(),
        has_left: AtomicBool::new(false),
    }))
}

fn listen(table: toml::Table) -> Result<Box<dyn Additions>, InvalidSource> {
    let (server, origin, settings) = checked(table)?;
    Ok(Box::new(BullmqAdditions::new(&server, origin, settings.listen_from)))
}

fn checked(
    table: toml::Table,
) -> Result<(Arc<RedisServer>, Origin, BullmqSettings), InvalidSource> {
    let (server, mut settings) = redis_link::parse_table::<BullmqSettings>(table)?;
    settings.lease = redis_link::check_lease(settings.lease)?;
    let prefix = redis_link::check_name("prefix", settings.prefix.clone())?;
    let queue = redis_link::check_name("queue", settings.queue.clone())?;
    if queue.contains(':') {
        let message = "queue must have no colon, which names of BullMQ's queues must not; what stands \
                       before it belongs into prefix";
        return Err(redis_link::invalid("queue", message));
    }
    let origin = Origin { base: format!("{prefix}:{queue}"), queue, topic: settings.topic };
    Ok((server, origin, settings))
}

struct BullmqSource {
    about: String,
    /// For everything that Redis answers at once.
    calls: Link,
    /// For waiting until something happens in the queue.
    waits: Link,
    origin: Origin,
    lease: Duration,
    worker: String,
    /// Calls that took something: the number of the next lock.
    count: AtomicU64,
    taking: Mutex<Looks>,
    /// Jobs that are handed out and not settled, each with its lock. `take` adds, and changes the lock of one that was
    /// lost and taken again; `settle` removes.
    held: Shared<HashMap<Vec<u8>, String>>,
    /// A job was taken again while its first delivery was being settled, and nobody has it in hand. Up in `settle`,
    /// down when `take` looks.
    has_left: AtomicBool,
}

/// What a call has taken, and its lock.
struct Taken {
    jobs: Vec<Job>,
    lock: String,
}

/// What a queue says that has nothing to give.
struct Empty {
    /// When there may be something, though nothing happens.
    again: Option<Duration>,
    /// The last event.
    last: Vec<u8>,
}

impl BullmqSource {
    /// A name for a lock that no call has had.
    fn lock(&self) -> String {
        format!("{}:{}", self.worker, self.count.fetch_add(1, Ordering::Relaxed))
    }

    async fn run(
        &self,
        doing: &str,
        text: &'static str,
        arguments: impl Fn(&mut Cmd) + Send + Sync,
    ) -> Result<Value, SourceError> {
        let call = Call { text, keys: &[&self.origin.base] };
        let answer = self.calls.run(doing, &call, arguments).await?;
        match misfit(&answer) {
            None => Ok(answer),
            Some(version) => Err(SourceError::new(format!(
                "{doing}: queue {:?} is of version {version:?}, as its meta says, and known are \
                 {KNOWN_VERSIONS}; nothing was done",
                self.origin.base
            ))),
        }
    }

    /// Takes what is there.
    async fn next(&self, limit: usize) -> Result<(Taken, Empty), SourceError> {
        const DOING: &str = "taking jobs";
        let lock = self.lock();
        let answer = self.run(DOING, TAKE, |command| {
            command.arg(limit.min(CALL_MAX)).arg(&lock).arg(self.lease.as_millis() as u64);
            command.arg(&self.worker).arg(TAKE_BYTES);
        });
        let answer = from_redis_value::<(Value, i64, Vec<u8>)>(answer.await?);
        let (found, pause, last) = answer.map_err(|_| self.calls.unexpected(DOING))?;
        let jobs = jobs(&found).ok_or_else(|| self.calls.unexpected(DOING))?;
        let again = u64::try_from(pause).ok().map(Duration::from_millis);
        Ok((Taken { jobs, lock }, Empty { again, last }))
    }

    /// Waits until something happens in the queue. Listening takes nothing from workers that wait for a marker.
    async fn wait(&self, empty: &Empty, wait: Duration) -> Result<(), SourceError> {
        let wait = wait.min(empty.again.unwrap_or(wait));
        // No time at all would mean for ever.
        let wait = wait.max(Duration::from_millis(1));
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(1).arg("BLOCK").arg(wait.as_millis() as u64);
        command.arg("STREAMS").arg(format!("{}:events", self.origin.base)).arg(&empty.last);
        self.waits.query_waiting("waiting for jobs", &command, wait).await.map(drop)
    }

    /// Jobs that are active, those first that came first, each with its lock. What moves meanwhile may be missing.
    async fn active(&self) -> Result<Vec<(Vec<u8>, Option<String>)>, SourceError> {
        const DOING: &str = "looking at what is held";
        let mut all = Vec::new();
        loop {
            let mut command = redis::cmd("LRANGE");
            command.arg(format!("{}:active", self.origin.base));
            let end = -1 - all.len() as i64;
            command.arg(end + 1 - PIECE as i64).arg(end);
            let ids = self.calls.query(DOING, &command).await?;
            let mut ids: Vec<Vec<u8>> =
                from_redis_value(ids).map_err(|_| self.calls.unexpected(DOING))?;
            ids.reverse();
            let is_last = ids.len() < PIECE;
            if !ids.is_empty() {
                let mut command = redis::cmd("MGET");
                for id in &ids {
                    command.arg([self.origin.base.as_bytes(), b":", id, b":lock"].concat());
                }
                let locks = self.calls.query(DOING, &command).await?;
                let locks: Vec<Option<String>> =
                    from_redis_value(locks).map_err(|_| self.calls.unexpected(DOING))?;
                all.extend(ids.into_iter().zip(locks));
            }
            if is_last {
                return Ok(all);
            }
        }
    }

    fn is_own(&self, lock: &str) -> bool {
        lock.strip_prefix(&self.worker).is_some_and(|rest| rest.starts_with(':'))
    }

    /// Takes what this worker holds and nobody has heard of, and what workers held that are gone, the oldest first.
    /// Answers as well whether nothing of it is left.
    async fn take_over(&self, limit: usize) -> Result<(Taken, bool), SourceError> {
        const DOING: &str = "taking over jobs";
        // Read before Redis is asked: what is settled meanwhile is missing there, not here.
        let held = Crew::lock(&self.held).clone();
        let active = self.active().await?;
        let is_free = |(_, lock): &(_, Option<String>)| match lock {
            Some(lock) => self.is_own(lock),
            None => true,
        };
        let found = active.into_iter().filter(is_free).map(|(id, _)| id);
        // Its own may have been silent as well.
        let mut found: Vec<Vec<u8>> = found.filter(|id| !held.contains_key(id)).collect();
        let room = limit.min(CALL_MAX);
        let (is_all, lock) = (found.len() <= room, self.lock());
        found.truncate(room);
        if found.is_empty() {
            return Ok((Taken { jobs: Vec::new(), lock }, is_all));
        }
        let answer = self.run(DOING, CLAIM, |command| {
            command.arg(&lock).arg(self.lease.as_millis() as u64).arg(&self.worker).arg(&found);
        });
        let jobs = jobs(&answer.await?).ok_or_else(|| self.calls.unexpected(DOING))?;
        if !jobs.is_empty() {
            let count = jobs.len();
            tracing::warn!(source = self.about, count, "took over jobs that nobody had in hand");
        }
        Ok((Taken { jobs, lock }, is_all))
    }

    /// Notes jobs as held, and hands them out unless they are in hand: those were taken for lost, and are this worker's
    /// again.
    fn hand_out(&self, taken: Taken) -> Vec<Delivery> {
        let mut held = Crew::lock(&self.held);
        let mut new = Vec::with_capacity(taken.jobs.len());
        for job in taken.jobs {
            if held.insert(job.id.clone(), taken.lock.clone()).is_none() {
                new.push(Delivery { message: job.task(&self.origin), token: Token(job.id) });
            }
        }
        new
    }

    async fn settle_held(&self, settled: &[(Vec<u8>, String, &Fate)]) -> Result<(), SourceError> {
        for piece in settled.chunks(CALL_MAX) {
            let answer = self.run("settling jobs", SETTLE, |command| {
                for (id, lock, fate) in piece {
                    let (fate, reason) = match fate {
                        Fate::Done => ("done", ""),
                        Fate::GiveBack => ("again", ""),
                        Fate::Bury { reason } => ("bury", reason.as_str()),
                    };
                    command.arg(id).arg(lock).arg(fate).arg(reason);
                }
            });
            answer.await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Source for BullmqSource {
    fn describe(&self) -> &str {
        &self.about
    }

    async fn take(&self, limit: usize, wait: Duration) -> Result<Vec<Delivery>, SourceError> {
        let mut looks = self.taking.lock().await;
        if looks.begin() {
            // What waits there would be in the way.
            self.waits.close().await;
        }
        let began = Instant::now();
        let mut found = Vec::new();
        if self.has_left.swap(false, Ordering::AcqRel) || looks.is_due(self.lease) {
            let (taken, is_all) = self.take_over(limit).await?;
            found = self.hand_out(taken);
            looks.looked(is_all);
        }
        while found.is_empty() {
            let (taken, empty) = self.next(limit).await?;
            let is_empty = taken.jobs.is_empty();
            found = self.hand_out(taken);
            let left = wait.saturating_sub(began.elapsed());
            if !found.is_empty() || left.is_zero() {
                break;
            }
            if is_empty {
                self.wait(&empty, left).await?;
            }
        }
        looks.end();
        Ok(found)
    }

    async fn settle(&self, settled: &[(Token, Fate)]) -> Result<(), SourceError> {
        let (again, others): (Vec<_>, Vec<_>) =
            settled.iter().partition(|(_, fate)| *fate == Fate::GiveBack);
        // The last one that goes back is the first to be taken.
        let ordered = others.into_iter().chain(again.into_iter().rev());
        let ordered: Vec<_> = {
            let held = Crew::lock(&self.held);
            let with_lock = ordered.filter_map(|(token, fate)| {
                let lock = held.get(&token.0)?.clone();
                Some((token.0.clone(), lock, fate))
            });
            with_lock.collect()
        };
        self.settle_held(&ordered).await?;
        let mut held = Crew::lock(&self.held);
        for (id, settled, _) in &ordered {
            if held.remove(id).is_some_and(|lock| lock != *settled) {
                self.has_left.store(true, Ordering::Release);
            }
        }
        Ok(())
    }

    fn lease(&self) -> Option<Duration> {
        Some(self.lease)
    }

    async fn beat(&self) -> Result<(), SourceError> {
        let held: Vec<(Vec<u8>, String)> = {
            let held = Crew::lock(&self.held);
            held.iter().map(|(id, lock)| (id.clone(), lock.clone())).collect()
        };
        for piece in held.chunks(PIECE) {
            let answer = self.run("keeping what is held", BEAT, |command| {
                command.arg(self.lease.as_millis() as u64);
                for (id, lock) in piece {
                    command.arg(id).arg(lock);
                }
            });
            answer.await?;
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), SourceError> {
        let _taking = self.taking.lock().await;
        self.waits.close().await;
        let active = self.active().await?;
        let own = active.into_iter().rev().filter_map(|(id, lock)| {
            let lock = lock.filter(|lock| self.is_own(lock))?;
            Some((id, lock, &Fate::GiveBack))
        });
        let own: Vec<_> = own.collect();
        self.settle_held(&own).await
    }
}

/// The version of a queue that the scripts do not know.
fn misfit(answer: &Value) -> Option<String> {
    let Value::Array(parts) = answer else { return None };
    let [Value::BulkString(word), version] = parts.as_slice() else { return None };
    (word == b"MISFIT").then(|| from_redis_value(version.clone()).unwrap_or_default())
}

/// Jobs as the scripts answer them: `[[id, field, …], …]`.
fn jobs(answer: &Value) -> Option<Vec<Job>> {
    let Value::Array(jobs) = answer else { return None };
    let job = |job: &Value| {
        let Value::Array(parts) = job else { return None };
        let (id, values) = parts.split_first()?;
        Job::of(from_redis_value(id.clone()).ok()?, values)
    };
    jobs.iter().map(job).collect()
}
