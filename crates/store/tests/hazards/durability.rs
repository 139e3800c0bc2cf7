//! Nothing is published whose commit a crash of the database could still take back: ATOMIC.

use posthaste_store::{Store, postgres::PostgresOptions};
use posthaste_testkit::{Postgres, PostgresOptions as ServerOptions};

use super::database::{Log, enqueue, tick};

/// A server on which a commit stays in memory until something flushes it: the database says
/// `synchronous_commit = off`, and the WAL writer sleeps.
async fn forgetful() -> (Postgres, Log) {
    let settings = [("wal_writer_delay", "10s"), ("wal_writer_flush_after", "0")];
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let settings = settings.map(own).to_vec();
    let options = ServerOptions { settings, durable: true, ..ServerOptions::default() };
    let postgres = Postgres::start_with(options);
    let log = Log::on(&postgres, &PostgresOptions::default()).await;
    let alter = format!("alter database {} set synchronous_commit = off", log.database.name());
    log.writer().await.batch_execute(&alter).await.unwrap();
    (postgres, log)
}

async fn count(log: &Log, text: &str) -> i64 {
    let count = "select count(*) from posthaste.log where payload = $1";
    let row = log.writer().await.query_one(count, &[&text.as_bytes()]).await.unwrap();
    row.get(0)
}

/// Defence: `set local synchronous_commit = on` in `commit_tick`, and that the tick is committed
/// before its window is handed out.
#[tokio::test]
async fn asynchronous_commit_leaves_no_phantom_after_a_crash() {
    const ROUNDS: u32 = 5;
    let (postgres, log) = forgetful().await;
    let mut lost = 0;
    for round in 0..ROUNDS {
        let store = log.another_store();
        let mut ticker = store.ticker();
        tick(ticker.as_mut()).await;
        let writer = log.writer().await;
        // What is committed after the tick may go; that shows that the crash takes things back.
        enqueue(&writer, &format!("ticked {round}")).await;
        let advance = ticker.advance().await.unwrap();
        assert!(advance.window.is_some(), "the message is in a window, and would be published");
        enqueue(&writer, &format!("not ticked {round}")).await;
        postgres.kill();
        postgres.restart();
        assert_eq!(count(&log, &format!("ticked {round}")).await, 1, "round {round}: a phantom");
        lost += 1 - count(&log, &format!("not ticked {round}")).await;
    }
    assert!(lost > 0, "the server forgot nothing: this test could not fail");
}

/// Defence: as above, seen in the log's positions instead of after a crash.
#[tokio::test]
async fn tick_commits_synchronously_even_if_the_database_says_off() {
    let (_postgres, log) = forgetful().await;
    let store = log.another_store();
    let mut ticker = store.ticker();
    let writer = log.writer().await;
    let mut was_behind = false;
    for round in 0..5 {
        enqueue(&writer, &round.to_string()).await;
        let row = "select pg_current_wal_insert_lsn()::text, \
                   pg_current_wal_flush_lsn() < pg_current_wal_insert_lsn()";
        let row = writer.query_one(row, &[]).await.unwrap();
        let (commit, is_behind): (String, bool) = (row.get(0), row.get(1));
        was_behind |= is_behind;
        assert!(ticker.advance().await.unwrap().window.is_some());
        let flushed = format!("select pg_current_wal_flush_lsn() >= '{commit}'::pg_lsn");
        assert!(log.ask::<bool>(&flushed).await, "the tick's commit flushed the log");
    }
    assert!(was_behind, "every commit was flushed at once: this test could not fail");
}
