//! BYTE-EXACT and ATOMIC: messages come back as they were written, and only committed ones.

use posthaste_core::{Limits, Message};

use super::{
    harness::{Application, Harness, commit, migrated},
    reader::{Received, read_all, tick},
};

/// Messages at the edges of what the limits allow.
fn edges() -> Vec<Message> {
    let every_byte: Vec<u8> = (0..=255).collect();
    let largest = vec![0xa5; Limits::DEFAULT.payload_bytes];
    let many = (0..Limits::DEFAULT.headers)
        .fold(Message::new("many"), |message, n| message.header(format!("h{n}"), n.to_string()));
    vec![
        Message::new("empty"),
        Message::new("nul").bytes("a/b", b"\0a\0\0".as_slice()),
        Message::new("invalid-utf8").bytes("a/b", b"\xff\xfe\xc3\x28".as_slice()),
        Message::new("every-byte").bytes("a/b", every_byte),
        Message::new("largest").bytes("a/b", largest).header("a", "after a long payload"),
        Message::new("t".repeat(Limits::DEFAULT.topic_bytes)).key("ö".repeat(256)),
        Message::new("unicode").key("ключ 鍵 🔑").header("name", "значение 値 🎁 \u{1}\u{7f}"),
        Message::new("quotes").header("json", r#"{"a": "\"\\\n"}"#).header("null", "NULL"),
        Message::new("empty-header").header("none", "").header("some", "v"),
        Message::new("order").header("z", "1").header("a", "2").header("m", "3"),
        Message::new("correlated").correlation_id("request 17").text("text"),
        Message::new("a:b/c-d_e.f").json(&[1, 2, 3]),
        many,
    ]
}

fn assert_same(received: &[Received], expected: &[Message]) {
    for (received, expected) in received.iter().zip(expected) {
        assert_eq!(received.topic, expected.topic());
        assert_eq!(received.key.as_deref(), expected.ordering_key());
        assert_eq!(received.headers, expected.header_pairs());
        assert_eq!(received.content_type, expected.media_type());
        assert_eq!(received.correlation_id.as_deref(), expected.correlation());
        assert!(received.payload == expected.payload(), "payload of {}", received.topic);
    }
    assert_eq!(received.len(), expected.len());
}

pub(crate) async fn messages_come_back_byte_for_byte_with_all_headers<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let mut application = harness.begin().await;
    let mut ids = Vec::new();
    for message in edges() {
        Limits::DEFAULT.check(&message).unwrap();
        ids.push(application.insert(&message).await);
    }
    application.commit().await;
    let received = read_all(&*store).await;
    assert_same(&received, &edges());
    assert!(received.iter().map(|message| message.id).eq(ids));
}

pub(crate) async fn appended_messages_come_back_like_those_of_applications<H: Harness>() {
    let (_harness, store) = migrated::<H>().await;
    let ids = store.append(&edges()).await.unwrap();
    let received = read_all(&*store).await;
    assert_same(&received, &edges());
    assert!(received.iter().map(|message| message.id).eq(ids));
    let recent = store.recent(None, 100).await.unwrap();
    for (stored, received) in recent.iter().zip(&received) {
        assert_eq!((stored.position, stored.id), (received.position, received.id));
        assert_eq!((&stored.topic, &stored.key), (&received.topic, &received.key));
        assert_eq!(stored.headers, received.headers);
        assert!(stored.payload == received.payload, "payload of {}", stored.topic);
    }
    assert_eq!(recent.len(), received.len());
}

pub(crate) async fn rolled_back_messages_never_appear<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let mut ticker = store.ticker();
    let mut expected = Vec::new();
    for _ in 0..3 {
        let mut application = harness.begin().await;
        application.insert(&Message::new("rolled-back")).await;
        tick(ticker.as_mut()).await;
        application.rollback().await;
        expected.extend(commit(&harness, &["committed"]).await);
        tick(ticker.as_mut()).await;
    }
    let mut application = harness.begin().await;
    application.insert(&Message::new("rolled-back")).await;
    application.rollback().await;
    let received = read_all(&*store).await;
    assert!(received.iter().map(|message| message.id).eq(expected), "{received:?}");
}

pub(crate) async fn recent_shows_the_newest_or_those_above_a_position<H: Harness>() {
    let (harness, store) = migrated::<H>().await;
    let ids = commit(&harness, &["a", "b", "c", "d"]).await;
    let newest = store.recent(None, 3).await.unwrap();
    assert!(newest.iter().map(|message| message.id).eq(ids[1..].iter().copied()));
    let above = store.recent(Some(newest[0].position), 1).await.unwrap();
    assert!(above.iter().map(|message| message.id).eq([ids[2]]));
    assert!(store.recent(Some(newest[2].position), 1).await.unwrap().is_empty());
}
