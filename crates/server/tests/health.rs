//! Health, as probes and monitors read it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use posthaste_core::{Message, NewJob, TopicFilter};
use posthaste_server::{Parts, RelayPart, Server, ServerSettings, SinkPart, Telemetry, WorkerPart};
use posthaste_store::{Acquired, Operations, Settled, Start, SubscriptionSpec};
use posthaste_testkit::{Postgres, PostgresOptions as Servers, eventually_async};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::support::{LIMIT, Place, Running, on_both_stores, settings};

on_both_stores! {
    r37_health_tells_of_database_relay_and_outbox,
    r37_outbox_tells_when_it_processed_last_and_whether_it_runs_is_idle_or_stopped,
    r39_metrics_api_tells_of_outbox_machines_fallbacks_jobs_and_health,
}

/// A relay that is as it is set.
#[derive(Default)]
struct Played {
    is_broken: AtomicBool,
    is_mended: AtomicBool,
    sink_refuses: AtomicBool,
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

    fn workers(&self) -> Vec<WorkerPart> {
        let part = |name: &str| WorkerPart {
            name: name.to_owned(),
            completed: 5,
            failed: 4,
            dead: 3,
            republished: 2,
            mended: 1,
            unmended: 6,
        };
        vec![part("one"), part("two")]
    }

    fn relay(&self) -> Option<RelayPart> {
        Some(RelayPart {
            is_alive: self.is_alive(),
            poll_interval: Duration::from_millis(200),
            processed: 7,
            failed: 1,
            retries: 2,
            batches: 4,
            answering: Duration::from_millis(6),
            last_error: (!self.is_mended.load(Ordering::Relaxed)).then(|| "away".to_owned()),
            sinks: vec![SinkPart {
                subscription: "a".to_owned(),
                problem: self.sink_refuses.load(Ordering::Relaxed).then(|| "refused".to_owned()),
            }],
        })
    }
}

/// Settles the log up to a position, as a relay does that has published so far.
async fn settle(store: &dyn Operations, through: i64) {
    let lease = Duration::from_mins(5);
    let Acquired::Taken(epoch, place) = store.acquire("a", "a relay", lease).await.unwrap() else {
        panic!("nobody else holds it")
    };
    let mut ticker = store.ticker();
    let mut head = ticker.advance().await.unwrap().tick;
    // What is committed is covered after some looks.
    for _ in 0..5 {
        head = ticker.advance().await.unwrap().tick;
    }
    let place =
        if through == 2 { place.finished(head) } else { place.moved_to(head, through, None) };
    assert_eq!(store.settle("a", epoch, &place).await.unwrap(), Settled::Recorded);
    store.release("a", epoch).await.unwrap();
}

/// A server whose log holds two messages, which a subscription has yet to publish.
async fn two_messages(place: &Place) -> (Arc<Played>, Running, Arc<dyn Operations>) {
    let parts = Arc::new(Played::default());
    let server = Running::with(place, settings(), Arc::clone(&parts) as _).await;
    let (_, store) = place.store().await;
    let filter = TopicFilter::new(&["*"]).unwrap();
    let spec = SubscriptionSpec { name: "a".to_owned(), filter, start: Start::Beginning };
    store.reconcile(&[spec]).await.unwrap();
    store.append(&[Message::new("t").text("1"), Message::new("t").text("2")]).await.unwrap();
    (parts, server, store)
}

async fn r37_health_tells_of_database_relay_and_outbox(place: Place) {
    let (parts, server, store) = two_messages(&place).await;
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
        let sink = json!({ "subscription": "a", "ok": true, "problem": null });
        assert_eq!(deep["broker"], json!({ "ok": true, "sinks": [sink] }));
    }
    parts.sink_refuses.store(true, Ordering::Relaxed);
    for path in ["/health/deep", "/api/v1/health"] {
        let deep = server.get(path).await;
        assert_eq!((deep.status, &deep.json()["status"]), (503, &json!("failing")), "{deep:?}");
        let sink = json!({ "subscription": "a", "ok": false, "problem": "refused" });
        assert_eq!(deep.json()["broker"], json!({ "ok": false, "sinks": [sink] }));
    }
    assert_eq!(server.get("/readyz").await.status, 200, "it comes back by itself");
    parts.sink_refuses.store(false, Ordering::Relaxed);
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

