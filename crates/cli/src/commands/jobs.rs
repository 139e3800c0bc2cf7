//! `posthaste jobs submit|list|show|cancel|retry|republish`: messages with a life.

use std::time::Duration;

use clap::{Args, Subcommand};
use posthaste_core::{JobState, Limits, NewJob, Timestamp, job::Remedy};
use posthaste_relay::clock;
use posthaste_store::{Cancelled, Job, JobDetail, JobFilter, JobId, Jobs, Retried, WaitingJob};
use serde_json::{Value, json, value::RawValue};

use super::{
    enqueue::{EnqueueArgs, message_of},
    selection::ChangeArgs,
    tail,
};
use crate::{
    config::Config,
    exit::Exit,
    failure::{Failure, Result},
    output::Output,
    store,
};

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// Submit a job, in a transaction of its own
    ///
    /// For trying things out and for scripts; applications submit in the transaction of their data.
    Submit(Box<SubmitArgs>),
    /// List jobs, the newest first
    List(ListArgs),
    /// Show one job with its payload, its attempts and what they brought back
    Show(ShowArgs),
    /// Take a job back; one that runs is stopped by its worker
    Cancel(CancelArgs),
    /// Run a job again that is dead, cancelled or waits for its next attempt
    Retry(RetryArgs),
    /// Publish jobs again that wait and that no worker has had
    ///
    /// Workers do so by themselves for jobs whose message was lost or never written. With --stuck, says why
    /// each job waits that has waited too long, and publishes those that it helps.
    Republish(RepublishArgs),
}

/// The job.
#[derive(Args, Debug)]
pub(crate) struct SubmitArgs {
    #[command(flatten)]
    message: EnqueueArgs,
    /// How often it may be tried [default: as often as its worker says]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    attempts: Option<u32>,
    /// While a job with this key is not over, no other one is submitted
    #[arg(long, value_name = "KEY")]
    unique_key: Option<String>,
}

/// What to list.
#[derive(Args, Debug)]
pub(crate) struct ListArgs {
    /// In this state: scheduled, created, queued, running, completed, failed, dead or cancelled
    #[arg(long, value_name = "STATE")]
    state: Option<JobState>,
    /// Of this topic
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Of this ordering key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// How many at most
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    limit: u32,
}

/// What to show.
#[derive(Args, Debug)]
pub(crate) struct ShowArgs {
    /// Job id
    id: JobId,
}

/// What to take back.
#[derive(Args, Debug)]
pub(crate) struct CancelArgs {
    /// Job id
    id: JobId,
    #[command(flatten)]
    change: ChangeArgs,
}

/// What to run again.
#[derive(Args, Debug)]
pub(crate) struct RetryArgs {
    /// Job id
    id: JobId,
    /// How often it may be tried from now on
    #[arg(long, default_value_t = 1, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000))]
    attempts: u32,
    #[command(flatten)]
    change: ChangeArgs,
}

/// What to publish again.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("which").required(true).args(["ids", "stuck"]))]
pub(crate) struct RepublishArgs {
    /// Job ids
    ids: Vec<JobId>,
    /// Every job that has waited for longer than --older-than
    #[arg(long)]
    stuck: bool,
    /// How long a job may wait
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = humantime::parse_duration)]
    older_than: Duration,
    /// Say what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Jobs that one look of `republish --stuck` is about.
const STUCK_MAX: u32 = 1_000;

pub(crate) async fn run(command: JobsCommand, config: &Config, out: &mut Output) -> Result {
    let store = store::open(config, store::Missing::Refuse).await?;
    store.check().await?;
    match command {
        JobsCommand::Submit(args) => submit(*args, &*store, out).await,
        JobsCommand::List(args) => list(&args, &*store, out).await,
        JobsCommand::Show(args) => show(args.id, &*store, out).await,
        JobsCommand::Cancel(args) => cancel(&args, &*store, out).await,
        JobsCommand::Retry(args) => retry(&args, &*store, out).await,
        JobsCommand::Republish(args) if args.stuck => stuck(&args, &*store, out).await,
        JobsCommand::Republish(args) => republish(&args, &*store, out).await,
    }
}

async fn submit(args: SubmitArgs, store: &dyn Jobs, out: &mut Output) -> Result {
    let SubmitArgs { message, attempts, unique_key } = args;
    let count = message.count();
    let mut job = NewJob::of(message_of(message)?);
    if let Some(attempts) = attempts {
        job = job.attempts(attempts);
    }
    if let Some(key) = unique_key {
        job = job.unique_key(key);
    }
    job.check().map_err(|error| Failure::usage(error.to_string()))?;
    Limits::DEFAULT.check(job.message()).map_err(|error| Failure::usage(error.to_string()))?;
    for id in store.submit_jobs(&vec![job; count]).await? {
        out.result(&json!({ "id": id }), &id.to_string())?;
    }
    Ok(())
}

