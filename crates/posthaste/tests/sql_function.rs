//! `enqueue` and `enqueue_bytes`, as any language calls them.

use posthaste::{Limits, Message, MessageId};
use tokio_postgres::{Client, error::SqlState, types::ToSql};

use crate::support::{self, Row};

pub(crate) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Calls a function that must refuse, and returns the text it refuses with.
pub(crate) async fn refusal(client: &Client, call: &str, parameters: Parameters<'_>) -> String {
    let Err(error) = client.query(call, parameters).await else { panic!("not refused: {call}") };
    let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    assert_eq!(error.code(), &SqlState::INVALID_PARAMETER_VALUE, "{error:?}");
    error.message().to_owned()
}

/// What the Rust side says of the same message.
fn says(message: &Message) -> String {
    Limits::DEFAULT.check(message).unwrap_err().to_string()
}

#[tokio::test]
async fn r5_sql_function_writes_what_it_is_given() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let given = MessageId::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0001);
    let call = "select posthaste.enqueue($1, $2::text::json, $3, $4::text::json, $5, $6, $7)";
    let (payload, headers) = (r#"{"b":  1, "a":[1.50,"é"]}"#, r#"{"tenant":"acme","a":"b"}"#);
    let arguments: Parameters<'_> = &[
        &"orders.created",
        &payload,
        &"order-17",
        &headers,
        &"application/x+json",
        &"c-1",
        &given,
    ];
    let id: MessageId = client.query_one(call, arguments).await.unwrap().get(0);

    let message = Message::new("orders.created")
        .key("order-17")
        .header("tenant", "acme")
        .header("a", "b")
        .bytes("application/x+json", payload)
        .correlation_id("c-1");
    assert_eq!(id, given);
    assert_eq!(support::postgres_log(&database).await, [Row::of(given, &message)]);
}

#[tokio::test]
async fn r3_null_payload_is_zero_bytes_in_sql() {
    let database = support::postgres().await;
    let client = database.connect().await;
    for call in [
        "select posthaste.enqueue('ping')",
        "select posthaste.enqueue('ping', null, headers => null)",
        "select posthaste.enqueue('ping', headers => 'null')",
        "select posthaste.enqueue_bytes('ping', null)",
        "select posthaste.enqueue_bytes('ping', '')",
    ] {
        client.execute(call, &[]).await.unwrap();
    }
    let log = support::postgres_log(&database).await;
    assert_eq!(log.len(), 5);
    assert!(log.iter().all(|row| row.payload.is_empty() && row.headers.is_empty()));
    assert_eq!((log[0].content_type.as_str(), log[0].key.as_ref()), ("application/json", None));
    assert_eq!(log[3].content_type, "application/octet-stream");
    // A JSON null is a document; SQL null is none.
    client.execute("select posthaste.enqueue('ping', 'null')", &[]).await.unwrap();
    assert_eq!(support::postgres_log(&database).await[5].payload, b"null");
}

#[tokio::test]
async fn r5_sql_function_keeps_every_byte_and_header() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let every_byte: Vec<u8> = (0..=255).collect();
    let values = ["q\" \\ '", "{},NULL", "line\nbreak\ttab", "日本語 🚚", "", "\u{1}\u{7f}\u{85}"];
    let names: Vec<_> = (0..values.len()).map(|n| format!("h-{n}")).collect();
    let pairs: Vec<_> = names.into_iter().zip(values.map(str::to_owned)).collect();
    let headers: serde_json::Map<_, _> =
        pairs.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    let headers = serde_json::Value::from(headers).to_string();
    let call = "select posthaste.enqueue_bytes('t', $1, headers => $2::text::json)";
    client.execute(call, &[&every_byte, &headers]).await.unwrap();
    // A value that is also the name of another header is no duplicate.
    let crossed = r#"select posthaste.enqueue('t', headers => '{"a":"b","b":"a"}')"#;
    client.execute(crossed, &[]).await.unwrap();

    let log = support::postgres_log(&database).await;
    assert_eq!((&log[0].payload, &log[0].headers), (&every_byte, &pairs));
    assert_eq!(log[1].headers, [("a".into(), "b".into()), ("b".into(), "a".into())]);
}

#[tokio::test]
async fn r3_invalid_messages_are_refused_by_the_sql_function_with_the_texts_of_the_adapters() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let good = || Message::new("t");
    let call = "select posthaste.enqueue_bytes($1, $2, $3, null, $4, $5)";
    let topics = ["", "orders created", ".orders", "ö", "a\nb", "a\n", "\"q\" \\ \t\r\u{1}\u{85}"];
    let mut messages: Vec<_> = topics.into_iter().map(Message::new).collect();
    messages.extend([
        Message::new("t".repeat(256)),
        good().key(""),
        good().key("a\nb"),
        good().key("a\u{7f}"),
        good().key("a\u{85}"),
        good().key("ö".repeat(257)),
        good().bytes("", vec![]),
        good().bytes("x\ny", vec![]),
        good().bytes("ö/b", vec![]),
        good().bytes("x".repeat(129), vec![]),
        good().correlation_id(""),
        good().correlation_id("a\u{1b}b"),
        good().correlation_id("c".repeat(257)),
        good().bytes("a/b", vec![0; 256 * 1024 + 1]),
    ]);
    for message in &messages {
        let parameters: Parameters<'_> = &[
            &message.topic(),
            &message.payload(),
            &message.ordering_key(),
            &message.media_type(),
            &message.correlation(),
        ];
        assert_eq!(refusal(&client, call, parameters).await, says(message), "{message:?}");
    }
    assert_eq!(support::postgres_log(&database).await, []);
}

