//! `bullmq`, read by BullMQ itself: jobs of the sink are run, retried and looked at by the package as
//! it comes from npm, in each major version.

mod node;

use std::{collections::BTreeMap, slice};

use posthaste_relay::{
    clock,
    sink::{Outcome, Sink},
};
use posthaste_testkit::{Redis, eventually_async};
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use serde_json::{Value, json};

use super::{
    bullmq::KIND,
    contract::CALL_LIMIT,
    messages::{Sample, publish},
    redis_server::{client, connected},
};
use node::Node;

/// When `publish` says that the first message of a batch was written.
const FIRST_MS: u64 = 1_767_323_045_000;

macro_rules! with_each_version {
    ($($case:ident,)+) => {
        mod bullmq_5 {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case("bullmq5").await;
                }
            )+
        }
        mod bullmq_6 {
            $(
                #[tokio::test]
                async fn $case() {
                    super::$case("bullmq").await;
                }
            )+
        }
    };
}

with_each_version!(
    r11_bullmq_worker_runs_jobs_in_order_and_listeners_hear_of_them,
    r11_bullmq_failed_job_is_tried_again_after_its_backoff,
    r11_bullmq_jobs_run_by_priority,
    r11_bullmq_delayed_job_runs_when_it_is_due,
    r11_bullmq_worker_that_waits_is_woken,
    r11_bullmq_finished_jobs_are_removed_as_the_settings_say,
    r11_bullmq_paused_queue_runs_its_jobs_when_it_is_resumed,
    r11_bullmq_queue_is_what_its_own_add_makes_of_it,
    r11_bullmq_paused_queue_is_what_its_own_add_makes_of_it,
    r11_bullmq_limited_queue_is_what_its_own_add_makes_of_it,
);

async fn accept(sink: &mut dyn Sink, samples: &[Sample]) {
    let outcomes = publish(sink, samples).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Accepted), "{outcomes:?}");
}

/// A server, a sink on it with these settings, and a process with the package.
async fn scene(package: &str, settings: &str) -> (Redis, Box<dyn Sink>, Node) {
    let redis = Redis::start();
    let sink = connected(KIND, &redis, settings.parse().unwrap()).await;
    let node = Node::start(package, &redis);
    (redis, sink, node)
}

fn listen(queue: &str) -> Value {
    json!({ "do": "listen", "queue": queue })
}

fn work(queue: &str) -> Value {
    json!({ "do": "work", "queue": queue })
}

fn ids(samples: &[Sample]) -> Vec<String> {
    samples.iter().map(|sample| sample.id.to_string()).collect()
}

async fn r11_bullmq_worker_runs_jobs_in_order_and_listeners_hear_of_them(package: &str) {
    let (_redis, mut sink, mut node) = scene(package, "name = '{key}'").await;
    node.ask(&work("t")).await;
    node.ask(&listen("t")).await;
    let samples: Vec<Sample> = (0..250)
        .map(|n| Sample::new("t", format!("{{\"n\":{n}}}")).key(&format!("k{n}")))
        .collect();
    accept(&mut *sink, &samples).await;
    for (n, id) in ids(&samples).iter().enumerate() {
        let told = node.event(&json!({ "event": "told", "told": "completed", "jobId": id })).await;
        assert_eq!(told["prev"], "active");
        let added =
            json!({ "event": "told", "told": "added", "jobId": id, "name": format!("k{n}") });
        node.event(&added).await;
        node.event(&json!({ "event": "told", "told": "waiting", "jobId": id })).await;
    }
    let runs = node.seen("run");
    assert_eq!(runs.len(), samples.len(), "each once");
    for ((n, run), id) in runs.into_iter().enumerate().zip(ids(&samples)) {
        let expected = (json!(id), json!(format!("k{n}")), json!({ "n": n }));
        assert_eq!(
            (&run["id"], &run["name"], &run["data"]),
            (&expected.0, &expected.1, &expected.2)
        );
    }
}

