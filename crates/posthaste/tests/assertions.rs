//! The assertions of `posthaste::testing`: what holds, and what those that fail say.

use std::panic::{AssertUnwindSafe, catch_unwind};

use posthaste::{
    Message, Outbox, Timestamp,
    testing::{self, Enqueued, Expected, anything, like, topic},
};
use serde_json::json;

use crate::support::{self, Place};

fn order(n: u32) -> Message {
    let order = json!({ "order": n, "lines": [{ "sku": "a", "count": 2 }] });
    Message::new("orders.created")
        .key(format!("customer-{n}"))
        .header("tenant", "acme")
        .json(&order)
}

/// What a transaction sees that has enqueued `messages`.
async fn enqueued(messages: &[Message]) -> Enqueued {
    let place = Place::sqlite().await;
    let connection = rusqlite::Connection::open(place.file()).unwrap();
    let outbox = Outbox::default();
    outbox.enqueue_many_blocking(&connection, messages).unwrap();
    testing::enqueued_blocking(&outbox, &connection).unwrap()
}

/// The text of an assertion that must fail.
fn failure<T>(assertion: impl FnOnce() -> T) -> String {
    let caught = catch_unwind(AssertUnwindSafe(assertion)).err();
    *caught.expect("the assertion fails").downcast::<String>().unwrap()
}

#[tokio::test]
async fn every_condition_tells_messages_apart() {
    let due = Timestamp(4_000_000_000_000_000);
    let message = order(1).correlation_id("request-7").deliver_at(due);
    let seen = enqueued(&[message.clone(), Message::new("ping")]).await;
    let id = seen.messages()[1].id;
    let whole = json!({ "lines": [{ "count": 2, "sku": "a" }], "order": 1 });
    let told_apart: [(Expected, Expected); 12] = [
        (anything().id(id), topic("ping")),
        (topic("orders.*"), topic("orders.creat")),
        (topic("*").key("customer-1"), anything().key("customer-2")),
        (anything().no_key(), anything().no_key().key("k")),
        (anything().json(&whole), anything().json(&json!({ "order": 1 }))),
        (
            anything().json_with(&json!({ "order": 1 })),
            anything().json_with(&json!({ "order": 2 })),
        ),
        (anything().text(""), anything().text(" ")),
        (anything().header("tenant", "acme"), anything().header("tenant", "")),
        (anything().content_type("application/json"), anything().content_type("a/b")),
        (anything().correlation_id("request-7"), anything().correlation_id("request-8")),
        (anything().deliver_at(due), anything().deliver_at(Timestamp(1))),
        (anything().scheduled(), anything().scheduled().in_log()),
    ];
    for (nth, (holds, fails)) in told_apart.into_iter().enumerate() {
        seen.assert_one(holds);
        // The first is no refutation: it names the other message.
        if nth > 0 {
            seen.refute(fails);
        }
    }
    seen.assert_one(like(&message));
    seen.refute(like(&message.clone().header("more", "")));
    seen.refute(like(&message.key("customer-2")));
    seen.assert_count(2, anything());
    assert_eq!(seen.matching(anything().in_log()).len(), 1);
}

#[tokio::test]
async fn failed_assertion_shows_what_was_enqueued_and_where_it_differs() {
    let later = order(3).deliver_at(Timestamp(4_000_000_000_000_000));
    let binary = Message::new("blobs").bytes("application/octet-stream", vec![0xff; 300]);
    let seen = enqueued(&[binary, order(1), later]).await;
    let expected = topic("orders.created").key("customer-1").json_with(&json!({ "order": 2 }));
    let text = failure(|| seen.assert_one(expected).id);
    let hex = "ff".repeat(100);
    let line = |n: u32| {
        format!(
            "orders.created, key \"customer-{n}\", application/json \
             {{\"lines\":[{{\"count\":2,\"sku\":\"a\"}}],\"order\":{n}}}, tenant: \"acme\""
        )
    };
    let (first, third) = (line(1), line(3));
    assert_eq!(
        text,
        format!(
            "no message enqueued where 1 expected: \
             topic orders.created, key \"customer-1\", JSON with {{\"order\":2}}\n\
             what was enqueued:\n    \
             {first}\n      differs: /order is 1, expected 2\n    \
             {third}, scheduled for 2096-10-02T07:06:40.000000Z\n      \
             differs: key \"customer-3\"; /order is 3, expected 2\n    \
             blobs, application/octet-stream 0x{hex}… (300 bytes)\n      \
             differs: topic blobs; no key; \
             the payload is no JSON (expected value at line 1 column 1)"
        )
    );
}

