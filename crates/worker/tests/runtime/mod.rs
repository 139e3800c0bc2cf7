//! Jobs and messages through a worker, from their submission to their end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use posthaste::{
    Message, MessageId, NewJob, Receipt, Received,
    contract::{CONTRACT_HEADER, Contract, Contracts},
};
use posthaste_core::{JobState, RetryPolicy};
use posthaste_store::postgres::{PostgresOptions, PostgresStore};
use posthaste_store::{Cancelled, JobFilter, Jobs, Request};
use posthaste_testkit::{Postgres, eventually_async};
use posthaste_worker::{
    Answer, CronJob, Done, Failed, Found, Task, Worker, WorkerError, WorkerSettings,
    source::{Delivery, Fate, Source, SourceError, Token},
    sources::local::LocalSource,
};
use serde_json::json;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_postgres::{Client, NoTls};

use crate::support::{
    LIMIT, Notes, Place, job, local, publish, read, settings, split, start, until,
};

macro_rules! on_both_stores {
    ($($test:ident,)*) => {
        mod postgres {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                Box::pin(super::$test(crate::support::Place::postgres().await)).await;
            }
        )*}
        mod sqlite {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                Box::pin(super::$test(crate::support::Place::sqlite().await)).await;
            }
        )*}
    };
}

on_both_stores! {
    r27_job_is_completed_with_its_receipt,
    r27_watch_publishes_a_job_whose_queue_has_lost_it,
    r28_lost_worker_is_replaced_and_its_effect_is_not_repeated,
    r28_poison_ends_where_it_can_be_looked_at,
    r50_100_jobs_of_a_few_keys_keep_their_order_though_attempts_fail,
    r31_what_breaks_its_contract_never_runs_and_says_why,
    r53_checks_before_handlers_mend_what_is_missing_and_are_never_fatal,
    key_with_many_jobs_leaves_room_for_others,
    failed_attempts_are_repeated_by_class_until_the_job_is_dead,
    handlers_that_hang_panic_or_forget_to_commit_fail_their_attempt_alone,
    cancelled_job_is_stopped,
    snoozed_job_comes_back,
    messages_that_are_no_jobs_are_handled_once,
    drain_finishes_what_is_in_hand_and_hands_back_the_rest,
    what_is_due_by_the_clock_is_submitted_once_across_workers,
}

fn worker(store: &Arc<dyn Jobs>) -> Worker {
    Worker::new(Arc::clone(store), settings()).unwrap()
}

fn number(task: &Task) -> i64 {
    serde_json::from_slice(&task.message().payload).unwrap()
}

fn by_hand() -> Request {
    Request { actor: "test".to_owned(), is_dry_run: false, is_forced: false }
}

async fn r27_job_is_completed_with_its_receipt(place: Place) {
    let store = place.store().await;
    let ids = store.submit_jobs(&[job("double", 21)]).await.unwrap();
    let mut published = publish(&store).await;
    let running = start(worker(&store).source(local(&mut published)).handle(
        "double",
        |task: Task| async move {
            task.progress(json!({ "done": 1 }));
            assert!(task.job().is_some());
            Ok(Done::json(&(2 * number(&task)))?)
        },
    ));
    let done = &until(&*store, &ids, JobState::Completed).await[0];
    assert_eq!((done.attempt, done.reason.as_deref()), (1, None));
    let detail = read(&*store, ids[0]).await;
    assert_eq!(detail.receipts[0].1.body, b"42");
    assert_eq!(detail.executions[0].worker, "one");
    let counts = running.stop().await;
    assert_eq!((counts.taken, counts.completed, counts.failed), (1, 1, 0));
}

async fn r27_watch_publishes_a_job_whose_queue_has_lost_it(place: Place) {
    let store = place.store().await;
    let ids = store.submit_jobs(&[job("t", 1)]).await.unwrap();
    let mut published = publish(&store).await;
    // Somebody empties the queue.
    let lost = published.channel.recv().await.unwrap();
    assert_eq!(lost.id, ids[0]);
    let running = start(
        worker(&store)
            .source(local(&mut published))
            .handle("t", |_: Task| async { Answer::Ok(Done::default()) }),
    );
    let done = &until(&*store, &ids, JobState::Completed).await[0];
    assert_ne!(done.message_id, ids[0], "by a new message");
    assert_eq!(running.stop().await.republished, 1);
}

