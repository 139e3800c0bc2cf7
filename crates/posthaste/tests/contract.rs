//! What every adapter promises, run on all of them.

mod inbox;
mod kept;
mod kinds;
mod locks;
mod reading;

use std::error::Error as _;

use posthaste::{
    EnqueueError, EnqueueErrorKind, InvalidMessage, Limits, Message, MessageId, Outbox, Timestamp,
};

use self::{inbox::*, kept::*, kinds::*, locks::*, reading::*};
use crate::support::{
    Row,
    sessions::{
        Rusqlite, Session, SqlxPostgres, SqlxSqlite, TokioPostgres,
        deadpool::Deadpool,
        diesel::Diesel,
        sea_orm::{SeaOrmPostgres, SeaOrmSqlite},
    },
};

macro_rules! contract {
    (all { $($all:ident)* } postgres { $($postgres:ident)* }) => {
        contract!(@of tokio_postgres TokioPostgres $($all)* $($postgres)*);
        contract!(@of deadpool_postgres Deadpool $($all)* $($postgres)*);
        contract!(@of diesel_async Diesel $($all)* $($postgres)*);
        contract!(@of sea_orm_postgres SeaOrmPostgres $($all)* $($postgres)*);
        contract!(@of sqlx_postgres SqlxPostgres $($all)* $($postgres)*);
        contract!(@of sea_orm_sqlite SeaOrmSqlite $($all)*);
        contract!(@of sqlx_sqlite SqlxSqlite $($all)*);
        contract!(@of rusqlite Rusqlite $($all)*);
    };
    (@of $adapter:ident $session:ident $($test:ident)*) => {
        mod $adapter {
            $(#[tokio::test]
            async fn $test() {
                super::$test::<super::$session>().await;
            })*
        }
    };
}

contract! {
    all {
        r1_rollback_leaves_nothing
        r1_failed_enqueue_keeps_its_cause_and_aborts_the_transaction
        r1_enqueue_refused_by_the_client_keeps_its_cause_and_aborts_the_transaction
        r1_failed_bulk_enqueue_aborts_the_transaction
        r1_missing_schema_is_named_and_aborts_the_transaction
        r1_savepoint_rolled_back_after_a_failure_lets_the_rest_commit
        r1_error_text_holds_no_payload
        r2_several_messages_and_kinds_in_one_transaction
        r2_bulk_enqueue_keeps_order
        r3_invalid_messages_are_refused_before_anything_is_written
        r3_nil_payload_is_zero_bytes
        r3_r31_message_that_breaks_its_contract_is_refused_before_anything_is_written
        r31_message_that_keeps_its_contract_is_written_as_it_is
        r4_second_enqueue_with_one_token_writes_nothing_and_answers_the_first_id
        r4_rolled_back_transaction_frees_its_token
        r4_bulk_writes_each_token_once_and_keeps_the_order
        scheduled_message_waits_beside_the_log_as_it_was_written
        cancel_answers_whether_the_message_still_waited
        bytes_and_headers_arrive_unchanged
        given_id_is_kept_and_made_ids_rise
        tests_read_what_was_enqueued_as_it_was_written
        tests_see_uncommitted_messages_of_their_own_transaction_only
        mark_leaves_out_what_was_enqueued_or_scheduled_before_it
        lock_keys_comes_before_the_messages_of_its_keys
        r28_message_is_handled_the_first_time_and_a_repeat_from_then_on
        r28_rolled_back_message_is_handled_at_its_next_delivery
        r28_consumers_of_different_names_do_not_see_each_other
        r28_bulk_answers_what_is_new_each_once_in_the_order_given
        r28_too_many_messages_at_once_are_refused_and_abort_the_transaction
        r28_failed_handling_aborts_the_transaction
    }
    postgres {
        strict_topic_refuses_a_key_that_is_not_locked_and_says_so
        r1_errors_of_the_server_have_their_kinds
        r1_lost_connection_has_its_kind
        r28_twin_waits_and_is_a_repeat_if_the_first_commits
        r28_twin_waits_and_is_first_if_the_first_rolls_back
        r28_fifty_deliveries_at_once_take_effect_once
        r28_connection_that_is_killed_before_its_commit_lets_the_redelivery_take_effect
    }
}

/// Begins a transaction that has written a row of the application's.
async fn begin<S: Session>(session: &mut S) {
    session.execute("begin").await.unwrap();
    session.execute("insert into orders (id) values (17)").await.unwrap();
}

