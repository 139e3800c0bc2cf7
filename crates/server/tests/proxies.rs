//! Behind a proxy: what is believed of it, and the path under which it offers the server.

use std::sync::Arc;

use posthaste_server::{NoParts, Scope, ServerSettings};
use serde_json::json;

use crate::support::{Place, Running, settings, token};

/// A server that is offered under a path, and the secret of a token that may do everything.
async fn behind(place: &Place, trusted_proxies: &[&str]) -> (Running, String) {
    let (token, secret) = token(&[Scope::Admin], None);
    let mut settings = ServerSettings {
        trusted_proxies: trusted_proxies.iter().map(ToString::to_string).collect(),
        base_path: "/post".to_owned(),
        hosts: vec!["post.example".to_owned()],
        ..settings()
    };
    settings.tokens.insert("all".to_owned(), token);
    (Running::with(place, settings, Arc::new(NoParts)).await, secret)
}

#[tokio::test]
async fn paths_are_served_with_the_base_path_and_without() {
    let place = Place::sqlite().await;
    let (server, secret) = behind(&place, &[]).await;
    for path in ["/post/livez", "/livez", "/post/livez?"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    for path in ["/postal/livez", "/post/post/livez", "/post"] {
        server.get(path).await.is_problem(404, "no-route");
    }
    let described = server.get("/post/api/v1/openapi.json").await.json();
    assert_eq!(described["servers"], json!([{ "url": "/post" }]));
    let headers = [("authorization", secret.as_str()), ("content-type", "application/json")];
    let new = &br#"{"topic":"a","payload":1}"#[..];
    for (path, list, body) in [
        ("/api/v1/jobs", "jobs", new),
        ("/api/v1/messages", "messages", new),
        ("/api/v1/dead-letters/discard", "operations", br#"{"all":true}"#),
    ] {
        let accepted = server.ask("POST", path, &headers, body).await;
        let location = accepted.headers["location"].clone();
        assert!(location.starts_with(&format!("/post/api/v1/{list}/")), "{path}: {location}");
        assert_eq!(server.ask("GET", &location, &headers[..1], b"").await.status, 200);
    }
}

#[tokio::test]
async fn only_a_trusted_proxy_names_the_host() {
    let place = Place::sqlite().await;
    let forwarded =
        |host: &'static str| [("x-forwarded-host", host), ("x-forwarded-for", "9.9.9.9")];
    let (trusting, _) = behind(&place, &["127.0.0.0/8"]).await;
    let answer = trusting.ask("GET", "/livez", &forwarded("post.example"), b"").await;
    assert_eq!(answer.status, 200);
    let answer = trusting.ask("GET", "/livez", &forwarded("evil.example"), b"").await;
    answer.is_problem(421, "unknown-host");
    let page = [&forwarded("post.example")[..], &[("origin", "https://post.example")]].concat();
    assert_eq!(trusting.ask("GET", "/livez", &page, b"").await.status, 200);
    // Believed of nobody: the name that the connection itself gives is what counts.
    let (cautious, _) = behind(&place, &["10.0.0.0/8"]).await;
    let answer = cautious.ask("GET", "/livez", &forwarded("evil.example"), b"").await;
    assert_eq!(answer.status, 200);
    cautious.ask("GET", "/livez", &page, b"").await.is_problem(403, "origin-not-allowed");
}

#[tokio::test]
async fn proxy_before_a_server_without_tokens_is_found_out() {
    let place = Place::sqlite().await;
    let server = Running::start(&place).await;
    for name in ["x-forwarded-for", "x-forwarded-host", "forwarded"] {
        let answer = server.ask("GET", "/api/v1/jobs", &[(name, "x")], b"").await;
        let problem = answer.is_problem(403, "untrusted-proxy");
        assert!(problem["detail"].as_str().unwrap().contains("server.trusted_proxies"));
    }
    assert_eq!(server.get("/api/v1/jobs").await.status, 200);
}
