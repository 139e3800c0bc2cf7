//! Dead letters over the API.

use std::sync::Arc;

use posthaste_server::{NoParts, Scope};
use serde_json::{Value, json};

use crate::support::{Place, Running, dead::Dead, on_both_stores, settings, token};

on_both_stores! {
    r14_dead_letters_are_listed_page_by_page_and_grouped,
    r14_one_dead_letter_is_shown_replayed_and_discarded,
    payloads_of_dead_letters_are_for_those_who_may_see_them,
    hostile_values_in_every_field_of_dead_letters_are_refused,
}

fn numbers(page: &Value) -> Vec<i64> {
    let letters = page["dead_letters"].as_array().unwrap();
    letters.iter().map(|letter| letter["position"].as_i64().unwrap() - 1).collect()
}

async fn r14_dead_letters_are_listed_page_by_page_and_grouped(place: Place) {
    let reasons = ["HTTP 500", "HTTP 503", "no row 12", "HTTP 404", "no row 7"];
    let dead = Dead::of(&place, &reasons).await;
    let server = Running::start(&place).await;
    for (order, expected) in [("newest", [4, 3, 2, 1, 0]), ("oldest", [0, 1, 2, 3, 4])] {
        let mut path = format!("/api/v1/dead-letters?order={order}&limit=2");
        let mut seen = Vec::new();
        loop {
            let page = server.get(&path).await.json();
            seen.extend(numbers(&page));
            let Some(next) = page["next"].as_str() else { break };
            path = format!("/api/v1/dead-letters?order={order}&limit=2&cursor={next}");
        }
        assert_eq!(seen, expected, "{order}");
    }
    for (query, expected) in [
        ("subscription=orders&topic=orders.1,orders.2", vec![2, 1]),
        ("topic=orders.*&key=k3", vec![3]),
        ("reason=row", vec![4, 2]),
        ("group=HTTP%20%23", vec![3, 1, 0]),
        ("since=2000-01-01T00:00:00Z&until=2001-01-01T00:00:00Z", vec![]),
        ("subscription=nobody", vec![]),
    ] {
        let page = server.get(&format!("/api/v1/dead-letters?{query}")).await.json();
        assert_eq!(numbers(&page), expected, "{query}");
        assert_eq!(page["next"], Value::Null);
    }
    let first = &server.get("/api/v1/dead-letters?order=oldest&limit=1").await.json();
    let first = &first["dead_letters"][0];
    assert_eq!(first["id"], dead.ids[0].to_string());
    assert_eq!((&first["subscription"], &first["attempts"]), (&json!("orders"), &json!(3)));
    assert_eq!((&first["reason"], &first["payload_bytes"]), (&json!("HTTP 500"), &json!(7)));

    let groups = server.get("/api/v1/dead-letters/groups").await.json();
    let told: Vec<(&Value, &Value, &Value)> = groups["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| (&group["group"], &group["count"], &group["example_id"]))
        .collect();
    let example = |n: usize| json!(dead.ids[n].to_string());
    assert_eq!(
        told,
        [(&json!("HTTP #"), &json!(3), &example(3)), (&json!("no row #"), &json!(2), &example(4))]
    );
    assert_eq!((&groups["looked_at"], &groups["is_all"]), (&json!(5), &json!(true)));
    let one = server.get("/api/v1/dead-letters/groups?limit=1&reason=HTTP").await.json();
    assert_eq!((one["groups"].as_array().unwrap().len(), &one["groups_total"]), (1, &json!(1)));
    server.ends().await;
}

async fn r14_one_dead_letter_is_shown_replayed_and_discarded(place: Place) {
    let dead = Dead::of(&place, &["a", "b", "c"]).await;
    let server = Running::start(&place).await;
    let of = |n: usize| format!("/api/v1/dead-letters/orders/{}", dead.ids[n]);
    let shown = server.get(&of(1)).await.json();
    assert_eq!((&shown["payload"], &shown["headers"]), (&json!({"n": 1}), &json!({"h": "v"})));
    assert_eq!((&shown["topic"], &shown["reason"]), (&json!("orders.1"), &json!("b")));
    for (verb, outcome, n) in [("replay", "replayed", 1), ("discard", "discarded", 2)] {
        let path = format!("{}/{verb}", of(n));
        let dry = server.post(&path, r#"{"dry_run":true}"#).await.json();
        assert_eq!((&dry["outcome"], &dry["dry_run"]), (&json!(outcome), &json!(true)));
        server.get(&of(n)).await.json();
        let done = server.post(&path, "").await.json();
        assert_eq!((&done["outcome"], &done["dry_run"]), (&json!(outcome), &json!(false)));
        server.get(&of(n)).await.is_problem(404, "no-dead-letter");
        server.post(&path, "").await.is_problem(404, "no-dead-letter");
    }
    assert_eq!((dead.dead().await, dead.replayed().await), (vec![0], vec![1]));
    let elsewhere = format!("/api/v1/dead-letters/nobody/{}", dead.ids[0]);
    server.get(&elsewhere).await.is_problem(404, "no-dead-letter");
    server.post(&format!("{elsewhere}/discard"), "").await.is_problem(404, "no-dead-letter");
    let trail = server.get("/api/v1/audit?actor=loopback").await.json();
    assert_eq!(trail["entries"].as_array().unwrap().len(), 2, "{trail}");
    server.ends().await;
}

async fn payloads_of_dead_letters_are_for_those_who_may_see_them(place: Place) {
    let dead = Dead::of(&place, &["a"]).await;
    let (viewer, view) = token(&[Scope::View], None);
    let (reader, read) = token(&[Scope::View, Scope::Payloads], None);
    let (limited, some) = token(&[Scope::View, Scope::Operate], Some(&["orders."]));
    let mut settings = settings();
    settings.tokens.insert("viewer".to_owned(), viewer);
    settings.tokens.insert("reader".to_owned(), reader);
    settings.tokens.insert("limited".to_owned(), limited);
    let server = Running::with(&place, settings, Arc::new(NoParts)).await;
    let path = format!("/api/v1/dead-letters/orders/{}", dead.ids[0]);
    let ask =
        async |secret: &str| server.ask("GET", &path, &[("authorization", secret)], b"").await;
    let seen = ask(&view).await.json();
    assert_eq!((&seen["payload"], &seen["headers"]), (&Value::Null, &Value::Null), "{seen}");
    assert_eq!(seen["payload_bytes"], 7);
    assert_eq!(ask(&read).await.json()["payload"], json!({ "n": 0 }));
    ask(&some).await.is_problem(403, "topic-not-allowed");
    let list = server.ask("GET", "/api/v1/dead-letters", &[("authorization", &read)], b"").await;
    assert!(list.status == 200 && !list.body.contains("\"payload\""), "{list:?}");
    server.ends().await;
}

async fn hostile_values_in_every_field_of_dead_letters_are_refused(place: Place) {
    let dead = Dead::of(&place, &["a", "'; drop table audit; --"]).await;
    let server = Running::start(&place).await;
    let long = "x".repeat(5_000);
    for (field, value) in [
        ("subscription", "%00"),
        ("topic", "a*b"),
        ("topic", ""),
        ("key", "%0a"),
        ("key", &long),
        ("reason", ""),
        ("reason", "%00"),
        ("group", &long),
        ("since", "yesterday"),
        ("until", "1969-12-31T00:00:00Z"),
        ("order", "random"),
        ("limit", "0"),
        ("limit", "201"),
        ("limit", "-1"),
        ("cursor", "x"),
        ("cursor", "ZDk5OTk5OTk5OTk5OTk5OTk5OTkvMS8xLzE"),
    ] {
        let answer = server.get(&format!("/api/v1/dead-letters?{field}={value}")).await;
        let problem = answer.is_problem(400, "bad-parameter");
        assert_eq!(problem["field"], field, "{field}={value:.20}: {answer:?}");
    }
    for query in ["limit=1&limit=2", "nothing=1"] {
        let answer = server.get(&format!("/api/v1/dead-letters?{query}")).await;
        answer.is_problem(400, "bad-parameter");
    }
    for name in ["%00", "%ff", "a%0ab"] {
        let path = format!("/api/v1/dead-letters/{name}/{}", dead.ids[0]);
        server.get(&path).await.is_problem(400, "bad-parameter");
    }
    server.get("/api/v1/dead-letters/orders/7").await.is_problem(400, "bad-parameter");
    // Strange, and a text like any other.
    let strange =
        server.get("/api/v1/dead-letters?reason='%3B%20drop%20table%20audit").await.json();
    assert_eq!(numbers(&strange), [1]);
    let too_many = vec![dead.ids[0].to_string(); 1_001];
    for verb in ["replay", "discard"] {
        let path = format!("/api/v1/dead-letters/{verb}");
        for (body, field) in [
            (json!({}), "all"),
            (json!({ "all": false }), "all"),
            (json!({ "all": "yes" }), "all"),
            (json!({ "ids": [] }), "ids"),
            (json!({ "ids": too_many }), "ids"),
            (json!({ "ids": ["7"] }), "ids[0]"),
            (json!({ "key": "\u{0}" }), "key"),
            (json!({ "topic": "a,,b" }), "topic"),
            (json!({ "reason": "" }), "reason"),
            (json!({ "group": "\u{0}" }), "group"),
            (json!({ "since": 7 }), "since"),
            (json!({ "since": "now" }), "since"),
            (json!({ "all": true, "rate": 0 }), "rate"),
            (json!({ "all": true, "rate": -1.5 }), "rate"),
            (json!({ "all": true, "rate": 1e300 }), "rate"),
            (json!({ "everything": true }), "everything"),
        ] {
            let answer = server.post(&path, &body.to_string()).await;
            let problem = answer.is_problem(422, "invalid-field");
            assert_eq!(problem["field"], field, "{verb} {body:.60}: {answer:?}");
        }
    }
    let rate = json!({ "all": true, "rate": 1 }).to_string();
    let refused = server.post("/api/v1/dead-letters/discard", &rate).await;
    assert_eq!(refused.is_problem(422, "invalid-field")["field"], "rate");
    assert_eq!(dead.dead().await, [0, 1]);
    server.ends().await;
}
