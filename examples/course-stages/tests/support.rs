//! A database with the application, a queue, and jobs that are put into the queue by hand.

use std::{sync::Arc, time::Duration};

use course_stages::{
    courses::{Courses, Initiate, NewCourse, StateEvent},
    database::{Database, DatabaseSettings},
    service::{Parts, Queue, Service},
    stages::Stage,
};
use posthaste_testkit::{Postgres, Redis, eventually_async};
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use uuid::Uuid;

/// Nothing here takes longer on a machine that is busy.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// Where the application runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// SQLite, relay and worker in one process.
    Embedded,
    /// PostgreSQL and a Redis stream.
    Stream,
    /// PostgreSQL and BullMQ's queue.
    Bullmq,
}

/// The test once for each kind, in modules of their names.
macro_rules! on_kinds {
    ($($kind:ident $variant:ident { $($test:ident,)* })*) => {$(
        mod $kind {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                Box::pin(super::$test(crate::support::Kind::$variant)).await;
            }
        )*}
    )*};
}
pub(crate) use on_kinds;

pub(crate) struct Place {
    pub(crate) courses: Courses,
    pub(crate) queue: Queue,
    pub(crate) postgres: Option<posthaste_testkit::Database>,
    pub(crate) settings: DatabaseSettings,
    _directory: TempDir,
}

impl Place {
    pub(crate) async fn new(kind: Kind) -> Self {
        Self::with(kind, &Redis::shared().url()).await
    }

    pub(crate) async fn with(kind: Kind, redis: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let postgres = match kind {
            Kind::Embedded => None,
            _ => Some(Postgres::shared().database().await),
        };
        let url = match &postgres {
            Some(database) => database.url().to_owned(),
            None => format!("sqlite:{}", directory.path().join("courses.db").display()),
        };
        let settings = DatabaseSettings { url, statement_timeout: LIMIT };
        let courses = Courses::new(Database::open(&settings).await.unwrap());
        let prefix = Redis::shared().prefix().trim_end_matches(':').to_owned();
        let url = redis.to_owned();
        let queue = match kind {
            Kind::Embedded => Queue::Embedded,
            Kind::Stream => Queue::Stream { url, prefix },
            Kind::Bullmq => Queue::Bullmq { url, prefix },
        };
        Self { courses, queue, postgres, settings, _directory: directory }
    }

    pub(crate) fn start(&self, parts: Parts) -> Service {
        Service::start(&self.courses, &self.queue, parts).unwrap()
    }

    pub(crate) fn start_all(&self) -> Service {
        self.start(Parts::default())
    }

    /// A connection that is neither the application's nor a worker's.
    pub(crate) async fn client(&self) -> Arc<tokio_postgres::Client> {
        Arc::new(self.postgres.as_ref().unwrap().connect().await)
    }

    pub(crate) async fn until(&self, course: &str, state: &str) {
        let what = format!("{course} in {state}");
        let is_there = async || self.courses.state(course).await.unwrap() == state;
        eventually_async(&what, LIMIT, is_there).await;
    }

    /// The states of a course, each with who asked for it.
    pub(crate) async fn trail(&self, course: &str) -> Vec<String> {
        let told = |event: StateEvent| format!("{} by {}", event.state, event.by);
        self.courses.events(course).await.unwrap().into_iter().map(told).collect()
    }

    /// Puts a job of a stage into the queue as somebody would who knows nothing of the outbox.
    pub(crate) async fn add_by_hand(&self, stage: Stage, payload: &str) {
        let id = Uuid::new_v4().to_string();
        let topic = stage.topic();
        match &self.queue {
            Queue::Embedded => unreachable!("nobody else can add to it"),
            Queue::Stream { url, prefix } => {
                let mut add = redis::cmd("XADD");
                add.arg(format!("{prefix}:jobs")).arg("*").arg("id").arg(&id);
                add.arg("topic").arg(topic).arg("content_type").arg("application/json");
                add.arg("enqueued_at").arg("2026-01-02T03:04:05.000006Z");
                add.arg("payload").arg(payload);
                add.exec_async(&mut connect(url).await).await.unwrap();
            }
            Queue::Bullmq { url, prefix } => {
                let (mut client, base) = (connect(url).await, format!("{prefix}:jobs"));
                let mut job = redis::cmd("HSET");
                job.arg(format!("{base}:{id}")).arg("name").arg(topic).arg("data").arg(payload);
                job.arg("opts").arg("{}").arg("timestamp").arg("1767323045000");
                job.arg("priority").arg("0");
                job.exec_async(&mut client).await.unwrap();
                let mut push = redis::cmd("LPUSH");
                push.arg(format!("{base}:wait")).arg(&id).exec_async(&mut client).await.unwrap();
                let mut event = redis::cmd("XADD");
                event.arg(format!("{base}:events")).arg("*").arg("event").arg("added");
                event.arg("jobId").arg(&id).arg("name").arg(topic);
                event.exec_async(&mut client).await.unwrap();
            }
        }
    }
}

pub(crate) async fn connect(url: &str) -> MultiplexedConnection {
    let client = redis::Client::open(url).unwrap();
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(LIMIT))
        .set_response_timeout(Some(LIMIT));
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// The request for a course.
pub(crate) fn request(course: &NewCourse) -> Initiate {
    Initiate {
        course: course.id.clone(),
        user: "teacher".to_owned(),
        idempotency_key: format!("key of {}", course.id),
    }
}

/// The payload of a job by hand.
pub(crate) fn payload(stage: Stage, course: &str) -> String {
    match stage {
        Stage::Documents => format!(r#"{{"course": "{course}", "document": "1-listening.md"}}"#),
        Stage::Structure => format!(r#"{{"course": "{course}"}}"#),
        Stage::Generation => format!(r#"{{"course": "{course}", "style": "academic"}}"#),
    }
}
