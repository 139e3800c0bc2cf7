//! Submissions at once: all there, once, in order; alone in their failures; bounded; and answered in a drain.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use posthaste_server::{NoParts, ServerSettings};
use posthaste_store::JobFilter;
use posthaste_testkit::eventually_async;
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_postgres::Client;

use crate::support::{Answer, LIMIT, Place, Running, on_both_stores, settings};

on_both_stores! {
    r50_10_and_100_submissions_at_once_are_there_once_and_in_order,
    r50_100_rapid_submissions_of_one_client_stand_in_the_log_in_their_order,
}

async fn r50_10_and_100_submissions_at_once_are_there_once_and_in_order(place: Place) {
    let server = Running::start(&place).await;
    for clients in [10_usize, 100] {
        let topic = format!("load.{clients}");
        // Each client sends its own key's jobs one after the other; all clients at once.
        let client = async |client: usize| {
            for n in 0..5 {
                let key = format!("key-{client}");
                server.submit(&json!({ "topic": topic, "payload": n, "key": key })).await;
            }
        };
        join_all((0..clients).map(client)).await;
        let (_, store) = place.store().await;
        let messages = store.recent(None, 10_000).await.unwrap();
        let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for message in messages.iter().filter(|message| message.topic == topic) {
            let payload = String::from_utf8(message.payload.clone()).unwrap();
            by_key.entry(message.key.clone().unwrap()).or_default().push(payload);
        }
        assert_eq!(by_key.len(), clients);
        for (key, payloads) in by_key {
            assert_eq!(payloads, ["0", "1", "2", "3", "4"], "{key}");
        }
    }
    server.ends().await;
}

/// On one connection, each sent before the one before it is answered, and none with a key.
async fn r50_100_rapid_submissions_of_one_client_stand_in_the_log_in_their_order(place: Place) {
    let server = Running::start(&place).await;
    let (_, store) = place.store().await;
    for (path, topic) in [("/api/v1/jobs", "rapid.jobs"), ("/api/v1/messages", "rapid.messages")] {
        let request = |n: u32| {
            let body = json!({ "topic": topic, "payload": n }).to_string();
            let end = if n == 99 { "connection: close\r\n" } else { "" };
            format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                 {end}content-length: {}\r\n\r\n{body}",
                body.len()
            )
        };
        let all: String = (0..100).map(request).collect();
        let answers = server.send(all.as_bytes()).await;
        assert_eq!(answers.status, 202, "{answers:?}");
        assert_eq!(answers.body.matches("HTTP/1.1 202").count(), 99, "{answers:?}");
        let mut messages = store.recent(None, 10_000).await.unwrap();
        messages.retain(|message| message.topic == topic);
        messages.sort_by_key(|message| message.position);
        let payloads: Vec<String> = messages
            .iter()
            .map(|message| String::from_utf8(message.payload.clone()).unwrap())
            .collect();
        let sent: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        assert_eq!(payloads, sent);
    }
    server.ends().await;
}