#[tokio::test]
async fn r3_limits_themselves_pass_in_sql() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let (topic, key) = ("t".repeat(255), "ö".repeat(256));
    let headers: serde_json::Map<_, _> =
        (0..64).map(|n| (format!("{n:0>128}"), "v".repeat(128).into())).collect();
    let headers = serde_json::Value::from(headers).to_string();
    let (payload, kind, correlation) = (vec![1_u8; 256 * 1024], "x".repeat(128), "c".repeat(256));
    let call = "select posthaste.enqueue_bytes($1, $2, $3, $4::text::json, $5, $6)";
    let parameters: Parameters<'_> = &[&topic, &payload, &key, &headers, &kind, &correlation];
    client.execute(call, parameters).await.unwrap();
    let log = support::postgres_log(&database).await;
    assert_eq!((log[0].payload.len(), log[0].headers.len()), (256 * 1024, 64));
}

#[tokio::test]
async fn r3_invalid_headers_are_refused_by_the_sql_function_with_the_texts_of_the_adapters() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let call = "select posthaste.enqueue('t', headers => $1::text::json)";
    let good = || Message::new("t");
    let many = (0..65).fold(good(), |message, n| message.header(format!("h{n}"), "v"));
    let cases = [
        (good().header("", "v"), r#"{"":"v"}"#.to_owned()),
        (good().header("a b", "v"), r#"{"a b":"v"}"#.to_owned()),
        (good().header("é", "v"), r#"{"é":"v"}"#.to_owned()),
        (good().header("n".repeat(129), "v"), format!(r#"{{"{}":"v"}}"#, "n".repeat(129))),
        (good().header("a", "1").header("a", "2"), r#"{"a":"1","a":"2"}"#.to_owned()),
        // The first "b" is a value.
        (
            good().header("a", "b").header("b", "1").header("b", "2"),
            r#"{"a":"b","b":"1","b":"2"}"#.to_owned(),
        ),
        (good().header("a", "v".repeat(16_384)), format!(r#"{{"a":"{}"}}"#, "v".repeat(16_384))),
        (many.clone(), {
            let pair = |(name, value): &(String, String)| format!("{name:?}:{value:?}");
            format!("{{{}}}", many.header_pairs().iter().map(pair).collect::<Vec<_>>().join(","))
        }),
    ];
    for (message, json) in &cases {
        assert_eq!(refusal(&client, call, &[json]).await, says(message), "{json}");
    }
    for (json, text) in [
        (r#"{"a":1}"#, "message refused: header value must be a string, not \"1\""),
        (r#"{"a":null}"#, "message refused: header value must be a string, not \"null\""),
        ("[]", "message refused: headers must be a JSON object of strings, not \"[]\""),
        ("\"x\"", r#"message refused: headers must be a JSON object of strings, not "\"x\"""#),
    ] {
        assert_eq!(refusal(&client, call, &[&json]).await, text);
    }
    // PostgreSQL has no text with NUL; its own error says so.
    client.query(call, &[&r#"{"a":"v\u0000"}"#]).await.unwrap_err();
    assert_eq!(support::postgres_log(&database).await, []);
}

#[tokio::test]
async fn r5_sql_function_makes_uuids_of_version_7_that_rise_with_time() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let clock = "select (extract(epoch from clock_timestamp()) * 1000)::bigint";
    let before: i64 = client.query_one(clock, &[]).await.unwrap().get(0);
    let call = "select posthaste.uuid_v7() from generate_series(1, 1000)";
    let ids: Vec<MessageId> =
        client.query(call, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let after: i64 = client.query_one(clock, &[]).await.unwrap().get(0);

    let millis: Vec<_> = ids.iter().map(|id| (id.as_u128() >> 80) as i64).collect();
    assert!(ids.iter().all(|id| id.get_version_num() == 7));
    assert!(ids.iter().all(|id| id.get_variant() == uuid::Variant::RFC4122));
    assert!(millis.is_sorted() && before <= millis[0] && millis[999] <= after, "{millis:?}");
    let distinct: std::collections::HashSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), ids.len());
}

#[tokio::test]
async fn r5_sql_function_stands_in_the_callers_transaction() {
    let database = support::postgres().await;
    let mut client = database.connect().await;
    let transaction = client.transaction().await.unwrap();
    transaction.execute("select posthaste.enqueue('t', '1')", &[]).await.unwrap();
    transaction.rollback().await.unwrap();

    let transaction = client.transaction().await.unwrap();
    transaction.execute("insert into orders (id) values (17)", &[]).await.unwrap();
    refusal(transaction.client(), "select posthaste.enqueue('')", &[]).await;
    let error = transaction.query("select 1", &[]).await.unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION));
    transaction.commit().await.unwrap();
    assert_eq!(support::postgres_log(&database).await, []);
    let orders = client.query_one("select count(*) from orders", &[]).await.unwrap();
    assert_eq!(orders.get::<_, i64>(0), 0);
}
