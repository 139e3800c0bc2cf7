//! `enqueue_many`: the form for loaders in other languages.

use posthaste::{Message, MessageId};
use tokio_postgres::Client;

use crate::{
    sql_function::refusal,
    support::{self, Row},
};

const CALL: &str = "select posthaste.enqueue_many($1::text::json)";

async fn enqueue_many(client: &Client, json: &str) -> Vec<MessageId> {
    client.query(CALL, &[&json]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn r5_enqueue_many_answers_the_ids_in_order() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let json = r#"[
        {"topic": "a", "payload": {"n":  1}, "key": "k", "headers": {"h": "\"v\""}},
        {"topic": "b", "payload_base64": "AP+A", "content_type": "image/png"},
        {"topic": "c", "key": null, "headers": null, "correlation_id": "c-1"},
        {"topic": "d", "payload": null, "payload_base64": null},
        {"topic": "e", "message_id": "01900000-0000-7000-8000-000000000001", "payload": "x"}
    ]"#;
    let ids = enqueue_many(&client, json).await;
    let messages = [
        Message::new("a").bytes("application/json", r#"{"n":  1}"#).key("k").header("h", "\"v\""),
        Message::new("b").bytes("image/png", [0, 0xff, 0x80]),
        Message::new("c").bytes("application/json", "").correlation_id("c-1"),
        Message::new("d").bytes("application/json", "null"),
        Message::new("e").bytes("application/json", "\"x\""),
    ];
    let row = |(id, message): (&MessageId, &Message)| Row::of(*id, message);
    let rows: Vec<_> = ids.iter().zip(&messages).map(row).collect();
    assert_eq!(support::postgres_log(&database).await, rows);
    assert_eq!(ids[4].to_string(), "01900000-0000-7000-8000-000000000001");
    assert!(enqueue_many(&client, "[]").await.is_empty());
}

#[tokio::test]
async fn r2_enqueue_many_keeps_the_order_of_a_large_array() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let message = |n: u32| serde_json::json!({ "topic": "load", "payload": n });
    let json = serde_json::Value::from((0..2_000).map(message).collect::<Vec<_>>()).to_string();
    let ids = enqueue_many(&client, &json).await;
    let log = support::postgres_log(&database).await;
    assert_eq!(log.iter().map(|row| row.id).collect::<Vec<_>>(), ids);
    assert!(log.iter().enumerate().all(|(n, row)| row.payload == n.to_string().as_bytes()));
}

#[tokio::test]
async fn r5_enqueue_many_refuses_what_it_would_otherwise_drop() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let prefix = "message refused: messages must be ";
    let cases = [
        (
            r#"[{"topic":"t","ordering_key":"k"}]"#,
            "objects with the arguments of enqueue(), not \"ordering_key\"",
        ),
        ("{}", "a JSON array of objects, not \"{}\""),
        ("[1]", "a JSON array of objects, not \"1\""),
        ("[null]", "a JSON array of objects, not \"null\""),
    ];
    for (json, text) in cases {
        assert_eq!(refusal(&client, CALL, &[&json]).await, format!("{prefix}{text}"));
    }
    assert_eq!(
        refusal(&client, CALL, &[&None::<String>]).await,
        format!("{prefix}a JSON array of objects, not \"null\"")
    );
    let both = r#"[{"topic":"t","payload":1,"payload_base64":"AA=="}]"#;
    assert_eq!(
        refusal(&client, CALL, &[&both]).await,
        "message refused: payload must be either payload or payload_base64, not \"both\""
    );
    // The first message is valid; it must not stay.
    let second = r#"[{"topic":"t"},{"topic":""}]"#;
    assert!(refusal(&client, CALL, &[&second]).await.contains("topic"));
    let missing = refusal(&client, CALL, &[&r#"[{"payload":1}]"#]).await;
    assert!(missing.ends_with("start with a letter or digit, not \"null\""), "{missing}");
    assert_eq!(support::postgres_log(&database).await, []);
}
