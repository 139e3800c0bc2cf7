//! Messages arrive once, in order, and their place is settled.

use posthaste_relay::State;

use super::support::{Running, numbered, numbers, receive, relay_to_local, store};

#[tokio::test]
async fn messages_arrive_in_commit_order_while_the_relay_runs() {
    let store = store().await;
    let (relay, mut consumer) = relay_to_local(&store);
    let running = Running::start(relay);
    for batch in 0..10 {
        store.append(&numbered(batch * 100..(batch + 1) * 100)).await.unwrap();
    }
    let received = receive(&mut consumer, 1_000).await;
    assert_eq!(numbers(&received), (0..1_000).collect::<Vec<_>>());
    running.drain().await.unwrap();
    let status = store.status().await.unwrap();
    assert_eq!((status.subscriptions[0].backlog, status.messages), (0, 1_000));
    assert_eq!(status.subscriptions[0].holder, None);
}

#[tokio::test]
async fn relay_goes_on_where_the_last_one_settled() {
    let store = store().await;
    for round in 0..3 {
        store.append(&numbered(round * 10..(round + 1) * 10)).await.unwrap();
        let (relay, mut consumer) = relay_to_local(&store);
        let monitor = relay.monitor();
        relay.run_once(std::future::pending()).await.unwrap();
        consumer.close();
        let mut received = Vec::new();
        while let Some(delivery) = consumer.recv().await {
            received.push(delivery);
        }
        assert_eq!(numbers(&received), (round * 10..(round + 1) * 10).collect::<Vec<_>>());
        assert_eq!(monitor.snapshot()[0].state, State::Drained);
    }
}
