//! What every adapter promises about jobs, run on all of them.

use std::{error::Error as _, time::Duration};

use posthaste::{
    Attempt, CommandErrorKind, EnqueueErrorKind, JobState, Jobs, Message, NewJob, Receipt, Refusal,
    Timestamp,
};
use posthaste_store::{Begun, Handed, WorkerSpec};
use serde_json::json;

use crate::support::{
    Place,
    sessions::{
        Rusqlite, SqlxPostgres, SqlxSqlite, TokioPostgres,
        deadpool::Deadpool,
        diesel::Diesel,
        machines::MachineSession,
        sea_orm::{SeaOrmPostgres, SeaOrmSqlite},
    },
};

macro_rules! contract {
    ($($test:ident,)*) => {
        contract!(@of tokio_postgres TokioPostgres $($test)*);
        contract!(@of deadpool_postgres Deadpool $($test)*);
        contract!(@of diesel_async Diesel $($test)*);
        contract!(@of sea_orm_postgres SeaOrmPostgres $($test)*);
        contract!(@of sqlx_postgres SqlxPostgres $($test)*);
        contract!(@of sea_orm_sqlite SeaOrmSqlite $($test)*);
        contract!(@of sqlx_sqlite SqlxSqlite $($test)*);
        contract!(@of rusqlite Rusqlite $($test)*);
    };
    (@of $adapter:ident $session:ident $($test:ident)*) => {
        mod $adapter {
            $(#[tokio::test]
            async fn $test() {
                super::$test::<super::$session>().await;
            })*
        }
    };
}

contract! {
    job_commits_with_the_data_and_its_message,
    submitting_again_answers_the_first_job,
    job_that_is_refused_takes_its_transaction_along,
    r28_effect_and_end_of_an_attempt_are_one_transaction,
}

async fn place<S: MachineSession>() -> (Place, S) {
    let place = S::place().await;
    let session = S::open(&place).await;
    (place, session)
}

/// Jobs, messages and the application's rows that are committed.
async fn counts(place: &Place) -> [i64; 3] {
    let [mut jobs, mut messages] = [0; 2];
    for (count, table) in [(&mut jobs, "job"), (&mut messages, "log")] {
        *count = place.rows_of(table).await;
    }
    [jobs, messages, place.orders().await]
}

const IN_2100: Timestamp = Timestamp(4_102_444_800_000_000);

fn message() -> Message {
    Message::new("mail").key("k").header("tenant", "acme").json(&json!({ "to": "é" }))
}

async fn job_commits_with_the_data_and_its_message<S: MachineSession>() {
    let (place, mut session) = place::<S>().await;
    let jobs = Jobs::default();
    for end in ["rollback", "commit"] {
        session.execute("begin").await.unwrap();
        session.execute("insert into orders (id) values (1)").await.unwrap();
        let job = NewJob::of(message()).attempts(3);
        let id = session.submit(&jobs, &job).await.unwrap();
        session.execute(end).await.unwrap();
        let expected = if end == "commit" { [1, 1, 1] } else { [0, 0, 0] };
        assert_eq!(counts(&place).await, expected);
        let kept = place.jobs().await.job(id).await.unwrap();
        assert_eq!(kept.is_some(), end == "commit");
        if let Some(kept) = kept {
            assert_eq!(
                (&*kept.payload, &*kept.content_type),
                ("{\"to\":\"é\"}".as_bytes(), "application/json")
            );
            assert_eq!(kept.headers, [("tenant".to_owned(), "acme".to_owned())]);
            assert_eq!((kept.job.key.as_deref(), kept.job.attempts_max), (Some("k"), Some(3)));
            let written = &place.log().await[0];
            assert_eq!(written.id, id);
        }
    }
    // Its own id, and its own time.
    let id = posthaste::MessageId::now_v7();
    let job = NewJob::of(message().id(id).deliver_at(IN_2100));
    assert_eq!(session.submit(&jobs, &job).await.unwrap(), id);
    let kept = place.jobs().await.job(id).await.unwrap().unwrap().job;
    assert_eq!(kept.state, JobState::Scheduled);
    assert_eq!(counts(&place).await, [2, 1, 1]);
}

