//! The life of jobs.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use posthaste_core::{
    JobState, Message, MessageId, NewJob, Timestamp, TopicFilter,
    job::{Remedy, Stuck},
};
use posthaste_store::{
    Begun, Cancelled, Ended, Handed, Job, JobFilter, JobId, Jobs, Outcome, Receipt, Request,
    Retried, Start, StoreErrorKind, WorkerId, WorkerSpec,
};
use proptest::{
    strategy::{Strategy as _, ValueTree as _},
    test_runner::TestRunner,
};
use tokio::time::sleep;

use super::{
    harness::{Harness, migrated},
    reader::{publish_all, subscription},
};

const LEASE: Duration = Duration::from_mins(1);
const ATTEMPTS: u32 = 5;

fn request() -> Request {
    Request { actor: "test".to_owned(), is_dry_run: false, is_forced: false }
}

fn job(key: Option<&str>) -> NewJob {
    let message = Message::new("mail").json(&7);
    NewJob::of(match key {
        Some(key) => message.key(key),
        None => message,
    })
}

/// A database with jobs, and a worker of it.
async fn working<H: Harness>() -> (H, Arc<dyn Jobs>, WorkerId) {
    let (harness, store) = migrated::<H>().await;
    store.reconcile(&[subscription("s", &["*"], Start::Beginning)]).await.unwrap();
    let jobs = harness.jobs().await;
    let worker = register(&*jobs, LEASE).await;
    (harness, jobs, worker)
}

async fn register(jobs: &dyn Jobs, lease: Duration) -> WorkerId {
    let worker = WorkerSpec {
        name: "one".to_owned(),
        topics: vec!["mail".to_owned()],
        sources: vec!["a queue".to_owned()],
        version: "1".to_owned(),
    };
    jobs.register_worker(&worker, lease).await.unwrap()
}

async fn read(jobs: &dyn Jobs, id: JobId) -> Job {
    jobs.job(id).await.unwrap().expect("a job").job
}

/// Moves what is due, and begins the job whose message that may be.
async fn begin(jobs: &dyn Jobs, worker: WorkerId, id: JobId) -> Begun {
    jobs.move_due(100).await.unwrap();
    let message = read(jobs, id).await.message_id;
    jobs.begin_jobs(worker, &[Handed { job: id, message }]).await.unwrap()[0]
}

async fn finish(
    jobs: &dyn Jobs,
    worker: WorkerId,
    id: JobId,
    attempt: u32,
    outcome: Outcome,
) -> bool {
    let reason = (outcome != Outcome::Completed).then(|| "out of paper".to_owned());
    let ended = Ended { job: id, attempt, outcome, reason, receipt: None };
    jobs.finish_jobs(worker, &[ended]).await.unwrap()[0]
}

fn no_jobs() -> Vec<JobId> {
    Vec::new()
}

const fn first(attempt: u32) -> Begun {
    Begun::Run { attempt, attempts_max: None }
}

pub(crate) async fn job_is_submitted_with_its_message<H: Harness>() {
    let (_harness, jobs, _) = working::<H>().await;
    let message = Message::new("mail")
        .key("k")
        .header("a", "1 \"ü\"")
        .bytes("application/x-raw", [0, 255, b'{'])
        .correlation_id("c");
    let ids = jobs.submit_jobs(&[NewJob::of(message).attempts(3)]).await.unwrap();
    let stored = jobs.recent(None, 10).await.unwrap();
    assert_eq!(stored.len(), 1);
    let message = &stored[0];
    assert_eq!(message.id, ids[0]);
    assert_eq!((&*message.topic, message.key.as_deref()), ("mail", Some("k")));
    assert_eq!(message.payload, [0, 255, b'{']);
    let headers: BTreeMap<_, _> = message.headers.iter().cloned().collect();
    assert_eq!(headers["a"], "1 \"ü\"");
    assert_eq!(headers["posthaste-job"], ids[0].to_string());
    let detail = jobs.job(ids[0]).await.unwrap().unwrap();
    assert_eq!(detail.payload, [0, 255, b'{']);
    assert_eq!(detail.headers, [("a".to_owned(), "1 \"ü\"".to_owned())]);
    let job = detail.job;
    assert_eq!((job.state, job.attempt, job.attempts_max), (JobState::Created, 0, Some(3)));
    assert_eq!(job.correlation_id.as_deref(), Some("c"));
}

