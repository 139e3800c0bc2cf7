//! Jobs and messages from an application's transaction through a relay, a queue and workers to their effects.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use posthaste::{Delivery, Message, NewJob};
use posthaste_core::JobState;
use posthaste_testkit::eventually_async;
use posthaste_worker::{Answer, Done, Task, Worker, WorkerSettings};
use tokio::{sync::Mutex, time::sleep};
use tokio_postgres::Client;

use super::{Kind, Queue};
use crate::support::{LIMIT, Notes, Place, settings, start, until};

/// Has the effect of a task, in the transaction that ends it.
async fn effect(client: &Mutex<Client>, task: &Task) -> Answer {
    let number: i64 = serde_json::from_slice(&task.message().payload)?;
    let mut client = client.lock().await;
    let transaction = client.transaction().await?;
    if task.settle(&transaction, None).await? == Delivery::First {
        transaction.execute("insert into effect (number) values ($1)", &[&number]).await?;
    }
    transaction.commit().await?;
    Ok(Done::default())
}

/// A worker whose handlers have their effect as often as `most`, and hang from then on.
fn worker(queue: &Queue, client: Client, most: usize, hanging: &Notes) -> Worker {
    let (client, count) = (Arc::new(Mutex::new(client)), Arc::new(AtomicUsize::new(0)));
    let hanging = hanging.clone();
    let handle = move |task: Task| {
        let (client, count, hanging) = (Arc::clone(&client), Arc::clone(&count), hanging.clone());
        async move {
            if count.fetch_add(1, Ordering::Relaxed) >= most {
                hanging.add(task.message().topic.clone());
                sleep(LIMIT).await;
            }
            effect(&client, &task).await
        }
    };
    let settings = WorkerSettings { concurrency: 10, ..settings() };
    let mut of = queue.settings(&queue.url());
    of.insert("lease".to_owned(), "1s".into());
    Worker::new(Arc::clone(&queue.store), settings)
        .unwrap()
        .source(queue.parse(of).unwrap())
        .handle("job", handle.clone())
        .handle("note", handle)
}

async fn killed_worker_is_replaced(kind: Kind) {
    let place = Place::postgres().await;
    let Place::Postgres(database) = &place else { unreachable!() };
    let database = database.clone();
    let client = database.connect().await;
    client.batch_execute("create table effect (number bigint not null)").await.unwrap();
    let queue = Queue::start(kind, place).await;
    let jobs: Vec<NewJob> =
        (0..40).map(|n| NewJob::of(Message::new("job").json(&n)).attempts(50)).collect();
    let ids = queue.store.submit_jobs(&jobs).await.unwrap();
    let notes: Vec<Message> = (40..80).map(|n| Message::new("note").json(&n)).collect();
    queue.store.append(&notes).await.unwrap();

    let hanging = Notes::default();
    let first = start(worker(&queue, database.connect().await, 25, &hanging));
    hanging.until(5).await;
    first.kill().await;
    let second = start(worker(&queue, database.connect().await, usize::MAX, &hanging));
    until(&*queue.store, &ids, JobState::Completed).await;
    eventually_async("every effect", LIMIT, async || {
        let counted = client.query_one("select count(distinct number) from effect", &[]).await;
        counted.unwrap().get::<_, i64>(0) == 80
    })
    .await;
    eventually_async("a settled queue", LIMIT, async || queue.is_settled().await).await;
    let counts = second.stop().await;
    assert!(counts.completed >= 80 - 25, "{counts:?}");
    let repeated = "select number from effect group by number having count(*) > 1";
    let repeated = client.query(repeated, &[]).await.unwrap();
    assert!(repeated.is_empty(), "{repeated:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r28_killed_worker_on_a_list_is_replaced_and_each_effect_is_had_once() {
    Box::pin(killed_worker_is_replaced(Kind::List)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r28_killed_worker_on_a_stream_is_replaced_and_each_effect_is_had_once() {
    Box::pin(killed_worker_is_replaced(Kind::Stream)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn r28_killed_worker_on_a_bullmq_queue_is_replaced_and_each_effect_is_had_once() {
    Box::pin(killed_worker_is_replaced(Kind::Bullmq)).await;
}
