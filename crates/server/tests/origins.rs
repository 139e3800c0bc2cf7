//! Pages of another origin: what their browsers may send, and that they can read every answer, refusals too.

use std::{sync::Arc, time::Duration};

use posthaste_server::{Parts, Scope, ServerSettings};

use crate::support::{Answer, Place, Running, settings, token};

const ORIGIN: &str = "https://admin.example";

/// Breaks where it is asked for metrics.
struct Broken;

impl Parts for Broken {
    fn metrics(&self) -> Option<String> {
        panic!("a test breaks it")
    }
}

/// A server that pages of `ORIGIN` may call, and the secret of a token that may do everything.
async fn of_pages(place: &Place, own: ServerSettings) -> (Running, String) {
    let (token, secret) = token(&[Scope::Admin], None);
    let mut own = ServerSettings { cors_origins: vec![ORIGIN.to_owned()], ..own };
    own.tokens.insert("page".to_owned(), token);
    (Running::with(place, own, Arc::new(Broken)).await, secret)
}

/// The page is shown the refusal, its id, and how long to wait.
fn is_readable(answer: &Answer, status: u16, code: &str) {
    answer.is_problem(status, code);
    assert_eq!(answer.headers["access-control-allow-origin"], ORIGIN, "{answer:?}");
    let shown = &answer.headers["access-control-expose-headers"];
    for header in ["x-request-id", "retry-after"] {
        assert!(shown.contains(header), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_can_read_refusals_and_faults() {
    let place = Place::sqlite().await;
    let own = ServerSettings { streams_max: 1, ..settings() };
    let (server, secret) = of_pages(&place, own).await;
    let get = async |path: &str| {
        let headers = [("origin", ORIGIN), ("authorization", secret.as_str())];
        server.ask("GET", path, &headers, b"").await
    };
    let nobody = server.ask("GET", "/api/v1/jobs", &[("origin", ORIGIN)], b"").await;
    is_readable(&nobody, 401, "unauthenticated");
    let gone = get("/api/v1/streams?since=3/0192f7aabbcc7ddd8eeeffff00001111").await;
    is_readable(&gone, 410, "stream-gone");
    let open = [("authorization", secret.as_str())];
    let _open = crate::streams::Client::follow(&server, "", &open).await;
    is_readable(&get("/api/v1/streams").await, 429, "too-many-streams");
    is_readable(&get("/nowhere").await, 404, "no-route");
    is_readable(&get("/metrics").await, 500, "internal");
    server.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_can_read_that_a_request_took_too_long() {
    let place = Place::postgres().await;
    let own = ServerSettings { request_timeout: Duration::from_millis(200), ..settings() };
    let (server, secret) = of_pages(&place, own).await;
    let mut client = place.database().connect().await;
    let lock = client.transaction().await.unwrap();
    lock.batch_execute("lock table posthaste.job").await.unwrap();
    let headers = [("origin", ORIGIN), ("authorization", secret.as_str())];
    let late = server.ask("GET", "/api/v1/jobs", &headers, b"").await;
    is_readable(&late, 504, "timed-out");
    lock.rollback().await.unwrap();
    server.ends().await;
}

#[tokio::test]
async fn pages_may_send_what_the_api_reads() {
    let place = Place::sqlite().await;
    let (server, _) = of_pages(&place, settings()).await;
    for (path, method) in [("/api/v1/jobs", "POST"), ("/api/v1/streams", "GET")] {
        let wanted = "authorization,content-type,idempotency-key,last-event-id,traceparent,\
                      tracestate,x-request-id";
        let headers = [
            ("origin", ORIGIN),
            ("access-control-request-method", method),
            ("access-control-request-headers", wanted),
        ];
        let allowed = server.ask("OPTIONS", path, &headers, b"").await;
        assert_eq!(allowed.status, 200, "{allowed:?}");
        assert_eq!(allowed.headers["access-control-allow-origin"], ORIGIN);
        let mut named: Vec<&str> =
            allowed.headers["access-control-allow-headers"].split(',').map(str::trim).collect();
        named.sort_unstable();
        assert_eq!(named.join(","), wanted);
        assert_eq!(allowed.headers["access-control-allow-methods"], "GET,POST");
        // Tokens are headers, which scripts set: nothing that a browser keeps goes with a request.
        assert!(!allowed.headers.contains_key("access-control-allow-credentials"), "{allowed:?}");
    }
    server.ends().await;
}