async fn r28_lost_worker_is_replaced_and_its_effect_is_not_repeated(place: Place) {
    let store = place.store().await;
    let ids = store.submit_jobs(&[job("t", 1)]).await.unwrap();
    let mut published = publish(&store).await;
    let notes = Notes::default();
    let noted = notes.clone();
    let hanging =
        start(worker(&store).source(local(&mut published)).handle("t", move |task: Task| {
            let notes = noted.clone();
            async move {
                notes.add(format!("begun {}", task.attempt()));
                sleep(LIMIT).await;
                Answer::Ok(Done::default())
            }
        }));
    notes.until(1).await;
    hanging.kill().await;
    drop(published);
    let noted = notes.clone();
    let mut published = publish(&store).await;
    let next =
        start(worker(&store).source(local(&mut published)).handle("t", move |task: Task| {
            noted.add(format!("done {}", task.attempt()));
            async { Answer::Ok(Done::default()) }
        }));
    let done = &until(&*store, &ids, JobState::Completed).await[0];
    assert_eq!(done.attempt, 2);
    let executions = read(&*store, ids[0]).await.executions;
    assert!(executions.iter().map(|e| &*e.outcome).eq(["lost", "completed"]), "{executions:?}");
    next.stop().await;
    assert_eq!(notes.all(), ["begun 1", "done 2"]);
}

async fn r28_poison_ends_where_it_can_be_looked_at(place: Place) {
    let store = place.store().await;
    let ids = store.submit_jobs(&[job("t", 13), job("t", 1)]).await.unwrap();
    store.append(&[Message::new("t").json(&13), Message::new("t").json(&2)]).await.unwrap();
    let mut published = publish(&store).await;
    let running =
        start(worker(&store).source(local(&mut published)).handle("t", |task: Task| async move {
            match number(&task) {
                13 => Err(Failed::reject("unlucky")),
                _ => Ok(Done::default()),
            }
        }));
    let dead = &until(&*store, &ids[..1], JobState::Dead).await[0];
    assert_eq!((dead.attempt, dead.reason.as_deref()), (1, Some("unlucky")));
    until(&*store, &ids[1..], JobState::Completed).await;
    sleep(Duration::from_millis(200)).await;
    let counts = running.stop().await;
    assert_eq!((counts.dead, counts.buried, counts.completed), (1, 1, 2));
}

async fn r50_100_jobs_of_a_few_keys_keep_their_order_though_attempts_fail(place: Place) {
    let store = place.store().await;
    let jobs: Vec<NewJob> = (0..100)
        .map(|n| NewJob::of(Message::new("t").key(format!("k{}", n % 7)).json(&n)).attempts(50))
        .collect();
    let ids = store.submit_jobs(&jobs).await.unwrap();
    let mut published = publish(&store).await;
    let notes = Notes::default();
    let noted = notes.clone();
    let tries = Arc::new(AtomicU32::new(0));
    let running =
        start(worker(&store).source(local(&mut published)).handle("t", move |task: Task| {
            let (notes, tries) = (noted.clone(), Arc::clone(&tries));
            async move {
                sleep(Duration::from_millis(u64::from(task.message().id.as_bytes()[15] % 5))).await;
                if tries.fetch_add(1, Ordering::Relaxed) % 10 == 3 {
                    return Err(Failed::retry("now and then").after(Duration::from_millis(5)));
                }
                notes.add(number(&task).to_string());
                Ok(Done::default())
            }
        }));
    until(&*store, &ids, JobState::Completed).await;
    let counts = running.stop().await;
    assert!(counts.failed >= 10, "{counts:?}");
    let mut by_key: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for done in notes.all() {
        let done: i64 = done.parse().unwrap();
        by_key.entry(done % 7).or_default().push(done);
    }
    for (key, done) in by_key {
        let expected: Vec<i64> = (0..100).filter(|n| n % 7 == key).collect();
        assert_eq!(done, expected, "key {key}");
    }
}

