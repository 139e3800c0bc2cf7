//! Jobs: the functions of `0016_jobs.sql`, which decide, and what people read of them.

use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::{
    HeaderObject, JobState, MessageId, NewJob, Timestamp, TopicFilter, job::Waiting,
};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::{PostgresStore, connect::bounded, errors, rows::Micros};
use crate::{
    Beat, Begun, Cancelled, Cron, CronDefinition, Ended, Execution, Handed, Job, JobDetail,
    JobFilter, JobId, JobPage, Jobs, Receipt, Request, Result, Retried, StoreError, StoreErrorKind,
    WaitingJob, WorkerId, WorkerSpec, defect,
    job_list::{self, Dialect},
    jobs::unregistered,
};

pub(super) type Params<'a> = &'a [(&'a (dyn ToSql + Sync), Type)];

/// What [`job`] reads, in its order.
const COLUMNS: &str = "id, n, state, topic, key, correlation_id, message_id, attempt, attempts_max, \
                       worker, is_blocked, reason, progress::text, created_at, due_at, started_at, \
                       finished_at";

impl PostgresStore {
    /// Runs one statement of its own transaction.
    pub(super) async fn rows(
        &self,
        doing: &str,
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>> {
        let loan = self.shared.connections.lend().await?;
        let rows = loan.bounded(doing, loan.client().query_typed(sql, params)).await?;
        loan.give_back();
        Ok(rows)
    }

    /// Calls a function of one answer, and notes a change made by hand in the same statement; a wish that changes nothing
    /// is none.
    async fn noted_call(
        &self,
        action: &str,
        call: &str,
        id: JobId,
        request: &Request,
    ) -> Result<String> {
        let schema = self.schema();
        let sql = format!(
            "with done as materialized (select {schema}.{call} as outcome), noted as (\
             insert into {schema}.audit (actor, action, detail) \
             select $2, '{action}', jsonb_build_object('job', $1::uuid, 'outcome', outcome) from done \
             where outcome in ('cancelled', 'wanted', 'published')) \
             select outcome from done"
        );
        let params: Params<'_> = &[(&id, Type::UUID), (&request.actor, Type::TEXT)];
        let mut loan = self.shared.connections.lend().await?;
        let limit = loan.operation_timeout();
        let work = async {
            let transaction = loan.begin_durably().await?;
            let rows = transaction.query_typed(&sql, params).await?;
            if request.is_dry_run {
                transaction.rollback().await?;
            } else {
                transaction.commit().await?;
            }
            Ok(rows)
        };
        let rows = bounded(limit, action, work).await?;
        loan.give_back();
        rows.first().map(|row| row.get(0)).ok_or_else(|| unexpected(action, "no row"))
    }
}

#[async_trait]
impl Jobs for PostgresStore {
    async fn submit_jobs(&self, jobs: &[NewJob]) -> Result<Vec<JobId>> {
        let sql = format!(
            "select {}.submit_job_bytes(topic, payload, key, headers::json, content_type, \
             correlation_id, id, token, unique_key, attempts, \
             'epoch'::timestamptz + due * interval '1 microsecond') \
             from (select * from unnest($1::text[], $2::bytea[], $3::text[], $4::text[], $5::text[], \
               $6::text[], $7::uuid[], $8::text[], $9::text[], $10::int4[], $11::int8[]) \
               with ordinality as j (topic, payload, key, headers, content_type, correlation_id, id, \
               token, unique_key, attempts, due, nth) order by nth) j",
            self.schema()
        );
        let of = |read: fn(&NewJob) -> Option<&str>| jobs.iter().map(read).collect::<Vec<_>>();
        let headers: Vec<String> =
            jobs.iter().map(|job| HeaderObject(job.message().header_pairs()).to_string()).collect();
        let payloads: Vec<&[u8]> = jobs.iter().map(|job| job.message().payload()).collect();
        let ids: Vec<Option<Uuid>> = jobs.iter().map(|job| job.message().message_id()).collect();
        let attempts: Vec<Option<i32>> =
            jobs.iter().map(|job| job.attempts_max().map(u32::cast_signed)).collect();
        let due: Vec<Option<i64>> =
            jobs.iter().map(|job| job.message().due().map(|due| due.0)).collect();
        let params: Params<'_> = &[
            (&of(|job| Some(job.message().topic())), Type::TEXT_ARRAY),
            (&payloads, Type::BYTEA_ARRAY),
            (&of(|job| job.message().ordering_key()), Type::TEXT_ARRAY),
            (&headers, Type::TEXT_ARRAY),
            (&of(|job| Some(job.message().media_type())), Type::TEXT_ARRAY),
            (&of(|job| job.message().correlation()), Type::TEXT_ARRAY),
            (&ids, Type::UUID_ARRAY),
            (&of(|job| job.message().idempotency_token()), Type::TEXT_ARRAY),
            (&of(NewJob::unique), Type::TEXT_ARRAY),
            (&attempts, Type::INT4_ARRAY),
            (&due, Type::INT8_ARRAY),
        ];
        let rows = match self.rows("submit jobs", &sql, params).await {
            Err(error) if errors::is_strict(&error) => {
                self.submit_locked(jobs, &sql, params).await?
            }
            rows => rows?,
        };
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn register_worker(&self, worker: &WorkerSpec, lease: Duration) -> Result<WorkerId> {
        let doing = "register a worker";
        let sql = format!(
            "select {}.register_worker($1, $2, $3, $4, $5 * interval '1 millisecond')",
            self.schema()
        );
        let lease = millis(lease);
        let params: Params<'_> = &[
            (&worker.name, Type::TEXT),
            (&worker.topics, Type::TEXT_ARRAY),
            (&worker.sources, Type::TEXT_ARRAY),
            (&worker.version, Type::TEXT),
            (&lease, Type::FLOAT8),
        ];
        let rows = self.rows(doing, &sql, params).await?;
        rows.first().map(|row| row.get(0)).ok_or_else(|| unexpected(doing, "no id"))
    }

    async fn renew_worker(
        &self,
        worker: WorkerId,
        lease: Duration,
        is_empty: bool,
    ) -> Result<Beat> {
        let sql = format!(
            "select is_registered, cancelled \
             from {}.renew_worker($1, $2 * interval '1 millisecond', $3)",
            self.schema()
        );
        let lease = millis(lease);
        let params: Params<'_> =
            &[(&worker, Type::UUID), (&lease, Type::FLOAT8), (&is_empty, Type::BOOL)];
        let rows = self.rows("renew a worker", &sql, params).await?;
        let beat = |row: &Row| Beat { is_registered: row.get(0), cancelled: row.get(1) };
        Ok(rows.first().map(beat).unwrap_or_default())
    }

    async fn retire_workers(&self, worker: Option<WorkerId>, attempts_max: u32) -> Result<u64> {
        let mut sql = format!("select {}.retire_workers($1, $2)", self.schema());
        if worker.is_none() && defect::is("ignored-lease") {
            sql = sql.replace("($1", "(coalesce($1, w.id)");
            sql = format!("{sql} from {}.worker w", self.schema());
        }
        let attempts = i32::try_from(attempts_max).unwrap_or(i32::MAX);
        let params: Params<'_> = &[(&worker, Type::UUID), (&attempts, Type::INT4)];
        let rows = self.rows("retire workers", &sql, params).await?;
        Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).cast_unsigned()))
    }

    async fn begin_jobs(&self, worker: WorkerId, jobs: &[Handed]) -> Result<Vec<Begun>> {
        let doing = "begin jobs";
        let sql = format!(
            "select nth, verdict, attempt, attempts_max from {}.begin_jobs($1, $2, $3)",
            self.schema()
        );
        let ids: Vec<Uuid> = jobs.iter().map(|handed| handed.job).collect();
        let messages: Vec<Uuid> = jobs.iter().map(|handed| handed.message).collect();
        let params: Params<'_> =
            &[(&worker, Type::UUID), (&ids, Type::UUID_ARRAY), (&messages, Type::UUID_ARRAY)];
        let rows = self.rows(doing, &sql, params).await?;
        let mut begun = vec![Begun::Unknown; jobs.len()];
        if rows.first().is_some_and(|row| row.get::<_, &str>(1) == "unregistered") {
            return Err(unregistered());
        }
        for row in &rows {
            let nth = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or(usize::MAX);
            let Some(one) = begun.get_mut(nth) else { continue };
            *one = match row.get(1) {
                "begun" => Begun::Run {
                    attempt: row.get::<_, i32>(2).cast_unsigned(),
                    attempts_max: row.get::<_, Option<i32>>(3).map(i32::cast_unsigned),
                },
                "over" => Begun::Over,
                "running" => Begun::Running,
                "stale" => Begun::Stale,
                "blocked" => Begun::Blocked,
                "unknown" => Begun::Unknown,
                other => return Err(unexpected(doing, other)),
            };
        }
        Ok(begun)
    }

    async fn finish_jobs(&self, worker: WorkerId, ended: &[Ended]) -> Result<Vec<bool>> {
        let sql = format!("select {}.finish_jobs($1, $2, $3, $4, $5, $6, $7, $8)", self.schema());
        let ids: Vec<Uuid> = ended.iter().map(|ended| ended.job).collect();
        let attempts: Vec<i32> = ended.iter().map(|ended| ended.attempt.cast_signed()).collect();
        let outcomes: Vec<&str> = ended.iter().map(|ended| ended.outcome.as_str()).collect();
        let reasons: Vec<Option<String>> =
            ended.iter().map(|ended| ended.reason.as_deref().map(plain)).collect();
        let waits: Vec<Option<i64>> = ended
            .iter()
            .map(|ended| ended.outcome.wait())
            .map(|wait| wait.map(|wait| i64::try_from(wait.as_millis()).unwrap_or(i64::MAX)))
            .collect();
        let bodies: Vec<Option<&[u8]>> =
            ended.iter().map(|ended| ended.receipt.as_ref().map(|r| r.body.as_slice())).collect();
        let types: Vec<Option<&str>> = ended
            .iter()
            .map(|ended| ended.receipt.as_ref().map(|r| r.content_type.as_str()))
            .collect();
        let params: Params<'_> = &[
            (&worker, Type::UUID),
            (&ids, Type::UUID_ARRAY),
            (&attempts, Type::INT4_ARRAY),
            (&outcomes, Type::TEXT_ARRAY),
            (&reasons, Type::TEXT_ARRAY),
            (&waits, Type::INT8_ARRAY),
            (&bodies, Type::BYTEA_ARRAY),
            (&types, Type::TEXT_ARRAY),
        ];
        let rows = self.rows("finish jobs", &sql, params).await?;
        let held: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
        Ok(ids.iter().map(|id| held.contains(id)).collect())
    }

    async fn handled(&self, consumer: &str, ids: &[MessageId]) -> Result<Vec<MessageId>> {
        let sql = format!("select {}.handled_messages($1, $2)", self.schema());
        let params: Params<'_> = &[(&consumer, Type::TEXT), (&ids, Type::UUID_ARRAY)];
        let rows = self.rows("look into the inbox", &sql, params).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn record_handled(&self, consumer: &str, ids: &[MessageId]) -> Result<()> {
        let sql = format!("select {}.handle_many($1, $2)", self.schema());
        let params: Params<'_> = &[(&consumer, Type::TEXT), (&ids, Type::UUID_ARRAY)];
        self.rows("record handled messages", &sql, params).await.map(drop)
    }

    async fn note_progress(
        &self,
        worker: WorkerId,
        progress: &[(JobId, u32, String)],
    ) -> Result<()> {
        let sql =
            format!("select {}.note_progress($1, $2, $3, $4::text[]::jsonb[])", self.schema());
        let ids: Vec<Uuid> = progress.iter().map(|(id, ..)| *id).collect();
        let attempts: Vec<i32> = progress.iter().map(|(_, nth, _)| nth.cast_signed()).collect();
        // jsonb knows no NUL.
        let texts: Vec<String> =
            progress.iter().map(|(.., value)| value.replace("\\u0000", "")).collect();
        let params: Params<'_> = &[
            (&worker, Type::UUID),
            (&ids, Type::UUID_ARRAY),
            (&attempts, Type::INT4_ARRAY),
            (&texts, Type::TEXT_ARRAY),
        ];
        self.rows("note progress", &sql, params).await.map(drop)
    }

    async fn waiting_jobs(&self, age: Duration, limit: u32) -> Result<Vec<WaitingJob>> {
        if defect::is("running-republished") {
            let schema = self.schema();
            let sql = format!(
                "update {schema}.job set state = 'created', worker = null \
                 where state = 'running' returning id"
            );
            let rows = self.rows("publish jobs again", &sql, &[]).await?;
            let again: Vec<JobId> = rows.iter().map(|row| row.get(0)).collect();
            self.republish_jobs(&again).await?;
        }
        let sql = format!(
            "select job_id, topic, waited_ms, is_written, is_blocked, subscriptions, held, paused, \
             refusal, is_dead_letter, is_published, workers, idle_workers, \
             is_overtaken \
             from {}.waiting_jobs($1 * interval '1 millisecond', $2)",
            self.schema()
        );
        let (age, limit) = (millis(age), i32::try_from(limit).unwrap_or(i32::MAX));
        let params: Params<'_> = &[(&age, Type::FLOAT8), (&limit, Type::INT4)];
        let rows = self.rows("look for jobs that wait", &sql, params).await?;
        let count = |row: &Row, at: usize| u32::try_from(row.get::<_, i64>(at)).unwrap_or(u32::MAX);
        let waiting = |row: &Row| WaitingJob {
            id: row.get(0),
            topic: row.get(1),
            waited: Duration::from_millis(row.get::<_, i64>(2).max(0).cast_unsigned()),
            known: Waiting {
                is_written: row.get(3),
                is_blocked: row.get(4),
                subscriptions: count(row, 5),
                held: count(row, 6),
                paused: count(row, 7),
                refusal: row.get(8),
                is_dead_letter: row.get(9),
                is_published: row.get(10),
                workers: count(row, 11),
                idle_workers: count(row, 12),
                is_overtaken: row.get(13),
            },
        };
        Ok(rows.iter().map(waiting).collect())
    }

    async fn republish_jobs(&self, jobs: &[JobId]) -> Result<Vec<JobId>> {
        let sql = format!("select {}.republish_jobs($1)", self.schema());
        let params: Params<'_> = &[(&jobs, Type::UUID_ARRAY)];
        let rows = self.rows("publish jobs again", &sql, params).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn refuse_jobs(&self, jobs: &[(JobId, String)]) -> Result<Vec<JobId>> {
        let sql = format!("select {}.refuse_jobs($1, $2)", self.schema());
        let ids: Vec<Uuid> = jobs.iter().map(|(id, _)| *id).collect();
        let reasons: Vec<String> = jobs.iter().map(|(_, reason)| plain(reason)).collect();
        let params: Params<'_> = &[(&ids, Type::UUID_ARRAY), (&reasons, Type::TEXT_ARRAY)];
        let rows = self.rows("refuse jobs", &sql, params).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn push_crons(&self, crons: &[Cron]) -> Result<()> {
        let sql = format!(
            "select {}.push_cron(name, definition::jsonb, \
             'epoch'::timestamptz + next_at * interval '1 microsecond') \
             from unnest($1::text[], $2::text[], $3::int8[]) c (name, definition, next_at)",
            self.schema()
        );
        let names: Vec<&str> = crons.iter().map(|cron| cron.name.as_str()).collect();
        let definitions: Vec<String> =
            crons.iter().map(|cron| definition_json(&cron.definition)).collect();
        let times: Vec<i64> = crons.iter().map(|cron| cron.next_at.0).collect();
        let params: Params<'_> = &[
            (&names, Type::TEXT_ARRAY),
            (&definitions, Type::TEXT_ARRAY),
            (&times, Type::INT8_ARRAY),
        ];
        self.rows("push crons", &sql, params).await.map(drop)
    }

    async fn crons(&self) -> Result<(Timestamp, Vec<Cron>)> {
        let sql = format!(
            "select clock_timestamp(), c.name, c.definition::text, c.next_at \
             from (select) one left join {}.cron c on true order by c.name",
            self.schema()
        );
        let rows = self.rows("read the crons", &sql, &[]).await?;
        let now = rows.first().map_or(0, |row| row.get::<_, Micros>(0).0);
        let mut crons = Vec::new();
        for row in &rows {
            let Some(name) = row.get::<_, Option<String>>(1) else { continue };
            let definition: &str = row.get(2);
            let definition = serde_json::from_str(definition)
                .map_err(|_| unexpected("read the crons", definition))?;
            crons.push(Cron { name, definition, next_at: Timestamp(row.get::<_, Micros>(3).0) });
        }
        Ok((Timestamp(now), crons))
    }

    async fn tick_cron(&self, cron: &Cron, next_at: Timestamp) -> Result<Option<JobId>> {
        let sql = format!(
            "select {}.tick_cron($1, 'epoch'::timestamptz + $2 * interval '1 microsecond', \
             'epoch'::timestamptz + $3 * interval '1 microsecond')",
            self.schema()
        );
        let params: Params<'_> =
            &[(&cron.name, Type::TEXT), (&cron.next_at.0, Type::INT8), (&next_at.0, Type::INT8)];
        let rows = self.rows("submit a job that is due", &sql, params).await?;
        Ok(rows.first().and_then(|row| row.get(0)))
    }

    async fn remove_cron(&self, name: &str, request: &Request) -> Result<bool> {
        let schema = self.schema();
        let sql = format!(
            "with gone as (delete from {schema}.cron where name = $1 returning name), noted as (\
             insert into {schema}.audit (actor, action, detail) \
             select $2, 'remove-cron', jsonb_build_object('cron', name) from gone) \
             select count(*) from gone"
        );
        let params: Params<'_> = &[(&name, Type::TEXT), (&request.actor, Type::TEXT)];
        let rows = self.rows("remove a cron", &sql, params).await?;
        Ok(rows.first().is_some_and(|row| row.get::<_, i64>(0) > 0))
    }

    async fn jobs(&self, which: &JobFilter, limit: u32) -> Result<JobPage> {
        let schema = self.schema();
        let dialect = Dialect {
            table: &format!("{schema}.job"),
            view: &format!("{schema}.jobs"),
            columns: COLUMNS,
            key: "id",
            parameters: ["$1", "$2::text", "$3::text", "$4::text"],
            topics: "($5::text[] is null or l.topic = any ($5) \
                     or exists (select from unnest($6::text[]) p where l.topic ^@ p))",
        };
        let sql = job_list::statement(which, limit, &dialect);
        let state = which.state.map(JobState::as_str);
        let before = which.before.unwrap_or(i64::MAX);
        let exact = which.topics.as_ref().map(TopicFilter::exact);
        let prefixes = which.topics.as_ref().map(TopicFilter::prefixes);
        let params: Params<'_> = &[
            (&before, Type::INT8),
            (&state, Type::TEXT),
            (&which.topic, Type::TEXT),
            (&which.key, Type::TEXT),
            (&exact, Type::TEXT_ARRAY),
            (&prefixes, Type::TEXT_ARRAY),
        ];
        let rows = self.rows("list jobs", &sql, params).await?;
        let low = rows.first().map_or(0, |row| row.get("low"));
        let found = rows.iter().filter(|row| row.get::<_, Option<JobId>>(0).is_some());
        Ok(job_list::page(found.map(job).collect::<Result<_>>()?, low, limit))
    }

    async fn job(&self, id: JobId) -> Result<Option<JobDetail>> {
        let schema = self.schema();
        let params: Params<'_> = &[(&id, Type::UUID)];
        let doing = "read a job";
        let own = format!("select {COLUMNS} from {schema}.jobs where id = $1");
        let own = self.rows(doing, &own, params).await?;
        let rest = format!("select content_type, payload, headers from {schema}.job where id = $1");
        let rest = self.rows(doing, &rest, params).await?;
        let (Some(own), Some(rest)) = (own.first(), rest.first()) else { return Ok(None) };
        let executions = format!(
            "select attempt, worker, started_at, ended_at, outcome, reason \
             from {schema}.execution where job_id = $1 order by n"
        );
        let executions = self.rows(doing, &executions, params).await?;
        let receipts = format!(
            "select attempt, content_type, body from {schema}.receipt where job_id = $1 order by n"
        );
        let receipts = self.rows(doing, &receipts, params).await?;
        let headers: Vec<String> = rest.get(2);
        Ok(Some(JobDetail {
            job: job(own)?,
            content_type: rest.get(0),
            payload: rest.get(1),
            headers: headers
                .as_chunks()
                .0
                .iter()
                .cloned()
                .map(|[name, value]| (name, value))
                .collect(),
            executions: executions
                .iter()
                .map(|row| Execution {
                    attempt: row.get::<_, i32>(0).cast_unsigned(),
                    worker: row.get(1),
                    started_at: Timestamp(row.get::<_, Micros>(2).0),
                    ended_at: Timestamp(row.get::<_, Micros>(3).0),
                    outcome: row.get(4),
                    reason: row.get(5),
                })
                .collect(),
            receipts: receipts
                .iter()
                .map(|row| {
                    let receipt = Receipt { content_type: row.get(1), body: row.get(2) };
                    (row.get::<_, i32>(0).cast_unsigned(), receipt)
                })
                .collect(),
        }))
    }

    async fn cancel_job(&self, id: JobId, request: &Request) -> Result<Cancelled> {
        let doing = "cancel-job";
        match &*self.noted_call(doing, "cancel_job($1)", id, request).await? {
            "cancelled" => Ok(Cancelled::Done),
            "wanted" => Ok(Cancelled::Wanted),
            "over" => Ok(Cancelled::Over),
            "unknown" => Ok(Cancelled::Unknown),
            other => Err(unexpected(doing, other)),
        }
    }

    async fn retry_job(&self, id: JobId, attempts: u32, request: &Request) -> Result<Retried> {
        let doing = "retry-job";
        let call = format!("retry_job($1, {})", attempts.min(1_000));
        match &*self.noted_call(doing, &call, id, request).await? {
            "published" => Ok(Retried::Done),
            "over" => Ok(Retried::Over),
            "unknown" => Ok(Retried::Unknown),
            other => match other.parse() {
                Ok(state) => Ok(Retried::Under(state)),
                Err(_) => Err(unexpected(doing, other)),
            },
        }
    }
}

