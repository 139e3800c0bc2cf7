//! How transactions are aborted where the usual way is barred.

use std::sync::Arc;

use ::sea_orm::{ConnectionTrait as _, TransactionTrait as _};
use posthaste::{EnqueueErrorKind, Message, Outbox};
use posthaste_testkit::{Disk, Postgres, PostgresOptions};
use rusqlite::{Connection, TransactionBehavior::Immediate};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

use crate::support::{self, Place, sessions::sea_orm};

#[tokio::test]
async fn r1_without_foreign_keys_rusqlite_rolls_back_at_once() {
    let place = Place::sqlite().await;
    let mut connection = Connection::open(place.file()).unwrap();
    connection.pragma_update(None, "foreign_keys", false).unwrap();
    let transaction = connection.transaction_with_behavior(Immediate).unwrap();
    transaction.execute("insert into orders (id) values (17)", []).unwrap();

    let error = Outbox::default().enqueue_blocking(&transaction, &Message::new("")).unwrap_err();
    assert!(error.transaction_aborted());
    transaction.commit().unwrap_err();
    assert_eq!(count(&connection, "orders"), 0);
}

#[tokio::test]
async fn r1_without_foreign_keys_sqlx_rolls_back_at_once() {
    let place = Place::sqlite().await;
    let options = SqliteConnectOptions::new().filename(place.file()).foreign_keys(false);
    let mut connection = options.connect().await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    sqlx::query("insert into orders (id) values (17)").execute(&mut *transaction).await.unwrap();

    let outbox = Outbox::default();
    let error = outbox.enqueue(&mut *transaction, &Message::new("")).await.unwrap_err();
    assert!(error.transaction_aborted());
    transaction.commit().await.unwrap_err();
    assert_eq!(place.orders().await, 0);
}

#[tokio::test]
async fn r1_without_foreign_keys_sea_orm_rolls_back_at_once() {
    let place = Place::sqlite().await;
    let client = sea_orm::connect(format!("sqlite://{}", place.file().display())).await;
    client.execute_unprepared("pragma foreign_keys = off").await.unwrap();
    let transaction = client.begin().await.unwrap();
    transaction.execute_unprepared("insert into orders (id) values (17)").await.unwrap();

    let outbox = Outbox::default();
    let error = outbox.enqueue(&transaction, &Message::new("")).await.unwrap_err();
    assert!(error.transaction_aborted());
    transaction.commit().await.unwrap_err();
    assert_eq!(place.orders().await, 0);
}

#[tokio::test]
async fn r1_poisoned_transaction_rolls_back_when_rusqlite_drops_it() {
    let place = Place::sqlite().await;
    let mut connection = Connection::open(place.file()).unwrap();
    let transaction = connection.transaction_with_behavior(Immediate).unwrap();
    Outbox::default().enqueue_blocking(&transaction, &Message::new("")).unwrap_err();
    transaction.execute("insert into orders (id) values (17)", []).unwrap();
    // `commit` takes the transaction, fails, and drops it.
    transaction.commit().unwrap_err();
    assert!(connection.is_autocommit());
    assert_eq!((count(&connection, "orders"), count(&connection, "posthaste_refused")), (0, 0));
}

#[tokio::test]
async fn r1_poisoned_transaction_fails_to_commit_with_sqlx() {
    let place = Place::sqlite().await;
    let mut connection =
        SqliteConnectOptions::new().filename(place.file()).connect().await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    let outbox = Outbox::default();
    outbox.enqueue(&mut *transaction, &Message::new("")).await.unwrap_err();
    transaction.commit().await.unwrap_err();

    // The connection goes on, outside a transaction.
    let mut transaction = connection.begin_with("begin immediate").await.unwrap();
    outbox.enqueue(&mut *transaction, &Message::new("orders.created")).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(place.log().await.len(), 1);
}

#[tokio::test]
async fn busy_database_is_a_conflict() {
    let place = Place::sqlite().await;
    let mut writer = Connection::open(place.file()).unwrap();
    let held = writer.transaction_with_behavior(Immediate).unwrap();
    let other = Connection::open(place.file()).unwrap();
    other.busy_timeout(std::time::Duration::ZERO).unwrap();
    let error = Outbox::default().enqueue_blocking(&other, &Message::new("a")).unwrap_err();
    assert_eq!(error.kind(), &EnqueueErrorKind::Conflict);
    held.commit().unwrap();
}

#[tokio::test]
async fn r1_full_sqlite_database_fails_the_transaction_with_its_cause() {
    let place = Place::sqlite().await;
    let mut connection = Connection::open(place.file()).unwrap();
    let pages: i64 = connection.pragma_query_value(None, "page_count", |row| row.get(0)).unwrap();
    connection.pragma_update(None, "max_page_count", pages + 1).unwrap();
    let transaction = connection.transaction_with_behavior(Immediate).unwrap();
    transaction.execute("insert into orders (id) values (17)", []).unwrap();
    let message = Message::new("a").text("x".repeat(100_000));
    let error = Outbox::default().enqueue_blocking(&transaction, &message).unwrap_err();
    assert_eq!(error.kind(), &EnqueueErrorKind::Resources);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "database or disk is full");
    assert!(error.transaction_aborted());
    transaction.commit().unwrap_err();
    assert_eq!((count(&connection, "orders"), count(&connection, "posthaste_log")), (0, 0));
}

#[tokio::test]
async fn r1_full_disk_of_postgres_fails_the_transaction_with_its_cause() {
    let disk = Arc::new(Disk::new());
    let options = PostgresOptions { disk: Some(Arc::clone(&disk)), ..PostgresOptions::default() };
    let server = Postgres::start_with(options);
    let database = support::postgres_on(&server).await;
    let mut client = database.connect().await;
    client.batch_execute("insert into orders (id) values (1)").await.unwrap();
    disk.fill(&server.data_dir().join("base"));
    let message = Message::new("a").text("x");
    let transaction = client.transaction().await.unwrap();
    transaction.execute("insert into orders (id) values (17)", &[]).await.unwrap();
    let error = Outbox::default().enqueue(&transaction, &message).await.unwrap_err();
    assert_eq!(error.kind(), &EnqueueErrorKind::Resources);
    let cause = std::error::Error::source(&error).unwrap();
    let cause = cause.downcast_ref::<tokio_postgres::Error>().unwrap();
    assert_eq!(cause.code().unwrap().code(), "53100");
    transaction.commit().await.unwrap();
    let orders = "select count(*) from orders";
    let written: i64 = client.query_one(orders, &[]).await.unwrap().get(0);
    assert_eq!(written, 1, "the order went with its message");
    disk.free();
    let transaction = client.transaction().await.unwrap();
    Outbox::default().enqueue(&transaction, &message).await.unwrap();
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn refusal_that_answers_is_reported_as_not_aborted() {
    let database = support::postgres().await;
    let mut client = database.connect().await;
    client
        .batch_execute(
            "create or replace function posthaste.refuse(reason text) returns void \
             language plpgsql as $$ begin end $$",
        )
        .await
        .unwrap();
    let transaction = client.transaction().await.unwrap();
    let outbox = Outbox::default();
    let error = outbox.enqueue(&transaction, &Message::new("")).await.unwrap_err();
    assert!(matches!(error.kind(), EnqueueErrorKind::Invalid(_)) && !error.transaction_aborted());
    assert!(error.to_string().ends_with("can still commit without the message: roll it back"));
}

fn count(connection: &Connection, table: &str) -> i64 {
    connection.query_row(&format!("select count(*) from {table}"), [], |row| row.get(0)).unwrap()
}