async fn r31_what_breaks_its_contract_never_runs_and_says_why(place: Place) {
    let store = place.store().await;
    let named = |payload: &str, version: &str| {
        let message = Message::new("t").header(CONTRACT_HEADER, version);
        NewJob::of(message.bytes("application/json", payload))
    };
    let wanted = [named("[]", "1"), named("{\"to\": 1}", "1"), named("{}", "2").attempts(2)];
    let ids = store.submit_jobs(&wanted).await.unwrap();
    let mut published = publish(&store).await;
    let notes = Notes::default();
    let noted = notes.clone();
    let schema = json!({ "type": "object", "required": ["to"] });
    let contracts = Contracts::new([Contract::new("t", 1, schema).unwrap()]).unwrap();
    let worker = worker(&store).with_contracts(watch::channel(Arc::new(contracts)).1);
    let running = start(worker.source(local(&mut published)).handle("t", move |task: Task| {
        noted.add(task.message().id.to_string());
        async { Answer::Ok(Done::default()) }
    }));
    until(&*store, &ids[1..2], JobState::Completed).await;
    let refused = &until(&*store, &ids[..1], JobState::Dead).await[0];
    let reason = refused.reason.as_deref().unwrap();
    assert!(reason.starts_with("topic \"t\" does not keep contract version 1"), "{reason}");
    assert_eq!(refused.attempt, 1);
    // A version that is not known may be deployed yet.
    let unknown = &until(&*store, &ids[2..], JobState::Dead).await[0];
    assert_eq!(unknown.attempt, 2);
    running.stop().await;
    assert_eq!(notes.all(), [ids[1].to_string()]);
}

async fn r53_checks_before_handlers_mend_what_is_missing_and_are_never_fatal(place: Place) {
    let store = place.store().await;
    let wanted: Vec<NewJob> = (0..4).map(|n| job("t", n)).collect();
    let ids = store.submit_jobs(&wanted).await.unwrap();
    let mut published = publish(&store).await;
    let running = start(
        worker(&store)
            .source(local(&mut published))
            .check("t", |message: Arc<Received>| async move {
                match serde_json::from_slice(&message.payload)? {
                    0 => Ok(Found::Fine),
                    1 => Ok(Found::Mended),
                    2 => Err(Failed::reject("nothing to be done")),
                    _ => panic!("oh no"),
                }
            })
            .handle("t", |_: Task| async { Answer::Ok(Done::default()) }),
    );
    until(&*store, &ids, JobState::Completed).await;
    let counts = running.stop().await;
    assert_eq!((counts.mended, counts.unmended, counts.completed), (1, 2, 4));
}

async fn key_with_many_jobs_leaves_room_for_others(place: Place) {
    let store = place.store().await;
    let hot = |n| NewJob::of(Message::new("t").key("hot").json(&n));
    let mut wanted: Vec<NewJob> = (0..60).map(hot).collect();
    wanted.push(NewJob::of(Message::new("t").key("cold").json(&1_000)));
    let ids = store.submit_jobs(&wanted).await.unwrap();
    let mut published = publish(&store).await;
    let notes = Notes::default();
    let (noted, gate) = (notes.clone(), Arc::new(Notify::new()));
    let held = Arc::clone(&gate);
    let settings = WorkerSettings { concurrency: 20, ..settings() };
    let worker = Worker::new(Arc::clone(&store), settings).unwrap();
    let running = start(worker.source(local(&mut published)).handle("t", move |task: Task| {
        let (notes, gate) = (noted.clone(), Arc::clone(&held));
        async move {
            let number = number(&task);
            if number == 0 {
                gate.notified().await;
            }
            notes.add(number.to_string());
            Ok(Done::default())
        }
    }));
    // While the first of the others still runs.
    assert_eq!(notes.until(1).await, ["1000"]);
    gate.notify_one();
    until(&*store, &ids, JobState::Completed).await;
    running.stop().await;
    let expected: Vec<String> = [1_000].into_iter().chain(0..60).map(|n| n.to_string()).collect();
    assert_eq!(notes.all(), expected);
}

