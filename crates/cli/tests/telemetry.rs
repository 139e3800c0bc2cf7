//! The relay's own listener and its log lines, as operators and their machines see them.

use std::time::Duration;

use posthaste_testkit::{Redis, RedisAuth, RedisOptions, eventually, exposition::Scrape};
use serde_json::{Value, json};

use crate::{
    harness::{Lines, Place, Running, deserted_port, get},
    serve::{ask, serve},
};

const LIMIT: Duration = Duration::from_secs(30);
const LISTEN: &str = "[telemetry]\nlisten = \"127.0.0.1:0\"\ninterval = \"1s\"\n";

/// The address that a relay says it listens on.
fn address(relay: &Running) -> String {
    let log = relay.log.until("metrics and health are served");
    let line: Value = serde_json::from_str(log.last().expect("it was read")).unwrap();
    line["address"].as_str().expect("an address").to_owned()
}

fn json(address: &str, path: &str) -> (u16, Value) {
    let (status, body) = get(address, path).expect("it listens");
    (status, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body:?}")))
}

fn scrape(address: &str) -> Scrape {
    let (status, body) = get(address, "/metrics").expect("it listens");
    assert_eq!(status, 200);
    Scrape::parse(&body)
}

#[test]
fn r38_relay_serves_metrics_and_health_until_it_is_drained() {
    let place = Place::migrated(LISTEN);
    place.run(&["enqueue", "orders", "--count", "5"]).succeeds();
    let mut relay = place.start(&["relay"]);
    let address = address(&relay);
    let published = Lines::of(relay.stdout());
    published.until("\"position\":5,");
    let orders = [("subscription", "orders")];
    let is_told = || {
        let told = scrape(&address);
        told.find("posthaste_published_messages_total", &orders) == Some(5.0)
            && told.find("posthaste_backlog_messages", &orders) == Some(0.0)
    };
    eventually("five published messages and no backlog", LIMIT, is_told);
    let (status, ready) = json(&address, "/readyz");
    assert_eq!((status, &ready["ready"]), (200, &Value::Bool(true)), "{ready}");
    assert_eq!(ready["subscriptions"][0]["state"], "running");
    assert_eq!(json(&address, "/livez").0, 200);
    assert_eq!(get(&address, "/").unwrap().0, 404);
    relay.signal("TERM");
    assert_eq!(relay.ends().0, Some(0));
    assert_eq!(get(&address, "/livez"), None, "it ends with the relay");
}

#[test]
fn relay_that_waits_for_its_database_is_alive_and_not_ready() {
    let place = Place::with(&format!(
        "[database]\nurl = \"postgres://me@127.0.0.1:{}/db\"\npassword = \"hunter2\"\n\
         [subscriptions.a.sink]\nkind = \"stdout\"\n{LISTEN}",
        deserted_port()
    ));
    let mut relay = place.start(&["relay"]);
    let address = address(&relay);
    relay.log.until("database is away");
    let (status, ready) = json(&address, "/readyz");
    assert_eq!((status, &ready["ready"]), (503, &Value::Bool(false)), "{ready}");
    assert_eq!(ready["subscriptions"][0]["name"], "a");
    assert_eq!(ready["subscriptions"][0]["reason"], "not acquired yet");
    assert_eq!(json(&address, "/livez").0, 200);
    let is_counted = || {
        let told = scrape(&address);
        assert_eq!(told.find("posthaste_log_messages", &[]), None);
        told.value("posthaste_database_errors_total", &[("class", "unavailable")]) > 0.0
    };
    eventually("a counted error", LIMIT, is_counted);
    relay.signal("TERM");
    assert_eq!(relay.ends().0, Some(0));
}

