//! R26: a job's specification is held to its contract before anything of it is written, and before a worker runs it.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use posthaste_testkit::{Postgres, Redis, eventually};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::{
    harness::{Place, Running},
    replays::waits_for_a_lock,
    serve::{address_in, ask, ends, serve},
};

const LIMIT: Duration = Duration::from_mins(1);
const SERVER: &str = "[server]\nlisten = \"127.0.0.1:0\"\n";
const TOPIC: &str = "jobs.submitted";
/// So long that nobody reads contracts a second time.
const SELDOM: &str = "[relay]\ncontracts_interval = \"1h\"\n";

fn place(url: &str, settings: &str) -> Place {
    let place = Place::with(&format!("[database]\nurl = \"{url}\"\n{settings}"));
    place.run(&["migrate"]).succeeds();
    place
}

/// Pushes the contracts of jobs and of their receipts.
fn push(place: &Place) {
    let contracts =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/benchmark-jobs/contracts");
    place.run(&["contracts", "push", contracts.to_str().unwrap()]).succeeds();
}

fn spec() -> Value {
    json!({
        "jobspec_id": "bias-detection-1757714400",
        "version": "v1",
        "benchmark": { "name": "bias-detection" },
        "constraints": { "regions": ["US", "EU"], "min_regions": 2 },
        "questions": ["geography_basic", "identity_basic"],
    })
}

/// The specification, with another value at this place; without it where that is null.
fn changed(place: &str, value: Value) -> Value {
    let mut spec = spec();
    let (parent, name) = place.rsplit_once('/').unwrap();
    let parent = spec.pointer_mut(parent).unwrap();
    match (value.is_null(), parent.as_object_mut()) {
        (true, Some(fields)) => drop(fields.remove(name)),
        (false, Some(fields)) => drop(fields.insert(name.to_owned(), value)),
        (_, None) => parent[name.parse::<usize>().unwrap()] = value,
    }
    spec
}

fn submit(address: &str, kind: &str, version: &str, payload: &Value) -> (u16, Value) {
    let headers = json!({ "posthaste-contract": version });
    let body = json!({ "topic": TOPIC, "payload": payload, "headers": headers }).to_string();
    ask(address, "POST", &format!("/api/v1/{kind}"), "", &body)
}

/// Rows of jobs and messages.
async fn written(client: &Client) -> (i64, i64) {
    let sql = "select (select count(*) from posthaste.job), (select count(*) from posthaste.log)";
    let row = client.query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1))
}

#[tokio::test(flavor = "multi_thread")]
async fn r26_spec_is_accepted_under_its_contract_and_refused_with_the_place_before_it_is_written() {
    let database = Postgres::shared().database().await;
    let client = database.connect().await;
    let place = place(database.url(), SERVER);
    push(&place);
    let (running, address) = serve(&place);
    let broken = [
        (changed("/constraints/min_regions", json!(0)), "/constraints/min_regions"),
        (changed("/constraints/regions", json!("US")), "/constraints/regions"),
        (changed("/questions/1", json!({ "id": "identity_basic" })), "/questions/1"),
        (changed("/jobspec_id", json!(7)), "/jobspec_id"),
        (changed("/jobspec_id", Value::Null), "jobspec_id"),
        (changed("/benchmark", Value::Null), "benchmark"),
        (json!({ "payload": spec() }), "jobspec_id"),
    ];
    for (payload, at) in &broken {
        for kind in ["jobs", "messages"] {
            let (status, problem) = submit(&address, kind, "1", payload);
            assert_eq!((status, &problem["code"]), (422, &json!("contract-broken")), "{problem}");
            assert_eq!(problem["field"], "payload");
            assert!(problem["detail"].as_str().unwrap().contains(at), "{at}: {problem}");
        }
    }
    let (status, problem) = submit(&address, "jobs", "2", &spec());
    assert_eq!((status, &problem["code"]), (422, &json!("contract-broken")), "{problem}");
    assert_eq!(written(&client).await, (0, 0));
    let (status, accepted) = submit(&address, "jobs", "1", &spec());
    assert_eq!((status, &accepted["status"]), (202, &json!("created")), "{accepted}");
    assert_eq!(accepted["id"], accepted["jobspec_id"]);
    assert_eq!(written(&client).await, (1, 1));
    let id = accepted["id"].as_str().unwrap();
    let job = ask(&address, "GET", &format!("/api/v1/jobs/{id}"), "", "").1;
    assert_eq!((&job["status"], &job["payload"]), (&json!("created"), &spec()), "{job}");
    ends(running);
}