async fn submitting_again_answers_the_first_job<S: MachineSession>() {
    let (place, mut session) = place::<S>().await;
    let jobs = Jobs::default();
    let token = NewJob::of(message().token("t"));
    let unique = NewJob::of(message()).unique_key("u");
    let first = session.submit(&jobs, &token).await.unwrap();
    let second = session.submit(&jobs, &unique).await.unwrap();
    assert_ne!(first, second);
    assert_eq!(session.submit(&jobs, &token).await.unwrap(), first);
    assert_eq!(session.submit(&jobs, &unique).await.unwrap(), second);
    let both = NewJob::of(message().token("t")).unique_key("new");
    assert_eq!(session.submit(&jobs, &both).await.unwrap(), first);
    assert_eq!(counts(&place).await, [2, 2, 0]);
}

async fn job_that_is_refused_takes_its_transaction_along<S: MachineSession>() {
    let (place, mut session) = place::<S>().await;
    let jobs = Jobs::default();
    let faulty = [
        (NewJob::of(message()).attempts(0), "attempts_max must be from 1 to 1000, not 0"),
        (
            NewJob::of(message()).unique_key("x".repeat(257)),
            "unique_key must be 1 to 256 bytes, not 257",
        ),
        (NewJob::of(Message::new("no topic")), "topic must be"),
    ];
    for (job, said) in faulty {
        session.execute("begin").await.unwrap();
        session.execute("insert into orders (id) values (1)").await.unwrap();
        let error = session.submit(&jobs, &job).await.unwrap_err();
        let is_refused = matches!(
            error.kind(),
            CommandErrorKind::Refused(Refusal::Argument)
                | CommandErrorKind::Failed(EnqueueErrorKind::Invalid(_))
        );
        assert!(is_refused, "{error:?}");
        assert!(error.source().unwrap().to_string().contains(said), "{:?}", error.source());
        let committed = session.execute("commit").await;
        assert_eq!(committed.is_err(), S::COMMIT_FAILS, "{committed:?}");
        // Where the failed commit has not ended it.
        let _ = session.execute("rollback").await;
        assert_eq!(counts(&place).await, [0, 0, 0]);
    }
}

async fn r28_effect_and_end_of_an_attempt_are_one_transaction<S: MachineSession>() {
    let (place, mut session) = place::<S>().await;
    let jobs = Jobs::default();
    let id = session.submit(&jobs, &NewJob::of(message())).await.unwrap();
    let store = place.jobs().await;
    let spec = WorkerSpec {
        name: "one".to_owned(),
        topics: vec!["mail".to_owned()],
        sources: Vec::new(),
        version: "1".to_owned(),
    };
    let worker = store.register_worker(&spec, Duration::from_mins(1)).await.unwrap();
    let handed = Handed { job: id, message: id };
    let begun = store.begin_jobs(worker, &[handed]).await.unwrap();
    assert!(matches!(*begun, [Begun::Run { attempt: 1, .. }]), "{begun:?}");
    let attempt = Attempt { worker, job: id, number: 1 };
    let receipt = Receipt { content_type: "text/plain".to_owned(), body: b"sent\0".to_vec() };
    let lost = Attempt { number: 2, ..attempt };

    // An attempt that is not its worker's takes the effect along.
    session.execute("begin").await.unwrap();
    session.execute("insert into orders (id) values (1)").await.unwrap();
    let error = session.complete(&jobs, lost, Some(&receipt)).await.unwrap_err();
    assert_eq!(*error.kind(), CommandErrorKind::TakenOver);
    let committed = session.execute("commit").await;
    assert_eq!(committed.is_err(), S::COMMIT_FAILS, "{committed:?}");
    let _ = session.execute("rollback").await;
    assert_eq!(counts(&place).await, [1, 1, 0]);

    for end in ["rollback", "commit"] {
        session.execute("begin").await.unwrap();
        session.execute("insert into orders (id) values (1)").await.unwrap();
        session.complete(&jobs, attempt, Some(&receipt)).await.unwrap();
        session.execute(end).await.unwrap();
        let is_committed = end == "commit";
        assert_eq!(counts(&place).await, [1, 1, i64::from(is_committed)]);
        let detail = store.job(id).await.unwrap().unwrap();
        let state = if is_committed { JobState::Completed } else { JobState::Running };
        assert_eq!(detail.job.state, state);
        assert_eq!(detail.receipts.len(), usize::from(is_committed));
    }
    assert_eq!(store.job(id).await.unwrap().unwrap().receipts, [(1, receipt)]);
}
