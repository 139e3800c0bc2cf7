//! Jobs: what triggers of `0012_jobs.sql` do not decide, under the write lock.

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use posthaste_core::{
    HeaderObject, Headers, JobState, Message, MessageId, NewJob, Timestamp, job::Waiting,
    message::JSON,
};
use rusqlite::{Row, types::Type};
use serde_json::json;
use uuid::Uuid;

use super::{SqliteStore, clock, headers, operations::audit, session::Scope};
use crate::{
    Beat, Begun, Cancelled, Cron, Ended, Execution, Handed, Job, JobDetail, JobFilter, JobId, Jobs,
    Outcome, Receipt, Request, Result, Retried, Selection, StoreError, StoreErrorKind, WaitingJob,
    WorkerId, WorkerSpec,
    jobs::unregistered,
    statements::{SqliteJobs, SqliteWriter},
};

/// What [`job`] reads, in its order.
const COLUMNS: &str = "id, n, state, topic, key, correlation_id, message_id, attempt, attempts_max, \
                       worker, is_blocked, reason, progress, created_at, due_at, started_at, \
                       finished_at";

/// What [`found`] reads of a job, in its order.
const FOUND: &str = "select id, n, state, key, message_id, attempt, attempts_max, is_blocked, \
                     is_cancel_wanted, unique_key from @schema@_job";

/// A job as its life is decided by.
struct Found {
    id: JobId,
    n: i64,
    state: JobState,
    key: Option<String>,
    message: MessageId,
    attempt: u32,
    attempts_max: Option<u32>,
    is_blocked: bool,
    is_cancel_wanted: bool,
    unique_key: Option<String>,
}

fn uuid(row: &Row<'_>, at: usize) -> rusqlite::Result<Uuid> {
    row.get(at).map(Uuid::from_bytes)
}

fn state(row: &Row<'_>, at: usize) -> rusqlite::Result<JobState> {
    row.get::<_, String>(at)?.parse().map_err(|error: posthaste_core::job::UnknownState| {
        rusqlite::Error::FromSqlConversionFailure(at, Type::Text, error.into())
    })
}

fn found(row: &Row<'_>) -> rusqlite::Result<Found> {
    Ok(Found {
        id: uuid(row, 0)?,
        n: row.get(1)?,
        state: state(row, 2)?,
        key: row.get(3)?,
        message: uuid(row, 4)?,
        attempt: row.get(5)?,
        attempts_max: row.get(6)?,
        is_blocked: row.get(7)?,
        is_cancel_wanted: row.get(8)?,
        unique_key: row.get(9)?,
    })
}

fn find(scope: &Scope<'_>, id: JobId) -> Result<Option<Found>> {
    scope.first(&format!("{FOUND} where id = ?1"), [id.as_bytes()], found)
}

/// Messages above the position `before` have just moved into the log.
pub(super) fn note_moved(scope: &Scope<'_>, before: i64) -> Result<()> {
    scope.run(
        "update @schema@_job set state = case state when 'scheduled' then 'created' else state end, \
         message_position = (select l.position from @schema@_log l \
           where l.position > ?1 and l.id = @schema@_job.message_id) \
         where finished_at is null and message_id in (select id from @schema@_log where position > ?1)",
        [before],
    )?;
    Ok(())
}

/// Whether an earlier job of the key is not over, or a later one runs: this one was dead then, and is retried.
fn is_behind(scope: &Scope<'_>, job: &Found) -> Result<bool> {
    let Some(key) = &job.key else { return Ok(false) };
    let earlier = "select 1 from @schema@_job where key = ?1 and (n < ?2 or state = 'running') \
                   and finished_at is null";
    Ok(scope.first(earlier, (key, job.n), |_| Ok(()))?.is_some())
}

