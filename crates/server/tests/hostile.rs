//! What clients send that should not be sent: refused, within bounds, and never the server's fault.

use std::{sync::Arc, time::Duration};

use posthaste_server::{NoParts, Parts, ServerSettings};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::support::{Answer, Place, Running, on_both_stores, settings};

on_both_stores! {
    hostile_bodies_are_refused_with_problems,
    hostile_texts_in_every_field_are_refused_or_kept,
}

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_mins(5);

async fn hostile_bodies_are_refused_with_problems(place: Place) {
    let server = Running::start(&place).await;
    let deep =
        format!(r#"{{"topic":"t","payload":{}1{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
    let big = format!(r#"{{"topic":"t","payload":"{}"}}"#, "x".repeat(3 << 20));
    let wide = format!(r#"{{"topic":"t","payload":"{}"}}"#, "x".repeat(300 << 10));
    let cases: &[(&[u8], u16, &str)] = &[
        (b"{\"topic\":\"t\",\"payload\":\"\xff\xfe\"}", 400, "bad-json"),
        (deep.as_bytes(), 400, "bad-json"),
        (br#"{"topic":"t","topic":"u","payload":1}"#, 400, "bad-json"),
        (br#"{"topic":"t","payload":{"a":1,"a":2}}"#, 400, "bad-json"),
        (br#"{"topic":"t","payload":"\ud800"}"#, 400, "bad-json"),
        (br#"{"topic":"t","payload":1"#, 400, "bad-json"),
        (b"null", 422, "invalid-field"),
        (b"[]", 422, "invalid-field"),
        (b"\"\"", 422, "invalid-field"),
        (b"\x00", 400, "bad-json"),
        (big.as_bytes(), 413, "body-too-large"),
        (wide.as_bytes(), 422, "invalid-field"),
    ];
    for (body, status, code) in cases {
        let headers = [("content-type", "application/json")];
        let answer = server.ask("POST", "/api/v1/jobs", &headers, body).await;
        answer.is_problem(*status, code);
        assert!(answer.body.len() < 1_000, "a problem is short: {answer:?}");
    }
    let empty = server.post("/api/v1/jobs", "").await;
    empty.is_problem(400, "bad-json");
    let text = [("content-type", "text/plain")];
    let answer = server.ask("POST", "/api/v1/jobs", &text, br#"{"topic":"t","payload":1}"#).await;
    answer.is_problem(415, "not-json");
    server.get("/api/v1/nothing").await.is_problem(404, "no-route");
    let wrong = server.ask("DELETE", "/api/v1/jobs", &[], b"").await;
    wrong.is_problem(405, "method-not-allowed");
    assert!(wrong.headers["allow"].contains("POST"), "{wrong:?}");
    assert!(server.get("/api/v1/jobs").await.json()["jobs"].as_array().unwrap().is_empty());
    server.ends().await;
}

async fn hostile_texts_in_every_field_are_refused_or_kept(place: Place) {
    let server = Running::start(&place).await;
    let long = "x".repeat(100_000);
    let texts = [
        "",
        "\0",
        "\u{1}\n\u{7f}",
        "\u{202e}\u{feff}",
        "'; drop table job; --",
        "${jndi:x}",
        &long,
    ];
    let mut accepted = 0;
    for field in
        ["topic", "key", "correlation_id", "unique_key", "deliver_at", "jobspec_id", "attempts"]
    {
        for text in texts {
            let mut body = json!({ "topic": "t", "payload": 1 });
            body[field] = text.into();
            let answer = server.post("/api/v1/jobs", &body.to_string()).await;
            if answer.status == 202 {
                accepted += 1;
                let id = answer.json()["id"].as_str().unwrap().to_owned();
                let job = server.get(&format!("/api/v1/jobs/{id}")).await.json();
                assert!(field == "unique_key" || job[field] == text, "{field}: {job}");
            } else {
                let problem = answer.is_problem(422, "invalid-field");
                assert_eq!(problem["field"], field, "{answer:?}");
                assert!(text.len() < 3 || !answer.body.contains(text), "{answer:?}");
            }
        }
    }
    assert!(accepted > 5, "some of them are only strange");
    for (name, value) in
        [("a\0", "v"), ("", "v"), ("n", "\0"), ("posthaste-job", "v"), ("n", &long)]
    {
        let body = json!({ "topic": "t", "payload": 1, "headers": { name: value } });
        server.post("/api/v1/jobs", &body.to_string()).await.is_problem(422, "invalid-field");
    }
    let kinds = [json!(null), json!(1), json!([]), json!({}), json!(true), json!(1e300), json!(-1)];
    for field in [
        "topic",
        "key",
        "headers",
        "correlation_id",
        "unique_key",
        "deliver_at",
        "jobspec_id",
        "attempts",
    ] {
        for kind in &kinds {
            let mut body = json!({ "topic": "t", "payload": 1 });
            body[field] = kind.clone();
            let answer = server.post("/api/v1/jobs", &body.to_string()).await;
            assert!([202, 422].contains(&answer.status), "{field} = {kind}: {answer:?}");
        }
    }
    server.ends().await;
}

#[tokio::test]
async fn heads_that_cannot_be_read_are_answered_with_4xx() {
    let place = Place::sqlite().await;
    let server = Running::start(&place).await;
    let many = "x: y\r\n".repeat(500);
    let long = "x".repeat(100_000);
    for head in [
        format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n{many}\r\n"),
        format!("GET /livez HTTP/1.1\r\nhost: localhost\r\nx: {long}\r\n\r\n"),
        format!("GET /{long} HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "\u{1}\u{2}\u{3}\r\n\r\n".to_owned(),
        "GET /livez HTTP/1.1\r\n\r\n".to_owned(),
        "GET /%ff%00 HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n".to_owned(),
        "POST /api/v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n".to_owned(),
    ] {
        let answer = server.send(head.as_bytes()).await;
        assert!((400..500).contains(&answer.status), "{head:.80}: {answer:?}");
    }
    let name = server.get("/api/v1/subscriptions/%ff%00").await;
    name.is_problem(400, "bad-parameter");
    assert_eq!(server.get("/livez").await.status, 200);
}

#[tokio::test]
async fn slow_clients_are_cut_off_and_their_places_are_free_again() {
    let place = Place::sqlite().await;
    // One that never ends its headers, one that is idle after an answer, one that never ends its body: while the other
    // limits are out of reach.
    let long = ServerSettings {
        connections_max: 2,
        headers_timeout: LONG,
        body_timeout: LONG,
        request_timeout: LONG,
        ..settings()
    };
    let headers = ServerSettings { headers_timeout: SHORT, ..long.clone() };
    let body =
        ServerSettings { body_timeout: SHORT, headers_timeout: Duration::from_secs(20), ..long };
    let post = "POST /api/v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                connection: close\r\ncontent-length: 9\r\n\r\n{";
    let idle = "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n";
    for (settings, sent) in [(headers.clone(), "GET / HT"), (headers, idle), (body, post)] {
        let server = Running::with(&place, settings, Arc::new(NoParts)).await;
        let mut slow = Vec::new();
        for _ in 0..6 {
            let mut client = server.connect().await;
            client.write_all(sent.as_bytes()).await.unwrap();
            slow.push(client);
        }
        assert_eq!(server.get("/livez").await.status, 200, "{sent}");
        for client in &mut slow {
            let answer = Answer::read(client).await;
            if sent == post {
                answer.is_problem(408, "slow-body");
            }
        }
        server.ends().await;
    }
}

#[tokio::test]
async fn request_that_takes_too_long_is_given_up() {
    let place = Place::postgres().await;
    let settings = ServerSettings { request_timeout: SHORT, ..settings() };
    let server = Running::with(&place, settings, Arc::new(NoParts)).await;
    let mut client = place.database().connect().await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("lock table posthaste.job").await.unwrap();
    server.get("/api/v1/jobs").await.is_problem(504, "timed-out");
    lock.rollback().await.unwrap();
    server.ends().await;
}

#[tokio::test]
async fn request_ids_of_callers_are_taken_over_if_they_are_plain() {
    let place = Place::sqlite().await;
    let server = Running::start(&place).await;
    let ask = async |id: &str| {
        let answer = server.ask("GET", "/livez", &[("x-request-id", id)], b"").await;
        answer.headers["x-request-id"].clone()
    };
    assert_eq!(ask("abc-1.2_3").await, "abc-1.2_3");
    let long = "x".repeat(65);
    for id in ["a b", "a\"b", long.as_str()] {
        let made = ask(id).await;
        assert!(made != id && made.len() == 36, "{made}");
    }
}

#[tokio::test]
async fn client_that_never_reads_its_answers_loses_its_place() {
    let place = Place::sqlite().await;
    let settings = ServerSettings {
        connections_max: 1,
        headers_timeout: LONG,
        request_timeout: LONG,
        write_timeout: SHORT,
        ..settings()
    };
    let server = Running::with(&place, settings, Arc::new(NoParts)).await;
    let mut deaf = server.connect().await;
    // More than the buffers of both ends take.
    let asks = "GET /api/v1/openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(2_000);
    deaf.write_all(asks.as_bytes()).await.unwrap();
    assert_eq!(server.get("/livez").await.status, 200);
    drop(deaf);
    server.ends().await;
}

/// Breaks where it is asked for metrics.
struct Broken;

impl Parts for Broken {
    fn metrics(&self) -> Option<String> {
        panic!("a test breaks it: secret")
    }
}

#[tokio::test]
async fn panic_in_a_handler_is_a_problem_and_the_server_goes_on() {
    let place = Place::sqlite().await;
    let server = Running::with(&place, settings(), Arc::new(Broken)).await;
    let problem = server.get("/metrics").await.is_problem(500, "internal");
    assert!(!problem.to_string().contains("secret"), "{problem}");
    assert_eq!(server.get("/livez").await.status, 200);
    server.ends().await;
}
