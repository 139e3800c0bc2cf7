//! What workers and operators do with jobs, as every store does it.

use std::time::Duration;

use async_trait::async_trait;
pub use posthaste_core::job::Outcome;
use posthaste_core::{JobState, MessageId, NewJob, Timestamp, TopicFilter, job::Waiting};
use uuid::Uuid;

use crate::{Request, Result, Store};
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::{StoreError, StoreErrorKind};

/// Identifies a job: the id of its first message.
pub type JobId = Uuid;

/// Identifies a worker from its registration to its end.
pub type WorkerId = Uuid;

/// Jobs in a database, as workers and operators see them. Applications submit them, and end attempts in
/// their own transactions, with what is in [`statements`](crate::statements).
#[async_trait]
pub trait Jobs: Store {
    /// Submits jobs, already checked, in one transaction of its own, and answers the ids that stand for them.
    /// For the command line and for tests; applications submit in their own transactions.
    async fn submit_jobs(&self, jobs: &[NewJob]) -> Result<Vec<JobId>>;

    /// Adds a worker that keeps what it begins for `lease`, and longer as long as it is renewed.
    async fn register_worker(&self, worker: &WorkerSpec, lease: Duration) -> Result<WorkerId>;

    /// Gives a worker `lease` more. `is_empty`: its sources were found empty, and nothing is in hand.
    async fn renew_worker(&self, worker: WorkerId, lease: Duration, is_empty: bool)
    -> Result<Beat>;

    /// Takes from workers whose lease has run out what they have, or from `worker` alone, and forgets them.
    /// `attempts_max` is for jobs without a limit of their own. Answers how many jobs it was.
    async fn retire_workers(&self, worker: Option<WorkerId>, attempts_max: u32) -> Result<u64>;

    /// Begins the jobs of messages that a worker was handed, each once in a call, and answers what became of
    /// them. A worker that asks again, because an answer was lost, gets the same one.
    ///
    /// # Errors
    /// `Conflict` when the worker is not registered any more.
    async fn begin_jobs(&self, worker: WorkerId, jobs: &[Handed]) -> Result<Vec<Begun>>;

    /// Ends attempts, and answers for each whether it was still the worker's: nothing is written of
    /// others.
    async fn finish_jobs(&self, worker: WorkerId, ended: &[Ended]) -> Result<Vec<bool>>;

    /// Those of some messages that `consumer` has handled.
    async fn handled(&self, consumer: &str, ids: &[MessageId]) -> Result<Vec<MessageId>>;

    /// Records that `consumer` has handled messages, in a transaction of its own.
    async fn record_handled(&self, consumer: &str, ids: &[MessageId]) -> Result<()>;

    /// Keeps how far running jobs have come, each as JSON. What is not the worker's any more is passed over.
    async fn note_progress(
        &self,
        worker: WorkerId,
        progress: &[(JobId, u32, String)],
    ) -> Result<()>;

    /// Jobs that have waited for `age` to be begun, the oldest first.
    async fn waiting_jobs(&self, age: Duration, limit: u32) -> Result<Vec<WaitingJob>>;

    /// Publishes jobs again that nobody has begun, by new messages. Answers those that it was true of.
    async fn republish_jobs(&self, jobs: &[JobId]) -> Result<Vec<JobId>>;

    /// Ends jobs that no worker will see, each with its reason. Answers those that it was true of.
    async fn refuse_jobs(&self, jobs: &[(JobId, String)]) -> Result<Vec<JobId>>;

    /// Adds jobs that the clock submits, or replaces those that are other ones. What is not named stays.
    async fn push_crons(&self, crons: &[Cron]) -> Result<()>;

    /// All jobs that the clock submits, by name, and the database's time.
    async fn crons(&self) -> Result<(Timestamp, Vec<Cron>)>;

    /// Submits a job whose time has come, and notes when it is due again, unless somebody else has. Answers its
    /// id.
    async fn tick_cron(&self, cron: &Cron, next_at: Timestamp) -> Result<Option<JobId>>;

    /// Forgets a job that the clock submits, and answers whether it was there.
    async fn remove_cron(&self, name: &str, request: &Request) -> Result<bool>;

    /// A page of jobs, the newest first. It looks at a limited number of jobs, whatever the filter, and may be short,
    /// even empty, and not be the last.
    async fn jobs(&self, which: &JobFilter, limit: u32) -> Result<JobPage>;

    /// One job, with its attempts and what they brought back.
    async fn job(&self, id: JobId) -> Result<Option<JobDetail>>;

    /// Takes a job back: at once, or, where it runs, as soon as its worker has stopped it.
    async fn cancel_job(&self, id: JobId, request: &Request) -> Result<Cancelled>;

    /// Runs a job again that is dead, cancelled or waits for its next attempt, `attempts` times at most.
    async fn retry_job(&self, id: JobId, attempts: u32, request: &Request) -> Result<Retried>;
}

/// A worker that registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerSpec {
    /// For people.
    pub name: String,
    /// Topics whose jobs it runs.
    pub topics: Vec<String>,
    /// Where it takes messages from, for people.
    pub sources: Vec<String>,
    /// The version of its program.
    pub version: String,
}

/// What a worker learns when it is renewed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beat {
    /// It still has what it has begun.
    pub is_registered: bool,
    /// Jobs of its that somebody wants to have stopped.
    pub cancelled: Vec<JobId>,
}