pub(crate) async fn twins_by_token_or_by_unique_key_are_one_job<H: Harness>() {
    let (_harness, jobs, worker) = working::<H>().await;
    let token = || NewJob::of(Message::new("mail").token("t"));
    let unique = || job(None).unique_key("u");
    let ids = jobs.submit_jobs(&[token(), unique(), token(), unique()]).await.unwrap();
    assert_eq!((ids[0], ids[1]), (ids[2], ids[3]));
    assert_ne!(ids[0], ids[1]);
    assert_eq!(jobs.recent(None, 10).await.unwrap().len(), 2);
    for id in &ids[..2] {
        assert_eq!(begin(&*jobs, worker, *id).await, first(1));
        assert!(finish(&*jobs, worker, *id, 1, Outcome::Completed).await);
    }
    // The key is free when its job is over; the token stays.
    let again = jobs.submit_jobs(&[token(), unique()]).await.unwrap();
    assert_eq!(again[0], ids[0]);
    assert_ne!(again[1], ids[1]);
}

pub(crate) async fn r27_job_goes_from_created_over_queued_and_running_to_completed<H: Harness>() {
    let (_harness, jobs, worker) = working::<H>().await;
    let id = jobs.submit_jobs(&[job(None)]).await.unwrap()[0];
    assert_eq!(read(&*jobs, id).await.state, JobState::Created);
    publish_all(&*jobs, "s").await;
    assert_eq!(read(&*jobs, id).await.state, JobState::Queued);
    let which = |state| JobFilter { state: Some(state), ..JobFilter::default() };
    assert_eq!(jobs.jobs(&which(JobState::Queued), 9).await.unwrap().jobs.len(), 1);
    assert_eq!(jobs.jobs(&which(JobState::Created), 9).await.unwrap().jobs, []);
    assert_eq!(begin(&*jobs, worker, id).await, first(1));
    let running = read(&*jobs, id).await;
    assert_eq!((running.state, running.worker.as_deref()), (JobState::Running, Some("one")));
    let receipt = Receipt { content_type: "text/plain".to_owned(), body: b"\0done".to_vec() };
    let ended = Ended {
        job: id,
        attempt: 1,
        outcome: Outcome::Completed,
        reason: None,
        receipt: Some(receipt.clone()),
    };
    assert_eq!(jobs.finish_jobs(worker, &[ended]).await.unwrap(), [true]);
    let detail = jobs.job(id).await.unwrap().unwrap();
    assert_eq!((detail.job.state, detail.job.worker), (JobState::Completed, None));
    assert!(detail.job.finished_at >= detail.job.started_at);
    assert_eq!(detail.receipts, [(1, receipt)]);
    let [execution] = &*detail.executions else { panic!("{:?}", detail.executions) };
    assert_eq!((execution.attempt, &*execution.worker), (1, "one"));
    assert_eq!((&*execution.outcome, execution.reason.as_deref()), ("completed", None));
    assert!(execution.ended_at >= execution.started_at);
}

pub(crate) async fn r28_each_message_begins_its_job_once<H: Harness>() {
    let (_harness, jobs, worker) = working::<H>().await;
    let other = register(&*jobs, LEASE).await;
    let id = jobs.submit_jobs(&[job(None)]).await.unwrap()[0];
    let handed = Handed { job: id, message: id };
    let strange = Handed { job: MessageId::now_v7(), message: id };
    let begun = jobs.begin_jobs(worker, &[handed, strange, handed]).await.unwrap();
    assert_eq!(begun, [first(1), Begun::Unknown, Begun::Running]);
    // A worker that has not heard the answer asks again.
    let begun = jobs.begin_jobs(worker, &[handed, handed]).await.unwrap();
    assert_eq!(begun, [first(1), Begun::Running]);
    assert_eq!(jobs.begin_jobs(other, &[handed]).await.unwrap(), [Begun::Running]);
    // Neither another worker nor another attempt ends it.
    assert!(!finish(&*jobs, other, id, 1, Outcome::Completed).await);
    assert!(!finish(&*jobs, worker, id, 2, Outcome::Completed).await);
    assert!(finish(&*jobs, worker, id, 1, Outcome::Completed).await);
    assert!(!finish(&*jobs, worker, id, 1, Outcome::Dead).await);
    assert_eq!(jobs.begin_jobs(other, &[handed]).await.unwrap(), [Begun::Over]);
    assert_eq!(jobs.job(id).await.unwrap().unwrap().executions.len(), 1);
}

