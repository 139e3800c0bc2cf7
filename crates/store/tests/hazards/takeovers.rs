//! Takeovers from lost workers, beside what holds some of their jobs.

use std::time::Duration;

use posthaste_core::{JobState, Message, NewJob};
use posthaste_store::{Begun, Handed, JobId, Jobs as _, StoreErrorKind, WorkerId, WorkerSpec};
use tokio::time::{sleep, timeout};

use super::database::{LIMIT, Log};

const LEASE: Duration = Duration::from_millis(50);
const ATTEMPTS: u32 = 5;

/// Registers a worker, and has it begin some jobs.
async fn begin(log: &Log, jobs: &[JobId]) -> WorkerId {
    let spec = WorkerSpec { name: "cut off".to_owned(), ..WorkerSpec::default() };
    let worker = log.store.register_worker(&spec, LEASE).await.unwrap();
    let handed: Vec<_> = jobs.iter().map(|id| Handed { job: *id, message: *id }).collect();
    let begun = log.store.begin_jobs(worker, &handed).await.unwrap();
    assert!(begun.iter().all(|begun| matches!(begun, Begun::Run { attempt: 1, .. })), "{begun:?}");
    worker
}

async fn take_over(log: &Log) -> u64 {
    let taking = log.store.retire_workers(None, ATTEMPTS);
    timeout(LIMIT, taking).await.expect("it waits for nobody").unwrap()
}

async fn state(log: &Log, id: JobId) -> JobState {
    log.store.job(id).await.unwrap().expect("a job").job.state
}

/// Fails with a takeover that waits for rows or keys, or in which one worker's jobs wait for another's.
#[tokio::test]
async fn job_that_a_transaction_holds_keeps_no_other_from_being_taken_over() {
    let log = Log::shared().await;
    let keyed = || NewJob::of(Message::new("t").key("k"));
    let plain = || NewJob::of(Message::new("t"));
    let ids = log.store.submit_jobs(&[plain(), plain(), keyed(), plain()]).await.unwrap();
    let first = begin(&log, &ids[..3]).await;
    let second = begin(&log, &ids[3..]).await;
    // The effects of two jobs, in transactions whose clients are gone without a word.
    let holders = [log.writer().await, log.writer().await];
    for (holder, id) in holders.iter().zip([ids[0], ids[2]]) {
        holder.batch_execute("begin").await.unwrap();
        let settle = "select posthaste.lock_job_keys(array[$1::uuid]), \
                      (select n from posthaste.job where id = $1 for no key update)";
        holder.query(settle, &[&id]).await.unwrap();
    }
    sleep(LEASE * 2).await;
    assert_eq!(take_over(&log).await, 2);
    assert_eq!(take_over(&log).await, 0);
    let [held, taken] = [JobState::Running, JobState::Failed];
    for (id, expected) in ids.iter().zip([held, taken, held, taken]) {
        assert_eq!(state(&log, *id).await, expected);
    }
    // It has lost some of what it had, and so all.
    for worker in [first, second] {
        let beat = log.store.renew_worker(worker, LEASE, true).await.unwrap();
        assert!(!beat.is_registered);
        let handed = Handed { job: ids[1], message: ids[1] };
        let refused = log.store.begin_jobs(worker, &[handed]).await.unwrap_err();
        assert_eq!(refused.kind(), StoreErrorKind::Conflict);
    }
    for holder in holders {
        holder.batch_execute("rollback").await.unwrap();
    }
    assert_eq!(take_over(&log).await, 2);
    assert_eq!((state(&log, ids[0]).await, state(&log, ids[2]).await), (taken, taken));
    let left = log.writer().await.query("select from posthaste.worker", &[]).await.unwrap();
    assert!(left.is_empty());
}

/// Fails with progress that waits: no beat would follow it, and the worker would lose all that it has.
#[tokio::test]
async fn progress_of_a_job_that_a_transaction_holds_is_passed_over() {
    let log = Log::shared().await;
    let plain = || NewJob::of(Message::new("t"));
    let ids = log.store.submit_jobs(&[plain(), plain()]).await.unwrap();
    let worker = begin(&log, &ids).await;
    let holder = log.writer().await;
    holder.batch_execute("begin").await.unwrap();
    let hold = "select from posthaste.job where id = $1 for no key update";
    holder.query(hold, &[&ids[0]]).await.unwrap();
    let notes = [(ids[0], 1, "1".to_owned()), (ids[1], 1, "2".to_owned())];
    let noting = log.store.note_progress(worker, &notes);
    timeout(LIMIT, noting).await.expect("it waits for nobody").unwrap();
    for (id, expected) in ids.iter().zip([None, Some("2")]) {
        let job = log.store.job(*id).await.unwrap().expect("a job").job;
        assert_eq!(job.progress.as_deref(), expected);
    }
}
