//! Contracts: pushed once, never changed, read whole by those who know an older state of them.

use std::sync::Arc;

use posthaste_core::Timestamp;
use posthaste_store::{
    CONTRACT_BYTES_MAX, CONTRACTS_BYTES_MAX, CONTRACTS_MAX, ContractSet, ContractText,
    ContractsMark, Operations, Request, StoreErrorKind,
};

use super::harness::Harness;

async fn migrated<H: Harness>() -> (H, Arc<dyn Operations>) {
    let harness = H::empty().await;
    let store = harness.operations().await;
    store.migrate().await.unwrap();
    (harness, store)
}

fn request() -> Request {
    Request { actor: "ann".to_owned(), is_dry_run: false, is_forced: false }
}

fn preview() -> Request {
    Request { is_dry_run: true, ..request() }
}

fn text(topic: &str, version: u32, schema: &str) -> ContractText {
    ContractText { topic: topic.to_owned(), version, schema: schema.to_owned() }
}

async fn all(store: &dyn Operations) -> Option<ContractSet> {
    store.contracts(&ContractsMark::default()).await.unwrap()
}

/// Topics and versions of a set, in its order.
fn names(set: &ContractSet) -> Vec<(&str, u32)> {
    set.contracts.iter().map(|it| (it.topic.as_str(), it.version)).collect()
}

pub(crate) async fn r31_pushed_contracts_come_back_byte_for_byte_and_only_where_something_is_new<
    H: Harness,
>() {
    let (harness, store) = migrated::<H>().await;
    assert_eq!(all(&*store).await, None);
    let odd = "{ \"title\" : \"\\u0000 ö\",\r\n\t\"type\":\"object\"}\n";
    let pushed = [text("b", 2, odd), text("a/b.c:d", u32::MAX, "true"), text("b", 10, "{}")];
    assert_eq!(store.push_contracts(&pushed, &preview()).await.unwrap(), [true; 3]);
    assert_eq!(all(&*store).await, None);
    assert_eq!(store.push_contracts(&pushed, &request()).await.unwrap(), [true; 3]);
    let first = all(&*store).await.unwrap();
    assert_eq!(names(&first), [("a/b.c:d", u32::MAX), ("b", 2), ("b", 10)]);
    assert_eq!(first.contracts[1].schema, odd);
    assert!(first.contracts[1].pushed_at > Timestamp(1_700_000_000_000_000));
    assert_eq!(store.contracts(&first.mark).await.unwrap(), None);
    let noted = ("ann".to_owned(), "push-contract".to_owned());
    assert_eq!(harness.audit().await, vec![noted; 3]);

    assert_eq!(store.push_contracts(&pushed[..1], &request()).await.unwrap(), [false]);
    assert_eq!(store.contracts(&first.mark).await.unwrap(), None);
    let more = [text("b", 3, "{}"), pushed[0].clone()];
    assert_eq!(store.push_contracts(&more, &request()).await.unwrap(), [true, false]);
    let second = store.contracts(&first.mark).await.unwrap().unwrap();
    assert_eq!(names(&second), [("a/b.c:d", u32::MAX), ("b", 2), ("b", 3), ("b", 10)]);
    assert_eq!(harness.audit().await.len(), 4);
}

pub(crate) async fn r31_pushed_contract_never_changes<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let schema = r#"{"type":"object","required":["id"]}"#;
    store.push_contracts(&[text("t", 1, schema)], &request()).await.unwrap();
    let before = all(&*store).await;
    let spaced = "{\n  \"required\": [\"id\"],\n  \"type\": \"object\"\n}";
    assert_eq!(store.push_contracts(&[text("t", 1, spaced)], &request()).await.unwrap(), [false]);
    for request in [request(), preview()] {
        let other = [text("t", 1, r#"{"type":"object"}"#)];
        let error = store.push_contracts(&other, &request).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Invalid);
        let told = error.to_string();
        assert!(told.contains("\"t\" version 1") && told.contains("the next number"), "{told}");
    }
    for change in ["schema = '{}'", "version = 2", "topic = 'u'"] {
        assert!(!harness.takes(&format!("update {} set {change}", H::CONTRACT)).await, "{change}");
    }
    assert_eq!(all(&*store).await, before);
}

pub(crate) async fn r31_contracts_are_pushed_together_or_not_at_all<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    store.push_contracts(&[text("b", 1, "{}")], &request()).await.unwrap();
    let before = all(&*store).await;
    let pushed = [text("a", 1, "{}"), text("b", 1, "true"), text("c", 1, "{}")];
    store.push_contracts(&pushed, &request()).await.unwrap_err();
    assert_eq!(all(&*store).await, before);
    assert_eq!(harness.audit().await.len(), 1);
}