/// Has jobs published again by new messages: now, or when they are due.
fn publish(scope: &Scope<'_>, ids: &[JobId]) -> Result<()> {
    let now = scope.now_micros()?;
    let columns = "id, topic, key, payload, content_type, headers, correlation_id";
    let message = "message_id, topic, key, payload, content_type, \
                   json_set(headers, '$.\"posthaste-job\"', ?2), correlation_id";
    for id in ids {
        let (id, named) = (id.as_bytes(), id.to_string());
        scope.run(
            "update @schema@_job set message_id = ?2, message_position = null, is_blocked = 0 \
             where id = ?1",
            (id, MessageId::now_v7().as_bytes()),
        )?;
        let is_now = scope.run(
            &format!(
                "insert into @schema@_log ({columns}) select {message} from @schema@_job \
                 where id = ?1 and coalesce(due_at, 0) <= ?3"
            ),
            (id, &named, now),
        )? > 0;
        if is_now {
            // Of the insert just now: nobody else writes.
            let newest = "(select max(position) from @schema@_log)";
            let sql = format!(
                "update @schema@_job set message_position = {newest}, \
                 state = case state when 'scheduled' then 'created' else state end where id = ?1"
            );
            scope.run(&sql, [id])?;
        } else {
            scope.run(
                &format!(
                    "insert into @schema@_scheduled ({columns}, deliver_at) \
                     select {message}, due_at from @schema@_job where id = ?1"
                ),
                (id, &named),
            )?;
        }
    }
    Ok(())
}

/// The next job of a key is published again, where it waits for that.
fn release(scope: &Scope<'_>, key: Option<&String>) -> Result<()> {
    let Some(key) = key else { return Ok(()) };
    let next = scope.first(
        &format!("{FOUND} where key = ?1 and finished_at is null order by n limit 1"),
        [key],
        found,
    )?;
    match next {
        Some(next) if next.is_blocked => publish(scope, &[next.id]),
        _ => Ok(()),
    }
}

fn submit(scope: &Scope<'_>, jobs: &[NewJob]) -> Result<Vec<JobId>> {
    let statements = SqliteJobs::new(scope.schema());
    let mut submit = scope.prepare(&statements.submit)?;
    let mut submitted = scope.prepare(&statements.submitted)?;
    let mut ids = Vec::with_capacity(jobs.len());
    for job in jobs {
        let message = job.message();
        let id = message.message_id().unwrap_or_else(MessageId::now_v7);
        let headers = HeaderObject(message.header_pairs()).to_string();
        submit.execute((
            id.as_bytes(),
            message.topic(),
            message.ordering_key(),
            message.payload(),
            message.media_type(),
            headers,
            message.correlation(),
            message.idempotency_token(),
            job.unique(),
            job.attempts_max().unwrap_or(0),
            message.due().map_or(0, |due| due.0),
        ))?;
        let named = (id.as_bytes(), message.idempotency_token(), job.unique());
        ids.push(submitted.query_row(named, |row| uuid(row, 1))?);
    }
    Ok(ids)
}

fn begin(scope: &Scope<'_>, worker: WorkerId, jobs: &[Handed]) -> Result<Vec<Begun>> {
    let registered = "select 1 from @schema@_worker where id = ?1";
    if scope.first(registered, [worker.as_bytes()], |_| Ok(()))?.is_none() {
        return Err(unregistered());
    }
    let now = scope.now_micros()?;
    let mut run = HashSet::new();
    let begin = |handed: &Handed| {
        let begun = begin_one(scope, worker, handed, now)?;
        // Of several deliveries of one message, one.
        let is_repeat = matches!(begun, Begun::Run { .. }) && !run.insert(handed.job);
        Ok(if is_repeat { Begun::Running } else { begun })
    };
    jobs.iter().map(begin).collect()
}

