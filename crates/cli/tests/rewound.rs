//! A restored log as an operator meets it: the relay stops, `doctor` says why, `subscriptions rebase`
//! resolves it.

use posthaste_testkit::Redis;
use serde_json::json;

use crate::harness::Place;

#[test]
fn restored_file_stops_the_relay_and_is_explained_and_rebased() {
    let redis = Redis::shared();
    let prefix = redis.prefix();
    let place = Place::with(&format!(
        "[database]\nurl = \"sqlite:log.db\"\n[subscriptions.orders.sink]\n\
         kind = \"redis-list\"\nurl = \"{}\"\nlist = \"{prefix}list\"\nside = \"right\"\n",
        redis.url()
    ));
    let publish = |text: &str| {
        place.run(&["enqueue", "t", "--text", text]).succeeds();
        place.run(&["relay", "--once"]).succeeds();
    };
    place.run(&["migrate"]).succeeds();
    publish("kept");
    let (log, saved) = (place.path().join("log.db"), place.path().join("saved.db"));
    std::fs::copy(&log, &saved).unwrap();
    publish("lost");
    std::fs::copy(&saved, &log).unwrap();
    place.run(&["enqueue", "t", "--text", "instead"]).succeeds();

    let stopped = place.run(&["relay", "--once"]).fails(1);
    assert!(stopped.stderr.contains("posthaste subscriptions rebase"), "{}", stopped.stderr);
    let doctor = place.run(&["doctor"]).fails(1).objects();
    let source = doctor.iter().find(|it| it["check"] == "source").unwrap();
    assert_eq!(source["level"], "error");
    assert!(source["text"].as_str().unwrap().contains("orders"), "{source}");

    let rebase = ["subscriptions", "rebase", "orders"];
    let seen = place.run(&[&rebase[..], &["--dry-run"]].concat()).succeeds().objects();
    assert_eq!((&seen[0]["messages"], &seen[0]["dry_run"]), (&json!(1), &json!(true)));
    place.run(&["relay", "--once"]).fails(1);
    let done = place.run(&rebase).succeeds().objects();
    assert_eq!((&done[0]["messages"], &done[0]["copied"]), (&json!(1), &json!(false)));
    place.run(&["relay", "--once"]).succeeds();
    publish("then");
    let healthy = place.run(&["doctor"]).succeeds().objects();
    assert!(healthy.iter().any(|it| it["check"] == "source" && it["level"] == "ok"));
    assert_eq!(list(redis, &format!("{prefix}list")), ["kept", "lost", "instead", "then"]);
}

/// The list, the first payload that was pushed first.
fn list(redis: &Redis, name: &str) -> Vec<String> {
    let mut client = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    redis::cmd("LRANGE").arg(name).arg(0).arg(-1).query(&mut client).unwrap()
}