/// Commits a transaction that must not be able to, as an application does that ignores errors.
async fn commit_in_vain<S: Session>(session: &mut S) {
    let committed = session.execute("commit").await;
    assert_eq!(committed.is_err(), S::COMMIT_FAILS, "{committed:?}");
    if S::COMMIT_FAILS {
        // What is left of the transaction; nothing, where the adapter had to roll back itself.
        let _ = session.execute("rollback").await;
    }
}

/// Longer than the database's own limit for a topic, in an outbox that lets it pass.
fn refused_by_the_database() -> (Outbox, Message) {
    let limits = Limits { topic_bytes: 300, ..Limits::DEFAULT };
    (Outbox::default().with_limits(limits), Message::new("t".repeat(300)).text("secret payload"))
}

fn field(error: &EnqueueError) -> &'static str {
    match error.kind() {
        EnqueueErrorKind::Invalid(InvalidMessage { field, .. }) => field,
        other => panic!("{other:?} is not an invalid message"),
    }
}

async fn r1_rollback_leaves_nothing<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let (outbox, message) = (Outbox::default(), Message::new("orders.created").text("17"));

    begin(&mut session).await;
    session.enqueue(&outbox, &message).await.unwrap();
    session.enqueue_many(&outbox, &[message.clone(), message.clone()]).await.unwrap();
    session.execute("rollback").await.unwrap();
    assert_eq!((place.log().await, place.orders().await), (vec![], 0));

    begin(&mut session).await;
    let id = session.enqueue(&outbox, &message).await.unwrap();
    session.execute("commit").await.unwrap();
    assert_eq!((place.log().await, place.orders().await), (vec![Row::of(id, &message)], 1));
}

async fn r1_failed_enqueue_keeps_its_cause_and_aborts_the_transaction<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let (outbox, message) = refused_by_the_database();

    begin(&mut session).await;
    let error = session.enqueue(&outbox, &message).await.unwrap_err();
    assert_eq!(error.kind(), &EnqueueErrorKind::Database);
    assert!(S::is_own(error.source().unwrap()), "{:?}", error.source());
    assert!(error.transaction_aborted());
    commit_in_vain(&mut session).await;
    assert_eq!((place.log().await, place.orders().await), (vec![], 0));
}

async fn r1_enqueue_refused_by_the_client_keeps_its_cause_and_aborts_the_transaction<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;

    begin(&mut session).await;
    let error = session.enqueue(&Outbox::default(), &Message::new("")).await.unwrap_err();
    assert_eq!((field(&error), error.index()), ("topic", None));
    assert!(error.source().unwrap().is::<InvalidMessage>());
    assert!(error.transaction_aborted());
    commit_in_vain(&mut session).await;
    assert_eq!((place.log().await, place.orders().await), (vec![], 0));

    // The connection is none the worse.
    begin(&mut session).await;
    session.execute("commit").await.unwrap();
    assert_eq!(place.orders().await, 1);
}

async fn r1_failed_bulk_enqueue_aborts_the_transaction<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let (outbox, bad) = refused_by_the_database();
    let good = Message::new("orders.created");

    begin(&mut session).await;
    let many = [good.clone(), bad];
    let error = session.enqueue_many(&outbox, &many).await.unwrap_err();
    assert!(S::is_own(error.source().unwrap()), "{:?}", error.source());
    commit_in_vain(&mut session).await;

    begin(&mut session).await;
    let many = [good, Message::new("")];
    let error = session.enqueue_many(&Outbox::default(), &many).await.unwrap_err();
    assert_eq!((field(&error), error.index()), ("topic", Some(1)));
    commit_in_vain(&mut session).await;
    assert_eq!((place.log().await, place.orders().await), (vec![], 0));
}

async fn r1_missing_schema_is_named_and_aborts_the_transaction<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let outbox = Outbox::new("elsewhere".parse().unwrap());

    begin(&mut session).await;
    let error = session.enqueue(&outbox, &Message::new("orders.created")).await.unwrap_err();
    assert_eq!(error.kind(), &EnqueueErrorKind::MissingSchema);
    assert!(error.transaction_aborted() && error.to_string().contains("posthaste migrate"));
    commit_in_vain(&mut session).await;

    begin(&mut session).await;
    let error = session.enqueue(&outbox, &Message::new("")).await.unwrap_err();
    assert_eq!(field(&error), "topic");
    commit_in_vain(&mut session).await;
    assert_eq!(place.orders().await, 0);
}

