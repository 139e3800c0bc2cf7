//! Machines, entities and contracts over the API.

use posthaste_core::{Machine, machine::Definition};
use posthaste_store::{ContractText, Request};
use serde_json::{Value, json};

use crate::support::{Place, Running, on_both_stores};

on_both_stores! {
    machines_and_contracts_are_listed_and_shown,
}

#[tokio::test]
async fn entities_are_listed_and_shown_with_their_steps() {
    let place = Place::postgres().await;
    let (_, store) = place.store().await;
    let request = Request { actor: "a test".to_owned(), is_dry_run: false, is_forced: false };
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
    let request = Request { actor: "a test".to_owned(), is_dry_run: false, is_forced: false };
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
