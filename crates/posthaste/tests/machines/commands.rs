//! Commands whose effects are anywhere: begun, completed, renewed, abandoned and taken over.

use tokio_postgres::{Client, Error};
use uuid::Uuid;

use super::refused;
use crate::support;

const FINGERPRINT: [u8; 32] = [7; 32];

async fn begin(
    client: &Client,
    owner: Uuid,
    lease: &str,
) -> Result<(String, Option<Vec<u8>>), Error> {
    let call = "select outcome, response from posthaste.begin_command('pay', 'key', $1, $2, $3::text::interval)";
    let row = client.query_one(call, &[&FINGERPRINT.as_slice(), &owner, &lease]).await?;
    Ok((row.get(0), row.get(1)))
}

async fn call(client: &Client, function: &str, owner: Uuid) -> bool {
    let rest = match function {
        "complete" => ", '\\x00ff'",
        "renew" => ", '1 minute'",
        _ => "",
    };
    let sql = format!("select posthaste.{function}_command('pay', 'key', $1{rest})");
    client.query_one(&sql, &[&owner]).await.unwrap().get(0)
}

/// Lets the lease of the one command run out, as time would.
async fn run_out(client: &Client) {
    let sql = "update posthaste.command set lease_until = clock_timestamp() - interval '1 ms'";
    assert_eq!(client.execute(sql, &[]).await.unwrap(), 1);
}

fn owners() -> [Uuid; 2] {
    [Uuid::now_v7(), Uuid::now_v7()]
}

#[tokio::test]
async fn twin_is_told_that_it_is_in_progress_and_later_gets_the_answer() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let [first, twin] = owners();
    assert_eq!(begin(&client, first, "1 minute").await.unwrap().0, "first");
    assert_eq!(begin(&client, twin, "1 minute").await.unwrap(), ("in progress".to_owned(), None));
    // The first one, whose answer was lost on its way, asks again.
    assert_eq!(begin(&client, first, "1 minute").await.unwrap().0, "first");
    assert!(!call(&client, "complete", twin).await);
    assert!(call(&client, "complete", first).await);
    assert!(call(&client, "complete", first).await);
    let repeat = begin(&client, twin, "1 minute").await.unwrap();
    assert_eq!(repeat, ("repeat".to_owned(), Some(vec![0x00, 0xff])));
}

#[tokio::test]
async fn owner_whose_lease_has_run_out_is_taken_over_and_cannot_complete() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let [first, second] = owners();
    begin(&client, first, "1 minute").await.unwrap();
    run_out(&client).await;
    assert_eq!(begin(&client, second, "1 minute").await.unwrap().0, "taken over");
    for function in ["complete", "renew", "abandon"] {
        assert!(!call(&client, function, first).await, "{function}");
    }
    assert!(call(&client, "complete", second).await);
}

#[tokio::test]
async fn of_two_that_would_take_over_the_later_is_told_that_it_is_in_progress() {
    let database = support::postgres().await;
    let (client, twin) = (database.connect().await, database.connect().await);
    let [second, third] = owners();
    begin(&client, Uuid::now_v7(), "1 minute").await.unwrap();
    run_out(&client).await;
    client.batch_execute("begin").await.unwrap();
    assert_eq!(begin(&client, second, "1 minute").await.unwrap().0, "taken over");
    let waiting = tokio::spawn(async move { begin(&twin, third, "1 minute").await.unwrap().0 });
    support::somebody_waits(&database).await;
    client.batch_execute("commit").await.unwrap();
    assert_eq!(waiting.await.unwrap(), "in progress");
}

#[tokio::test]
async fn renewed_lease_keeps_others_out_and_abandoned_command_lets_them_in() {
    let database = support::postgres().await;
    let client = database.connect().await;
    let [first, second] = owners();
    begin(&client, first, "1 second").await.unwrap();
    run_out(&client).await;
    assert!(call(&client, "renew", first).await);
    assert_eq!(begin(&client, second, "1 minute").await.unwrap().0, "in progress");
    assert!(call(&client, "abandon", first).await);
    assert_eq!(begin(&client, second, "1 minute").await.unwrap().0, "first");
}

#[tokio::test]
async fn command_in_the_callers_transaction_is_atomic() {
    let database = support::postgres().await;
    let mut client = database.connect().await;
    let twin = database.connect().await;
    let [first, second] = owners();
    let transaction = client.transaction().await.unwrap();
    begin(transaction.client(), first, "1 minute").await.unwrap();
    transaction.execute("insert into orders values (1)", &[]).await.unwrap();
    let waiting = tokio::spawn(async move { begin(&twin, second, "1 minute").await.unwrap() });
    assert!(call(transaction.client(), "complete", first).await);
    transaction.commit().await.unwrap();
    assert_eq!(waiting.await.unwrap(), ("repeat".to_owned(), Some(vec![0x00, 0xff])));
}

#[tokio::test]
async fn what_is_no_command_is_refused_by_name() {
    let database = support::postgres().await;
    let client = database.connect().await;
    for (arguments, field) in [
        ("'', 'k', sha256(''), gen_random_uuid()", "scope"),
        ("'s', E'a\\tb', sha256(''), gen_random_uuid()", "key"),
        ("'s', 'k', 'short', gen_random_uuid()", "fingerprint"),
        ("'s', 'k', sha256(''), gen_random_uuid(), '2 days'", "lease"),
    ] {
        let sql = format!("select posthaste.begin_command({arguments})");
        let (code, text) = refused(client.query(&sql, &[]).await);
        assert_eq!(code, "22023");
        assert!(text.starts_with(&format!("message refused: {field} must be")), "{text}");
    }
}
