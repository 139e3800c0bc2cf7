//! Inboxes: a message is handled once for as long as it is remembered. What applications' own
//! clients make of it is tested with those.

use std::{collections::BTreeSet, time::Duration};

use posthaste_core::MessageId;

use super::harness::{Application as _, Harness, LONG, migrated};

/// Handles each message in one transaction, and answers how many of them are new.
async fn handle<H: Harness>(harness: &H, consumer: &str, ids: &[MessageId]) -> usize {
    let mut application = harness.begin().await;
    let mut fresh = 0;
    for id in ids {
        fresh += usize::from(application.handle(consumer, *id).await);
    }
    application.commit().await;
    fresh
}

pub(crate) async fn r28_handled_message_is_remembered_for_its_time_and_then_forgotten<
    H: Harness,
>() {
    let (harness, store) = migrated::<H>().await;
    // More than one chunk of the sweep.
    let ids: Vec<_> = (0..2_500).map(|_| MessageId::now_v7()).collect();
    assert_eq!(handle(&harness, "old", &ids).await, 2_500);
    harness.age_inbox("old", LONG + Duration::from_secs(1)).await;
    assert_eq!(handle(&harness, "new", &ids[..10]).await, 10);
    harness.age_inbox("new", Duration::from_mins(55)).await;
    assert_eq!(handle(&harness, "old", &ids[..10]).await, 0);

    // A week unless told otherwise.
    assert_eq!(harness.sized(1 << 40).await.sweep().await.unwrap().inbox_deleted, 0);
    assert_eq!(store.sweep().await.unwrap().inbox_deleted, 2_500);
    assert_eq!(store.sweep().await.unwrap().inbox_deleted, 0);
    assert_eq!(handle(&harness, "new", &ids[..20]).await, 10);
    assert_eq!(handle(&harness, "old", &ids).await, 2_500);
}

pub(crate) async fn row_of_an_inbox_that_is_out_of_bounds_is_refused_by_the_database<H: Harness>() {
    let (harness, _store) = migrated::<H>().await;
    let long = "ö".repeat(127);
    let names = ["a", "NULL", "' or 1 = 1", "a\u{a0}b", &format!("{long}x")];
    for name in names {
        assert!(harness.write_inbox(name).await, "{name:?}");
    }
    let bad = ["", "a\nb", "\u{1}", "a\u{7f}", "\u{85}", "\u{9f}b", &format!("{long}öx")];
    for name in bad {
        assert!(!harness.write_inbox(name).await, "{name:?}");
    }
    let distinct: BTreeSet<_> = names.into_iter().collect();
    let table = H::INBOX;
    let count = format!("select count(*) from {table}");
    assert_eq!(harness.count(&count).await, distinct.len() as i64);
}
