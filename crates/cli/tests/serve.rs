//! `posthaste serve`: the server with relay and workers beside it; and the tokens that it asks for.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use posthaste_testkit::eventually;
use serde_json::{Value, json};

use crate::harness::{Lines, Place, Running, deserted_port};

const LIMIT: Duration = Duration::from_mins(1);
const SERVER: &str = "[server]\nlisten = \"127.0.0.1:0\"\n";
const WORKER: &str = "[workers.post.handlers.mail]\ntopics = [\"mail\"]\ncommand = [\"./handler.sh\"]\n\
                      [subscriptions.orders]\ntopics = [\"orders.*\"]\n[subscriptions.orders.sink]\nkind = \"stdout\"\n";

/// A place with a migrated file, a handler that repeats its task, and these settings.
fn place(settings: &str) -> Place {
    let place = Place::with(&format!("[database]\nurl = \"sqlite:log.db\"\n{settings}"));
    let path = place.write("handler.sh", "#!/bin/sh\ncat\n");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    place.run(&["migrate"]).succeeds();
    place
}

/// Starts it, and answers where it listens.
pub(crate) fn serve(place: &Place) -> (Running, String) {
    let running = place.start(&["serve"]);
    let address = address_of(&running);
    (running, address)
}

/// Where a server that has been started listens.
pub(crate) fn address_of(running: &Running) -> String {
    let log = running.log.until("the server listens");
    address_in(&log, "the server listens")
}

/// The address in the line of a log that says this.
pub(crate) fn address_in(log: &[String], text: &str) -> String {
    let line = log.iter().find(|line| line.contains(text)).expect("it was read");
    let line: Value = serde_json::from_str(line).unwrap();
    line["address"].as_str().expect("an address").to_owned()
}

pub(crate) fn ask(address: &str, method: &str, path: &str, more: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n{more}\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer within the limit");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|_| body.into()))
}

fn get(address: &str, path: &str) -> (u16, Value) {
    ask(address, "GET", path, "", "")
}

fn submit(address: &str, topic: &str) -> String {
    let body = json!({ "topic": topic, "payload": { "to": 7 } }).to_string();
    let (status, accepted) = ask(address, "POST", "/api/v1/jobs", "", &body);
    assert_eq!(status, 202, "{accepted}");
    accepted["id"].as_str().expect("an id").to_owned()
}

pub(crate) fn ends(mut running: Running) -> Vec<String> {
    running.signal("TERM");
    let (code, log) = running.ends();
    assert_eq!(code, Some(0), "{log:?}");
    log
}

#[test]
fn r26_job_runs_from_its_submission_over_http_to_its_receipt() {
    let place = place(&format!("{SERVER}{WORKER}"));
    let (running, address) = serve(&place);
    let id = submit(&address, "mail");
    let job = || get(&address, &format!("/api/v1/jobs/{id}")).1;
    eventually("the job to be completed", LIMIT, || job()["status"] == "completed");
    let job = job();
    assert_eq!(job["executions"][0]["worker"], "post", "{job}");
    assert_eq!(job["receipts"][0]["body"]["id"], id, "{job}");
    eventually("all parts to be ready", LIMIT, || get(&address, "/readyz").0 == 200);
    let (status, deep) = get(&address, "/health/deep");
    assert_eq!((status, &deep["parts"]["relay"]["ready"]), (200, &json!(true)), "{deep}");
    let published = || get(&address, "/api/health/outbox").1["statistics"]["processed"].clone();
    eventually("the relay to tell what it has published", LIMIT, || published() == 1);
    let (_, names) = get(&address, "/api/v1/subscriptions");
    let names: Vec<&Value> =
        names["subscriptions"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names, ["orders", "post"]);
    let metrics = get(&address, "/metrics").1;
    let metrics = metrics.as_str().unwrap();
    for name in [
        "posthaste_worker_tasks_completed_total",
        "posthaste_published_messages_total",
        "posthaste_http_requests_total{method=\"POST\",route=\"/api/v1/jobs\"",
    ] {
        assert!(metrics.contains(name), "{metrics}");
    }
    let log = ends(running);
    let at = |text: &str| log.iter().position(|line| line.contains(text));
    let (server, worker) = (at("the server ended"), at("the worker ended"));
    assert!(server.is_some() && server < worker, "the server goes first: {log:?}");
    assert!(at("everything ended").is_some(), "{log:?}");
}