fn begin_one(scope: &Scope<'_>, worker: WorkerId, handed: &Handed, now: i64) -> Result<Begun> {
    let Some(job) = find(scope, handed.job)? else { return Ok(Begun::Unknown) };
    Ok(match job.state {
        state if state.is_final() => Begun::Over,
        _ if job.message != handed.message => Begun::Stale,
        JobState::Created | JobState::Failed if is_behind(scope, &job)? => {
            let block = "update @schema@_job set is_blocked = 1 where id = ?1";
            scope.run(block, [job.id.as_bytes()])?;
            Begun::Blocked
        }
        JobState::Created | JobState::Failed if !job.is_blocked => {
            scope.run(
                "update @schema@_job set state = 'running', worker = ?2, attempt = attempt + 1, \
                 started_at = ?3 where id = ?1",
                (job.id.as_bytes(), worker.as_bytes(), now),
            )?;
            Begun::Run { attempt: job.attempt + 1, attempts_max: job.attempts_max }
        }
        JobState::Created | JobState::Failed => Begun::Blocked,
        // Its own, whose answer was lost.
        JobState::Running if is_its_own(scope, &job, worker)? => {
            Begun::Run { attempt: job.attempt, attempts_max: job.attempts_max }
        }
        _ => Begun::Running,
    })
}

fn is_its_own(scope: &Scope<'_>, job: &Found, worker: WorkerId) -> Result<bool> {
    let own = "select 1 from @schema@_job where id = ?1 and worker = ?2";
    let own = scope.first(own, (job.id.as_bytes(), worker.as_bytes()), |_| Ok(()))?;
    Ok(own.is_some())
}

/// Ends attempts. The trigger does nothing of those that are not the worker's.
fn finish(scope: &Scope<'_>, worker: WorkerId, ended: &[Ended]) -> Result<Vec<bool>> {
    let statements = SqliteJobs::new(scope.schema());
    let mut held = scope
        .prepare("select 1 from @schema@_job where id = ?1 and worker = ?2 and attempt = ?3")?;
    let mut finish = scope.prepare(&statements.finish)?;
    ended
        .iter()
        .map(|ended| {
            let (id, worker) = (ended.job.as_bytes(), worker.as_bytes());
            let is_held = held.exists((id, worker, ended.attempt))?;
            if is_held {
                let wait = ended.outcome.wait();
                let wait = wait.map(|wait| i64::try_from(wait.as_micros()).unwrap_or(i64::MAX));
                finish.execute((
                    worker,
                    id,
                    ended.attempt,
                    ended.outcome.as_str(),
                    &ended.reason,
                    wait,
                    ended.receipt.as_ref().map(|receipt| &receipt.body),
                    ended.receipt.as_ref().map(|receipt| &receipt.content_type),
                    MessageId::now_v7().as_bytes(),
                ))?;
            }
            Ok(is_held)
        })
        .collect()
}

fn retire(scope: &Scope<'_>, worker: Option<WorkerId>, attempts_max: u32) -> Result<u64> {
    let now = clock::look(scope)?;
    let gone = scope.all(
        "select id, name from @schema@_worker where case when ?1 is null then lease_until < ?2 \
         else id = ?1 end",
        (worker.map(Uuid::into_bytes), now),
        |row| Ok((uuid(row, 0)?, row.get::<_, String>(1)?)),
    )?;
    let mut taken = 0;
    for (id, name) in gone {
        let running = scope.all(&format!("{FOUND} where worker = ?1"), [id.as_bytes()], found)?;
        let end = |job: Found| Ended {
            job: job.id,
            attempt: job.attempt,
            outcome: if job.is_cancel_wanted {
                Outcome::Cancelled
            } else if job.attempt >= job.attempts_max.unwrap_or(attempts_max) {
                Outcome::Dead
            } else {
                Outcome::Lost
            },
            reason: Some(format!("the worker \"{name}\" was lost or stopped")),
            receipt: None,
        };
        let ended: Vec<Ended> = running.into_iter().map(end).collect();
        taken += finish(scope, id, &ended)?.len() as u64;
        scope.run("delete from @schema@_worker where id = ?1", [id.as_bytes()])?;
    }
    Ok(taken)
}