async fn r37_outbox_tells_when_it_processed_last_and_whether_it_runs_is_idle_or_stopped(
    place: Place,
) {
    let (parts, server, store) = two_messages(&place).await;
    let told = server.get("/api/health/outbox").await.json();
    assert_eq!(told["lastProcessed"], Value::Null, "nothing is settled yet: {told}");
    // Figures may be some seconds old.
    let outbox = async || server.get("/api/health/outbox").await.json();
    settle(&*store, 1).await;
    let one = async || outbox().await["queueDepth"] == 1;
    eventually_async("the first message to be settled", LIMIT, one).await;
    let told = outbox().await;
    let first = told["lastProcessed"].as_str().expect("a time").to_owned();
    let at = store.status().await.unwrap().subscriptions[0].progress.at.expect("it is settled");
    assert_eq!(first.parse::<jiff::Timestamp>().unwrap().as_microsecond(), at.0, "{told}");
    assert_eq!(told["statistics"]["status"], "running", "{told}");
    settle(&*store, 2).await;
    let idle = async || outbox().await["statistics"]["status"] == "idle";
    eventually_async("it to be idle", LIMIT, idle).await;
    let told = outbox().await;
    assert_eq!((&told["alive"], &told["queueDepth"]), (&json!(true), &json!(0)), "{told}");
    assert!(told["lastProcessed"].as_str().unwrap() > &*first, "{told}");
    parts.is_broken.store(true, Ordering::Relaxed);
    let told = outbox().await;
    assert_eq!((&told["alive"], &told["statistics"]["status"]), (&json!(false), &json!("stopped")));
    server.ends().await;
}

