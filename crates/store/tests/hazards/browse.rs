//! Lists of messages: whole slots are found by their indexes, and no writer pays for these.

use std::time::Duration;

use posthaste_core::{Message, TopicFilter};
use posthaste_store::{
    Browse as _, MessageFilter, MessageState, RingSizes, Store as _, postgres::PostgresOptions,
};
use posthaste_testkit::{Postgres, eventually_async};

use super::database::{LIMIT, Log};

/// More in a slot than an index may name before it is read by position.
const RINGS: RingSizes = RingSizes { slots: 4, slot_size: 6_000 };
const MESSAGES: usize = 14_000;

fn options(retention: Duration) -> PostgresOptions {
    PostgresOptions { rings: RINGS, retention, ..PostgresOptions::default() }
}

/// Slots that have indexes.
async fn indexed(log: &Log) -> Vec<String> {
    let sql = "select coalesce(array_agg(indexname::text order by 1), '{}') from pg_indexes \
               where schemaname = 'posthaste' and indexname ~ '^log_[0-9]+_by_id$'";
    log.ask(sql).await
}

/// One in a thousand is rare, one in ten has no key; the rest has one topic.
fn message(n: usize) -> Message {
    let topic = if n.is_multiple_of(1_000) { "rare.one" } else { "common" };
    let message = Message::new(topic).correlation_id(format!("c-{}", n / 100));
    if n.is_multiple_of(10) { message } else { message.key(format!("k-{}", n % 7)) }
}

fn filters() -> Vec<MessageFilter> {
    let topic = |pattern| MessageFilter {
        topics: vec![TopicFilter::new(&[pattern]).unwrap()],
        ..MessageFilter::default()
    };
    let key = |key: &str| MessageFilter { key: Some(key.to_owned()), ..MessageFilter::default() };
    vec![
        MessageFilter::default(),
        topic("common"),
        topic("c*"),
        topic("rare.one"),
        topic("rare.*"),
        topic("none"),
        key("k-3"),
        key("none"),
        MessageFilter { topics: topic("rare.*").topics, ..key("k-3") },
        MessageFilter { correlation_id: Some("c-77".to_owned()), ..MessageFilter::default() },
        MessageFilter { state: Some(MessageState::Pending), ..topic("rare.one") },
        MessageFilter { state: Some(MessageState::Pending), ..MessageFilter::default() },
    ]
}

fn meets(n: usize, which: &MessageFilter) -> bool {
    let message = message(n);
    which.topics.iter().all(|filter| filter.matches(message.topic()))
        && (which.key.is_none() || which.key.as_deref() == message.ordering_key())
        && (which.correlation_id.is_none()
            || which.correlation_id.as_deref() == message.correlation())
}

/// Defence: what an index names too often is read by position instead, and where one page may look at no more, it says
/// where to go on.
#[tokio::test]
async fn every_list_is_whole_with_indexes_and_without() {
    let postgres = Postgres::start();
    let log = Log::on(&postgres, &options(Duration::from_hours(1))).await;
    log.subscribe("s").await;
    for from in (0..MESSAGES).step_by(1_000) {
        let some: Vec<Message> = (from..from + 1_000).map(message).collect();
        log.store.append(&some).await.unwrap();
    }
    for is_indexed in [false, true] {
        if is_indexed {
            let all = async || {
                log.store.sweep().await.unwrap();
                // The head's slot has none: its writers would pay.
                indexed(&log).await == ["log_0_by_id", "log_1_by_id"]
            };
            eventually_async("two indexed slots", LIMIT, all).await;
        }
        for which in filters() {
            let (mut seen, mut asked) = (Vec::new(), which.clone());
            loop {
                let page = log.store.messages(&asked, 200).await.unwrap();
                seen.extend(page.messages.iter().map(|message| message.position.unwrap()));
                asked.before = page.next;
                if page.next.is_none() {
                    break;
                }
            }
            // The first position is 1.
            let expected: Vec<i64> =
                (0..MESSAGES).rev().filter(|n| meets(*n, &which)).map(|n| n as i64 + 1).collect();
            assert!(seen == expected, "{which:?}: {} of {}", seen.len(), expected.len());
        }
    }
}

/// Defence: `reconcile` looks at what is sealed and empty, and drops before the head comes round.
#[tokio::test]
async fn slot_that_is_emptied_loses_its_indexes() {
    let postgres = Postgres::start();
    let rings = RingSizes { slots: 4, slot_size: 10 };
    let options =
        PostgresOptions { rings, retention: Duration::ZERO, ..PostgresOptions::default() };
    let log = Log::on(&postgres, &options).await;
    log.subscribe("s").await;
    log.store.append(&vec![Message::new("t"); 25]).await.unwrap();
    let are_indexed = async || {
        log.store.sweep().await.unwrap();
        indexed(&log).await == ["log_0_by_id", "log_1_by_id"]
    };
    eventually_async("two indexed slots", LIMIT, are_indexed).await;
    log.publish("s").await;
    let are_gone = async || {
        log.store.sweep().await.unwrap();
        indexed(&log).await.is_empty()
    };
    eventually_async("no indexed slot", LIMIT, are_gone).await;
    assert_eq!(log.store.status().await.unwrap().messages, 6, "the head's slot is left");
}
