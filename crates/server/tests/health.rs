//! Health, as probes and monitors read it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use posthaste_core::{Message, TopicFilter};
use posthaste_server::{Parts, RelayPart, ServerSettings};
use posthaste_store::{Start, SubscriptionSpec};
use posthaste_testkit::{Postgres, PostgresOptions as Servers};
use serde_json::{Value, json};

use crate::support::{Place, Running, on_both_stores, settings};

on_both_stores! {
    r37_health_tells_of_database_relay_and_outbox,
}

/// A relay that is as it is set.
#[derive(Default)]
struct Played {
    is_broken: AtomicBool,
}

impl Parts for Played {
    fn metrics(&self) -> Option<String> {
        Some("played_total 1\n".to_owned())
    }

    fn is_alive(&self) -> bool {
        !self.is_broken.load(Ordering::Relaxed)
    }

    fn readiness(&self) -> (bool, Value) {
        (self.is_alive(), json!({ "relay": { "ready": self.is_alive() } }))
    }

    fn relay(&self) -> Option<RelayPart> {
        Some(RelayPart {
            is_alive: self.is_alive(),
            poll_interval: Duration::from_millis(200),
            processed: 7,
            failed: 1,
            last_error: Some("away".to_owned()),
        })
    }
}

async fn r37_health_tells_of_database_relay_and_outbox(place: Place) {
    let parts = Arc::new(Played::default());
    let server = Running::with(&place, settings(), Arc::clone(&parts) as _).await;
    let (_, store) = place.store().await;
    let filter = TopicFilter::new(&["*"]).unwrap();
    let spec = SubscriptionSpec { name: "a".to_owned(), filter, start: Start::Beginning };
    store.reconcile(&[spec]).await.unwrap();
    store.append(&[Message::new("t").text("1"), Message::new("t").text("2")]).await.unwrap();
    store.ticker().advance().await.unwrap();
    for (path, field) in [("/livez", "alive"), ("/readyz", "ready"), ("/health", "ready")] {
        let answer = server.get(path).await;
        assert_eq!(
            (answer.status, &answer.json()[field]),
            (200, &json!(true)),
            "{path}: {answer:?}"
        );
    }
    for path in ["/health/deep", "/api/v1/health"] {
        let deep = server.get(path).await;
        assert_eq!(deep.status, 200, "{deep:?}");
        let deep = deep.json();
        assert_eq!(
            (&deep["status"], &deep["database"]["ok"]),
            (&json!("ok"), &json!(true)),
            "{deep}"
        );
        assert_eq!(
            (&deep["outbox"]["pending"], &deep["parts"]["relay"]["ready"]),
            (&json!(2), &json!(true))
        );
        assert!(deep["outbox"]["oldest_age_ms"].is_number(), "{deep}");
    }
    let outbox = server.get("/api/health/outbox").await;
    assert_eq!(outbox.status, 200, "{outbox:?}");
    let outbox = outbox.json();
    assert_eq!((&outbox["alive"], &outbox["queueDepth"]), (&json!(true), &json!(2)), "{outbox}");
    assert!(outbox["pollInterval"] == 200 && outbox.get("lastProcessed").is_some(), "{outbox}");
    let statistics = json!({
        "processed": 7, "failed": 1, "pending": 2, "deadLetters": 0, "lastError": "away", "status": "running",
    });
    assert_eq!(outbox["statistics"], statistics);
    let metrics = server.get("/metrics").await;
    assert_eq!((metrics.status, metrics.body.as_str()), (200, "played_total 1\n"));
    parts.is_broken.store(true, Ordering::Relaxed);
    for path in
        ["/livez", "/readyz", "/health", "/health/deep", "/api/v1/health", "/api/health/outbox"]
    {
        let answer = server.get(path).await;
        assert_eq!(answer.status, 503, "{path}: {answer:?}");
        assert_eq!(answer.headers["content-type"], "application/json");
    }
    server.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_that_is_away_is_told_within_the_limit_and_submissions_are_refused() {
    let postgres = Postgres::start_with(Servers::default());
    let place = Place::on(postgres.database().await).await;
    let limit = Duration::from_millis(500);
    let settings = ServerSettings { health_timeout: limit, ..settings() };
    let server = Running::with(&place, settings, Arc::new(Played::default())).await;
    assert_eq!(server.get("/health/deep").await.status, 200);
    postgres.stop();
    let deep = server.get("/health/deep").await;
    assert_eq!((deep.status, &deep.json()["database"]["ok"]), (503, &json!(false)), "{deep:?}");
    assert!(!deep.body.contains(&postgres.port().to_string()), "{deep:?}");
    assert_eq!(server.get("/livez").await.status, 200, "starting anew would not help");
    let refused = server.post("/api/v1/jobs", r#"{"topic":"t","payload":1}"#).await;
    refused.is_problem(503, "database-unavailable");
    assert_eq!(refused.headers["retry-after"], "1");
    postgres.restart();
    posthaste_testkit::eventually_async("it to be back", crate::support::LIMIT, async || {
        server.post("/api/v1/jobs", r#"{"topic":"t","payload":1}"#).await.status == 202
    })
    .await;
    server.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_that_was_given_up_is_not_begun_again_at_once() {
    let place = Place::postgres().await;
    let settings = ServerSettings { health_timeout: Duration::from_secs(5), ..settings() };
    let server = Running::with(&place, settings, Arc::new(Played::default())).await;
    let client = place.database().connect().await;
    let mut other = place.database().connect().await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("lock table posthaste.log").await.unwrap();
    for _ in 0..5 {
        assert_eq!(server.get("/api/health/outbox").await.status, 503);
    }
    let sql = "select count(*) from pg_stat_activity \
               where datname = current_database() and wait_event_type = 'Lock'";
    let waiting: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
    assert!(waiting <= 1, "{waiting} readings wait in the database");
    lock.rollback().await.unwrap();
    server.ends().await;
}
