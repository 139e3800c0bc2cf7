//! The same hostile bodies, headers and paths for every route of the table: refused, shortly, and nothing is written.

use posthaste_server::{Access, Listed, Scope, document, routes};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::support::{Answer, Place, on_both_stores, world::World};

on_both_stores! {
    hostile_bodies_of_every_route_are_refused_and_change_nothing,
    dry_run_of_every_route_that_has_one_is_a_boolean_or_refused,
    hostile_topics_and_keys_of_tickets_are_refused_or_can_be_followed,
    hostile_headers_are_refused_or_left_out,
    texts_in_paths_that_no_name_has_are_refused_alike,
}

const JSON: (&str, &str) = ("content-type", "application/json");

fn posts() -> Vec<Listed> {
    routes().into_iter().filter(|route| route.method == "POST").collect()
}

/// Whether a route's description says that a body must come.
fn needs_body(api: &Value, path: &str) -> bool {
    let body = &api["paths"][path]["post"]["requestBody"];
    assert!(body.is_object(), "{path}: every POST describes a body");
    body["required"] == true
}

/// A refusal in the form of all others, and a short one.
fn is_short_problem(answer: &Answer, status: u16, code: &str) {
    answer.is_problem(status, code);
    assert!(answer.body.len() < 1_000, "a problem is short: {answer:?}");
}