#[test]
fn sink_that_is_away_leaves_the_relay_ready_and_one_that_refuses_it_does_not() {
    let auth = RedisAuth::Password("hunter2".to_owned());
    let strict = Redis::start_with(RedisOptions { auth, ..RedisOptions::default() });
    let (away, port) = (deserted_port(), strict.port());
    let sink =
        |port| format!("kind = \"redis-stream\"\nurl = \"redis://:swordfish@127.0.0.1:{port}\"\n");
    let place = Place::migrated(&format!(
        "[subscriptions.away.sink]\n{}[subscriptions.refused.sink]\n{}{LISTEN}\
         [relay.retry]\ncap = \"100ms\"\n",
        sink(away),
        sink(port)
    ));
    place.run(&["enqueue", "orders"]).succeeds();
    let mut relay = place.start(&["relay"]);
    let address = address(&relay);
    let state = |nth: usize| json(&address, "/readyz").1["subscriptions"][nth]["state"].clone();
    eventually("one that backs off", LIMIT, || state(0) == "backing_off");
    eventually("one that runs", LIMIT, || {
        json(&address, "/readyz").1["subscriptions"][1]["ready"] == true
    });
    eventually("one that has stopped", LIMIT, || state(2) == "stopped");
    let (status, ready) = json(&address, "/readyz");
    let [away, orders, refused] = [0, 1, 2].map(|nth| &ready["subscriptions"][nth]);
    assert_eq!((status, &ready["ready"]), (503, &Value::Bool(false)), "{ready}");
    assert_eq!((&away["ready"], &orders["ready"]), (&true.into(), &true.into()), "{ready}");
    assert_eq!((&refused["name"], &refused["ready"]), (&"refused".into(), &false.into()));
    let reason = refused["reason"].as_str().expect("a reason");
    assert!(reason.contains("check user, password"), "{reason}");
    assert!(!ready.to_string().contains("swordfish"), "{ready}");
    let told = scrape(&address);
    let errors = |name, class| {
        told.value("posthaste_publish_errors_total", &[("subscription", name), ("class", class)])
    };
    assert!(errors("away", "unavailable") > 0.0);
    assert_eq!((errors("refused", "authentication"), errors("orders", "unavailable")), (1.0, 0.0));
    relay.signal("TERM");
    assert_eq!(relay.ends().0, Some(1), "a subscription had stopped");
}

#[test]
fn address_that_cannot_be_listened_on_is_named_with_the_remedy() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().map(|address| (taken, address)).unwrap();
    let place = Place::migrated(&format!("[telemetry]\nlisten = \"{}\"\n", taken.1));
    let ran = place.run(&["relay"]).fails(1);
    let expected = format!("error: telemetry.listen = \"{}\" cannot be listened on; ", taken.1);
    assert!(ran.stderr.contains(&expected), "{ran:#?}");
    assert!(ran.stderr.contains("a free port\n  caused by: "), "{ran:#?}");
    // One pass needs no listener, and may run beside the relay that has it.
    place.run(&["relay", "--once"]).succeeds();
}

#[test]
fn metrics_reference_is_printed_without_a_configuration() {
    let page = Place::with("nonsense").run(&["metrics", "reference"]).succeeds().stdout;
    assert!(page.starts_with("# Metrics\n") && page.contains("posthaste_backlog_messages"));
}

/// A message without the header that its stream is named by is rejected.
#[test]
fn r42_log_lines_carry_subscription_message_and_correlation_ids_and_no_payload() {
    let prefix = Redis::shared().prefix();
    let place = Place::with(&format!(
        "[database]\nurl = \"sqlite:log.db\"\n\
         [subscriptions.orders.sink]\nkind = \"redis-stream\"\nurl = \"{}\"\n\
         stream = \"{prefix}{{header:shop}}\"\n\
         [subscriptions.orders.failure]\nattempts = 2\nretry = {{ initial = \"10ms\", cap = \"50ms\" }}\n\
         [log]\nlevel = \"info,posthaste_relay=debug\"\n",
        Redis::shared().url()
    ));
    place.run(&["migrate"]).succeeds();
    let text = ["enqueue", "orders", "--text", "hunter2", "--key", "customer-hunter2"];
    let written =
        place.run(&[&text[..], &["--correlation-id", "request-7", "--json"]].concat()).succeeds();
    let mut relay = place.start(&["relay"]);
    let mut log = relay.log.until("message is a dead letter");
    relay.signal("TERM");
    let (code, rest) = relay.ends();
    log.extend(rest);
    assert_eq!(code, Some(0), "{log:#?}");
    assert!(log.iter().all(|line| !line.contains("hunter2")), "{log:#?}");

    let lines: Vec<Value> = log.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let about: Vec<&Value> = lines.iter().filter(|line| line.get("message_id").is_some()).collect();
    let said: Vec<_> = about
        .iter()
        .map(|line| {
            let text = |name: &str| line[name].as_str().unwrap_or_default();
            (text("level"), text("message"), line["attempts"].as_u64().unwrap_or_default())
        })
        .collect();
    let aside = "message is set aside until its next attempt";
    let dead = "message is a dead letter";
    assert_eq!(said, [("DEBUG", aside, 1), ("WARN", dead, 2)], "{log:#?}");
    for line in about {
        assert_eq!(line["correlation_id"], "request-7");
        assert_eq!(line["subscription"], "orders");
        assert!(line["reason"].as_str().unwrap().contains("it has no header"), "{line}");
        let id = line["message_id"].as_str().unwrap();
        assert!(written.stdout.contains(id), "{id} is not in {written:#?}");
    }
    // Every line about a subscription names it.
    let of_relay = |line: &&Value| line["target"] == "posthaste_relay::monitor";
    assert!(lines.iter().filter(of_relay).all(|line| line["subscription"] == "orders"), "{log:#?}");
}