fn waiting(scope: &Scope<'_>, age: Duration, limit: u32) -> Result<Vec<WaitingJob>> {
    let now = scope.now_micros()?;
    // The subscriptions that read a job's topic; and when the first of them had published it.
    let reads = "(exists (select 1 from json_each(s.topics) t where t.value = j.topic) \
                  or exists (select 1 from json_each(s.prefixes) p \
                             where substr(j.topic, 1, length(p.value)) = p.value))";
    let count = |condition: &str| {
        format!("(select count(*) from @schema@_subscription s where {reads} and {condition})")
    };
    let set_aside = "@schema@_failed_message f where f.position = j.message_position \
                     and f.id = j.message_id order by f.due is not null limit 1";
    // Queues keep their order but for priorities, and workers that of a key.
    let priority = "'$.\"bullmq-priority\"'";
    let sql = format!(
        "select w.*, (select count(*) from @schema@_worker k where k.lease_until > ?1 \
             and exists (select 1 from json_each(k.topics) t where t.value = w.topic)), \
           (select count(*) from @schema@_worker k where k.lease_until > ?1 \
             and exists (select 1 from json_each(k.topics) t where t.value = w.topic) \
             and k.empty_at > w.published_at + 2000000), \
           w.is_in_order and exists (select 1 from @schema@_job r \
             where r.worker is not null and r.attempt = 1 and r.topic = w.topic \
               and r.created_at > w.published_at + 2000000 \
               and json_extract(r.headers, {priority}) is null) \
         from (select j.id, j.topic, ?1 - coalesce(j.due_at, j.created_at), \
           j.message_position is not null \
             or exists (select 1 from @schema@_scheduled c where c.id = j.message_id), \
           j.is_blocked and exists (select 1 from @schema@_job e \
             where e.key = j.key and (e.n < j.n or e.state = 'running') \
               and e.finished_at is null), \
           {}, {}, {}, (select f.reason from {set_aside}), \
           coalesce((select f.due is null from {set_aside}), 0), \
           case when j.message_position is null then null \
             when not exists (select 1 from @schema@_log l where l.position = j.message_position) \
             then j.created_at \
             else (select min(d.published_at) from @schema@_delivery d \
                   where d.position = j.message_position and d.state = 'published') end \
             as published_at, \
           json_extract(j.headers, {priority}) is null \
             and (j.key is null or not exists (select 1 from @schema@_job e \
               where e.key = j.key and e.n < j.n and e.finished_at is null)) as is_in_order \
         from @schema@_job j where j.state in ('created', 'failed') \
           and coalesce(j.due_at, j.created_at) <= ?1 - ?2 order by j.created_at limit ?3) w",
        count("true"),
        count("s.expires_at > ?1"),
        count("s.paused_at is not null"),
    );
    let age = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
    scope.all(&sql, (now, age, limit), |row| {
        Ok(WaitingJob {
            id: uuid(row, 0)?,
            topic: row.get(1)?,
            waited: Duration::from_micros(row.get::<_, i64>(2)?.max(0).cast_unsigned()),
            known: Waiting {
                is_written: row.get(3)?,
                is_blocked: row.get(4)?,
                subscriptions: row.get(5)?,
                held: row.get(6)?,
                paused: row.get(7)?,
                refusal: row.get(8)?,
                is_dead_letter: row.get(9)?,
                is_published: row.get::<_, Option<i64>>(10)?.is_some(),
                workers: row.get(12)?,
                idle_workers: row.get(13)?,
                is_overtaken: row.get(14)?,
            },
        })
    })
}

/// Those of `ids` that wait and that no worker has had.
fn unbegun(scope: &Scope<'_>, ids: &[JobId]) -> Result<Vec<Found>> {
    let mut unbegun = Vec::new();
    for id in ids {
        let job = find(scope, *id)?;
        let waits = |job: &Found| matches!(job.state, JobState::Created | JobState::Failed);
        unbegun.extend(job.filter(waits));
    }
    Ok(unbegun)
}