async fn r1_savepoint_rolled_back_after_a_failure_lets_the_rest_commit<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let (lax, refused) = refused_by_the_database();
    let message = Message::new("orders.created");

    begin(&mut session).await;
    for (outbox, bad) in [(&lax, &refused), (&Outbox::default(), &Message::new(""))] {
        session.execute("savepoint attempt").await.unwrap();
        session.enqueue(&lax, &message).await.unwrap();
        session.enqueue(outbox, bad).await.unwrap_err();
        session.execute("rollback to savepoint attempt").await.unwrap();
    }
    let id = session.enqueue(&lax, &message).await.unwrap();
    session.execute("commit").await.unwrap();
    assert_eq!((place.log().await, place.orders().await), (vec![Row::of(id, &message)], 1));
}

async fn r1_error_text_holds_no_payload<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let (outbox, message) = refused_by_the_database();
    let error = session.enqueue(&outbox, &message).await.unwrap_err();
    assert_eq!(error.to_string(), "message not enqueued (see the cause)");
    // PostgreSQL's detail quotes the row, in which the payload stands in hexadecimal.
    let debug = format!("{error:?}");
    assert!(!debug.contains("secret") && !debug.contains("736563726574"), "{debug}");
}

async fn r2_several_messages_and_kinds_in_one_transaction<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let outbox = Outbox::default();
    let kind = |n: u32| Message::new(format!("products.kind-{n}")).key("p1").json(&n);
    let messages: Vec<_> = (0..9).map(kind).collect();

    begin(&mut session).await;
    let mut rows = Vec::new();
    for message in &messages {
        rows.push(Row::of(session.enqueue(&outbox, message).await.unwrap(), message));
    }
    session.execute("commit").await.unwrap();
    assert_eq!(place.log().await, rows);
}

async fn r2_bulk_enqueue_keeps_order<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let message = |n: u32| Message::new("load").text(n.to_string()).header("n", n.to_string());
    // More than two statements carry; the remainder is one message.
    let messages: Vec<_> = (0..2_001).map(message).collect();

    begin(&mut session).await;
    let ids = session.enqueue_many(&Outbox::default(), &messages).await.unwrap();
    assert!(session.enqueue_many(&Outbox::default(), &[]).await.unwrap().is_empty());
    session.execute("commit").await.unwrap();
    let row = |(id, message): (&MessageId, &Message)| Row::of(*id, message);
    assert_eq!(place.log().await, ids.iter().zip(&messages).map(row).collect::<Vec<_>>());
    assert!(ids.is_sorted());
}

async fn r3_invalid_messages_are_refused_before_anything_is_written<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let outbox = Outbox::default();
    let good = || Message::new("orders.created");
    let unserialisable = std::collections::HashMap::from([(vec![1_u8], 1)]);
    let cases = [
        (Message::new(""), "topic"),
        (Message::new("orders created"), "topic"),
        (good().key(""), "key"),
        (good().key("k".repeat(513)), "key"),
        (good().bytes("", vec![1]), "content_type"),
        (good().correlation_id("a\nb"), "correlation_id"),
        (good().deliver_at(Timestamp(-1)), "deliver_at"),
        (good().token(""), "token"),
        (good().token("a\nb"), "token"),
        (good().token("t".repeat(257)), "token"),
        (good().header("a b", "v"), "header name"),
        (good().header("a", "1").header("a", "2"), "header name"),
        (good().header("a", "v\0"), "header value"),
        (good().header("a", "v".repeat(16 * 1024)), "headers"),
        (good().bytes("a/b", vec![0; 256 * 1024 + 1]), "payload"),
        (good().json(&unserialisable), "payload"),
    ];
    for (message, name) in cases {
        // Without a transaction, a message written before the refusal would stay.
        let error = session.enqueue(&outbox, &message).await.unwrap_err();
        assert_eq!(field(&error), name);
        assert!(error.transaction_aborted(), "nothing is there to abort: {error}");
        let error = session.enqueue_many(&outbox, &[good(), message]).await.unwrap_err();
        assert_eq!((field(&error), error.index()), (name, Some(1)));
        assert!(error.to_string().starts_with("messages[1]: message refused: "), "{error}");
    }
    assert_eq!(place.log().await, []);
}