fn job(row: &Row) -> Result<Job> {
    let time = |at| row.get::<_, Option<Micros>>(at).map(|at| Timestamp(at.0));
    let state: &str = row.get(2);
    Ok(Job {
        id: row.get(0),
        n: row.get(1),
        state: state.parse().map_err(|_| unexpected("read a job", state))?,
        topic: row.get(3),
        key: row.get(4),
        correlation_id: row.get(5),
        message_id: row.get(6),
        attempt: row.get::<_, i32>(7).cast_unsigned(),
        attempts_max: row.get::<_, Option<i32>>(8).map(i32::cast_unsigned),
        worker: row.get(9),
        is_blocked: row.get(10),
        reason: row.get(11),
        progress: row.get(12),
        created_at: time(13).unwrap_or_default(),
        due_at: time(14),
        started_at: time(15),
        finished_at: time(16),
    })
}

/// Texts and numbers, which always serialise.
fn definition_json(definition: &CronDefinition) -> String {
    serde_json::to_string(definition).unwrap_or_default()
}

/// A JSON object of strings.
/// PostgreSQL has no NUL in texts.
fn plain(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

fn unexpected(doing: &str, found: &str) -> StoreError {
    StoreError::new(StoreErrorKind::Unexpected, format!("{doing}: the database answered {found:?}"))
}
