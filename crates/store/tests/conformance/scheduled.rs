//! Scheduled messages: beside the log until they are due, then in it, never in both or neither.

use std::time::Duration;

use posthaste_core::{Message, MessageId, Timestamp};
use posthaste_store::{Moved, Start, Store};

use super::{
    harness::{Application, Harness, LONG, migrated},
    reader::{publish_all, read_all, subscription},
};

/// More than any case schedules.
const ALL: u32 = 10_000;
/// Far beyond every run of these tests.
const NEVER: Timestamp = Timestamp(4_000_000_000_000_000);

/// A message that was due `n` seconds after 1970.
fn due(n: i64) -> Message {
    Message::new("a").deliver_at(Timestamp(n * 1_000_000))
}

async fn ids(store: &dyn Store) -> Vec<MessageId> {
    read_all(store).await.into_iter().map(|message| message.id).collect()
}

pub(crate) async fn due_messages_are_moved_in_due_order_and_others_wait<H: Harness>() {
    let (_harness, store) = migrated::<H>().await;
    assert_eq!(store.move_due(ALL).await.unwrap(), Moved::default());
    let later = Message::new("a").deliver_at(NEVER);
    let written = [due(3), later, due(1), due(2), due(1), Message::new("a")];
    let written = store.append(&written).await.unwrap();
    assert_eq!(ids(&*store).await, written[5..], "only the message without a time is in the log");

    let Moved { count, next_in } = store.move_due(ALL).await.unwrap();
    assert_eq!(count, 4);
    assert!(next_in.unwrap() > Duration::from_hours(24), "{next_in:?}");
    assert_eq!(ids(&*store).await, [5, 2, 4, 3, 0].map(|at| written[at]));
    assert_eq!(store.move_due(ALL).await.unwrap().count, 0);
    assert_eq!(store.status().await.unwrap().messages, 5);
}

pub(crate) async fn moved_message_comes_byte_for_byte_with_its_id<H: Harness>() {
    let (_harness, store) = migrated::<H>().await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let id = MessageId::now_v7();
    let message = Message::new("t".repeat(255))
        .id(id)
        .key("ö \" \\ '")
        .header("z", "{\"a\",NULL}")
        .header("a", "")
        .correlation_id("c \" 17")
        .bytes("a/b", every_byte);
    store.append(&[message.clone().deliver_at(Timestamp(0))]).await.unwrap();
    store.append(&[message]).await.unwrap();
    assert_eq!(store.move_due(ALL).await.unwrap(), Moved { count: 1, next_in: None });
    let received = read_all(&*store).await;
    let [written, moved] = received.as_slice() else { panic!("{received:?}") };
    assert_eq!((written.id, moved.id), (id, id));
    assert_eq!((&written.topic, &written.key), (&moved.topic, &moved.key));
    assert_eq!((&written.headers, &written.payload), (&moved.headers, &moved.payload));
    assert_eq!(written.content_type, moved.content_type);
    assert_eq!(written.correlation_id, moved.correlation_id);
}

pub(crate) async fn chunks_say_that_more_is_due<H: Harness>() {
    let (_harness, store) = migrated::<H>().await;
    let messages: Vec<_> = (0..5).map(due).collect();
    let written = store.append(&messages).await.unwrap();
    for (count, next_in) in [(2, Some(Duration::ZERO)), (2, Some(Duration::ZERO)), (1, None)] {
        assert_eq!(store.move_due(2).await.unwrap(), Moved { count, next_in });
    }
    assert_eq!(ids(&*store).await, written);
}

pub(crate) async fn cancelled_message_never_arrives_unless_the_cancel_is_rolled_back<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let written = store.append(&[due(1), due(2), due(3)]).await.unwrap();
    let mut application = harness.begin().await;
    assert!(application.cancel(written[0]).await);
    assert!(!application.cancel(written[0]).await);
    application.commit().await;
    let mut application = harness.begin().await;
    assert!(application.cancel(written[1]).await);
    application.rollback().await;

    assert_eq!(store.move_due(ALL).await.unwrap().count, 2);
    let mut application = harness.begin().await;
    assert!(!application.cancel(written[1]).await, "it is in the log");
    assert!(!application.cancel(MessageId::now_v7()).await, "it never was");
    application.commit().await;
    assert_eq!(ids(&*store).await, written[1..]);
}

pub(crate) async fn r4_scheduled_message_keeps_its_token<H: Harness>() {
    let (_harness, store) = migrated::<H>().await;
    let message = due(1).token("t");
    let written = store.append(&[message.clone(), message.clone()]).await.unwrap();
    assert_eq!(written[0], written[1]);
    assert_eq!(store.move_due(ALL).await.unwrap().count, 1);
    assert_eq!(store.append(&[message]).await.unwrap(), written[..1]);
    assert_eq!(store.move_due(ALL).await.unwrap().count, 0);
    assert_eq!(ids(&*store).await, written[..1]);
}

pub(crate) async fn moves_at_once_lose_repeat_and_reorder_nothing<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let messages: Vec<_> = (0..600).map(|n| due(n).key("k")).collect();
    let written = store.append(&messages).await.unwrap();
    let mut tasks = Vec::new();
    for _ in 0..3 {
        let store = harness.open(LONG).await;
        tasks.push(tokio::spawn(async move {
            while store.status().await.unwrap().messages < 600 {
                store.move_due(7).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(ids(&*store).await, written);
}

pub(crate) async fn views_tell_what_is_scheduled<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let specs =
        [subscription("s", &["*"], Start::Now), subscription("t", &["b*"], Start::Beginning)];
    store.reconcile(&specs).await.unwrap();
    let never = Message::new("bb").deliver_at(NEVER);
    let written = store.append(&[Message::new("a"), due(1), never]).await.unwrap();
    let states = async || -> Vec<(MessageId, String, String)> {
        let rows = harness.messages().await.into_iter();
        let mut rows: Vec<_> = rows.map(|row| (row.id, row.subscription, row.state)).collect();
        rows.sort();
        rows
    };
    let row = |at: usize, name: &str, state: &str| (written[at], name.to_owned(), state.to_owned());
    let waiting = [row(2, "s", "scheduled"), row(2, "t", "scheduled")];
    let mut expected = vec![row(0, "s", "pending"), row(1, "s", "scheduled")];
    expected.extend(waiting.clone());
    assert_eq!(states().await, expected);
    let outbox = harness.outbox().await;
    assert!(outbox.iter().map(|(id, _)| *id).eq(written[..1].iter().copied()), "{outbox:?}");

    store.move_due(ALL).await.unwrap();
    publish_all(&*store, "s").await;
    let mut expected = vec![row(0, "s", "published"), row(1, "s", "published")];
    expected.extend(waiting);
    assert_eq!(states().await, expected);
}
