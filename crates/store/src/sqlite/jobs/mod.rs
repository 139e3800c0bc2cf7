//! Jobs in a file: their life, and looks at it.

mod life;
mod look;

use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::{MessageId, NewJob, Timestamp};
use rusqlite::{Row, types::Type};
use serde_json::json;
use uuid::Uuid;

pub(super) use self::life::note_moved;
use self::{
    life::{begin, cancel, finish, refuse, republish, retire, retry, submit, tick},
    look::{detail, waiting},
};
use super::{SqliteStore, clock, operations::audit, session::Scope};
use crate::{
    Beat, Begun, Cancelled, Cron, Ended, Handed, JobDetail, JobFilter, JobId, JobPage, Jobs,
    Request, Result, Retried, Selection, WaitingJob, WorkerId, WorkerSpec,
    statements::SqliteWriter,
};

fn uuid(row: &Row<'_>, at: usize) -> rusqlite::Result<Uuid> {
    row.get(at).map(Uuid::from_bytes)
}

fn list(names: &[String]) -> String {
    json!(names).to_string()
}

/// Does what a person wants and notes it if it is a change; a dry run takes both back.
fn noted<T: std::fmt::Debug>(
    scope: &Scope<'_>,
    action: &str,
    id: JobId,
    request: &Request,
    is_change: impl FnOnce(&T) -> bool,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    scope.run_all("savepoint noted")?;
    let outcome = work()?;
    if request.is_dry_run {
        scope.run_all("rollback to noted")?;
    } else if is_change(&outcome) {
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

    async fn jobs(&self, which: &JobFilter, limit: u32) -> Result<JobPage> {
        let which = which.clone();
        self.observe("list jobs", move |scope| look::list(scope, &which, limit)).await
    }

    async fn job(&self, id: JobId) -> Result<Option<JobDetail>> {
        self.observe("read a job", move |scope| detail(scope, id)).await
    }

    async fn cancel_job(&self, id: JobId, request: &Request) -> Result<Cancelled> {
        let request = request.clone();
        self.write("cancel a job", move |scope| {
            let is_change = |it: &_| matches!(it, Cancelled::Done | Cancelled::Wanted);
            noted(scope, "cancel-job", id, &request, is_change, || cancel(scope, id))
        })
        .await
    }

    async fn retry_job(&self, id: JobId, attempts: u32, request: &Request) -> Result<Retried> {
        let request = request.clone();
        self.write("retry a job", move |scope| {
            let is_change = |it: &_| matches!(it, Retried::Done);
            noted(scope, "retry-job", id, &request, is_change, || retry(scope, id, attempts))
        })
        .await
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
