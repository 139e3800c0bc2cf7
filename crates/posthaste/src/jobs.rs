//! Jobs, as applications submit them in their own transactions; and the end of an attempt, in the
//! transaction of its effect.

use posthaste_core::{HeaderObject, Message, MessageId, NewJob, job::InvalidJob};
use posthaste_store::{
    JobId, Receipt, WorkerId, defect,
    statements::{PostgresJobs, SqliteJobs, SqliteMachines},
};
use uuid::Uuid;

use crate::{
    CommandError, CommandErrorKind, Outbox,
    caller::{Caller, Value},
};

/// Submits jobs: messages with a life, each of which a worker runs until it is completed, dead or
/// cancelled. One per process is enough.
///
/// # Examples
#[cfg_attr(feature = "tokio-postgres", doc = "```no_run")]
#[cfg_attr(not(feature = "tokio-postgres"), doc = "```text")]
/// # use posthaste::{Jobs, Message, NewJob};
/// # async fn sign_up(client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
/// let jobs = Jobs::default();
/// let transaction = client.transaction().await?;
/// transaction.execute("insert into users (id) values (7)", &[]).await?;
/// let message = Message::new("mail.welcome").key("user-7").json(&serde_json::json!({ "user": 7 }));
/// jobs.submit(&transaction, &NewJob::of(message).attempts(3)).await?;
/// transaction.commit().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Jobs {
    outbox: Outbox,
    postgres: PostgresJobs,
    sqlite: SqliteJobs,
    guard: SqliteMachines,
}

/// An attempt at a job, as its worker was given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The worker.
    pub worker: WorkerId,
    /// The job.
    pub job: JobId,
    /// From 1.
    pub number: u32,
}

impl Jobs {
    /// Jobs in the schema of `outbox`, checked against its limits and contracts.
    pub fn new(outbox: Outbox) -> Self {
        let schema = outbox.schema();
        Self {
            postgres: PostgresJobs::new(schema),
            sqlite: SqliteJobs::new(schema),
            guard: SqliteMachines::new(schema),
            outbox,
        }
    }

    /// Writes a job and its message in the transaction that `caller` stands in, and answers the id of the job
    /// that now stands for it: that of an earlier one with its token, or with its unique key, if there
    /// is one. While another transaction is submitting the same, this waits for its outcome.
    ///
    /// # Errors
    /// The job breaks a limit or its contract, or the database failed. The caller's transaction cannot commit any
    /// more: roll back.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the job is in the transaction: roll back.
    pub async fn submit<C: Caller>(
        &self,
        mut caller: C,
        job: &NewJob,
    ) -> Result<JobId, CommandError> {
        let submitted = self.write(&mut caller, job).await;
        if let Err(error) = &submitted {
            self.abort(&mut caller, &error.to_string()).await;
        }
        submitted
    }

    /// Takes a job back in the transaction that `caller` stands in, and answers whether that was in time: a job
    /// that runs is stopped by its worker, if it does not end before that. On PostgreSQL.
    ///
    /// # Errors
    /// The database failed, or is SQLite, where `posthaste jobs cancel` does it.
    ///
    /// # Cancel safety
    /// As [`submit`](Self::submit).
    pub async fn cancel<C: Caller>(&self, mut caller: C, job: JobId) -> Result<bool, CommandError> {
        if caller.is_sqlite()? {
            let what = "cancel the job with `posthaste jobs cancel`: SQLite has no functions";
            return Err(CommandError::argument(what.to_owned()));
        }
        let answer = caller.call(&self.postgres.cancel, &[Value::Id(job)]).await?;
        Ok(answer.and_then(|answer| answer.text).is_some_and(|text| text == "cancelled"))
    }

    /// Completes an attempt in the transaction of its effect: both are there or neither.
    ///
    /// # Errors
    /// `TakenOver` when the attempt is not its worker's any more: its lease had run out. Or the database
    /// failed. Either way the caller's transaction cannot commit any more: roll back, and the effect with it.
    ///
    /// # Cancel safety
    /// As [`submit`](Self::submit).
    pub async fn complete<C: Caller>(
        &self,
        mut caller: C,
        attempt: Attempt,
        receipt: Option<&Receipt>,
    ) -> Result<(), CommandError> {
        let completed = self.end(&mut caller, attempt, receipt).await;
        if let Err(error) = &completed {
            self.abort(&mut caller, &error.to_string()).await;
        }
        completed
    }