/// Whether its message waits for its time, or for a subscription to publish it.
fn is_on_its_way(scope: &Scope<'_>, job: &Found) -> Result<bool> {
    let scheduled = "select 1 from @schema@_scheduled where id = ?1";
    if scope.first(scheduled, [job.message.as_bytes()], |_| Ok(()))?.is_some() {
        return Ok(true);
    }
    let pending = "select 1 from @schema@_job j join @schema@_delivery d \
                   on d.position = j.message_position and d.state = 'pending' where j.n = ?1 \
                   and not exists (select 1 from @schema@_delivery p \
                     where p.position = j.message_position and p.state = 'published')";
    Ok(scope.first(pending, [job.n], |_| Ok(()))?.is_some())
}

fn republish(scope: &Scope<'_>, ids: &[JobId]) -> Result<Vec<JobId>> {
    let mut published = Vec::new();
    for job in unbegun(scope, ids)? {
        if !is_on_its_way(scope, &job)? {
            let due = "update @schema@_job set state = 'created', due_at = null where id = ?1";
            scope.run(due, [job.id.as_bytes()])?;
            publish(scope, &[job.id])?;
            published.push(job.id);
        }
    }
    Ok(published)
}

fn refuse(scope: &Scope<'_>, jobs: &[(JobId, String)]) -> Result<Vec<JobId>> {
    let mut refused = Vec::new();
    for (id, reason) in jobs {
        for job in unbegun(scope, &[*id])? {
            scope.run(
                "update @schema@_job set state = 'dead', reason = substr(?2, 1, 4096), \
                 finished_at = ?3, due_at = null, is_blocked = 0 where id = ?1",
                (job.id.as_bytes(), reason, scope.now_micros()?),
            )?;
            release(scope, job.key.as_ref())?;
            refused.push(job.id);
        }
    }
    Ok(refused)
}

fn cancel(scope: &Scope<'_>, id: JobId) -> Result<Cancelled> {
    let Some(job) = find(scope, id)? else { return Ok(Cancelled::Unknown) };
    if job.state.is_final() {
        return Ok(Cancelled::Over);
    }
    if job.state == JobState::Running {
        let want = "update @schema@_job set is_cancel_wanted = 1 where id = ?1";
        scope.run(want, [id.as_bytes()])?;
        return Ok(Cancelled::Wanted);
    }
    scope.run("delete from @schema@_scheduled where id = ?1", [job.message.as_bytes()])?;
    scope.run(
        "update @schema@_job set state = 'cancelled', finished_at = ?2, due_at = null, \
         is_blocked = 0 where id = ?1",
        (id.as_bytes(), scope.now_micros()?),
    )?;
    release(scope, job.key.as_ref())?;
    Ok(Cancelled::Done)
}

fn tick(scope: &Scope<'_>, cron: &Cron, next_at: Timestamp) -> Result<Option<JobId>> {
    let now = scope.now_micros()?;
    let ticked = scope.run(
        "update @schema@_cron set next_at = ?3, last_at = ?2 \
         where name = ?1 and next_at = ?2 and next_at <= ?4",
        (&cron.name, cron.next_at.0, next_at.0, now),
    )?;
    if ticked == 0 {
        return Ok(None);
    }
    let wanted = &cron.definition;
    let token = format!("cron {} {}", cron.name, cron.next_at.0 / 1_000_000);
    let mut message =
        Message::new(&wanted.topic).bytes(JSON, wanted.payload.as_bytes()).token(token);
    if let Some(key) = &wanted.key {
        message = message.key(key);
    }
    let mut job = NewJob::of(message);
    if let Some(key) = &wanted.unique_key {
        job = job.unique_key(key);
    }
    if let Some(attempts) = wanted.attempts {
        job = job.attempts(attempts);
    }
    Ok(submit(scope, &[job])?.first().copied())
}

