//! The outbox's processor, which is the relay, and what is kept of attempts.

use course_stages::{
    messages::{AnalyzeStructure, Payload as _},
    scenarios::{title_only, with_files},
    service::Parts,
    stages::{COMPLETE, FAILED, Layer, Stage},
};
use posthaste::{Jobs, NewJob};
use posthaste_core::JobState;
use posthaste_testkit::eventually_async;
use sea_orm::TransactionTrait as _;

use crate::support::{Kind, LIMIT, Place, on_kinds, request};

on_kinds! {
    embedded Embedded {
        r49_processor_pending_entries_are_processed,
        r49_processor_attempts_are_tracked,
        document_that_says_nothing_fails_its_course_and_no_job_of_it,
    }
    stream Stream {
        r49_processor_pending_entries_are_processed,
        r49_processor_attempts_are_tracked,
    }
}

async fn r49_processor_pending_entries_are_processed(kind: Kind) {
    let place = Place::new(kind).await;
    for course in [title_only("c-1"), with_files("c-2")] {
        place.courses.upload(&course).await.unwrap();
        place.courses.initiate(&request(&course)).await.unwrap();
    }
    // Nobody publishes yet.
    assert_eq!(place.courses.published("c-1").await.unwrap(), (1, 0));
    assert_eq!(place.courses.published("c-2").await.unwrap(), (4, 0));
    let relay = place.start(Parts { listener: false, worker: false, ..Parts::default() });
    if kind == Kind::Embedded {
        // There is nobody to hand them to.
        relay.stop().await.unwrap();
    } else {
        let published = async |course: &str| place.courses.published(course).await.unwrap();
        let are = async || [published("c-1").await, published("c-2").await] == [(1, 1), (4, 4)];
        eventually_async("published entries", LIMIT, are).await;
        relay.stop().await.unwrap();
    }
    let service = place.start_all();
    place.until("c-1", COMPLETE).await;
    place.until("c-2", COMPLETE).await;
    let all = async || place.courses.published("c-2").await.unwrap() == (6, 6);
    eventually_async("a processed outbox", LIMIT, all).await;
    assert_eq!(service.stop().await.unwrap().worker.completed, 7);
}

/// A job that comes too early: each attempt is kept with its reason, and the last one is the job's death.
async fn r49_processor_attempts_are_tracked(kind: Kind) {
    let place = Place::new(kind).await;
    place.courses.upload(&with_files("c-1")).await.unwrap();
    place.courses.ensure_begun(Layer::Listener, Stage::Documents, "c-1").await.unwrap();
    let message = AnalyzeStructure { course: "c-1".to_owned() }.job().unwrap().message().clone();
    let transaction = place.courses.database().pool.begin().await.unwrap();
    let job = NewJob::of(message).attempts(2);
    let id = Jobs::default().submit(&transaction, &job).await.unwrap();
    transaction.commit().await.unwrap();

    let service = place.start_all();
    let store = &place.courses.database().store;
    let read = async || store.job(id).await.unwrap().unwrap();
    eventually_async("a dead job", LIMIT, async || read().await.job.state == JobState::Dead).await;
    let report = service.stop().await.unwrap();
    let job = read().await;
    assert_eq!(job.job.attempt, 2);
    let executions = job.executions.iter();
    let told: Vec<(u32, &str)> = executions.map(|it| (it.attempt, it.outcome.as_str())).collect();
    assert_eq!(told, [(1, "retry"), (2, "dead")]);
    for execution in &job.executions {
        let reason = execution.reason.as_deref().unwrap_or_default();
        let expected = "course \"c-1\" is in stage_2_init: too early for structure.analyze";
        assert_eq!(reason, expected);
    }
    // The third layer has asked for stage 4 before each attempt, and the machine has refused.
    let counts = report.worker;
    assert_eq!((counts.failed, counts.dead, counts.mended, counts.unmended), (1, 1, 0, 2));
    assert_eq!(place.courses.state("c-1").await.unwrap(), "stage_2_init");
}

/// With the reason in the trail; what is left of the course's jobs has no effect any more.
async fn document_that_says_nothing_fails_its_course_and_no_job_of_it(kind: Kind) {
    let place = Place::new(kind).await;
    let mut course = with_files("c-1");
    " . ".clone_into(&mut course.files[0].text);
    place.courses.upload(&course).await.unwrap();
    let initiated = place.courses.initiate(&request(&course)).await.unwrap();
    let service = place.start_all();
    place.until("c-1", FAILED).await;
    let store = &place.courses.database().store;
    for entry in &initiated.outbox_entries {
        let is_over = async || {
            let job = store.job(entry.outbox_id).await.unwrap().unwrap();
            job.job.state == JobState::Completed
        };
        eventually_async("a job that is over", LIMIT, is_over).await;
    }
    let counts = service.stop().await.unwrap().worker;
    assert_eq!((counts.completed, counts.failed, counts.dead), (4, 0, 0));
    assert_eq!(place.courses.structure("c-1").await.unwrap(), None);
    assert_eq!(place.trail("c-1").await.last().unwrap(), "failed by worker");
}
