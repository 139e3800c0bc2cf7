//! What goes wrong around a command, and what is left of it: all or nothing, and a reason.

use std::time::Duration;

use course_stages::{
    courses::{CourseError, Courses, Initiate, NewCourse},
    database::{self, Database, DatabaseSettings},
    messages::{GenerateStructure, Payload as _, Style},
    scenarios::{title_only, with_files},
    stages::{COMPLETE, Stage},
};
use posthaste::{CommandErrorKind, Jobs, Message, NewJob, Refusal};
use posthaste_core::{JobState, describe};
use posthaste_testkit::{Redis, eventually_async};
use sea_orm::{ConnectionTrait as _, TransactionTrait as _};

use crate::support::{Kind, LIMIT, Place, on_kinds, request};

/// Short, for what is locked all the time.
const TIMEOUT: Duration = Duration::from_millis(300);

on_kinds! {
    embedded Embedded {
        r49_error_database_timeout_leaves_nothing_half_done,
        r49_error_missing_fields_are_refused_by_name,
        r49_error_duplicate_outbox_id_is_a_conflict,
    }
    stream Stream {
        r49_error_database_timeout_leaves_nothing_half_done,
        r49_error_missing_fields_are_refused_by_name,
        r49_error_duplicate_outbox_id_is_a_conflict,
        r49_error_commands_go_on_while_redis_is_away,
    }
    bullmq Bullmq {
        r49_error_commands_go_on_while_redis_is_away,
    }
}

async fn r49_error_commands_go_on_while_redis_is_away(kind: Kind) {
    let redis = Redis::start();
    let place = Place::with(kind, &redis.url()).await;
    let service = place.start_all();
    let (before, during) = (title_only("before"), with_files("during"));
    place.courses.upload(&before).await.unwrap();
    place.courses.initiate(&request(&before)).await.unwrap();
    place.until("before", COMPLETE).await;
    redis.kill();
    place.courses.upload(&during).await.unwrap();
    let initiated = place.courses.initiate(&request(&during)).await.unwrap();
    assert_eq!(initiated.outbox_entries.len(), 4);
    assert_eq!(place.courses.state("during").await.unwrap(), "stage_2_init");
    assert_eq!(place.courses.published("during").await.unwrap(), (4, 0));
    redis.restart();
    place.until("during", COMPLETE).await;
    assert_eq!(place.courses.summaries("during").await.unwrap().len(), 4);
    let report = service.stop().await.unwrap();
    assert_eq!((report.worker.dead, report.worker.buried), (0, 0));
}

async fn r49_error_database_timeout_leaves_nothing_half_done(kind: Kind) {
    let place = Place::new(kind).await;
    let course = with_files("c-1");
    place.courses.upload(&course).await.unwrap();
    // Somebody else has the course, or on SQLite the file, for as long as the impatient one waits.
    let pool = &place.courses.database().pool;
    let lock = pool.begin().await.unwrap();
    lock.execute_unprepared("update course set title = 'Mine' where id = 'c-1'").await.unwrap();
    let url = place.settings.url.replace("sqlite:", "sqlite://");
    let settings = DatabaseSettings { statement_timeout: TIMEOUT, ..place.settings.clone() };
    let impatient = database::connect(&url, &settings).await.unwrap();
    let database = Database { pool: impatient, ..place.courses.database().clone() };
    let error = Courses::new(database).initiate(&request(&course)).await.unwrap_err();
    let said = describe(&error);
    let expected = if kind == Kind::Embedded { "database is locked" } else { "statement timeout" };
    assert!(said.contains("database") && said.contains(expected), "{said}");
    lock.rollback().await.unwrap();

    assert_eq!(place.trail("c-1").await, ["pending by api"]);
    assert_eq!(place.courses.published("c-1").await.unwrap(), (0, 0));
    // The key was not used up.
    let initiated = place.courses.initiate(&request(&course)).await.unwrap();
    assert_eq!(initiated.outbox_entries.len(), 4);
}

