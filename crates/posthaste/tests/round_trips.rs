//! What an enqueue costs on the wire, counted by message and not by time; and that nothing stays
//! prepared on the server, which a pooler in transaction mode could not carry.

use ::sea_orm::TransactionTrait as _;
use diesel_async::{AsyncConnection as _, AsyncPgConnection};
use posthaste::{Message, Outbox};
use posthaste_testkit::{Database, Postgres};
use sqlx::{Connection as _, PgConnection};
use tokio_postgres::{Client, NoTls};

use crate::support::{
    self,
    proxy::Proxy,
    sessions::{deadpool, sea_orm},
};

async fn behind_proxy() -> (Database, Proxy, String) {
    let database = support::postgres().await;
    let port = Postgres::shared().port();
    let proxy = Proxy::start(port).await;
    let url = proxy.url(database.url(), port);
    (database, proxy, url)
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test]
async fn r6_enqueue_is_one_statement_and_one_round_trip() {
    let (database, proxy, url) = behind_proxy().await;
    let mut client = connect(&url).await;
    let (outbox, message) = (Outbox::default(), Message::new("t").header("a", "b").text("17"));

    let transaction = client.transaction().await.unwrap();
    for _ in 0..2 {
        proxy.take();
        outbox.enqueue(&transaction, &message).await.unwrap();
        assert_eq!(proxy.take(), "PBDES", "the first and every later enqueue cost the same");
    }
    outbox.enqueue_many(&transaction, &vec![message; 1_000]).await.unwrap();
    assert_eq!(proxy.take(), "PBDES", "a bulk of 1,000 is one statement as well");
    outbox.enqueue(&transaction, &Message::new("t").token("a")).await.unwrap();
    assert_eq!(proxy.take(), "PBDES", "with a token as well");
    let prepared = "select count(*) from pg_prepared_statements";
    let row = transaction.query_typed(prepared, &[]).await.unwrap();
    assert_eq!(row[0].get::<_, i64>(0), 0);
    transaction.commit().await.unwrap();
    assert_eq!(support::postgres_log(&database).await.len(), 1_003);
}

#[tokio::test]
async fn r6_sqlx_enqueue_is_one_round_trip_where_the_connection_caches_statements() {
    let (_database, proxy, url) = behind_proxy().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let (outbox, message) = (Outbox::default(), Message::new("t").text("17"));

    sqlx::query("insert into orders (id) values ($1)")
        .bind(17)
        .execute(&mut connection)
        .await
        .unwrap();
    outbox.enqueue(&mut connection, &message).await.unwrap();
    proxy.take();
    outbox.enqueue(&mut connection, &message).await.unwrap();
    assert_eq!(proxy.take(), "BECS");
}

#[tokio::test]
async fn sqlx_enqueue_stays_unnamed_where_the_connection_caches_no_statement() {
    let (_database, proxy, url) = behind_proxy().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let (outbox, message) = (Outbox::default(), Message::new("t").text("17"));

    for _ in 0..2 {
        proxy.take();
        outbox.enqueue(&mut connection, &message).await.unwrap();
        assert_eq!(proxy.take(), "PDSBECS");
    }
    let prepared =
        sqlx::query_scalar("select count(*) from pg_prepared_statements where name <> ''");
    let count: i64 = prepared.persistent(false).fetch_one(&mut connection).await.unwrap();
    assert_eq!(count, 0);
}

#[tokio::test]
async fn r6_deadpool_enqueue_is_one_statement_and_one_round_trip() {
    let (database, proxy, url) = behind_proxy().await;
    let mut client = deadpool::client(&url).await;
    let (outbox, message) = (Outbox::default(), Message::new("t").text("17"));

    let mut transaction = client.transaction().await.unwrap();
    let savepoint = transaction.transaction().await.unwrap();
    proxy.take();
    outbox.enqueue(&savepoint, &message).await.unwrap();
    assert_eq!(proxy.take(), "PBDES");
    savepoint.commit().await.unwrap();
    proxy.take();
    outbox.enqueue_many(&transaction, &vec![message; 1_000]).await.unwrap();
    assert_eq!(proxy.take(), "PBDES");
    transaction.commit().await.unwrap();
    assert_eq!(support::postgres_log(&database).await.len(), 1_001);
}

#[tokio::test]
async fn r6_diesel_enqueue_is_one_round_trip_from_its_second_use_on() {
    let (database, proxy, url) = behind_proxy().await;
    let mut connection = AsyncPgConnection::establish(&url).await.unwrap();
    let (outbox, message) = (Outbox::default(), Message::new("t").header("a", "b").text("17"));

    let used_twice = async |connection: &mut AsyncPgConnection| {
        let many = vec![message.clone(); 1_000];
        for expected in ["PDSBES", "BES"] {
            proxy.take();
            outbox.enqueue(&mut *connection, &message).await?;
            assert_eq!(proxy.take(), expected);
            outbox.enqueue_many(&mut *connection, &many).await?;
            assert_eq!(proxy.take(), expected);
            outbox.enqueue(&mut *connection, &message.clone().token("a")).await?;
            assert_eq!(proxy.take(), expected);
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
    };
    connection.transaction(used_twice).await.unwrap();
    assert_eq!(support::postgres_log(&database).await.len(), 2_003);
}

#[tokio::test]
async fn r6_sea_orm_enqueue_is_one_round_trip_from_its_second_use_on() {
    let (database, proxy, url) = behind_proxy().await;
    let client = sea_orm::connect(url).await;
    let (outbox, message) = (Outbox::default(), Message::new("t").header("a", "b").text("17"));

    let transaction = client.begin().await.unwrap();
    let many = vec![message.clone(); 1_000];
    for expected in ["PDSBECS", "BECS"] {
        proxy.take();
        outbox.enqueue(&transaction, &message).await.unwrap();
        assert_eq!(proxy.take(), expected);
        outbox.enqueue_many(&transaction, &many).await.unwrap();
        assert_eq!(proxy.take(), expected);
        outbox.enqueue(&transaction, &message.clone().token("a")).await.unwrap();
        assert_eq!(proxy.take(), expected);
    }
    transaction.commit().await.unwrap();
    assert_eq!(support::postgres_log(&database).await.len(), 2_003);
}
