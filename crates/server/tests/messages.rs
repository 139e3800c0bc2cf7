//! Messages over the API: enqueued, listed by every filter, shown with their timeline, taken back.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use posthaste_core::contract::{Contract, Contracts};
use posthaste_server::{NoParts, Server, ServerSettings};
use posthaste_testkit::eventually_async;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_postgres::Client;
use tracing_subscriber::filter::LevelFilter;

use crate::support::{Answer, LIMIT, Place, Running, on_both_stores, settings};

on_both_stores! {
    message_is_accepted_and_shown_with_its_timeline,
    repeated_key_answers_the_first_message_and_another_body_is_refused,
    messages_are_listed_page_by_page_and_by_every_filter,
    scheduled_message_is_taken_back_and_audited,
    hostile_texts_in_every_field_are_refused_or_kept,
    hostile_parameters_are_refused_by_name,
    payload_that_breaks_its_contract_is_not_enqueued,
}

const JSON: (&str, &str) = ("content-type", "application/json");
const PATH: &str = "/api/v1/messages";

/// Enqueues a message, which must be accepted, and answers its id.
async fn enqueue(server: &Running, body: &Value) -> String {
    let answer = server.post(PATH, &body.to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.headers["location"], format!("{PATH}/{id}"));
    id
}

fn listed(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{answer:?}");
    let messages = answer.json()["messages"].as_array().unwrap().clone();
    messages.iter().map(|message| message["id"].as_str().unwrap().to_owned()).collect()
}

