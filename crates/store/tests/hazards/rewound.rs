//! A log that was restored: positions and transaction ids are handed out again. It is found before
//! anything is read, and a rebase lets it go on with nothing skipped.

use posthaste_core::Place;
use posthaste_store::{
    Operations, Rebased, Request, Store, StoreErrorKind,
    postgres::{PostgresOptions, PostgresStore},
};
use posthaste_testkit::{PgVersion, Postgres, PostgresOptions as ServerOptions};

use super::database::{Log, enqueue, enqueue_many, tick};
use crate::taking::taken;

const AHEAD: &str = "do $$ begin for n in 1..5000 loop perform pg_current_xact_id(); commit; \
                     end loop; end $$";

/// A server with the programs that dump and load.
fn server() -> Postgres {
    Postgres::start_with(ServerOptions { version: PgVersion::Debian, ..ServerOptions::default() })
}

fn request(is_dry_run: bool) -> Request {
    Request { actor: "test".to_owned(), is_dry_run, is_forced: false }
}

/// A log at which two subscriptions stand: `first` has published everything but three messages, one
/// of which has a lower position than what is published; `second` nothing. Answers the texts that
/// each has before it.
async fn history(log: &Log) -> [Vec<String>; 2] {
    log.subscribe("first").await;
    log.subscribe("second").await;
    let mut late = log.writer().await;
    let late = late.transaction().await.unwrap();
    let mut texts = Vec::new();
    let writer = log.writer().await;
    enqueue(&writer, "early").await;
    enqueue(&late, "late").await;
    enqueue(&writer, "beside").await;
    assert_eq!(log.publish("first").await, ["early", "beside"]);
    enqueue(&writer, "ticked").await;
    tick(log.store.ticker().as_mut()).await;
    late.commit().await.unwrap();
    enqueue(&writer, "last").await;
    texts.extend(["late", "ticked", "last"].map(str::to_owned));
    let all = ["early", "late", "beside", "ticked", "last"].map(str::to_owned);
    [texts, all.to_vec()]
}

/// The dump of `log`, loaded into a database on `to`.
async fn restored(from: &Postgres, log: &Log, to: &Postgres) -> Log {
    let dump = from.dump(&log.database);
    let database = to.database().await;
    to.load(&dump, &database);
    let store = PostgresStore::connect(database.url(), &PostgresOptions::default()).unwrap();
    store.check().await.unwrap();
    Log { database, store }
}

async fn found(log: &Log, name: &str) -> String {
    let status = log.store.status().await.unwrap();
    let place = status.subscriptions.iter().find(|it| it.name == name).unwrap().progress.place;
    let error = log.store.confirm(name, &place, None).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Rewound, "{error}");
    assert!(error.to_string().contains("posthaste subscriptions rebase"), "{error}");
    error.to_string()
}

/// Rebases both subscriptions of a copied log, and reads what each has before it.
async fn rebase_both(log: &Log) -> ([Rebased; 2], [Vec<String>; 2]) {
    let seen = log.store.rebase("first", &request(true)).await.unwrap();
    assert!(found(log, "first").await.contains("copied"), "a dry run changes nothing");
    let first = log.store.rebase("first", &request(false)).await.unwrap();
    assert_eq!(Rebased { place: first.place, ..seen }, first);
    assert!(found(log, "second").await.contains("halted"), "every subscription was copied");
    let second = log.store.rebase("second", &request(false)).await.unwrap();
    for name in ["first", "second"] {
        let (epoch, place) = taken(&log.store, name, "test").await;
        assert!(log.store.confirm(name, &place, None).await.unwrap().adopts);
        log.store.adopted(name, epoch).await.unwrap();
        assert!(!log.store.confirm(name, &place, None).await.unwrap().adopts);
        log.store.release(name, epoch).await.unwrap();
    }
    ([first, second], [log.publish("first").await, log.publish("second").await])
}

/// Defence: the rows' transaction ids are numbered anew. Those of the other server lie ahead of this
/// one's, and whatever is written here lies below the ticks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dump_in_another_cluster_is_found_and_goes_on_after_a_rebase() {
    let (one, another) = (server(), server());
    let log = Log::on(&one, &PostgresOptions::default()).await;
    log.writer().await.batch_execute(AHEAD).await.unwrap();
    let [first, second] = history(&log).await;
    let log = restored(&one, &log, &another).await;
    // The application goes on at once, in transactions that the copied ticks seem to show.
    let mut writer = log.writer().await;
    enqueue(&writer, "here").await;
    let parts = writer.transaction().await.unwrap();
    parts.batch_execute("savepoint part").await.unwrap();
    enqueue(&parts, "in part").await;
    parts.commit().await.unwrap();
    assert!(found(&log, "first").await.contains("copied from another database"));
    let error = log.store.ticker().advance().await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Rewound, "{error}");

    let (rebased, published) = rebase_both(&log).await;
    assert_eq!(rebased.map(|it| (it.was_copied, it.pending)), [(true, 5), (false, 7)]);
    assert_eq!(rebased[0].rewritten, 5);
    let here = ["here", "in part"].map(str::to_owned);
    assert_eq!(published, [first, second].map(|texts| [texts, here.to_vec()].concat()));
    enqueue_many(&writer, "then ", 3).await;
    let then = ["then 1", "then 2", "then 3"];
    assert_eq!(log.publish("first").await, then);
    assert_eq!(log.publish("second").await, then);
    let audit = "select count(*) from posthaste.audit where action = 'rebase'";
    assert_eq!(log.ask::<i64>(audit).await, 2, "dry runs leave no row");
}