#[tokio::test]
async fn failed_refutation_marks_the_messages_that_stand_against_it() {
    let seen = enqueued(&[order(1), Message::new("ping"), order(2)]).await;
    let text = failure(|| seen.refute(topic("orders.*")));
    assert!(text.starts_with("2 messages enqueued where 0 expected: topic orders.*\n"), "{text}");
    let marks: Vec<bool> = text.lines().skip(2).map(|line| line.starts_with("  = ")).collect();
    assert_eq!(marks, [true, true, false, false], "{text}");
}

#[tokio::test]
async fn exact_list_fails_on_order_on_what_is_missing_and_on_what_is_too_many() {
    let seen = enqueued(&[order(1), Message::new("ping")]).await;
    let both = [topic("orders.created"), topic("ping")];
    seen.assert_all(&both);
    let [first, second] = both;
    let swapped = failure(|| seen.assert_all(&[second.clone(), first.clone()]));
    let begin = "message 1 is not as expected: topic ping\nit differs: topic orders.created\n";
    assert!(swapped.starts_with(begin), "{swapped}");
    assert!(swapped.contains("  1. orders.created, key") && swapped.contains("  2. ping,"));
    let missing = failure(|| seen.assert_all(&[first.clone(), second.clone(), anything()]));
    assert!(missing.starts_with("2 messages enqueued where 3 expected\n"), "{missing}");
    let too_many = failure(|| seen.assert_all(&[first]));
    assert!(too_many.starts_with("2 messages enqueued where 1 expected\n"), "{too_many}");
}

#[tokio::test]
async fn failure_text_is_bounded_and_says_when_there_was_nothing() {
    let none = enqueued(&[]).await;
    let text = failure(|| none.assert_one(topic("a")).id);
    assert_eq!(text, "no message enqueued where 1 expected: topic a\nnothing was enqueued");
    let long: Vec<_> = (0..50).map(|_| Message::new("b").text("x".repeat(10_000))).collect();
    let many = enqueued(&long).await;
    let text = failure(|| many.assert_one(topic("a")).id);
    assert!(text.ends_with("… and 30 more") && text.len() < 10_000, "{text}");
}

#[tokio::test]
async fn log_with_too_many_messages_asks_for_a_mark() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let load = "select posthaste.enqueue('load') from generate_series(1, 10001)";
    client.execute(load, &[]).await.unwrap();
    let outbox = Outbox::default();
    let error = testing::enqueued(&outbox, &client).await.unwrap_err();
    assert!(error.to_string().contains("take a mark"), "{error}");
    let mark = testing::mark(&outbox, &client).await.unwrap();
    testing::enqueued_since(&outbox, &client, &mark).await.unwrap().refute(anything());
}

#[tokio::test]
async fn role_or_schema_that_cannot_be_read_is_named_with_the_remedy() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let elsewhere = Outbox::new("elsewhere".parse().unwrap());
    let error = testing::enqueued(&elsewhere, &client).await.unwrap_err();
    assert!(error.to_string().contains("posthaste migrate"), "{error}");
    let role = format!("writer_{}", database.name());
    let become_it =
        format!("create role {role}; grant usage on schema posthaste to {role}; set role {role}");
    client.batch_execute(&become_it).await.unwrap();
    let error = testing::enqueued(&Outbox::default(), &client).await.unwrap_err();
    assert!(error.to_string().contains("the schema's owner"), "{error}");
}
