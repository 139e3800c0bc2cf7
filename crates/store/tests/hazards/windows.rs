//! What belongs to a window, and how it is found and paged: COMPLETE.

use posthaste_core::{PageLimit, Place, TickRef, TopicFilter};
use posthaste_store::{RingSizes, Store, StoreErrorKind, postgres::PostgresOptions};
use posthaste_testkit::Postgres;

use super::database::{Log, enqueue, enqueue_many, quiet_server, read, tick};

/// Defence: the late part of a window (`late_at`). A transaction with an early xid can enqueue
/// after a transaction with a later xid was ticked.
#[tokio::test]
async fn window_is_not_cut_by_xid() {
    let log = Log::shared().await;
    let (mut early, writer) = (log.writer().await, log.writer().await);
    let mut ticker = log.store.ticker();
    let mut place = Place::beginning();
    let early = early.transaction().await.unwrap();
    early.batch_execute("select pg_current_xact_id()").await.unwrap();
    enqueue(&writer, "later xid").await;
    tick(ticker.as_mut()).await;
    assert_eq!(read(&log.store, &mut place).await, ["later xid"]);
    enqueue(&early, "earlier xid").await;
    early.commit().await.unwrap();
    enqueue(&writer, "third").await;
    tick(ticker.as_mut()).await;
    assert_eq!(read(&log.store, &mut place).await, ["earlier xid", "third"]);
}

/// Defence: the late part is read by xid, not above the last position.
#[tokio::test]
async fn early_position_with_a_late_commit_is_in_a_later_window() {
    let log = Log::shared().await;
    let (mut open, writer) = (log.writer().await, log.writer().await);
    let mut ticker = log.store.ticker();
    let mut place = Place::beginning();
    let open = open.transaction().await.unwrap();
    let early = enqueue(&open, "early").await;
    assert!(enqueue(&writer, "beside").await > early);
    let first = tick(ticker.as_mut()).await;
    assert_eq!(read(&log.store, &mut place).await, ["beside"]);
    open.commit().await.unwrap();
    assert_ne!(tick(ticker.as_mut()).await, first);
    assert_eq!(read(&log.store, &mut place).await, ["early"]);
}

/// Defence: the late part; a prepared transaction stays in `xip` until it is committed.
#[tokio::test]
async fn prepared_transaction_is_late() {
    let log = Log::shared().await;
    let writer = log.writer().await;
    let mut ticker = log.store.ticker();
    let mut place = Place::beginning();
    let gid = log.database.name();
    {
        let session = log.writer().await;
        session.batch_execute("begin").await.unwrap();
        enqueue(&session, "prepared").await;
        session.batch_execute(&format!("prepare transaction '{gid}'")).await.unwrap();
    }
    enqueue(&writer, "beside").await;
    tick(ticker.as_mut()).await;
    assert_eq!(read(&log.store, &mut place).await, ["beside"]);
    writer.batch_execute(&format!("commit prepared '{gid}'")).await.unwrap();
    tick(ticker.as_mut()).await;
    assert_eq!(read(&log.store, &mut place).await, ["prepared"]);
}

/// Defence: `xid` is `pg_current_xact_id()`, the top-level transaction's, not the row's `xmin`.
#[tokio::test]
async fn rows_of_subtransactions_carry_the_top_level_xid() {
    let log = Log::shared().await;
    let (mut session, writer) = (log.writer().await, log.writer().await);
    let mut ticker = log.store.ticker();
    let mut place = Place::beginning();
    let mut transaction = session.transaction().await.unwrap();
    let kept = transaction.transaction().await.unwrap();
    enqueue(&kept, "kept").await;
    kept.commit().await.unwrap();
    let dropped = transaction.transaction().await.unwrap();
    enqueue(&dropped, "rolled back").await;
    dropped.rollback().await.unwrap();
    let own = "select count(*) from posthaste.log where xid = pg_current_xact_id()";
    assert_eq!(transaction.query_one(own, &[]).await.unwrap().get::<_, i64>(0), 1);
    enqueue(&writer, "beside").await;
    tick(ticker.as_mut()).await;
    assert_eq!(read(&log.store, &mut place).await, ["beside"]);
    transaction.commit().await.unwrap();
    tick(ticker.as_mut()).await;
    assert_eq!(read(&log.store, &mut place).await, ["kept"]);
}