async fn r11_bullmq_failed_job_is_tried_again_after_its_backoff(package: &str) {
    let settings = "attempts = 3\nbackoff = { kind = 'exponential', delay = '1h' }";
    let (_redis, mut sink, mut node) = scene(package, settings).await;
    node.ask(&json!({ "do": "work", "queue": "t", "fails": 2 })).await;
    let samples = [Sample::new("t", "{}"), Sample::new("t", "{}").header("bullmq-attempts", "1")];
    accept(&mut *sink, &samples).await;
    let [retried, tried] = samples.map(|sample| sample.id.to_string());
    for (attempt, delay) in [(1, 3_600_000), (2, 7_200_000)] {
        let failed = node.event(&json!({ "event": "failed", "id": retried })).await;
        assert_eq!(failed["attemptsMade"], attempt);
        assert_eq!(failed["delay"], delay);
        assert_eq!(node.of_job("t", &retried, "getState").await, "delayed");
        node.of_job("t", &retried, "promote").await;
    }
    node.event(&json!({ "event": "done", "id": retried })).await;
    node.event(&json!({ "event": "failed", "id": tried, "attemptsMade": 1 })).await;
    assert_eq!(node.of_job("t", &tried, "getState").await, "failed");
}

async fn r11_bullmq_jobs_run_by_priority(package: &str) {
    let (_redis, mut sink, mut node) = scene(package, "priority = 5").await;
    let priorities = ["9", "2", "", "0", "2", "1", "2097151", ""];
    let sample = |priority: &str| match priority {
        "" => Sample::new("t", "{}"),
        _ => Sample::new("t", "{}").header("bullmq-priority", priority),
    };
    let samples = priorities.map(sample);
    accept(&mut *sink, &samples).await;
    let waiting = node.call("t", "getJobCounts", json!(["wait", "prioritized"])).await;
    assert_eq!(waiting, json!({ "wait": 1, "prioritized": 7 }));
    node.ask(&work("t")).await;
    for at in [3, 5, 1, 4, 2, 7, 0, 6] {
        let run = node.event(&json!({ "event": "run" })).await;
        assert_eq!(run["id"], samples[at].id.to_string(), "{}", priorities[at]);
    }
}

async fn r11_bullmq_delayed_job_runs_when_it_is_due(package: &str) {
    let (_redis, mut sink, mut node) = scene(package, "").await;
    node.ask(&work("t")).await;
    node.ask(&listen("t")).await;
    let now = clock::now().0 as u64 / 1_000;
    let after = |delay: u64| Sample::new("t", "{}").header("bullmq-delay", &delay.to_string());
    let soon = now + 1_500;
    let samples = [after(soon - FIRST_MS), after(now + 86_400_000 - FIRST_MS), after(1)];
    accept(&mut *sink, &samples).await;
    let [soon_id, later, past] = samples.map(|sample| sample.id.to_string());
    for id in [&past, &soon_id] {
        let run = node.event(&json!({ "event": "run" })).await;
        assert_eq!(run["id"], **id);
        if *id == soon_id {
            assert!(run["at"].as_u64().unwrap() >= soon, "{run} before {soon}");
        }
    }
    let delayed =
        node.event(&json!({ "event": "told", "told": "delayed", "jobId": soon_id })).await;
    assert_eq!(delayed["delay"], soon);
    assert_eq!(node.of_job("t", &later, "getState").await, "delayed");
}

/// Whether a client is blocked by the command that workers wait with.
async fn is_awaited(client: &mut MultiplexedConnection) -> bool {
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(client).await.unwrap();
    let is_blocked = |line: &str| line.contains(" flags=b ") && line.contains(" cmd=bzpopmin ");
    list.lines().any(is_blocked)
}

async fn r11_bullmq_worker_that_waits_is_woken(package: &str) {
    let (redis, mut sink, mut node) = scene(package, "").await;
    // By itself it would look again long after the test has given up.
    let options = json!({ "drainDelay": 3_600 });
    node.ask(&json!({ "do": "work", "queue": "t", "options": options })).await;
    let client = client(&redis).await;
    for header in [None, Some("bullmq-priority"), Some("bullmq-delay")] {
        let is_waiting = async || is_awaited(&mut client.clone()).await;
        eventually_async("a worker that waits", 4 * CALL_LIMIT, is_waiting).await;
        let sample = Sample::new("t", "{}");
        let sample = header.map_or(sample.clone(), |header| sample.header(header, "1"));
        let id = sample.id.to_string();
        accept(&mut *sink, &[sample]).await;
        node.event(&json!({ "event": "done", "id": id })).await;
    }
}