async fn list(args: &ListArgs, store: &dyn Jobs, out: &mut Output) -> Result {
    let mut which = JobFilter {
        state: args.state,
        topic: args.topic.clone(),
        topics: None,
        key: args.key.clone(),
        before: None,
    };
    let (mut jobs, limit) = (Vec::new(), args.limit as usize);
    loop {
        let left = args.limit.saturating_sub(jobs.len() as u32);
        let page = store.jobs(&which, left).await?;
        jobs.extend(page.jobs);
        which.before = page.next;
        if which.before.is_none() || jobs.len() >= limit {
            break;
        }
    }
    if out.is_json() {
        for job in &jobs {
            out.object(&as_json(job))?;
        }
        return Ok(());
    }
    if jobs.is_empty() {
        return Ok(out.line("No job.")?);
    }
    let row = |job: &Job| {
        vec![
            job.id.to_string(),
            job.state.to_string(),
            job.topic.clone(),
            job.key.clone().unwrap_or_else(|| "-".to_owned()),
            job.attempt.to_string(),
            clock::rfc3339(job.created_at),
            tail::without_controls(job.reason.as_deref().unwrap_or("-")),
        ]
    };
    let header = ["ID", "STATE", "TOPIC", "KEY", "ATTEMPTS", "SUBMITTED", "REASON"];
    Ok(out.table(&header, jobs.iter().map(row).collect())?)
}

async fn show(id: JobId, store: &dyn Jobs, out: &mut Output) -> Result {
    let detail = store.job(id).await?.ok_or_else(|| unknown(id))?;
    let whole = detail_json(&detail);
    if out.is_json() {
        return Ok(out.object(&whole)?);
    }
    Ok(out.line(&format!("{whole:#}"))?)
}

async fn cancel(args: &CancelArgs, store: &dyn Jobs, out: &mut Output) -> Result {
    let id = args.id;
    let outcome = store.cancel_job(id, &args.change.request()).await?;
    let said = match outcome {
        Cancelled::Done => "cancelled",
        Cancelled::Wanted => "to be stopped by its worker",
        Cancelled::Over => return Err(over(id)),
        Cancelled::Unknown => return Err(unknown(id)),
    };
    told(out, id, said, args.change.is_dry_run())
}

async fn retry(args: &RetryArgs, store: &dyn Jobs, out: &mut Output) -> Result {
    let id = args.id;
    let outcome = store.retry_job(id, args.attempts, &args.change.request()).await?;
    match outcome {
        Retried::Done => told(out, id, "published again", args.change.is_dry_run()),
        Retried::Under(state) => {
            let what = format!("{id} is {state} already: there is nothing to run again");
            Err(Failure::new(Exit::Failed, what))
        }
        Retried::Over => Err(over(id)),
        Retried::Unknown => Err(unknown(id)),
    }
}

async fn republish(args: &RepublishArgs, store: &dyn Jobs, out: &mut Output) -> Result {
    for id in &args.ids {
        let state = store.job(*id).await?.ok_or_else(|| unknown(*id))?.job.state;
        let waits = matches!(state, JobState::Created | JobState::Queued | JobState::Failed);
        let is_published =
            if args.dry_run { waits } else { !store.republish_jobs(&[*id]).await?.is_empty() };
        if !is_published {
            let what = format!("{id} is {state}: it is on its way, or `posthaste jobs retry` it");
            return Err(Failure::new(Exit::Failed, what));
        }
        told(out, *id, "published again", args.dry_run)?;
    }
    Ok(())
}

