//! What is refused says what was wrong: paths, bodies, times, names.

use std::sync::Arc;

use posthaste_server::{NoParts, ServerSettings};

use crate::support::{Place, Running, settings};

#[tokio::test]
async fn part_of_a_path_that_is_no_text_is_named() {
    let place = Place::sqlite().await;
    let server = Running::start(&place).await;
    for (path, field) in [
        ("/api/v1/machines/course/entities/%FF", "id"),
        ("/api/v1/machines/%FF/entities/a", "name"),
        ("/api/v1/dead-letters/%FF/018f0000-0000-7000-8000-000000000001", "subscription"),
    ] {
        let problem = server.get(path).await.is_problem(400, "bad-parameter");
        assert_eq!(problem["field"], field, "{path}");
    }
    server.ends().await;
}

#[tokio::test]
async fn body_that_is_packed_is_refused_as_what_it_is() {
    let place = Place::sqlite().await;
    let server = Running::start(&place).await;
    let send = async |coding: &str, body: &[u8]| {
        let headers = [("content-type", "application/json"), ("content-encoding", coding)];
        server.ask("POST", "/api/v1/messages", &headers, body).await
    };
    let packed = send("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00").await;
    let problem = packed.is_problem(415, "not-json");
    assert_eq!(problem["field"], "content-encoding");
    assert!(problem["detail"].as_str().unwrap().contains("gzip"), "{problem}");
    assert_eq!(send("identity", br#"{"topic":"a"}"#).await.status, 202);
    server.ends().await;
}

#[tokio::test]
async fn range_of_time_that_ends_before_it_begins_is_refused() {
    let place = Place::sqlite().await;
    let server = Running::start(&place).await;
    let backwards = "since=2027-01-02T00:00:00Z&until=2027-01-01T00:00:00Z";
    for list in ["messages", "dead-letters", "dead-letters/groups", "audit"] {
        let problem = server.get(&format!("/api/v1/{list}?{backwards}")).await;
        assert_eq!(problem.is_problem(400, "bad-parameter")["field"], "since", "{list}");
    }
    let body = r#"{"since":"2027-01-02T00:00:00Z","until":"2027-01-01T00:00:00Z"}"#;
    let problem = server.post("/api/v1/dead-letters/replay", body).await;
    assert_eq!(problem.is_problem(422, "invalid-field")["field"], "since");
    // The last day is one of the times that there are.
    let last = "9999-12-31T23:00:00Z";
    let sent =
        server.post("/api/v1/messages", &format!(r#"{{"topic":"a","deliver_at":"{last}"}}"#)).await;
    assert_eq!(sent.status, 202, "{sent:?}");
    let shown = server.get(&sent.headers["location"]).await.json();
    assert_eq!(shown["deliver_at"], "9999-12-31T23:00:00.000000Z");
    let strange = r#"{"topic":"a","deliver_at":"2027-01-01T00:00:00+25:00"}"#;
    server.post("/api/v1/messages", strange).await.is_problem(422, "invalid-field");
    server.ends().await;
}

#[tokio::test]
async fn pages_of_other_origins_hear_where_something_was_made() {
    let place = Place::sqlite().await;
    let origin = "https://admin.example";
    let settings = ServerSettings { cors_origins: vec![origin.to_owned()], ..settings() };
    let server = Running::with(&place, settings, Arc::new(NoParts)).await;
    let answer = server.ask("GET", "/livez", &[("origin", origin)], b"").await;
    let told = &answer.headers["access-control-expose-headers"];
    assert!(told.split(',').any(|name| name.trim() == "location"), "{told}");
    server.ends().await;
}