async fn failed_attempts_are_repeated_by_class_until_the_job_is_dead(place: Place) {
    let store = place.store().await;
    let ids =
        store.submit_jobs(&[job("t", 0), job("t", 1), job("t", 2).attempts(2)]).await.unwrap();
    let mut published = publish(&store).await;
    let once = RetryPolicy { attempts: 1, ..settings().retry };
    let by_class = BTreeMap::from([("busy".to_owned(), once)]);
    let settings = WorkerSettings { retry_by_class: by_class, ..settings() };
    let worker = Worker::new(Arc::clone(&store), settings).unwrap();
    let running =
        start(worker.source(local(&mut published)).handle("t", |task: Task| async move {
            // Any error is worth another attempt.
            let number: i64 = "x".repeat(task.attempt() as usize).parse()?;
            unreachable!("{number}")
        }));
    let dead = until(&*store, &ids[..1], JobState::Dead).await;
    assert_eq!(dead[0].attempt, 3);
    assert!(dead[0].reason.as_deref().unwrap().contains("invalid digit"), "{:?}", dead[0].reason);
    assert_eq!(until(&*store, &ids[2..], JobState::Dead).await[0].attempt, 2);
    let executions = read(&*store, ids[0]).await.executions;
    assert!(executions.iter().map(|e| &*e.outcome).eq(["retry", "retry", "dead"]));
    running.stop().await;

    let ids = store.submit_jobs(&[job("u", 0)]).await.unwrap();
    let mut published = publish(&store).await;
    let by_class = BTreeMap::from([("busy".to_owned(), once)]);
    let settings = WorkerSettings { retry_by_class: by_class, ..self::settings() };
    let worker = Worker::new(Arc::clone(&store), settings).unwrap();
    let running = start(
        worker
            .source(local(&mut published))
            .handle("u", |_: Task| async { Answer::Err(Failed::retry("full").class("busy")) }),
    );
    assert_eq!(until(&*store, &ids, JobState::Dead).await[0].attempt, 1);
    running.stop().await;
}

async fn handlers_that_hang_panic_or_forget_to_commit_fail_their_attempt_alone(place: Place) {
    let store = place.store().await;
    let wanted = [job("hang", 0), job("panic", 0), job("fine", 0)].map(|job| job.attempts(1));
    let ids = store.submit_jobs(&wanted).await.unwrap();
    let nobody = store.submit_jobs(&[job("nobody", 0).attempts(1)]).await.unwrap();
    let mut published = publish(&store).await;
    let settings = WorkerSettings { timeout: Duration::from_millis(300), ..settings() };
    let worker = Worker::new(Arc::clone(&store), settings).unwrap();
    let running = start(
        worker
            .source(local(&mut published))
            .handle("hang", |_: Task| async {
                sleep(LIMIT).await;
                Answer::Ok(Done::default())
            })
            .handle("panic", |task: Task| async move {
                assert!(task.job().is_none(), "oh no");
                Answer::Ok(Done::default())
            })
            .handle("fine", |_: Task| async { Answer::Ok(Done::default()) }),
    );
    let reasons: Vec<String> = until(&*store, &ids[..2], JobState::Dead)
        .await
        .into_iter()
        .map(|job| job.reason.unwrap())
        .collect();
    assert_eq!(reasons[0], "its handler took longer than 300ms");
    assert_eq!(reasons[1], "its handler panicked: oh no");
    until(&*store, &ids[2..], JobState::Completed).await;
    let unknown = &until(&*store, &nobody, JobState::Dead).await[0];
    assert_eq!(unknown.reason.as_deref(), Some("no handler for the topic \"nobody\""));
    running.stop().await;
}

