//! A job never arrives before the state that was committed with it: the defect that blocked the end-to-end test of the
//! system that this example plays.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use course_stages::{
    scenarios::title_only,
    service::{Parts, Queue},
    stages::Stage,
};
use posthaste_worker::{Answer, Done, Failed, Task, Worker, WorkerSettings, sources};
use tokio::sync::oneshot;

use crate::support::{Kind, LIMIT, Place, request};
use posthaste_testkit::eventually_async;

const COURSES: u64 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_handler_finds_the_state_that_was_committed_with_its_job_on_another_connection() {
    let place = Place::new(Kind::Stream).await;
    let service = place.start(Parts { relay: true, listener: false, worker: false });
    let client = place.client().await;
    let seen = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&seen);
    let handle = move |task: Task| {
        let (client, seen) = (Arc::clone(&client), Arc::clone(&counted));
        async move {
            let course = task.message().correlation_id.clone().unwrap_or_default();
            let state = "select state from posthaste.entity where entity_id = $1";
            let row = client.query_opt(state, &[&course]).await?;
            let state: Option<String> = row.map(|row| row.get(0));
            if state.as_deref() != Some("stage_5_init") {
                return Err(Failed::reject(format!("{course} is in {state:?}")));
            }
            seen.fetch_add(1, Ordering::Relaxed);
            Answer::Ok(Done::default())
        }
    };
    let Queue::Stream { url, prefix } = &place.queue else { unreachable!() };
    let settings = format!("url = '{url}'\nstreams = ['{prefix}:jobs']").parse().unwrap();
    let source = (sources::find("redis-stream").unwrap().parse)(settings).unwrap();
    let store = Arc::clone(&place.courses.database().store);
    let worker = Worker::new(store, WorkerSettings::default()).unwrap().source(source);
    let worker = worker.handle(Stage::Generation.topic(), handle);
    let (stop, stopped) = oneshot::channel::<()>();
    let working = tokio::spawn(worker.run(async move { drop(stopped.await) }));

    let mut initiating = tokio::task::JoinSet::new();
    for n in 0..COURSES {
        let courses = place.courses.clone();
        initiating.spawn(async move {
            let course = title_only(&format!("c-{n}"));
            courses.upload(&course).await.unwrap();
            courses.initiate(&request(&course)).await.unwrap();
        });
    }
    initiating.join_all().await;
    let store = &place.courses.database().store;
    let are_over = async || {
        let all = store.jobs(&posthaste_store::JobFilter::default(), 1_000).await.unwrap().jobs;
        all.len() as u64 == COURSES && all.iter().all(|job| job.state.is_final())
    };
    eventually_async("jobs that are over", LIMIT, are_over).await;
    drop(stop);
    let counts = working.await.unwrap().unwrap();
    assert_eq!((seen.load(Ordering::Relaxed), counts.dead), (COURSES, 0), "{counts:?}");
    service.stop().await.unwrap();
}