/// Two jobs on their way: one that is done, and one whose handler refuses it.
#[test]
fn r42_correlation_id_stands_in_the_lines_of_server_relay_and_worker_and_no_payload() {
    let levels = ["server", "relay", "worker"].map(|part| format!(",posthaste_{part}=debug"));
    let place = Place::with(&format!(
        "[database]\nurl = \"sqlite:log.db\"\n[server]\nlisten = \"127.0.0.1:0\"\n\
         [workers.post.handlers.mail]\ntopics = [\"mail\"]\ncommand = [\"true\"]\n\
         [workers.post.handlers.fail]\ntopics = [\"fail\"]\ncommand = [\"sh\", \"-c\", \"exit 65\"]\n\
         [log]\nlevel = \"info{}\"\n",
        levels.concat()
    ));
    place.run(&["migrate"]).succeeds();
    let (mut running, address) = serve(&place);
    let submit = |topic: &str, request: &str| {
        let body = json!({
            "topic": topic, "key": "customer-hunter2", "correlation_id": format!("order-{topic}"),
            "payload": { "password": "hunter2" }
        });
        let more = format!("x-request-id: {request}\r\n");
        let (status, accepted) = ask(&address, "POST", "/api/v1/jobs", &more, &body.to_string());
        assert_eq!(status, 202, "{accepted}");
        accepted["id"].as_str().expect("an id").to_owned()
    };
    let id = submit("mail", "request-1");
    let mut log = running.log.until("\"message\":\"done\"");
    let refused = submit("fail", "request-2");
    log.extend(running.log.until("the job is dead"));
    running.signal("TERM");
    let (code, rest) = running.ends();
    log.extend(rest);
    assert_eq!(code, Some(0), "{log:#?}");
    assert!(log.iter().all(|line| !line.contains("hunter2")), "{log:#?}");

    let lines: Vec<Value> = log.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (topic, job, request) in [("mail", &id, "request-1"), ("fail", &refused, "request-2")] {
        let correlation_id = format!("order-{topic}");
        let about = |part: &str| {
            let target = format!("posthaste_{part}");
            let is_about = |line: &&Value| {
                line["target"].as_str().is_some_and(|it| it.starts_with(&target))
                    && line.to_string().contains(&correlation_id)
            };
            lines.iter().filter(is_about).collect::<Vec<_>>()
        };
        let server = about("server");
        let said: Vec<_> = server.iter().map(|line| line["message"].as_str().unwrap()).collect();
        assert_eq!(said, ["a job is committed", "answered"], "{log:#?}");
        assert!(server.iter().all(|line| line["span"]["request_id"] == request), "{server:#?}");
        assert_eq!(server[0]["job"], **job);
        let relay = about("relay");
        assert_eq!(relay.len(), 1, "{log:#?}");
        assert_eq!(relay[0]["message"], "message is published");
        let worker = about("worker");
        let (attempt, ends) = worker.split_first().unwrap();
        assert_eq!(attempt["span"]["job"], **job, "{worker:#?}");
        assert_eq!(attempt["span"]["message_id"], relay[0]["message_id"], "{worker:#?}");
        let is_of_job = |line: &&Value| line["job"] == **job && line["attempt"] == 1;
        assert!(ends.iter().all(is_of_job), "{worker:#?}");
        assert_eq!(ends.len(), usize::from(topic == "fail"), "{worker:#?}");
    }
}

#[test]
fn r42_refusal_has_its_request_id_in_log_and_answer_whatever_the_level() {
    let port = deserted_port();
    let place = Place::with(&format!(
        "[database]\nurl = \"postgres://me@127.0.0.1:{port}/db\"\noperation_timeout = \"1s\"\n\
         [server]\nlisten = \"127.0.0.1:0\"\nrelay = false\n[log]\nlevel = \"warn,posthaste::commands=info\"\n"
    ));
    let (mut running, address) = serve(&place);
    for request in ["request-1", "request-2"] {
        let more = format!("x-request-id: {request}\r\n");
        let (status, problem) = ask(&address, "GET", "/api/v1/jobs", &more, "");
        assert_eq!((status, &problem["request_id"]), (503, &request.into()), "{problem}");
        let log = running.log.until("the database did not do it");
        let line: Value = serde_json::from_str(log.last().unwrap()).unwrap();
        assert_eq!(line["span"]["request_id"], request, "{line}");
    }
    running.signal("TERM");
    running.ends();
}
