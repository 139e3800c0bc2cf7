//! Jobs by hand, from end to end.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::harness::Place;

fn place() -> Place {
    let place = Place::with(
        "[database]\nurl = \"sqlite:log.db\"\n[subscriptions.all.sink]\nkind = \"stdout\"\n",
    );
    place.run(&["migrate"]).succeeds();
    place
}

fn submit(place: &Place, more: &[&str]) -> String {
    let arguments = [&["jobs", "submit", "mail", "--json-payload", "{\"to\": 7}"], more].concat();
    let submitted = place.run(&arguments).succeeds().objects();
    submitted[0]["id"].as_str().expect("an id").to_owned()
}

fn show(place: &Place, id: &str) -> Value {
    place.run(&["jobs", "show", id]).succeeds().objects().remove(0)
}

#[test]
fn jobs_are_submitted_listed_shown_cancelled_and_retried() {
    let place = place();
    assert_eq!(place.run(&["jobs", "list"]).succeeds().stdout, "");
    let id = submit(&place, &["--key", "k", "--attempts", "3", "--header", "a=b"]);
    let token = submit(&place, &["--token", "t", "--deliver-at", "+1h"]);
    assert_eq!(submit(&place, &["--token", "t"]), token);
    let unique = submit(&place, &["--unique-key", "u"]);
    assert_eq!(submit(&place, &["--unique-key", "u"]), unique);

    let listed = place.run(&["jobs", "list"]).succeeds().objects();
    let ids: Vec<&Value> = listed.iter().map(|job| &job["id"]).collect();
    assert_eq!(ids, [&unique, &token, &id], "the newest first");
    let scheduled = place.run(&["jobs", "list", "--state", "scheduled"]).succeeds().objects();
    assert_eq!((scheduled.len(), &scheduled[0]["id"]), (1, &json!(token)));
    let wrong = place.run(&["jobs", "list", "--state", "done"]).fails(2);
    assert!(wrong.stderr.contains("completed"), "{}", wrong.stderr);

    place.run(&["relay", "--once"]).succeeds();
    let shown = show(&place, &id);
    assert_eq!((&shown["state"], &shown["attempts_max"]), (&json!("queued"), &json!(3)));
    assert_eq!((&shown["payload"], &shown["headers"]), (&json!({ "to": 7 }), &json!({ "a": "b" })));
    let unknown = "01920000-0000-7000-8000-000000000001";
    let missing = place.run(&["jobs", "show", unknown]).fails(1);
    assert!(missing.stderr.contains("there is no job"), "{}", missing.stderr);

    let seen = place.run(&["jobs", "cancel", &id, "--dry-run"]).succeeds().objects();
    assert_eq!(seen[0], json!({ "id": id, "outcome": "cancelled", "dry_run": true }));
    assert_eq!(show(&place, &id)["state"], "queued");
    place.run(&["jobs", "cancel", &id, "--actor", "me"]).succeeds();
    assert_eq!(show(&place, &id)["state"], "cancelled");
    let again = place.run(&["jobs", "cancel", &id]).fails(1);
    assert!(again.stderr.contains("is over"), "{}", again.stderr);

    place.run(&["jobs", "retry", &id, "--attempts", "2"]).succeeds();
    let retried = show(&place, &id);
    assert_eq!((&retried["state"], &retried["attempts_max"]), (&json!("created"), &json!(2)));
    assert_ne!(retried["message_id"], json!(id), "by a new message");
    let already = place.run(&["jobs", "retry", &id]).fails(1);
    assert!(already.stderr.contains("is created already"), "{}", already.stderr);

    let database = Connection::open(place.path().join("log.db")).unwrap();
    let sql = "select actor from posthaste_audit where action = 'cancel-job'";
    let actor = database.query_row(sql, [], |row| row.get::<_, String>(0));
    assert_eq!(actor.as_deref(), Ok("me"));
}

#[test]
fn r14_stuck_jobs_say_why_and_are_published_again_where_that_helps() {
    let place = place();
    let none = place.run(&["jobs", "republish", "--stuck"]).succeeds();
    assert_eq!(none.stdout, "");
    let id = submit(&place, &[]);
    let stuck = |more: &[&str]| {
        let arguments = [&["jobs", "republish", "--stuck", "--older-than", "0s"], more].concat();
        place.run(&arguments).succeeds().objects()
    };
    let found = stuck(&[]);
    assert_eq!((&found[0]["cause"], &found[0]["done"]), (&json!("no-subscription"), &json!("-")));
    assert!(found[0]["why"].as_str().unwrap().contains("add one"), "{found:?}");
    place.run(&["relay", "--once"]).succeeds();
    assert_eq!(stuck(&[])[0]["cause"], "no-worker");

    // 43 jobs were in a table, and their messages were not.
    let database = Connection::open(place.path().join("log.db")).unwrap();
    database.execute("update posthaste_job set message_position = null", []).unwrap();
    let seen = stuck(&["--dry-run"]);
    let told = ["cause", "done", "dry_run"].map(|member| seen[0][member].clone());
    assert_eq!(told, [json!("unwritten"), json!("published again"), json!(true)]);
    assert_eq!(show(&place, &id)["message_id"], json!(id));
    stuck(&[]);
    assert_ne!(show(&place, &id)["message_id"], json!(id));
    let published = place.run(&["relay", "--once"]).succeeds();
    assert!(published.stdout.contains("posthaste-job"), "{published:?}");

    place.run(&["jobs", "republish", &id]).succeeds();
    let twice = place.run(&["jobs", "republish", &id]).fails(1);
    assert!(twice.stderr.contains("it is on its way"), "{}", twice.stderr);
    let nothing = place.run(&["jobs", "republish"]).fails(2);
    assert!(nothing.stderr.contains("--stuck"), "{}", nothing.stderr);
}