fn retry(scope: &Scope<'_>, id: JobId, attempts: u32) -> Result<Retried> {
    let Some(job) = find(scope, id)? else { return Ok(Retried::Unknown) };
    let twin = "select 1 from @schema@_job where unique_key = ?1 and finished_at is null";
    match job.state {
        JobState::Completed => return Ok(Retried::Over),
        JobState::Dead | JobState::Cancelled
            if scope.first(twin, [&job.unique_key], |_| Ok(()))?.is_some() =>
        {
            return Ok(Retried::Over);
        }
        JobState::Dead | JobState::Cancelled | JobState::Failed => {}
        state => return Ok(Retried::Under(state)),
    }
    scope.run("delete from @schema@_scheduled where id = ?1", [job.message.as_bytes()])?;
    scope.run(
        "update @schema@_job set state = 'created', finished_at = null, due_at = null, \
         is_cancel_wanted = 0, attempts_max = min(attempt + max(?2, 1), 1000) where id = ?1",
        (id.as_bytes(), attempts),
    )?;
    publish(scope, &[id])?;
    Ok(Retried::Done)
}

fn job(row: &Row<'_>) -> rusqlite::Result<Job> {
    let time = |at| row.get::<_, Option<i64>>(at).map(|at| at.map(Timestamp));
    let id: String = row.get(0)?;
    let id = id.parse().map_err(|error: uuid::Error| {
        rusqlite::Error::FromSqlConversionFailure(0, Type::Text, error.into())
    })?;
    Ok(Job {
        id,
        n: row.get(1)?,
        state: state(row, 2)?,
        topic: row.get(3)?,
        key: row.get(4)?,
        correlation_id: row.get(5)?,
        message_id: uuid(row, 6)?,
        attempt: row.get(7)?,
        attempts_max: row.get(8)?,
        worker: row.get(9)?,
        is_blocked: row.get(10)?,
        reason: row.get(11)?,
        progress: row.get(12)?,
        created_at: time(13)?.unwrap_or_default(),
        due_at: time(14)?,
        started_at: time(15)?,
        finished_at: time(16)?,
    })
}

fn detail(scope: &Scope<'_>, id: JobId) -> Result<Option<JobDetail>> {
    let Some(stored) = find(scope, id)? else { return Ok(None) };
    let own = format!("select {COLUMNS} from @schema@_jobs where n = ?1");
    let Some(job) = scope.first(&own, [stored.n], job)? else { return Ok(None) };
    let rest = "select content_type, payload, headers from @schema@_job where n = ?1";
    let rest = scope
        .first(rest, [stored.n], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, String>(2)?)))?;
    let Some((content_type, payload, packed)) = rest else { return Ok(None) };
    let executions = scope.all(
        "select attempt, worker, started_at, ended_at, outcome, reason \
         from @schema@_execution where job_id = ?1 order by n",
        [id.as_bytes()],
        |row| {
            Ok(Execution {
                attempt: row.get(0)?,
                worker: row.get(1)?,
                started_at: Timestamp(row.get(2)?),
                ended_at: Timestamp(row.get(3)?),
                outcome: row.get(4)?,
                reason: row.get(5)?,
            })
        },
    )?;
    let receipts = scope.all(
        "select attempt, content_type, body from @schema@_receipt where job_id = ?1 order by n",
        [id.as_bytes()],
        |row| Ok((row.get(0)?, Receipt { content_type: row.get(1)?, body: row.get(2)? })),
    )?;
    let mut pairs = Vec::new();
    headers::pack(&packed, &mut pairs)
        .map_err(|error| StoreError::caused(StoreErrorKind::Unexpected, "read headers", error))?;
    let headers = Headers::packed(&pairs).iter();
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Ok(Some(JobDetail { job, content_type, payload, headers, executions, receipts }))
}

fn list(names: &[String]) -> String {
    json!(names).to_string()
}

/// Does what a person wants and notes it; a dry run takes both back.
fn noted<T: std::fmt::Debug>(
    scope: &Scope<'_>,
    action: &str,
    id: JobId,
    request: &Request,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    scope.run_all("savepoint noted")?;
    let outcome = work()?;
    if request.is_dry_run {
        scope.run_all("rollback to noted")?;
    } else {
        let detail = json!({ "job": id.to_string(), "outcome": format!("{outcome:?}") });
        audit(scope, action, &Selection::default(), detail, request)?;
    }
    scope.run_all("release noted")?;
    Ok(outcome)
}