async fn r3_nil_payload_is_zero_bytes<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let (outbox, nil) = (Outbox::default(), Message::new("ping"));
    let mut ids = vec![session.enqueue(&outbox, &nil).await.unwrap()];
    ids.extend(session.enqueue_many(&outbox, &[nil.clone(), nil.clone()]).await.unwrap());
    let rows: Vec<_> = ids.into_iter().map(|id| Row::of(id, &nil)).collect();
    assert_eq!(place.log().await, rows);
    assert!(rows.iter().all(|row| row.payload.is_empty()));
}

async fn r4_second_enqueue_with_one_token_writes_nothing_and_answers_the_first_id<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let outbox = Outbox::default();
    let token = "ö".repeat(128);
    let first = Message::new("a").key("k").header("h", "v").text("first").token(&token);
    let other = Message::new("b").text("other").token("another");

    let id = session.enqueue(&outbox, &first).await.unwrap();
    // In a transaction and without one, and whatever the second message says.
    let second = Message::new("c").id(MessageId::now_v7()).text("second").token(&token);
    assert_eq!(session.enqueue(&outbox, &second).await.unwrap(), id);
    begin(&mut session).await;
    assert_eq!(session.enqueue(&outbox, &first).await.unwrap(), id);
    let other_id = session.enqueue(&outbox, &other).await.unwrap();
    assert_eq!(session.enqueue(&outbox, &other).await.unwrap(), other_id);
    session.execute("commit").await.unwrap();
    // The same id again is the first message's id, and still nothing is written.
    let same = Message::new("d").id(id).token(&token);
    assert_eq!(session.enqueue(&outbox, &same).await.unwrap(), id);
    assert_eq!(place.log().await, [Row::of(id, &first), Row::of(other_id, &other)]);
}

async fn r4_rolled_back_transaction_frees_its_token<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let (outbox, message) = (Outbox::default(), Message::new("a").token("t"));

    begin(&mut session).await;
    let lost = session.enqueue(&outbox, &message).await.unwrap();
    session.execute("rollback").await.unwrap();

    begin(&mut session).await;
    session.execute("savepoint attempt").await.unwrap();
    let undone = session.enqueue(&outbox, &message).await.unwrap();
    session.execute("rollback to savepoint attempt").await.unwrap();
    let id = session.enqueue(&outbox, &message).await.unwrap();
    session.execute("commit").await.unwrap();
    assert!(id != lost && id != undone);
    assert_eq!(place.log().await, [Row::of(id, &message)]);
}

async fn r4_bulk_writes_each_token_once_and_keeps_the_order<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let outbox = Outbox::default();
    let plain = |n: u32| Message::new("load").text(n.to_string());
    let mut messages: Vec<_> = (0..3).map(plain).collect();
    messages.extend((3..1_500).map(|n| plain(n).token(format!("t-{n}"))));
    messages.push(plain(1_500));
    messages.push(plain(1_501).token("t-3"));

    begin(&mut session).await;
    let ids = session.enqueue_many(&outbox, &messages).await.unwrap();
    session.execute("commit").await.unwrap();
    assert_eq!((ids.len(), ids[1_501]), (1_502, ids[3]));
    let row = |(id, message): (&MessageId, &Message)| Row::of(*id, message);
    let rows: Vec<_> = ids.iter().zip(&messages[..1_501]).map(row).collect();
    assert_eq!(place.log().await, rows);
    assert_eq!(session.enqueue_many(&outbox, &messages[3..1_000]).await.unwrap(), ids[3..1_000]);
    assert_eq!(place.log().await.len(), 1_501);
}

async fn scheduled_message_waits_beside_the_log_as_it_was_written<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let outbox = Outbox::default();
    let due = Timestamp(4_000_000_000_123_456);
    let all = hostile_messages().into_iter().map(|message| message.deliver_at(due));
    let mut messages: Vec<_> = all.collect();
    messages.push(Message::new("now"));
    messages.push(Message::new("soon").deliver_at(Timestamp(0)).token("t"));

    begin(&mut session).await;
    session.enqueue(&outbox, &messages[0]).await.unwrap();
    session.execute("rollback").await.unwrap();
    assert_eq!(place.scheduled().await, []);

    let mut ids = vec![session.enqueue(&outbox, &messages[0]).await.unwrap()];
    ids.extend(session.enqueue_many(&outbox, &messages[1..]).await.unwrap());
    assert_eq!(session.enqueue(&outbox, messages.last().unwrap()).await.unwrap(), ids[4]);
    let row = |at: usize| Row::of(ids[at], &messages[at]);
    let expected = vec![(row(0), due), (row(1), due), (row(2), due), (row(4), Timestamp(0))];
    assert_eq!(place.scheduled().await, expected);
    assert_eq!(place.log().await, [row(3)]);
}

