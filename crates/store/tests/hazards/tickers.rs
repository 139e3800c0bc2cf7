//! Several processes tick the same log: COMPLETE.

use std::time::{Duration, Instant};

use posthaste_core::{Snapshot, window::contains};
use posthaste_store::Store;
use tokio::task::JoinSet;

use super::database::{Log, enqueue, tick};

/// Defence: `commit_tick` locks the meta row and inserts its number only if the newest tick is the
/// one before; a ticker that lost the race starts over with a fresh snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticks_of_two_tickers_agree() {
    let log = Log::shared().await;
    let until = Instant::now() + Duration::from_secs(3);
    let mut tasks = JoinSet::new();
    for _ in 0..2 {
        let store = log.another_store();
        tasks.spawn(async move {
            let mut ticker = store.ticker();
            while Instant::now() < until {
                ticker.advance().await.unwrap();
            }
            tick(ticker.as_mut()).await;
        });
    }
    for nth in 0..4 {
        let mut writer = log.writer().await;
        tasks.spawn(async move {
            while Instant::now() < until {
                let transaction = writer.transaction().await.unwrap();
                enqueue(&transaction, "message").await;
                tokio::time::sleep(Duration::from_millis(nth)).await;
                transaction.commit().await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    tick(log.store.ticker().as_mut()).await;
    assert_windows_partition_the_log(&log).await;
}

/// Numbers without a gap, snapshots that never go back, and each message in exactly one window.
async fn assert_windows_partition_the_log(log: &Log) {
    let client = log.writer().await;
    let ticks = "select n, snapshot::text from posthaste.tick order by n";
    let mut snapshots = vec![Snapshot::nothing()];
    for (nth, row) in client.query(ticks, &[]).await.unwrap().iter().enumerate() {
        assert_eq!(row.get::<_, i64>(0), nth as i64 + 1, "consecutive numbers");
        snapshots.push(row.get::<_, &str>(1).parse().unwrap());
    }
    assert!(snapshots.len() > 10, "{} ticks", snapshots.len());
    for pair in snapshots.windows(2) {
        let [before, after] = pair else { unreachable!() };
        assert!(before.xmin() <= after.xmin() && before.xmax() <= after.xmax());
        assert!((before.xmin()..before.xmax()).all(|x| !before.shows(x) || after.shows(x)));
    }
    let xids = client.query("select xid::text from posthaste.log", &[]).await.unwrap();
    assert!(xids.len() > 10);
    for row in xids {
        let xid: u64 = row.get::<_, &str>(0).parse().unwrap();
        let holds = |pair: &&[Snapshot]| contains(&pair[0], &pair[1], xid);
        assert_eq!(snapshots.windows(2).filter(holds).count(), 1, "transaction {xid}");
    }
}