pub(crate) async fn failed_attempt_is_followed_by_another_message<H: Harness>() {
    let (_harness, jobs, worker) = working::<H>().await;
    let id = jobs.submit_jobs(&[job(None)]).await.unwrap()[0];
    assert_eq!(begin(&*jobs, worker, id).await, first(1));
    assert!(finish(&*jobs, worker, id, 1, Outcome::Retry(Duration::from_millis(300))).await);
    let failed = read(&*jobs, id).await;
    assert_eq!((failed.state, failed.reason.as_deref()), (JobState::Failed, Some("out of paper")));
    assert!(failed.due_at.is_some());
    // What arrives again of the first message does nothing.
    let first_message = Handed { job: id, message: id };
    assert_eq!(jobs.begin_jobs(worker, &[first_message]).await.unwrap(), [Begun::Stale]);
    assert_eq!(jobs.move_due(10).await.unwrap().count, 0, "not due yet");
    sleep(Duration::from_millis(400)).await;
    assert_eq!(jobs.move_due(10).await.unwrap().count, 1);
    assert_eq!(read(&*jobs, id).await.state, JobState::Failed);
    publish_all(&*jobs, "s").await;
    assert_eq!(read(&*jobs, id).await.state, JobState::Queued);
    let newest = &jobs.recent(None, 1).await.unwrap()[0];
    assert_eq!((newest.id, &*newest.payload), (failed.message_id, &b"7"[..]));
    assert_eq!(begin(&*jobs, worker, id).await, first(2));
    assert!(finish(&*jobs, worker, id, 2, Outcome::Dead).await);
    assert_eq!(read(&*jobs, id).await.state, JobState::Dead);
}

pub(crate) async fn snoozed_job_comes_back_and_the_attempt_does_not_count<H: Harness>() {
    let (_harness, jobs, worker) = working::<H>().await;
    let id = jobs.submit_jobs(&[job(None)]).await.unwrap()[0];
    assert_eq!(begin(&*jobs, worker, id).await, first(1));
    assert!(finish(&*jobs, worker, id, 1, Outcome::Snooze(Duration::from_millis(100))).await);
    assert_eq!(read(&*jobs, id).await.state, JobState::Scheduled);
    sleep(Duration::from_millis(200)).await;
    jobs.move_due(10).await.unwrap();
    assert_eq!(read(&*jobs, id).await.state, JobState::Created);
    assert_eq!(begin(&*jobs, worker, id).await, first(1));
    // At once.
    assert!(finish(&*jobs, worker, id, 1, Outcome::Snooze(Duration::ZERO)).await);
    assert_eq!(read(&*jobs, id).await.state, JobState::Created);
    assert_eq!(begin(&*jobs, worker, id).await, first(1));
}

pub(crate) async fn jobs_of_a_key_run_one_after_the_other_in_their_order<H: Harness>() {
    let (_harness, jobs, worker) = working::<H>().await;
    let wanted = [Some("k"), Some("k"), Some("k"), Some("l"), None].map(job);
    let ids = jobs.submit_jobs(&wanted).await.unwrap();
    let handed: Vec<Handed> =
        ids.iter().rev().map(|id| Handed { job: *id, message: *id }).collect();
    let begun = jobs.begin_jobs(worker, &handed).await.unwrap();
    assert_eq!(begun, [first(1), first(1), Begun::Blocked, Begun::Blocked, first(1)]);
    // While it waits for its next attempt, too.
    assert!(finish(&*jobs, worker, ids[0], 1, Outcome::Retry(Duration::ZERO)).await);
    assert_eq!(begin(&*jobs, worker, ids[1]).await, Begun::Blocked);
    assert_eq!(begin(&*jobs, worker, ids[0]).await, first(2));
    assert!(finish(&*jobs, worker, ids[0], 2, Outcome::Completed).await);
    let second = read(&*jobs, ids[1]).await;
    assert!(!second.is_blocked && second.message_id != ids[1], "{second:?}");
    assert!(read(&*jobs, ids[2]).await.is_blocked);
    assert_eq!(begin(&*jobs, worker, ids[2]).await, Begun::Blocked);
    assert_eq!(begin(&*jobs, worker, ids[1]).await, first(1));
    // A dead one lets the next go on.
    assert!(finish(&*jobs, worker, ids[1], 1, Outcome::Dead).await);
    assert_eq!(begin(&*jobs, worker, ids[2]).await, first(1));
}

