//! What a token of some topics cannot reach: other topics' messages, by ids and tokens that are not its own.

use std::{sync::Arc, time::Duration};

use posthaste::Step;
use posthaste_core::{Machine, Message, TopicFilter, machine::Definition};
use posthaste_server::{NoParts, Scope, ServerSettings, TokenSettings};
use posthaste_store::{Acquired, Aside, Operations, ParkedKey, Settled, Start, SubscriptionSpec};
use serde_json::{Value, json};

use crate::support::{Answer, Place, Running, on_both_stores, settings, token};

on_both_stores! {
    cancelling_an_own_message_leaves_those_of_others_with_its_id,
    token_of_the_body_never_stands_for_an_idempotency_key,
    token_of_another_topic_answers_no_message_of_it,
    timeline_tells_a_token_of_some_topics_nothing_of_other_messages,
    token_of_some_organisations_has_to_do_with_their_entities_alone,
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

/// The subscription `all`, whose key `k` waits for its first message, of the topic `mail`.
pub(crate) async fn park(store: &dyn Operations) -> [String; 2] {
    let (name, filter) = ("all".to_owned(), TopicFilter::new(&["*"]).unwrap());
    store.reconcile(&[SubscriptionSpec { name, filter, start: Start::Beginning }]).await.unwrap();
    let messages = [Message::new("mail").key("k"), Message::new("orders.x").key("k")];
    let ids = store.append(&messages).await.unwrap();
    let mut ticker = store.ticker();
    let mut head = ticker.advance().await.unwrap().tick;
    // What is committed is covered after some looks.
    for _ in 0..5 {
        head = ticker.advance().await.unwrap().tick;
    }
    let lease = Duration::from_mins(5);
    let Acquired::Taken(epoch, start) = store.acquire("all", "a relay", lease).await.unwrap()
    else {
        panic!("nobody holds it")
    };
    let key = ParkedKey {
        key: "k".to_owned(),
        place: start.moved_to(head, 0, None),
        message: ids[0],
        attempts: 3,
        reason: "no mailbox ann@bank.example".to_owned(),
        retry_in: Some(Duration::from_hours(1)),
        parked_for: Duration::ZERO,
    };
    let place = start.finished(head);
    let settled = store.set_aside("all", epoch, &[Aside::ParkKey(key)], Some(&place)).await;
    assert_eq!(settled.unwrap(), Settled::Recorded);
    [ids[0].to_string(), ids[1].to_string()]
}

async fn timeline_tells_a_token_of_some_topics_nothing_of_other_messages(place: Place) {
    let two = Two::start(&place).await;
    let [failed, waits] = park(&*place.store().await.1).await;
    let shown = two.get(&two.all, &format!("{PATH}/{waits}")).await;
    let failure = &shown["deliveries"][0]["failure"];
    assert_eq!(failure["message_id"], failed.as_str(), "{shown}");
    assert_eq!(failure["reason"], "no mailbox ann@bank.example", "{shown}");
    let shown = two.get(&two.shop, &format!("{PATH}/{waits}")).await;
    let failure = &shown["deliveries"][0]["failure"];
    assert_eq!((&shown["state"], &failure["attempts"]), (&json!("parked"), &json!(3)), "{shown}");
    let text = shown.to_string();
    assert!(!text.contains(&failed) && !text.contains("mailbox"), "{text}");
    two.server.ends().await;
}

async fn token_of_some_organisations_has_to_do_with_their_entities_alone(place: Place) {
    let (_, store) = place.store().await;
    let definition = r#"{"name":"order","states":["new","paid"],"initial":["new"],"terminal":["paid"],
                         "transitions":[{"from":"new","to":"paid"}]}"#;
    let definition: Definition = serde_json::from_str(definition).unwrap();
    let request = posthaste_store::Request {
        actor: "a test".to_owned(),
        is_dry_run: false,
        is_forced: false,
    };
    store.push_machine(&Machine::try_from(definition).unwrap(), &request).await.unwrap();
    for (id, organization) in [("a", Some("acme")), ("b", Some("other")), ("c", None)] {
        let step = Step::new("order", id, "new");
        let step = organization.into_iter().fold(step, Step::organization);
        place.start(&step).await;
    }
    let (own, acme) = token(&[Scope::View, Scope::Enqueue, Scope::Operate], None);
    let own = TokenSettings { organizations: Some(vec!["acme".to_owned()]), ..own };
    let (admin, all) = token(&[Scope::Admin], None);
    let tokens = [("acme".to_owned(), own), ("all".to_owned(), admin)].into();
    let settings = ServerSettings { tokens, ..settings() };
    let server = Running::with(&place, settings, Arc::new(NoParts)).await;
    let two = Two { server, shop: acme, all };
    let ids = |page: &Value| -> Vec<String> {
        let entities = page["entities"].as_array().unwrap();
        entities.iter().map(|entity| entity["id"].as_str().unwrap().to_owned()).collect()
    };
    let path = "/api/v1/machines/order/entities";
    assert_eq!(ids(&two.get(&two.all, path).await), ["a", "b", "c"]);
    assert_eq!(ids(&two.get(&two.shop, path).await), ["a"]);
    let machine = two.get(&two.shop, "/api/v1/machines/order").await;
    assert_eq!((&machine["name"], &machine["states"]), (&json!("order"), &Value::Null));
    for (id, known) in [("a", true), ("b", false), ("c", false)] {
        let path = format!("{path}/{id}");
        let seen = two.server.ask("GET", &path, &[("authorization", &*two.shop)], b"").await;
        assert_eq!(seen.status, if known { 200 } else { 404 }, "{seen:?}");
    }
    for (id, organization, code) in [
        ("a", None, "organization-not-allowed"),
        ("b", Some("other"), "organization-not-allowed"),
        ("c", None, "organization-not-allowed"),
        ("b", Some("acme"), "no-entity"),
        ("c", Some("acme"), "no-entity"),
    ] {
        let path = format!("{path}/{id}/transition");
        let body = json!({ "to": "paid", "organization_id": organization });
        let refused = two.send(&two.shop, &[], &path, &body).await;
        refused.is_problem(if code == "no-entity" { 404 } else { 403 }, code);
    }
    let body = json!({ "to": "paid", "organization_id": "acme" });
    let taken = two.send(&two.shop, &[], &format!("{path}/a/transition"), &body).await;
    assert_eq!((taken.status, &taken.json()["state"]), (200, &json!("paid")), "{taken:?}");
    // Messages and jobs are of no organisation.
    for path in [PATH, "/api/v1/jobs"] {
        let refused = two.send(&two.shop, &[], path, &json!({ "topic": "t", "payload": 1 })).await;
        refused.is_problem(403, "topic-not-allowed");
    }
    two.enqueue(&two.all, &json!({ "topic": "t" })).await;
    assert_eq!(two.get(&two.shop, PATH).await["messages"], json!([]));
    two.server.ends().await;
}
