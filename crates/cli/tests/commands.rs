//! The commands from end to end on an embedded log.

use serde_json::{Value, json};

use crate::harness::Place;

fn positions(messages: &[Value]) -> Vec<i64> {
    messages.iter().filter_map(|it| it["position"].as_i64()).collect()
}

#[test]
fn dry_run_prints_the_sql_and_changes_nothing() {
    let place = Place::with("[database]\nurl = \"sqlite:log.db\"");
    let all = place.run(&["migrate", "--dry-run"]).succeeds().stdout;
    assert!(all.starts_with("-- 0001_log\n") && all.contains("create table posthaste_"), "{all}");
    assert!(!place.path().join("log.db").exists());
    let objects = place.run(&["migrate", "--dry-run", "--json"]).succeeds().objects();
    assert_eq!(objects[0]["version"], 1);
    place.run(&["migrate"]).succeeds();
    assert_eq!(place.run(&["migrate", "--dry-run"]).succeeds().stdout, "");
}

#[test]
fn migrate_reports_what_it_did_and_runs_twice() {
    let place = Place::with("[database]\nurl = \"sqlite:log.db\"");
    let first = place.run(&["migrate"]).succeeds().objects();
    assert_eq!(first[0]["from"], 0);
    assert_eq!(first[0]["applied"][0], "log");
    let again = place.run(&["migrate"]).succeeds().objects();
    assert_eq!(again[0]["from"], first[0]["to"]);
    assert_eq!(again[0]["applied"], json!([]));
}

#[test]
fn messages_go_from_enqueue_to_the_sink_once_and_show_as_published() {
    let place = Place::migrated("");
    let mut ids = Vec::new();
    for n in ["1", "2", "3"] {
        let arguments = ["enqueue", "orders.created", "--key", "k", "--json-payload", n];
        ids.push(place.run(&arguments).succeeds().objects()[0]["id"].clone());
    }
    let status = &place.run(&["status"]).succeeds().objects()[0];
    assert_eq!((&status["head"], &status["messages"]), (&json!(3), &json!(3)));

    let published = place.run(&["relay", "--once"]).succeeds().objects();
    assert_eq!(published.iter().map(|it| it["id"].clone()).collect::<Vec<_>>(), ids);
    assert_eq!(positions(&published), [1, 2, 3]);
    assert_eq!(published[2]["payload"], "3");
    assert_eq!(place.run(&["relay", "--once"]).succeeds().stdout, "");

    let tail = place.run(&["tail"]).succeeds().objects();
    assert_eq!(positions(&tail), [1, 2, 3]);
    for message in &tail {
        assert!(message["published_at"].is_string(), "{message}");
        assert_eq!((&message["key"], &message["topic"]), (&json!("k"), &json!("orders.created")));
    }
    let status = &place.run(&["status"]).succeeds().objects()[0]["subscriptions"][0];
    assert_eq!(status["name"], "orders");
    assert_eq!((&status["backlog"], &status["lag_ms"]), (&json!(0), &json!(0)));
    assert_eq!(status["holder"], Value::Null);
    assert_eq!(status["place"]["message"], ids[2]);
}

#[test]
fn status_shows_the_backlog_before_it_is_published() {
    let place = Place::migrated("");
    place.run(&["relay", "--once"]).succeeds();
    place.run(&["enqueue", "orders", "--count", "4"]).succeeds();
    let status = &place.run(&["status"]).succeeds().objects()[0]["subscriptions"][0];
    assert_eq!(status["backlog"], 4);
}

#[test]
fn enqueue_takes_payloads_from_everywhere_byte_for_byte() {
    let place = Place::migrated("");
    place.write("payload", "in a file");
    let json = "{\"a\": 1.10,  \"a\":2}";
    place.run(&["enqueue", "a", "--json-payload", json]).succeeds();
    place.run(&["enqueue", "a", "--text", "grüß"]).succeeds();
    place.run(&["enqueue", "a", "--file", "payload", "--content-type", "text/x"]).succeeds();
    place.run_with_input(&["enqueue", "a", "--file", "-"], b"\xff\x00").succeeds();
    place.run(&["enqueue", "a", "--header", "x=1=2", "--correlation-id", "c"]).succeeds();
    let tail = place.run(&["tail"]).succeeds().objects();
    let payloads: Vec<_> = tail.iter().map(|it| (&it["content_type"], &it["payload"])).collect();
    assert_eq!(payloads[0], (&json!("application/json"), &json!(json)));
    assert_eq!(payloads[1], (&json!("text/plain; charset=utf-8"), &json!("grüß")));
    assert_eq!(payloads[2], (&json!("text/x"), &json!("in a file")));
    assert_eq!(tail[3]["payload_base64"], "/wA=");
    assert_eq!(
        (&tail[4]["headers"]["x"], &tail[4]["correlation_id"]),
        (&json!("1=2"), &json!("c"))
    );
}