/// Defence: the log knows its own table. The transaction ids are all right here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dump_in_the_same_cluster_is_found_and_goes_on_after_a_rebase() {
    let server = server();
    let log = Log::on(&server, &PostgresOptions::default()).await;
    let [first, second] = history(&log).await;
    let log = restored(&server, &log, &server).await;
    enqueue(&log.writer().await, "here").await;
    assert!(found(&log, "second").await.contains("copied from another database"));
    let (rebased, published) = rebase_both(&log).await;
    assert_eq!(rebased.map(|it| (it.was_copied, it.rewritten)), [(true, 0), (false, 0)]);
    let here = ["here".to_owned()];
    assert_eq!(published, [first, second].map(|texts| [&texts[..], &here].concat()));
}

/// Defence: a place that this process has settled has ticks that the restored files do not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_files_are_found_by_whoever_remembers_more() {
    let server = server();
    let log = Log::on(&server, &PostgresOptions::default()).await;
    log.subscribe("s").await;
    enqueue(&log.writer().await, "kept").await;
    assert_eq!(log.publish("s").await, ["kept"]);
    let place_of = async || log.store.status().await.unwrap().subscriptions[0].progress.place;
    let kept = place_of().await;
    tokio::task::block_in_place(|| server.save_files());
    enqueue(&log.writer().await, "lost").await;
    assert_eq!(log.publish("s").await, ["lost"]);
    let lost = place_of().await;
    log.store.confirm("s", &kept, Some(&lost)).await.unwrap();

    tokio::task::block_in_place(|| server.restore_files());
    // Positions and tick numbers are handed out again.
    enqueue(&log.writer().await, "instead").await;
    let same = log.another_store();
    same.confirm("s", &kept, Some(&kept)).await.unwrap();
    for _ in 0..2 {
        let error = same.confirm("s", &kept, Some(&lost)).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Rewound, "{error}");
        assert!(same.confirm_mark(&lost).await.is_err());
        tick(same.ticker().as_mut()).await;
    }
}

/// Defence: the sink's message must stand at its position.
#[tokio::test]
async fn position_with_another_message_is_found() {
    let log = Log::shared().await;
    log.subscribe("s").await;
    let writer = log.writer().await;
    let position = enqueue(&writer, "a").await;
    enqueue(&writer, "b").await;
    let head = tick(log.store.ticker().as_mut()).await;
    let id = writer.query_one("select id from posthaste.log where position = 1", &[]).await;
    let mark = Place::beginning().moved_to(head, position, Some(id.unwrap().get(0)));
    log.store.confirm_mark(&mark).await.unwrap();
    let other = "update posthaste.log set id = gen_random_uuid() where position = 1";
    writer.batch_execute(other).await.unwrap();
    assert!(log.store.confirm_mark(&mark).await.unwrap_err().to_string().contains("position 1"));
    writer.batch_execute("delete from posthaste.log where position = 1").await.unwrap();
    assert!(log.store.confirm_mark(&mark).await.unwrap_err().to_string().contains("no message"));
    // A slot that was emptied says nothing.
    writer.batch_execute("truncate posthaste.log_0").await.unwrap();
    log.store.confirm_mark(&mark).await.unwrap();
}

/// Defence: nothing may be ahead of the sequence, or of the server's transaction ids.
#[tokio::test]
async fn rows_from_the_future_are_found_and_brought_back() {
    let log = Log::shared().await;
    log.subscribe("s").await;
    let writer = log.writer().await;
    enqueue(&writer, "a").await;
    enqueue(&writer, "b").await;
    let (_, place) = taken(&log.store, "s", "test").await;
    log.store.confirm("s", &place, None).await.unwrap();
    let ahead = [
        ("alter sequence posthaste.log_position_seq restart", "sequence", 0),
        ("update posthaste.log set xid = '900000000000'", "transaction ids", 2),
    ];
    for (change, of, rewritten) in ahead {
        writer.batch_execute(change).await.unwrap();
        let found = log.store.confirm("s", &place, None).await.unwrap_err().to_string();
        assert!(found.contains(of), "{found}");
        let held = log.store.rebase("s", &request(false)).await.unwrap_err();
        assert_eq!(held.kind(), StoreErrorKind::Conflict, "{held}");
        let forced = Request { is_forced: true, ..request(false) };
        assert_eq!(log.store.rebase("s", &forced).await.unwrap().rewritten, rewritten);
        let (_, place) = taken(&log.store, "s", "test").await;
        log.store.confirm("s", &place, None).await.unwrap();
    }
    enqueue(&writer, "c").await;
    assert_eq!(log.publish("s").await, ["a", "b", "c"]);
}