pub(crate) async fn retried_job_does_not_run_beside_a_later_one_of_its_key<H: Harness>() {
    let (_harness, jobs, worker) = working::<H>().await;
    let ids = jobs.submit_jobs(&[Some("k"), Some("k")].map(job)).await.unwrap();
    assert_eq!(begin(&*jobs, worker, ids[0]).await, first(1));
    assert!(finish(&*jobs, worker, ids[0], 1, Outcome::Dead).await);
    assert_eq!(begin(&*jobs, worker, ids[1]).await, first(1));
    assert_eq!(jobs.retry_job(ids[0], 1, &request()).await.unwrap(), Retried::Done);
    assert_eq!(begin(&*jobs, worker, ids[0]).await, Begun::Blocked);
    assert!(finish(&*jobs, worker, ids[1], 1, Outcome::Completed).await);
    assert!(!read(&*jobs, ids[0]).await.is_blocked);
    let again = Begun::Run { attempt: 2, attempts_max: Some(2) };
    assert_eq!(begin(&*jobs, worker, ids[0]).await, again);
}

pub(crate) async fn lost_worker_gives_back_what_it_has<H: Harness>() {
    let (_harness, jobs, _) = working::<H>().await;
    let lost = register(&*jobs, Duration::from_millis(50)).await;
    let wanted = [job(None), job(None).attempts(1), job(None), job(None)];
    let ids = jobs.submit_jobs(&wanted).await.unwrap();
    for (id, limit) in [(ids[0], None), (ids[1], Some(1)), (ids[2], None)] {
        assert_eq!(begin(&*jobs, lost, id).await, Begun::Run { attempt: 1, attempts_max: limit });
    }
    assert_eq!(jobs.cancel_job(ids[2], &request()).await.unwrap(), Cancelled::Wanted);
    sleep(Duration::from_millis(100)).await;
    assert_eq!(jobs.retire_workers(None, ATTEMPTS).await.unwrap(), 3);
    assert_eq!(jobs.retire_workers(None, ATTEMPTS).await.unwrap(), 0);
    let states =
        [(ids[0], JobState::Failed), (ids[1], JobState::Dead), (ids[2], JobState::Cancelled)];
    for (id, state) in states {
        assert_eq!(read(&*jobs, id).await.state, state);
        assert!(!finish(&*jobs, lost, id, 1, Outcome::Completed).await, "it was taken from it");
    }
    assert!(read(&*jobs, ids[0]).await.reason.unwrap().contains("\"one\" was lost"));
    let beat = jobs.renew_worker(lost, LEASE, true).await.unwrap();
    assert!(!beat.is_registered);
    let message = Handed { job: ids[3], message: ids[3] };
    let refused = jobs.begin_jobs(lost, &[message]).await.unwrap_err();
    assert_eq!(refused.kind(), StoreErrorKind::Conflict);
    // A worker that stops hands back at once.
    let next = register(&*jobs, LEASE).await;
    assert_eq!(begin(&*jobs, next, ids[0]).await, first(2));
    assert_eq!(jobs.retire_workers(Some(next), ATTEMPTS).await.unwrap(), 1);
    assert_eq!(read(&*jobs, ids[0]).await.state, JobState::Failed);
}

pub(crate) async fn renewed_worker_keeps_what_it_has_and_learns_what_to_stop<H: Harness>() {
    let (_harness, jobs, _) = working::<H>().await;
    let worker = register(&*jobs, Duration::from_millis(200)).await;
    let ids = jobs.submit_jobs(&[job(None), job(None)]).await.unwrap();
    for id in &ids {
        assert_eq!(begin(&*jobs, worker, *id).await, first(1));
    }
    assert!(jobs.renew_worker(worker, LEASE, false).await.unwrap().is_registered);
    sleep(Duration::from_millis(300)).await;
    assert_eq!(jobs.retire_workers(None, ATTEMPTS).await.unwrap(), 0);
    assert_eq!(jobs.cancel_job(ids[1], &request()).await.unwrap(), Cancelled::Wanted);
    assert_eq!(jobs.renew_worker(worker, LEASE, false).await.unwrap().cancelled, [ids[1]]);
    assert!(finish(&*jobs, worker, ids[1], 1, Outcome::Cancelled).await);
    assert_eq!(jobs.renew_worker(worker, LEASE, false).await.unwrap().cancelled, no_jobs());
    let progress = r#"{"done":0.5}"#.to_owned();
    let notes =
        [(ids[0], 1, progress.clone()), (ids[0], 2, "1".to_owned()), (ids[1], 1, "1".to_owned())];
    jobs.note_progress(worker, &notes).await.unwrap();
    let kept = read(&*jobs, ids[0]).await.progress.map(|text| text.replace(' ', ""));
    assert_eq!(kept, Some(progress));
    assert_eq!(read(&*jobs, ids[1]).await.progress, None);
}