async fn hostile_bodies_of_every_route_are_refused_and_change_nothing(place: Place) {
    let world = World::on(&place).await;
    let api: Value = serde_json::from_str(&document()).unwrap();
    let deep = format!(r#"{{"x":{}1{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
    let big = format!(r#"{{"x":"{}"}}"#, "x".repeat(3 << 20));
    let cases: &[(&[u8], u16, &str)] = &[
        (b"{\"dry_run\":\"\xff\xfe\"}", 400, "bad-json"),
        (deep.as_bytes(), 400, "bad-json"),
        (br#"{"dry_run":true,"dry_run":true}"#, 400, "bad-json"),
        (br#"{"x":{"a":1,"a":2}}"#, 400, "bad-json"),
        (br#"{"dry_run":tru"#, 400, "bad-json"),
        (big.as_bytes(), 413, "body-too-large"),
        (b"[]", 422, "invalid-field"),
        (br#"{"unknown":1}"#, 422, "invalid-field"),
    ];
    let before = world.seen().await;
    for Listed { path: route, .. } in posts() {
        let path = world.path(&route);
        for (body, status, code) in cases {
            let answer = world.post(&path, body).await;
            is_short_problem(&answer, *status, code);
        }
        // A body that may be left out may be null, too: then what it would change has to be there.
        let nowhere = World::nowhere(&route);
        for (body, status, code) in [("null", 422, "invalid-field"), ("", 400, "bad-json")] {
            let answer = world.post(&nowhere, body.as_bytes()).await;
            if needs_body(&api, &route) {
                is_short_problem(&answer, status, code);
            } else if route == "/api/v1/streams/tickets" {
                assert_eq!(answer.status, 200, "{answer:?}");
            } else {
                assert_eq!(answer.status, 404, "{route}: {answer:?}");
            }
        }
        assert_eq!(world.seen().await, before, "{route}");
    }
    world.ends().await;
}

async fn dry_run_of_every_route_that_has_one_is_a_boolean_or_refused(place: Place) {
    let world = World::on(&place).await;
    let before = world.seen().await;
    let operates = |access| {
        matches!(
            access,
            Access::Scope(Scope::Operate)
                | Access::Whole(Scope::Operate)
                | Access::Entities(Scope::Operate)
        )
    };
    for route in posts().into_iter().filter(|route| operates(route.access)) {
        let path = world.path(&route.path);
        for value in [json!("true"), json!("\0"), json!(1), json!(null), json!([true]), json!({})] {
            let mut body = world.body(&route.path);
            body["dry_run"] = value;
            let answer = world.post(&path, body.to_string().as_bytes()).await;
            is_short_problem(&answer, 422, "invalid-field");
            assert_eq!(answer.json()["field"], "dry_run", "{path}: {answer:?}");
        }
        assert_eq!(world.seen().await, before, "{path}");
    }
    world.ends().await;
}

async fn hostile_topics_and_keys_of_tickets_are_refused_or_can_be_followed(place: Place) {
    let world = World::on(&place).await;
    let (long, lists) = ("x".repeat(100_000), "run.*,".repeat(10_000) + "a");
    let texts = [
        "",
        "\0",
        "a\0b",
        "\u{1}\n\u{7f}",
        "\u{202e}\u{feff}",
        "'; drop table log; --",
        "${jndi:x}",
        "a*b",
        "a,,b",
        &long,
        &lists,
    ];
    let mut granted = 0;
    for field in ["topic", "key"] {
        for text in texts {
            let body = json!({ field: text }).to_string();
            let answer = world.post("/api/v1/streams/tickets", body.as_bytes()).await;
            if answer.status == 200 {
                // Whoever got it can follow with it: all that is wrong is where it begins.
                let ticket = answer.json()["ticket"].as_str().unwrap().to_owned();
                let path = format!("/api/v1/streams?since=7&ticket={ticket}");
                let refused = world.server.get(&path).await.is_problem(400, "bad-parameter");
                assert_eq!(refused["field"], "since", "{field} = {text:.20}: {refused}");
                granted += 1;
            } else {
                is_short_problem(&answer, 422, "invalid-field");
                assert_eq!(answer.json()["field"], field, "{answer:?}");
            }
        }
        for kind in [json!(7), json!([]), json!({}), json!(true)] {
            let body = json!({ field: kind }).to_string();
            let answer = world.post("/api/v1/streams/tickets", body.as_bytes()).await;
            is_short_problem(&answer, 422, "invalid-field");
            assert_eq!(answer.json()["field"], field, "{answer:?}");
        }
    }
    assert!(granted > 2, "some keys are only strange");
    world.ends().await;
}

/// Sends a request with a header that no client library would send.
async fn with_header(
    world: &World,
    (method, path): (&str, &str),
    (name, value): (&str, &[u8]),
    body: &[u8],
) -> Answer {
    let address = world.server.address;
    let mut head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\nhost: {address}\r\n");
    if name != "authorization" {
        head = format!("{head}authorization: {}\r\n", world.secret);
    }
    let (kind, of) = JSON;
    head = format!("{head}{kind}: {of}\r\ncontent-length: {}\r\n{name}: ", body.len());
    let mut stream = world.server.connect().await;
    // A server that has heard enough may close while this still writes.
    let _ = stream.write_all(&[head.as_bytes(), value, b"\r\n\r\n", body].concat()).await;
    Answer::read(&mut stream).await
}

async fn hostile_headers_are_refused_or_left_out(place: Place) {
    let world = World::on(&place).await;
    let long = vec![b'x'; 30_000];
    let control: [&[u8]; 3] = [b"\0", b"a\x01b", b"a\x7fb"];
    let others: [&[u8]; 5] = [b"", b"\xff\xfe", b"\xc3\xa4 x", b"a\tb", &long];
    let before = world.seen().await;
    let job = br#"{"topic":"t","payload":1}"#;
    let jobs = ("POST", "/api/v1/jobs");
    let transition = world.path("/api/v1/machines/{name}/entities/{id}/transition");
    let (transition, step) =
        (("POST", transition.as_str()), br#"{"to":"paid","metadata":{"amount":7}}"#);
    let cases: [(_, _, &[u8], u16, &str); 6] = [
        ("idempotency-key", jobs, job, 400, "bad-parameter"),
        ("idempotency-key", ("POST", "/api/v1/messages"), job, 400, "bad-parameter"),
        ("idempotency-key", transition, step, 400, "bad-parameter"),
        ("last-event-id", ("GET", "/api/v1/streams"), b"", 400, "bad-parameter"),
        ("authorization", jobs, job, 401, "unauthenticated"),
        ("authorization", ("GET", "/api/v1/audit"), b"", 401, "unauthenticated"),
    ];
    for (name, route, body, status, code) in cases {
        for value in control {
            let answer = with_header(&world, route, (name, value), body).await;
            assert_eq!((answer.status, &*answer.body), (400, ""), "{name}: {answer:?}");
        }
        for value in others {
            let answer = with_header(&world, route, (name, value), body).await;
            is_short_problem(&answer, status, code);
            assert!(status == 401 || answer.json()["field"] == name, "{answer:?}");
        }
        for value in [[&b"Bearer \xff"[..], &long].concat(), b"Bearer \xff\xfe".to_vec()] {
            let answer = with_header(&world, route, (name, &value), body).await;
            is_short_problem(&answer, status, code);
        }
    }
    assert_eq!(world.seen().await, before);
    // A trace that is none is nobody's fault: the message goes without.
    for path in ["/api/v1/jobs", "/api/v1/messages"] {
        for value in control {
            let answer = with_header(&world, ("POST", path), ("traceparent", value), job).await;
            assert_eq!((answer.status, &*answer.body), (400, ""), "{answer:?}");
        }
        for value in others {
            let answer = with_header(&world, ("POST", path), ("traceparent", value), job).await;
            assert_eq!(answer.status, 202, "{answer:?}");
            let shown = world.get(&answer.headers["location"]).await;
            assert!(shown["headers"].get("traceparent").is_none(), "{shown}");
        }
    }
    world.ends().await;
}

async fn texts_in_paths_that_no_name_has_are_refused_alike(place: Place) {
    let world = World::on(&place).await;
    let before = world.seen().await;
    for Listed { method, path: route, .. } in routes() {
        let parameters = route.split('{').skip(1).map(|rest| rest.split('}').next().unwrap());
        for parameter in parameters {
            for text in ["%00", "%0a", "a%7Fb", "%C2%85", "%ff"] {
                let path = world.path(&route.replace(&format!("{{{parameter}}}"), text));
                let headers = [("authorization", world.secret.as_str()), JSON];
                let body = world.body(&route).to_string();
                let body = if method == "POST" { body.as_bytes() } else { b"" };
                let answer = world.server.ask(method, &path, &headers, body).await;
                is_short_problem(&answer, 400, "bad-parameter");
                // Where it is not even text, all parameters of a path are read in vain.
                if text != "%ff" {
                    assert_eq!(answer.json()["field"], parameter, "{method} {path}: {answer:?}");
                }
            }
        }
    }
    assert_eq!(world.seen().await, before);
    world.ends().await;
}
