//! What only the source `bullmq` does, with queues that are made by hand.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use posthaste_testkit::proxy::{NetFault, Proxy};
use posthaste_worker::source::Fate;
use redis::AsyncCommands as _;

use super::{Kind, Queue, WAIT, collect, numbers, read};

/// Adds a job as BullMQ would, as the next one.
pub(super) async fn add(queue: &Queue, id: &str, data: &[u8], fields: &[(&str, &str)]) {
    let mut client = queue.client().await;
    let job = format!("{}:q:{id}", queue.name);
    let own = [("name", "t"), ("opts", "{}"), ("timestamp", "1767323045000"), ("priority", "0")];
    let () = client.hset_multiple(&job, &own).await.unwrap();
    let () = client.hset(&job, "data", data).await.unwrap();
    for (field, value) in fields {
        let () = client.hset(&job, field, value).await.unwrap();
    }
    let () = client.rpush(format!("{}:q:wait", queue.name), id).await.unwrap();
    let mut added = redis::cmd("XADD");
    added.arg(format!("{}:q:events", queue.name)).arg("*");
    added.arg("event").arg("added").arg("jobId").arg(id).arg("name").arg("t");
    added.exec_async(&mut client).await.unwrap();
}

/// Payloads and reasons of failed jobs.
pub(super) async fn failed(queue: &Queue) -> Vec<(String, String)> {
    let mut client = queue.client().await;
    let ids: Vec<String> = client.zrange(format!("{}:q:failed", queue.name), 0, -1).await.unwrap();
    let mut all = Vec::new();
    for id in ids {
        let job = format!("{}:q:{id}", queue.name);
        let (data, reason): (Vec<u8>, String) =
            client.hmget(&job, &["data", "failedReason"]).await.unwrap();
        let text = String::from_utf8_lossy(&data).into_owned();
        let payload = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|envelope| Some(envelope.get("payload")?.as_str()?.to_owned()));
        all.push((payload.unwrap_or(text), reason));
    }
    all
}

