//! Enqueue from other languages: runs the programs of `tests/interop/` against a database and
//! compares the log with what they sent.

pub(crate) mod install;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use posthaste::{Message, MessageId};

use crate::support::{self, Row};

/// Runs a client that inserts an order and enqueues in a transaction that it commits, does the
/// same in one that it rolls back, and prints the committed messages' ids.
async fn check(client: Command, order: &str, audit: &str) {
    let database = support::postgres().await;
    let ids = run(client, database.url());
    let log = support::postgres_log(&database).await;
    let messages = messages(order, audit);
    assert_eq!((ids.len(), log.len()), (messages.len(), messages.len()), "{log:#?}");
    for ((id, message), row) in ids.into_iter().zip(messages).zip(log) {
        assert_eq!(row, Row::of(id, &message));
    }
    let orders = database.connect().await.query_one("select count(*) from orders", &[]).await;
    assert_eq!(orders.unwrap().get::<_, i64>(0), 1);
}

fn run(mut client: Command, url: &str) -> Vec<MessageId> {
    let output = client.env("DATABASE_URL", url).output().unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{client:?} failed:\n{err}{out}");
    out.lines().map(|id| id.parse().unwrap_or_else(|_| panic!("{id:?} is no id:\n{err}"))).collect()
}

/// What every client sends; the JSON texts are as each client's serialiser writes them, because
/// the log keeps them byte for byte.
fn messages(order: &str, audit: &str) -> [Message; 5] {
    let headers = |message: Message| {
        message.header("note", "say \"hi\" \\ ünï {},\n").header("tenant", "acme")
    };
    [
        headers(Message::new("orders.created").key("order-17").bytes("application/json", order)),
        Message::new("orders.pinged").bytes("application/json", ""),
        Message::new("images.stored").bytes("image/png", every_byte()).correlation_id("request-1"),
        Message::new("audit").bytes("application/json", audit),
        headers(
            Message::new("audit").key("order-17").bytes("application/octet-stream", every_byte()),
        ),
    ]
}

fn every_byte() -> Vec<u8> {
    (0..=255).collect()
}

/// The programs' directory.
fn programs() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/interop"))
}

fn go(name: &str) -> PathBuf {
    install::go(&programs().join("go"), name)
}

#[tokio::test]
async fn r5_enqueue_from_psycopg() {
    let mut client = Command::new(install::python());
    client.arg(programs().join("python/enqueue.py"));
    check(client, r#"{"order": 17, "note": "\u2713 \u00fc"}"#, r#"{"n": 1}"#).await;
}

#[tokio::test]
async fn r5_enqueue_from_node_postgres() {
    let mut client = Command::new("node");
    client.arg(install::node());
    check(client, r#"{"order":17,"note":"✓ ü"}"#, r#"{"n":1}"#).await;
}

#[tokio::test]
async fn r5_enqueue_from_pgx() {
    // encoding/json sorts the keys of a map; hence the order of the headers, everywhere.
    check(Command::new(go("pgx")), r#"{"note":"✓ ü","order":17}"#, r#"{"n":1}"#).await;
}

#[tokio::test]
async fn r5_enqueue_from_go_database_sql() {
    let client = Command::new(go("databasesql"));
    check(client, r#"{"note":"✓ ü","order":17}"#, r#"{"n":1}"#).await;
}

#[tokio::test]
async fn r5_enqueue_from_psql() {
    let order = r#"{ "order" : 17, "note": "it's" }"#;
    install::psql();
    // A shell, as psql takes no URL from the environment.
    let mut client = Command::new("sh");
    client.args(["-c", r#"exec psql "$DATABASE_URL" "$@""#, "psql", "--no-psqlrc", "--quiet"]);
    client.arg("--file").arg(programs().join("psql/enqueue.sql"));
    client.args(["--variable", &format!("payload={order}"), "--variable", "key=order-17"]);
    client.args(["--variable", &format!("every_byte={}", BASE64.encode(every_byte()))]);
    client.env("PGCLIENTENCODING", "UTF8");
    check(client, order, r#"{"n":1}"#).await;
}
