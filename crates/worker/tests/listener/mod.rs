//! Listeners on what is added to queues, which a real relay fills with its real sinks.

use std::{sync::Arc, time::Duration};

use posthaste::{Message, NewJob, Received};
use posthaste_core::JobState;
use posthaste_testkit::{
    eventually_async,
    proxy::{NetFault, Proxy},
};
use posthaste_worker::{
    Answer, Counts, Done, Failed, Found, Listener, Task, Worker, listener::Additions, sources,
};
use redis::AsyncCommands as _;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_postgres::Client;

use crate::{
    sources::{Kind, Queue},
    support::{LIMIT, Notes, Place, settings, start, until},
};

macro_rules! on_each_kind {
    ($($test:ident,)*) => {
        on_each_kind!(bullmq Bullmq: $($test)*);
        on_each_kind!(stream Stream: $($test)*);
    };
    ($kind:ident $variant:ident: $($test:ident)*) => {
        mod $kind {$(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                Box::pin(super::$test(super::Kind::$variant)).await;
            }
        )*}
    };
}

on_each_kind!(
    r32_job_that_arrived_without_its_state_machine_gets_it_from_the_listener,
    r53_error_of_a_listener_is_a_warning_that_is_counted_and_the_next_is_served,
    r32_listener_that_was_down_misses_nothing_that_is_still_there,
    r32_listener_may_begin_now,
    r32_server_that_comes_back_is_listened_to_from_where_it_was,
    r32_reply_that_is_lost_or_late_costs_no_addition_and_repeats_none,
    r32_dropped_call_costs_no_addition,
);

fn additions(queue: &Queue, others: &[(&str, &str)]) -> Box<dyn Additions> {
    additions_at(queue, &queue.url(), others)
}

fn additions_at(queue: &Queue, url: &str, others: &[(&str, &str)]) -> Box<dyn Additions> {
    let mut settings = queue.settings(url);
    for (key, value) in others {
        settings.insert((*key).to_owned(), (*value).into());
    }
    (queue.source_kind().listen.unwrap())(settings).unwrap()
}

fn number(message: &Received) -> i64 {
    serde_json::from_slice(&message.payload).unwrap()
}

/// A listener that runs.
struct Listening {
    stop: oneshot::Sender<()>,
    listener: JoinHandle<Counts>,
}

fn listen(listener: Listener) -> Listening {
    let (stop, stopped) = oneshot::channel::<()>();
    let shutdown = async move {
        let _ = stopped.await;
    };
    Listening { stop, listener: tokio::spawn(listener.run(shutdown)) }
}

impl Listening {
    async fn stop(self) -> Counts {
        drop(self.stop);
        timeout(LIMIT, self.listener).await.expect("the listener ends").unwrap()
    }
}

/// A check that notes what it sees.
fn noting(
    notes: &Notes,
) -> impl Fn(Arc<Received>) -> std::future::Ready<Result<Found, Failed>> + use<> {
    let notes = notes.clone();
    move |message| {
        notes.add(number(&message).to_string());
        std::future::ready(Ok(Found::Fine))
    }
}

