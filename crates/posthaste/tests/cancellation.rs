//! Dropped futures, in the clients' own transaction types.
//!
//! An enqueue is held up by a lock on the log, so that it is certain to be in flight when its
//! future is dropped.

use std::time::Duration;

use ::sea_orm::{ConnectionTrait as _, TransactionTrait as _};
use posthaste::{Message, Outbox};
use posthaste_testkit::{Database, eventually_async};
use sqlx::postgres::PgPoolOptions;
use tokio_postgres::Client;

use crate::support::{self, sessions::sea_orm};

const LIMIT: Duration = Duration::from_secs(20);

/// A second connection that locks writers out until it commits.
async fn hold_up(database: &Database) -> Client {
    let blocker = database.connect().await;
    blocker.batch_execute("begin; lock table posthaste.log in exclusive mode").await.unwrap();
    blocker
}

/// Waits until `count` of the other connections satisfy `condition`.
async fn sessions(database: &Database, what: &str, condition: &str, count: i64) {
    let client = database.connect().await;
    let statement = format!(
        "select count(*) from pg_stat_activity where datname = current_database() \
         and pid <> pg_backend_pid() and backend_type = 'client backend' and {condition}"
    );
    let has_come =
        || async { client.query_one(&statement, &[]).await.unwrap().get::<_, i64>(0) == count };
    eventually_async(what, LIMIT, has_come).await;
}

async fn in_flight(database: &Database) {
    let waits = "wait_event_type = 'Lock' and query like 'insert into posthaste.log%'";
    sessions(database, "the enqueue waits for the lock", waits, 1).await;
}

async fn none_open(database: &Database) {
    sessions(database, "no connection is inside a transaction", "xact_start is not null", 0).await;
}

#[tokio::test]
async fn r1_dropped_future_leaves_no_open_transaction_with_tokio_postgres() {
    let database = support::postgres().await;
    let mut client = database.connect().await;
    let blocker = hold_up(&database).await;

    {
        let attempt = async {
            let transaction = client.transaction().await.unwrap();
            transaction.execute("insert into orders (id) values (17)", &[]).await.unwrap();
            Outbox::default().enqueue(&transaction, &Message::new("orders.created")).await.unwrap();
            transaction.commit().await.unwrap();
        };
        tokio::select! {
            () = attempt => panic!("the lock holds the enqueue up"),
            () = in_flight(&database) => {}
        }
    }
    blocker.batch_execute("commit").await.unwrap();
    none_open(&database).await;
    assert_eq!(support::postgres_log(&database).await, []);
    // The same connection goes on.
    let orders = client.query_one("select count(*) from orders", &[]).await.unwrap();
    assert_eq!(orders.get::<_, i64>(0), 0);
}

#[tokio::test]
async fn r1_dropped_future_leaves_no_open_transaction_with_sqlx() {
    let database = support::postgres().await;
    let pool = PgPoolOptions::new().max_connections(1).connect(database.url()).await.unwrap();
    let blocker = hold_up(&database).await;

    {
        // Not `pool.begin()`, see the adapter's page: the connection first, then the transaction.
        let mut connection = pool.acquire().await.unwrap();
        let attempt = async {
            let mut transaction = sqlx::Connection::begin(&mut *connection).await.unwrap();
            sqlx::query("insert into orders (id) values (17)")
                .execute(&mut *transaction)
                .await
                .unwrap();
            let message = Message::new("orders.created");
            Outbox::default().enqueue(&mut *transaction, &message).await.unwrap();
            transaction.commit().await.unwrap();
        };
        tokio::select! {
            () = attempt => panic!("the lock holds the enqueue up"),
            () = in_flight(&database) => {}
        }
    }
    blocker.batch_execute("commit").await.unwrap();
    none_open(&database).await;
    assert_eq!(support::postgres_log(&database).await, []);
    // The pool's only connection goes on, and outside a transaction.
    Outbox::default()
        .enqueue(&mut *pool.acquire().await.unwrap(), &Message::new("orders.created"))
        .await
        .unwrap();
    assert_eq!(support::postgres_log(&database).await.len(), 1);
}

#[tokio::test]
async fn r1_dropped_future_leaves_no_open_transaction_with_sea_orm() {
    let database = support::postgres().await;
    let client = sea_orm::connect(database.url().to_owned()).await;
    let blocker = hold_up(&database).await;

    {
        let attempt = async {
            let transaction = client.begin().await.unwrap();
            transaction.execute_unprepared("insert into orders (id) values (17)").await.unwrap();
            Outbox::default().enqueue(&transaction, &Message::new("orders.created")).await.unwrap();
            transaction.commit().await.unwrap();
        };
        tokio::select! {
            () = attempt => panic!("the lock holds the enqueue up"),
            () = in_flight(&database) => {}
        }
    }
    blocker.batch_execute("commit").await.unwrap();
    none_open(&database).await;
    assert_eq!(support::postgres_log(&database).await, []);
    // The pool's only connection goes on, and outside a transaction.
    Outbox::default().enqueue(&client, &Message::new("orders.created")).await.unwrap();
    assert_eq!(support::postgres_log(&database).await.len(), 1);
}