/// Submissions that wait for a lock which the test holds.
async fn waiting(client: &Client) -> i64 {
    let sql = "select count(*) from pg_stat_activity \
               where datname = current_database() and wait_event_type = 'Lock'";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_job_of_a_batch_fails_alone() {
    let place = Place::postgres().await;
    let server = Running::start(&place).await;
    let client = place.database().connect().await;
    // A rule that the database alone knows.
    let rule = "alter table posthaste.log add constraint secret_rule check (topic <> 'refused')";
    client.batch_execute(rule).await.unwrap();
    let mut other = place.database().connect().await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("lock table posthaste.job in exclusive mode").await.unwrap();
    let send = async |topic: &str, n: usize| {
        let body = json!({ "topic": topic, "payload": n, "key": "k" });
        server.post("/api/v1/jobs", &body.to_string()).await
    };
    // The first one is written alone; the others wait together until it is.
    let all = join_all((0..9).map(|n| send(if n == 4 { "refused" } else { "free" }, n)));
    let unlock = async {
        eventually_async("a submission to wait", LIMIT, async || waiting(&client).await == 1).await;
        lock.rollback().await.unwrap();
    };
    let (answers, ()) = tokio::join!(all, unlock);
    for (n, answer) in answers.iter().enumerate() {
        if n == 4 {
            let problem = answer.is_problem(422, "refused-by-database");
            assert!(!problem.to_string().contains("secret_rule"), "{problem}");
        } else {
            assert_eq!(answer.status, 202, "{n}: {answer:?}");
        }
    }
    let list = server.get("/api/v1/jobs").await.json();
    assert_eq!(list["jobs"].as_array().unwrap().len(), 8);
    server.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_that_waits_for_a_transaction_of_an_application_holds_up_no_other() {
    let place = Place::postgres().await;
    let server = Running::start(&place).await;
    let client = place.database().connect().await;
    let mut other = place.database().connect().await;
    let open = other.transaction().await.unwrap();
    let sql = "select posthaste.submit_job('t', '1', unique_key => 'u')";
    open.query_one(sql, &[]).await.unwrap();
    let unique = server.post("/api/v1/jobs", r#"{"topic":"t","payload":2,"unique_key":"u"}"#);
    let others = async {
        eventually_async("the twin to wait", LIMIT, async || waiting(&client).await == 1).await;
        for n in 0..3 {
            server.submit(&json!({ "topic": "t", "payload": n })).await;
        }
        assert_eq!(waiting(&client).await, 1, "it waits still");
        open.rollback().await.unwrap();
    };
    let (unique, ()) = tokio::join!(unique, others);
    assert_eq!(unique.status, 202, "{unique:?}");
    server.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_queue_is_answered_with_503_and_takes_jobs_again() {
    let place = Place::postgres().await;
    let settings = ServerSettings { queue_jobs_max: 2, ..settings() };
    let server = Running::with(&place, settings, Arc::new(NoParts)).await;
    let client = place.database().connect().await;
    let mut other = place.database().connect().await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("lock table posthaste.job in exclusive mode").await.unwrap();
    let send = async |n: usize| {
        server.post("/api/v1/jobs", &json!({ "topic": "t", "payload": n }).to_string()).await
    };
    let first = send(0);
    let rest = async {
        eventually_async("the first to wait", LIMIT, async || waiting(&client).await == 1).await;
        // Two find room behind it, and wait; so the others are answered before them.
        let mut rest: FuturesUnordered<_> = (1..8).map(send).collect();
        for _ in 0..5 {
            let refused = rest.next().await.unwrap();
            refused.is_problem(503, "busy");
            assert_eq!(refused.headers["retry-after"], "1");
        }
        lock.rollback().await.unwrap();
        rest.collect::<Vec<_>>().await
    };
    let (first, rest) = tokio::join!(first, rest);
    for accepted in rest.iter().chain([&first, &send(100).await]) {
        assert_eq!(accepted.status, 202, "{accepted:?}");
    }
    server.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_answers_what_is_in_flight_and_accepts_nothing_more() {
    let place = Place::postgres().await;
    // Nothing but the drain ends the connections.
    let settings = ServerSettings { headers_timeout: Duration::from_mins(5), ..settings() };
    let mut server = Running::with(&place, settings, Arc::new(NoParts)).await;
    let client = place.database().connect().await;
    let mut other = place.database().connect().await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("lock table posthaste.job in exclusive mode").await.unwrap();
    let body = r#"{"topic":"t","payload":1}"#;
    // A connection that would be kept: the drain ends it after its answer.
    let request = format!(
        "POST /api/v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut in_flight = server.connect().await;
    in_flight.write_all(request.as_bytes()).await.unwrap();
    let mut idle = server.connect().await;
    eventually_async("it to wait", LIMIT, async || waiting(&client).await == 1).await;
    server.stop();
    let address = server.address;
    eventually_async("it to accept nothing more", LIMIT, async || {
        TcpStream::connect(address).await.is_err()
    })
    .await;
    assert_eq!(Answer::read(&mut idle).await.status, 0);
    lock.rollback().await.unwrap();
    let answer = Answer::read(&mut in_flight).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    server.ends().await;
    let (jobs, _) = place.store().await;
    assert_eq!(jobs.jobs(&JobFilter::default(), 10).await.unwrap().jobs.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_gives_up_what_takes_longer_than_its_limit() {
    let place = Place::postgres().await;
    let limit = Duration::from_millis(200);
    let settings = ServerSettings { drain_timeout: limit, ..settings() };
    let server = Running::with(&place, settings, Arc::new(NoParts)).await;
    let client = place.database().connect().await;
    let mut other = place.database().connect().await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("lock table posthaste.job in exclusive mode").await.unwrap();
    let body = r#"{"topic":"t","payload":1}"#;
    let request = format!(
        "POST /api/v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut in_flight = server.connect().await;
    in_flight.write_all(request.as_bytes()).await.unwrap();
    eventually_async("it to wait", LIMIT, async || waiting(&client).await == 1).await;
    // The lock stays: only the limit ends it.
    server.ends().await;
    assert_eq!(Answer::read(&mut in_flight).await.status, 0);
    lock.rollback().await.unwrap();
}

#[tokio::test]
async fn bodies_that_come_slowly_take_no_more_room_than_there_is() {
    let place = Place::sqlite().await;
    let settings = ServerSettings { queue_bytes_max: 1 << 20, ..settings() };
    let server = Running::with(&place, settings, Arc::new(NoParts)).await;
    let large = "x".repeat(700 << 10);
    let head = format!(
        "POST /api/v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        large.len() + 100
    );
    // Most of a body, and no more of it.
    let mut slow = server.connect().await;
    slow.write_all(format!("{head}{large}").as_bytes()).await.unwrap();
    let body = json!({ "topic": "t", "payload": large }).to_string();
    let is_refused = async || server.post("/api/v1/jobs", &body).await.status == 503;
    eventually_async("no room", LIMIT, is_refused).await;
    let refused = server.post("/api/v1/jobs", &body).await;
    refused.is_problem(503, "busy");
    assert_eq!(refused.headers["retry-after"], "1");
    server.submit(&json!({ "topic": "t", "payload": "a small one" })).await;
    drop(slow);
    // It is read, and found too large for a payload.
    let is_read = async || server.post("/api/v1/jobs", &body).await.status == 422;
    eventually_async("room", LIMIT, is_read).await;
    server.ends().await;
}
