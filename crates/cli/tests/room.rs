//! Room for the log: who is named, and what to do, when it takes more than it should; and a disk
//! without any.

use std::time::Duration;

use posthaste_testkit::{Disk, eventually};
use serde_json::json;

use crate::harness::{Lines, Place};

/// Above `retention_size` below.
const MESSAGES: u32 = 300;
const PAYLOAD_BYTES: u32 = 64 << 10;

const CONFIGURATION: &str = "[database]\nurl = \"sqlite:log.db\"\nretention_size = \"16MiB\"\n\
     [relay]\nsweep_interval = \"100ms\"\n\
     [subscriptions.orders]\ntopics = [\"none\"]\nsink.kind = \"stdout\"\n";

/// A log whose subscription `old` has published nothing and stands in no configuration any more.
fn place() -> Place {
    let place = Place::with(&format!(
        "{CONFIGURATION}[subscriptions.old]\ntopics = [\"none\"]\nsink.kind = \"stdout\"\n"
    ));
    place.run(&["migrate"]).succeeds();
    place.run(&["relay", "--once"]).succeeds();
    place.write("posthaste.toml", CONFIGURATION);
    let log = rusqlite::Connection::open(place.path().join("log.db")).unwrap();
    let fill = "with recursive n (n) as (select 1 union all select n + 1 from n where n < ?1) \
                insert into posthaste_log (id, topic, content_type, payload) \
                select randomblob(16), 't', 'a/b', zeroblob(?2) from n";
    log.execute(fill, (MESSAGES, PAYLOAD_BYTES)).unwrap();
    place
}

#[test]
fn log_above_its_size_names_the_abandoned_subscription_until_it_is_removed() {
    let place = place();
    let mut relay = place.start(&["relay"]);
    let alert = relay.log.until("the log needs more room than it should").pop().unwrap();
    for part in ["\"subscription\":\"old\"", "\"pinned_by\":\"subscription\"", "remove old"] {
        assert!(alert.contains(part), "{part} in {alert}");
    }

    let status = &place.run(&["status"]).succeeds().objects()[0];
    assert_eq!(
        (&status["bytes_max"], &status["pinned_by"]),
        (&json!(16 << 20), &json!("subscription"))
    );
    assert_eq!(status["pinned_by_subscription"], "old");
    let states = ["old", "orders"].map(|name| {
        let all = status["subscriptions"].as_array().unwrap();
        all.iter().find(|it| it["name"] == name).unwrap()["state"].clone()
    });
    assert_eq!(states, ["abandoned", "held"]);
    let findings = place.run(&["doctor"]).fails(1).objects();
    let room = findings.iter().find(|it| it["check"] == "room").unwrap();
    assert_eq!(room["level"], "error");
    let text = room["text"].as_str().unwrap();
    assert!(text.contains("old is furthest behind") && text.contains("at most 16MiB"), "{text}");

    place.run(&["subscriptions", "remove", "old"]).succeeds();
    relay.log.until("the log has room again");
    let held = || place.run(&["status"]).succeeds().objects()[0]["messages"].as_u64().unwrap();
    eventually("messages that went", Duration::from_secs(30), || held() < u64::from(MESSAGES));
    assert!(held() > 200, "the newest stay for their retention time");
    let findings = place.run(&["doctor"]).objects();
    let room = findings.iter().find(|it| it["check"] == "room").unwrap();
    assert_eq!(room["level"], "ok");
    relay.signal("TERM");
    assert_eq!(relay.ends().0, Some(0));
}

#[test]
fn abandoned_subscription_of_a_killed_relay_is_removed_by_force() {
    let place = Place::migrated("");
    let mut relay = place.start(&["relay"]);
    relay.log.until("relay starts");
    let state = || {
        let listed = place.run(&["subscriptions", "list"]).succeeds().objects();
        listed.first().map(|it| it["state"].clone())
    };
    eventually("a holder", Duration::from_secs(30), || state() == Some(json!("held")));
    relay.signal("KILL");
    relay.ends();
    place.write("posthaste.toml", "[database]\nurl = \"sqlite:log.db\"");
    let refused = place.run(&["subscriptions", "remove", "orders"]);
    assert!(refused.code != Some(0) && refused.stderr.contains("stop that relay"), "{refused:?}");
    place.run(&["subscriptions", "remove", "orders", "--force", "--dry-run"]).succeeds();
    assert_eq!(state(), Some(json!("held")));
    place.run(&["subscriptions", "remove", "orders", "--force"]).succeeds();
    assert_eq!(state(), None);
}

#[test]
fn r12_relay_on_a_full_disk_waits_and_publishes_everything_once_there_is_room() {
    let place = Place::migrated("");
    let disk = Disk::new();
    let mut relay = place.start_in(&["relay"], &disk.environment());
    let published = Lines::of(relay.stdout());
    // The application's own disk has room.
    let log = rusqlite::Connection::open(place.path().join("log.db")).unwrap();
    let enqueue = || {
        let insert = "insert into posthaste_log (id, topic, content_type, payload) \
                      values (randomblob(16), 't', 'text/plain', ?1)";
        log.execute(insert, ["x".repeat(10_000).as_bytes()]).unwrap();
    };
    enqueue();
    published.until("\"position\":1,");
    disk.fill(place.path());
    for _ in 0..5 {
        enqueue();
    }
    let told = relay.log.until("database or disk is full").pop().unwrap();
    assert!(told.contains("WARN") && told.contains("free disk space"), "{told}");
    let status = &place.run(&["status"]).succeeds().objects()[0]["subscriptions"][0];
    assert!(status["backlog"].as_u64() >= Some(5), "{status}");

    disk.free();
    for position in 2..=6 {
        assert!(published.next().contains(&format!("\"position\":{position},")));
    }
    relay.signal("TERM");
    assert_eq!(relay.ends().0, Some(0));
    let status = &place.run(&["status"]).succeeds().objects()[0]["subscriptions"][0];
    assert_eq!(status["backlog"], 0);
    assert_eq!(place.run(&["relay", "--once"]).succeeds().stdout, "", "all was settled");
}
