//! `bullmq` beside BullMQ itself: jobs of its queues, workers that share them and listeners, by the package as it comes
//! from npm, in each major version.

#[path = "../../../relay/tests/sinks/bullmq_clients/node.rs"]
mod node;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use posthaste::Received;
use posthaste_testkit::{Redis, eventually_async};
use posthaste_worker::{
    source::{Fate, Source, Token},
    sources,
};
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::support::LIMIT;
use node::Node;

const AT_ONCE: Duration = Duration::from_millis(50);

macro_rules! with_each_version {
    ($($case:ident,)+) => {
        mod bullmq_5 {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    Box::pin(super::$case("bullmq5")).await;
                }
            )+
        }
        mod bullmq_6 {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    Box::pin(super::$case("bullmq")).await;
                }
            )+
        }
    };
}

with_each_version!(
    r28_bullmq_jobs_are_completed_and_listeners_hear_of_them,
    r28_bullmq_buried_job_is_failed_with_its_reason,
    r28_bullmq_workers_and_a_source_share_a_queue_and_each_job_runs_once,
    r28_bullmq_worker_takes_over_what_a_dead_source_held,
    r28_bullmq_worker_that_waits_is_woken_by_what_is_given_back,
    r28_bullmq_jobs_come_by_priority_and_go_back_to_their_place,
    r28_bullmq_delayed_job_comes_when_it_is_due,
    r28_bullmq_paused_queue_gives_nothing_and_takes_back,
    r28_bullmq_limits_of_a_queue_are_kept,
    r28_bullmq_finished_jobs_are_removed_as_their_options_say,
    r28_bullmq_deduplicated_job_may_be_added_again_when_it_is_done,
    r28_bullmq_finished_jobs_are_what_its_own_worker_makes_of_them,
    r28_bullmq_job_of_a_scheduler_is_left_to_its_own_workers_with_a_reason,
    r32_bullmq_listener_hears_of_every_job_that_is_added,
);

/// A server and a process with the package.
struct Scene {
    redis: Redis,
    node: Node,
}

impl Scene {
    fn new(package: &str) -> Self {
        let redis = Redis::start();
        let node = Node::start(package, &redis);
        Self { redis, node }
    }

    fn source(&self, queue: &str) -> Arc<dyn Source> {
        let mut settings = toml::Table::new();
        for (key, value) in [("url", &*self.redis.url()), ("queue", queue), ("lease", "1h")] {
            settings.insert(key.to_owned(), value.into());
        }
        Arc::from((sources::find("bullmq").unwrap().parse)(settings).unwrap())
    }