fn texts(numbers: std::ops::Range<i64>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

/// Additions until there are as many, whatever errors come between.
async fn hear(additions: &mut dyn Additions, count: usize) -> Vec<i64> {
    let mut heard = Vec::new();
    let hear = async {
        while heard.len() < count {
            match additions.next(LIMIT).await {
                Ok(added) => heard.extend(added.into_iter().map(|it| number(&it.unwrap()))),
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(LIMIT, hear).await.expect("all that was added");
    heard
}

/// Begins the state machine of a course, unless it has begun.
async fn begin(client: &Client, message: &Received) -> Result<Found, Failed> {
    let course = format!("course-{}", number(message));
    let begin = "select posthaste.start_machine('course', $1, 'stage_2_init')::text";
    match client.query_one(begin, &[&course]).await {
        Ok(_) => Ok(Found::Mended),
        Err(error) if error.code().is_some_and(|code| code.code() == "PH015") => Ok(Found::Fine),
        Err(error) => Err(error.into()),
    }
}

async fn states(client: &Client) -> Vec<String> {
    let states = "select entity_id || ' ' || state from posthaste.entity order by 1";
    client.query(states, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn r32_job_that_arrived_without_its_state_machine_gets_it_from_the_listener(kind: Kind) {
    let place = Place::postgres().await;
    let Place::Postgres(database) = &place else { unreachable!() };
    let client = Arc::new(database.connect().await);
    let machine = r#"{"name": "course", "states": ["pending", "stage_2_init"],
        "initial": ["pending", "stage_2_init"], "terminal": [],
        "transitions": [{"from": "pending", "to": "stage_2_init"},
            {"from": "stage_2_init", "to": "pending"}]}"#;
    client.execute("select posthaste.push_machine($1::text::jsonb)", &[&machine]).await.unwrap();
    let queue = Queue::start(kind, place).await;
    let check = {
        let client = Arc::clone(&client);
        move |message: Arc<Received>| {
            let client = Arc::clone(&client);
            async move { begin(&client, &message).await }
        }
    };
    let listening = listen(Listener::new(additions(&queue, &[])).check("t", check.clone()));
    let begin = "select posthaste.start_machine('course', 'course-0', 'pending')::text";
    client.query_one(begin, &[]).await.unwrap();
    let jobs: Vec<NewJob> = (0..3).map(|n| NewJob::of(Message::new("t").json(&n))).collect();
    let jobs = queue.store.submit_jobs(&jobs).await.unwrap();
    let expected = ["course-0 pending", "course-1 stage_2_init", "course-2 stage_2_init"];
    eventually_async("their machines", LIMIT, async || states(&client).await == expected).await;
    let counts = listening.stop().await;
    assert_eq!((counts.taken, counts.mended, counts.unmended), (3, 2, 0));

    // The same check is the next layer, which has nothing left to do.
    let worker = Worker::new(Arc::clone(&queue.store), settings()).unwrap();
    let source = queue.parse(queue.settings(&queue.url())).unwrap();
    let worker = worker.source(source).check("t", check);
    let working = start(worker.handle("t", |_: Task| async { Answer::Ok(Done::default()) }));
    until(&*queue.store, &jobs, JobState::Completed).await;
    let counts = working.stop().await;
    assert_eq!((counts.completed, counts.mended, counts.unmended), (3, 0, 0));
    assert_eq!(states(&client).await, expected);
}

async fn r53_error_of_a_listener_is_a_warning_that_is_counted_and_the_next_is_served(kind: Kind) {
    let queue = Queue::shared(kind).await;
    let notes = Notes::default();
    let noted = notes.clone();
    let listener = Listener::new(additions(&queue, &[])).timeout(Duration::from_millis(50)).check(
        "t",
        move |message: Arc<Received>| {
            let notes = noted.clone();
            async move {
                notes.add(number(&message).to_string());
                match number(&message) {
                    0 => Err(Failed::retry("the database is away")),
                    1 => panic!("oh no"),
                    2 => {
                        sleep(LIMIT).await;
                        Ok(Found::Mended)
                    }
                    3 => Ok(Found::Mended),
                    _ => Ok(Found::Fine),
                }
            }
        },
    );
    queue.spoil().await;
    queue.store.append(&[Message::new("other").json(&9)]).await.unwrap();
    queue.write(0..5).await;
    let telemetry = listener.telemetry();
    assert!(!telemetry.readiness().ready);
    let listening = listen(listener);
    assert_eq!(notes.until(5).await, texts(0..5));
    // To be seen while it listens.
    eventually_async("the looks to be counted", LIMIT, async || {
        let counts = telemetry.counts();
        counts.mended == 1 && counts.unmended >= 3 && telemetry.readiness().ready
    })
    .await;
    let counts = listening.stop().await;
    // What was spoilt is a message on BullMQ, whose payload the check cannot read, and none elsewhere.
    let unmended = if kind == Kind::Bullmq { 4 } else { 3 };
    let expected = Counts { taken: 7, mended: 1, unmended, ..Counts::default() };
    assert_eq!(counts, expected);
}

async fn r32_listener_that_was_down_misses_nothing_that_is_still_there(kind: Kind) {
    let queue = Queue::shared(kind).await;
    let notes = Notes::default();
    let listener = || Listener::new(additions(&queue, &[])).check("t", noting(&notes));
    // More than one batch.
    queue.write(0..250).await;
    let first = listen(listener());
    assert_eq!(notes.until(250).await, texts(0..250));
    first.stop().await;
    queue.write(250..253).await;
    let second = listen(listener());
    let both: Vec<String> = texts(0..250).into_iter().chain(texts(0..253)).collect();
    assert_eq!(notes.until(503).await, both);
    assert_eq!(second.stop().await.taken, 253);
}

async fn r32_listener_may_begin_now(kind: Kind) {
    let queue = Queue::shared(kind).await;
    queue.write(0..3).await;
    let mut all = additions(&queue, &[]);
    assert_eq!(hear(&mut *all, 3).await, [0, 1, 2]);
    let mut new = additions(&queue, &[("listen_from", "now")]);
    assert_eq!(new.next(Duration::from_millis(1)).await.unwrap(), []);
    queue.write(3..5).await;
    assert_eq!(hear(&mut *new, 2).await, [3, 4]);
    assert_eq!(hear(&mut *all, 2).await, [3, 4]);
}

async fn r32_server_that_comes_back_is_listened_to_from_where_it_was(kind: Kind) {
    let queue = Queue::alone(kind).await;
    let notes = Notes::default();
    let listening = listen(Listener::new(additions(&queue, &[])).check("t", noting(&notes)));
    queue.write(0..3).await;
    assert_eq!(notes.until(3).await, texts(0..3));
    queue.redis().kill();
    queue.write(3..5).await;
    queue.redis().restart();
    assert_eq!(notes.until(5).await, texts(0..5));
    assert_eq!(listening.stop().await.taken, 5);
}

async fn r32_reply_that_is_lost_or_late_costs_no_addition_and_repeats_none(kind: Kind) {
    let queue = Queue::shared(kind).await;
    let proxy = Proxy::start(queue.redis().port()).await.unwrap();
    let url = proxy.url(&queue.redis().url());
    let mut additions = additions_at(&queue, &url, &[("operation_timeout", "300ms")]);
    queue.write(0..2).await;
    assert_eq!(hear(&mut *additions, 2).await, [0, 1]);
    for (number, fault) in [(2, NetFault::ReplyLost), (4, NetFault::HoldBack)] {
        queue.write(number..number + 2).await;
        let there = async || {
            let mut length = redis::cmd("XLEN");
            length.arg(&queue.name);
            let length = match kind {
                Kind::Bullmq => queue.waiting().await,
                _ => length.query_async(&mut queue.client().await).await.unwrap(),
            };
            length == number as usize + 2
        };
        eventually_async("two more", LIMIT, there).await;
        proxy.set(fault);
        assert!(additions.next(Duration::from_millis(10)).await.is_err());
        assert_eq!(hear(&mut *additions, 2).await, [number, number + 1]);
    }
    assert_eq!(proxy.hits(), 2);
}

async fn r32_dropped_call_costs_no_addition(kind: Kind) {
    let queue = Queue::shared(kind).await;
    let mut additions = additions(&queue, &[]);
    for number in 0..20 {
        let _ = timeout(Duration::from_millis(3), additions.next(LIMIT)).await;
        // It does not queue behind the one that was dropped, which waits for longer than for an answer.
        assert_eq!(additions.next(Duration::from_millis(1)).await.unwrap(), []);
        queue.write([number]).await;
        assert_eq!(hear(&mut *additions, 1).await, [number]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r32_job_that_is_gone_by_then_is_passed_over() {
    let queue = Queue::shared(Kind::Bullmq).await;
    queue.write(0..3).await;
    eventually_async("three jobs", LIMIT, async || queue.waiting().await == 3).await;
    let mut client = queue.client().await;
    let list = format!("{}:q:wait", queue.name);
    let second: String = client.lindex(&list, 1).await.unwrap();
    let () = client.del(format!("{}:q:{second}", queue.name)).await.unwrap();
    let mut additions = additions(&queue, &[]);
    assert_eq!(hear(&mut *additions, 2).await, [0, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r32_additions_whose_jobs_could_not_be_read_come_again() {
    let queue = Queue::shared(Kind::Bullmq).await;
    let proxy = Proxy::start(queue.redis().port()).await.unwrap();
    let mut additions = additions_at(&queue, &proxy.url(&queue.redis().url()), &[]);
    assert_eq!(additions.next(Duration::from_millis(1)).await.unwrap(), []);
    queue.write(0..20).await;
    eventually_async("twenty jobs", LIMIT, async || queue.waiting().await == 20).await;
    // Far behind the end of what asks for events, and before that of what asks for twenty jobs.
    proxy.set(NetFault::Reset { after_bytes: 1_000 });
    assert!(additions.next(Duration::from_millis(1)).await.is_err());
    assert_eq!(hear(&mut *additions, 20).await, (0..20).collect::<Vec<_>>());
    assert_eq!(proxy.hits(), 1);
}

#[test]
fn lists_tell_nothing_of_what_is_added() {
    let has = |name: &str| sources::find(name).unwrap().listen.is_some();
    assert_eq!(["bullmq", "redis-stream", "redis-list"].map(has), [true, true, false]);
}