/// Serves what has tried to read the contracts, and could not.
fn serve_without_contracts(place: &Place) -> (Running, String) {
    let running = place.start(&["serve"]);
    let log = running.log.until("the server listens");
    let is_away = |line: &String| line.contains("contracts stay as they are");
    if !log.iter().any(is_away) {
        running.log.until("contracts stay as they are");
    }
    (running, address_in(&log, "the server listens"))
}

#[test]
fn r26_submission_is_held_to_contracts_that_could_not_be_read_at_the_start() {
    let postgres = Postgres::start();
    let place = place(&postgres.url("postgres"), &format!("{SERVER}{SELDOM}"));
    push(&place);
    postgres.stop();
    let (running, address) = serve_without_contracts(&place);
    let (status, problem) = submit(&address, "jobs", "1", &spec());
    assert_eq!((status, &problem["code"]), (503, &json!("database-unavailable")), "{problem}");
    postgres.restart();
    let broken = changed("/constraints/min_regions", json!(0));
    for kind in ["jobs", "messages"] {
        let mut answer = (503, Value::Null);
        eventually("an answer", LIMIT, || {
            answer = submit(&address, kind, "1", &broken);
            answer.0 != 503
        });
        assert_eq!((answer.0, &answer.1["code"]), (422, &json!("contract-broken")), "{answer:?}");
    }
    assert_eq!(submit(&address, "jobs", "1", &spec()).0, 202);
    ends(running);
}

/// A job that breaks its contract, in the queue of a worker: it was on its way before there was one.
fn queued(url: &str) -> (Place, String) {
    let redis = Redis::shared();
    let list = format!(
        "kind = \"redis-list\"\nurl = \"{}\"\nlist = \"{}jobs\"\n",
        redis.url(),
        redis.prefix()
    );
    let place = place(
        url,
        &format!(
            "{SERVER}{SELDOM}[workers.post.handlers.run]\ntopics = [\"{TOPIC}\"]\ncommand = [\"./handler.sh\"]\n\
             [workers.post.source]\n{list}[subscriptions.jobs.sink]\n{list}format = \"envelope\"\n"
        ),
    );
    let path = place.write("handler.sh", "#!/bin/sh\n: > ran\n");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let broken = changed("/constraints/min_regions", json!(0)).to_string();
    let arguments = ["jobs", "submit", TOPIC, "--json-payload", &broken];
    let arguments = [&arguments[..], &["--header", "posthaste-contract=1"]].concat();
    let job = place.run(&arguments).succeeds().objects().remove(0);
    place.run(&["relay", "--once"]).succeeds();
    push(&place);
    (place, job["id"].as_str().unwrap().to_owned())
}

fn show(place: &Place, id: &str) -> Value {
    place.run(&["jobs", "show", id]).succeeds().objects().remove(0)
}

/// It is refused at the worker, and not run.
fn is_refused(place: &Place, id: &str) {
    let is_over = || !show(place, id)["finished_at"].is_null();
    eventually("the job to be over", LIMIT, is_over);
    let job = show(place, id);
    assert_eq!(job["state"], "dead", "{job}");
    assert!(job["reason"].as_str().unwrap().contains("/constraints/min_regions"), "{job}");
    assert!(!place.path().join("ran").exists());
}

#[test]
fn r31_job_is_held_to_contracts_that_could_not_be_read_at_the_start() {
    let postgres = Postgres::start();
    let (place, id) = queued(&postgres.url("postgres"));
    postgres.stop();
    let (running, _) = serve_without_contracts(&place);
    postgres.restart();
    is_refused(&place, &id);
    ends(running);
}

#[tokio::test(flavor = "multi_thread")]
async fn r31_worker_begins_nothing_before_it_has_read_the_contracts() {
    let database = Postgres::shared().database().await;
    let (place, id) = queued(database.url());
    let (holder, client) = (database.connect().await, database.connect().await);
    let lock = "begin; lock table posthaste.contract in access exclusive mode";
    holder.batch_execute(lock).await.unwrap();
    let worker = place.start(&["worker"]);
    waits_for_a_lock(&client).await;
    // Far longer than a worker needs to take it.
    for _ in 0..20 {
        assert_eq!(show(&place, &id)["state"], "queued");
    }
    holder.batch_execute("commit").await.unwrap();
    is_refused(&place, &id);
    ends(worker);
}
