//! Machines, entities and contracts over the API.

use posthaste_core::{Machine, machine::Definition};
use posthaste_store::{ContractText, Request};
use serde_json::{Value, json};

use crate::support::{Answer, Place, Running, on_both_stores};

on_both_stores! {
    machines_and_contracts_are_listed_and_shown,
    entity_is_taken_on_with_its_event_its_messages_and_a_row_in_the_audit_trail,
    step_that_is_refused_names_what_is_wrong_and_leaves_nothing_behind,
}

#[tokio::test]
async fn entities_are_listed_and_shown_with_their_steps() {
    let place = Place::postgres().await;
    let (_, store) = place.store().await;
    let request = request();
    let machine = Machine::try_from(definition()).unwrap();
    store.push_machine(&machine, &request).await.unwrap();
    let client = place.database().connect().await;
    client
        .batch_execute(
            "insert into posthaste.entity (machine, entity_id, state) \
             select 'order', 'e/' || n, case when n = 2 then 'paid' else 'new' end \
             from generate_series(1, 3) n; \
             insert into posthaste.state_event (machine, entity_id, version, id, to_state, metadata) \
             values ('order', 'e/2', 1, gen_random_uuid(), 'new', '{\"n\": 1}')",
        )
        .await
        .unwrap();
    let server = Running::start(&place).await;
    let shown = server.get("/api/v1/machines/order").await.json();
    let states = json!([{ "state": "new", "entities": 2 }, { "state": "paid", "entities": 1 }]);
    assert_eq!((&shown["states"], &shown["definition"]["name"]), (&states, &json!("order")));
    let ids = |page: &Value| -> Vec<Value> {
        page["entities"].as_array().unwrap().iter().map(|it| it["id"].clone()).collect()
    };
    let list = "/api/v1/machines/order/entities";
    let page = server.get(&format!("{list}?limit=2")).await.json();
    assert_eq!(ids(&page), ["e/1", "e/2"]);
    let next = page["next"].as_str().unwrap();
    let page = server.get(&format!("{list}?limit=2&cursor={next}")).await.json();
    assert_eq!((ids(&page), &page["next"]), (vec![json!("e/3")], &Value::Null));
    assert_eq!(ids(&server.get(&format!("{list}?state=paid")).await.json()), ["e/2"]);
    let entity = server.get(&format!("{list}/e%2F2")).await.json();
    assert_eq!((&entity["id"], &entity["state"]), (&json!("e/2"), &json!("paid")));
    let event = &entity["events"][0];
    assert_eq!((&event["to_state"], &event["metadata"]), (&json!("new"), &json!({ "n": 1 })));
    server.get(&format!("{list}/nobody")).await.is_problem(404, "no-entity");
    server.get("/api/v1/machines/none/entities").await.is_problem(404, "no-machine");
    for query in ["state=%00", "limit=0", "cursor=x", "cursor=ZQA"] {
        server.get(&format!("{list}?{query}")).await.is_problem(400, "bad-parameter");
    }
    server.ends().await;
}

fn definition() -> Definition {
    let definition = json!({
        "name": "order", "states": ["new", "paid"], "initial": ["new"], "terminal": ["paid"],
        "transitions": [{ "from": "new", "to": "paid" }],
    });
    serde_json::from_value(definition).unwrap()
}

