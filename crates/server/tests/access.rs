//! Who may do what: every route with every scope, topics, names and origins.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use posthaste_server::{
    Access, NewSecret, NoParts, Scope, Server, ServerErrorKind, ServerSettings, TokenSettings,
    routes,
};
use serde_json::json;

use crate::support::{Answer, Place, Running, on_both_stores, settings, table::ROUTES, token};

on_both_stores! {
    every_route_asks_for_its_scope_and_for_nothing_less,
    routes_that_concern_all_topics_refuse_tokens_of_some,
    token_of_some_topics_sees_and_submits_those_alone,
    token_of_some_topics_sees_and_enqueues_messages_of_those_alone,
    payloads_and_headers_of_messages_are_for_those_who_may_see_them,
}

/// Name, scopes and topics.
type Asked<'a> = (&'static str, &'a [Scope], Option<&'a [&'a str]>);
type Secrets = BTreeMap<&'static str, String>;

pub(crate) async fn with_tokens(place: &Place, tokens: &[Asked<'_>]) -> (Running, Secrets) {
    let mut settings = settings();
    let mut secrets = Secrets::new();
    for (name, scopes, topics) in tokens {
        let (token, secret) = token(scopes, *topics);
        settings.tokens.insert((*name).to_owned(), token);
        secrets.insert(name, secret);
    }
    (Running::with(place, settings, Arc::new(NoParts)).await, secrets)
}

/// Calls a route with a body that it can read.
async fn call(server: &Running, method: &str, path: &str, token: Option<&str>) -> Answer {
    // A stream that begins does not end by itself.
    let path = if path == "/api/v1/streams" { "/api/v1/streams?since=7" } else { path };
    let path = path
        .replace("{id}", "018f0000-0000-7000-8000-000000000001")
        .replace("{name}", "nobody")
        .replace("{subscription}", "nobody")
        .replace("{topic}", "nothing");
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(token.map(|token| ("authorization", token)));
    let is_new = ["/api/v1/jobs", "/api/v1/messages"].contains(&&*path);
    let body: &[u8] = if is_new { br#"{"topic":"a","payload":1}"# } else { b"{}" };
    server.ask(method, &path, &headers, if method == "POST" { body } else { b"" }).await
}

#[test]
fn routes_ask_for_what_is_written_down_for_them() {
    let served =
        routes().into_iter().map(|it| format!("{} {} {:?}", it.method, it.path, it.access));
    let served: BTreeSet<String> = served.collect();
    let written = ROUTES.iter().map(|(method, path, access)| format!("{method} {path} {access:?}"));
    let written: BTreeSet<String> = written.collect();
    let differ: Vec<&String> = served.symmetric_difference(&written).collect();
    assert!(differ.is_empty(), "tests/support/table.rs and src/routes.rs differ in {differ:#?}");
    assert_eq!(routes().len(), ROUTES.len());
}

async fn every_route_asks_for_its_scope_and_for_nothing_less(place: Place) {
    let each: Vec<_> = Scope::ALL
        .iter()
        .map(|scope| (scope.as_str(), std::slice::from_ref(scope), None))
        .collect();
    let (server, secrets) = with_tokens(&place, &each).await;
    for (method, path, access) in ROUTES {
        let without = call(&server, method, path, None).await;
        let wrong = call(&server, method, path, Some("Bearer posthaste_wrong")).await;
        let asked = match access {
            Access::Public => {
                assert_eq!((without.status, wrong.status), (200, 200), "{path}: {without:?}");
                continue;
            }
            Access::Scope(scope)
            | Access::Whole(scope)
            | Access::Entities(scope)
            | Access::Ticket(scope) => scope,
        };
        without.is_problem(401, "unauthenticated");
        assert_eq!(without.headers["www-authenticate"], "Bearer");
        wrong.is_problem(401, "unknown-token");
        for scope in Scope::ALL {
            let answer = call(&server, method, path, Some(&secrets[scope.as_str()])).await;
            if scope == asked || scope == Scope::Admin {
                assert!(![401, 403].contains(&answer.status), "{scope} at {path}: {answer:?}");
                // No relay runs here, which two of them tell.
                let tells = ["/api/health/outbox", "/api/v1/metrics/health"].contains(&path);
                let is_well = answer.status < 500 || tells;
                assert!(is_well, "{scope} at {path}: {answer:?}");
            } else {
                answer.is_problem(403, "scope-missing");
            }
        }
    }
    server.ends().await;
}

async fn routes_that_concern_all_topics_refuse_tokens_of_some(place: Place) {
    let some: Option<&[&str]> = Some(&["shop."]);
    let tokens: &[Asked<'_>] =
        &[("shop", &Scope::ALL, some), ("operator", &[Scope::View, Scope::Operate], some)];
    let (server, secrets) = with_tokens(&place, tokens).await;
    for (method, path, access) in ROUTES {
        for secret in secrets.values() {
            let answer = call(&server, method, path, Some(secret)).await;
            if matches!(access, Access::Whole(_) | Access::Entities(_)) {
                answer.is_problem(403, "topic-not-allowed");
            } else if method == "GET" && path != "/api/v1/streams" {
                // A stream is of all topics unless it names some.
                assert_ne!(answer.status, 403, "{path}: {answer:?}");
            }
        }
    }
    server.ends().await;
}

async fn token_of_some_topics_sees_and_submits_those_alone(place: Place) {
    let scopes = &[Scope::View, Scope::Enqueue, Scope::Operate];
    let (server, secrets) =
        with_tokens(&place, &[("shop", scopes, Some(&["shop."])), ("all", &[Scope::Admin], None)])
            .await;
    let ask = async |name: &str, method: &str, path: &str, body: &str| {
        let headers =
            [("authorization", secrets[name].as_str()), ("content-type", "application/json")];
        server.ask(method, path, &headers, body.as_bytes()).await
    };
    let foreign = json!({ "topic": "bank.pay", "payload": 1 }).to_string();
    ask("shop", "POST", "/api/v1/jobs", &foreign).await.is_problem(403, "topic-not-allowed");
    let foreign = ask("all", "POST", "/api/v1/jobs", &foreign).await.json();
    let own = json!({ "topic": "shop.sell", "payload": 1 }).to_string();
    let own = ask("shop", "POST", "/api/v1/jobs", &own).await.json();
    for n in 0..5 {
        let more = json!({ "topic": "bank.pay", "payload": n }).to_string();
        ask("all", "POST", "/api/v1/jobs", &more).await;
    }
    let mut path = "/api/v1/jobs?limit=2".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = ask("shop", "GET", &path, "").await.json();
        seen.extend(page["jobs"].as_array().unwrap().iter().map(|job| job["id"].clone()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/jobs?limit=2&cursor={next}");
    }
    assert_eq!(seen, [own["id"].clone()]);
    let id = foreign["id"].as_str().unwrap();
    ask("shop", "GET", &format!("/api/v1/jobs/{id}"), "").await.is_problem(404, "no-job");
    ask("shop", "POST", &format!("/api/v1/jobs/{id}/cancel"), "").await.is_problem(404, "no-job");
    assert_eq!(
        ask("all", "GET", &format!("/api/v1/jobs/{id}"), "").await.json()["status"],
        "created"
    );
    // By its id the other's job can be neither taken nor seen.
    let twin = json!({ "topic": "shop.sell", "payload": 1, "jobspec_id": id }).to_string();
    ask("shop", "POST", "/api/v1/jobs", &twin).await.is_problem(403, "topic-not-allowed");
    ask("shop", "GET", "/api/v1/subscriptions", "").await.is_problem(403, "topic-not-allowed");
    server.ends().await;
}

async fn token_of_some_topics_sees_and_enqueues_messages_of_those_alone(place: Place) {
    let scopes = &[Scope::View, Scope::Enqueue, Scope::Operate];
    let (server, secrets) =
        with_tokens(&place, &[("shop", scopes, Some(&["shop."])), ("all", &[Scope::Admin], None)])
            .await;
    let ask = async |name: &str, method: &str, path: &str, body: &str| {
        let headers =
            [("authorization", secrets[name].as_str()), ("content-type", "application/json")];
        server.ask(method, &format!("/api/v1/messages{path}"), &headers, body.as_bytes()).await
    };
    let later = "2100-01-01T00:00:00Z";
    let foreign = json!({ "topic": "bank.pay", "deliver_at": later }).to_string();
    ask("shop", "POST", "", &foreign).await.is_problem(403, "topic-not-allowed");
    let foreign = ask("all", "POST", "", &foreign).await.json();
    let mut own = Vec::new();
    for n in 0..5 {
        for (name, topic) in [("all", "bank.pay"), ("shop", "shop.sell"), ("all", "shop")] {
            let body = json!({ "topic": topic, "payload": n }).to_string();
            let id = ask(name, "POST", "", &body).await.json()["id"].clone();
            if topic == "shop.sell" {
                own.insert(0, id);
            }
        }
    }
    for query in ["?limit=2", "?limit=2&topic=*", "?limit=2&topic=shop*", "?limit=2&state=unread"] {
        let (mut path, mut seen) = (query.to_owned(), Vec::new());
        loop {
            let page = ask("shop", "GET", &path, "").await.json();
            seen.extend(page["messages"].as_array().unwrap().iter().map(|it| it["id"].clone()));
            let Some(next) = page["next"].as_str() else { break };
            path = format!("{query}&cursor={next}");
        }
        assert_eq!(seen, own, "{query}");
    }
    for query in ["?topic=bank.*", "?state=scheduled", "?topic=shop"] {
        let page = ask("shop", "GET", query, "").await.json();
        assert_eq!(page["messages"], json!([]), "{query}");
    }
    let id = foreign["id"].as_str().unwrap();
    ask("shop", "GET", &format!("/{id}"), "").await.is_problem(404, "no-message");
    ask("shop", "POST", &format!("/{id}/cancel"), "").await.is_problem(404, "no-message");
    assert_eq!(ask("all", "GET", &format!("/{id}"), "").await.json()["state"], "scheduled");
    server.ends().await;
}

async fn payloads_and_headers_of_messages_are_for_those_who_may_see_them(place: Place) {
    let tokens: &[(_, &[Scope], _)] = &[
        ("viewer", &[Scope::View], None),
        ("reader", &[Scope::View, Scope::Payloads], None),
        ("writer", &[Scope::Enqueue], None),
    ];
    let (server, secrets) = with_tokens(&place, tokens).await;
    let body = br#"{"topic":"a","payload":"secret","headers":{"h":"secret"}}"#;
    let headers = [("authorization", &*secrets["writer"]), ("content-type", "application/json")];
    let id = server.ask("POST", "/api/v1/messages", &headers, body).await.json()["id"].clone();
    let path = format!("/api/v1/messages/{}", id.as_str().unwrap());
    let by_header =
        "/api/v1/messages?header=h=secret&since=2026-01-01T00:00:00Z&until=2026-01-01T01:00:00Z";
    for (name, sees) in [("viewer", false), ("reader", true)] {
        let ask = async |path| {
            let headers = [("authorization", &*secrets[name])];
            server.ask("GET", path, &headers, b"").await
        };
        let shown = ask(&path).await;
        assert_eq!((shown.status, shown.body.contains("secret")), (200, sees), "{shown:?}");
        assert!(!ask("/api/v1/messages").await.body.contains("secret"));
        // Whoever may not see headers may not ask what is in them.
        let asked = ask(by_header).await;
        if sees {
            assert_eq!(asked.status, 200, "{asked:?}");
        } else {
            assert_eq!(asked.is_problem(403, "scope-missing")["field"], "header");
        }
    }
    server.ends().await;
}

#[tokio::test]
async fn payloads_are_for_those_who_may_see_them() {
    let place = Place::sqlite().await;
    let tokens: &[(_, &[Scope], _)] = &[
        ("viewer", &[Scope::View], None),
        ("reader", &[Scope::View, Scope::Payloads], None),
        ("writer", &[Scope::Enqueue], None),
    ];
    let (server, secrets) = with_tokens(&place, tokens).await;
    let body = r#"{"topic":"a","payload":{"secret":1},"headers":{"h":"v"}}"#;
    let headers = [("authorization", &*secrets["writer"]), ("content-type", "application/json")];
    let id =
        server.ask("POST", "/api/v1/jobs", &headers, body.as_bytes()).await.json()["id"].clone();
    let path = format!("/api/v1/jobs/{}", id.as_str().unwrap());
    let get =
        async |name| server.ask("GET", &path, &[("authorization", &*secrets[name])], b"").await;
    let seen = get("viewer").await;
    assert!(seen.status == 200 && !seen.body.contains("secret"), "{seen:?}");
    let seen = get("reader").await.json();
    assert_eq!(
        (&seen["payload"], &seen["headers"]),
        (&json!({ "secret": 1 }), &json!({ "h": "v" }))
    );
    get("writer").await.is_problem(403, "scope-missing");
}

#[tokio::test]
async fn old_and_new_secret_are_good_until_the_token_expires() {
    let place = Place::sqlite().await;
    let (old, new) = (NewSecret::random(), NewSecret::random());
    let both = vec![old.sha256.clone(), new.sha256.clone()];
    let token = |expires: &str| TokenSettings {
        secret_sha256: both.clone(),
        scopes: vec![Scope::View],
        expires: Some(expires.to_owned()),
        ..TokenSettings::default()
    };
    for (expires, status) in [("2999-01-01T00:00:00Z", 200), ("2020-01-01T00:00:00Z", 401)] {
        let mut settings = settings();
        settings.tokens.insert("ci".to_owned(), token(expires));
        let server = Running::with(&place, settings, Arc::new(NoParts)).await;
        for secret in [&old.secret, &new.secret] {
            let header = format!("Bearer {secret}");
            let answer =
                server.ask("GET", "/api/v1/jobs", &[("authorization", &header)], b"").await;
            assert_eq!(answer.status, status, "{answer:?}");
        }
        server.ends().await;
    }
}

#[tokio::test]
async fn address_of_other_machines_without_tokens_is_refused_at_the_start() {
    let place = Place::sqlite().await;
    let start = async |settings: ServerSettings| {
        let (jobs, operations) = place.store().await;
        Server::new(settings, jobs, operations).map(drop)
    };
    let open = ServerSettings { listen: ([0, 0, 0, 0], 0).into(), ..settings() };
    let error = start(open.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ServerErrorKind::Settings);
    let text = error.to_string();
    for part in ["server.listen = \"0.0.0.0:0\"", "posthaste tokens new", "allow_anonymous = true"]
    {
        assert!(text.contains(part), "{text}");
    }
    start(ServerSettings { allow_anonymous: true, ..open }).await.unwrap();
}

#[tokio::test]
async fn foreign_names_and_origins_are_refused_before_any_route() {
    let place = Place::sqlite().await;
    let origins = vec!["https://admin.example".to_owned()];
    let settings = ServerSettings { cors_origins: origins, ..settings() };
    let server = Running::with(&place, settings, Arc::new(NoParts)).await;
    let body = br#"{"topic":"a","payload":1}"#;
    for path in ["/livez", "/nowhere"] {
        let rebound = server.ask("GET", path, &[("host", "evil.example")], b"").await;
        rebound.is_problem(421, "unknown-host");
    }
    let evil = [("origin", "https://evil.example"), ("content-type", "application/json")];
    let refused = server.ask("POST", "/api/v1/jobs", &evil, body).await;
    refused.is_problem(403, "origin-not-allowed");
    assert!(!refused.headers.contains_key("access-control-allow-origin"));
    let preflight = async |origin| {
        let headers = [("origin", origin), ("access-control-request-method", "POST")];
        server.ask("OPTIONS", "/api/v1/jobs", &headers, b"").await
    };
    assert_eq!(preflight("https://evil.example").await.status, 403);
    let allowed = preflight("https://admin.example").await;
    assert_eq!(allowed.status, 200, "{allowed:?}");
    assert_eq!(allowed.headers["access-control-allow-origin"], "https://admin.example");
    let own = [("origin", "https://admin.example"), ("content-type", "application/json")];
    let answer = server.ask("POST", "/api/v1/jobs", &own, body).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.headers["access-control-allow-origin"], "https://admin.example");
}
