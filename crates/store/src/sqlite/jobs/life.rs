//! The steps in the life of a job: what triggers of `0012_jobs.sql` do not decide, under the write lock.

use std::collections::HashSet;

use posthaste_core::{
    HeaderObject, JobState, Message, MessageId, NewJob, Timestamp, message::JSON,
};
use rusqlite::{Row, types::Type};
use uuid::Uuid;

use super::uuid;
use crate::{
    Begun, Cancelled, Cron, Ended, Handed, JobId, Outcome, Result, Retried, WorkerId,
    jobs::unregistered,
    sqlite::{clock, session::Scope},
    statements::SqliteJobs,
};

/// What [`found`] reads of a job, in its order.
const FOUND: &str = "select id, n, state, key, message_id, attempt, attempts_max, is_blocked, \
                     is_cancel_wanted, unique_key from @schema@_job";

/// A job as its life is decided by.
pub(super) struct Found {
    id: JobId,
    pub(super) n: i64,
    state: JobState,
    key: Option<String>,
    message: MessageId,
    attempt: u32,
    attempts_max: Option<u32>,
    is_blocked: bool,
    is_cancel_wanted: bool,
    unique_key: Option<String>,
}

pub(super) fn state(row: &Row<'_>, at: usize) -> rusqlite::Result<JobState> {
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

pub(super) fn find(scope: &Scope<'_>, id: JobId) -> Result<Option<Found>> {
    scope.first(&format!("{FOUND} where id = ?1"), [id.as_bytes()], found)
}

/// Messages above the position `before` have just moved into the log.
pub(in crate::sqlite) fn note_moved(scope: &Scope<'_>, before: i64) -> Result<()> {
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

pub(super) fn submit(scope: &Scope<'_>, jobs: &[NewJob]) -> Result<Vec<JobId>> {
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

pub(super) fn begin(scope: &Scope<'_>, worker: WorkerId, jobs: &[Handed]) -> Result<Vec<Begun>> {
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
pub(super) fn finish(scope: &Scope<'_>, worker: WorkerId, ended: &[Ended]) -> Result<Vec<bool>> {
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

pub(super) fn retire(
    scope: &Scope<'_>,
    worker: Option<WorkerId>,
    attempts_max: u32,
) -> Result<u64> {
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

pub(super) fn republish(scope: &Scope<'_>, ids: &[JobId]) -> Result<Vec<JobId>> {
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

pub(super) fn refuse(scope: &Scope<'_>, jobs: &[(JobId, String)]) -> Result<Vec<JobId>> {
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

pub(super) fn cancel(scope: &Scope<'_>, id: JobId) -> Result<Cancelled> {
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

pub(super) fn tick(scope: &Scope<'_>, cron: &Cron, next_at: Timestamp) -> Result<Option<JobId>> {
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

pub(super) fn retry(scope: &Scope<'_>, id: JobId, attempts: u32) -> Result<Retried> {
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
