//! Scheduled messages reach the sink when they are due, and not before.

use posthaste_core::{Message, Timestamp};
use posthaste_store::Store;

use super::support::{Running, numbers, receive, relay_to_local, store};

/// The database's clock.
async fn now(store: &dyn Store) -> i64 {
    store.append(&[Message::new("numbers").text("0")]).await.unwrap();
    store.recent(None, 1).await.unwrap()[0].enqueued_at.0
}

fn message(n: u32, due: i64) -> Message {
    Message::new("numbers").key("k").text(n.to_string()).deliver_at(Timestamp(due))
}

#[tokio::test]
async fn scheduled_messages_arrive_in_due_order_once_they_are_due() {
    let store = store().await;
    let (relay, mut consumer) = relay_to_local(&store);
    let running = Running::start(relay);
    let start = now(&*store).await;
    let due = |millis: i64| start + millis * 1_000;
    let written = [message(3, due(1_500)), message(1, due(500)), message(2, due(900))];
    let ids = store.append(&written).await.unwrap();
    let received = receive(&mut consumer, 4).await;
    assert_eq!(numbers(&received), [0, 1, 2, 3]);
    for (at, millis) in [(1, 500), (2, 900), (3, 1_500)] {
        let written_at = received[at].enqueued_at.0;
        assert!(written_at >= due(millis), "{} ms early", (due(millis) - written_at) / 1_000);
    }
    assert_eq!(received[1].id, ids[1]);
    running.drain().await.unwrap();
}

#[tokio::test]
async fn run_once_publishes_what_is_due_and_leaves_the_rest() {
    let store = store().await;
    let never = 4_000_000_000_000_000;
    store.append(&[message(1, 2), message(0, 1), message(2, never)]).await.unwrap();
    let (relay, mut consumer) = relay_to_local(&store);
    relay.run_once(std::future::pending()).await.unwrap();
    assert_eq!(numbers(&receive(&mut consumer, 2).await), [0, 1]);
    assert_eq!(store.status().await.unwrap().messages, 2);
}