#[test]
fn subscription_is_rewound_while_the_relay_beside_the_server_holds_it() {
    let place = place(&format!("{SERVER}workers = false\n{WORKER}"));
    let (mut running, address) = serve(&place);
    let published = Lines::of(running.stdout());
    let write = |n: u32| {
        let body = json!({ "topic": "orders.new", "payload": n }).to_string();
        assert_eq!(ask(&address, "POST", "/api/v1/messages", "", &body).0, 202);
    };
    let holder = || {
        let path = "/api/v1/subscriptions/orders/rewind";
        let seen = ask(&address, "POST", path, "", r#"{"to":"beginning","dry_run":true}"#).1;
        (seen["holder"].is_string(), seen["messages"].clone())
    };
    write(1);
    eventually("the first to be settled", LIMIT, || holder() == (true, json!(1)));
    let path = "/api/v1/subscriptions/orders/rewind";
    let (status, rewound) = ask(&address, "POST", path, "", r#"{"to":"beginning"}"#);
    assert_eq!((status, &rewound["messages"]), (200, &json!(1)), "{rewound}");
    write(2);
    eventually("both to be settled", LIMIT, || holder() == (true, json!(2)));
    place.run(&["subscriptions", "rewind", "orders", "--to", "beginning"]).succeeds();
    eventually("both to be settled again", LIMIT, || holder() == (true, json!(2)));
    for n in [1, 1, 2, 1, 2] {
        let line: Value = serde_json::from_str(&published.next()).unwrap();
        assert_eq!(line["payload"], n.to_string(), "{line}");
    }
    ends(running);
}

#[test]
fn server_alone_needs_no_subscription_and_no_worker() {
    let place = place(SERVER);
    let (running, address) = serve(&place);
    submit(&address, "mail");
    assert_eq!(get(&address, "/readyz").0, 200);
    ends(running);
}

#[test]
fn address_of_other_machines_without_tokens_is_one_clear_mistake() {
    let place = place("[server]\nlisten = \"0.0.0.0:0\"\n");
    let ran = place.run(&["serve"]).fails(2);
    for part in ["server.listen = \"0.0.0.0:0\"", "posthaste tokens new", "server.allow_anonymous"]
    {
        assert!(ran.stderr.contains(part), "{part}: {ran:#?}");
    }
}

#[test]
fn token_is_made_shown_once_and_asked_for() {
    let place = place(SERVER);
    let arguments = ["tokens", "new", "shop", "--scopes", "view,enqueue", "--topics", "mail,post"];
    let made = place.run(&arguments).succeeds().objects().remove(0);
    let (secret, table) = (made["secret"].as_str().unwrap(), made["toml"].as_str().unwrap());
    assert!(!table.contains(secret));
    let configuration = format!("[database]\nurl = \"sqlite:log.db\"\n{SERVER}{table}\n");
    place.write("posthaste.toml", &configuration);
    let (running, address) = serve(&place);
    let body = json!({ "topic": "mail", "payload": 1 }).to_string();
    let with = |header: &str| ask(&address, "POST", "/api/v1/jobs", header, &body).0;
    assert_eq!((with(""), with("authorization: Bearer posthaste_x\r\n")), (401, 401));
    assert_eq!(with(&format!("authorization: Bearer {secret}\r\n")), 202);
    assert_eq!(get(&address, "/livez").0, 200);
    let log = ends(running);
    assert!(!log.iter().any(|line| line.contains(secret)), "{log:?}");
    let shown = place.run(&["config", "show"]).succeeds();
    assert!(!shown.stdout.contains(table.split('"').nth(1).unwrap()), "{shown:#?}");
    place.run(&["tokens", "new", "Shop", "--scopes", "view"]).fails(2);
    place.run(&["tokens", "new", "loopback", "--scopes", "view"]).fails(2);
    let past = ["tokens", "new", "shop", "--scopes", "view", "--expires", "2020-01-01T00:00:00Z"];
    let ran = place.run(&past).fails(2);
    assert!(ran.stderr.contains("--expires 2020-01-01T00:00:00Z is past"), "{ran:#?}");
    place.run(&["tokens", "new", "shop", "--scopes", "root"]).fails(2);
}

const LISTENER: &str = "metrics and health are served";

#[test]
fn metrics_are_where_the_telemetry_listens_if_it_does() {
    let place = place(&format!("{SERVER}[telemetry]\nlisten = \"127.0.0.1:0\"\n"));
    let running = place.start(&["serve"]);
    let log = running.log.until("the server listens");
    let (status, problem) = get(&address_in(&log, "the server listens"), "/metrics");
    assert_eq!((status, &problem["code"]), (404, &json!("no-route")));
    assert_eq!(get(&address_in(&log, LISTENER), "/metrics").0, 200);
    ends(running);
}

#[test]
fn health_is_told_where_the_telemetry_listens_and_by_the_server() {
    let place = place(&format!("{SERVER}{WORKER}[telemetry]\nlisten = \"127.0.0.1:0\"\n"));
    let running = place.start(&["serve"]);
    let log = running.log.until("the server listens");
    for address in [address_in(&log, LISTENER), address_in(&log, "the server listens")] {
        assert_eq!(get(&address, "/livez").0, 200);
        eventually("all parts to be ready", LIMIT, || get(&address, "/readyz").0 == 200);
        assert_eq!(get(&address, "/readyz").1["ready"], true);
    }
    let parts = get(&address_in(&log, LISTENER), "/readyz").1;
    assert_eq!(parts["relay"]["ready"], true, "{parts}");
    assert_eq!(parts["workers"][0]["worker"], "post", "{parts}");
    assert_eq!(get(&address_in(&log, LISTENER), "/api/v1/jobs").0, 404, "it is no server");
    ends(running);
}

#[test]
fn process_without_its_database_is_alive_and_not_ready() {
    let place = Place::with(&format!(
        "[database]\nurl = \"postgres://nobody@127.0.0.1:{}/none\"\n{SERVER}{WORKER}\
         [telemetry]\nlisten = \"127.0.0.1:0\"\n",
        deserted_port()
    ));
    let running = place.start(&["serve"]);
    let log = running.log.until("the server listens");
    for address in [address_in(&log, LISTENER), address_in(&log, "the server listens")] {
        let (status, ready) = get(&address, "/readyz");
        assert_eq!((status, &ready["ready"]), (503, &json!(false)), "{ready}");
        assert_eq!(get(&address, "/livez").0, 200);
    }
    ends(running);
}

#[test]
fn database_without_a_schema_ends_all_parts_with_the_remedy() {
    let place = Place::with(&format!("[database]\nurl = \"sqlite:log.db\"\n{SERVER}"));
    place.write("log.db", "");
    let mut running = place.start(&["serve"]);
    let (code, log) = running.ends();
    assert_eq!(code, Some(4), "{log:?}");
    assert!(log.iter().any(|line| line.contains("posthaste migrate")), "{log:?}");
}

#[test]
fn log_lines_of_a_request_have_its_id_and_nothing_of_what_it_carries() {
    let place = place(&format!("{SERVER}[log]\nlevel = \"debug\"\n"));
    let (running, address) = serve(&place);
    let body = json!({ "topic": "mail", "payload": { "card": "4111-1111" }, "headers": { "pin": "0815" } });
    let more = "x-request-id: asked-7\r\nauthorization: Bearer hidden-token\r\nidempotency-key: my-key\r\n";
    assert_eq!(ask(&address, "POST", "/api/v1/jobs", more, &body.to_string()).0, 202);
    let mut log = running.log.until("\"answered\"");
    assert!(log.last().is_some_and(|line| line.contains("asked-7")), "{log:?}");
    log.extend(ends(running));
    for text in ["4111", "0815", "hidden-token", "my-key"] {
        assert!(!log.iter().any(|line| line.contains(text)), "{text}: {log:?}");
    }
}
