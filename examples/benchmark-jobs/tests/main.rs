//! The application from end to end: embedded, and on PostgreSQL with Redis between relay and runner.
// clippy.toml allows it in test functions only; here the functions beside them are tests too.
#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use benchmark_jobs::{Catalogue, Place, PlaceError, Runner, Settings, Shown};
use posthaste::JobState;
use posthaste_testkit::{Database, Postgres, Redis};
use posthaste_worker::{Answer, Counts, Failed, Handler, Task, WorkerSettings};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{sync::oneshot, task::JoinHandle, time::sleep};

/// No job is in `created` for longer.
const LIMIT: Duration = Duration::from_secs(30);

/// What has to live as long as a place.
enum Servers {
    Embedded(TempDir),
    Real(Box<(Database, Redis)>),
}

impl Servers {
    fn embedded() -> Self {
        Self::Embedded(tempfile::tempdir().unwrap())
    }

    async fn real() -> Self {
        Self::Real(Box::new((Postgres::shared().database().await, Redis::start())))
    }

    fn settings(&self) -> Settings {
        match self {
            Self::Embedded(directory) => {
                let path = directory.path().join("jobs.db");
                Settings { database: format!("sqlite:{}", path.display()), redis: None }
            }
            Self::Real(servers) => {
                let (database, redis) = &**servers;
                Settings { database: database.url().to_owned(), redis: Some(redis.url()) }
            }
        }
    }

    async fn place(&self) -> Place {
        Place::open(&self.settings()).await.unwrap()
    }
}

macro_rules! on_both {
    ($($test:ident,)*) => {
        mod embedded {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                Box::pin(super::$test(super::Servers::embedded())).await;
            }
        )*}
        mod on_servers {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                Box::pin(super::$test(super::Servers::real().await)).await;
            }
        )*}
    };
}

on_both! {
    r27_job_goes_from_its_submission_to_a_receipt,
    r30_id_and_jobspec_id_are_there_and_equal_in_every_answer,
    r31_what_breaks_the_contract_is_refused_and_leaves_nothing,
    r35_answers_are_shown_question_by_question_whichever_runner_gave_them,
    r50_10_at_once_and_100_in_a_row_are_completed_though_attempts_fail,
    job_that_no_runner_can_do_is_dead_with_the_reason,
}

fn spec(id: &str, questions: &[&str]) -> Value {
    json!({
        "jobspec_id": id,
        "version": "1",
        "benchmark": "self-description",
        "constraints": { "regions": ["EU", "US"], "min_regions": 2 },
        "questions": questions,
    })
}

async fn submit(place: &Place, spec: &Value) -> Result<Value, PlaceError> {
    let submitted = place.submit(spec.to_string().as_bytes()).await?;
    Ok(serde_json::to_value(submitted).unwrap())
}

/// A relay and a runner at work.
struct Working(oneshot::Sender<()>, JoinHandle<Counts>);

fn work(place: &Place, runner: impl Handler) -> Working {
    let (stop, stopped) = oneshot::channel();
    let shutdown = async move {
        let _: Result<(), _> = stopped.await;
    };
    let place = place.clone();
    let mut settings = WorkerSettings::default();
    settings.retry.backoff.initial = Duration::from_millis(20);
    settings.retry.backoff.cap = Duration::from_millis(100);
    Working(stop, tokio::spawn(async move { place.run(runner, settings, shutdown).await.unwrap() }))
}

impl Working {
    async fn stop(self) -> Counts {
        drop(self.0);
        tokio::time::timeout(LIMIT, self.1).await.expect("it ends").unwrap()
    }
}

