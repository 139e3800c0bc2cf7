//! What people and the watch see of jobs.

use std::time::Duration;

use posthaste_core::{Headers, JobState, Timestamp, job::Waiting};
use rusqlite::{
    Row,
    types::{Type, ValueRef},
};
use serde_json::Value;

use super::{
    life::{find, state},
    uuid,
};
use crate::{
    Execution, Job, JobDetail, JobFilter, JobId, JobPage, Receipt, Result, StoreError,
    StoreErrorKind, WaitingJob,
    job_list::{self, Dialect},
    sqlite::{headers, session::Scope},
};

/// What [`job`] reads, in its order.
const COLUMNS: &str = "id, n, state, topic, key, correlation_id, message_id, attempt, attempts_max, \
                       worker, is_blocked, reason, progress, created_at, due_at, started_at, \
                       finished_at";

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

/// A page of jobs.
pub(super) fn list(scope: &Scope<'_>, which: &JobFilter, limit: u32) -> Result<JobPage> {
    let dialect = Dialect {
        table: "@schema@_job",
        view: "@schema@_jobs",
        columns: COLUMNS,
        key: "n",
        parameters: ["?1", "?2", "?3", "?4"],
        topics: "(?5 is null or l.topic in (select value from json_each(?5)) or exists \
                 (select 1 from json_each(?6) where substr(l.topic, 1, length(value)) = value))",
    };
    let sql = job_list::statement(which, limit, &dialect);
    let json = |topics: &[String]| Value::from(topics).to_string();
    let exact = which.topics.as_ref().map(|topics| json(topics.exact()));
    let prefixes = which.topics.as_ref().map(|topics| json(topics.prefixes()));
    let (state, before) = (which.state.map(JobState::as_str), which.before.unwrap_or(i64::MAX));
    let parameters = (before, state, &which.topic, &which.key, exact, prefixes);
    let found = scope.all(&sql, parameters, |row| {
        let has_job = !matches!(row.get_ref(0)?, ValueRef::Null);
        let found = if has_job { Some(job(row)?) } else { None };
        Ok((found, row.get("low")?))
    })?;
    let low = found.first().map_or(0, |(_, low)| *low);
    let jobs = found.into_iter().filter_map(|(job, _)| job).collect();
    Ok(job_list::page(jobs, low, limit))
}

pub(super) fn detail(scope: &Scope<'_>, id: JobId) -> Result<Option<JobDetail>> {
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

pub(super) fn waiting(scope: &Scope<'_>, age: Duration, limit: u32) -> Result<Vec<WaitingJob>> {
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