async fn cancelled_job_is_stopped(place: Place) {
    let store = place.store().await;
    let ids = store.submit_jobs(&[job("t", 0)]).await.unwrap();
    let mut published = publish(&store).await;
    let notes = Notes::default();
    let noted = notes.clone();
    let running =
        start(worker(&store).source(local(&mut published)).handle("t", move |mut task: Task| {
            let notes = noted.clone();
            async move {
                notes.add("begun");
                task.cancelled().await;
                assert!(task.is_cancelled());
                notes.add("told");
                sleep(LIMIT).await;
                Answer::Ok(Done::default())
            }
        }));
    notes.until(1).await;
    assert_eq!(store.cancel_job(ids[0], &by_hand()).await.unwrap(), Cancelled::Wanted);
    until(&*store, &ids, JobState::Cancelled).await;
    assert_eq!(notes.all(), ["begun", "told"]);
    running.stop().await;
}

async fn snoozed_job_comes_back(place: Place) {
    let store = place.store().await;
    let ids = store.submit_jobs(&[job("t", 0)]).await.unwrap();
    let mut published = publish(&store).await;
    let notes = Notes::default();
    let noted = notes.clone();
    let running =
        start(worker(&store).source(local(&mut published)).handle("t", move |task: Task| {
            noted.add(task.attempt().to_string());
            let is_first = noted.all().len() == 1;
            async move {
                if is_first {
                    return Err(Failed::snooze(Duration::from_millis(50)));
                }
                Ok(Done::default())
            }
        }));
    until(&*store, &ids, JobState::Completed).await;
    assert_eq!(notes.all(), ["1", "1"], "the attempt does not count");
    running.stop().await;
}

async fn messages_that_are_no_jobs_are_handled_once(place: Place) {
    let store = place.store().await;
    let ids: Vec<MessageId> = (0..50).map(|_| MessageId::now_v7()).collect();
    let messages: Vec<Message> = ids.iter().map(|id| Message::new("t").id(*id).json(&0)).collect();
    // Delivered twice, as an at-least-once sink may.
    store.append(&messages).await.unwrap();
    store.append(&messages).await.unwrap();
    let mut published = publish(&store).await;
    let notes = Notes::default();
    let noted = notes.clone();
    let fails = Arc::new(AtomicU32::new(0));
    let settings = WorkerSettings { concurrency: 10, ..settings() };
    let worker = Worker::new(Arc::clone(&store), settings).unwrap();
    let running = start(worker.source(local(&mut published)).handle("t", move |task: Task| {
        let (notes, fails) = (noted.clone(), Arc::clone(&fails));
        async move {
            assert!(task.job().is_none());
            if task.attempt() == 1 && fails.fetch_add(1, Ordering::Relaxed) % 5 == 0 {
                return Err(Failed::retry("now and then"));
            }
            notes.add(task.message().id.to_string());
            Ok(Done::default())
        }
    }));
    notes.until(50).await;
    eventually_async("the inbox to know them", LIMIT, async || {
        store.handled("worker", &ids).await.unwrap().len() == 50
    })
    .await;
    let counts = running.stop().await;
    let mut handled = notes.all();
    handled.sort();
    handled.dedup();
    assert_eq!((handled.len(), counts.completed), (50, 50));
}

async fn drain_finishes_what_is_in_hand_and_hands_back_the_rest(place: Place) {
    let store = place.store().await;
    let ids = store.submit_jobs(&[job("short", 0), job("long", 0)]).await.unwrap();
    let mut published = publish(&store).await;
    let notes = Notes::default();
    let (short, long) = (notes.clone(), notes.clone());
    let settings = WorkerSettings { drain_timeout: Duration::from_millis(500), ..settings() };
    let worker = Worker::new(Arc::clone(&store), settings).unwrap();
    let running = start(
        worker
            .source(local(&mut published))
            .handle("short", move |_: Task| {
                short.add("short");
                async {
                    sleep(Duration::from_millis(200)).await;
                    Answer::Ok(Done::default())
                }
            })
            .handle("long", move |_: Task| {
                long.add("long");
                async {
                    sleep(LIMIT).await;
                    Answer::Ok(Done::default())
                }
            }),
    );
    notes.until(2).await;
    running.stop().await;
    assert_eq!(read(&*store, ids[0]).await.job.state, JobState::Completed);
    let handed_back = read(&*store, ids[1]).await;
    // Published again already, or about to be.
    let states = [JobState::Failed, JobState::Queued];
    assert!(states.contains(&handed_back.job.state), "{handed_back:?}");
    assert_eq!(handed_back.executions[0].outcome, "lost");
}