async fn r39_metrics_api_tells_of_outbox_machines_fallbacks_jobs_and_health(place: Place) {
    let (jobs, store) = place.store().await;
    let filter = TopicFilter::new(&["t"]).unwrap();
    let spec = SubscriptionSpec { name: "a".to_owned(), filter, start: Start::Beginning };
    store.reconcile(&[spec]).await.unwrap();
    store.append(&[Message::new("t").text("1"), Message::new("t").text("2")]).await.unwrap();
    store.ticker().advance().await.unwrap();
    jobs.submit_jobs(&[NewJob::of(Message::new("mail").json(&7))]).await.unwrap();
    crate::machines::begun(&place).await;
    let parts = Arc::new(Played::default());
    let server = Running::with(&place, settings(), Arc::clone(&parts) as _).await;
    eventually_async("the first count", LIMIT, async || {
        server.get("/api/v1/metrics/jobs").await.json()["counted_at"].is_string()
    })
    .await;
    let all = server.get("/api/v1/metrics").await.json();
    let outbox = &all["outbox"];
    assert_eq!(
        (&outbox["pending"], &outbox["subscriptions"][0]["pending"]),
        (&json!(2), &json!(2))
    );
    let relay = json!({
        "published": 7, "rejected": 1, "retries": 2, "batches": 4, "batch_ms": 1.5, "last_error": "away",
    });
    assert_eq!(outbox["relay"], relay);
    let order = json!([{
        "name": "order", "entities": 1, "steps": 1, "states": [{ "state": "new", "count": 1 }],
    }]);
    assert_eq!(all["machines"]["machines"], order);
    assert_eq!(all["machines"]["commands"], json!({ "completed": 0, "in_progress": 0 }));
    let worker = |name: &str| json!({ "name": name, "mended": 1, "failed": 6, "republished": 2 });
    let fallbacks = json!({
        "mended": 2, "failed": 12, "republished": 4, "workers": [worker("one"), worker("two")],
    });
    assert_eq!(all["fallbacks"], fallbacks);
    assert_eq!(all["jobs"]["states"], json!([{ "state": "created", "count": 1 }]));
    let done = json!({ "name": "one", "completed": 5, "failed": 4, "dead": 3 });
    assert_eq!(all["jobs"]["workers"][0], done);
    for part in ["outbox", "machines", "fallbacks", "jobs"] {
        let own = server.get(&format!("/api/v1/metrics/{part}")).await.json();
        let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(fields(&own), fields(&all[part]), "{part}");
    }
    // A sink fails, and that is all.
    let told = json!({
        "healthy": false, "database": true, "publishing": true, "in_time": true, "without_errors": false,
    });
    assert_eq!(all["health"], told);
    let check = server.get("/api/v1/metrics/health").await;
    assert_eq!((check.status, check.json()), (503, told), "{check:?}");
    parts.is_mended.store(true, Ordering::Relaxed);
    assert_eq!(server.get("/api/v1/metrics/health").await.status, 200);
    eventually_async("messages to be late", LIMIT, async || {
        let late = server.get("/api/v1/metrics/health?max_age=1").await;
        (late.status, &late.json()["in_time"]) == (503, &json!(false))
    })
    .await;
    store.pause("a", true, &crate::machines::request()).await.unwrap();
    eventually_async("the pause to count", LIMIT, async || {
        server.get("/api/v1/metrics/health?max_age=1").await.status == 200
    })
    .await;
    parts.is_broken.store(true, Ordering::Relaxed);
    let broken = server.get("/api/v1/metrics/health").await;
    assert_eq!((broken.status, &broken.json()["publishing"]), (503, &json!(false)), "{broken:?}");
    for query in ["max_age=0", "max_age=86401", "max_age=x"] {
        let path = format!("/api/v1/metrics/health?{query}");
        server.get(&path).await.is_problem(400, "bad-parameter");
    }
    server.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_aside_for_too_long_is_an_error_of_the_metrics() {
    let place = Place::sqlite().await;
    crate::rights::park(&*place.store().await.1).await;
    let server = Running::start(&place).await;
    assert_eq!(server.get("/api/v1/metrics/health").await.status, 200);
    let told = json!({
        "healthy": false, "database": true, "publishing": true, "in_time": true, "without_errors": false,
    });
    eventually_async("it to be there for too long", LIMIT, async || {
        let check = server.get("/api/v1/metrics/health?max_age=1").await;
        (check.status, check.json()) == (503, told.clone())
    })
    .await;
    server.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r38_server_counts_its_requests_submissions_and_streams() {
    let place = Place::sqlite().await;
    let (jobs, operations) = place.store().await;
    let telemetry = Telemetry::default();
    let server = Server::new(settings(), jobs, operations).unwrap();
    let server = Running::of(server.with_telemetry(telemetry.clone()).bind().unwrap());
    server.submit(&json!({ "topic": "t", "payload": 1 })).await;
    server.post("/api/v1/jobs", "{").await.is_problem(400, "bad-json");
    server.get("/nowhere").await.is_problem(404, "no-route");
    let mut stream = server.connect().await;
    let head = format!("GET /api/v1/streams HTTP/1.1\r\nhost: {}\r\n\r\n", server.address);
    stream.write_all(head.as_bytes()).await.unwrap();
    let has = |line: &str| telemetry.metrics().lines().any(|own| own == line);
    let route = "method=\"POST\",route=\"/api/v1/jobs\"";
    for line in [
        &format!("posthaste_http_requests_total{{{route},class=\"2xx\"}} 1"),
        &format!("posthaste_http_requests_total{{{route},class=\"4xx\"}} 1"),
        "posthaste_http_requests_total{method=\"any\",route=\"none\",class=\"4xx\"} 1",
        "posthaste_http_submissions_total{what=\"jobs\",outcome=\"written\"} 1",
        "posthaste_http_submission_transactions_total{what=\"jobs\"} 1",
        "posthaste_http_submissions_total{what=\"messages\",outcome=\"written\"} 0",
    ] {
        assert!(has(line), "{line}\n{}", telemetry.metrics());
    }
    eventually_async("the stream to count", LIMIT, async || has("posthaste_streams 1")).await;
    drop(stream);
    eventually_async("its end", LIMIT, async || has("posthaste_streams 0")).await;
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
    eventually_async("it to be back", LIMIT, async || {
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
