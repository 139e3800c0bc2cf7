//! Jobs over the API, from their submission to what people do with them.

use std::sync::Arc;

use posthaste_core::{
    Message, NewJob,
    contract::{Contract, Contracts},
};
use posthaste_server::Server;
use posthaste_store::{Ended, Handed, Outcome, Receipt, WorkerSpec};
use serde_json::{Value, json};

use tokio::sync::watch;

use crate::support::{Answer, LIMIT, Place, Running, on_both_stores, settings};

on_both_stores! {
    r26_job_is_accepted_with_its_message_and_found_by_its_id,
    r30_id_and_jobspec_id_are_equal_in_every_answer,
    repeated_key_answers_the_first_job_and_another_body_is_refused,
    unique_key_answers_the_job_that_is_not_over,
    jobs_are_listed_page_by_page_and_by_state_topic_and_key,
    cancel_and_retry_are_audited_and_can_be_tried_dry,
    r27_attempts_and_receipts_are_shown,
}

const JSON: (&str, &str) = ("content-type", "application/json");

async fn r26_job_is_accepted_with_its_message_and_found_by_its_id(place: Place) {
    let server = Running::start(&place).await;
    let body = r#"{"topic":"mail.welcome","payload":{"to" :  7.0},"key":"user-7","headers":{"tenant":"acme"},
                   "correlation_id":"c","attempts":3}"#;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [JSON, ("traceparent", parent), ("x-request-id", "req-1")];
    let answer = server.ask("POST", "/api/v1/jobs", &headers, body.as_bytes()).await;
    assert_eq!(
        (answer.status, answer.headers["x-request-id"].as_str()),
        (202, "req-1"),
        "{answer:?}"
    );
    let accepted = answer.json();
    assert_eq!(accepted["status"], "created");
    let id = accepted["id"].as_str().unwrap();
    assert_eq!(answer.headers["location"], format!("/api/v1/jobs/{id}"));
    let job = server.get(&answer.headers["location"]).await.json();
    for (field, value) in [
        ("status", json!("created")),
        ("topic", json!("mail.welcome")),
        ("key", json!("user-7")),
        ("correlation_id", json!("c")),
        ("attempts_max", json!(3)),
        ("payload", json!({ "to": 7.0 })),
        ("headers", json!({ "tenant": "acme", "traceparent": parent })),
    ] {
        assert_eq!(job[field], value, "{field} of {job}");
    }
    // In one transaction with its message, whose payload is what was sent, byte for byte.
    let (_, store) = place.store().await;
    let messages = store.recent(None, 10).await.unwrap();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].payload, br#"{"to" :  7.0}"#);
    assert_eq!(messages[0].id.to_string(), job["message_id"].as_str().unwrap());
    let missing = server.get("/api/v1/jobs/018f0000-0000-7000-8000-000000000001").await;
    missing.is_problem(404, "no-job");
    server.get("/api/v1/jobs/seven").await.is_problem(400, "bad-parameter");
    server.ends().await;
}

