//! Migrations: safe to repeat, safe at once, and never backwards.

use posthaste_store::StoreErrorKind;

use super::harness::{Harness, LONG, commit};

pub(crate) async fn schema_is_missing_until_it_is_migrated<H: Harness>() {
    let harness = H::empty().await;
    let store = harness.open(LONG).await;
    let state = store.schema_state().await.unwrap();
    assert_eq!(state.version, 0);
    let versions: Vec<i32> = state.pending.iter().map(|migration| migration.version).collect();
    assert!(versions.iter().copied().eq(1..=versions.len() as i32), "{versions:?}");
    assert!(state.pending.iter().all(|migration| !migration.sql.contains("@schema@")));
    let error = store.check().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::MissingSchema, "{error}");
    let error = store.ticker().advance().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::MissingSchema, "{error}");
    store.migrate().await.unwrap();
    store.check().await.unwrap();
}

pub(crate) async fn migrating_twice_changes_nothing<H: Harness>() {
    let harness = H::empty().await;
    let store = harness.open(LONG).await;
    let names: Vec<String> = store
        .schema_state()
        .await
        .unwrap()
        .pending
        .into_iter()
        .map(|migration| migration.name.to_owned())
        .collect();
    let first = store.migrate().await.unwrap();
    assert_eq!((first.from, first.to), (0, names.len() as i32));
    assert_eq!(first.applied, names);
    commit(&harness, &["a"]).await;
    let second = store.migrate().await.unwrap();
    assert_eq!((second.from, second.to), (first.to, first.to));
    assert!(second.applied.is_empty());
    let state = store.schema_state().await.unwrap();
    assert_eq!((state.version, state.pending.len()), (first.to, 0));
    assert_eq!(store.status().await.unwrap().messages, 1);
}

pub(crate) async fn four_processes_migrate_at_once<H: Harness>() {
    let harness = H::empty().await;
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let store = harness.open(LONG).await;
        tasks.push(tokio::spawn(async move { store.migrate().await }));
    }
    let mut ran = 0;
    for task in tasks {
        let report = task.await.unwrap().unwrap();
        ran += u32::from(!report.applied.is_empty());
    }
    assert_eq!(ran, 1, "one of them migrates, the others find it done");
    harness.open(LONG).await.check().await.unwrap();
}

pub(crate) async fn newer_schema_is_refused<H: Harness>() {
    let harness = H::empty().await;
    let store = harness.open(LONG).await;
    store.migrate().await.unwrap();
    harness.record_unknown_migration().await;
    for error in [store.check().await.unwrap_err(), store.migrate().await.unwrap_err()] {
        assert_eq!(error.kind(), StoreErrorKind::NewerSchema, "{error}");
    }
}
