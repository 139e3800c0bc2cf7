//! Machines with their entities, and contracts, as people see them.

use std::sync::Arc;

use posthaste_core::{Machine, machine::Definition};
use posthaste_store::{ContractText, EntityFilter, Operations, Request};

use super::harness::Harness;

const DEFINITION: &str = r#"{"name":"order","states":["new","paid"],"initial":["new"],"terminal":["paid"],"transitions":[{"from":"new","to":"paid"}]}"#;

fn request() -> Request {
    Request { actor: "ann".to_owned(), is_dry_run: false, is_forced: false }
}

async fn opened<H: Harness>() -> (H, Arc<dyn Operations>) {
    let harness = H::empty().await;
    let store = harness.operations().await;
    store.migrate().await.unwrap();
    (harness, store)
}

pub(crate) async fn machines_and_their_entities_are_told<H: Harness>() {
    let (harness, store) = opened::<H>().await;
    assert_eq!(store.machines().await.unwrap(), []);
    assert_eq!(store.machine("order").await.unwrap(), None);
    let definition: Definition = serde_json::from_str(DEFINITION).unwrap();
    let machine = Machine::try_from(definition).unwrap();
    store.push_machine(&machine, &request()).await.unwrap();
    let all = store.machines().await.unwrap();
    assert!(all.len() == 1 && all[0].name == "order" && all[0].definition.contains("paid"));
    let prefix = if H::HAS_SLOTS { "posthaste." } else { "posthaste_" };
    for (id, state) in [("a", "new"), ("b", "paid"), ("c", "new"), ("d", "new")] {
        let sql = format!(
            "insert into {prefix}entity (machine, entity_id, state, version, user_id) \
             values ('order', '{id}', '{state}', 2, 'u')"
        );
        assert!(harness.takes(&sql).await);
    }
    for (version, from, to, id) in [(1, "null", "new", "01"), (2, "'new'", "paid", "02")] {
        let id = format!("{}{id}", "0".repeat(30));
        let id = if H::HAS_SLOTS { format!("'{id}'") } else { format!("x'{id}'") };
        let sql = format!(
            "insert into {prefix}state_event (machine, entity_id, version, id, from_state, \
             to_state, initiated_by, metadata) \
             values ('order', 'b', {version}, {id}, {from}, '{to}', 'ann', '{{\"n\": 1}}')"
        );
        assert!(harness.takes(&sql).await, "{sql}");
    }
    let (found, states) = store.machine("order").await.unwrap().unwrap();
    assert_eq!((&found, states), (&all[0], vec![("new".to_owned(), 3), ("paid".to_owned(), 1)]));
    let ids = async |state: Option<&str>, after: Option<&str>, limit| -> Vec<String> {
        let which = EntityFilter { state, after, ..EntityFilter::default() };
        let page = store.entities("order", &which, limit).await.unwrap();
        page.into_iter().map(|entity| entity.id).collect()
    };
    assert_eq!(ids(None, None, 3).await, ["a", "b", "c"]);
    assert_eq!(ids(None, Some("c"), 3).await, ["d"]);
    assert_eq!(ids(Some("new"), Some("a"), 3).await, ["c", "d"]);
    assert!(store.entities("other", &EntityFilter::default(), 3).await.unwrap().is_empty());
    let (entity, events) = store.entity("order", "b").await.unwrap().unwrap();
    assert_eq!(
        (entity.state.as_str(), entity.version, entity.user.as_deref()),
        ("paid", 2, Some("u"))
    );
    assert_eq!(events.len(), 2);
    let newest = &events[0];
    assert_eq!(
        (newest.version, newest.from.as_deref(), newest.to.as_str()),
        (2, Some("new"), "paid")
    );
    assert_eq!((newest.initiated_by.as_deref(), events[1].from.as_deref()), (Some("ann"), None));
    assert!(newest.metadata.contains("\"n\""), "{newest:?}");
    assert_eq!(store.entity("order", "e").await.unwrap(), None);
}

pub(crate) async fn entities_of_organizations_come_in_one_order<H: Harness>() {
    let (harness, store) = opened::<H>().await;
    let prefix = if H::HAS_SLOTS { "posthaste." } else { "posthaste_" };
    let all = [("a", "new", "null"), ("b", "paid", "'acme'"), ("c", "new", "'acme'")];
    for (id, state, organization) in all.into_iter().chain([("d", "new", "'other'")]) {
        let sql = format!(
            "insert into {prefix}entity (machine, entity_id, state, organization_id) \
             values ('order', '{id}', '{state}', {organization})"
        );
        assert!(harness.takes(&sql).await);
    }
    let of = async |organizations: &[&str], state: Option<&str>, after: Option<&str>, limit| {
        let own: Vec<String> = organizations.iter().map(ToString::to_string).collect();
        let which = EntityFilter { state, after, organizations: Some(&own) };
        let page = store.entities("order", &which, limit).await.unwrap();
        page.into_iter().map(|entity| entity.id).collect::<Vec<String>>()
    };
    assert_eq!(of(&["none", "acme"], None, None, 9).await, ["b", "c"]);
    assert!(of(&["none"], None, None, 9).await.is_empty());
    assert!(of(&[], None, None, 9).await.is_empty());
    assert_eq!(of(&["other", "acme", "other"], None, None, 9).await, ["b", "c", "d"]);
    assert_eq!(of(&["other", "acme"], None, None, 2).await, ["b", "c"]);
    assert_eq!(of(&["other", "acme"], None, Some("b"), 2).await, ["c", "d"]);
    assert_eq!(of(&["other", "acme"], Some("new"), None, 1).await, ["c"]);
}

pub(crate) async fn contracts_are_told_page_by_page_and_one_by_one<H: Harness>() {
    let (_harness, store) = opened::<H>().await;
    let text = |topic: &str, version| ContractText {
        topic: topic.to_owned(),
        version,
        schema: format!("{{\"title\":\"{topic}{version}\"}}"),
    };
    let pushed = [text("B", 1), text("a", 10), text("a", 2), text("a.b", 1)];
    store.push_contracts(&pushed, &request()).await.unwrap();
    let page = async |after, limit| -> Vec<(String, u32)> {
        let page = store.contract_page(after, limit).await.unwrap();
        assert!(page.iter().all(|row| row.schema_bytes > 10));
        page.into_iter().map(|row| (row.topic, row.version)).collect()
    };
    let named = |list: &[(&str, u32)]| -> Vec<(String, u32)> {
        list.iter().map(|(topic, version)| ((*topic).to_owned(), *version)).collect()
    };
    assert_eq!(page(None, 2).await, named(&[("B", 1), ("a", 2)]));
    assert_eq!(page(Some(("a", 2)), 2).await, named(&[("a", 10), ("a.b", 1)]));
    assert!(page(Some(("a.b", 1)), 2).await.is_empty());
    let (newest, versions) = store.contract("a", None).await.unwrap().unwrap();
    assert_eq!((newest.version, newest.schema.as_str()), (10, "{\"title\":\"a10\"}"));
    assert_eq!(versions, [10, 2]);
    assert_eq!(store.contract("a", Some(2)).await.unwrap().unwrap().0.version, 2);
    assert_eq!(store.contract("a", Some(3)).await.unwrap(), None);
    assert_eq!(store.contract("c", None).await.unwrap(), None);
}
