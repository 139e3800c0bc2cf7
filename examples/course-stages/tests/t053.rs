//! The three scenarios of T053, with both paths.

use std::time::Duration;

use course_stages::{
    courses::NewCourse,
    messages::Style,
    scenarios::{self, Outcome, of_style, title_only, with_files, without_files},
    service::{Report, Service},
};
use posthaste_core::JobState;
use posthaste_testkit::eventually_async;

use crate::support::{Kind, LIMIT, Place, on_kinds};

/// For the outbox, from the moment when the course is complete: generous, nothing is measured.
const OUTBOX_LIMIT: Duration = Duration::from_secs(10);

const STAGE_2: [&str; 3] =
    ["stage_2_init by api", "stage_2_processing by worker", "stage_2_complete by worker"];

on_kinds! {
    embedded Embedded {
        r49_t053_title_only,
        r49_t053_full_pipeline_with_files,
        r49_t053_full_pipeline_without_files,
        r49_t053_styles,
        documents_that_end_at_once_start_the_next_stage_once,
    }
    stream Stream {
        r49_t053_title_only,
        r49_t053_full_pipeline_with_files,
        r49_t053_full_pipeline_without_files,
        r49_t053_styles,
        documents_that_end_at_once_start_the_next_stage_once,
    }
    bullmq Bullmq {
        r49_t053_full_pipeline_with_files,
    }
}

/// Generates a course; its outbox is processed then, and each of its jobs was run once.
async fn generate(place: &Place, service: &Service, course: &NewCourse, messages: u64) -> Outcome {
    let outcome = scenarios::play(&place.courses, service, course, LIMIT).await.unwrap();
    let is_published =
        async || place.courses.published(&course.id).await.unwrap() == (messages, messages);
    eventually_async("a processed outbox", OUTBOX_LIMIT, is_published).await;
    for entry in &outcome.initiated.outbox_entries {
        let store = &place.courses.database().store;
        let job = store.job(entry.outbox_id).await.unwrap().unwrap();
        assert_eq!((job.job.state, job.executions.len()), (JobState::Completed, 1));
    }
    outcome
}

/// Nothing was tried twice, and neither the second layer nor the third had anything to do.
async fn stop(service: Service, jobs: u64) {
    let Report { listener, worker } = service.stop().await.unwrap();
    assert_eq!((worker.completed, worker.failed, worker.dead), (jobs, 0, 0));
    assert_eq!((worker.mended, worker.unmended), (0, 0));
    assert_eq!((listener.mended, listener.unmended), (0, 0));
}

fn of_stages(first: &[&str], first_of_5: &str) -> Vec<String> {
    let last = [first_of_5, "stage_5_generating by worker", "stage_5_complete by worker"];
    ["pending by api"].iter().chain(first).chain(&last).map(ToString::to_string).collect()
}

async fn r49_t053_title_only(kind: Kind) {
    let place = Place::new(kind).await;
    let service = place.start_all();
    let outcome = generate(&place, &service, &title_only("c-1"), 1).await;
    stop(service, 1).await;
    assert_eq!(outcome.initiated.fsm_state, "stage_5_init");
    assert_eq!(outcome.initiated.outbox_entries[0].topic, "structure.generate");
    assert_eq!(place.trail("c-1").await, of_stages(&[], "stage_5_init by api"));
    let structure = outcome.structure;
    assert_eq!((structure.title.as_str(), structure.sections.len()), ("Synergy in Sales", 1));
}

async fn r49_t053_full_pipeline_with_files(kind: Kind) {
    let place = Place::new(kind).await;
    let course = with_files("c-1");
    let service = place.start_all();
    let outcome = generate(&place, &service, &course, 6).await;
    stop(service, 6).await;
    assert_eq!(outcome.initiated.fsm_state, "stage_2_init");
    let topics = outcome.initiated.outbox_entries.iter().map(|entry| entry.topic.as_str());
    assert_eq!(topics.collect::<Vec<_>>(), ["document.process"; 4]);
    let stage_4 =
        ["stage_4_init by worker", "stage_4_analyzing by worker", "stage_4_complete by worker"];
    let expected = of_stages(&[STAGE_2, stage_4].concat(), "stage_5_init by worker");
    assert_eq!(place.trail("c-1").await, expected);
    assert!(outcome.events.is_sorted_by_key(|event| event.at_us), "{:?}", outcome.events);
    // One effect for each document.
    let first = course.files.iter().map(|file| file.text.split('.').next().unwrap().to_owned());
    assert_eq!(outcome.summaries, first.collect::<Vec<_>>());
    assert_eq!(outcome.structure.style, Style::Practical);
    assert_eq!(outcome.structure.sections[0].title, "synergy");
}

async fn r49_t053_full_pipeline_without_files(kind: Kind) {
    let place = Place::new(kind).await;
    let service = place.start_all();
    let outcome = generate(&place, &service, &without_files("c-1"), 2).await;
    stop(service, 2).await;
    assert_eq!(outcome.initiated.fsm_state, "stage_4_init");
    assert_eq!(outcome.initiated.outbox_entries[0].topic, "structure.analyze");
    let stage_4 =
        ["stage_4_init by api", "stage_4_analyzing by worker", "stage_4_complete by worker"];
    let expected = of_stages(&stage_4, "stage_5_init by worker");
    assert_eq!(place.trail("c-1").await, expected);
    let titles: Vec<&str> =
        outcome.structure.sections.iter().map(|section| section.title.as_str()).collect();
    assert_eq!(titles, ["customers", "trust", "listening", "follows"]);
}

async fn r49_t053_styles(kind: Kind) {
    let place = Place::new(kind).await;
    let service = place.start_all();
    let mut lessons = Vec::new();
    for style in Style::ALL {
        let course = of_style(style.name(), style);
        let outcome = generate(&place, &service, &course, 1).await;
        assert_eq!(outcome.structure.style, style);
        assert_eq!(place.trail(style.name()).await, of_stages(&[], "stage_5_init by api"));
        lessons.push(outcome.structure.sections[0].lessons.clone());
    }
    stop(service, 4).await;
    lessons.sort();
    lessons.dedup();
    assert_eq!(lessons.len(), 4, "{lessons:?}");
}

/// The last of a course's documents begins stage 4, and none of them or two of them would if they only looked.
async fn documents_that_end_at_once_start_the_next_stage_once(kind: Kind) {
    let place = Place::new(kind).await;
    let service = place.start_all();
    let ids: Vec<String> = (0..12).map(|n| format!("c-{n}")).collect();
    let courses: Vec<NewCourse> = ids.iter().map(|id| with_files(id)).collect();
    let played = courses.iter().map(|course| {
        let (courses, course, service) = (place.courses.clone(), course.clone(), &service);
        async move { scenarios::play(&courses, service, &course, LIMIT).await.unwrap() }
    });
    for outcome in futures(played).await {
        let count = |state: &str| outcome.events.iter().filter(|it| it.state == state).count();
        assert_eq!((count("stage_2_complete"), count("stage_4_init")), (1, 1));
        assert_eq!(outcome.summaries.len(), 4);
    }
    let report = service.stop().await.unwrap();
    assert_eq!(report.worker.completed, 12 * 6, "{report:?}");
}

/// Runs futures side by side.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.map(|it| Box::pin(it)).collect();
    let mut done: Vec<Option<T>> = all.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, done) in all.iter_mut().zip(&mut done) {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}
