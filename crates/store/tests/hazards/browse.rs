//! Lists of messages: whole slots are found by their indexes, and no writer pays for these.

use std::time::Duration;

use posthaste_core::{Message, Timestamp, TopicFilter};
use posthaste_store::{
    AuditFilter, Browse as _, Entities as _, EntityFilter, MessageFilter, MessageState,
    Oversight as _, RingSizes, Store as _, postgres::PostgresOptions,
};
use posthaste_testkit::{Postgres, PostgresOptions as ServerOptions, eventually_async};

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

/// A server that writes down the plan of each statement.
fn explaining() -> Postgres {
    let setting = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let settings =
        [("session_preload_libraries", "auto_explain"), ("auto_explain.log_min_duration", "0")];
    Postgres::start_with(ServerOptions {
        settings: settings.into_iter().map(setting).collect(),
        ..ServerOptions::default()
    })
}

/// As a large log has them: several slots of some thousand messages, the last one unsealed.
async fn explained() -> (Postgres, Log) {
    let postgres = explaining();
    let rings = RingSizes { slots: 8, slot_size: 3_000 };
    let options = PostgresOptions { rings, ..options(Duration::from_hours(1)) };
    let log = Log::on(&postgres, &options).await;
    log.subscribe("s").await;
    for from in (0..MESSAGES).step_by(1_000) {
        let some: Vec<Message> = (from..from + 1_000).map(message).collect();
        log.store.append(&some).await.unwrap();
    }
    let are_indexed = async || {
        log.store.sweep().await.unwrap();
        indexed(&log).await == ["log_0_by_id", "log_1_by_id", "log_2_by_id", "log_3_by_id"]
    };
    eventually_async("four indexed slots", LIMIT, are_indexed).await;
    log.publish("s").await;
    (postgres, log)
}

/// The plans of all statements of a list, with all of its pages.
async fn plans(postgres: &Postgres, log: &Log, which: &MessageFilter) -> String {
    let before = postgres.log().len();
    let mut asked = which.clone();
    loop {
        let page = log.store.messages(&asked, 200).await.unwrap();
        asked.before = page.next;
        if page.next.is_none() {
            break;
        }
    }
    since(postgres, log, before).await
}

/// What the server has written since its log had a length.
async fn since(postgres: &Postgres, log: &Log, before: usize) -> String {
    // What comes after it.
    let end: String = log.ask("select 'the end of a list'").await;
    let written = || postgres.log().split_off(before);
    eventually_async("the plans", LIMIT, async || written().contains(&end)).await;
    written()
}

/// Defence: `enable_seqscan`, the indexes of sealed slots, and `Stretch::serves`: the head's slot, which has none of
/// them, is read by position. Nothing that a list asks for reads a slot from end to end.
#[tokio::test]
async fn no_list_reads_a_whole_slot() {
    let (postgres, log) = explained().await;
    let page = log.store.messages(&MessageFilter::default(), 200).await.unwrap();
    let newest = &page.messages[0];
    let range = MessageFilter {
        since: Some(Timestamp(newest.enqueued_at.0 - 60_000_000)),
        until: Some(Timestamp(newest.enqueued_at.0 + 1)),
        ..MessageFilter::default()
    };
    let header = Some(("tenant".to_owned(), "none".to_owned()));
    let by_id = MessageFilter { id: Some(newest.id), ..MessageFilter::default() };
    let [by_time, by_header] = [range.clone(), MessageFilter { header, ..range }];
    let states = MessageState::ALL
        .map(|state| MessageFilter { state: Some(state), ..MessageFilter::default() });
    let all = filters().into_iter().chain([by_id, by_time, by_header]).chain(states);
    for which in all {
        let plans = plans(&postgres, &log, &which).await;
        let whole: Vec<&str> =
            plans.lines().filter(|line| line.contains("Seq Scan on log_")).collect();
        assert!(whole.is_empty(), "{which:?}: {whole:?}");
        let by = [
            (which.id.is_some(), "log_1_by_id"),
            (which.key.is_some(), "log_1_by_key"),
            (which.correlation_id.is_some(), "log_1_by_correlation_id"),
            (which.header.is_some(), "log_1_position_idx"),
        ];
        for (_, index) in by.into_iter().filter(|(is_asked, _)| *is_asked) {
            assert!(plans.contains(index), "{which:?} does without {index}");
        }
    }
}

/// Defence: the indexes of `0023_lookups.sql`. A page of entities, or of the audit trail, is the beginning of a range.
#[tokio::test]
async fn no_page_of_entities_or_of_the_audit_trail_reads_the_table() {
    let postgres = explaining();
    let log = Log::on(&postgres, &PostgresOptions::default()).await;
    let writer = log.writer().await;
    writer
        .batch_execute(
            "insert into posthaste.entity (machine, entity_id, state, organization_id) \
             select 'm', 'e' || n, case when n > 19000 then 'new' else 'done' end, 'o' || n % 500 \
             from generate_series(1, 20000) n; \
             insert into posthaste.audit (actor, action, detail) \
             select 'a' || n % 500, 'test', '{}' from generate_series(1, 20000) n; \
             analyze posthaste.entity, posthaste.audit",
        )
        .await
        .unwrap();
    let own = ["o7".to_owned(), "o8".to_owned()];
    let all = EntityFilter { after: Some("e1"), ..EntityFilter::default() };
    let of_state = EntityFilter { state: Some("new"), ..all };
    let of_organizations = EntityFilter { organizations: Some(&own), ..all };
    let pages = [
        (all, 50, "entity_pkey"),
        (of_state, 50, "entity_of_state"),
        (of_organizations, 50, "entity_of_organization"),
    ];
    for (which, limit, index) in pages {
        let before = postgres.log().len();
        let page = log.store.entities("m", &which, limit).await.unwrap();
        assert_eq!(page.len(), 50);
        let plans = since(&postgres, &log, before).await;
        assert!(plans.contains(index) && !plans.contains("Seq Scan"), "{which:?}: {plans}");
    }
    let before = postgres.log().len();
    let by_one = AuditFilter { actor: Some("a7".to_owned()), ..AuditFilter::default() };
    assert_eq!(log.store.audit(&by_one, 50).await.unwrap().len(), 40);
    let plans = since(&postgres, &log, before).await;
    assert!(plans.contains("audit_actor") && !plans.contains("Seq Scan"), "{plans}");
}