async fn what_is_due_by_the_clock_is_submitted_once_across_workers(place: Place) {
    let store = place.store().await;
    let mut published = publish(&store).await;
    let (first, second) = split(&mut published);
    let cron = || CronJob::new("tick", "* * * * * *", "Europe/Berlin", "tick").unwrap().attempts(2);
    let notes = Notes::default();
    let start = |source: LocalSource| {
        let notes = notes.clone();
        let tick = move |task: Task| {
            notes.add(task.message().id.to_string());
            async { Answer::Ok(Done::default()) }
        };
        start(worker(&store).source(source).cron(cron()).handle("tick", tick))
    };
    let workers = [start(first), start(second)];
    notes.until(3).await;
    for worker in workers {
        worker.stop().await;
    }
    let jobs = store.jobs(&JobFilter::default(), 100).await.unwrap().jobs;
    let mut seconds: Vec<i64> = jobs.iter().map(|job| job.created_at.0 / 1_000_000).collect();
    seconds.dedup();
    assert_eq!(seconds.len(), jobs.len(), "one a second: {jobs:?}");
    assert!(jobs.iter().all(|job| job.attempts_max == Some(2)), "{jobs:?}");
    let (_, crons) = store.crons().await.unwrap();
    assert_eq!(crons.len(), 1);
    assert!(store.remove_cron("tick", &by_hand()).await.unwrap());
    assert!(!store.remove_cron("tick", &by_hand()).await.unwrap());
}

/// D's end-to-end test failed on this: the worker read through another connection than the writer's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_worker_finds_what_was_committed_with_its_job_on_a_standby_too() {
    let primary = Postgres::start();
    let standby = Postgres::standby_of(&primary);
    let database = primary.database().await;
    let store = PostgresStore::connect(database.url(), &PostgresOptions::default()).unwrap();
    let store: Arc<dyn Jobs> = Arc::new(store);
    store.migrate().await.unwrap();
    let writer = database.connect().await;
    writer.batch_execute("create table courses (id int)").await.unwrap();
    let url = standby.url(database.name());
    let reader = Arc::new(connect(&url).await);
    let pause = "select pg_wal_replay_pause()";
    eventually_async("the standby to have the table", LIMIT, async || {
        reader.batch_execute("select from courses").await.is_ok()
    })
    .await;
    reader.batch_execute(pause).await.unwrap();
    writer
        .batch_execute(
            "begin; insert into courses values (17); select posthaste.submit_job('t', '1'); commit",
        )
        .await
        .unwrap();

    let mut published = publish(&store).await;
    let notes = Notes::default();
    let (noted, near, far) = (notes.clone(), Arc::new(writer), Arc::clone(&reader));
    let running =
        start(worker(&store).source(local(&mut published)).handle("t", move |task: Task| {
            let (notes, near, far) = (noted.clone(), Arc::clone(&near), Arc::clone(&far));
            async move {
                let now = task.visible_on(&*near, Duration::ZERO).await?;
                let soon = task.visible_on(&*far, Duration::from_millis(100)).await?;
                notes.add(format!("{now} {soon}"));
                let then = task.visible_on(&*far, LIMIT).await?;
                let found = far.query("select id from courses", &[]).await?.len();
                notes.add(format!("{then} {found}"));
                Ok(Done::default())
            }
        }));
    assert_eq!(notes.until(1).await, ["true false"]);
    let resume = connect(&url).await;
    resume.batch_execute("select pg_wal_replay_resume()").await.unwrap();
    assert_eq!(notes.until(2).await[1], "true 1");
    running.stop().await;
}

