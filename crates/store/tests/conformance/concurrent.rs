//! What only stores with several writers at once can show.

use posthaste_core::{Message, Place};
use posthaste_store::{BrowsePlace, MessageFilter, MessageState, Start};

use super::{
    browse::{any, ids, in_state, newest},
    harness::{Application, Harness, commit, migrated},
    reader::{Reader, publish_all, subscription, tick},
};

pub(crate) async fn long_transaction_delays_only_its_own_messages<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let mut ticker = store.ticker();
    let mut reader = Reader::at(Place::beginning());
    let mut long = harness.begin().await;
    let mut expected = Vec::new();
    let mut late = vec![long.insert(&Message::new("late")).await];
    for _ in 0..3 {
        expected.extend(commit(&harness, &["a", "b"]).await);
        tick(ticker.as_mut()).await;
        reader.drain(&*store).await;
        assert_eq!(reader.ids(), expected);
        late.push(long.insert(&Message::new("late")).await);
    }
    long.commit().await;
    expected.extend(late);
    tick(ticker.as_mut()).await;
    reader.drain(&*store).await;
    assert_eq!(reader.ids(), expected);
}

pub(crate) async fn message_that_commits_late_stands_at_its_position<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let browse = harness.operations().await;
    store.reconcile(&[subscription("s", &["*"], Start::Beginning)]).await.unwrap();
    let mut slow = harness.begin().await;
    let late = slow.insert(&Message::new("t")).await;
    let others = store.append(&[Message::new("t"), Message::new("t")]).await.unwrap();
    publish_all(&*store, "s").await;
    assert_eq!(ids(&*browse, &any()).await, newest(&others, &[0, 1]));
    let first = browse.messages(&any(), 1).await.unwrap();
    slow.commit().await;
    assert_eq!(ids(&*browse, &any()).await, [others[1], others[0], late]);
    // Behind a cursor as well.
    let which = MessageFilter { before: first.next, ..any() };
    assert_eq!(ids(&*browse, &which).await, [others[0], late]);
    assert_eq!(first.next, first.messages[0].position.map(BrowsePlace::Log));
    // Its neighbours were published before it, and it is pending.
    assert_eq!(ids(&*browse, &in_state(MessageState::Pending)).await, [late]);
    assert_eq!(ids(&*browse, &in_state(MessageState::Published)).await, newest(&others, &[0, 1]));
    publish_all(&*store, "s").await;
    assert!(ids(&*browse, &in_state(MessageState::Pending)).await.is_empty());
}
