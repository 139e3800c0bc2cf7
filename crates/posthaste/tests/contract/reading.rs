//! What `posthaste::testing` reads through every client.

use posthaste::{Message, Outbox, Timestamp, testing};

use super::{begin, hostile_messages};
use crate::support::sessions::Session;

pub(super) async fn tests_read_what_was_enqueued_as_it_was_written<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let outbox = Outbox::default();
    let mark = session.mark(&outbox).await.unwrap();
    let messages = hostile_messages();
    let due = |n: i64| Message::new("later").text(n.to_string()).deliver_at(Timestamp(n));
    let scheduled = [due(4_000_000_000_123_456), due(4_000_000_000_000_000)];

    let mut ids = session.enqueue_many(&outbox, &scheduled).await.unwrap();
    ids.extend(session.enqueue_many(&outbox, &messages).await.unwrap());
    let enqueued = session.enqueued_since(&outbox, &mark).await.unwrap();
    let soonest_last = scheduled.iter().rev();
    let all: Vec<_> = messages.iter().chain(soonest_last).map(testing::like).collect();
    enqueued.assert_all(&all);
    let read: Vec<_> = enqueued.messages().iter().map(|message| message.id).collect();
    ids.rotate_left(2);
    ids[messages.len()..].reverse();
    assert_eq!(read, ids);
}

pub(super) async fn tests_see_uncommitted_messages_of_their_own_transaction_only<S: Session>() {
    let place = S::place().await;
    let (mut writer, mut other) = (S::open(&place).await, S::open(&place).await);
    let outbox = Outbox::default();
    let mark = writer.mark(&outbox).await.unwrap();

    begin(&mut writer).await;
    writer.enqueue(&outbox, &Message::new("orders.created").key("k")).await.unwrap();
    let seen = writer.enqueued_since(&outbox, &mark).await.unwrap();
    seen.assert_one(testing::topic("orders.*").key("k"));
    other.enqueued_since(&outbox, &mark).await.unwrap().refute(testing::anything());
    writer.execute("rollback").await.unwrap();
    writer.enqueued_since(&outbox, &mark).await.unwrap().refute(testing::anything());

    begin(&mut writer).await;
    writer.enqueue(&outbox, &Message::new("orders.paid")).await.unwrap();
    writer.execute("commit").await.unwrap();
    let seen = other.enqueued_since(&outbox, &mark).await.unwrap();
    seen.assert_all(&[testing::like(&Message::new("orders.paid"))]);
}

pub(super) async fn mark_leaves_out_what_was_enqueued_or_scheduled_before_it<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let outbox = Outbox::default();
    let later = |text: &str| Message::new("later").text(text).deliver_at(Timestamp(1));
    let now = |text: &str| Message::new("now").text(text);
    session.enqueue_many(&outbox, &[now("before"), later("before")]).await.unwrap();

    let mark = session.mark(&outbox).await.unwrap();
    session.enqueued_since(&outbox, &mark).await.unwrap().refute(testing::anything());
    session.enqueue_many(&outbox, &[later("after"), now("after")]).await.unwrap();
    let expected = [testing::like(&now("after")), testing::like(&later("after"))];
    session.enqueued_since(&outbox, &mark).await.unwrap().assert_all(&expected);

    // Moved into the log, they stand behind the mark; the first was enqueued before it all the same.
    place.move_due().await;
    let moved = session.enqueued_since(&outbox, &mark).await.unwrap();
    assert_eq!(moved.messages().len(), 2);
    moved.assert_one(testing::topic("later").text("after").in_log());
}
