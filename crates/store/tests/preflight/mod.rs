//! What a look at the database finds before a relay begins.

use std::time::Duration;

use posthaste_store::{
    Store as _, StoreErrorKind,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::{Database, Postgres, PostgresOptions as ServerOptions};

fn open(database: &Database, transaction_age_max: Duration) -> PostgresStore {
    let options = PostgresOptions { transaction_age_max, ..PostgresOptions::default() };
    PostgresStore::connect(database.url(), &options).unwrap()
}

#[tokio::test]
async fn sound_database_is_not_complained_about() {
    let database = Postgres::shared().database().await;
    let store = open(&database, Duration::from_mins(15));
    store.migrate().await.unwrap();
    assert_eq!(store.preflight().await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn sequence_that_hands_positions_out_in_blocks_is_refused() {
    let database = Postgres::shared().database().await;
    let store = open(&database, Duration::from_mins(15));
    store.migrate().await.unwrap();
    let cached = "alter sequence posthaste.log_position_seq cache 20";
    database.connect().await.batch_execute(cached).await.unwrap();
    let error = store.preflight().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Invalid);
    assert!(error.to_string().contains("cache 20"), "{error}");
    assert!(error.to_string().contains("alter sequence posthaste.log_position_seq cache 1"));
}

#[tokio::test]
async fn database_that_takes_no_writes_is_refused() {
    // A pooler would go on with the sessions that it has.
    let server = Postgres::start();
    let database = server.database().await;
    let store = open(&database, Duration::from_mins(15));
    store.migrate().await.unwrap();
    let name = database.name();
    let alter = format!("alter database {name} set default_transaction_read_only = on");
    database.connect().await.batch_execute(&alter).await.unwrap();
    let error = open(&database, Duration::from_mins(15)).preflight().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Standby);
    assert!(error.to_string().contains("default_transaction_read_only"), "{error}");
}

#[tokio::test]
async fn forgotten_transactions_are_named_with_what_ends_them() {
    let settings = vec![("max_prepared_transactions".to_owned(), "2".to_owned())];
    let postgres = Postgres::start_with(ServerOptions { settings, ..ServerOptions::default() });
    let database = postgres.database().await;
    let store = open(&database, Duration::ZERO);
    store.migrate().await.unwrap();
    let (client, preparing) = (database.connect().await, database.connect().await);
    client.batch_execute("set application_name = 'reports'; begin").await.unwrap();
    let row = client.query_one("select pg_backend_pid(), txid_current()", &[]).await.unwrap();
    let pid: i32 = row.get(0);
    let prepare = "begin; create table t (x int); prepare transaction 'it''s forgotten'";
    preparing.batch_execute(prepare).await.unwrap();
    let findings = store.preflight().await.unwrap();
    let of = |text: &str| findings.iter().find(|finding| finding.contains(text)).unwrap();
    assert!(of("reports").contains(&format!("pg_terminate_backend({pid})")), "{findings:?}");
    assert!(of("'it''s forgotten'").contains("rollback prepared"), "{findings:?}");
    client.batch_execute("rollback").await.unwrap();
    preparing.batch_execute("rollback prepared 'it''s forgotten'").await.unwrap();
    let findings = store.preflight().await.unwrap();
    assert!(!findings.iter().any(|it| it.contains("reports") || it.contains("forgotten")));
}
