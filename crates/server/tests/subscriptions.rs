//! Subscriptions over the API.

use posthaste_core::TopicFilter;
use posthaste_store::{Start, SubscriptionSpec};
use serde_json::json;

use crate::support::{Place, Running, on_both_stores};

on_both_stores! {
    subscriptions_are_listed_paused_and_resumed,
}

async fn subscriptions_are_listed_paused_and_resumed(place: Place) {
    let server = Running::start(&place).await;
    let (_, store) = place.store().await;
    let filter = TopicFilter::new(&["orders.*"]).unwrap();
    let spec = SubscriptionSpec { name: "orders".to_owned(), filter, start: Start::Beginning };
    store.reconcile(&[spec]).await.unwrap();
    let list = server.get("/api/v1/subscriptions").await.json();
    assert_eq!(list["subscriptions"][0]["name"], "orders");
    assert_eq!(list["subscriptions"][0]["topics"], "orders.*");
    let state = async || server.get("/api/v1/subscriptions/orders").await.json()["state"].clone();
    assert_eq!(state().await, "idle");
    let dry = server.post("/api/v1/subscriptions/orders/pause", r#"{"dry_run":true}"#).await.json();
    assert_eq!(dry, json!({ "name": "orders", "outcome": "paused", "dry_run": true }));
    assert_eq!(state().await, "idle");
    for (verb, outcome, then) in [("pause", "paused", "paused"), ("resume", "resumed", "idle")] {
        let done = server.post(&format!("/api/v1/subscriptions/orders/{verb}"), "").await;
        assert_eq!(done.json()["outcome"], outcome);
        assert_eq!(state().await, then);
    }
    if let Place::Postgres(database) = &place {
        let client = database.connect().await;
        let sql = "select count(*) from posthaste.audit where actor = 'loopback'";
        assert_eq!(client.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 2);
    }
    server.get("/api/v1/subscriptions/nobody").await.is_problem(404, "no-subscription");
    let nobody = server.post("/api/v1/subscriptions/nobody/pause", "{}").await;
    nobody.is_problem(404, "no-subscription");
    server.ends().await;
}