async fn machines_and_contracts_are_listed_and_shown(place: Place) {
    let (_, store) = place.store().await;
    let request = request();
    let server = Running::start(&place).await;
    assert_eq!(server.get("/api/v1/machines").await.json(), json!({ "machines": [] }));
    let machine = Machine::try_from(definition()).unwrap();
    store.push_machine(&machine, &request).await.unwrap();
    let machines = server.get("/api/v1/machines").await.json();
    assert_eq!(machines["machines"][0]["definition"]["states"], json!(["new", "paid"]));
    let shown = server.get("/api/v1/machines/order").await.json();
    assert_eq!((&shown["name"], &shown["states"]), (&json!("order"), &json!([])));
    assert_eq!(server.get("/api/v1/machines/order/entities").await.json()["entities"], json!([]));
    server.get("/api/v1/machines/none").await.is_problem(404, "no-machine");
    server.get("/api/v1/machines/order/entities/x").await.is_problem(404, "no-entity");

    let text = |topic: &str, version| ContractText {
        topic: topic.to_owned(),
        version,
        schema: json!({ "title": format!("{topic} {version}") }).to_string(),
    };
    let pushed = [text("mail", 1), text("mail", 2), text("run/events", 1)];
    store.push_contracts(&pushed, &request).await.unwrap();
    let page = server.get("/api/v1/contracts?limit=2").await.json();
    assert_eq!(
        (&page["contracts"][1]["topic"], &page["contracts"][1]["version"]),
        (&json!("mail"), &json!(2))
    );
    let next = page["next"].as_str().unwrap();
    let page = server.get(&format!("/api/v1/contracts?limit=2&cursor={next}")).await.json();
    assert_eq!(
        (&page["contracts"][0]["topic"], &page["next"]),
        (&json!("run/events"), &Value::Null)
    );
    let newest = server.get("/api/v1/contracts/mail").await.json();
    assert_eq!((&newest["version"], &newest["versions"]), (&json!(2), &json!([2, 1])));
    assert_eq!(newest["schema"], json!({ "title": "mail 2" }));
    let first = server.get("/api/v1/contracts/mail?version=1").await.json();
    assert_eq!(first["schema"]["title"], "mail 1");
    assert_eq!(server.get("/api/v1/contracts/run%2Fevents").await.json()["version"], 1);
    server.get("/api/v1/contracts/none").await.is_problem(404, "no-contract");
    server.get("/api/v1/contracts/mail?version=3").await.is_problem(404, "no-contract");
    for path in [
        "contracts/mail?version=0",
        "contracts/mail?version=x",
        "contracts?cursor=YzEvAA",
        "contracts?limit=x",
        "contracts/%00",
        "machines/%00",
        "machines/%ff/entities",
        "machines/order/entities/%0a",
    ] {
        server.get(&format!("/api/v1/{path}")).await.is_problem(400, "bad-parameter");
    }
    server.ends().await;
}

pub(crate) fn request() -> Request {
    Request { actor: "a test".to_owned(), is_dry_run: false, is_forced: false }
}

/// A machine with a guard and a message, and an entity that has just begun.
pub(crate) async fn begun(place: &Place) {
    let (_, store) = place.store().await;
    let request = request();
    let definition = json!({
        "name": "order", "states": ["new", "paid", "sent", "lost"], "initial": ["new"],
        "terminal": ["sent", "lost"],
        "transitions": [
            { "from": "new", "to": "paid", "requires": ["amount"], "messages": ["orders.paid"] },
            { "from": "paid", "to": "sent" },
            { "from": "*", "to": "lost", "by": ["somebody else"] },
        ],
    });
    let parsed: Definition = serde_json::from_value(definition).unwrap();
    store.push_machine(&Machine::try_from(parsed).unwrap(), &request).await.unwrap();
    place.start_entity("order", "o/1", "new").await;
}

const ENTITY: &str = "/api/v1/machines/order/entities/o%2F1";

async fn step(server: &Running, body: Value, key: Option<&str>) -> Answer {
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(key.map(|key| ("idempotency-key", key)));
    let body = body.to_string();
    server.ask("POST", &format!("{ENTITY}/transition"), &headers, body.as_bytes()).await
}