/// Whether a job has a lock, and where it stands.
async fn stands(queue: &Queue, id: &str) -> (bool, bool, bool) {
    let mut client = queue.client().await;
    let base = format!("{}:q", queue.name);
    let is_locked: bool = client.exists(format!("{base}:{id}:lock")).await.unwrap();
    let active: Vec<String> = client.lrange(format!("{base}:active"), 0, -1).await.unwrap();
    let wait: Vec<String> = client.lrange(format!("{base}:wait"), 0, -1).await.unwrap();
    let has = |ids: Vec<String>| ids.iter().any(|other| other == id);
    (is_locked, has(active), has(wait))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queue_of_an_unknown_version_is_refused_and_left_alone() {
    let queue = Queue::shared(Kind::Bullmq).await;
    add(&queue, "1", b"1", &[]).await;
    let source = queue.source();
    let taken = collect(&*source, 1).await;
    add(&queue, "2", b"2", &[]).await;
    let meta = format!("{}:q:meta", queue.name);
    for version in ["bullmq:7.0.0", "bullmq:5.9.9", "bullmq-pro:6.0.0"] {
        let () = queue.client().await.hset(&meta, "version", version).await.unwrap();
        let refused = source.take(1, Duration::from_millis(10)).await.unwrap_err().to_string();
        assert!(refused.contains(version) && refused.contains("known are bullmq 5"), "{refused}");
        let fates = [(taken[0].0.clone(), Fate::Done)];
        assert!(source.settle(&fates).await.unwrap_err().to_string().contains(version));
        assert!(source.beat().await.is_err());
        assert_eq!(stands(&queue, "1").await, (true, true, false));
        assert_eq!(stands(&queue, "2").await, (false, false, true));
    }
    let () = queue.client().await.hset(&meta, "version", "bullmq:5.10.0").await.unwrap();
    assert_eq!(numbers(&collect(&*source, 1).await), [2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_that_was_removed_while_it_waited_or_ran_is_passed_over() {
    let queue = Queue::shared(Kind::Bullmq).await;
    for id in ["2", "1", "gone"] {
        add(&queue, id, id.as_bytes(), &[]).await;
    }
    let mut client = queue.client().await;
    let () = client.del(format!("{}:q:gone", queue.name)).await.unwrap();
    let source = queue.source();
    let taken = collect(&*source, 2).await;
    assert_eq!(numbers(&taken), [1, 2]);
    let () = client.del(format!("{}:q:1", queue.name)).await.unwrap();
    let fates: Vec<_> = taken.iter().map(|(token, _)| (token.clone(), Fate::Done)).collect();
    source.settle(&fates).await.unwrap();
    assert!(queue.is_settled().await);
    assert!(!client.exists::<_, bool>(format!("{}:q:1", queue.name)).await.unwrap());
}

/// A settle whose answer got lost may arrive when the job is in hand again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lock_of_an_earlier_delivery_settles_nothing() {
    let queue = Queue::shared(Kind::Bullmq).await;
    add(&queue, "1", b"1", &[]).await;
    let source = queue.source();
    let first = collect(&*source, 1).await;
    let lock = format!("{}:q:1:lock", queue.name);
    let mut client = queue.client().await;
    let before: String = client.get(&lock).await.unwrap();
    source.settle(&[(first[0].0.clone(), Fate::GiveBack)]).await.unwrap();
    let again = collect(&*source, 1).await;
    let after: String = client.get(&lock).await.unwrap();
    assert_ne!(before, after);
    // What the late call would meet: a lock that is not its own.
    let () = client.set(&lock, &before).await.unwrap();
    source.settle(&[(again[0].0.clone(), Fate::Done)]).await.unwrap();
    assert_eq!(stands(&queue, "1").await, (true, true, false));
}

/// Its first delivery is still in hand as far as its worker knows, which gives it back once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_that_was_given_back_unheard_comes_again_when_that_is_repeated() {
    let queue = Queue::shared(Kind::Bullmq).await;
    let proxy = Proxy::start(queue.redis().port()).await.unwrap();
    let source = queue.source_at(&proxy.url(&queue.redis().url()), &[]);
    // The server knows the script from then on.
    add(&queue, "0", b"0", &[]).await;
    let first = collect(&*source, 1).await;
    source.settle(&[(first[0].0.clone(), Fate::Done)]).await.unwrap();
    add(&queue, "1", b"1", &[]).await;
    let taken = collect(&*source, 1).await;
    let fates = [(taken[0].0.clone(), Fate::GiveBack)];
    proxy.set(NetFault::ReplyLost);
    assert!(source.settle(&fates).await.is_err());
    assert_eq!(stands(&queue, "1").await, (false, false, true));
    assert_eq!(read(source.take(1, Duration::from_millis(50)).await.unwrap()), []);
    assert_eq!(stands(&queue, "1").await, (true, true, false));
    source.settle(&fates).await.unwrap();
    assert_eq!(numbers(&collect(&*source, 1).await), [1]);
}

/// What happened to a job, as the queue's events tell.
async fn events(queue: &Queue, id: &str) -> Vec<String> {
    let mut range = redis::cmd("XRANGE");
    range.arg(format!("{}:q:events", queue.name)).arg("-").arg("+");
    let events: Vec<(String, HashMap<String, String>)> =
        range.query_async(&mut queue.client().await).await.unwrap();
    let of = |fields: &HashMap<String, String>| fields.get("jobId").is_some_and(|of| of == id);
    let events = events.into_iter().map(|(_, fields)| fields).filter(of);
    events.map(|mut fields| fields.remove("event").unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_settled_again_after_a_lost_reply_happens_once() {
    let queue = Queue::shared(Kind::Bullmq).await;
    let proxy = Proxy::start(queue.redis().port()).await.unwrap();
    let source = queue.source_at(&proxy.url(&queue.redis().url()), &[]);
    for id in ["3", "2", "1", "0"] {
        add(&queue, id, id.as_bytes(), &[]).await;
    }
    let taken = collect(&*source, 4).await;
    let token = |at: usize| taken[at].0.clone();
    // The server knows the script from then on.
    source.settle(&[(token(0), Fate::Done)]).await.unwrap();
    let bury = Fate::Bury { reason: "no".to_owned() };
    let fates = [(token(1), Fate::Done), (token(2), bury), (token(3), Fate::GiveBack)];
    proxy.set(NetFault::ReplyLost);
    assert!(source.settle(&fates).await.is_err());
    source.settle(&fates).await.unwrap();
    assert_eq!(proxy.hits(), 1);
    assert_eq!(events(&queue, "1").await, ["added", "active", "completed"]);
    assert_eq!(events(&queue, "2").await, ["added", "active", "failed", "retries-exhausted"]);
    assert_eq!(events(&queue, "3").await, ["added", "active", "waiting"]);
    assert_eq!(queue.waiting().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_take_over_at_once_share_no_job() {
    let queue = Queue::shared(Kind::Bullmq).await;
    for id in 0..100 {
        add(&queue, &id.to_string(), id.to_string().as_bytes(), &[]).await;
    }
    let dead = queue.source();
    collect(&*dead, 100).await;
    for _ in 0..5 {
        queue.pass_lease().await;
        let both = [queue.source(), queue.source()];
        let (one, other) = tokio::join!(both[0].take(100, WAIT), both[1].take(100, WAIT));
        let both = [read(one.unwrap()), read(other.unwrap())].concat();
        assert_eq!(numbers(&both).iter().collect::<HashSet<_>>().len(), both.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_than_a_step_that_dead_workers_held_is_taken_over_in_order() {
    let queue = Queue::shared(Kind::Bullmq).await;
    queue.write(0..700).await;
    let dead = queue.source();
    collect(&*dead, 700).await;
    queue.pass_lease().await;
    let source = queue.source();
    assert_eq!(numbers(&collect(&*source, 700).await), (0..700).collect::<Vec<_>>());
}

/// BullMQ's own look for stalled jobs puts them back into the queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn job_in_hand_that_another_put_back_is_held_again_and_not_handed_out() {
    let queue = Queue::shared(Kind::Bullmq).await;
    add(&queue, "1", b"1", &[]).await;
    let source = queue.source();
    let taken = collect(&*source, 1).await;
    let mut client = queue.client().await;
    let base = format!("{}:q", queue.name);
    let () = client.del(format!("{base}:1:lock")).await.unwrap();
    let () = client.lrem(format!("{base}:active"), 1, "1").await.unwrap();
    let () = client.rpush(format!("{base}:wait"), "1").await.unwrap();
    assert_eq!(read(source.take(1, Duration::from_millis(100)).await.unwrap()), []);
    assert_eq!(stands(&queue, "1").await, (true, true, false));
    source.settle(&[(taken[0].0.clone(), Fate::Done)]).await.unwrap();
    assert!(queue.is_settled().await);
    add(&queue, "2", b"2", &[]).await;
    assert_eq!(numbers(&read(source.take(1, WAIT).await.unwrap())), [2]);
}

/// The page says what the worker's user needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documented_rights_are_enough() {
    let page = include_str!("../../../../docs/bullmq.md");
    let (_, rights) = page.split_once("the worker's user needs\n`~bull:* ").unwrap();
    let (rights, _) = rights.split_once('`').unwrap();
    let queue = Queue::alone(Kind::Bullmq).await;
    let mut client = queue.client().await;
    let mut user = redis::cmd("ACL");
    user.arg("SETUSER").arg("worker").arg("on").arg(">pass").arg(format!("~{}:*", queue.name));
    user.arg(rights.split_whitespace().collect::<Vec<_>>());
    user.exec_async(&mut client).await.unwrap();
    let login = [("username", "worker"), ("password", "pass")];
    let source = queue.source_at(&queue.url(), &login);
    let base = format!("{}:q", queue.name);
    let limits = [("concurrency", "100"), ("max", "1000"), ("duration", "1000")];
    let () = client.hset_multiple(format!("{base}:meta"), &limits).await.unwrap();
    let kept = r#"{"removeOnComplete":{"age":3600,"count":1},"de":{"id":"x"}}"#;
    for id in ["4", "3", "2", "1", "0"] {
        add(&queue, id, id.as_bytes(), &[("opts", kept), ("deid", "x")]).await;
    }
    for (id, priority) in [("0", "0"), ("1", "7")] {
        let () = client.hset(format!("{base}:{id}"), "priority", priority).await.unwrap();
        let () = client.lrem(format!("{base}:wait"), 1, id).await.unwrap();
        let () = client.zadd(format!("{base}:delayed"), id, 1).await.unwrap();
    }
    let () = client.set(format!("{base}:de:x"), "2").await.unwrap();
    let taken = collect(&*source, 5).await;
    source.beat().await.unwrap();
    let done = |at: usize| (taken[at].0.clone(), Fate::Done);
    let back = |at: usize| (taken[at].0.clone(), Fate::GiveBack);
    let bury = (taken[0].0.clone(), Fate::Bury { reason: "no".to_owned() });
    source.settle(&[done(1), done(2), bury, back(3), back(4)]).await.unwrap();
    assert_eq!(collect(&*source, 2).await.len(), 2);
    queue.pass_lease().await;
    let other = queue.source_at(&queue.url(), &login);
    assert_eq!(collect(&*other, 2).await.len(), 2);
    other.close().await.unwrap();
    for from in ["beginning", "now"] {
        let mut settings = queue.settings(&queue.url());
        for (key, value) in login.into_iter().chain([("listen_from", from)]) {
            settings.insert(key.to_owned(), value.into());
        }
        let mut additions = (queue.source_kind().listen.unwrap())(settings).unwrap();
        let heard = additions.next(Duration::from_millis(1)).await.unwrap().len();
        // Two of the five were done, of which one is kept.
        assert_eq!(heard, if from == "now" { 0 } else { 4 });
    }
}