pub(crate) async fn dry_runs_say_what_would_be_and_change_nothing<H: Harness>() {
    let (harness, jobs, worker) = working::<H>().await;
    let dry = Request { is_dry_run: true, ..request() };
    let unique = || job(None).unique_key("u");
    let first = jobs.submit_jobs(&[unique()]).await.unwrap()[0];
    assert_eq!(jobs.cancel_job(first, &dry).await.unwrap(), Cancelled::Done);
    assert_eq!(read(&*jobs, first).await.state, JobState::Created);
    let under = Retried::Under(JobState::Created);
    assert_eq!(jobs.retry_job(first, 1, &dry).await.unwrap(), under);
    assert_eq!(begin(&*jobs, worker, first).await, self::first(1));
    assert_eq!(jobs.cancel_job(first, &dry).await.unwrap(), Cancelled::Wanted);
    assert_eq!(jobs.renew_worker(worker, LEASE, false).await.unwrap().cancelled, no_jobs());
    assert!(finish(&*jobs, worker, first, 1, Outcome::Dead).await);
    assert_eq!(jobs.retry_job(first, 1, &dry).await.unwrap(), Retried::Done);
    assert_eq!(read(&*jobs, first).await.state, JobState::Dead);
    // Another one has its unique key by now.
    jobs.submit_jobs(&[unique()]).await.unwrap();
    assert_eq!(jobs.retry_job(first, 1, &dry).await.unwrap(), Retried::Over);
    assert_eq!(jobs.retry_job(first, 1, &request()).await.unwrap(), Retried::Over);
    assert!(harness.audit().await.is_empty(), "nothing was changed by hand");
}

pub(crate) async fn cancelled_job_never_runs_and_a_retried_one_does<H: Harness>() {
    let (harness, jobs, worker) = working::<H>().await;
    let later = Message::new("mail").deliver_at(Timestamp(4_102_444_800_000_000));
    let ids = jobs.submit_jobs(&[job(Some("k")), job(Some("k")), NewJob::of(later)]).await.unwrap();
    assert_eq!(read(&*jobs, ids[2]).await.state, JobState::Scheduled);
    for id in [ids[0], ids[2]] {
        assert_eq!(jobs.cancel_job(id, &request()).await.unwrap(), Cancelled::Done);
        assert_eq!(jobs.cancel_job(id, &request()).await.unwrap(), Cancelled::Over);
        assert_eq!(read(&*jobs, id).await.state, JobState::Cancelled);
    }
    assert_eq!(begin(&*jobs, worker, ids[0]).await, Begun::Over);
    assert_eq!(begin(&*jobs, worker, ids[1]).await, first(1), "its turn has come");
    assert_eq!(jobs.move_due(10).await.unwrap().next_in, None, "nothing waits any more");
    assert_eq!(jobs.retry_job(ids[2], 2, &request()).await.unwrap(), Retried::Done);
    let under = Retried::Under(JobState::Created);
    assert_eq!(jobs.retry_job(ids[2], 2, &request()).await.unwrap(), under);
    let twice = Begun::Run { attempt: 1, attempts_max: Some(2) };
    assert_eq!(begin(&*jobs, worker, ids[2]).await, twice);
    assert!(finish(&*jobs, worker, ids[2], 1, Outcome::Completed).await);
    assert_eq!(jobs.retry_job(ids[2], 1, &request()).await.unwrap(), Retried::Over);
    let nobody = MessageId::now_v7();
    assert_eq!(jobs.cancel_job(nobody, &request()).await.unwrap(), Cancelled::Unknown);
    assert_eq!(jobs.retry_job(nobody, 1, &request()).await.unwrap(), Retried::Unknown);
    let noted = harness.audit().await.into_iter().map(|(_, action)| action);
    assert!(noted.eq(["cancel-job", "cancel-job", "retry-job"]), "what changes something");
}