async fn step_that_is_refused_names_what_is_wrong_and_leaves_nothing_behind(place: Place) {
    begun(&place).await;
    let server = Running::start(&place).await;
    let step = async |body| step(&server, body, None).await;
    let refused = step(json!({ "to": "sent" })).await;
    refused.is_problem(409, "illegal-step");
    assert!(refused.json()["detail"].as_str().unwrap().contains("paid"), "{refused:?}");
    step(json!({ "to": "nowhere" })).await.is_problem(409, "illegal-step");
    step(json!({ "to": "paid" })).await.is_problem(422, "step-guarded");
    step(json!({ "to": "lost" })).await.is_problem(422, "step-guarded");
    step(json!({ "to": "paid", "from": "sent" })).await.is_problem(409, "entity-moved");
    step(json!({ "to": "paid", "organization_id": "acme" })).await.is_problem(404, "no-entity");
    let long = "x".repeat(257);
    for (field, value) in [
        ("to", json!("")),
        ("from", json!(long)),
        ("user_id", json!("\n")),
        ("organization_id", json!("")),
        ("correlation_id", json!("\u{85}")),
        ("metadata", json!({ "a": ["\0"] })),
        ("metadata", json!({ "a": "x".repeat(65_536) })),
    ] {
        let mut body = json!({ "to": "paid" });
        body[field] = value;
        let problem = step(body).await.is_problem(422, "invalid-field");
        assert_eq!(problem["field"], field);
    }
    let path_of = |name: &str| format!("/api/v1/machines/{name}/entities/{long}/transition");
    server.post(&path_of("order"), r#"{"to":"paid"}"#).await.is_problem(404, "no-entity");
    for missing in ["order/entities/nobody", "none/entities/o"] {
        let path = format!("/api/v1/machines/{missing}/transition");
        let body = json!({ "to": "paid", "metadata": { "amount": 7 } });
        let code = if missing.starts_with("none") { "no-machine" } else { "no-entity" };
        server.post(&path, &body.to_string()).await.is_problem(404, code);
    }
    let entity = server.get(ENTITY).await.json();
    assert_eq!((&entity["state"], &entity["version"]), (&json!("new"), &json!(1)));
    server.ends().await;
}

async fn entity_is_taken_on_with_its_event_its_messages_and_a_row_in_the_audit_trail(place: Place) {
    begun(&place).await;
    let server = Running::start(&place).await;
    let step = async |body, key| step(&server, body, key).await;
    let pay = json!({
        "to": "paid", "from": "new", "metadata": { "amount": 7 }, "correlation_id": "c-1",
    });
    let mut tried = pay.clone();
    tried["dry_run"] = true.into();
    let tried = step(tried, None).await.json();
    assert_eq!((&tried["state"], &tried["dry_run"]), (&json!("paid"), &json!(true)));
    let entity = server.get(ENTITY).await.json();
    assert_eq!((&entity["state"], entity["events"].as_array().unwrap().len()), (&json!("new"), 1));
    let trail = "/api/v1/audit?action=transition";
    assert_eq!(server.get(trail).await.json()["entries"], json!([]));

    let taken = step(pay.clone(), Some("pay-1")).await.json();
    assert_eq!((&taken["state"], &taken["version"]), (&json!("paid"), &json!(2)));
    let sent = step(json!({ "to": "sent" }), None).await.json();
    assert_eq!((&sent["state"], &sent["messages"]), (&json!("sent"), &json!([])));
    let again = step(pay.clone(), Some("pay-1")).await;
    assert_eq!((again.status, again.json()), (200, taken.clone()));
    let mut other = pay;
    other["metadata"]["amount"] = 8.into();
    step(other, Some("pay-1")).await.is_problem(422, "idempotency-key-reused");

    let entity = server.get(ENTITY).await.json();
    assert_eq!((&entity["state"], &entity["version"]), (&json!("sent"), &json!(3)));
    let event = &entity["events"][1];
    assert_eq!((&event["id"], &event["initiated_by"]), (&taken["event_id"], &json!("loopback")));
    assert_eq!(
        (&event["metadata"], &event["correlation_id"]),
        (&json!({ "amount": 7 }), &json!("c-1"))
    );
    let id = taken["messages"][0].as_str().unwrap();
    let message = server.get(&format!("/api/v1/messages/{id}")).await.json();
    assert_eq!((&message["topic"], &message["key"]), (&json!("orders.paid"), &json!("o/1")));
    let entry =
        server.get(trail).await.json()["entries"].as_array().unwrap().last().unwrap().clone();
    // Two steps: a repetition is none.
    assert_eq!(server.get(trail).await.json()["entries"].as_array().unwrap().len(), 2);
    assert_eq!((&entry["actor"], &entry["detail"]["entity"]), (&json!("loopback"), &json!("o/1")));
    server.ends().await;
}
