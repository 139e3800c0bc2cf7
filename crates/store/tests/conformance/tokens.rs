//! Idempotency tokens: one message each, for as long as they are kept.

use std::time::Duration;

use posthaste_core::Message;

use super::{
    harness::{Harness, migrated},
    reader::read_all,
};

pub(crate) async fn r4_appended_messages_with_one_token_are_written_once<H: Harness>() {
    let (_harness, store) = migrated::<H>().await;
    let message = |text: &str| Message::new("a").text(text);
    let messages = [message("1"), message("2").token("t"), message("3").token("t"), message("4")];
    let ids = store.append(&messages).await.unwrap();
    assert_eq!(ids[1], ids[2]);
    assert_eq!(store.append(&messages[1..2]).await.unwrap(), ids[1..2]);
    let received = read_all(&*store).await;
    let texts: Vec<_> = received.iter().map(|message| message.payload.clone()).collect();
    assert_eq!(texts, [b"1", b"2", b"4"]);
    assert!(received.iter().map(|message| message.id).eq([ids[0], ids[1], ids[3]]));
}

pub(crate) async fn r4_token_is_kept_for_its_time_and_then_forgotten<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    // More than one chunk of the sweep.
    let messages: Vec<_> = (0..2_500).map(|n| Message::new("a").token(n.to_string())).collect();
    let ids = store.append(&messages).await.unwrap();
    assert_eq!(store.sweep().await.unwrap().tokens_deleted, 0);
    assert_eq!(store.append(&messages).await.unwrap(), ids);

    let impatient = harness.open(Duration::ZERO).await;
    assert_eq!(impatient.sweep().await.unwrap().tokens_deleted, 2_500);
    assert!(store.append(&messages).await.unwrap().iter().zip(&ids).all(|(new, old)| new != old));
    assert_eq!(store.status().await.unwrap().messages, 5_000);
}
