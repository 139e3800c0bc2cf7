//! Scheduled messages through the SQL functions.

use posthaste::MessageId;
use tokio_postgres::Client;

use crate::{sql_function::refusal, support};

async fn ask<T>(client: &Client, sql: &str) -> Vec<T>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn sql_functions_schedule_and_cancel() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let many = r#"select posthaste.enqueue_many('[
        {"topic":"b","deliver_at":"2096-10-02T07:06:40Z","payload_base64":"AA=="},
        {"topic":"c","deliver_at":null,"payload":1}]')"#;
    let mut ids: Vec<MessageId> = Vec::new();
    for call in [
        "select posthaste.enqueue('a', '1', key => 'k', deliver_at => '2096-10-02 07:06:40.5+00')",
        many,
        "select posthaste.enqueue_bytes('d', 'x', deliver_at => 'epoch', token => 't')",
        "select posthaste.enqueue('d', deliver_at => null)",
    ] {
        ids.extend(ask::<MessageId>(&client, call).await);
    }
    let waiting = "select topic from posthaste.scheduled order by deliver_at, n";
    assert_eq!(ask::<String>(&client, waiting).await, ["d", "b", "a"]);
    let log: Vec<_> = support::postgres_log(&database).await.iter().map(|row| row.id).collect();
    assert_eq!(log, [ids[2], ids[4]]);

    let cancel = format!("select posthaste.cancel('{}')", ids[0]);
    assert_eq!(ask::<bool>(&client, &cancel).await, [true]);
    assert_eq!(ask::<bool>(&client, &cancel).await, [false]);
    assert_eq!(ask::<bool>(&client, "select posthaste.cancel(null)").await, [false]);
    assert_eq!(ask::<String>(&client, waiting).await, ["d", "b"]);
}

#[tokio::test]
async fn r3_time_that_never_comes_is_refused_by_the_sql_function() {
    let database = support::postgres().await;
    let client = database.connect().await;
    for time in ["infinity", "-infinity", "1969-12-31 23:59:59+00", "10000-01-01 00:00:00+00"] {
        let call = format!("select posthaste.enqueue('t', deliver_at => '{time}')");
        let text = refusal(&client, &call, &[]).await;
        let rule = "message refused: deliver_at must be a time from 1970 to 9999, not \"";
        assert!(text.starts_with(rule), "{text}");
    }
}
