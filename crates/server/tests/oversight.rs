//! The audit trail, relays, workers, and subscriptions that publish again.

use std::{sync::Arc, time::Duration};

use posthaste_core::RelayView;
use posthaste_server::{NoParts, ServerSettings};
use posthaste_store::WorkerSpec;
use serde_json::{Value, json};

use crate::support::{LIMIT, Place, Running, dead::Dead, on_both_stores, settings};

on_both_stores! {
    audit_trail_is_read_by_every_condition_and_page_by_page,
    relays_and_workers_are_told_with_what_they_have,
    rewind_tells_what_it_would_be_and_who_is_in_its_way,
    r14_messages_of_the_log_are_replayed_in_the_background,
    hostile_values_in_every_other_field_are_refused,
}

async fn audit_trail_is_read_by_every_condition_and_page_by_page(place: Place) {
    let _dead = Dead::of(&place, &["a"]).await;
    let server = Running::start(&place).await;
    for verb in ["pause", "resume", "pause"] {
        server.post(&format!("/api/v1/subscriptions/orders/{verb}"), "").await.json();
    }
    let read = async |query: &str| server.get(&format!("/api/v1/audit?{query}")).await.json();
    let actions = |page: &Value| -> Vec<String> {
        let entries = page["entries"].as_array().unwrap().iter();
        entries.map(|entry| entry["action"].as_str().unwrap().to_owned()).collect()
    };
    let page = read("limit=2").await;
    assert_eq!(actions(&page), ["pause", "resume"]);
    let next = read(&format!("limit=2&cursor={}", page["next"].as_str().unwrap())).await;
    assert_eq!((actions(&next), &next["next"]), (vec!["pause".to_owned()], &Value::Null));
    let entry = &next["entries"][0];
    assert_eq!((&entry["actor"], &entry["subscription"]), (&json!("loopback"), &json!("orders")));
    assert!(entry["detail"].is_object() && entry["at"].is_string(), "{entry}");
    for (query, expected) in [
        ("action=resume", 1),
        ("actor=loopback&subscription=orders", 3),
        ("actor=nobody", 0),
        ("since=2000-01-01T00:00:00Z", 3),
        ("until=2000-01-01T00:00:00Z", 0),
    ] {
        assert_eq!(actions(&read(query).await).len(), expected, "{query}");
    }
    server.ends().await;
}

async fn relays_and_workers_are_told_with_what_they_have(place: Place) {
    let dead = Dead::of(&place, &["a"]).await;
    let (jobs, _) = place.store().await;
    let server = Running::start(&place).await;
    let view = RelayView { holder: "b relay".to_owned(), subscriptions: vec!["orders".to_owned()] };
    dead.store.renew(&view, Duration::from_secs(5)).await.unwrap();
    let relays = server.get("/api/v1/relays").await.json();
    let [a, b] = &relays["relays"].as_array().unwrap()[..] else { panic!("{relays}") };
    assert_eq!((&a["name"], &a["alive"]), (&json!("a relay"), &json!(true)));
    assert_eq!(a["holds"][0]["subscription"], "orders");
    assert!(a["holds"][0]["since"].is_string() && a["holds"][0]["until"].is_string(), "{a}");
    assert_eq!((&b["name"], &b["subscriptions"]), (&json!("b relay"), &json!(["orders"])));
    assert_eq!((&b["holds"], &b["alive"]), (&json!([]), &json!(true)));
    assert_eq!(server.get("/api/v1/workers").await.json()["workers"], json!([]));
    let spec = WorkerSpec {
        name: "post".to_owned(),
        topics: vec!["mail".to_owned()],
        sources: vec!["a queue".to_owned()],
        version: "1".to_owned(),
    };
    let id = jobs.register_worker(&spec, LIMIT).await.unwrap();
    let workers = server.get("/api/v1/workers").await.json();
    let worker = &workers["workers"][0];
    assert_eq!((&worker["id"], &worker["name"]), (&json!(id.to_string()), &json!("post")));
    assert_eq!((&worker["topics"], &worker["alive"]), (&json!(["mail"]), &json!(true)));
    assert_eq!((&worker["running"], &worker["sources"]), (&json!(0), &json!(["a queue"])));
    server.ends().await;
}