async fn message_is_accepted_and_shown_with_its_timeline(place: Place) {
    let server = Running::start(&place).await;
    let body = r#"{"topic":"mail.welcome","payload":{"to" :  7.0},"key":"user-7","headers":{"tenant":"acme"},
                   "correlation_id":"c"}"#;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [JSON, ("traceparent", parent)];
    let answer = server.ask("POST", PATH, &headers, body.as_bytes()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let shown = server.get(&answer.headers["location"]).await.json();
    for (field, value) in [
        ("id", answer.json()["id"].clone()),
        ("state", json!("unread")),
        ("topic", json!("mail.welcome")),
        ("key", json!("user-7")),
        ("correlation_id", json!("c")),
        ("payload", json!({ "to": 7.0 })),
        ("payload_bytes", json!(13)),
        ("content_type", json!("application/json")),
        ("headers", json!({ "tenant": "acme", "traceparent": parent })),
        ("deliveries", json!([])),
        ("deliver_at", Value::Null),
    ] {
        assert_eq!(shown[field], value, "{field} of {shown}");
    }
    let (_, store) = place.store().await;
    assert_eq!(store.recent(None, 10).await.unwrap()[0].payload, br#"{"to" :  7.0}"#);
    let own = "018f0000-0000-7000-8000-00000000000a";
    let bytes = json!({ "topic": "t", "payload_base64": "/wA=", "id": own, "content_type": "a/b" });
    assert_eq!(enqueue(&server, &bytes).await, own);
    let shown = server.get(&format!("{PATH}/{own}")).await.json();
    assert_eq!((&shown["payload_base64"], &shown["content_type"]), (&json!("/wA="), &json!("a/b")));
    assert!(shown.get("payload").is_none(), "{shown}");
    assert_eq!(store.recent(None, 10).await.unwrap()[1].payload, b"\xff\0");
    let missing = server.get(&format!("{PATH}/018f0000-0000-7000-8000-000000000001")).await;
    missing.is_problem(404, "no-message");
    server.get(&format!("{PATH}/seven")).await.is_problem(400, "bad-parameter");
    // Every digit, and the order of its fields.
    let exact = r#"{"z":123456789012345678901234567890.12,"a":1.10}"#;
    let exact_bodies =
        [PATH, "/api/v1/jobs"].map(|path| (path, format!(r#"{{"topic":"t","payload":{exact}}}"#)));
    for (path, body) in exact_bodies {
        let sent = server.post(path, &body).await;
        let shown = server.get(&sent.headers["location"]).await;
        assert!(shown.body.contains(&format!(r#""payload":{exact}"#)), "{shown:?}");
    }
    server.ends().await;
}

#[tokio::test]
async fn r42_message_and_log_carry_what_their_request_belongs_to_and_the_log_no_payload() {
    let place = Place::sqlite().await;
    let log = tempfile::NamedTempFile::new().unwrap();
    let lines = tracing_subscriber::fmt().json().with_max_level(LevelFilter::DEBUG);
    // Beside a single subscriber, other tests' threads would decide for all of them that nobody wants a line.
    let silent = tracing_subscriber::fmt().with_max_level(LevelFilter::OFF).finish();
    let _second = tracing::Dispatch::new(silent);
    // Of this thread alone, on which all of the server runs.
    let lines = lines.with_writer(Arc::new(log.reopen().unwrap())).finish();
    let _guard = tracing::subscriber::set_default(lines);
    let server = Running::start(&place).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers =
        [JSON, ("traceparent", parent), ("tracestate", "a=1"), ("x-request-id", "request-7")];
    let body = json!({ "topic": "mail", "key": "customer-hunter2", "correlation_id": "order-7",
                       "payload": { "password": "hunter2" }, "headers": { "card": "hunter2" } });
    let answer = server.ask("POST", PATH, &headers, body.to_string().as_bytes()).await;
    assert_eq!((answer.status, &*answer.headers["x-request-id"]), (202, "request-7"), "{answer:?}");
    let shown = server.get(&answer.headers["location"]).await.json();
    assert_eq!(shown["correlation_id"], "order-7");
    let headers = json!({ "card": "hunter2", "traceparent": parent, "tracestate": "a=1" });
    assert_eq!(shown["headers"], headers);
    server.ends().await;
    let log = std::fs::read_to_string(log.path()).unwrap();
    assert!(!log.contains("hunter2"), "{log}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let about = lines.iter().filter(|line| line["span"]["request_id"] == "request-7");
    let about: Vec<&Value> = about.collect();
    let said: Vec<&Value> = about.iter().map(|line| &line["fields"]["message"]).collect();
    assert_eq!(said, ["a message is committed", "answered"], "{log}");
    assert!(about.iter().all(|line| line["span"]["correlation_id"] == "order-7"), "{log}");
    assert_eq!(about[0]["fields"]["message_id"], shown["id"], "{log}");
}

async fn repeated_key_answers_the_first_message_and_another_body_is_refused(place: Place) {
    let server = Running::start(&place).await;
    let body = r#"{"topic":"t","payload":1}"#;
    let send = async |key: &str, body: &str| {
        let headers = [JSON, ("idempotency-key", key)];
        server.ask("POST", PATH, &headers, body.as_bytes()).await
    };
    let first = send("k", body).await.json()["id"].clone();
    assert_eq!(send("k", body).await.json()["id"], first);
    send("k", r#"{"topic":"t","payload":2}"#).await.is_problem(422, "idempotency-key-reused");
    assert_ne!(send("l", body).await.json()["id"], first);
    // Many at once: one message.
    let mut ids = Vec::new();
    for twin in join_all((0..20).map(|_| send("m", body))).await {
        assert_eq!(twin.status, 202, "{twin:?}");
        ids.push(twin.json()["id"].to_string());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    // A token is the application's, whatever is sent with it.
    let token = |n: u32| json!({ "topic": "t", "payload": n, "token": "mine" });
    assert_eq!(enqueue(&server, &token(1)).await, enqueue(&server, &token(2)).await);
    assert_eq!(listed(&server.get(PATH).await).len(), 4);
    for field in ["id", "token"] {
        let body = json!({ "topic": "t", field: "018f0000-0000-7000-8000-00000000000a" });
        let problem = send("n", &body.to_string()).await.is_problem(422, "invalid-field");
        assert_eq!(problem["field"], field);
    }
    send("a b", body).await.is_problem(400, "bad-parameter");
    server.ends().await;
}

async fn messages_are_listed_page_by_page_and_by_every_filter(place: Place) {
    let server = Running::start(&place).await;
    let mut ids = Vec::new();
    for n in 0..7 {
        let body = json!({ "topic": format!("t.{}", n % 2), "payload": n, "key": format!("k{}", n % 3),
                           "correlation_id": format!("c {}", n % 4), "headers": { "n": n.to_string() } });
        ids.push(enqueue(&server, &body).await);
    }
    let later = json!({ "topic": "t.9", "deliver_at": "2100-01-01T00:00:00Z" });
    ids.push(enqueue(&server, &later).await);
    let newest = |at: &[usize]| at.iter().rev().map(|at| ids[*at].clone()).collect::<Vec<_>>();
    let (since, until) = ("since=2020-01-01T00:00:00Z", "until=2100-01-01T00:00:00Z");
    let id = &ids[3];
    for (query, expected) in [
        (String::new(), &[0, 1, 2, 3, 4, 5, 6, 7][..]),
        ("topic=t.1".to_owned(), &[1, 3, 5]),
        ("topic=t.*".to_owned(), &[0, 1, 2, 3, 4, 5, 6, 7]),
        ("topic=nothing".to_owned(), &[]),
        ("key=k0".to_owned(), &[0, 3, 6]),
        ("key=k0&topic=t.1".to_owned(), &[3]),
        ("correlation_id=c%202".to_owned(), &[2, 6]),
        (format!("id={id}"), &[3]),
        ("state=scheduled".to_owned(), &[7]),
        ("state=unread".to_owned(), &[0, 1, 2, 3, 4, 5, 6]),
        ("state=dead".to_owned(), &[]),
        (format!("{since}&{until}"), &[0, 1, 2, 3, 4, 5, 6, 7]),
        (until.replace("2100", "2020"), &[]),
    ] {
        assert_eq!(
            listed(&server.get(&format!("{PATH}?{query}")).await),
            newest(expected),
            "{query}"
        );
        // Page by page.
        let (mut seen, mut path) = (Vec::new(), format!("{PATH}?limit=2&{query}"));
        loop {
            let page = server.get(&path).await;
            seen.extend(listed(&page));
            let page = page.json();
            let Some(next) = page["next"].as_str() else { break };
            path = format!("{PATH}?limit=2&{query}&cursor={next}");
        }
        assert_eq!(seen, newest(expected), "{query}");
    }
    // Within an hour of when it was written.
    let written = server.get(&format!("{PATH}/{id}")).await.json()["enqueued_at"].clone();
    let (day, time) = written.as_str().unwrap().split_once('T').unwrap();
    let header = format!("{PATH}?header=n=3&since={day}T00:00:00Z&until={day}T23:59:59.999999Z");
    assert_eq!(listed(&server.get(&header).await), newest(&[3]), "{day} {time}");
    let everything = server.get(PATH).await.json();
    let message = &everything["messages"][7];
    assert!(message.get("payload").is_none() && message["payload_bytes"] == 1, "{message}");
    server.ends().await;
}

async fn scheduled_message_is_taken_back_and_audited(place: Place) {
    let server = Running::start(&place).await;
    let due = "2100-01-01T00:00:00Z";
    let id = enqueue(&server, &json!({ "topic": "t", "deliver_at": due })).await;
    let path = format!("{PATH}/{id}");
    let shown = server.get(&path).await.json();
    assert_eq!((&shown["state"], &shown["position"]), (&json!("scheduled"), &Value::Null));
    assert_eq!(shown["deliver_at"], "2100-01-01T00:00:00.000000Z");
    let cancel = async |body: &str| server.post(&format!("{path}/cancel"), body).await;
    let dry = cancel(r#"{"dry_run":true}"#).await.json();
    assert_eq!((&dry["outcome"], &dry["dry_run"]), (&json!("cancelled"), &json!(true)));
    assert_eq!(server.get(&path).await.status, 200, "it is there still");
    cancel(r#"{"dry":true}"#).await.is_problem(422, "invalid-field");
    assert_eq!(cancel("").await.json()["id"], id);
    cancel("").await.is_problem(404, "no-message");
    let trail = server.get("/api/v1/audit").await.json();
    let [entry] = &trail["entries"].as_array().unwrap()[..] else { panic!("{trail}") };
    assert_eq!((&entry["actor"], &entry["action"]), (&json!("loopback"), &json!("cancel")));
    assert!(entry["detail"].to_string().contains(&id), "{entry}");
    let there = enqueue(&server, &json!({ "topic": "t" })).await;
    let late = server.post(&format!("{PATH}/{there}/cancel"), "").await;
    late.is_problem(409, "message-state");
    // A job would wait for its message in vain.
    let job = json!({ "topic": "t", "payload": 1, "deliver_at": due });
    let job = server.submit(&job).await;
    let job = server.get(&format!("/api/v1/jobs/{job}")).await.json();
    let message = job["message_id"].as_str().unwrap();
    let refused = server.post(&format!("{PATH}/{message}/cancel"), "").await;
    let problem = refused.is_problem(409, "message-state");
    assert!(problem["detail"].as_str().unwrap().contains("/api/v1/jobs/"), "{problem}");
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
        "'; drop table log; --",
        "${jndi:x}",
        &long,
    ];
    let fields = [
        "topic",
        "key",
        "correlation_id",
        "content_type",
        "token",
        "deliver_at",
        "id",
        "payload_base64",
    ];
    for field in fields {
        for text in texts {
            let mut body = json!({ "topic": "t" });
            body[field] = text.into();
            let answer = server.post(PATH, &body.to_string()).await;
            match answer.status {
                202 => {
                    let shown = server.get(&answer.headers["location"]).await.json();
                    let is_shown = ["key", "correlation_id", "content_type"].contains(&field);
                    assert!(!is_shown || shown[field] == text, "{field}: {shown}");
                }
                _ => assert_eq!(answer.is_problem(422, "invalid-field")["field"], field),
            }
        }
        for kind in [json!(7), json!([]), json!({}), json!(true)] {
            let mut body = json!({ "topic": "t" });
            body[field] = kind.clone();
            let answer = server.post(PATH, &body.to_string()).await;
            answer.is_problem(422, "invalid-field");
        }
    }
    for body in ["null", "[]", r#"{"topic":"t","unknown":1}"#, r#"{"payload":1}"#] {
        server.post(PATH, body).await.is_problem(422, "invalid-field");
    }
    let wide = json!({ "topic": "t", "payload": "x".repeat(300 << 10) });
    server.post(PATH, &wide.to_string()).await.is_problem(422, "invalid-field");
    server.post(PATH, r#"{"topic":"t","payload":{"a":1,"a":2}}"#).await.is_problem(400, "bad-json");
    server.ends().await;
}

async fn hostile_parameters_are_refused_by_name(place: Place) {
    let server = Running::start(&place).await;
    enqueue(&server, &json!({ "topic": "t", "key": "k" })).await;
    let long = "x".repeat(600);
    let day = "since=2026-01-01T00:00:00Z&until=2026-01-02T00:00:00Z";
    for (query, field) in [
        ("topic=".to_owned(), "topic"),
        ("topic=a*b".to_owned(), "topic"),
        ("topic=%27".to_owned(), "topic"),
        ("key=".to_owned(), "key"),
        ("key=%00".to_owned(), "key"),
        (format!("key={long}"), "key"),
        ("correlation_id=%0a".to_owned(), "correlation_id"),
        (format!("correlation_id={long}"), "correlation_id"),
        ("id=7".to_owned(), "id"),
        ("state=queued".to_owned(), "state"),
        ("since=yesterday".to_owned(), "since"),
        ("until=2026".to_owned(), "until"),
        ("since=9999-12-30T00:00:00Z&until=1970-01-01T00:00:00Z".to_owned(), "since"),
        ("since=-009000-01-01T00:00:00Z".to_owned(), "since"),
        ("until=1969-12-31T23:59:59Z".to_owned(), "until"),
        ("limit=0".to_owned(), "limit"),
        ("limit=201".to_owned(), "limit"),
        ("limit=-1".to_owned(), "limit"),
        ("cursor=7".to_owned(), "cursor"),
        ("cursor=ajc".to_owned(), "cursor"),
        ("header=a=b".to_owned(), "header"),
        ("header=a=b&since=2026-01-01T00:00:00Z".to_owned(), "header"),
        ("header=a=b&since=2026-01-01T00:00:00Z&until=2026-01-02T00:00:01Z".to_owned(), "header"),
        (format!("header=a&{day}"), "header"),
        (format!("header==a&{day}"), "header"),
        (format!("header=a=%00&{day}"), "header"),
    ] {
        let problem = server.get(&format!("{PATH}?{query}")).await.is_problem(400, "bad-parameter");
        assert_eq!(problem["field"], field, "{query}: {problem}");
    }
    for query in ["unknown=1", "key=k&key=l"] {
        server.get(&format!("{PATH}?{query}")).await.is_problem(400, "bad-parameter");
    }
    // What looks hostile and could be written is looked for.
    for query in [
        "key=%27%20or%201=1;--".to_owned(),
        "key=%F0%9F%92%A5".to_owned(),
        "correlation_id=%22".to_owned(),
        format!("header=%27=%27,%7B%22&{day}"),
        "since=1970-01-01T00:00:00Z&until=9999-12-30T00:00:00Z&state=dead".to_owned(),
    ] {
        assert!(listed(&server.get(&format!("{PATH}?{query}")).await).is_empty(), "{query}");
    }
    server.ends().await;
}

async fn payload_that_breaks_its_contract_is_not_enqueued(place: Place) {
    let contract = json!({ "type": "object", "required": ["to"] });
    let contract = Contract::new("mail", 1, contract).unwrap();
    let (_kept, contracts) = watch::channel(Arc::new(Contracts::new([contract]).unwrap()));
    let (jobs, operations) = place.store().await;
    let server = Server::new(settings(), jobs, operations).unwrap().with_contracts(contracts);
    let server = Running::of(server.bind().unwrap());
    let body = |payload: Value| json!({ "topic": "mail", "payload": payload, "headers": { "posthaste-contract": "1" } });
    let broken = server.post(PATH, &body(json!({ "two": 7 })).to_string()).await;
    let problem = broken.is_problem(422, "contract-broken");
    assert_eq!(problem["field"], "payload");
    assert!(listed(&server.get(PATH).await).is_empty());
    enqueue(&server, &body(json!({ "to": 7 }))).await;
    server.ends().await;
}

/// Submissions that wait for a lock which the test holds.
async fn waiting(client: &Client) -> i64 {
    let sql = "select count(*) from pg_stat_activity \
               where datname = current_database() and wait_event_type = 'Lock'";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_strict_topics_are_locked_for_messages_and_jobs() {
    let place = Place::postgres().await;
    let server = Running::start(&place).await;
    let client = place.database().connect().await;
    client.batch_execute("select posthaste.set_strict('strict.*')").await.unwrap();
    let body = |n: u32| json!({ "topic": "strict.a", "payload": n, "key": "k" });
    let mut expected = vec![enqueue(&server, &body(0)).await];
    // An application has the key: what is sent meanwhile stands behind its message.
    let mut other = place.database().connect().await;
    let open = other.transaction().await.unwrap();
    open.execute("select posthaste.lock_keys(array['k'])", &[]).await.unwrap();
    let sql = "select posthaste.enqueue('strict.a', '1', key => 'k')::text";
    expected.push(open.query_one(sql, &[]).await.unwrap().get(0));
    let second = body(2).to_string();
    // It waits two seconds at a time.
    let sent = async {
        loop {
            let answer = server.post(PATH, &second).await;
            if answer.status != 503 {
                assert_eq!(answer.status, 202, "{answer:?}");
                break answer.json()["id"].as_str().unwrap().to_owned();
            }
        }
    };
    let others = async {
        eventually_async("it to wait", LIMIT, async || waiting(&client).await == 1).await;
        // Without a key nothing waits.
        enqueue(&server, &json!({ "topic": "strict.a" })).await;
        open.commit().await.unwrap();
    };
    let (sent, ()) = tokio::join!(sent, others);
    expected.push(sent);
    let job = server.submit(&body(3)).await;
    let job = server.get(&format!("/api/v1/jobs/{job}")).await.json();
    expected.push(job["message_id"].as_str().unwrap().to_owned());
    // Many jobs at once, of which some need a lock.
    let many = (0..20).map(|n| {
        let topic = if n % 2 == 0 { "strict.b" } else { "free" };
        let body = json!({ "topic": topic, "payload": n, "key": "l" });
        let server = &server;
        async move { server.submit(&body).await }
    });
    assert_eq!(join_all(many).await.len(), 20);
    let mut found = listed(&server.get(&format!("{PATH}?key=k")).await);
    found.reverse();
    assert_eq!(found, expected);
    server.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn held_key_holds_no_other_key_up() {
    let place = Place::postgres().await;
    let settings = ServerSettings { request_timeout: Duration::from_secs(15), ..settings() };
    let server = Running::with(&place, settings, Arc::new(NoParts)).await;
    let client = place.database().connect().await;
    client.batch_execute("select posthaste.set_strict('strict.*')").await.unwrap();
    let mut other = place.database().connect().await;
    let open = other.transaction().await.unwrap();
    open.execute("select posthaste.lock_keys(array['k'])", &[]).await.unwrap();
    let held = json!({ "topic": "strict.a", "key": "k" }).to_string();
    let held = server.post(PATH, &held);
    let free = async {
        eventually_async("it to wait", LIMIT, async || waiting(&client).await == 1).await;
        enqueue(&server, &json!({ "topic": "free", "key": "z" })).await;
    };
    let (held, ()) = tokio::join!(held, free);
    assert_eq!(held.status, 503, "{held:?}");
    open.commit().await.unwrap();
    server.ends().await;
}