    async fn client(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.redis.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// Adds a job, and answers its id.
    async fn add(&mut self, queue: &str, data: Value, options: Value) -> String {
        let job = self.node.call(queue, "add", json!(["t", data, options])).await;
        job["id"].as_str().unwrap().to_owned()
    }

    async fn state(&mut self, queue: &str, id: &str) -> Value {
        self.node.of_job(queue, id, "getState").await
    }

    async fn told(&mut self, event: &str, id: &str) -> Value {
        self.node.event(&json!({ "event": "told", "told": event, "jobId": id })).await
    }
}

type Jobs = Vec<(Token, Received)>;

/// Takes as many jobs.
async fn take(source: &dyn Source, count: usize) -> Jobs {
    let mut all = Jobs::new();
    while all.len() < count {
        let taken = timeout(LIMIT, source.take(count - all.len(), LIMIT)).await.unwrap().unwrap();
        all.extend(taken.into_iter().map(|delivery| (delivery.token, delivery.message.unwrap())));
    }
    all
}

/// What one call takes that may take ten.
async fn take_at_once(source: &dyn Source) -> Jobs {
    let taken = timeout(LIMIT, source.take(10, LIMIT)).await.unwrap().unwrap();
    taken.into_iter().map(|delivery| (delivery.token, delivery.message.unwrap())).collect()
}

fn ids(jobs: &Jobs) -> Vec<&str> {
    jobs.iter().map(|(_, message)| message.header("bullmq-id").unwrap()).collect()
}

async fn settle(source: &dyn Source, jobs: &Jobs, fate: Fate) {
    let settled: Vec<_> = jobs.iter().map(|(token, _)| (token.clone(), fate.clone())).collect();
    source.settle(&settled).await.unwrap();
}

/// Nothing is there to be taken.
async fn assert_nothing(source: &dyn Source) {
    assert!(source.take(10, AT_ONCE).await.unwrap().is_empty());
}

async fn r28_bullmq_jobs_are_completed_and_listeners_hear_of_them(package: &str) {
    let mut scene = Scene::new(package);
    scene.node.ask(&json!({ "do": "listen", "queue": "q" })).await;
    let mut added = Vec::new();
    for n in 0..3 {
        added.push(scene.add("q", json!({ "n": n }), json!({})).await);
    }
    let source = scene.source("q");
    let jobs = take(&*source, 3).await;
    assert_eq!(ids(&jobs), added);
    for (n, (_, message)) in jobs.iter().enumerate() {
        assert_eq!(message.topic, "t");
        assert_eq!(message.payload, format!("{{\"n\":{n}}}").as_bytes());
        scene.told("active", &added[n]).await;
        assert_eq!(scene.state("q", &added[n]).await, "active");
    }
    settle(&*source, &jobs, Fate::Done).await;
    for id in &added {
        let told = scene.told("completed", id).await;
        assert_eq!((&told["prev"], &told["returnvalue"]), (&json!("active"), &Value::Null));
        assert_eq!(scene.state("q", id).await, "completed");
    }
}

async fn r28_bullmq_buried_job_is_failed_with_its_reason(package: &str) {
    let mut scene = Scene::new(package);
    scene.node.ask(&json!({ "do": "listen", "queue": "q" })).await;
    let id = scene.add("q", json!({}), json!({ "attempts": 5 })).await;
    let source = scene.source("q");
    let jobs = take(&*source, 1).await;
    settle(&*source, &jobs, Fate::Bury { reason: "nobody \"wants\" it".to_owned() }).await;
    assert_eq!(scene.told("failed", &id).await["failedReason"], "nobody \"wants\" it");
    assert_eq!(scene.state("q", &id).await, "failed");
    let job = scene.node.of_job("q", &id, "asJSON").await;
    assert_eq!(job["failedReason"], "\"nobody \\\"wants\\\" it\"");
    // People may have it tried again, with the means of BullMQ.
    scene.node.of_job("q", &id, "retry").await;
    let jobs = take(&*source, 1).await;
    assert_eq!(ids(&jobs), [&*id]);
}

async fn r28_bullmq_workers_and_a_source_share_a_queue_and_each_job_runs_once(package: &str) {
    const COUNT: usize = 300;
    let mut scene = Scene::new(package);
    let mut added = HashSet::new();
    for n in 0..5 {
        added.insert(scene.add("q", json!(n), json!({})).await);
    }
    let source = scene.source("q");
    let first = take(&*source, 5).await;
    let mut ours: Vec<String> = ids(&first).into_iter().map(str::to_owned).collect();
    let options = json!({ "concurrency": 5 });
    scene.node.ask(&json!({ "do": "work", "queue": "q", "options": options })).await;
    let jobs: Vec<Value> = (5..COUNT).map(|n| json!({ "name": "t", "data": n })).collect();
    let jobs = scene.node.call("q", "addBulk", json!([jobs])).await;
    added.extend(jobs.as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()));
    settle(&*source, &first, Fate::Done).await;
    let (mut client, began) = (scene.client().await, Instant::now());
    while client.zcard::<_, usize>("bull:q:completed").await.unwrap() < COUNT {
        assert!(began.elapsed() < LIMIT, "not every job");
        let taken = source.take(7, AT_ONCE).await.unwrap();
        let jobs: Jobs = taken.into_iter().map(|it| (it.token, it.message.unwrap())).collect();
        ours.extend(ids(&jobs).into_iter().map(str::to_owned));
        settle(&*source, &jobs, Fate::Done).await;
    }
    // An answer that comes after all that was seen before.
    let counts = scene.node.call("q", "getJobCounts", json!(["completed", "failed"])).await;
    assert_eq!(counts, json!({ "completed": COUNT, "failed": 0 }));
    let theirs = COUNT - ours.len();
    for _ in 0..theirs {
        let run = scene.node.event(&json!({ "event": "done" })).await;
        ours.push(run["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(scene.node.seen("run").len(), theirs);
    assert_eq!(ours.len(), COUNT);
    assert_eq!(ours.into_iter().collect::<HashSet<_>>(), added);
}

async fn r28_bullmq_worker_takes_over_what_a_dead_source_held(package: &str) {
    let mut scene = Scene::new(package);
    let id = scene.add("q", json!(1), json!({})).await;
    let source = scene.source("q");
    let jobs = take(&*source, 1).await;
    let options = json!({ "stalledInterval": 100, "drainDelay": 1 });
    scene.node.ask(&json!({ "do": "work", "queue": "q", "options": options })).await;
    let () = scene.client().await.del(format!("bull:q:{id}:lock")).await.unwrap();
    scene.node.event(&json!({ "event": "done", "id": id })).await;
    settle(&*source, &jobs, Fate::Bury { reason: "late".to_owned() }).await;
    assert_eq!(scene.state("q", &id).await, "completed");
}

/// Whether a client is blocked by the command that workers wait with.
async fn is_awaited(client: &mut MultiplexedConnection) -> bool {
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(client).await.unwrap();
    let is_blocked = |line: &str| line.contains(" flags=b ") && line.contains(" cmd=bzpopmin ");
    list.lines().any(is_blocked)
}

async fn r28_bullmq_worker_that_waits_is_woken_by_what_is_given_back(package: &str) {
    let mut scene = Scene::new(package);
    let source = scene.source("q");
    let id = scene.add("q", json!(1), json!({})).await;
    let jobs = take(&*source, 1).await;
    // By itself it would look again long after the test has given up.
    let options = json!({ "drainDelay": 3_600 });
    scene.node.ask(&json!({ "do": "work", "queue": "q", "options": options })).await;
    let client = scene.client().await;
    let is_waiting = async || is_awaited(&mut client.clone()).await;
    eventually_async("a worker that waits", LIMIT, is_waiting).await;
    settle(&*source, &jobs, Fate::GiveBack).await;
    scene.node.event(&json!({ "event": "done", "id": id })).await;
}

async fn r28_bullmq_jobs_come_by_priority_and_go_back_to_their_place(package: &str) {
    let mut scene = Scene::new(package);
    let mut added = Vec::new();
    for priority in [9, 2, 0, 5, 2, 1] {
        added.push(scene.add("q", json!(1), json!({ "priority": priority })).await);
    }
    let source = scene.source("q");
    let expected: Vec<&str> = [2, 5, 1, 4, 3, 0].iter().map(|at| &*added[*at]).collect();
    let jobs = take(&*source, 6).await;
    assert_eq!(ids(&jobs), expected);
    settle(&*source, &jobs, Fate::GiveBack).await;
    let urgent = scene.add("q", json!(1), json!({ "priority": 1 })).await;
    let jobs = take(&*source, 7).await;
    let mut again = expected.clone();
    again.insert(2, &urgent);
    assert_eq!(ids(&jobs), again);
}

async fn r28_bullmq_delayed_job_comes_when_it_is_due(package: &str) {
    let mut scene = Scene::new(package);
    scene.node.ask(&json!({ "do": "listen", "queue": "q" })).await;
    let later = scene.add("q", json!(1), json!({ "delay": 86_400_000 })).await;
    let source = scene.source("q");
    assert_nothing(&*source).await;
    let soon = scene.add("q", json!(2), json!({ "delay": 1_200, "priority": 3 })).await;
    let timestamp: u64 = {
        let field = scene.client().await.hget(format!("bull:q:{soon}"), "timestamp").await;
        field.unwrap()
    };
    let jobs = take(&*source, 1).await;
    assert_eq!(ids(&jobs), [&*soon]);
    let (seconds, micros): (u64, u64) =
        redis::cmd("TIME").query_async(&mut scene.client().await).await.unwrap();
    assert!(seconds * 1_000 + micros / 1_000 >= timestamp + 1_200);
    assert_eq!(scene.told("waiting", &soon).await["prev"], "delayed");
    assert_eq!(scene.state("q", &later).await, "delayed");
    scene.node.of_job("q", &later, "promote").await;
    assert_eq!(ids(&take(&*source, 1).await), [&*later]);
}

async fn r28_bullmq_paused_queue_gives_nothing_and_takes_back(package: &str) {
    let mut scene = Scene::new(package);
    let source = scene.source("q");
    let first = scene.add("q", json!(1), json!({})).await;
    let jobs = take(&*source, 1).await;
    scene.node.call("q", "pause", json!([])).await;
    let second = scene.add("q", json!(2), json!({})).await;
    settle(&*source, &jobs, Fate::GiveBack).await;
    assert_nothing(&*source).await;
    let waiting = Arc::clone(&source);
    let waiting = tokio::spawn(async move { take(&*waiting, 2).await });
    scene.node.call("q", "resume", json!([])).await;
    assert_eq!(ids(&timeout(LIMIT, waiting).await.unwrap().unwrap()), [&*first, &*second]);
}

async fn r28_bullmq_limits_of_a_queue_are_kept(package: &str) {
    let mut scene = Scene::new(package);
    scene.node.call("q", "setGlobalConcurrency", json!([2])).await;
    let source = scene.source("q");
    for n in 0..4 {
        scene.add("q", json!(n), json!({})).await;
    }
    let jobs = take_at_once(&*source).await;
    assert_eq!(jobs.len(), 2);
    assert_nothing(&*source).await;
    settle(&*source, &jobs[..1].to_vec(), Fate::Done).await;
    assert_eq!(take_at_once(&*source).await.len(), 1);
    assert_nothing(&*source).await;

    scene.node.call("r", "setGlobalRateLimit", json!([2, 3_600_000])).await;
    let source = scene.source("r");
    for n in 0..4 {
        scene.add("r", json!(n), json!({})).await;
    }
    let jobs = take_at_once(&*source).await;
    assert_eq!(jobs.len(), 2);
    settle(&*source, &jobs, Fate::Done).await;
    assert_nothing(&*source).await;
    let ttl = scene.node.call("r", "getRateLimitTtl", json!([2])).await;
    assert!(ttl.as_i64().unwrap() > 3_000_000, "{ttl}");
    // The hour is over.
    let () = scene.client().await.del("bull:r:limiter").await.unwrap();
    assert_eq!(take_at_once(&*source).await.len(), 2);
}

async fn r28_bullmq_finished_jobs_are_removed_as_their_options_say(package: &str) {
    let mut scene = Scene::new(package);
    let source = scene.source("q");
    for (options, left) in [
        (json!({}), 3),
        (json!({ "removeOnComplete": false }), 6),
        (json!({ "removeOnComplete": true }), 6),
        (json!({ "removeOnComplete": { "age": 3_600, "count": 4 } }), 4),
        (json!({ "removeOnComplete": { "age": 3_600 } }), 7),
        (json!({ "removeOnComplete": 2 }), 2),
        (json!({ "removeOnComplete": 0 }), 2),
    ] {
        for n in 0..3 {
            scene.add("q", json!(n), options.clone()).await;
        }
        settle(&*source, &take(&*source, 3).await, Fate::Done).await;
        let counts = scene.node.call("q", "getJobCounts", json!(["completed"])).await;
        assert_eq!(counts, json!({ "completed": left }), "{options}");
    }
    let hashes = redis::cmd("KEYS").arg("bull:q:[0-9]*").to_owned();
    let hashes: Vec<String> = hashes.query_async(&mut scene.client().await).await.unwrap();
    assert_eq!(hashes.len(), 2, "{hashes:?}");
    let id = scene.add("q", json!(1), json!({ "removeOnFail": true })).await;
    let reason = "no".to_owned();
    settle(&*source, &take(&*source, 1).await, Fate::Bury { reason }).await;
    assert_eq!(scene.node.call("q", "getJob", json!([id])).await, Value::Null);
}

async fn r28_bullmq_deduplicated_job_may_be_added_again_when_it_is_done(package: &str) {
    let mut scene = Scene::new(package);
    let source = scene.source("q");
    let options = json!({ "deduplication": { "id": "one" } });
    let first = scene.add("q", json!(1), options.clone()).await;
    let jobs = take(&*source, 1).await;
    assert_eq!(scene.add("q", json!(2), options.clone()).await, first);
    settle(&*source, &jobs, Fate::Done).await;
    let second = scene.add("q", json!(3), options).await;
    assert_eq!(ids(&take(&*source, 1).await), [&*second]);
}

/// Everything that Redis holds of a queue, with the names alone of what differs by its nature: times, and who ran it.
async fn dump(client: &mut MultiplexedConnection, queue: &str) -> BTreeMap<String, Value> {
    let mut dump = BTreeMap::new();
    let keys: Vec<String> = client.keys(format!("bull:{queue}:*")).await.unwrap();
    for key in keys {
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(client).await.unwrap();
        let value = match kind.as_str() {
            "hash" => {
                let mut hash: BTreeMap<String, String> = client.hgetall(&key).await.unwrap();
                hash.remove("pb");
                // Of handlers that BullMQ runs.
                hash.remove("stacktrace");
                for time in ["timestamp", "processedOn", "finishedOn"] {
                    hash.entry(time.to_owned()).and_modify(String::clear);
                }
                json!(hash)
            }
            "zset" => json!(client.zrange::<_, Vec<String>>(&key, 0, -1).await.unwrap()),
            "list" => json!(client.lrange::<_, Vec<String>>(&key, 0, -1).await.unwrap()),
            "stream" => {
                let mut range = redis::cmd("XRANGE");
                range.arg(&key).arg("-").arg("+");
                let entries: Vec<(String, Vec<(String, String)>)> =
                    range.query_async(client).await.unwrap();
                json!(entries.into_iter().map(|(_, fields)| fields).collect::<Vec<_>>())
            }
            _ => json!(client.get::<_, String>(&key).await.unwrap()),
        };
        dump.insert(key.split(':').skip(2).collect::<Vec<_>>().join(":"), value);
    }
    // A marker is there as long as no worker waits for it; the last look for stalled jobs is BullMQ's.
    for part in ["marker", "stalled-check"] {
        dump.remove(part);
    }
    dump
}

async fn r28_bullmq_finished_jobs_are_what_its_own_worker_makes_of_them(package: &str) {
    let mut scene = Scene::new(package);
    let mut client = scene.client().await;
    for (end, fails, fate) in
        [("done", 0, Fate::Done), ("failed", 1, Fate::Bury { reason: "as it was told".to_owned() })]
    {
        let (ours, theirs) = (format!("{end}-ours"), format!("{end}-theirs"));
        for queue in [&ours, &theirs] {
            let options = json!({ "removeOnFail": { "count": 5 }, "deduplication": { "id": "x" } });
            scene.add(queue, json!({ "n": 1 }), options).await;
        }
        let source = scene.source(&ours);
        settle(&*source, &take(&*source, 1).await, fate).await;
        scene.node.ask(&json!({ "do": "work", "queue": theirs, "fails": fails })).await;
        scene.node.event(&json!({ "event": end, "id": "1" })).await;
        let (of_source, of_worker) =
            (dump(&mut client, &ours).await, dump(&mut client, &theirs).await);
        assert!(of_source.len() >= 5, "{of_source:#?}");
        assert_eq!(of_source, of_worker);
    }
}

async fn r28_bullmq_job_of_a_scheduler_is_left_to_its_own_workers_with_a_reason(package: &str) {
    let mut scene = Scene::new(package);
    let every = json!(["nightly", { "every": 86_400_000 }, { "name": "t" }]);
    let job = scene.node.call("q", "upsertJobScheduler", every).await;
    let id = job["id"].as_str().unwrap().to_owned();
    if scene.state("q", &id).await == "delayed" {
        scene.node.of_job("q", &id, "promote").await;
    }
    let source = scene.source("q");
    let taken = timeout(LIMIT, source.take(1, LIMIT)).await.unwrap().unwrap();
    let said = taken[0].message.as_ref().unwrap_err().to_string();
    assert!(said.contains("the next job of its scheduler"), "{said}");
}

async fn r32_bullmq_listener_hears_of_every_job_that_is_added(package: &str) {
    let mut scene = Scene::new(package);
    let settings = format!("url = '{}'\nqueue = 'q'\ntopic = 'queue'", scene.redis.url());
    let kind = sources::find("bullmq").unwrap();
    let mut additions = (kind.listen.unwrap())(settings.parse().unwrap()).unwrap();
    let mut added = Vec::new();
    for (n, options) in
        [json!({}), json!({ "priority": 3 }), json!({ "delay": 86_400_000 })].iter().enumerate()
    {
        added.push(scene.add("q", json!({ "n": n }), options.clone()).await);
    }
    // Also one that somebody has taken and handled.
    let source = scene.source("q");
    settle(&*source, &take(&*source, 2).await, Fate::Done).await;
    let heard = additions.next(LIMIT).await.unwrap();
    let heard: Vec<Received> = heard.into_iter().map(Result::unwrap).collect();
    let ids: Vec<&str> = heard.iter().map(|it| it.header("bullmq-id").unwrap()).collect();
    assert_eq!(ids, added);
    assert!(heard.iter().all(|message| message.topic == "q"));
    assert_eq!(heard[1].payload, b"{\"n\":1}");
    // It is the message that its worker will have.
    let handled = (kind.parse)(settings.parse().unwrap()).unwrap();
    scene.node.of_job("q", &added[2], "promote").await;
    assert_eq!(take(&*handled, 1).await[0].1, heard[2]);
}
