//! R17: the parts of `posthaste serve` that are switched off do not run, and the others do.

use std::{ffi::OsString, fs, io::Read as _, os::unix::fs::PermissionsExt as _, time::Duration};

use posthaste_testkit::eventually;
use serde_json::{Value, json};

use crate::{
    harness::{Lines, Place, Running},
    serve::{address_of, ask, ends, serve},
};

const LIMIT: Duration = Duration::from_mins(1);
const PARTS: &str = "[workers.post.handlers.mail]\ntopics = [\"mail\"]\ncommand = [\"./handler.sh\"]\n\
                     [subscriptions.orders]\ntopics = [\"orders.*\"]\n[subscriptions.orders.sink]\nkind = \"stdout\"\n";

/// A place with a migrated file, a worker, a subscription to stdout, and these settings of the server and what follows.
fn place(settings: &str) -> Place {
    let place = Place::new();
    configure(&place, settings);
    let path = place.write("handler.sh", "#!/bin/sh\n: > ran\ncat\n");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    place.run(&["migrate"]).succeeds();
    place
}

fn configure(place: &Place, settings: &str) {
    let text = format!(
        "[database]\nurl = \"sqlite:log.db\"\n{PARTS}[server]\nlisten = \"127.0.0.1:0\"\n{settings}"
    );
    place.write("posthaste.toml", &text);
}

fn get(address: &str, path: &str) -> Value {
    ask(address, "GET", path, "", "").1
}

fn submit(address: &str, kind: &str, topic: &str) -> String {
    let body = json!({ "topic": topic, "payload": { "to": 7 } }).to_string();
    let (status, accepted) = ask(address, "POST", &format!("/api/v1/{kind}"), "", &body);
    assert_eq!(status, 202, "{accepted}");
    accepted["id"].as_str().expect("an id").to_owned()
}

fn is_completed(address: &str, id: &str) {
    let status = || get(address, &format!("/api/v1/jobs/{id}"))["status"].clone();
    eventually("the job to be completed", LIMIT, || status() == "completed");
}

fn subscriptions(address: &str) -> Vec<String> {
    let list = get(address, "/api/v1/subscriptions");
    let name = |it: &Value| it["name"].as_str().unwrap().to_owned();
    list["subscriptions"].as_array().unwrap().iter().map(name).collect()
}

/// Jobs run, and what the relay would have published by then is published by nobody but one that stands alone.
fn only_the_worker_runs(settings: &str, variables: &[(&str, OsString)]) {
    let place = place(settings);
    let mut running = place.start_in(&["serve"], variables);
    let address = address_of(&running);
    let mut published = running.stdout();
    submit(&address, "messages", "orders.new");
    let id = submit(&address, "jobs", "mail");
    is_completed(&address, &id);
    is_completed(&address, &submit(&address, "jobs", "mail"));
    assert_eq!(subscriptions(&address), ["post"], "nobody has created the other");
    ends(running);
    let mut printed = String::new();
    published.read_to_string(&mut printed).unwrap();
    assert_eq!(printed, "");
    assert_eq!(place.run(&["relay", "--once"]).succeeds().objects().len(), 1);
}

#[test]
fn r17_server_without_its_relay_runs_jobs_and_publishes_nothing() {
    only_the_worker_runs("relay = false\n", &[]);
}

#[test]
fn r17_relay_that_is_not_enabled_does_not_start_with_the_server() {
    only_the_worker_runs("[relay]\nenabled = false\n", &[]);
}

#[test]
fn r17_relay_is_switched_off_by_the_environment() {
    only_the_worker_runs("relay = true\n", &[("POSTHASTE_SERVER__RELAY", "false".into())]);
}

#[test]
fn r17_server_without_its_workers_publishes_and_runs_no_job() {
    let place = place("workers = false\n");
    let (mut running, address) = serve(&place);
    let published = Lines::of(running.stdout());
    let id = submit(&address, "jobs", "mail");
    for n in ["orders.first", "orders.second"] {
        submit(&address, "messages", n);
        let line: Value = serde_json::from_str(&published.next()).unwrap();
        assert_eq!(line["topic"], n, "{line}");
    }
    assert_eq!(subscriptions(&address), ["orders"]);
    assert_eq!(get(&address, "/health/deep")["parts"]["workers"], json!([]));
    assert_eq!(get(&address, &format!("/api/v1/jobs/{id}"))["status"], "created");
    ends(running);
    assert!(!place.path().join("ran").exists());
    configure(&place, "");
    let (running, address) = serve(&place);
    is_completed(&address, &id);
    assert!(place.path().join("ran").exists());
    ends(running);
}

#[test]
fn r17_parts_that_are_switched_off_do_not_run() {
    let place = place("relay = false\nworkers = false\n");
    let (running, address) = serve(&place);
    let id = submit(&address, "jobs", "mail");
    let (status, deep) = ask(&address, "GET", "/health/deep", "", "");
    assert_eq!(
        (status, &deep["parts"]["relay"], &deep["parts"]["workers"]),
        (200, &json!(null), &json!([]))
    );
    assert_eq!(subscriptions(&address), [""; 0], "nobody has created them");
    assert_eq!(get(&address, &format!("/api/v1/jobs/{id}"))["status"], "created");
    ends(running);
    assert!(!place.path().join("ran").exists());
    let running: Running = place.start(&["relay"]);
    running.log.until("relay starts");
}