async fn r11_bullmq_finished_jobs_are_removed_as_the_settings_say(package: &str) {
    let settings = "remove_on_complete = { count = 2, age = '1d' }\nremove_on_fail = true";
    let (_redis, mut sink, mut node) = scene(package, settings).await;
    let samples: Vec<Sample> = (0..5).map(|n| Sample::new("t", n.to_string())).collect();
    accept(&mut *sink, &samples).await;
    node.ask(&work("t")).await;
    for id in ids(&samples) {
        node.event(&json!({ "event": "done", "id": id })).await;
    }
    let counts = node.call("t", "getJobCounts", json!(["completed"])).await;
    assert_eq!(counts, json!({ "completed": 2 }));
    let failing = Sample::new("u", "{}");
    accept(&mut *sink, slice::from_ref(&failing)).await;
    node.ask(&json!({ "do": "work", "queue": "u", "fails": 1 })).await;
    let id = failing.id.to_string();
    node.event(&json!({ "event": "failed", "id": id })).await;
    assert_eq!(node.call("u", "getJob", json!([id])).await, Value::Null);
}

async fn r11_bullmq_paused_queue_runs_its_jobs_when_it_is_resumed(package: &str) {
    let (_redis, mut sink, mut node) = scene(package, "").await;
    node.ask(&listen("t")).await;
    let early = Sample::new("t", "{}");
    accept(&mut *sink, slice::from_ref(&early)).await;
    node.call("t", "pause", json!([])).await;
    let samples = [
        Sample::new("t", "{}"),
        Sample::new("t", "{}"),
        Sample::new("t", "{}").header("bullmq-priority", "1"),
    ];
    accept(&mut *sink, &samples).await;
    node.ask(&work("t")).await;
    node.call("t", "resume", json!([])).await;
    for id in ids(&[&[early][..], &samples].concat()) {
        let run = node.event(&json!({ "event": "run" })).await;
        assert_eq!(run["id"], id);
        node.event(&json!({ "event": "told", "told": "completed", "jobId": id })).await;
    }
    let told: Vec<&Value> = node.seen("told").into_iter().map(|event| &event["told"]).collect();
    let at = |wanted: &str| told.iter().position(|told| *told == wanted);
    assert!(at("resumed") < at("active"), "{told:?}");
}

/// What Redis holds of a queue, without what tells the two ways apart: the version that a `Queue`
/// writes, its count of ids of its own, and the times that tests give to `add` in its options.
async fn dump(client: &mut MultiplexedConnection, queue: &str) -> BTreeMap<String, Value> {
    let mut dump = BTreeMap::new();
    let keys: Vec<String> = client.keys(format!("bull:{queue}:*")).await.unwrap();
    for key in keys {
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(client).await.unwrap();
        let value = match kind.as_str() {
            "hash" => {
                let mut hash: BTreeMap<String, Value> = {
                    let fields: BTreeMap<String, String> = client.hgetall(&key).await.unwrap();
                    fields.into_iter().map(|(name, value)| (name, value.into())).collect()
                };
                hash.remove("version");
                if let Some(opts) = hash.get_mut("opts") {
                    let mut parsed: Value = serde_json::from_str(opts.as_str().unwrap()).unwrap();
                    parsed.as_object_mut().unwrap().remove("timestamp");
                    *opts = parsed;
                }
                json!(hash)
            }
            "list" => json!(client.lrange::<_, Vec<String>>(&key, 0, -1).await.unwrap()),
            "zset" => {
                let set = client.zrange_withscores::<_, Vec<(String, f64)>>(&key, 0, -1).await;
                json!(set.unwrap())
            }
            "string" => json!(client.get::<_, String>(&key).await.unwrap()),
            "stream" => {
                let mut range = redis::cmd("XRANGE");
                range.arg(&key).arg("-").arg("+");
                let entries: Vec<(String, Vec<(String, String)>)> =
                    range.query_async(client).await.unwrap();
                json!(entries.into_iter().map(|(_, fields)| fields).collect::<Vec<_>>())
            }
            other => panic!("{key} is a {other}"),
        };
        dump.insert(key.split(':').skip(2).collect::<Vec<_>>().join(":"), value);
    }
    dump.remove("id");
    dump
}