/// A job that the clock submits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    /// Its name: 1 to 255 bytes.
    pub name: String,
    /// When, and what.
    pub definition: CronDefinition,
    /// When it is due next.
    pub next_at: Timestamp,
}

/// When a job is due, and what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    any(feature = "postgres", feature = "sqlite"),
    derive(serde::Serialize, serde::Deserialize)
)]
pub struct CronDefinition {
    /// A pattern of five or six fields.
    pub schedule: String,
    /// The name of the time zone that it is meant in.
    pub time_zone: String,
    /// The job's topic.
    pub topic: String,
    /// Its key.
    pub key: Option<String>,
    /// Its payload, as JSON.
    pub payload: String,
    /// While a job with this key is not over, no other one is submitted.
    pub unique_key: Option<String>,
    /// How often it may be tried.
    pub attempts: Option<u32>,
}

/// A job whose message a worker was handed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handed {
    /// The job that the message names.
    pub job: JobId,
    /// The message.
    pub message: MessageId,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Run it.
    Run {
        /// From 1.
        attempt: u32,
        /// How many the job may have, if it says so itself.
        attempts_max: Option<u32>,
    },
    /// It is over.
    Over,
    /// Somebody has it.
    Running,
    /// Another message carries it by now.
    Stale,
    /// An earlier job of its key is not over, and will have it published again.
    Blocked,
    /// It is not in this database, or not visible yet.
    Unknown,
}

/// An attempt that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The job.
    pub job: JobId,
    /// Which attempt at it.
    pub attempt: u32,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it did not complete the job; 4 KiB of it are kept.
    pub reason: Option<String>,
    /// What it brought back.
    pub receipt: Option<Receipt>,
}

/// What an attempt brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its media type.
    pub content_type: String,
    /// Byte for byte.
    pub body: Vec<u8>,
}

/// A job that has waited to be begun, and what is known of the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingJob {
    /// The job.
    pub id: JobId,
    /// Its topic.
    pub topic: String,
    /// Since it was submitted, or due.
    pub waited: Duration,
    /// What is known.
    pub known: Waiting,
}

/// Which jobs are meant: those that meet every condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// In this state.
    pub state: Option<JobState>,
    /// Of this topic.
    pub topic: Option<String>,
    /// Of one of these topics as well.
    pub topics: Option<TopicFilter>,
    /// Of this key.
    pub key: Option<String>,
    /// Submitted before the one with this number, for the next page.
    pub before: Option<i64>,
}

/// Some of the jobs that are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobPage {
    /// The newest first.
    pub jobs: Vec<Job>,
    /// What [`JobFilter::before`] is for the next page; `None` after the last.
    pub next: Option<i64>,
}

/// A job, without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Jobs are numbered in the order in which they were submitted.
    pub n: i64,
    /// Where it stands.
    pub state: JobState,
    /// Its topic.
    pub topic: String,
    /// Its key.
    pub key: Option<String>,
    /// What ties it to others.
    pub correlation_id: Option<String>,
    /// The message that carries it at present.
    pub message_id: MessageId,
    /// Attempts that were begun.
    pub attempt: u32,
    /// How many it may have, if it says so itself.
    pub attempts_max: Option<u32>,
    /// The worker that has it.
    pub worker: Option<String>,
    /// It waits for an earlier job of its key.
    pub is_blocked: bool,
    /// Why its last attempt did not complete it.
    pub reason: Option<String>,
    /// How far it has come, as its handler says: JSON.
    pub progress: Option<String>,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When it or its next attempt is due, if it waits for that.
    pub due_at: Option<Timestamp>,
    /// When its last attempt began.
    pub started_at: Option<Timestamp>,
    /// When it was over.
    pub finished_at: Option<Timestamp>,
}

/// A job with all that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobDetail {
    /// The job.
    pub job: Job,
    /// Its payload's media type.
    pub content_type: String,
    /// Its payload.
    pub payload: Vec<u8>,
    /// Its headers, without those that Posthaste adds.
    pub headers: Vec<(String, String)>,
    /// Attempts that have ended, in their order.
    pub executions: Vec<Execution>,
    /// What they brought back, in the order in which it came.
    pub receipts: Vec<(u32, Receipt)>,
}

/// An attempt that has ended, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Execution {
    /// From 1.
    pub attempt: u32,
    /// The worker's name.
    pub worker: String,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// `completed`, `retry`, `dead`, `snooze`, `cancelled` or `lost`.
    pub outcome: String,
    /// Why it did not complete the job.
    pub reason: Option<String>,
}

/// What became of a job that was to be taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It is cancelled.
    Done,
    /// It runs; its worker is told.
    Wanted,
    /// It was over.
    Over,
    /// There is no such job.
    Unknown,
}

/// What became of a job that was to be run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retried {
    /// It is published again.
    Done,
    /// It runs, or waits to.
    Under(JobState),
    /// It is completed, or another job that is not over has its unique key.
    Over,
    /// There is no such job.
    Unknown,
}

/// A worker calls that others have taken everything from.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn unregistered() -> StoreError {
    let doing = "this worker is not registered any more: its lease has run out";
    StoreError::new(StoreErrorKind::Conflict, doing)
}
