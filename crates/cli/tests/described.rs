//! The API is called in every way that its description allows, and in ways that it does not, by schemathesis: over
//! all operations, with what is there and what is not. No request is answered with a fault of the server, or with
//! anything that the description does not tell.
//!
//! The same requests every time, but for the ids and times that the log makes.
//! `POSTHASTE_API_EXAMPLES=1000 POSTHASTE_API_SEED=7` makes others, and more of them.

use std::{
    collections::BTreeMap,
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use posthaste_testkit::{Postgres, Redis, eventually, python};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::{
    harness::Place,
    serve::{ask, ends, serve},
};

const LIMIT: Duration = Duration::from_mins(1);
/// Requests that are made up for each operation, beside those that its bounds suggest.
const EXAMPLES: &str = "50";
/// Seconds after which the tool is given up; far above what these examples take.
const TOOL_LIMIT: u64 = 1_200;
const LATER: &str = "2099-01-01T00:00:00Z";
const MACHINE: &str = "name = \"order\"\nstates = [\"new\", \"paid\", \"sent\"]\ninitial = [\"new\"]\nterminal = [\"sent\"]\n\
                       [[transitions]]\nfrom = \"new\"\nto = \"paid\"\n[[transitions]]\nfrom = \"paid\"\nto = \"new\"\n\
                       [[transitions]]\nfrom = \"paid\"\nto = \"sent\"\nrequires = [\"by\"]\n";
/// What need not have done what it is for.
const NEVER_DONE: [&str; 2] = [
    // Fetched at first, to learn of the others.
    "GET /api/v1/openapi.json",
    // With so few messages they are over before anybody can cancel them.
    "POST /api/v1/operations/{id}/cancel",
];
/// The same where a relay holds all subscriptions; and where none runs, of which this says that it is not well.
const NEVER_DONE_WITH_RELAY: [&str; 1] = ["POST /api/v1/subscriptions/{name}/rewind"];
const NEVER_DONE_WITHOUT: [&str; 2] = ["GET /api/health/outbox", "GET /api/v1/metrics/health"];

#[test]
fn r51_every_answer_is_described_where_all_is_in_one_process() {
    let server = Server::new("sqlite:log.db");
    let log = Connection::open(server.place.path().join("log.db")).unwrap();
    log.execute_batch(
        "insert into posthaste_entity (machine, entity_id, state) values ('order', 'e1', 'new'), ('order', 'e/2', 'paid'); \
         insert into posthaste_state_event (machine, entity_id, version, id, to_state, metadata) \
         values ('order', 'e1', 1, randomblob(16), 'new', '{\"n\": 1}')",
    )
    .unwrap();
    drop(log);
    let (running, address) = serve(&server.place);
    let seeds = server.stock(&address);
    server.is_called(&address, &seeds, &NEVER_DONE_WITH_RELAY);
    has_no_fault(&ends(running));
}

/// Nothing holds a subscription here, so that they can be moved.
#[tokio::test]
async fn r51_every_answer_is_described_where_relay_and_workers_run_elsewhere() {
    let database = Postgres::shared().database().await;
    let server = Server::new(database.url());
    let client = database.connect().await;
    for entity in ["e1", "e/2"] {
        let start = "select posthaste.start_machine('order', $1, 'new')";
        client.execute(start, &[&entity]).await.unwrap();
    }
    let (running, address) = serve(&server.place);
    let seeds = server.stock(&address);
    ends(running);
    server.configure("relay = false\nworkers = false\n");
    let (running, address) = serve(&server.place);
    server.is_called(&address, &seeds, &NEVER_DONE_WITHOUT);
    has_no_fault(&ends(running));
}

/// What goes on in the background answers nobody: its faults are in the server's log alone.
fn has_no_fault(log: &[String]) {
    let is_fault = |line: &&String| {
        line.contains(r#""level":"ERROR""#) && line.contains(r#""target":"posthaste_server"#)
    };
    let faults: Vec<&String> = log.iter().filter(is_fault).collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

/// What there is in the log, by the name of its list: for parameters of paths.
type Seeds = BTreeMap<&'static str, Vec<String>>;

struct Server {
    place: Place,
    url: String,
    streams: String,
    secret: String,
    token: String,
}

impl Server {
    /// A migrated log with a contract and a machine.
    fn new(url: &str) -> Self {
        let place = Place::new();
        let made = place.run(&["tokens", "new", "fuzz", "--scopes", "admin"]).succeeds().objects();
        let text = |name: &str| made[0][name].as_str().unwrap().to_owned();
        let streams = Redis::shared().prefix();
        let server = Self {
            place,
            url: url.to_owned(),
            streams,
            secret: text("secret"),
            token: text("toml"),
        };
        server.configure("");
        for (name, ends) in [("mail.sh", "cat"), ("spoil.sh", "cat > /dev/null\nexit 65")] {
            let path = server.place.write(name, &format!("#!/bin/sh\n{ends}\n"));
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::create_dir_all(server.place.path().join("contracts/bills")).unwrap();
        server
            .place
            .write("contracts/bills/v1.json", r#"{"type": "object", "required": ["bill"]}"#);
        server.place.write("order.toml", MACHINE);
        server.place.run(&["migrate"]).succeeds();
        server.place.run(&["contracts", "push", "contracts"]).succeeds();
        server.place.run(&["machines", "push", "order.toml"]).succeeds();
        server
    }

    fn configure(&self, server: &str) {
        let redis = Redis::shared().url();
        let stream = |name: &str, topics: &str, policy: &str, stream: &str| {
            format!(
                "[subscriptions.{name}]\ntopics = [\"{topics}\"]\nfailure = {{ {policy} }}\n\
                 [subscriptions.{name}.sink]\nkind = \"redis-stream\"\nurl = \"{redis}\"\n\
                 stream = \"{}{stream}\"\n",
                self.streams
            )
        };
        // Messages without a header `tenant` are rejected.
        let dead = stream(
            "orders",
            "orders.*",
            "policy = \"dead-letter\", attempts = 1",
            "{header:tenant}",
        );
        let parked = stream(
            "parcels",
            "parcels.*",
            "policy = \"park-key\", attempts = 1000",
            "{header:tenant}",
        );
        let handlers = ["mail", "spoil"].map(|name| {
            format!("[workers.post.handlers.{name}]\ntopics = [\"{name}\"]\ncommand = [\"./{name}.sh\"]\n")
        });
        self.place.write(
            "posthaste.toml",
            &format!(
                "[database]\nurl = \"{}\"\n[log]\nlevel = \"warn,posthaste::commands=info\"\n[server]\nlisten = \"127.0.0.1:0\"\n{server}{}\n{dead}{parked}{}",
                self.url, self.token, handlers.concat()
            ),
        );
    }

    fn ask(&self, address: &str, method: &str, path: &str, body: &Value) -> Value {
        let token = format!("authorization: Bearer {}\r\n", self.secret);
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let (status, answer) = ask(address, method, &format!("/api/v1/{path}"), &token, &text);
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Messages, jobs and dead letters in all their states.
    fn stock(&self, address: &str) -> Seeds {
        let get = |path: &str| self.ask(address, "GET", path, &Value::Null);
        let post = |path: &str, body: Value| self.ask(address, "POST", path, &body);
        let count = |path: &str, list: &str| get(path)[list].as_array().unwrap().len();
        for n in 0..120 {
            let headers = if n < 20 { json!({ "tenant": "acme" }) } else { json!({}) };
            post(
                "messages",
                json!({ "topic": "orders.created", "key": format!("k{}", n % 7), "headers": headers, "payload": n }),
            );
        }
        for n in 0..5 {
            post(
                "messages",
                json!({ "topic": "parcels.sent", "key": format!("k{}", n % 2), "payload_base64": "AP8=" }),
            );
            post(
                "messages",
                json!({ "topic": "orders.planned", "payload": n, "deliver_at": LATER }),
            );
            for topic in ["mail", "mail", "spoil", "nobody"] {
                post(
                    "jobs",
                    json!({ "topic": topic, "key": format!("{topic}{n}"), "payload": { "n": n } }),
                );
            }
            post("jobs", json!({ "topic": "mail", "payload": n, "deliver_at": LATER }));
            let id = post("jobs", json!({ "topic": "nobody", "payload": n }))["id"].clone();
            post(&format!("jobs/{}/cancel", id.as_str().unwrap()), json!({}));
        }
        eventually("100 dead letters", LIMIT, || {
            count("dead-letters?limit=200", "dead_letters") == 100
        });
        eventually("5 parked messages", LIMIT, || count("messages?state=parked", "messages") == 5);
        eventually("10 completed jobs", LIMIT, || count("jobs?state=completed", "jobs") == 10);
        eventually("5 dead jobs", LIMIT, || count("jobs?state=dead", "jobs") == 5);
        post("dead-letters/discard", json!({ "key": "k6" }));
        let is_done = || get("operations")["operations"][0]["state"] == "done";
        eventually("the operation to be done", LIMIT, is_done);
        let ids = |list: &str, field: &str| {
            let page = get(&format!("{list}limit=200"));
            let entries = page[field].as_array().unwrap();
            entries.iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        BTreeMap::from([
            ("jobs", ids("jobs?", "jobs")),
            ("waiting", ids("jobs?state=scheduled&", "jobs")),
            ("dead", ids("jobs?state=dead&", "jobs")),
            ("messages", ids("messages?", "messages")),
            ("planned", ids("messages?state=scheduled&topic=orders.*&", "messages")),
            ("letters", ids("dead-letters?", "dead_letters")),
            ("operations", ids("operations?", "operations")),
        ])
    }

    /// Calls it, and looks at what came of that.
    fn is_called(&self, address: &str, seeds: &Seeds, never_done: &[&str]) {
        let tool = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/openapi"));
        let python = python::environment(&tool.join("requirements.txt")).unwrap();
        let settings = fs::read_to_string(tool.join("schemathesis.toml")).unwrap();
        let settings = format!(
            "hooks = \"{}\"\n{settings}\n{}\n[auth.openapi.token]\nbearer = {:?}\n",
            tool.join("hooks.py").display(),
            known(seeds),
            self.secret
        );
        let settings = self.place.write("schemathesis.toml", &settings);
        let answers = self.place.path().join("answers.json");
        // Interrupted, it says what it has found so far.
        let ran = Command::new("timeout")
            .args(["--signal=INT", "--kill-after=30", &TOOL_LIMIT.to_string()])
            .arg(python)
            .args(arguments(&settings, address))
            .current_dir(self.place.path())
            .env_clear()
            .env("PATH", env::var_os("PATH").unwrap_or_default())
            .env("POSTHASTE_ANSWERS", &answers)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success(), "{told}\n{}", String::from_utf8_lossy(&ran.stderr));
        check_answers(&answers, never_done);
    }
}

fn arguments(settings: &Path, address: &str) -> Vec<String> {
    let examples = env::var("POSTHASTE_API_EXAMPLES").unwrap_or_else(|_| EXAMPLES.to_owned());
    let seed = match env::var("POSTHASTE_API_SEED") {
        Ok(seed) => vec!["--seed".to_owned(), seed],
        Err(_unset) => vec!["--generation-deterministic".to_owned()],
    };
    let settings = settings.display().to_string();
    let described = format!("http://{address}/api/v1/openapi.json");
    let fixed =
        ["-m", "schemathesis.cli", "--config-file", &settings, "run", &described, "--no-color"];
    let fixed = fixed.map(ToOwned::to_owned).into_iter();
    fixed.chain(["--max-examples".to_owned(), examples]).chain(seed).collect()
}

/// Where the parameters of paths come from, most of the time.
fn known(seeds: &Seeds) -> String {
    let names = [
        ("subscriptions", vec!["orders", "parcels", "post"]),
        ("rejecting", vec!["orders"]),
        ("machines", vec!["order"]),
        ("entities", vec!["e1", "e/2"]),
        ("states", vec!["new", "paid"]),
        ("topics", vec!["bills"]),
        ("places", vec!["beginning", "2026-01-01T00:00:00Z"]),
    ];
    let names =
        names.map(|(name, values)| (name, values.iter().map(ToString::to_string).collect()));
    let seeds = seeds.iter().map(|(name, ids)| (*name, ids.clone()));
    let lists = seeds
        .chain(names)
        .map(|(name, values)| format!("[dictionaries.{name}]\nvalues = {values:?}\n"));
    let of = |paths: &str, parameters: &[(&str, &str)]| {
        let bound = parameters.iter().map(|(parameter, list)| {
            format!(
                "parameters.\"{parameter}\" = {{ dictionary = \"{list}\", probability = 0.9 }}\n"
            )
        });
        format!(
            "[[operations]]\ninclude-path-regex = '^/api/v1/{paths}'\n{}",
            bound.collect::<String>()
        )
    };
    let bindings = [
        of("jobs/[^/]*$", &[("path.id", "jobs")]),
        of("jobs/[^/]*/cancel$", &[("path.id", "waiting")]),
        of("jobs/[^/]*/retry$", &[("path.id", "dead")]),
        of("messages/[^/]*$", &[("path.id", "messages")]),
        of("messages/[^/]*/cancel$", &[("path.id", "planned")]),
        of(
            "dead-letters/.subscription",
            &[("path.subscription", "rejecting"), ("path.id", "letters")],
        ),
        of("operations/", &[("path.id", "operations")]),
        of("subscriptions/[^/]*(/(pause|resume|replay))?$", &[("path.name", "subscriptions")]),
        of("subscriptions/[^/]*/rewind$", &[("path.name", "subscriptions"), ("body.to", "places")]),
        of("machines/.*[^n]$", &[("path.name", "machines"), ("path.id", "entities")]),
        of(
            "machines/.*/transition$",
            &[("path.name", "machines"), ("path.id", "entities"), ("body.to", "states")],
        ),
        of("contracts/", &[("path.topic", "topics")]),
    ];
    lists.chain(bindings).collect()
}

/// Every operation was called, and did what it is for at least once: refusals alone would show little.
fn check_answers(file: &PathBuf, never_done: &[&str]) {
    let answers: BTreeMap<String, BTreeMap<String, u64>> =
        serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    let description = include_str!("../../server/openapi.json");
    let description: Value = serde_json::from_str(description).unwrap();
    let paths = description["paths"].as_object().unwrap();
    for (path, item) in paths {
        for method in item.as_object().unwrap().keys() {
            let operation = format!("{} {path}", method.to_uppercase());
            let counts = answers.get(&operation);
            let is_done =
                counts.is_some_and(|counts| counts.keys().any(|status| status.starts_with('2')));
            let is_excused = NEVER_DONE.contains(&&*operation) || never_done.contains(&&*operation);
            assert!(is_done || is_excused, "{operation}: {counts:?}");
        }
    }
}