/// Adds the same jobs through the sink and through `Queue.add`, and compares what is there then, and
/// what the package reads of it.
async fn compare(package: &str, prepare: &[(&str, Value)]) {
    let settings = "attempts = 2\nbackoff = { kind = 'fixed', delay = '5s', jitter = 0.25 }\n\
                    remove_on_complete = { age = '1h', count = 10 }\nremove_on_fail = 7";
    let (redis, mut sink, mut node) = scene(package, settings).await;
    let mut client = client(&redis).await;
    let options = json!({
        "attempts": 2, "backoff": { "type": "fixed", "delay": 5000, "jitter": 0.25 },
        "removeOnComplete": { "age": 3600, "count": 10 }, "removeOnFail": 7,
    });
    let cases: [(&str, Value); 10] = [
        ("{\"a\":1}", json!({})),
        ("\"text\"", json!({})),
        ("", json!({ "attempts": 9 })),
        ("[1]", json!({ "priority": 5 })),
        ("[2]", json!({ "priority": 5 })),
        ("[3]", json!({ "delay": 70_000 })),
        ("[4]", json!({ "delay": 69_999 })),
        ("[4]", json!({ "delay": 70_000 })),
        ("[5]", json!({ "delay": 1_000, "priority": 3 })),
        ("null", json!({})),
    ];
    let mut samples = Vec::new();
    for (payload, own) in &cases {
        let own = own.as_object().unwrap().iter();
        let sample = Sample::new("sink", *payload);
        samples.push(own.fold(sample, |sample, (name, value)| {
            sample.header(&format!("bullmq-{name}"), &value.to_string())
        }));
    }
    samples.push(samples[1].clone());
    for queue in ["sink", "added"] {
        for (method, args) in prepare {
            node.call(queue, method, args.clone()).await;
        }
        let () = client.lpush(format!("bull:{queue}:active"), "busy").await.unwrap();
    }
    accept(&mut *sink, &samples).await;
    for (at, sample) in samples.iter().enumerate() {
        let (payload, own) = &cases[if at == cases.len() { 1 } else { at }];
        let mut options = options.as_object().unwrap().clone();
        options.extend(own.as_object().unwrap().clone());
        options.insert("jobId".to_owned(), sample.id.to_string().into());
        options.insert("timestamp".to_owned(), FIRST_MS.into());
        let data: Value = serde_json::from_str(payload).unwrap_or_else(|_| json!({}));
        node.call("added", "add", json!(["sink", data, options])).await;
    }
    let (of_sink, of_add) = (dump(&mut client, "sink").await, dump(&mut client, "added").await);
    assert!(of_sink.len() > cases.len() + 5, "{of_sink:#?}");
    assert_eq!(of_sink.keys().collect::<Vec<_>>(), of_add.keys().collect::<Vec<_>>());
    for (key, value) in of_sink {
        assert_eq!(value, of_add[&key], "{key}");
    }
    for id in ids(&samples) {
        let mut read = [Value::Null, Value::Null];
        for (job, queue) in read.iter_mut().zip(["sink", "added"]) {
            *job = node.of_job(queue, &id, "asJSON").await;
            job["state"] = node.of_job(queue, &id, "getState").await;
            job["opts"].as_object_mut().unwrap().remove("timestamp");
        }
        assert_eq!(read[0], read[1]);
    }
    let kinds = json!(["wait", "paused", "prioritized", "delayed", "active"]);
    let counts = node.call("sink", "getJobCounts", kinds.as_array().unwrap().clone().into()).await;
    assert_eq!(counts, node.call("added", "getJobCounts", kinds).await);
    let listed = node.call("sink", "getJobs", json!([["wait", "prioritized", "delayed"]])).await;
    let is_job = |job: &&Value| !job.is_null();
    assert!(listed.as_array().unwrap().iter().filter(is_job).count() >= 5, "{listed}");
}

async fn r11_bullmq_queue_is_what_its_own_add_makes_of_it(package: &str) {
    compare(package, &[("getVersion", json!([]))]).await;
}

async fn r11_bullmq_paused_queue_is_what_its_own_add_makes_of_it(package: &str) {
    compare(package, &[("pause", json!([]))]).await;
}

async fn r11_bullmq_limited_queue_is_what_its_own_add_makes_of_it(package: &str) {
    compare(
        package,
        &[("setGlobalConcurrency", json!([1])), ("setGlobalRateLimit", json!([1, 1_000]))],
    )
    .await;
}
