//! What a token of some topics cannot reach: other topics' messages, by ids and tokens that are not its own.

use std::sync::Arc;

use posthaste_server::{NoParts, Scope};
use serde_json::{Value, json};

use crate::support::{Answer, Place, Running, on_both_stores, settings, token};

on_both_stores! {
    cancelling_an_own_message_leaves_those_of_others_with_its_id,
    token_of_the_body_never_stands_for_an_idempotency_key,
    token_of_another_topic_answers_no_message_of_it,
}

const PATH: &str = "/api/v1/messages";

/// A server that knows `shop`, of the topics `orders.`, and `all`.
struct Two {
    server: Running,
    shop: String,
    all: String,
}

impl Two {
    async fn start(place: &Place) -> Self {
        let mut settings = settings();
        let scopes = [Scope::View, Scope::Enqueue, Scope::Operate];
        let (own, shop) = token(&scopes, Some(&["orders."]));
        let (admin, all) = token(&[Scope::Admin], None);
        settings.tokens = [("shop".to_owned(), own), ("all".to_owned(), admin)].into();
        Self { server: Running::with(place, settings, Arc::new(NoParts)).await, shop, all }
    }

    async fn send(&self, who: &str, headers: &[(&str, &str)], path: &str, body: &Value) -> Answer {
        let mut all = vec![("authorization", who), ("content-type", "application/json")];
        all.extend(headers);
        self.server.ask("POST", path, &all, body.to_string().as_bytes()).await
    }

    async fn get(&self, who: &str, path: &str) -> Value {
        self.server.ask("GET", path, &[("authorization", who)], b"").await.json()
    }

    /// Enqueues a message, which must be accepted, and answers its id.
    async fn enqueue(&self, who: &str, body: &Value) -> String {
        let answer = self.send(who, &[], PATH, body).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    }
}

async fn cancelling_an_own_message_leaves_those_of_others_with_its_id(place: Place) {
    let two = Two::start(&place).await;
    let due = "2100-01-01T00:00:00Z";
    let foreign = two.enqueue(&two.all, &json!({ "topic": "mail", "deliver_at": due })).await;
    let job = json!({ "topic": "mail", "payload": 1, "deliver_at": due });
    let job = two.send(&two.all, &[], "/api/v1/jobs", &job).await.json();
    let job = format!("/api/v1/jobs/{}", job["id"].as_str().unwrap());
    let of_job = two.get(&two.all, &job).await["message_id"].as_str().unwrap().to_owned();
    for id in [foreign, of_job] {
        let own = json!({ "topic": "orders.x", "deliver_at": due, "id": id });
        assert_eq!(two.enqueue(&two.shop, &own).await, id);
        let cancelled = two.send(&two.shop, &[], &format!("{PATH}/{id}/cancel"), &json!({})).await;
        assert_eq!(cancelled.status, 200, "{cancelled:?}");
        let left = two.get(&two.all, &format!("{PATH}?id={id}")).await;
        assert_eq!(left["messages"].as_array().unwrap().len(), 1, "{left}");
        assert_eq!(left["messages"][0]["topic"], "mail", "{left}");
        let again = two.send(&two.shop, &[], &format!("{PATH}/{id}/cancel"), &json!({})).await;
        again.is_problem(404, "no-message");
    }
    two.server.ends().await;
}

async fn token_of_the_body_never_stands_for_an_idempotency_key(place: Place) {
    let two = Two::start(&place).await;
    let stolen = json!({ "topic": "orders.x", "token": "api:all:pay-7" });
    let refused = two.send(&two.shop, &[], PATH, &stolen).await;
    assert_eq!(refused.is_problem(422, "invalid-field")["field"], "token");
    let key = [("idempotency-key", "pay-7")];
    let paid = two.send(&two.all, &key, PATH, &json!({ "topic": "mail", "payload": 7 })).await;
    assert_eq!(paid.status, 202, "{paid:?}");
    two.server.ends().await;
}

async fn token_of_another_topic_answers_no_message_of_it(place: Place) {
    let two = Two::start(&place).await;
    let first = two.enqueue(&two.all, &json!({ "token": "tk1", "topic": "mail" })).await;
    let taken = json!({ "token": "tk1", "topic": "orders.x" });
    let refused = two.send(&two.shop, &[], PATH, &taken).await;
    let problem = refused.is_problem(403, "topic-not-allowed");
    assert_eq!(problem["field"], "token");
    assert!(!refused.body.contains(&first), "{refused:?}");
    // Its own are repeated as ever, also under an id of its own.
    let own = json!({ "token": "tk2", "topic": "orders.x" });
    let id = two.enqueue(&two.shop, &own).await;
    assert_eq!(two.enqueue(&two.shop, &own).await, id);
    let named = "018f0000-0000-7000-8000-00000000000a";
    let named = json!({ "token": "tk2", "topic": "orders.y", "id": named });
    assert_eq!(two.enqueue(&two.shop, &named).await, id);
    assert_eq!(two.enqueue(&two.all, &json!({ "token": "tk1", "topic": "mail" })).await, first);
    two.server.ends().await;
}
