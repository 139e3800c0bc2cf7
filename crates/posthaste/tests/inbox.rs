//! Inboxes where transactions race, through the SQL functions, and on SQLite.

use std::{thread, time::Duration};

use posthaste::{Delivery, EnqueueErrorKind, Inbox, Limits, MessageId, SchemaName};
use posthaste_testkit::{Database, eventually_async};
use rusqlite::{Connection, TransactionBehavior::Immediate};
use tokio_postgres::Client;

use crate::{
    sql_function::refusal,
    support::{self, Place},
};

/// No wait takes longer unless something is broken.
const LIMIT: Duration = Duration::from_mins(1);

fn inbox() -> Inbox {
    Inbox::new(SchemaName::default(), "mail").unwrap()
}

/// Waits until `count` statements in this database wait for another transaction.
async fn waiting(database: &Database, count: i64) {
    let client = database.connect().await;
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' \
                 and datname = current_database()";
    let waits = async || client.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == count;
    eventually_async("waits for a lock", LIMIT, waits).await;
}

/// Handles messages in a transaction of their own.
async fn bulk(client: &mut Client, ids: &[MessageId]) -> Vec<MessageId> {
    let transaction = client.transaction().await.unwrap();
    let fresh = inbox().handle_many(&transaction, ids).await.unwrap();
    transaction.commit().await.unwrap();
    fresh
}

#[tokio::test]
async fn r28_two_bulk_consumers_with_the_same_messages_in_another_order_do_not_deadlock() {
    let database = support::postgres().await;
    let [mut holder, mut one, mut two] =
        [database.connect().await, database.connect().await, database.connect().await];
    let mut ids: Vec<_> = (0..3).map(|_| MessageId::now_v7()).collect();
    // Both wait for the one in the middle: with the first of its own order inserted, each would then
    // wait for the other.
    let held = holder.transaction().await.unwrap();
    assert_eq!(inbox().handle(&held, ids[1]).await.unwrap(), Delivery::First);
    let up = ids.clone();
    ids.reverse();
    let down = ids.clone();
    let first = tokio::spawn(async move { bulk(&mut one, &down).await });
    waiting(&database, 1).await;
    let second = tokio::spawn(async move { bulk(&mut two, &up).await });
    waiting(&database, 2).await;
    held.rollback().await.unwrap();
    assert_eq!(first.await.unwrap(), ids);
    assert!(second.await.unwrap().is_empty());
}

#[tokio::test]
async fn r28_bulk_consumers_share_the_messages_among_them() {
    let database = support::postgres().await;
    let ids: Vec<_> = (0..2_000).map(|_| MessageId::now_v7()).collect();
    let mut tasks = Vec::new();
    for n in 0..8 {
        let mut client = database.connect().await;
        let mut ids = ids.clone();
        ids.rotate_left(n * 250);
        tasks.push(tokio::spawn(async move {
            let mut fresh = Vec::new();
            for some in ids.chunks(100) {
                fresh.extend(bulk(&mut client, some).await);
            }
            fresh
        }));
    }
    let mut handled = Vec::new();
    for task in tasks {
        handled.extend(task.await.unwrap());
    }
    handled.sort_unstable();
    assert_eq!(handled, ids);
}

#[tokio::test]
async fn r28_twin_above_read_committed_is_a_conflict_and_a_repeat_when_it_runs_again() {
    let database = support::postgres().await;
    let (mut client, other) = (database.connect().await, database.connect().await);
    let id = MessageId::now_v7();
    let strict = tokio_postgres::IsolationLevel::RepeatableRead;
    let transaction = client.build_transaction().isolation_level(strict).start().await.unwrap();
    transaction.query("select from orders", &[]).await.unwrap();
    assert_eq!(inbox().handle(&other, id).await.unwrap(), Delivery::First);
    let error = inbox().handle(&transaction, id).await.unwrap_err();
    assert_eq!(error.kind(), &EnqueueErrorKind::Conflict);
    transaction.rollback().await.unwrap();

    let again = client.build_transaction().isolation_level(strict).start().await.unwrap();
    assert_eq!(inbox().handle(&again, id).await.unwrap(), Delivery::Repeat);
    again.commit().await.unwrap();
}

