//! Ordering keys that are locked, and strict topics, which insist on it.

use posthaste::{EnqueueErrorKind, Message, Outbox};

use super::{begin, commit_in_vain};
use crate::support::{Row, sessions::Session};

pub(super) async fn lock_keys_comes_before_the_messages_of_its_keys<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    let (outbox, message) = (Outbox::default(), Message::new("orders.created").key("k"));
    place.make_strict("orders.*").await;

    begin(&mut session).await;
    session.lock_keys(&outbox, &["j", "k"]).await.unwrap();
    let mut ids = vec![session.enqueue(&outbox, &message).await.unwrap()];
    ids.extend(session.enqueue_many(&outbox, &[message.clone(), message.clone()]).await.unwrap());
    session.execute("commit").await.unwrap();
    let rows: Vec<_> = ids.into_iter().map(|id| Row::of(id, &message)).collect();
    assert_eq!(place.log().await, rows);
}

pub(super) async fn strict_topic_refuses_a_key_that_is_not_locked_and_says_so<S: Session>() {
    let place = S::place().await;
    let mut session = S::open(&place).await;
    place.make_strict("orders.*").await;

    begin(&mut session).await;
    session.lock_keys(&Outbox::default(), &["j"]).await.unwrap();
    let message = Message::new("orders.created").key("k");
    let error = session.enqueue(&Outbox::default(), &message).await.unwrap_err();
    assert_eq!(error.kind(), &EnqueueErrorKind::KeyNotLocked);
    commit_in_vain(&mut session).await;
    assert_eq!((place.log().await, place.orders().await), (vec![], 0));
}
