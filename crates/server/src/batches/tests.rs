//! The order of what waits, on a real database that lets it wait; and who is left out.

use std::{future::poll_fn, pin::Pin, sync::Mutex, task::Poll, time::Duration};

use futures_util::future::join_all;
use posthaste_store::postgres::{PostgresOptions, PostgresStore};
use posthaste_testkit::{Postgres, eventually_async};
use tokio_postgres::Client;

use super::*;

/// Nothing here takes longer on a machine that is busy.
const LIMIT: Duration = Duration::from_mins(1);
const RAPID: usize = 100;

/// Submissions that wait for a lock which the test holds.
async fn waiting(client: &Client) -> i64 {
    let sql = "select count(*) from pg_stat_activity \
               where datname = current_database() and wait_event_type = 'Lock'";
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// The payloads of the log, in its order.
async fn logged(store: &PostgresStore) -> Vec<usize> {
    use posthaste_store::Store as _;
    let messages = store.recent(None, 1_000).await.unwrap();
    assert!(messages.is_sorted_by_key(|message| message.position));
    let number = |payload: &[u8]| std::str::from_utf8(payload).unwrap().parse().unwrap();
    messages.iter().map(|message| number(&message.payload)).collect()
}

/// Submits a hundred jobs of one key, each as soon as the one before it is queued and none is written; one of them may
/// be refused by the database. Answers how many transactions that took.
async fn in_order(lane: Lane, refused: Option<usize>) -> u64 {
    let database = Postgres::shared().database().await;
    let options = PostgresOptions::default();
    let store = Arc::new(PostgresStore::connect(database.url(), &options).unwrap());
    posthaste_store::Store::migrate(&*store).await.unwrap();
    let client = database.connect().await;
    let rule = "alter table posthaste.log add constraint of_test check (topic <> 'refused')";
    client.batch_execute(rule).await.unwrap();
    let mut other = database.connect().await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("lock table posthaste.job in exclusive mode").await.unwrap();

    let meter = Arc::new(SubmissionMeter::default());
    let jobs: Arc<dyn Jobs> = Arc::clone(&store) as _;
    let (batches, writing) = Batches::new(jobs, RAPID, room(64 << 20), Arc::clone(&meter));
    let writing = tokio::spawn(writing);
    let mut queued: Vec<Pin<Box<dyn Future<Output = _>>>> = Vec::new();
    for n in 0..RAPID {
        let topic = if refused == Some(n) { "refused" } else { "free" };
        let job = NewJob::of(Message::new(topic).key("k").json(&n));
        let mut submission = Box::pin(batches.submit(job, lane));
        let looked = poll_fn(|cx| Poll::Ready(submission.as_mut().poll(cx))).await;
        assert!(looked.is_pending(), "{n}: it is in the queue, and not written");
        queued.push(submission);
        if n == 0 {
            // It is written alone; the others wait together until it is.
            let is_waiting = async || waiting(&client).await == 1;
            eventually_async("the first to wait for the lock", LIMIT, is_waiting).await;
        }
    }
    lock.rollback().await.unwrap();
    let answers = join_all(queued).await;
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer.is_err(), refused == Some(n), "{n}: {answer:?}");
    }
    let expected: Vec<usize> = (0..RAPID).filter(|n| refused != Some(*n)).collect();
    assert_eq!(logged(&store).await, expected);
    drop(batches);
    writing.await.unwrap();
    meter.transactions.get()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r50_100_rapid_submissions_that_wait_are_in_the_log_in_their_order() {
    for lane in [Lane::Free, Lane::Named] {
        assert_eq!(in_order(lane, None).await, 2, "one alone, and the others at once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r50_100_rapid_submissions_keep_their_order_around_one_that_is_refused() {
    // The first, the batch, and each of it for itself.
    assert_eq!(in_order(Lane::Free, Some(50)).await, 1 + 1 + 99);
}

/// A number, of which a store takes one at a time.
#[derive(Debug)]
struct One(u128);

impl Batched for One {
    type Store = Mutex<Vec<u128>>;

    fn payload_bytes(&self) -> usize {
        0
    }

    fn write<'a>(store: &'a Self::Store, batch: &'a [Self]) -> Writing<'a> {
        Box::pin(async move {
            if batch.len() > 1 {
                return Err(StoreError::new(StoreErrorKind::Conflict, "write two"));
            }
            store.lock().unwrap().extend(batch.iter().map(|one| one.0));
            Ok(batch.iter().map(|one| Uuid::from_u128(one.0)).collect())
        })
    }
}

#[tokio::test]
async fn batch_that_is_written_one_by_one_leaves_out_who_has_gone() {
    let (store, room) = (Mutex::default(), room(1 << 20));
    let (mut batch, mut answers) = (Vec::new(), Vec::new());
    for n in 0..3 {
        let (answer, answered) = oneshot::channel();
        let room = Arc::clone(&room).try_acquire_owned().unwrap();
        batch.push(Waiting { what: One(n), answer, room });
        answers.push(answered);
    }
    drop(answers.remove(1));
    write::<One>(&store, batch, &SubmissionMeter::default()).await;
    assert_eq!(*store.lock().unwrap(), [0, 2]);
    for (answer, n) in answers.into_iter().zip([0, 2]) {
        assert_eq!(answer.await.unwrap().unwrap(), Uuid::from_u128(n));
    }
}