    /// Whether what was committed by the transaction `xid` (the header `posthaste-xid` of a job's message) shows in
    /// transactions that begin on this connection after this: on one of the same server, or a standby of it.
    ///
    /// # Errors
    /// The database failed.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn is_visible<C: Caller>(
        &self,
        caller: &mut C,
        xid: &str,
    ) -> Result<bool, CommandError> {
        if caller.is_sqlite()? {
            // One file, one truth.
            return Ok(true);
        }
        let answer = caller.call(&self.postgres.visible, &[Value::Text(Some(xid))]).await?;
        Ok(answer.and_then(|answer| answer.number) == Some(1))
    }

    async fn write<C: Caller>(&self, caller: &mut C, job: &NewJob) -> Result<JobId, CommandError> {
        job.check()?;
        let message = job.message();
        let id = self.outbox.entry(message)?.id;
        let headers = HeaderObject(message.header_pairs()).to_string();
        let attempts = job.attempts_max().map_or(0, i64::from);
        let due = message.due().map_or(0, |due| due.0);
        let texts = |message: &Message| {
            (message.ordering_key().map(str::to_owned), message.correlation().map(str::to_owned))
        };
        let (key, correlation) = texts(message);
        let (key, correlation) = (Value::Text(key.as_deref()), Value::Text(correlation.as_deref()));
        let topic = Value::Text(Some(message.topic()));
        let payload = Value::Bytes(message.payload());
        let content_type = Value::Text(Some(message.media_type()));
        let headers = Value::Text(Some(&headers));
        let (token, unique) = (Value::Text(message.idempotency_token()), Value::Text(job.unique()));
        let (attempts, due) = (Value::Number(attempts), Value::Number(due));
        if !caller.is_sqlite()? {
            // An id of the database's own saves it the search for a twin.
            let id = Value::Id(message.message_id().unwrap_or_default());
            let values = [
                topic,
                payload,
                key,
                headers,
                content_type,
                correlation,
                id,
                token,
                unique,
                attempts,
                due,
            ];
            let answer = caller.call(&self.postgres.submit, &values).await?;
            let text = answer.and_then(|answer| answer.text).unwrap_or_default();
            return text.parse().map_err(|_| unreadable("submit_job_bytes", &text));
        }
        let values = [
            Value::Id(id),
            topic,
            key,
            payload,
            content_type,
            headers,
            correlation,
            token,
            unique,
            attempts,
            due,
        ];
        caller.call(&self.sqlite.submit, &values).await?;
        let named = [Value::Id(id), token, unique];
        let answer = caller.call(&self.sqlite.submitted, &named).await?;
        let bytes = answer.and_then(|answer| answer.bytes).unwrap_or_default();
        Uuid::from_slice(&bytes).map_err(|_| unreadable("the table of jobs", "no id"))
    }

    async fn end<C: Caller>(
        &self,
        caller: &mut C,
        attempt: Attempt,
        receipt: Option<&Receipt>,
    ) -> Result<(), CommandError> {
        let Attempt { worker, job, number } = attempt;
        let (worker, job, number) =
            (Value::Id(worker), Value::Id(job), Value::Number(i64::from(number)));
        let media_type = Value::Text(receipt.map(|receipt| receipt.content_type.as_str()));
        let body = receipt.map(|receipt| Value::Bytes(&receipt.body));
        let answer = if caller.is_sqlite()? {
            let held = caller.call(&self.sqlite.held, &[worker, job, number]).await?;
            let next = Value::Id(MessageId::now_v7());
            let outcome = Value::Text(Some("completed"));
            let none = Value::Text(None);
            let body = body.unwrap_or(none);
            let values = [worker, job, number, outcome, none, none, body, media_type, next];
            caller.call(&self.sqlite.finish, &values).await?;
            held
        } else {
            let values = [worker, job, number, body.unwrap_or(Value::Bytes(&[])), media_type];
            caller.call(&self.postgres.complete, &values).await?
        };
        match answer.and_then(|answer| answer.number) {
            Some(1) => Ok(()),
            _ if defect::is("stale-attempt") => Ok(()),
            _ => Err(CommandErrorKind::TakenOver.into()),
        }
    }

    /// Sees to it that the caller's transaction cannot commit.
    async fn abort<C: Caller>(&self, caller: &mut C, reason: &str) {
        // Each of these fails where it works, or where there is nothing to abort.
        if !caller.is_sqlite().unwrap_or_default() {
            let _ = caller.call(&self.postgres.refuse, &[Value::Text(Some(reason))]).await;
            return;
        }
        let keys = caller.call(SqliteMachines::FOREIGN_KEYS, &[]).await;
        let is_guarded = matches!(keys, Ok(Some(keys)) if keys.number == Some(1));
        let statement = if is_guarded { &self.guard.refuse } else { SqliteMachines::ROLLBACK };
        let _ = caller.call(statement, &[]).await;
    }
}

impl Default for Jobs {
    /// Jobs in the schema `posthaste`, with the default limits.
    fn default() -> Self {
        Self::new(Outbox::default())
    }
}

impl From<InvalidJob> for CommandError {
    fn from(error: InvalidJob) -> Self {
        Self::argument(error.to_string())
    }
}

fn unreadable(what: &str, found: &str) -> CommandError {
    CommandError::unreadable(format!("{what} answered {found:?}"))
}
