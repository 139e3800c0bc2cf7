//! Sinks that come back with less than they had, where going on would skip messages in silence.

use std::{sync::Arc, time::Duration};

use posthaste_core::{Message, Place};
use posthaste_relay::{
    LostPlace, Relay,
    sink::{Context, Mark},
};
use posthaste_store::{
    Operations, RingSizes, Store,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::{SqliteOptions, SqliteStore},
};
use posthaste_testkit::{Postgres, eventually_async};

use super::{keeper::Keeper, request};
use crate::pipeline::support::{LIMIT, on_both_stores, settings, subscription};

on_both_stores!(sink_that_has_lost_its_place_stops_the_subscription_where_that_is_asked_for);

async fn sink_that_has_lost_its_place_stops_the_subscription_where_that_is_asked_for(
    store: Arc<dyn Operations>,
) {
    let keeper = Keeper::new();
    let publish = async |text: &str| {
        store.append(&[Message::new("t").text(text)]).await.unwrap();
        let mut subscription = subscription("test", &["*"], Arc::new(keeper.clone()));
        subscription.failure.lost_place = LostPlace::Stop;
        let relay = Relay::new(store.clone(), settings(), vec![subscription], Context::default());
        relay.run_once(std::future::pending()).await
    };
    publish("first").await.unwrap();
    keeper.keep("test", Mark::default());
    let refused = publish("second").await.unwrap_err().to_string();
    assert!(refused.contains("keeper has lost the place of \"test\""), "{refused}");
    assert!(refused.contains("posthaste subscriptions rebase"), "{refused}");
    // It stays stopped, whatever the sink says by then, until somebody has decided.
    publish("third").await.unwrap_err();
    assert_eq!(keeper.taken(), ["first"]);
    store.rebase("test", &request()).await.unwrap();
    publish("fourth").await.unwrap();
    assert_eq!(keeper.taken(), ["first", "second", "third", "fourth"]);
}

/// The sink goes back to its first message, and the log has been emptied behind it.
async fn publish_behind_a_gap(store: Arc<dyn Operations>, emptied: &str) {
    let keeper = Keeper::new();
    let publish = async |texts: &[&str]| {
        let messages = texts.iter().map(|text| Message::new("t").text(*text)).collect::<Vec<_>>();
        store.append(&messages).await.unwrap();
        let subscription = subscription("test", &["*"], Arc::new(keeper.clone()));
        let relay = Relay::new(store.clone(), settings(), vec![subscription], Context::default());
        relay.run_once(std::future::pending()).await
    };
    publish(&["kept"]).await.unwrap();
    let kept = keeper.kept("test");
    let mark: Place = kept.text.parse().unwrap();
    publish(&["lost"; 20]).await.unwrap();
    assert_eq!(store.gone(&mark).await.unwrap(), None);
    let is_gone = async || {
        store.sweep().await.unwrap();
        store.gone(&mark).await.unwrap().is_some()
    };
    eventually_async("an emptied log", LIMIT, is_gone).await;
    let settled: Place = keeper.kept("test").text.parse().unwrap();
    assert_eq!(store.gone(&settled).await.unwrap(), None, "what the sink has, it does not miss");
    keeper.keep("test", kept);
    let had = keeper.taken();

    let refused = publish(&["new"]).await.unwrap_err().to_string();
    let lost = format!("keeper has lost what was published after {mark}");
    for part in [&lost, emptied, "posthaste replay", "posthaste subscriptions rebase"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    publish(&["newer"]).await.unwrap_err();
    assert_eq!(keeper.taken(), had);
    store.rebase("test", &request()).await.unwrap();
    publish(&["newest"]).await.unwrap();
    assert_eq!(keeper.taken()[had.len()..], ["new", "newer", "newest"]);
}

#[tokio::test]
async fn gap_that_postgres_no_longer_holds_stops_the_subscription() {
    let database = Postgres::shared().database().await;
    let options = PostgresOptions {
        rings: RingSizes { slots: 4, slot_size: 10 },
        retention: Duration::ZERO,
        ..PostgresOptions::default()
    };
    let store = PostgresStore::connect(database.url(), &options).unwrap();
    store.migrate().await.unwrap();
    publish_behind_a_gap(Arc::new(store), "slots with positions 1 to 19 are emptied").await;
}

#[tokio::test]
async fn gap_that_sqlite_no_longer_holds_stops_the_subscription() {
    let directory = tempfile::tempdir().unwrap();
    let options =
        SqliteOptions { create: true, retention: Duration::ZERO, ..SqliteOptions::default() };
    let store = SqliteStore::open(directory.path().join("log.db"), &options).await.unwrap();
    store.migrate().await.unwrap();
    publish_behind_a_gap(Arc::new(store), "positions 2 to 21 are deleted").await;
}