#[async_trait]
impl Jobs for SqliteStore {
    async fn submit_jobs(&self, jobs: &[NewJob]) -> Result<Vec<JobId>> {
        let jobs = jobs.to_vec();
        self.write("submit jobs", move |scope| submit(scope, &jobs)).await
    }

    async fn register_worker(&self, worker: &WorkerSpec, lease: Duration) -> Result<WorkerId> {
        let worker = worker.clone();
        self.write("register a worker", move |scope| {
            let id = WorkerId::now_v7();
            let until = clock::look(scope)?.saturating_add(micros(lease));
            scope.run(
                "insert into @schema@_worker (id, name, topics, sources, version, lease_until) \
                 values (?1, ?2, ?3, ?4, ?5, ?6)",
                (
                    id.as_bytes(),
                    &worker.name,
                    list(&worker.topics),
                    list(&worker.sources),
                    &worker.version,
                    until,
                ),
            )?;
            Ok(id)
        })
        .await
    }

    async fn renew_worker(
        &self,
        worker: WorkerId,
        lease: Duration,
        is_empty: bool,
    ) -> Result<Beat> {
        self.write("renew a worker", move |scope| {
            let now = clock::look(scope)?;
            let renewed = scope.run(
                "update @schema@_worker set seen_at = ?2, lease_until = ?3, \
                 empty_at = case when ?4 then ?2 else empty_at end where id = ?1",
                (worker.as_bytes(), now, now.saturating_add(micros(lease)), is_empty),
            )?;
            let cancelled = scope.all(
                "select id from @schema@_job where worker = ?1 and is_cancel_wanted",
                [worker.as_bytes()],
                |row| uuid(row, 0),
            )?;
            Ok(Beat { is_registered: renewed > 0, cancelled })
        })
        .await
    }

    async fn retire_workers(&self, worker: Option<WorkerId>, attempts_max: u32) -> Result<u64> {
        self.write("retire workers", move |scope| retire(scope, worker, attempts_max)).await
    }

    async fn begin_jobs(&self, worker: WorkerId, jobs: &[Handed]) -> Result<Vec<Begun>> {
        let jobs = jobs.to_vec();
        self.write("begin jobs", move |scope| begin(scope, worker, &jobs)).await
    }

    async fn finish_jobs(&self, worker: WorkerId, ended: &[Ended]) -> Result<Vec<bool>> {
        let ended = ended.to_vec();
        self.write("finish jobs", move |scope| finish(scope, worker, &ended)).await
    }

    async fn handled(&self, consumer: &str, ids: &[MessageId]) -> Result<Vec<MessageId>> {
        let (consumer, ids) = (consumer.to_owned(), ids.to_vec());
        self.observe("look into the inbox", move |scope| {
            let mut known = scope
                .prepare("select 1 from @schema@_inbox where consumer = ?1 and message_id = ?2")?;
            let mut handled = Vec::new();
            for id in ids {
                if known.exists((&consumer, id.as_bytes()))? {
                    handled.push(id);
                }
            }
            Ok(handled)
        })
        .await
    }

    async fn record_handled(&self, consumer: &str, ids: &[MessageId]) -> Result<()> {
        let (consumer, ids) = (consumer.to_owned(), ids.to_vec());
        self.write("record handled messages", move |scope| {
            let statements = SqliteWriter::new(scope.schema());
            let mut record = scope.prepare(&statements.handle_once)?;
            for id in &ids {
                record.execute((&consumer, id.as_bytes()))?;
            }
            Ok(())
        })
        .await
    }

    async fn note_progress(
        &self,
        worker: WorkerId,
        progress: &[(JobId, u32, String)],
    ) -> Result<()> {
        let progress = progress.to_vec();
        self.write("note progress", move |scope| {
            for (id, attempt, progress) in &progress {
                scope.run(
                    "update @schema@_job set progress = ?4 \
                     where id = ?1 and worker = ?2 and attempt = ?3",
                    (id.as_bytes(), worker.as_bytes(), attempt, progress),
                )?;
            }
            Ok(())
        })
        .await
    }