async fn r30_id_and_jobspec_id_are_equal_in_every_answer(place: Place) {
    let server = Running::start(&place).await;
    let id = "018f0000-0000-7000-8000-00000000000a";
    let body = json!({ "topic": "t", "payload": 1, "jobspec_id": id });
    let first = server.post("/api/v1/jobs", &body.to_string()).await;
    let again = json!({ "topic": "t", "payload": 2, "jobspec_id": id });
    let again = server.post("/api/v1/jobs", &again.to_string()).await;
    let plain = server.post("/api/v1/jobs", r#"{"topic":"t","payload":1}"#).await;
    let shown = server.get(&format!("/api/v1/jobs/{id}")).await;
    let list = server.get("/api/v1/jobs").await.json();
    let each = list["jobs"].as_array().unwrap().clone();
    assert_eq!(each.len(), 2, "the repeated one is the first one: {list}");
    let mut answers = vec![first, again, plain, shown.clone()];
    for (verb, dry_run) in [("cancel", true), ("cancel", false), ("retry", true), ("retry", false)]
    {
        let body = json!({ "dry_run": dry_run }).to_string();
        let changed = server.post(&format!("/api/v1/jobs/{id}/{verb}"), &body).await;
        assert_eq!(changed.json()["id"], id, "{verb}: {changed:?}");
        answers.push(changed);
    }
    answers.push(server.get(&format!("/api/v1/jobs/{id}")).await);
    for answer in answers.iter().map(Answer::json).chain(each) {
        assert!(answer["id"].is_string() && answer["id"] == answer["jobspec_id"], "{answer}");
    }
    assert_eq!(shown.json()["payload"], 1);
    server.ends().await;
}

async fn repeated_key_answers_the_first_job_and_another_body_is_refused(place: Place) {
    let server = Running::start(&place).await;
    let body = r#"{"topic":"t","payload":1}"#;
    let send = async |key: &str, body: &str| {
        let headers = [JSON, ("idempotency-key", key)];
        server.ask("POST", "/api/v1/jobs", &headers, body.as_bytes()).await
    };
    let first = send("k", body).await.json()["id"].clone();
    assert_eq!(send("k", body).await.json()["id"], first);
    let reused = send("k", r#"{"topic":"t","payload":2}"#).await;
    reused.is_problem(422, "idempotency-key-reused");
    assert_ne!(send("l", body).await.json()["id"], first);
    // Many at once: one job.
    let twins: Vec<_> = (0..20).map(|_| send("m", body)).collect();
    let mut ids = Vec::new();
    for twin in futures_util::future::join_all(twins).await {
        assert_eq!(twin.status, 202, "{twin:?}");
        ids.push(twin.json()["id"].to_string());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "{ids:?}");
    let all = server.get("/api/v1/jobs").await.json();
    assert_eq!(all["jobs"].as_array().unwrap().len(), 3);
    // After the job is cancelled too: the key stands for what was submitted.
    server.post(&format!("/api/v1/jobs/{}/cancel", first.as_str().unwrap()), "").await;
    let late = send("k", body).await.json();
    assert_eq!((&late["id"], &late["status"]), (&first, &json!("cancelled")));
    let blank = "a b";
    send(blank, body).await.is_problem(400, "bad-parameter");
    server.ends().await;
}

async fn unique_key_answers_the_job_that_is_not_over(place: Place) {
    let server = Running::start(&place).await;
    let body = json!({ "topic": "t", "payload": 1, "unique_key": "u" });
    let first = server.submit(&body).await;
    let other = json!({ "topic": "t", "payload": 2, "unique_key": "u" });
    assert_eq!(server.submit(&other).await, first);
    // With a key of its own it is another request for the same job, not a repeated one.
    let headers = [JSON, ("idempotency-key", "k")];
    let keyed = server.ask("POST", "/api/v1/jobs", &headers, other.to_string().as_bytes()).await;
    assert_eq!(keyed.json()["id"], first.as_str());
    server.post(&format!("/api/v1/jobs/{first}/cancel"), "").await;
    assert_ne!(server.submit(&other).await, first);
    server.ends().await;
}

async fn jobs_are_listed_page_by_page_and_by_state_topic_and_key(place: Place) {
    let server = Running::start(&place).await;
    let mut ids = Vec::new();
    for n in 0..7 {
        let body =
            json!({ "topic": if n % 2 == 0 { "even" } else { "odd" }, "payload": n, "key": "k" });
        ids.push(server.submit(&body).await);
    }
    ids.reverse();
    let walk = async |filter: &str| {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = server.get(&format!("/api/v1/jobs?limit=2{filter}{cursor}")).await.json();
            let jobs = page["jobs"].as_array().unwrap();
            assert!(jobs.len() <= 2);
            found.extend(jobs.iter().map(|job| job["id"].as_str().unwrap().to_owned()));
            let Some(next) = page["next"].as_str() else { return found };
            cursor = format!("&cursor={next}");
        }
    };
    assert_eq!(walk("").await, ids);
    let every_other: Vec<String> = ids.iter().step_by(2).cloned().collect();
    assert_eq!(walk("&topic=even").await, every_other);
    assert_eq!(walk("&key=k&state=created").await, ids);
    assert!(walk("&state=dead").await.is_empty() && walk("&key=nobody").await.is_empty());
    for query in [
        "limit=0",
        "limit=201",
        "limit=x",
        "state=done",
        "cursor=x",
        "topic=%00",
        "key=%0a",
        "limit=1&limit=2",
        "unknown=1",
    ] {
        server.get(&format!("/api/v1/jobs?{query}")).await.is_problem(400, "bad-parameter");
    }
    server.ends().await;
}

async fn cancel_and_retry_are_audited_and_can_be_tried_dry(place: Place) {
    let server = Running::start(&place).await;
    let id = server.submit(&json!({ "topic": "t", "payload": 1 })).await;
    let act = async |what: &str, body: &str| {
        server.post(&format!("/api/v1/jobs/{id}/{what}"), body).await
    };
    let status = async || server.get(&format!("/api/v1/jobs/{id}")).await.json()["status"].clone();
    act("retry", "{}").await.is_problem(409, "job-state");
    let dry = act("cancel", r#"{"dry_run":true}"#).await.json();
    assert_eq!((&dry["outcome"], &dry["dry_run"]), (&json!("cancelled"), &json!(true)));
    assert_eq!(status().await, "created");
    assert_eq!(act("cancel", "").await.json()["outcome"], "cancelled");
    assert_eq!(status().await, "cancelled");
    act("cancel", "").await.is_problem(409, "job-state");
    act("retry", r#"{"attempts":0}"#).await.is_problem(422, "invalid-field");
    act("retry", r#"{"attempts":"x"}"#).await.is_problem(422, "invalid-field");
    assert_eq!(act("retry", r#"{"attempts":2,"dry_run":true}"#).await.json()["dry_run"], true);
    assert_eq!(status().await, "cancelled");
    assert_eq!(act("retry", r#"{"attempts":2}"#).await.json()["outcome"], "published");
    assert_eq!(status().await, "created");
    if let Place::Postgres(database) = &place {
        let client = database.connect().await;
        let sql =
            "select actor, action from posthaste.audit where detail ->> 'job' = $1 order by at";
        let rows = client.query(sql, &[&id]).await.unwrap();
        let rows: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert!(rows.contains(&("loopback".to_owned(), "cancel-job".to_owned())), "{rows:?}");
        assert!(rows.contains(&("loopback".to_owned(), "retry-job".to_owned())), "{rows:?}");
    }
    server.ends().await;
}

async fn r27_attempts_and_receipts_are_shown(place: Place) {
    let server = Running::start(&place).await;
    let (jobs, _) = place.store().await;
    let id = jobs.submit_jobs(&[NewJob::of(Message::new("t").json(&1))]).await.unwrap()[0];
    let spec = WorkerSpec { name: "post".to_owned(), ..WorkerSpec::default() };
    let worker = jobs.register_worker(&spec, LIMIT).await.unwrap();
    jobs.begin_jobs(worker, &[Handed { job: id, message: id }]).await.unwrap();
    let running = server.get(&format!("/api/v1/jobs/{id}")).await.json();
    assert_eq!((&running["status"], &running["attempt"]), (&json!("running"), &json!(1)));
    let receipt =
        Receipt { content_type: "application/json".to_owned(), body: br#"{"sent":true}"#.to_vec() };
    let ended = Ended {
        job: id,
        attempt: 1,
        outcome: Outcome::Completed,
        reason: None,
        receipt: Some(receipt),
    };
    assert_eq!(jobs.finish_jobs(worker, &[ended]).await.unwrap(), [true]);
    let job: Value = server.get(&format!("/api/v1/jobs/{id}")).await.json();
    assert_eq!(job["status"], "completed");
    assert_eq!(job["executions"][0]["outcome"], "completed");
    assert_eq!(job["executions"][0]["worker"], "post");
    assert_eq!(job["receipts"][0]["body"], json!({ "sent": true }));
    server.ends().await;
}

#[tokio::test]
async fn payload_that_breaks_its_contract_is_refused_before_anything_is_written() {
    let place = Place::sqlite().await;
    let (jobs, operations) = place.store().await;
    let schema = json!({ "type": "object", "required": ["to"] });
    let contracts = Contracts::new([Contract::new("mail", 1, schema).unwrap()]).unwrap();
    let (_kept, known) = watch::channel(Arc::new(contracts));
    let server = Server::new(settings(), jobs, operations).unwrap().with_contracts(known);
    let server = Running::of(server.bind().unwrap());
    let send = async |payload: Value| {
        let headers = json!({ "posthaste-contract": "1" });
        let body = json!({ "topic": "mail", "payload": payload, "headers": headers });
        server.post("/api/v1/jobs", &body.to_string()).await
    };
    let broken = send(json!({ "secret": 1 })).await;
    let problem = broken.is_problem(422, "contract-broken");
    assert!(problem["detail"].as_str().unwrap().contains("to"), "{problem}");
    assert!(server.get("/api/v1/jobs").await.json()["jobs"].as_array().unwrap().is_empty());
    assert_eq!(send(json!({ "to": 1 })).await.status, 202);
    server.ends().await;
}