async fn cancel_answers_whether_the_message_still_waited<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let outbox = Outbox::default();
    let message = Message::new("a").deliver_at(Timestamp(4_000_000_000_000_000));
    let first = session.enqueue(&outbox, &message).await.unwrap();
    let second = session.enqueue(&outbox, &message).await.unwrap();
    let sent = session.enqueue(&outbox, &Message::new("b")).await.unwrap();

    begin(&mut session).await;
    assert!(session.cancel(&outbox, first).await.unwrap());
    session.execute("rollback").await.unwrap();
    begin(&mut session).await;
    assert!(session.cancel(&outbox, first).await.unwrap());
    assert!(!session.cancel(&outbox, first).await.unwrap());
    assert!(!session.cancel(&outbox, sent).await.unwrap());
    session.execute("commit").await.unwrap();
    assert_eq!(place.scheduled().await, [(Row::of(second, &message), message.due().unwrap())]);

    begin(&mut session).await;
    let elsewhere = Outbox::new("elsewhere".parse().unwrap());
    let error = session.cancel(&elsewhere, second).await.unwrap_err();
    assert_eq!(error.kind(), &EnqueueErrorKind::MissingSchema);
    assert!(error.transaction_aborted());
    commit_in_vain(&mut session).await;
}

async fn bytes_and_headers_arrive_unchanged<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let outbox = Outbox::default();
    let messages = hostile_messages();

    let mut ids = Vec::new();
    for message in &messages {
        ids.push(session.enqueue(&outbox, message).await.unwrap());
    }
    ids.extend(session.enqueue_many(&outbox, &messages).await.unwrap());
    let log = place.log().await;
    assert_eq!(log.len(), 2 * messages.len());
    let twice = messages.iter().chain(&messages);
    for ((id, message), row) in ids.into_iter().zip(twice).zip(log) {
        assert_eq!(row, Row::of(id, message));
    }
}

/// Every byte, the limits themselves, and headers that break a careless array literal or JSON.
pub(crate) fn hostile_messages() -> Vec<Message> {
    let every_byte: Vec<u8> = (0..=255).collect();
    let mut headers = Message::new("a:b/c-d_e.f").key("Schlüssel \" \\ ' 🔑");
    let values = [
        "",
        " ",
        "NULL",
        "null",
        ",",
        "{}",
        "}",
        "{",
        "\"",
        "\\",
        "\\\"",
        "\"\\",
        "\\\\",
        "a,b",
        "\"},{\"",
        "'); drop table orders; --",
        "$1",
        "line\nbreak\r\n\ttab",
        "\u{1}\u{7f}\u{85}",
        "日本語 🚚 é e\u{301} \u{202e}",
        "\u{feff}",
        "\\x00",
        "\\u0000",
        "NULL,NULL",
        "{1,2}",
        "{\"a\":\"b\"}",
    ];
    for (n, value) in values.into_iter().enumerate() {
        headers = headers.header(format!("h-{n}"), value);
    }
    let full = (0..64).fold(Message::new("t".repeat(255)), |message, n| {
        message.header(format!("{n:0>128}"), "v".repeat(128))
    });
    vec![
        headers.bytes("application/octet-stream", every_byte).correlation_id("c \" \\ {},"),
        full.key("ö".repeat(256)).bytes("a/b", vec![0xff; 256 * 1024]),
        Message::new("NULL").key("NULL").header("NULL", "NULL").text("NULL").correlation_id("NULL"),
    ]
}

async fn given_id_is_kept_and_made_ids_rise<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let outbox = Outbox::default();
    let given = MessageId::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
    let messages = [Message::new("a").id(given), Message::new("b"), Message::new("c")];
    let ids = session.enqueue_many(&outbox, &messages).await.unwrap();
    assert_eq!(ids[0], given);
    assert!(ids.is_sorted());
    assert!(ids.iter().all(|id| id.get_version_num() == 7));
    let stored: Vec<_> = place.log().await.into_iter().map(|row| row.id).collect();
    assert_eq!(stored, ids);
}