    async fn waiting_jobs(&self, age: Duration, limit: u32) -> Result<Vec<WaitingJob>> {
        self.observe("look for jobs that wait", move |scope| waiting(scope, age, limit)).await
    }

    async fn republish_jobs(&self, jobs: &[JobId]) -> Result<Vec<JobId>> {
        let jobs = jobs.to_vec();
        self.write("publish jobs again", move |scope| republish(scope, &jobs)).await
    }

    async fn refuse_jobs(&self, jobs: &[(JobId, String)]) -> Result<Vec<JobId>> {
        let jobs = jobs.to_vec();
        self.write("refuse jobs", move |scope| refuse(scope, &jobs)).await
    }

    async fn push_crons(&self, crons: &[Cron]) -> Result<()> {
        let crons = crons.to_vec();
        self.write("push crons", move |scope| {
            for cron in &crons {
                let definition = serde_json::to_string(&cron.definition).unwrap_or_default();
                scope.run(
                    "insert into @schema@_cron (name, definition, next_at) values (?1, ?2, ?3) \
                     on conflict (name) do update set definition = excluded.definition, \
                     next_at = excluded.next_at where definition <> excluded.definition",
                    (&cron.name, definition, cron.next_at.0),
                )?;
            }
            Ok(())
        })
        .await
    }

    async fn crons(&self) -> Result<(Timestamp, Vec<Cron>)> {
        self.observe("read the crons", |scope| {
            let now = scope.now_micros()?;
            let sql = "select name, definition, next_at from @schema@_cron order by name";
            let crons = scope.all(sql, [], |row| {
                let definition: String = row.get(1)?;
                let definition = serde_json::from_str(&definition).map_err(|error| {
                    rusqlite::Error::FromSqlConversionFailure(1, Type::Text, error.into())
                })?;
                Ok(Cron { name: row.get(0)?, definition, next_at: Timestamp(row.get(2)?) })
            })?;
            Ok((Timestamp(now), crons))
        })
        .await
    }

    async fn tick_cron(&self, cron: &Cron, next_at: Timestamp) -> Result<Option<JobId>> {
        let cron = cron.clone();
        self.write("submit a job that is due", move |scope| tick(scope, &cron, next_at)).await
    }

    async fn remove_cron(&self, name: &str, request: &Request) -> Result<bool> {
        let (name, request) = (name.to_owned(), request.clone());
        self.write("remove a cron", move |scope| {
            let gone = scope.run("delete from @schema@_cron where name = ?1", [&name])? > 0;
            if gone {
                let detail = json!({ "cron": name });
                audit(scope, "remove-cron", &Selection::default(), detail, &request)?;
            }
            Ok(gone)
        })
        .await
    }

    async fn jobs(&self, which: &JobFilter, limit: u32) -> Result<Vec<Job>> {
        let which = which.clone();
        self.observe("list jobs", move |scope| {
            let sql = format!(
                "select {COLUMNS} from @schema@_jobs where (?1 is null or state = ?1) \
                 and (?2 is null or topic = ?2) and (?3 is null or key = ?3) \
                 and (?4 is null or n < ?4) order by n desc limit ?5"
            );
            let state = which.state.map(JobState::as_str);
            scope.all(&sql, (state, which.topic, which.key, which.before, limit), job)
        })
        .await
    }

    async fn job(&self, id: JobId) -> Result<Option<JobDetail>> {
        self.observe("read a job", move |scope| detail(scope, id)).await
    }

    async fn cancel_job(&self, id: JobId, request: &Request) -> Result<Cancelled> {
        let request = request.clone();
        self.write("cancel a job", move |scope| {
            noted(scope, "cancel-job", id, &request, || cancel(scope, id))
        })
        .await
    }

    async fn retry_job(&self, id: JobId, attempts: u32, request: &Request) -> Result<Retried> {
        let request = request.clone();
        self.write("retry a job", move |scope| {
            noted(scope, "retry-job", id, &request, || retry(scope, id, attempts))
        })
        .await
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