async fn rewind_tells_what_it_would_be_and_who_is_in_its_way(place: Place) {
    let dead = Dead::of(&place, &["a", "b", "c"]).await;
    let one = posthaste_store::Selection { ids: vec![dead.ids[1]], ..Default::default() };
    let actor = "a test".to_owned();
    let request = posthaste_store::Request { actor, is_dry_run: false, is_forced: false };
    // Given up, it counts as published.
    dead.store.discard_dead_letters(&one, &request).await.unwrap();
    let quick = ServerSettings { request_timeout: Duration::from_secs(4), ..settings() };
    let server = Running::with(&place, quick, Arc::new(NoParts)).await;
    let path = "/api/v1/subscriptions/orders/rewind";
    let dry = r#"{"to":"beginning","dry_run":true}"#;
    let seen = server.post(path, dry).await.json();
    assert_eq!((&seen["messages"], &seen["from_position"]), (&json!(1), &json!(2)), "{seen}");
    assert_eq!((&seen["holder"], &seen["dry_run"]), (&json!("a relay"), &json!(true)));
    assert!(seen["from_time"].is_string(), "{seen}");
    // It is asked for it, and does not answer.
    let held = server.post(path, r#"{"to":"beginning"}"#).await;
    let problem = held.is_problem(409, "subscription-held");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("\"a relay\"") && detail.contains("end that relay"), "{detail}");
    dead.released().await;
    let seen = server.post(path, dry).await.json();
    assert_eq!((&seen["messages"], &seen["holder"]), (&json!(1), &Value::Null));
    let later = server.post(path, r#"{"to":"2999-01-01T00:00:00Z","dry_run":true}"#).await.json();
    assert_eq!((&later["messages"], &later["from_time"]), (&json!(0), &Value::Null));
    let place_before = dead.store.status().await.unwrap().subscriptions[0].progress.place;
    assert!(place_before.base.n > 0);
    let done = server.post(path, r#"{"to":"beginning"}"#).await.json();
    assert_eq!((&done["outcome"], &done["tick"]), (&json!("rewound"), &json!(0)));
    let place_after = dead.store.status().await.unwrap().subscriptions[0].progress.place;
    assert_eq!(place_after.base.n, 0);
    let trail = server.get("/api/v1/audit?action=rewind").await.json();
    assert_eq!(trail["entries"].as_array().unwrap().len(), 1);
    let nobody = server.post("/api/v1/subscriptions/nobody/rewind", dry).await;
    nobody.is_problem(404, "no-subscription");
    server.ends().await;
}

async fn r14_messages_of_the_log_are_replayed_in_the_background(place: Place) {
    let dead = Dead::of(&place, &["a", "b", "c"]).await;
    let given_up = posthaste_store::Selection { ids: dead.ids[..2].to_vec(), ..Default::default() };
    let actor = "a test".to_owned();
    let request = posthaste_store::Request { actor, is_dry_run: false, is_forced: false };
    dead.store.discard_dead_letters(&given_up, &request).await.unwrap();
    let server = Running::start(&place).await;
    let path = "/api/v1/subscriptions/orders/replay";
    let seen = server.post(path, r#"{"all":true,"dry_run":true}"#).await;
    assert_eq!(seen.json(), json!({ "kind": "replay-messages", "dry_run": true, "total": 2 }));
    assert!(dead.replayed().await.is_empty());
    let answer = server.post(path, r#"{"topic":"orders.*","since":"2000-01-01T00:00:00Z"}"#).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let begun = answer.json();
    assert_eq!((&begun["to"], &begun["total"]), (&json!("orders"), &json!(2)));
    let shown = format!("/api/v1/operations/{}", begun["id"].as_str().unwrap());
    let is_over = async || !server.get(&shown).await.json()["ended_at"].is_null();
    posthaste_testkit::eventually_async("it is over", LIMIT, is_over).await;
    assert_eq!(server.get(&shown).await.json()["state"], "done");
    // The third is a dead letter, which is replayed as one.
    assert_eq!((dead.replayed().await, dead.dead().await), (vec![0, 1], vec![2]));
    server.ends().await;
}

async fn hostile_values_in_every_other_field_are_refused(place: Place) {
    let dead = Dead::of(&place, &["a"]).await;
    let server = Running::start(&place).await;
    let long = "x".repeat(2_000);
    for (field, value) in [
        ("actor", "%00"),
        ("actor", &long),
        ("action", "%0a"),
        ("subscription", "%7f"),
        ("since", "-1"),
        ("until", "99999-01-01T00:00:00Z"),
        ("limit", "x"),
        ("cursor", "bzE"),
    ] {
        let answer = server.get(&format!("/api/v1/audit?{field}={value}")).await;
        assert_eq!(answer.is_problem(400, "bad-parameter")["field"], field, "{answer:?}");
    }
    let rewind = "/api/v1/subscriptions/orders/rewind";
    for (body, field) in [
        (json!({}), "to"),
        (json!({ "to": "" }), "to"),
        (json!({ "to": "end" }), "to"),
        (json!({ "to": 7 }), "to"),
        (json!({ "to": "1900-01-01T00:00:00Z" }), "to"),
        (json!({ "to": "beginning", "dry_run": 1 }), "dry_run"),
        (json!({ "to": "beginning", "force": true }), "force"),
    ] {
        let answer = server.post(rewind, &body.to_string()).await;
        assert_eq!(answer.is_problem(422, "invalid-field")["field"], field, "{answer:?}");
    }
    let replay = "/api/v1/subscriptions/orders/replay";
    let too_many = vec![dead.ids[0].to_string(); 1_001];
    for (body, field) in [
        (json!({}), "all"),
        (json!({ "ids": too_many }), "ids"),
        (json!({ "key": "\u{0}" }), "key"),
        (json!({ "all": true, "to": "nobody" }), "to"),
        (json!({ "all": true, "to": "\u{0}" }), "to"),
        (json!({ "all": true, "rate": "fast" }), "rate"),
        (json!({ "until": "soon" }), "until"),
        (json!({ "reason": "a" }), "reason"),
    ] {
        let answer = server.post(replay, &body.to_string()).await;
        assert_eq!(answer.is_problem(422, "invalid-field")["field"], field, "{answer:?}");
    }
    assert_eq!(server.get("/api/v1/operations").await.json()["operations"], json!([]));
    server.ends().await;
}