/// The worker's own database may be the one that lags.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r34_message_that_is_faster_than_its_job_waits_for_it() {
    let place = Place::sqlite().await;
    let store = place.store().await;
    let id = MessageId::now_v7();
    let message =
        |id: MessageId| Message::new("t").id(id).header("posthaste-job", id.to_string()).json(&0);
    // Its messages come before the job does; of the second one no job ever does.
    let nobody = MessageId::now_v7();
    store.append(&[message(id), message(nobody)]).await.unwrap();
    let mut published = publish(&store).await;
    let settings = WorkerSettings { visible_within: Duration::from_secs(2), ..settings() };
    let worker = Worker::new(Arc::clone(&store), settings).unwrap();
    let running = start(
        worker
            .source(local(&mut published))
            .handle("t", |_: Task| async { Answer::Ok(Done::default()) }),
    );
    sleep(Duration::from_millis(200)).await;
    store.submit_jobs(&[NewJob::of(Message::new("t").id(id).json(&0))]).await.unwrap();
    until(&*store, &[id], JobState::Completed).await;
    sleep(Duration::from_secs(2)).await;
    assert_eq!(running.stop().await.buried, 1);
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settled_transaction_may_be_silent_for_a_minute_at_most() {
    let place = Place::postgres().await;
    let Place::Postgres(database) = &place else { unreachable!() };
    let store = place.store().await;
    let jobs: Vec<NewJob> = (0..2).map(|n| job("t", n)).collect();
    let ids = store.submit_jobs(&jobs).await.unwrap();
    let mut published = publish(&store).await;
    let url = database.url().to_owned();
    let notes = Notes::default();
    let noted = notes.clone();
    let running =
        start(worker(&store).source(local(&mut published)).handle("t", move |task: Task| {
            let (url, notes) = (url.clone(), noted.clone());
            async move {
                let mut client = connect(&url).await;
                if number(&task) == 1 {
                    client.execute("set idle_in_transaction_session_timeout = '4s'", &[]).await?;
                }
                let limit = "show idle_in_transaction_session_timeout";
                let transaction = client.transaction().await?;
                assert_eq!(task.settle(&transaction, None).await?, posthaste::Delivery::First);
                let within: String = transaction.query_one(limit, &[]).await?.get(0);
                transaction.commit().await?;
                let after: String = client.query_one(limit, &[]).await?.get(0);
                notes.add(format!("{} {within} {after}", number(&task)));
                Ok(Done::default())
            }
        }));
    until(&*store, &ids, JobState::Completed).await;
    running.stop().await;
    let mut seen = notes.all();
    seen.sort();
    assert_eq!(seen, ["0 1min 0", "1 4s 4s"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn end_that_the_database_refuses_is_the_death_of_its_job_alone() {
    let place = Place::postgres().await;
    let store = place.store().await;
    let jobs: Vec<NewJob> = (0..5).map(|n| job("t", n)).collect();
    let ids = store.submit_jobs(&jobs).await.unwrap();
    let mut published = publish(&store).await;
    // All end in the same moment, so in one batch.
    let gate = Arc::new(tokio::sync::Barrier::new(jobs.len()));
    let running =
        start(worker(&store).source(local(&mut published)).handle("t", move |task: Task| {
            let gate = Arc::clone(&gate);
            async move {
                gate.wait().await;
                let content_type = if number(&task) == 2 { "text/\0" } else { "text/plain" };
                let receipt = Receipt { content_type: content_type.to_owned(), body: Vec::new() };
                Answer::Ok(Done { receipt: Some(receipt) })
            }
        }));
    until(&*store, &[ids[0], ids[1], ids[3], ids[4]], JobState::Completed).await;
    let dead = &until(&*store, &ids[2..3], JobState::Dead).await[0];
    let reason = dead.reason.as_deref().unwrap();
    assert!(reason.starts_with("its end was refused: "), "{reason}");
    assert!(reason.contains("0x00"), "{reason}");
    let counts = running.stop().await;
    assert_eq!((counts.completed, counts.dead, counts.lost), (4, 1, 0));
}

/// Fails with ends that are written down in one statement alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn end_whose_job_somebody_holds_waits_alone() {
    let place = Place::postgres().await;
    let store = place.store().await;
    let jobs: Vec<NewJob> = (0..6).map(|n| job("t", n)).collect();
    let ids = store.submit_jobs(&jobs).await.unwrap();
    let mut published = publish(&store).await;
    // The first four end in the same moment, so in one batch; the others when they may.
    let gate = Arc::new(tokio::sync::Barrier::new(5));
    let (later, _) = watch::channel(false);
    let (ending, rest) = (Arc::clone(&gate), later.clone());
    let running =
        start(worker(&store).source(local(&mut published)).handle("t", move |task: Task| {
            let (gate, mut rest) = (Arc::clone(&ending), rest.subscribe());
            async move {
                if number(&task) < 4 {
                    gate.wait().await;
                } else {
                    drop(rest.wait_for(|is_time| *is_time).await);
                }
                Ok(Done::default())
            }
        }));
    until(&*store, &ids, JobState::Running).await;
    // The last one: what the batch has locked before it must be free again.
    let holder = place.hold(&ids[3..4]).await;
    gate.wait().await;
    until(&*store, &ids[..3], JobState::Completed).await;
    later.send_replace(true);
    until(&*store, &ids[4..], JobState::Completed).await;
    assert_eq!(read(&*store, ids[3]).await.job.state, JobState::Running);
    holder.batch_execute("rollback").await.unwrap();
    until(&*store, &ids[3..4], JobState::Completed).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_that_somebody_holds_is_begun_alone() {
    let place = Place::postgres().await;
    let store = place.store().await;
    let jobs: Vec<NewJob> = (0..6).map(|n| job("t", n)).collect();
    let ids = store.submit_jobs(&jobs).await.unwrap();
    // More of them than are begun one by one at a time.
    let holder = place.hold(&ids[..4]).await;
    let mut published = publish(&store).await;
    let handler = |_: Task| async { Ok(Done::default()) };
    let running = start(worker(&store).source(local(&mut published)).handle("t", handler));
    until(&*store, &ids[4..], JobState::Completed).await;
    let more = store.submit_jobs(&[job("t", 6)]).await.unwrap();
    until(&*store, &more, JobState::Completed).await;
    assert_eq!(read(&*store, ids[0]).await.job.state, JobState::Queued);
    holder.batch_execute("rollback").await.unwrap();
    until(&*store, &ids, JobState::Completed).await;
    running.stop().await;
}

/// A source with a defect of its own.
struct Panicking;

#[async_trait]
impl Source for Panicking {
    fn describe(&self) -> &'static str {
        "panicking"
    }

    async fn take(&self, _limit: usize, _wait: Duration) -> Result<Vec<Delivery>, SourceError> {
        panic!("a defect of the source");
    }

    async fn settle(&self, _settled: &[(Token, Fate)]) -> Result<(), SourceError> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_with_a_part_that_panicked_ends_instead_of_holding_what_it_has() {
    let place = Place::sqlite().await;
    let worker = worker(&place.store().await)
        .source(Panicking)
        .handle("t", |_: Task| async { Ok(Done::default()) });
    let ended = timeout(LIMIT, worker.run(std::future::pending())).await;
    assert_eq!(ended.expect("it ends"), Err(WorkerError::Panicked));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_whose_lease_ran_out_while_it_begins_jobs_begins_them_under_its_next_id() {
    let place = Place::postgres().await;
    let Place::Postgres(database) = &place else { unreachable!() };
    let client = database.connect().await;
    let store = place.store().await;
    let mut published = publish(&store).await;
    // So long that it is not renewed by itself.
    let settings = WorkerSettings { lease: Duration::from_hours(1), ..settings() };
    let worker = Worker::new(Arc::clone(&store), settings).unwrap();
    let working = start(
        worker.source(local(&mut published)).handle("t", |_: Task| async { Ok(Done::default()) }),
    );
    let ids = store.submit_jobs(&[job("t", 1)]).await.unwrap();
    until(&*store, &ids, JobState::Completed).await;
    client.execute("delete from posthaste.worker", &[]).await.unwrap();
    let ids = store.submit_jobs(&[job("t", 2)]).await.unwrap();
    until(&*store, &ids, JobState::Completed).await;
    working.stop().await;
}