pub(crate) async fn r27_what_keeps_a_job_waiting_is_found_and_mended<H: Harness>() {
    let (harness, jobs, worker) = working::<H>().await;
    let ids = jobs.submit_jobs(&[job(None)]).await.unwrap();
    let looked = async || {
        let found = jobs.waiting_jobs(Duration::ZERO, 10).await.unwrap();
        let [waiting] = &*found else { panic!("{found:?}") };
        assert_eq!((waiting.id, &*waiting.topic), (ids[0], "mail"));
        let cause = waiting.known.cause();
        (cause.code(), cause.remedy())
    };
    assert_eq!(looked().await, ("no-relay", Remedy::Wait));
    publish_all(&*jobs, "s").await;
    assert_eq!(looked().await, ("busy", Remedy::Wait));
    sleep(Duration::from_millis(2_100)).await;
    jobs.renew_worker(worker, LEASE, true).await.unwrap();
    assert_eq!(looked().await, ("queue-elsewhere", Remedy::Publish));
    assert_eq!(jobs.republish_jobs(&ids).await.unwrap(), ids);
    assert_eq!(jobs.republish_jobs(&ids).await.unwrap(), no_jobs(), "it is on its way");
    assert_eq!(begin(&*jobs, worker, ids[0]).await, first(1));
    assert!(finish(&*jobs, worker, ids[0], 1, Outcome::Completed).await);
    assert_eq!(jobs.waiting_jobs(Duration::ZERO, 10).await.unwrap(), []);

    // Somebody writes the job without its message.
    let ids = jobs.submit_jobs(&[job(None)]).await.unwrap();
    harness.forget_message_of_jobs().await;
    let found = jobs.waiting_jobs(Duration::ZERO, 10).await.unwrap();
    assert_eq!(found[0].known.cause().code(), "unwritten");
    assert_eq!(jobs.waiting_jobs(LEASE, 10).await.unwrap(), [], "too young");
    assert_eq!(jobs.republish_jobs(&ids).await.unwrap(), ids);
    assert_eq!(begin(&*jobs, worker, ids[0]).await, first(1));
    let because = vec![(ids[0], "no".to_owned())];
    assert_eq!(jobs.refuse_jobs(&because).await.unwrap(), no_jobs(), "it runs");

    let ids = jobs.submit_jobs(&[job(Some("k")), job(Some("k"))]).await.unwrap();
    assert_eq!(begin(&*jobs, worker, ids[1]).await, Begun::Blocked);
    let because = vec![(ids[0], "contract \"mail\" 1: a: missing".to_owned())];
    assert_eq!(jobs.refuse_jobs(&because).await.unwrap(), [ids[0]]);
    let refused = read(&*jobs, ids[0]).await;
    assert_eq!(refused.state, JobState::Dead);
    assert_eq!(refused.reason, Some(because[0].1.clone()));
    assert_eq!(begin(&*jobs, worker, ids[1]).await, first(1), "its turn has come");
}

pub(crate) async fn r27_job_that_its_queue_has_lost_is_found_while_workers_are_busy<H: Harness>() {
    let (_harness, jobs, worker) = working::<H>().await;
    let urgent = Message::new("mail").header("bullmq-priority", "3");
    let early = [job(None), job(Some("k")), job(Some("k")), NewJob::of(urgent)];
    let early = jobs.submit_jobs(&early).await.unwrap();
    publish_all(&*jobs, "s").await;
    let overtaken = async || {
        let found = jobs.waiting_jobs(Duration::ZERO, 10).await.unwrap();
        let mut overtaken: Vec<JobId> = found
            .iter()
            .filter(|job| job.known.cause() == Stuck::Overtaken)
            .map(|job| job.id)
            .collect();
        overtaken.sort_unstable();
        overtaken
    };
    let run = async |job| {
        let ids = jobs.submit_jobs(&[job]).await.unwrap();
        assert_eq!(begin(&*jobs, worker, ids[0]).await, first(1));
    };
    run(job(None)).await;
    assert_eq!(overtaken().await, no_jobs(), "the queue may have handed them out at the same time");
    sleep(Duration::from_millis(2_100)).await;
    run(NewJob::of(Message::new("mail").header("bullmq-priority", "1"))).await;
    run(NewJob::of(Message::new("other"))).await;
    assert_eq!(overtaken().await, no_jobs(), "by none of those");
    run(job(None)).await;
    let mut lost = early[..2].to_vec();
    lost.sort_unstable();
    assert_eq!(overtaken().await, lost);
    assert_eq!(jobs.republish_jobs(&lost).await.unwrap().len(), 2);
    assert_eq!(overtaken().await, no_jobs(), "they are on their way");
}

/// What a random walk does.
#[derive(Clone, Copy, Debug)]
enum Act {
    Submit { is_keyed: bool },
    Begin,
    Finish(Outcome),
    Cancel,
    Retry,
    Republish,
    Refuse,
    Publish,
    Retire,
}