#[tokio::test]
async fn r28_sql_functions_answer_as_the_inbox_does() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let once = "select posthaste.handle_once('mail', '01920000-0000-7000-8000-000000000001')";
    for is_first in [true, false] {
        assert_eq!(client.query_one(once, &[]).await.unwrap().get::<_, bool>(0), is_first);
    }
    let [a, b] = [MessageId::now_v7(), MessageId::now_v7()];
    let many = "select * from posthaste.handle_many($1, $2)";
    for (given, expected) in [(vec![], vec![]), (vec![b, a, b], vec![b, a]), (vec![a, b], vec![])] {
        let rows = client.query(many, &[&"mail", &given]).await.unwrap();
        let fresh: Vec<MessageId> = rows.iter().map(|row| row.get(0)).collect();
        assert_eq!(fresh, expected);
    }
}

#[tokio::test]
async fn r28_invalid_consumers_and_messages_are_refused_with_one_text_by_adapters_and_functions() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let (once, many) = (
        "select posthaste.handle_once($1, gen_random_uuid())",
        "select posthaste.handle_many($1, '{}')",
    );
    let long = "ö".repeat(128);
    for name in ["", "a\nb", "\u{1}", "a\u{7f}", "a\u{85}", "\u{9f}", &long] {
        let error = Inbox::new(SchemaName::default(), name).unwrap_err();
        assert_eq!(error.field, "consumer");
        for call in [once, many] {
            assert_eq!(refusal(&client, call, &[&name]).await, error.to_string(), "{name:?}");
        }
    }
    let none: Option<&str> = None;
    for call in [once, many] {
        let text = "message refused: consumer must be 1 to 255 bytes without control characters, \
                    not \"null\"";
        assert_eq!(refusal(&client, call, &[&none]).await, text);
    }
    let calls: [(&str, &str, &str); 4] = [
        ("handle_once('mail', null)", "message_id must be a UUID", "null"),
        ("handle_many('mail', null)", "message_ids must be an array of UUIDs", "null"),
        ("handle_many('mail', '{null}')", "message_ids must be an array of UUIDs", "null"),
        (
            "handle_many('mail', array_fill(gen_random_uuid(), array[10001]))",
            "message_ids must be at most 10000 in one call",
            "10001",
        ),
    ];
    for (call, rule, value) in calls {
        let text = format!("message refused: {rule}, not \"{value}\"");
        let call = format!("select posthaste.{call}");
        assert_eq!(refusal(&client, &call, &[]).await, text);
    }
    assert_eq!(Limits::check_handled(10_001).unwrap_err().to_string(), {
        let (_, rule, value) = calls[3];
        format!("message refused: {rule}, not \"{value}\"")
    });
}

#[tokio::test]
async fn r28_role_without_the_workers_privileges_is_told_and_its_transaction_aborted() {
    let database = support::postgres().await;
    let mut client = database.connect().await;
    let role = format!("stranger_{}", database.name());
    let grants =
        format!("create role {role}; grant usage on schema posthaste to {role}; set role {role}");
    client.batch_execute(&grants).await.unwrap();
    let transaction = client.transaction().await.unwrap();
    let error = inbox().handle(&transaction, MessageId::now_v7()).await.unwrap_err();
    assert_eq!(error.kind(), &EnqueueErrorKind::Privilege);
    let text = "message not handled (grant the role the worker's privileges)";
    assert_eq!(error.to_string(), text);
    transaction.query("select 1", &[]).await.unwrap_err();
}

#[tokio::test]
async fn r28_fifty_deliveries_at_once_take_effect_once_on_sqlite() {
    let place = Place::sqlite().await;
    let (file, id) = (place.file(), MessageId::now_v7());
    let deliver = |file| {
        let mut connection = Connection::open(file).unwrap();
        connection.busy_timeout(LIMIT).unwrap();
        let transaction = connection.transaction_with_behavior(Immediate).unwrap();
        if inbox().handle_blocking(&transaction, id).unwrap().is_first() {
            transaction.execute("insert into orders (id) values (17)", []).unwrap();
        }
        transaction.commit().unwrap();
    };
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| deliver(&file));
        }
    });
    assert_eq!(place.orders().await, 1);
}
