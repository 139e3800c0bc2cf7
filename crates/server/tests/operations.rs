//! Operations in the background over the API: progress, cancels, and servers that end in the middle.

use posthaste_store::UNFINISHED_MAX;
use serde_json::{Value, json};
use tokio::time::{Duration, sleep, timeout};

use crate::support::{LIMIT, Place, Running, dead::Dead, on_both_stores};

on_both_stores! {
    r14_selected_dead_letters_and_all_of_a_filter_are_replayed_in_the_background,
    r14_operation_of_a_server_that_is_gone_is_finished_by_another_each_once,
    server_that_drains_gives_its_operations_up_at_once,
    cancelled_operation_stops_and_says_so,
    dry_runs_of_operations_change_nothing,
    operations_are_listed_page_by_page,
}

/// Waits until an operation says so.
async fn until(server: &Running, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let look = async {
        loop {
            let shown = server.get(&format!("/api/v1/operations/{id}")).await.json();
            if is_so(&shown) {
                return shown;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LIMIT, look).await.expect("the operation comes so far")
}

async fn over(server: &Running, id: &str) -> Value {
    until(server, id, |shown| !shown["ended_at"].is_null()).await
}

/// Begins an operation, and answers its id.
async fn begun(server: &Running, path: &str, body: &Value) -> String {
    let answer = server.post(path, &body.to_string()).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.headers["location"], format!("/api/v1/operations/{id}"));
    id
}

const REPLAY: &str = "/api/v1/dead-letters/replay";
const DISCARD: &str = "/api/v1/dead-letters/discard";

async fn r14_selected_dead_letters_and_all_of_a_filter_are_replayed_in_the_background(
    place: Place,
) {
    let dead = Dead::of(&place, &["a 1", "b", "a 2", "c", "a 3", "d"]).await;
    let server = Running::start(&place).await;
    let ids = [dead.ids[1], dead.ids[3]];
    let id = begun(&server, REPLAY, &json!({ "ids": ids, "topic": "orders.1,x*" })).await;
    let shown = over(&server, &id).await;
    assert_eq!(
        (&shown["state"], &shown["done"], &shown["total"]),
        (&json!("done"), &json!(1), &json!(1))
    );
    assert_eq!(
        (&shown["kind"], &shown["actor"]),
        (&json!("replay-dead-letters"), &json!("loopback"))
    );
    assert_eq!(shown["filter"], json!({ "ids": ids, "topic": "orders.1,x*" }));
    assert_eq!(dead.replayed().await, [1]);
    let id = begun(&server, DISCARD, &json!({ "group": "a #", "subscription": "orders" })).await;
    let shown = over(&server, &id).await;
    assert_eq!((&shown["state"], &shown["done"]), (&json!("done"), &json!(3)));
    assert_eq!(dead.dead().await, [3, 5]);
    let id = begun(&server, REPLAY, &json!({ "all": true })).await;
    assert_eq!(over(&server, &id).await["done"], 2);
    assert_eq!((dead.dead().await, dead.replayed().await), (vec![], vec![1, 3, 5]));
    // Begin and end of each stand in the trail.
    let trail = server.get("/api/v1/audit?action=replay%20dead%20letters").await.json();
    let states: Vec<&Value> =
        trail["entries"].as_array().unwrap().iter().map(|it| &it["detail"]["state"]).collect();
    assert_eq!(states, [&json!("done"), &json!("begun"), &json!("done"), &json!("begun")]);
    server.ends().await;
}

async fn r14_operation_of_a_server_that_is_gone_is_finished_by_another_each_once(place: Place) {
    let dead = Dead::of(&place, &["a"; 12]).await;
    let first = Running::start(&place).await;
    let id = begun(&first, REPLAY, &json!({ "all": true, "rate": 3 })).await;
    let seen = until(&first, &id, |shown| shown["done"].as_u64() > Some(0)).await;
    assert_eq!(seen["state"], "running", "{seen}");
    // As if it had been killed: nothing is drained, and its lease stays.
    drop(first);
    let replayed = dead.replayed().await.len();
    assert!((1..12).contains(&replayed), "in the middle: {replayed}");
    dead.fails_again(0).await;
    let second = Running::start(&place).await;
    let shown = over(&second, &id).await;
    assert_eq!((&shown["state"], &shown["done"]), (&json!("done"), &json!(12)), "{shown}");
    // What failed again meanwhile is left to people, and all others were replayed.
    assert_eq!((dead.dead().await, dead.replayed().await), (vec![0], (1..12).collect()));
    second.ends().await;
}

async fn server_that_drains_gives_its_operations_up_at_once(place: Place) {
    let dead = Dead::of(&place, &["a"; 3]).await;
    let first = Running::start(&place).await;
    let id = begun(&first, REPLAY, &json!({ "all": true, "rate": 0.001 })).await;
    until(&first, &id, |shown| shown["done"] == 1).await;
    first.ends().await;
    let lease = Duration::from_mins(5);
    let claim = dead.store.claim_operation("a test", lease).await.unwrap();
    assert_eq!(claim.expect("nobody runs it").operation.done, 1);
}

async fn cancelled_operation_stops_and_says_so(place: Place) {
    let dead = Dead::of(&place, &["a"; 3]).await;
    let server = Running::start(&place).await;
    let id = begun(&server, REPLAY, &json!({ "all": true, "rate": 0.001 })).await;
    until(&server, &id, |shown| shown["done"] == 1).await;
    let path = format!("/api/v1/operations/{id}/cancel");
    let dry = server.post(&path, r#"{"dry_run":true}"#).await.json();
    assert_eq!((&dry["outcome"], &dry["dry_run"]), (&json!("cancelling"), &json!(true)));
    assert_eq!(server.get(&format!("/api/v1/operations/{id}")).await.json()["state"], "running");
    assert_eq!(server.post(&path, "").await.json()["outcome"], "cancelling");
    let shown = over(&server, &id).await;
    assert_eq!((&shown["state"], &shown["done"]), (&json!("cancelled"), &json!(1)));
    assert_eq!(dead.dead().await, [1, 2]);
    server.post(&path, "").await.is_problem(409, "operation-state");
    let unknown = format!("/api/v1/operations/{}/cancel", dead.ids[0]);
    server.post(&unknown, "").await.is_problem(404, "no-operation");
    server.ends().await;
}

async fn dry_runs_of_operations_change_nothing(place: Place) {
    let dead = Dead::of(&place, &["a", "b"]).await;
    let server = Running::start(&place).await;
    for (path, kind) in [(REPLAY, "replay-dead-letters"), (DISCARD, "discard-dead-letters")] {
        let body = json!({ "key": "k1", "dry_run": true });
        let answer = server.post(path, &body.to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.json(), json!({ "kind": kind, "dry_run": true, "total": 1 }));
    }
    assert_eq!(dead.dead().await, [0, 1]);
    assert_eq!(server.get("/api/v1/operations").await.json()["operations"], json!([]));
    assert_eq!(server.get("/api/v1/audit").await.json()["entries"], json!([]));
    server.ends().await;
}

async fn operations_are_listed_page_by_page(place: Place) {
    let dead = Dead::of(&place, &["a"]).await;
    let server = Running::start(&place).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(begun(&server, REPLAY, &json!({ "key": format!("x{n}") })).await);
    }
    let mut path = "/api/v1/operations?limit=2".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = server.get(&path).await.json();
        let page_ids = page["operations"].as_array().unwrap().iter();
        seen.extend(page_ids.map(|it| it["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/api/v1/operations?limit=2&cursor={next}");
    }
    seen.reverse();
    assert_eq!(seen, ids);
    for query in ["limit=0", "cursor=x", "before=1"] {
        let answer = server.get(&format!("/api/v1/operations?{query}")).await;
        answer.is_problem(400, "bad-parameter");
    }
    server.get("/api/v1/operations/7").await.is_problem(400, "bad-parameter");
    let unknown = format!("/api/v1/operations/{}", dead.ids[0]);
    server.get(&unknown).await.is_problem(404, "no-operation");
    for id in &ids {
        over(&server, id).await;
    }
    server.ends().await;
}

#[tokio::test]
async fn operations_that_are_not_over_are_bounded() {
    let place = Place::sqlite().await;
    let _dead = Dead::of(&place, &["a"; 500]).await;
    let server = Running::start(&place).await;
    // A server runs four at a time, and at this rate none of them ends.
    let slow = json!({ "all": true, "rate": 0.001 }).to_string();
    for _ in 0..UNFINISHED_MAX {
        let answer = server.post(REPLAY, &slow).await;
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    server.post(REPLAY, &slow).await.is_problem(429, "too-many-operations");
    let preview = server.post(REPLAY, r#"{"all":true,"dry_run":true}"#).await;
    assert_eq!(preview.status, 200, "{preview:?}");
    server.ends().await;
}