/// Defence: the fence `offset 0` in `bounds_sql`. Without it the planner may find the lowest
/// position by walking every retained row in position order.
#[tokio::test]
async fn bounds_query_does_not_walk_retained_rows() {
    // The server shows a statement's whole text, which is how the test gets hold of it.
    let postgres = quiet_server(&[("track_activity_query_size", "65536")]);
    // One slot is reached: over several the planner has no such choice.
    let rings = RingSizes { slots: 4, slot_size: 1_000_000 };
    let log = Log::on(&postgres, &PostgresOptions { rings, ..PostgresOptions::default() }).await;
    let mut ticker = log.store.ticker();
    let writer = log.writer().await;
    enqueue_many(&writer, "retained ", 80_000).await;
    let base = tick(ticker.as_mut()).await;
    enqueue_many(&writer, "new ", 20_000).await;
    tick(ticker.as_mut()).await;
    // Now the planner knows that a fifth of the rows are in the window.
    writer.batch_execute("analyze posthaste.log").await.unwrap();
    let window = log.store.window(base, None).await.unwrap().unwrap();
    assert_eq!(window.main, Some((80_001, 100_000)));
    // The last statement of the connection that asked for the window.
    let shown = format!(
        "select query from pg_stat_activity where application_name = 'posthaste' \
         and query like 'select min(s.position), max(s.position)%' and query like '%''{}''::xid8%'",
        window.base.snapshot.xmax()
    );
    let bounds: String = log.ask(&shown).await;
    let plan = writer.query(&format!("explain {bounds}"), &[]).await.unwrap();
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    let plan = plan.join("\n");
    let walks = |slot| plan.contains(&format!("log_{slot}_position_idx"));
    assert!(!(0..rings.slots).any(walks), "a walk in position order:\n{plan}");
    assert!(plan.contains("log_0_xid_position_idx"), "the range of xid serves it:\n{plan}");
}

/// Defence: pages are strides of position with a byte limit, late rows beside the main part.
#[tokio::test]
async fn window_of_300_000_messages_is_paged_once_and_within_the_byte_limit() {
    const COUNT: i64 = 300_000;
    let limit = PageLimit { stride: 5_000, bytes: 30_000 };
    let log = Log::on(Postgres::shared(), &PostgresOptions::default()).await;
    let (mut late, writer) = (log.writer().await, log.writer().await);
    let mut ticker = log.store.ticker();
    let late = late.transaction().await.unwrap();
    enqueue(&late, "late, below all").await;
    enqueue(&writer, "before").await;
    let base = tick(ticker.as_mut()).await;
    enqueue_many(&writer, "half ", COUNT / 2).await;
    enqueue(&late, "late, in the middle").await;
    enqueue_many(&writer, "half ", COUNT / 2).await;
    enqueue(&late, "late, above all").await;
    late.commit().await.unwrap();
    let head = tick(ticker.as_mut()).await;
    let window = log.store.window(base, Some(head)).await.unwrap().unwrap();
    assert_eq!(window.late.len(), 1);
    let (mut after, mut pages, mut positions) = (0, 0, Vec::new());
    while let Some(page) = log.store.read(&window, after, &TopicFilter::all(), limit).await.unwrap()
    {
        let bytes: usize = page.iter().map(|message| message.payload.len()).sum();
        assert!(bytes <= limit.bytes, "{bytes} bytes in a page");
        positions.extend(page.iter().map(|message| message.position));
        (after, pages) = (page.through(), pages + 1);
    }
    // Position 2 was in the window before.
    let expected: Vec<i64> = std::iter::once(1).chain(3..=COUNT + 4).collect();
    assert!(positions == expected, "{} messages in {pages} pages", positions.len());
    assert!(pages >= COUNT / limit.stride, "{pages} pages");
}

/// Defence: a tick carries a random id beside its number. After a restore the numbers are handed
/// out again.
#[tokio::test]
async fn rewound_source_is_noticed_by_the_tick_id() {
    let log = Log::shared().await;
    let writer = log.writer().await;
    let mut ticks: Vec<TickRef> = Vec::new();
    let mut ticker = log.store.ticker();
    for text in ["one", "two", "three"] {
        enqueue(&writer, text).await;
        ticks.push(tick(ticker.as_mut()).await);
    }
    // The database goes back to its first tick, and on from there.
    writer.batch_execute("delete from posthaste.tick where n > 1").await.unwrap();
    let mut ticker = log.another_store().ticker();
    tick(ticker.as_mut()).await;
    enqueue(&writer, "another three").await;
    assert_eq!(tick(ticker.as_mut()).await.n, 3);
    for (base, head) in [(ticks[1], None), (ticks[2], None), (ticks[0], Some(ticks[2]))] {
        let error = log.store.window(base, head).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Rewound, "{error}");
    }
    assert!(log.store.window(ticks[0], None).await.unwrap().is_some());
}