pub(crate) async fn one_of_several_pushes_at_once_defines_a_version<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let mut tasks = Vec::new();
    for n in 0..4 {
        let store = harness.operations().await;
        let schema = format!(r#"{{"minimum":{n}}}"#);
        let push = async move { store.push_contracts(&[text("t", 1, &schema)], &request()).await };
        tasks.push(tokio::spawn(push));
    }
    let (mut defined, mut refused) = (0, 0);
    for task in tasks {
        match task.await.unwrap() {
            Ok(is_new) => defined += usize::from(is_new == [true]),
            Err(error) => refused += usize::from(error.to_string().contains("the next number")),
        }
    }
    assert_eq!((defined, refused), (1, 3));
    assert_eq!(names(&all(&*store).await.unwrap()), [("t", 1)]);
}

pub(crate) async fn removed_contract_is_noticed_and_noted<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let pushed = [text("t", 1, "{}"), text("t", 2, "true")];
    store.push_contracts(&pushed, &request()).await.unwrap();
    let both = all(&*store).await.unwrap();
    assert!(!store.remove_contract("t", 3, &request()).await.unwrap());
    assert!(!store.remove_contract("T", 2, &request()).await.unwrap());
    assert!(store.remove_contract("t", 2, &preview()).await.unwrap());
    assert_eq!(store.contracts(&both.mark).await.unwrap(), None);
    assert!(store.remove_contract("t", 2, &request()).await.unwrap());
    let one = store.contracts(&both.mark).await.unwrap().unwrap();
    assert_eq!(names(&one), [("t", 1)]);
    assert_eq!(harness.audit().await.last().unwrap().1, "remove-contract");

    // As many as before, and another one among them.
    store.push_contracts(&[text("t", 2, "false")], &request()).await.unwrap();
    let changed = store.contracts(&both.mark).await.unwrap().unwrap();
    assert_eq!(changed.contracts[1].schema, "false");
    for version in [1, 2] {
        assert!(store.remove_contract("t", version, &request()).await.unwrap());
    }
    let none = store.contracts(&both.mark).await.unwrap().unwrap();
    assert_eq!((none.mark, none.contracts.len()), (ContractsMark::default(), 0));
    assert_eq!(all(&*store).await, None);
}

pub(crate) async fn contract_out_of_bounds_is_refused_by_name<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let long = format!("{{}}{}", " ".repeat(CONTRACT_BYTES_MAX - 1));
    for (pushed, said) in [
        (vec![text("", 1, "{}")], "topic"),
        (vec![text("a b", 1, "{}")], "a b"),
        (vec![text("t", 0, "{}")], "\"t\" version 0: count versions from 1"),
        (vec![text("t", 1, "")], "\"t\" version 1: its schema is not JSON"),
        (vec![text("t", 1, "{")], "not JSON"),
        (vec![text("t", 1, &long)], "1048577 bytes are more than 1048576"),
        (vec![text("t", 1, "{}"), text("t", 1, "{}")], "given twice"),
    ] {
        let error = store.push_contracts(&pushed, &request()).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Invalid);
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
    let table = H::CONTRACT;
    for (topic, version, schema) in [("", 1, "{}"), ("ö", 1, "{}"), ("t", 0, "{}"), ("t", 1, "")] {
        let sql = format!(
            "insert into {table} (topic, version, schema) values ('{topic}', {version}, '{schema}')"
        );
        assert!(!harness.takes(&sql).await, "{sql}");
    }
    assert_eq!(all(&*store).await, None);
}

pub(crate) async fn contracts_are_bounded_together<H: Harness>() {
    let (_harness, store) = migrated::<H>().await;
    let full = format!("{{}}{}", " ".repeat(CONTRACT_BYTES_MAX - 2));
    let full: Vec<_> = (0..CONTRACTS_BYTES_MAX / CONTRACT_BYTES_MAX)
        .map(|n| text(&format!("full-{n}"), 1, &full))
        .collect();
    store.push_contracts(&full, &request()).await.unwrap();
    let more = [text("more", 1, "1")];
    let error = store.push_contracts(&more, &request()).await.unwrap_err().to_string();
    assert!(error.contains("67108865 bytes"), "{error}");
    // What is there does not count twice.
    store.push_contracts(&full[..1], &request()).await.unwrap();
    store.remove_contract("full-0", 1, &request()).await.unwrap();

    let many = CONTRACTS_MAX - full.len();
    let many: Vec<_> = (0..=many).map(|n| text("many", n as u32 + 1, "1")).collect();
    store.push_contracts(&many, &request()).await.unwrap();
    let error = store.push_contracts(&more, &request()).await.unwrap_err().to_string();
    assert!(error.contains("would hold 10001"), "{error}");
    assert_eq!(all(&*store).await.unwrap().contracts.len(), CONTRACTS_MAX);
}