async fn over(place: &Place, id: &str) -> Shown {
    let began = Instant::now();
    loop {
        let shown = place.show(id).await.unwrap().unwrap();
        if shown.job.status.is_final() {
            return shown;
        }
        assert!(began.elapsed() < 4 * LIMIT, "{shown:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

fn runner(place: &Place) -> Runner {
    Runner::new(Catalogue::built_in(), place.contracts())
}

async fn r27_job_goes_from_its_submission_to_a_receipt(servers: Servers) {
    let place = servers.place().await;
    let answer = submit(&place, &spec("a", &["math_basic"])).await.unwrap();
    assert_eq!(answer["status"], "created");
    let working = work(&place, runner(&place));
    let shown = over(&place, "a").await;
    assert_eq!(
        (shown.job.status, shown.attempts, shown.answers.len()),
        (JobState::Completed, 1, 1)
    );
    // Both sides begin anew, and know it still.
    assert_eq!(working.stop().await.completed, 1);
    let again = servers.place().await;
    assert_eq!(again.show("a").await.unwrap().unwrap(), shown);
}

async fn r30_id_and_jobspec_id_are_there_and_equal_in_every_answer(servers: Servers) {
    let place = servers.place().await;
    let first = submit(&place, &spec("a", &[])).await.unwrap();
    let expected = json!({ "id": "a", "jobspec_id": "a", "status": "created" });
    assert_eq!(first, expected);
    // The same once more is the same job, also from ten places at once.
    let all = (0..10).map(|_| {
        let place = place.clone();
        tokio::spawn(async move { submit(&place, &spec("a", &[])).await.unwrap() })
    });
    for answer in all.collect::<Vec<_>>() {
        assert_eq!(answer.await.unwrap(), expected);
    }
    let other = submit(&place, &spec("a", &["math_basic"])).await.unwrap_err();
    assert!(matches!(other, PlaceError::Taken(_)), "{other}");
    let shown = serde_json::to_value(place.show("a").await.unwrap().unwrap()).unwrap();
    assert_eq!((&shown["id"], &shown["jobspec_id"]), (&json!("a"), &json!("a")));
    let working = work(&place, runner(&place));
    over(&place, "a").await;
    assert_eq!(working.stop().await.completed, 1);
}

async fn r31_what_breaks_the_contract_is_refused_and_leaves_nothing(servers: Servers) {
    let place = servers.place().await;
    let mut wrong = spec("a", &[]);
    wrong["id"] = wrong["jobspec_id"].take();
    wrong.as_object_mut().unwrap().remove("jobspec_id");
    let refused = submit(&place, &wrong).await.unwrap_err().to_string();
    assert!(refused.contains("lacks \"jobspec_id\""), "{refused}");
    let mut few = spec("a", &[]);
    few["constraints"]["min_regions"] = json!(0);
    let refused = submit(&place, &few).await.unwrap_err().to_string();
    assert!(refused.contains("/constraints/min_regions"), "{refused}");
    assert_eq!(place.show("a").await.unwrap(), None);
    // The id is still free.
    submit(&place, &spec("a", &[])).await.unwrap();
}

async fn r35_answers_are_shown_question_by_question_whichever_runner_gave_them(servers: Servers) {
    let place = servers.place().await;
    let questions = ["identity_basic", "math_basic", "history_tides"];
    for (id, runner) in [("new", runner(&place)), ("old", runner(&place).older())] {
        submit(&place, &spec(id, &questions)).await.unwrap();
        let working = work(&place, runner);
        let shown = over(&place, id).await;
        working.stop().await;
        let ids: Vec<&str> = shown.answers.iter().map(|it| &*it.question_id).collect();
        assert_eq!(ids, questions);
        let categories: Vec<&str> = shown.answers.iter().map(|it| &*it.category).collect();
        assert_eq!(categories, ["Self description", "Arithmetic", "Natural history"]);
        assert_eq!(shown.answers[1].question, "What is 2 + 2?");
        assert!(
            shown.answers.iter().all(|it| it.question.ends_with('?') && !it.response.is_empty())
        );
    }
}

/// Every tenth attempt fails.
struct Unsteady(Runner, Arc<AtomicU32>);

#[async_trait]
impl Handler for Unsteady {
    async fn run(&self, task: Task) -> Answer {
        if self.1.fetch_add(1, Ordering::Relaxed).is_multiple_of(10) {
            return Err(Failed::retry("the runner was busy"));
        }
        self.0.run(task).await
    }
}

async fn r50_10_at_once_and_100_in_a_row_are_completed_though_attempts_fail(servers: Servers) {
    let place = servers.place().await;
    let attempts = Arc::new(AtomicU32::new(0));
    let working = work(&place, Unsteady(runner(&place), Arc::clone(&attempts)));
    let at_once = (0..10).map(|n| {
        let place = place.clone();
        let spec = spec(&format!("at-once-{n}"), &["math_basic"]);
        tokio::spawn(async move { submit(&place, &spec).await.unwrap() })
    });
    for submitted in at_once.collect::<Vec<_>>() {
        submitted.await.unwrap();
    }
    for n in 0..100 {
        submit(&place, &spec(&format!("row-{n}"), &["math_basic"])).await.unwrap();
    }
    let ids = (0..10).map(|n| format!("at-once-{n}")).chain((0..100).map(|n| format!("row-{n}")));
    for id in ids {
        let shown = over(&place, &id).await;
        assert_eq!(shown.job.status, JobState::Completed, "{shown:?}");
    }
    let counts = working.stop().await;
    assert_eq!((counts.completed, counts.dead), (110, 0));
    assert_eq!(u64::from(attempts.load(Ordering::Relaxed)), 110 + counts.failed);
    assert!(counts.failed >= 11, "{counts:?}");
}

async fn job_that_no_runner_can_do_is_dead_with_the_reason(servers: Servers) {
    let place = servers.place().await;
    submit(&place, &spec("unknown", &["math_basic", "unheard_of"])).await.unwrap();
    let mut few = spec("few", &[]);
    few["constraints"]["regions"] = json!(["EU"]);
    submit(&place, &few).await.unwrap();
    let working = work(&place, runner(&place));
    let unknown = over(&place, "unknown").await;
    assert_eq!(unknown.job.status, JobState::Dead);
    assert_eq!(unknown.reason.as_deref(), Some("there is no question \"unheard_of\""));
    let few = over(&place, "few").await;
    assert_eq!(few.reason.as_deref(), Some("it must run in 2 regions and may in 1"));
    assert_eq!(working.stop().await.dead, 2);
}