#[test]
fn r4_enqueue_with_a_token_writes_once() {
    let place = Place::migrated("");
    let enqueue = ["enqueue", "a", "--token", "request-17"];
    let first = place.run(&enqueue).succeeds().objects();
    let again = place.run(&enqueue).succeeds().objects();
    assert_eq!(first[0]["id"], again[0]["id"]);
    assert_eq!(place.run(&["tail"]).succeeds().objects().len(), 1);
    let refused = place.run(&["enqueue", "a", "--token", ""]).fails(2);
    assert!(refused.stderr.contains("token must be 1 to 256 bytes"), "{refused:#?}");
}

#[test]
fn scheduled_message_waits_and_is_cancelled() {
    let place = Place::migrated("");
    let later = place.run(&["enqueue", "later", "--deliver-at", "+1h"]).succeeds().objects();
    place.run(&["enqueue", "due", "--deliver-at", "2026-01-01T00:00:00Z"]).succeeds();
    let published = place.run(&["relay", "--once"]).succeeds().objects();
    assert_eq!((published.len(), &published[0]["topic"]), (1, &json!("due")));
    let id = later[0]["id"].as_str().unwrap();
    let seen = place.run(&["cancel", id, "--dry-run"]).succeeds().objects();
    assert_eq!(seen[0], json!({ "cancelled": id, "dry_run": true }));
    let cancelled = place.run(&["cancel", id]).succeeds().objects();
    assert_eq!(cancelled[0], json!({ "cancelled": id, "dry_run": false }));
    let gone = place.run(&["cancel", id]).fails(1);
    assert!(gone.stderr.contains("does not wait"), "{gone:#?}");
    let refused = place.run(&["enqueue", "a", "--deliver-at", "1h"]).fails(2);
    assert!(refused.stderr.contains("as +2h"), "{refused:#?}");
}

#[test]
fn enqueue_refuses_a_payload_above_the_limit_before_it_writes() {
    let place = Place::migrated("");
    place.write("big", &"x".repeat(300_000));
    let ran = place.run(&["enqueue", "a", "--file", "big"]).fails(2);
    assert!(ran.stderr.contains("payload must be at most 262144 bytes"), "{ran:#?}");
}

#[test]
fn tail_shows_the_newest_and_filters_by_topic() {
    let place = Place::migrated("");
    for topic in ["a.1", "b.1", "a.2", "b.2"] {
        place.run(&["enqueue", topic]).succeeds();
    }
    let tail = |arguments: &[&str]| {
        positions(&place.run(&[&["tail"], arguments].concat()).succeeds().objects())
    };
    assert_eq!(tail(&["-n", "2"]), [3, 4]);
    assert_eq!(tail(&["--topic", "a*"]), [1, 3]);
    assert_eq!(tail(&["--topic", "a*", "-n", "1"]), [3]);
    assert_eq!(tail(&["-n", "0"]), [0; 0]);
}

#[test]
fn tail_follows_until_it_is_interrupted() {
    let place = Place::migrated("");
    place.run(&["enqueue", "a"]).succeeds();
    let mut tail = place.start(&["tail", "--follow"]);
    let lines = crate::harness::Lines::of(tail.stdout());
    assert!(lines.next().contains("\"position\":1"));
    place.run(&["enqueue", "a"]).succeeds();
    assert!(lines.next().contains("\"position\":2"));
    tail.signal("INT");
    assert_eq!(tail.ends().0, Some(0));
}

#[test]
fn completions_exist_for_the_common_shells() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.run(&["completions", shell]).succeeds().stdout;
        assert!(script.contains("posthaste") && script.contains("enqueue"), "{shell}");
    }
}

#[test]
fn reference_names_every_section_and_sink() {
    let page = Place::new().run(&["config", "reference"]).succeeds().stdout;
    for part in ["[database]", "[relay.retry]", "[log]", "## Sink `local`", "## Sink `stdout`"] {
        assert!(page.contains(part), "{part}");
    }
}