const ACTS: [Act; 16] = [
    Act::Submit { is_keyed: true },
    Act::Submit { is_keyed: false },
    Act::Begin,
    Act::Begin,
    Act::Begin,
    Act::Finish(Outcome::Completed),
    Act::Finish(Outcome::Retry(Duration::ZERO)),
    Act::Finish(Outcome::Snooze(Duration::from_millis(20))),
    Act::Finish(Outcome::Dead),
    Act::Finish(Outcome::Cancelled),
    Act::Cancel,
    Act::Retry,
    Act::Republish,
    Act::Refuse,
    Act::Publish,
    Act::Retire,
];

/// Jobs that live, and a worker of them.
struct Walk {
    jobs: Arc<dyn Jobs>,
    worker: WorkerId,
    /// Something is to be published: without it there is no tick to wait for.
    is_news: bool,
}

impl Walk {
    /// Does what needs no job.
    async fn alone(&mut self, act: Act) {
        match act {
            Act::Submit { is_keyed } => {
                self.jobs.submit_jobs(&[job(is_keyed.then_some("k"))]).await.unwrap();
                self.is_news = true;
            }
            Act::Publish => {
                self.is_news |= self.jobs.move_due(100).await.unwrap().count > 0;
                if std::mem::take(&mut self.is_news) {
                    publish_all(&*self.jobs, "s").await;
                }
            }
            Act::Retire => {
                self.jobs.retire_workers(Some(self.worker), 3).await.unwrap();
                self.worker = register(&*self.jobs, LEASE).await;
            }
            _ => {}
        }
    }

    /// Does something to a job.
    async fn to(&self, act: Act, job: &Job) {
        let jobs = &*self.jobs;
        match act {
            Act::Begin => {
                let handed = Handed { job: job.id, message: job.message_id };
                jobs.begin_jobs(self.worker, &[handed]).await.unwrap();
            }
            Act::Finish(outcome) => {
                let held = finish(jobs, self.worker, job.id, job.attempt, outcome).await;
                assert_eq!(held, job.state == JobState::Running);
            }
            Act::Cancel => drop(jobs.cancel_job(job.id, &request()).await.unwrap()),
            Act::Retry => drop(jobs.retry_job(job.id, 2, &request()).await.unwrap()),
            Act::Republish => drop(jobs.republish_jobs(&[job.id]).await.unwrap()),
            Act::Refuse => drop(jobs.refuse_jobs(&[(job.id, "no".to_owned())]).await.unwrap()),
            _ => {}
        }
    }
}

/// Whether a job may be seen in the second state after the first: nobody saw it `queued` where a worker
/// was faster than the relay's settle, nor `created` or `scheduled` where it was published at once.
fn may_follow(before: Option<JobState>, now: JobState) -> bool {
    let Some(before) = before else { return JobState::INITIAL.contains(&now) };
    let through = |middle: JobState| before.may_become(middle) && middle.may_become(now);
    let unseen = [JobState::Queued, JobState::Created, JobState::Scheduled];
    before.may_become(now) || unseen.into_iter().any(through)
}

pub(crate) async fn random_lives_take_legal_steps_only<H: Harness>() {
    let (_harness, jobs, worker) = working::<H>().await;
    let mut walk = Walk { jobs: Arc::clone(&jobs), worker, is_news: false };
    let mut runner = TestRunner::deterministic();
    let draw = (0..ACTS.len(), 0_usize..8);
    let mut known: BTreeMap<JobId, JobState> = BTreeMap::new();
    let mut seen: BTreeMap<JobState, usize> = BTreeMap::new();
    for step in 0..300 {
        let (act, nth) = draw.new_tree(&mut runner).unwrap().current();
        let act = ACTS[act];
        let listed = jobs.jobs(&JobFilter::default(), 8).await.unwrap().jobs;
        let fits = |job: &&Job| match act {
            Act::Finish(_) => job.state == JobState::Running,
            Act::Begin => job.state == JobState::Queued && !job.is_blocked,
            _ => true,
        };
        walk.alone(act).await;
        // Now and then one that it is no step of.
        if let Some(job) = listed.iter().filter(fits).nth(nth / 2).or(listed.get(nth)) {
            walk.to(act, job).await;
        }
        let now = jobs.jobs(&JobFilter::default(), 100).await.unwrap().jobs;
        let of_key = |job: &&Job| job.state == JobState::Running && job.key.is_some();
        assert!(now.iter().filter(of_key).count() <= 1, "step {step}: {act:?}");
        for job in now {
            let before = known.insert(job.id, job.state);
            if before != Some(job.state) {
                *seen.entry(job.state).or_default() += 1;
                let is_legal = may_follow(before, job.state);
                assert!(is_legal, "step {step}: {act:?}: {before:?} to {}", job.state);
            }
        }
    }
    assert_eq!(seen.len(), JobState::ALL.len(), "some state was never seen: {seen:?}");
}