/// Every job that waits for too long, with the reason and what was done about it.
async fn stuck(args: &RepublishArgs, store: &dyn Jobs, out: &mut Output) -> Result {
    let waiting = store.waiting_jobs(args.older_than, STUCK_MAX).await?;
    let of = |remedy| {
        let meant = waiting.iter().filter(move |job| job.known.cause().remedy() == remedy);
        meant.map(|job| (job.id, job.known.cause().to_string())).collect::<Vec<_>>()
    };
    if !args.dry_run {
        let lost: Vec<JobId> = of(Remedy::Publish).into_iter().map(|(id, _)| id).collect();
        store.republish_jobs(&lost).await?;
        store.refuse_jobs(&of(Remedy::Refuse)).await?;
    }
    if out.is_json() {
        for job in &waiting {
            let mut told = waiting_json(job);
            told["dry_run"] = args.dry_run.into();
            out.object(&told)?;
        }
        return Ok(());
    }
    if waiting.is_empty() {
        let age = humantime::format_duration(args.older_than);
        return Ok(out.line(&format!("No job has waited for {age}."))?);
    }
    let row = |job: &WaitingJob| {
        let cause = job.known.cause();
        vec![
            job.id.to_string(),
            job.topic.clone(),
            format!("{} s", job.waited.as_secs()),
            done_about(cause.remedy()).to_owned(),
            tail::without_controls(&cause.to_string()),
        ]
    };
    let done = if args.dry_run { "WOULD BE" } else { "DONE" };
    let header = ["ID", "TOPIC", "WAITED", done, "WHY"];
    Ok(out.table(&header, waiting.iter().map(row).collect())?)
}

const fn done_about(remedy: Remedy) -> &'static str {
    match remedy {
        Remedy::Wait => "-",
        Remedy::Publish => "published again",
        Remedy::Refuse => "dead",
    }
}

fn told(out: &mut Output, id: JobId, said: &str, is_dry_run: bool) -> Result {
    let would = if is_dry_run { "would be " } else { "" };
    let result = json!({ "id": id, "outcome": said, "dry_run": is_dry_run });
    Ok(out.result(&result, &format!("{id} {would}{said}"))?)
}

fn unknown(id: JobId) -> Failure {
    let what = format!("there is no job {id}: `posthaste jobs list` shows those that are kept");
    Failure::new(Exit::Failed, what)
}

fn over(id: JobId) -> Failure {
    let what =
        format!("{id} is over, or another job has its unique key: `posthaste jobs show {id}`");
    Failure::new(Exit::Failed, what)
}

fn as_json(job: &Job) -> Value {
    let time = |at: Option<Timestamp>| at.map(clock::rfc3339);
    let progress = job.progress.as_deref();
    json!({
        "id": job.id,
        "state": job.state.as_str(),
        "topic": job.topic,
        "key": job.key,
        "correlation_id": job.correlation_id,
        "message_id": job.message_id,
        "attempt": job.attempt,
        "attempts_max": job.attempts_max,
        "worker": job.worker,
        "is_blocked": job.is_blocked,
        "reason": job.reason,
        "progress": progress.and_then(|text| serde_json::from_str::<Value>(text).ok()),
        "created_at": clock::rfc3339(job.created_at),
        "due_at": time(job.due_at),
        "started_at": time(job.started_at),
        "finished_at": time(job.finished_at),
    })
}

fn waiting_json(job: &WaitingJob) -> Value {
    let cause = job.known.cause();
    json!({
        "id": job.id,
        "topic": job.topic,
        "waited_seconds": job.waited.as_secs(),
        "cause": cause.code(),
        "why": cause.to_string(),
        "done": done_about(cause.remedy()),
    })
}

fn detail_json(detail: &JobDetail) -> Value {
    let mut whole = as_json(&detail.job);
    let body = |content_type: &str, body: &[u8]| {
        let text = std::str::from_utf8(body).ok();
        match text.filter(|_| content_type.contains("json")) {
            Some(text) if serde_json::from_str::<&RawValue>(text).is_ok() => {
                serde_json::from_str(text).unwrap_or_default()
            }
            _ => text.map_or_else(|| json!({ "bytes": body.len() }), Value::from),
        }
    };
    whole["content_type"] = detail.content_type.clone().into();
    whole["payload"] = body(&detail.content_type, &detail.payload);
    let headers = detail.headers.iter().map(|(name, value)| (name.clone(), value.clone().into()));
    whole["headers"] = Value::Object(headers.collect());
    let execution = |e: &posthaste_store::Execution| {
        json!({
            "attempt": e.attempt,
            "worker": e.worker,
            "started_at": clock::rfc3339(e.started_at),
            "ended_at": clock::rfc3339(e.ended_at),
            "outcome": e.outcome,
            "reason": e.reason,
        })
    };
    whole["executions"] = detail.executions.iter().map(execution).collect();
    let receipt = |(attempt, receipt): &(u32, posthaste_store::Receipt)| {
        json!({
            "attempt": attempt,
            "content_type": receipt.content_type,
            "body": body(&receipt.content_type, &receipt.body),
        })
    };
    whole["receipts"] = detail.receipts.iter().map(receipt).collect();
    whole
}