async fn r49_error_missing_fields_are_refused_by_name(kind: Kind) {
    let course = |json: &str| describe(&NewCourse::from_json(json.as_bytes()).unwrap_err());
    assert!(course(r#"{"id": "c-1", "style": "academic"}"#).contains("missing field `title`"));
    assert!(course(r#"{"id": "c-1", "title": "x", "style": "loud"}"#).contains("`loud`"));
    let initiate = |json: &str| describe(&Initiate::from_json(json.as_bytes()).unwrap_err());
    let missing = initiate(r#"{"course": "c-1", "user": "u"}"#);
    assert!(missing.contains("missing field `idempotency_key`"), "{missing}");
    let empty = initiate(r#"{"course": "", "user": "u", "idempotency_key": "k"}"#);
    assert!(empty.contains("course must be 1 to 100 bytes"), "{empty}");
    let place = Place::new(kind).await;
    let nameless = NewCourse { title: String::new(), ..title_only("c-1") };
    let error = describe(&place.courses.upload(&nameless).await.unwrap_err());
    assert!(error.contains("title must be"), "{error}");
    let error = place.courses.initiate(&request(&nameless)).await.unwrap_err();
    assert!(matches!(&error, CourseError::Unknown(course) if course == "c-1"), "{error:?}");

    // On the other side: a job without a field is dead at once, with its name.
    let job = Message::new(Stage::Documents.topic()).json(&serde_json::json!({ "course": "c-1" }));
    let store = &place.courses.database().store;
    let id = store.submit_jobs(&[NewJob::of(job)]).await.unwrap()[0];
    let service = place.start_all();
    let read = async || store.job(id).await.unwrap().unwrap();
    eventually_async("a dead job", LIMIT, async || read().await.job.state == JobState::Dead).await;
    service.stop().await.unwrap();
    let job = read().await;
    let reason = job.job.reason.unwrap_or_default();
    assert!(reason.starts_with("document.process: missing field `document`"), "{reason}");
    assert_eq!(job.executions.len(), 1);
}

/// Of two entries with one token or one id the first stands for both, and nothing of the second is written.
async fn r49_error_duplicate_outbox_id_is_a_conflict(kind: Kind) {
    let place = Place::new(kind).await;
    for course in ["c-1", "c-2"] {
        place.courses.upload(&title_only(course)).await.unwrap();
    }
    let initiated = place.courses.initiate(&request(&title_only("c-1"))).await.unwrap();
    let database = place.courses.database();
    let id = initiated.outbox_entries[0].outbox_id;
    let first = database.store.job(id).await.unwrap().unwrap();
    let payload = GenerateStructure { course: "c-1".to_owned(), style: Style::Academic };
    let same_id = Message::new("structure.generate").id(id).correlation_id("c-1").text("2");
    for job in [payload.job().unwrap(), NewJob::of(same_id)] {
        let transaction = database.pool.begin().await.unwrap();
        assert_eq!(Jobs::default().submit(&transaction, &job).await.unwrap(), id);
        transaction.commit().await.unwrap();
        assert_eq!(place.courses.published("c-1").await.unwrap(), (1, 0));
        assert_eq!(database.store.job(id).await.unwrap().unwrap(), first);
    }
    // The same key for another course is refused, and nothing happens to that.
    let taken = Initiate { course: "c-2".to_owned(), ..request(&title_only("c-1")) };
    let error = place.courses.initiate(&taken).await.unwrap_err();
    let CourseError::Command(error) = error else { panic!("{error:?}") };
    assert_eq!(*error.kind(), CommandErrorKind::Refused(Refusal::KeyTaken));
    assert_eq!(place.trail("c-2").await, ["pending by api"]);
    assert_eq!(place.courses.published("c-2").await.unwrap(), (0, 0));
}