/// Every job that is meant, page by page.
async fn all_pages(jobs: &dyn Jobs, mut which: JobFilter, limit: u32) -> (Vec<Job>, usize) {
    let (mut all, mut pages) = (Vec::new(), 0);
    loop {
        let page = jobs.jobs(&which, limit).await.unwrap();
        assert!(page.jobs.len() <= limit as usize);
        all.extend(page.jobs);
        pages += 1;
        let Some(next) = page.next else { return (all, pages) };
        assert!(which.before.is_none_or(|before| next < before), "{next} is no progress");
        which.before = Some(next);
    }
}

pub(crate) async fn jobs_are_listed_by_every_filter_page_by_page<H: Harness>() {
    let (_harness, jobs, worker) = working::<H>().await;
    let topics = ["a.one", "a.two", "b"];
    let new: Vec<NewJob> = (0..60)
        .map(|n| {
            let message = Message::new(topics[n % 3]).key(format!("k{}", n % 4)).text("1");
            NewJob::of(message)
        })
        .collect();
    let ids = jobs.submit_jobs(&new).await.unwrap();
    publish_all(&*jobs, "s").await;
    for (n, id) in ids.iter().enumerate().filter(|(n, _)| n % 5 == 0) {
        jobs.cancel_job(*id, &request()).await.unwrap();
        // Some of them run, if their key is free.
        let _ = begin(&*jobs, worker, ids[n + 1]).await;
    }
    let (all, _) = all_pages(&*jobs, JobFilter::default(), 200).await;
    assert!(all.iter().map(|job| job.id).eq(ids.iter().rev().copied()), "the newest first");
    let states: BTreeSet<JobState> = all.iter().map(|job| job.state).collect();
    assert!(states.len() >= 3, "{states:?}");
    let limits = TopicFilter::from_parts(vec!["b".to_owned()], vec!["a.t".to_owned()]);
    for state in [None].into_iter().chain(JobState::ALL.map(Some)) {
        for topic in [None, Some("a.one"), Some("b"), Some("none")] {
            for key in [None, Some("k1")] {
                for topics in [None, Some(limits.clone())] {
                    let (topic, key) = (topic.map(str::to_owned), key.map(str::to_owned));
                    let which = JobFilter { state, topic, topics, key, before: None };
                    let is_meant = |job: &&Job| {
                        which.state.is_none_or(|state| job.state == state)
                            && which.topic.as_ref().is_none_or(|topic| job.topic == *topic)
                            && which.topics.as_ref().is_none_or(|all| all.matches(&job.topic))
                            && which.key.as_ref().is_none_or(|key| job.key.as_ref() == Some(key))
                    };
                    let expected: Vec<&Job> = all.iter().filter(is_meant).collect();
                    let (found, _) = all_pages(&*jobs, which.clone(), 7).await;
                    assert!(found.iter().eq(expected), "{which:?}: {found:#?}");
                }
            }
        }
    }
}

pub(crate) async fn page_of_jobs_looks_at_a_limited_number_and_says_where_to_go_on<H: Harness>() {
    let (_harness, jobs, _) = working::<H>().await;
    let of = |topic: &str| NewJob::of(Message::new(topic).text("1"));
    let rare = jobs.submit_jobs(&[of("rare")]).await.unwrap()[0];
    for _ in 0..8 {
        jobs.submit_jobs(&vec![of("common"); 1_000]).await.unwrap();
    }
    publish_all(&*jobs, "s").await;
    let of_topic =
        |topic: &str| JobFilter { topic: Some(topic.to_owned()), ..JobFilter::default() };
    let (found, pages) = all_pages(&*jobs, of_topic("rare"), 10).await;
    assert_eq!((found.len(), found[0].id, pages), (1, rare, 2));
    // Whether a job is queued, the log says: that takes longer.
    let created = JobFilter { state: Some(JobState::Created), ..of_topic("rare") };
    let (found, pages) = all_pages(&*jobs, created, 10).await;
    assert_eq!((found.len(), pages), (0, 5));
}
