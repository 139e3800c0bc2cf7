//! PostgreSQL compiles the expressions of queries that it takes for dear, which costs seconds over
//! the many slots of a log that was never analysed.

use posthaste_store::{Store, postgres::PostgresOptions};

use super::database::{Log, enqueue_many, quiet_server};

/// Defence: `uncompiled` in the queries for people.
#[tokio::test]
async fn no_query_of_the_store_is_compiled() {
    // A library that is no compiler: a query that would be compiled fails.
    let postgres = quiet_server(&[("jit_provider", "plpgsql")]);
    let log = Log::on(&postgres, &PostgresOptions::default()).await;
    let view = "select id from posthaste.outbox where published_at is not null";
    let error = log.writer().await.query(view, &[]).await.unwrap_err();
    let error = error.as_db_error().unwrap().message();
    assert!(error.contains("_PG_jit_provider_init"), "this test could not fail: {error}");
    log.subscribe("s").await;
    for _ in 0..3 {
        enqueue_many(&log.writer().await, "message ", 1_000).await;
        assert_eq!(log.publish("s").await.len(), 1_000);
        log.store.sweep().await.unwrap();
        assert_eq!(log.store.status().await.unwrap().subscriptions[0].backlog, 0);
        assert_eq!(log.store.recent(None, 10).await.unwrap().len(), 10);
    }
}
