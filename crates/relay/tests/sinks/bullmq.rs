//! `bullmq`: the contract, and what it writes; `bullmq_clients` has BullMQ itself read that.

use std::{collections::BTreeMap, slice, time::Duration};

use async_trait::async_trait;
use posthaste_core::MessageId;
use posthaste_relay::sink::{Context, Outcome, Scope, Sink, SinkErrorKind, Target};
use posthaste_testkit::{
    Redis, RedisAuth, RedisCluster, RedisOptions, eventually_async,
    proxy::{NetFault, Proxy},
};
use redis::{AsyncCommands as _, aio::MultiplexedConnection};
use serde_json::json;
use tokio::time::timeout;

use super::{
    contract::{Breaking, CALL_LIMIT, Harness, sink_contract},
    messages::{Arrived, Sample, lane, publish, read_envelope, read_event},
    redis_server::{
        Server, assert_refused, assert_settings, client, connected, parse, setting, target,
    },
};

pub(super) const KIND: &str = "bullmq";

/// When `publish` says that the first message of a batch was written.
const FIRST_MS: u64 = 1_767_323_045_000;

/// Queues below a prefix of their own, with one key that can be made to refuse jobs.
struct Queues<const FREE: bool, const EVENTS: bool, const CLUSTER: bool = false> {
    server: Server,
    prefix: String,
}

impl<const FREE: bool, const EVENTS: bool, const CLUSTER: bool> Queues<FREE, EVENTS, CLUSTER> {
    /// The list that jobs are pushed onto, or what is written before it.
    fn weak_key(&self, topic: &str) -> String {
        format!("{}:{topic}:{}", self.prefix, if EVENTS { "events" } else { "wait" })
    }
}

/// The ids of the jobs that wait, in the order in which workers take them.
pub(super) async fn waiting(client: &mut MultiplexedConnection, queue: &str) -> Vec<String> {
    let mut ids: Vec<String> = client.lrange(format!("{queue}:wait"), 0, -1).await.unwrap();
    ids.reverse();
    ids
}

pub(super) async fn job(
    client: &mut MultiplexedConnection,
    queue: &str,
    id: impl std::fmt::Display,
) -> BTreeMap<String, String> {
    client.hgetall(format!("{queue}:{id}")).await.unwrap()
}

/// The fields of each event.
async fn events(client: &mut MultiplexedConnection, queue: &str) -> Vec<Vec<(String, String)>> {
    let entries: Vec<(String, Vec<(String, String)>)> = redis::cmd("XRANGE")
        .arg(format!("{queue}:events"))
        .arg("-")
        .arg("+")
        .query_async(client)
        .await
        .unwrap();
    entries.into_iter().map(|(_, fields)| fields).collect()
}

/// Events as `name id`, in order.
async fn told(client: &mut MultiplexedConnection, queue: &str) -> Vec<String> {
    let events = events(client, queue).await;
    let named = |fields: &Vec<(String, String)>| format!("{} {}", fields[0].1, fields[1].1);
    events.iter().map(named).collect()
}

#[async_trait]
impl<const FREE: bool, const EVENTS: bool, const CLUSTER: bool> Harness
    for Queues<FREE, EVENTS, CLUSTER>
{
    async fn start(is_alone: bool) -> Self {
        let (server, prefix) = Server::prefixed(is_alone, CLUSTER);
        Self { server, prefix: prefix.trim_end_matches(':').to_owned() }
    }

    fn target(&self) -> Box<dyn Target> {
        let mut settings = setting("prefix", self.prefix.clone());
        let format = if EVENTS { "cloudevents" } else { "envelope" };
        settings.insert("format".to_owned(), format.into());
        let delivery = if FREE { "at-least-once" } else { "exactly-once" };
        settings.insert("delivery".to_owned(), delivery.into());
        target(KIND, &self.server.url(), settings)
    }

    async fn arrived(&mut self, topic: &str) -> Vec<Arrived> {
        let mut client = client(self.server.redis()).await;
        let queue = format!("{}:{topic}", self.prefix);
        let mut arrived = Vec::new();
        for id in waiting(&mut client, &queue).await {
            let job = job(&mut client, &queue, &id).await;
            let read = if EVENTS { read_event } else { read_envelope };
            let message = read(job["data"].as_bytes());
            assert_eq!(message.id.to_string(), id);
            arrived.push(message);
        }
        arrived
    }

    fn go_away(&mut self) {
        self.server.redis().kill();
    }

    fn come_back(&mut self) {
        self.server.restart();
    }
}

#[async_trait]
impl<const FREE: bool, const EVENTS: bool, const CLUSTER: bool> Breaking
    for Queues<FREE, EVENTS, CLUSTER>
{
    async fn refuse(&mut self, topic: &str) {
        let mut client = client(self.server.redis()).await;
        let () = client.set(self.weak_key(topic), "no queue").await.unwrap();
    }

    async fn relent(&mut self, topic: &str) {
        let mut client = client(self.server.redis()).await;
        let () = client.del(self.weak_key(topic)).await.unwrap();
    }
}

sink_contract!(contract_of_envelopes, super::Queues<false, false>, breaking);
sink_contract!(contract_of_events, super::Queues<false, true>, breaking);
sink_contract!(contract_without_a_place, super::Queues<true, false>, breaking);
sink_contract!(contract_of_queues_in_a_cluster, super::Queues<false, false, true>, breaking);

/// A sink on the shared server, and what the names of the keys of its queue `t` begin with.
async fn sink(settings: toml::Table) -> (Box<dyn Sink>, MultiplexedConnection, String) {
    let redis = Redis::shared();
    let prefix = redis.prefix();
    let prefix = prefix.trim_end_matches(':');
    let mut settings = settings;
    settings.insert("prefix".to_owned(), prefix.into());
    (connected(KIND, redis, settings).await, client(redis).await, format!("{prefix}:t"))
}

fn settings(text: &str) -> toml::Table {
    text.parse().unwrap()
}

fn json_of(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[tokio::test]
async fn r11_bullmq_job_has_the_fields_of_one_that_a_queue_adds() {
    let (mut sink, mut client, queue) = sink(toml::Table::new()).await;
    let sample = Sample::new("t", br#" {"n": 1.0e2, "n":"\ud800"}"#.as_slice()).key("k");
    assert_eq!(publish(&mut *sink, slice::from_ref(&sample)).await.unwrap(), [Outcome::Accepted]);
    let mut job = job(&mut client, &queue, sample.id).await;
    let opts = job.remove("opts").unwrap();
    assert_eq!(json_of(&opts), json!({ "attempts": 0, "jobId": sample.id.to_string() }));
    let expected = [
        ("data", r#" {"n": 1.0e2, "n":"\ud800"}"#),
        ("delay", "0"),
        ("name", "t"),
        ("priority", "0"),
        ("timestamp", "1767323045000"),
    ];
    assert_eq!(job, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    let id = sample.id.to_string();
    let text = |fields: &[&str]| fields.chunks(2).map(|it| (it[0].into(), it[1].into())).collect();
    let expected: [Vec<(String, String)>; 2] = [
        text(&["event", "added", "jobId", &id, "name", "t"]),
        text(&["event", "waiting", "jobId", &id]),
    ];
    assert_eq!(events(&mut client, &queue).await, expected);
    let marker: Vec<(String, u64)> =
        client.zrange_withscores(format!("{queue}:marker"), 0, -1).await.unwrap();
    assert_eq!(marker, [("0".to_owned(), 0)]);
    let meta: BTreeMap<String, String> = client.hgetall(format!("{queue}:meta")).await.unwrap();
    assert_eq!(meta, [("opts.maxLenEvents".to_owned(), "10000".to_owned())].into());
}

#[tokio::test]
async fn options_of_settings_and_headers_stand_in_the_job() {
    let (mut sink, mut client, queue) = sink(settings(
        r#"
        name = "{key}"
        attempts = 3
        backoff = { kind = "exponential", delay = "1s", jitter = 0.5 }
        priority = 7
        remove_on_complete = true
        remove_on_fail = { age = "2h", count = 9 }
        "#,
    ))
    .await;
    let plain = Sample::new("t", "1").key("order");
    let own = Sample::new("t", "2")
        .header("bullmq-attempts", "5")
        .header("bullmq-priority", "0")
        .header("bullmq-delay", "1500")
        .header("bullmq-name", "a:b \n");
    let samples = [plain, own];
    assert_eq!(publish(&mut *sink, &samples).await.unwrap(), [const { Outcome::Accepted }; 2]);
    let [plain, own] = samples;
    let of_plain = job(&mut client, &queue, plain.id).await;
    let expected = json!({
        "attempts": 3, "backoff": { "type": "exponential", "delay": 1000, "jitter": 0.5 },
        "priority": 7, "removeOnComplete": true, "removeOnFail": { "age": 7200, "count": 9 },
        "jobId": plain.id.to_string(),
    });
    assert_eq!(json_of(&of_plain["opts"]), expected);
    assert_eq!((&*of_plain["name"], &*of_plain["priority"]), ("order", "7"));
    let of_own = job(&mut client, &queue, own.id).await;
    let expected = json!({
        "attempts": 5, "backoff": { "type": "exponential", "delay": 1000, "jitter": 0.5 },
        "delay": 1500, "removeOnComplete": true, "removeOnFail": { "age": 7200, "count": 9 },
        "jobId": own.id.to_string(),
    });
    assert_eq!(json_of(&of_own["opts"]), expected);
    assert_eq!(
        (&*of_own["name"], &*of_own["delay"], &*of_own["priority"]),
        ("a:b \n", "1500", "0")
    );
    let score: u64 =
        client.zscore(format!("{queue}:prioritized"), plain.id.to_string()).await.unwrap();
    assert_eq!(score, 7 * 4_294_967_296 + 1);
    let due = FIRST_MS + 1_500;
    let score: u64 = client.zscore(format!("{queue}:delayed"), own.id.to_string()).await.unwrap();
    assert_eq!(score, due * 4_096);
    let marker: Vec<(String, u64)> =
        client.zrange_withscores(format!("{queue}:marker"), 0, -1).await.unwrap();
    assert_eq!(marker, [("0".to_owned(), 0), ("1".to_owned(), due)]);
    let delayed = events(&mut client, &queue).await.pop().unwrap();
    assert_eq!(delayed[0].1, "delayed");
    assert_eq!(delayed[2], ("delay".to_owned(), (FIRST_MS + 1_500).to_string()));
}

#[tokio::test]
async fn jobs_of_one_delay_or_priority_keep_their_order() {
    let (mut sink, mut client, queue) = sink(toml::Table::new()).await;
    let ordered = |header: &'static str| {
        move |n: usize| {
            Sample::new("t", n.to_string()).header(header, if n < 5 { "9" } else { "2" })
        }
    };
    // Redis orders what has one score by its id: here against the order of the messages.
    let made = |header| {
        let mut samples: Vec<Sample> = (0..300).map(ordered(header)).collect();
        let mut ids: Vec<MessageId> = samples.iter().map(|sample| sample.id).collect();
        ids.sort_unstable_by(|one, other| other.cmp(one));
        samples.iter_mut().zip(ids).for_each(|(sample, id)| sample.id = id);
        samples
    };
    let (prioritised, delayed) = (made("bullmq-priority"), made("bullmq-delay"));
    for samples in [&prioritised, &delayed] {
        let outcomes = publish(&mut *sink, samples).await.unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Accepted));
    }
    for (set, samples) in [("prioritized", prioritised), ("delayed", delayed)] {
        let ids: Vec<String> = client.zrange(format!("{queue}:{set}"), 0, -1).await.unwrap();
        let mut expected = samples;
        expected.rotate_left(5);
        let expected: Vec<String> = expected.iter().map(|it| it.id.to_string()).collect();
        assert_eq!(ids, expected, "{set}");
    }
    let marker: u64 = client.zscore(format!("{queue}:marker"), "1").await.unwrap();
    assert_eq!(marker, FIRST_MS + 2, "when the first is due");
}

#[tokio::test]
async fn job_that_is_there_already_is_told_and_accepted_and_left_alone() {
    let (mut sink, mut client, queue) = sink(toml::Table::new()).await;
    let samples = [Sample::new("t", "1"), Sample::new("t", "2")];
    publish(&mut *sink, &samples[..1]).await.unwrap();
    let () = client.hset(format!("{queue}:{}", samples[0].id), "data", "7").await.unwrap();
    assert_eq!(publish(&mut *sink, &samples).await.unwrap(), [const { Outcome::Accepted }; 2]);
    let [first, second] = samples.map(|sample| sample.id.to_string());
    assert_eq!(waiting(&mut client, &queue).await, [&*first, &second]);
    assert_eq!(job(&mut client, &queue, &first).await["data"], "7");
    let expected = [
        format!("added {first}"),
        format!("waiting {first}"),
        format!("duplicated {first}"),
        format!("added {second}"),
        format!("waiting {second}"),
    ];
    assert_eq!(told(&mut client, &queue).await, expected);
}

#[tokio::test]
async fn r11_bullmq_payload_that_is_not_json_is_rejected_and_an_empty_one_is_no_data() {
    let (mut sink, mut client, queue) = sink(toml::Table::new()).await;
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let sound = ["", "null", "\t[1, \"\u{1f680}\"]\n", "1e999", &deep];
    let sound = sound.map(|payload| Sample::new("t", payload));
    assert_eq!(publish(&mut *sink, &sound).await.unwrap(), [const { Outcome::Accepted }; 5]);
    for sample in &sound {
        let expected = if sample.payload.is_empty() { b"{}".as_slice() } else { &sample.payload };
        assert_eq!(job(&mut client, &queue, sample.id).await["data"].as_bytes(), expected);
    }
    let broken: [&[u8]; 6] = [b"{", b"{} {}", b"\xef\xbb\xbf{}", b"\"\xff\"", b"undefined", b" "];
    let broken = broken.map(|payload| Sample::new("t", payload));
    for (sample, outcome) in broken.iter().zip(publish(&mut *sink, &broken).await.unwrap()) {
        let Outcome::Reject { reason } = outcome else { panic!("{sample:?}: {outcome:?}") };
        assert!(reason.contains("not JSON") && reason.contains("envelope"), "{reason}");
    }
    assert_eq!(waiting(&mut client, &queue).await.len(), sound.len());
}

#[tokio::test]
async fn bad_headers_and_names_reject_their_message_with_the_reason() {
    let (mut sink, mut client, queue) = sink(setting("name", "{key}")).await;
    let base = || Sample::new("t", "1").key("k");
    let cases = [
        (base().header("bullmq-attempts", "0"), "\"bullmq-attempts\" is \"0\", not a whole number"),
        (base().header("bullmq-attempts", "many"), "from 1 to 4294967295"),
        (base().header("bullmq-priority", "2097152"), "from 0 to 2097151"),
        (base().header("bullmq-priority", "-1"), "\"bullmq-priority\" is \"-1\""),
        (base().header("bullmq-delay", "1.5"), "\"bullmq-delay\" is \"1.5\""),
        (base().header("bullmq-delay", "431700210553"), "2039"),
        (base().header("bullmq-name", ""), "\"bullmq-name\" is empty"),
        (Sample::new("t", "1"), "it has no key"),
        (Sample::new("a:b", "1").key("k"), "\"a:b\""),
    ];
    for (sample, expected) in cases {
        // A key of their own each: what follows a rejection waits.
        let sample = sample.key.clone().map_or(sample.clone(), |_| {
            let key = sample.id.to_string();
            sample.clone().key(&key)
        });
        let outcomes = publish(&mut *sink, &[sample]).await.unwrap();
        let [Outcome::Reject { reason }] = &*outcomes else { panic!("{expected}: {outcomes:?}") };
        assert!(reason.contains(expected), "{reason}");
    }
    let latest = base().header("bullmq-delay", "431700210552");
    assert_eq!(publish(&mut *sink, &[latest]).await.unwrap(), [Outcome::Accepted]);
    assert_eq!(waiting(&mut client, &queue).await, Vec::<String>::new());
}

/// Makes a key of the queue refuse what is written there.
async fn spoil(client: &mut MultiplexedConnection, key: &str) {
    let (_, part) = key.rsplit_once(':').unwrap();
    match part {
        "pc" => {
            let () = client.set(key, i64::MAX).await.unwrap();
        }
        "events" => {
            let mut last = redis::cmd("XADD");
            last.arg(key).arg("18446744073709551615-18446744073709551615").arg("a").arg("b");
            last.exec_async(client).await.unwrap();
        }
        _ => {
            let () = client.set(key, "something else").await.unwrap();
        }
    }
}

#[tokio::test]
async fn job_that_its_queue_refused_is_added_whole_when_it_is_tried_again() {
    for (part, header) in [
        ("wait", None),
        ("marker", None),
        ("events", None),
        ("meta", None),
        ("pc", Some("bullmq-priority")),
        ("prioritized", Some("bullmq-priority")),
        ("delayed", Some("bullmq-delay")),
        ("marker", Some("bullmq-delay")),
    ] {
        let (mut sink, mut client, queue) = sink(toml::Table::new()).await;
        let sample = Sample::new("t", "1");
        let sample = header.map_or(sample.clone(), |header| sample.header(header, "1"));
        let (sample, other) = ([sample], [Sample::new("u", "1")]);
        let key = format!("{queue}:{part}");
        spoil(&mut client, &key).await;
        let outcomes = publish(&mut *sink, &[&sample[..], &other].concat()).await.unwrap();
        let [Outcome::Retry { scope: Scope::Destination, .. }, Outcome::Accepted] = &*outcomes
        else {
            panic!("{part}: {outcomes:?}");
        };
        let id = sample[0].id.to_string();
        assert!(job(&mut client, &queue, &id).await.is_empty(), "{part}");
        let () = client.del(&key).await.unwrap();
        assert_eq!(publish(&mut *sink, &sample).await.unwrap(), [Outcome::Accepted], "{part}");
        assert_eq!(job(&mut client, &queue, &id).await["data"], "1", "{part}");
        let ids: Vec<String> = match header {
            None => waiting(&mut client, &queue).await,
            Some("bullmq-delay") => client.zrange(format!("{queue}:delayed"), 0, -1).await.unwrap(),
            Some(_) => client.zrange(format!("{queue}:prioritized"), 0, -1).await.unwrap(),
        };
        assert_eq!(ids, [id], "{part}");
    }
}

#[tokio::test]
async fn paused_queue_keeps_jobs_where_its_version_looks_and_wakes_nobody() {
    for (version, list) in
        [(Some("bullmq:5.81.5"), "paused"), (Some("bullmq:6.7.0"), "wait"), (None, "paused")]
    {
        let (mut sink, mut client, queue) = sink(toml::Table::new()).await;
        let meta = format!("{queue}:meta");
        let () = client.hset(&meta, "paused", 1).await.unwrap();
        let () = client.hset(&meta, "opts.maxLenEvents", 4).await.unwrap();
        if let Some(version) = version {
            let () = client.hset(&meta, "version", version).await.unwrap();
        }
        let sample = Sample::new("t", "1");
        publish(&mut *sink, slice::from_ref(&sample)).await.unwrap();
        let ids: Vec<String> = client.lrange(format!("{queue}:{list}"), 0, -1).await.unwrap();
        assert_eq!(ids, [sample.id.to_string()], "{version:?}");
        let is_marked: bool = client.exists(format!("{queue}:marker")).await.unwrap();
        assert!(!is_marked, "{version:?}");
        let kept: String = client.hget(&meta, "opts.maxLenEvents").await.unwrap();
        assert_eq!(kept, "4", "what its owner has set");
    }
}

#[tokio::test]
async fn queue_at_its_limit_of_active_jobs_wakes_nobody() {
    for (active, wakes) in [(1, true), (2, false)] {
        let (mut sink, mut client, queue) = sink(toml::Table::new()).await;
        let () = client.hset(format!("{queue}:meta"), "concurrency", 2).await.unwrap();
        let () = client.lpush(format!("{queue}:active"), vec!["x"; active]).await.unwrap();
        let sample = Sample::new("t", "1");
        publish(&mut *sink, slice::from_ref(&sample)).await.unwrap();
        assert_eq!(waiting(&mut client, &queue).await, [sample.id.to_string()]);
        let is_marked: bool = client.exists(format!("{queue}:marker")).await.unwrap();
        assert_eq!(is_marked, wakes, "{active} active");
    }
}

#[tokio::test]
async fn length_of_the_events_is_what_the_queue_has_set() {
    let (mut sink, mut client, queue) = sink(toml::Table::new()).await;
    let () = client.hset(format!("{queue}:meta"), "opts.maxLenEvents", 50).await.unwrap();
    let samples: Vec<Sample> = (0..1_000).map(|n| Sample::new("t", n.to_string())).collect();
    publish(&mut *sink, &samples).await.unwrap();
    let length: usize = events(&mut client, &queue).await.len();
    // Redis trims whole nodes of about 100 entries.
    assert!((50..300).contains(&length), "{length}");
}

#[tokio::test]
async fn r11_bullmq_queue_of_an_unknown_version_is_refused_before_anything_is_written() {
    for version in ["bullmq:99.0.0", "bullmq:4.17.0", "bullmq:5.9.0", "bullmq-pro:7.2.0", "6.7.0"] {
        for delivery in ["exactly-once", "at-least-once"] {
            let redis = Redis::start();
            let mut client = client(&redis).await;
            let () = client.hset("bull:u:meta", "version", version).await.unwrap();
            let mut sink = connected(KIND, &redis, setting("delivery", delivery)).await;
            let before: Vec<String> = client.keys("*").await.unwrap();
            let samples = ["t", "u"].map(|topic| Sample::new(topic, "1"));
            let error = publish(&mut *sink, &samples).await.unwrap_err();
            assert_eq!(error.kind(), SinkErrorKind::Misconfigured);
            let said = error.to_string();
            for part in
                ["\"bull:u\"", &format!("{version:?}"), "bullmq 5 from 5.10 on and bullmq 6"]
            {
                assert!(said.contains(part), "{said}");
            }
            let after: Vec<String> = client.keys("*").await.unwrap();
            assert_eq!(after.len(), before.len(), "{after:?}");
            let place: BTreeMap<String, String> =
                client.hgetall("bull::posthaste:place:s").await.unwrap();
            assert_eq!(place.get("calls").map_or("0", |calls| calls), "0");
            let () = client.hset("bull:u:meta", "version", "bullmq:6.0.0").await.unwrap();
            assert_eq!(
                publish(&mut *sink, &samples).await.unwrap(),
                [const { Outcome::Accepted }; 2]
            );
        }
    }
}

#[tokio::test]
async fn place_stands_beside_the_queues_whatever_they_are_called() {
    for (prefix, queue, name) in
        [("bull", "{topic}", "bull"), ("a:{b}", "jobs-{topic}", "a:{b}"), ("bull", "jobs", "bull")]
    {
        let redis = Redis::start();
        let mut settings = setting("prefix", prefix);
        settings.insert("queue".to_owned(), queue.into());
        let _sink = connected(KIND, &redis, settings).await;
        let keys: Vec<String> = client(&redis).await.keys("*").await.unwrap();
        assert_eq!(keys, [format!("{name}::posthaste:place:s")]);
    }
}

#[tokio::test]
async fn prefix_without_a_hash_tag_is_refused_in_a_cluster_with_the_remedy() {
    let cluster = RedisCluster::start();
    // A tag in the name of the queue alone leaves the place elsewhere.
    for (queue, delivery) in
        [("{topic}", "exactly-once"), ("{{q}}-{topic}", "exactly-once"), ("q", "at-least-once")]
    {
        let mut settings = setting("queue", queue);
        settings.insert("delivery".to_owned(), delivery.into());
        let target = target(KIND, &cluster.nodes[0].url(), settings);
        let refused = target.connect(&Context::default(), &lane("s")).await.err().unwrap();
        for error in [refused, target.preflight().await.unwrap_err()] {
            assert_eq!(error.kind(), SinkErrorKind::Misconfigured, "{error:?}");
            let said = error.to_string();
            assert!(said.contains("prefix = \"{bull}\" instead of \"bull\""), "{said}");
        }
    }
}

/// A batch that is stuck in the network reaches Redis when a later connection has published it, and
/// workers have run and removed its jobs: no id is there any more that would tell. Answers how many
/// jobs are there then.
async fn jobs_after_a_late_batch(delivery: &str) -> usize {
    let redis = Redis::start();
    let mut client = client(&redis).await;
    let proxy = Proxy::start(redis.port()).await.unwrap();
    let target = target(KIND, &proxy.url(&redis.url()), setting("delivery", delivery));
    let mut sink = target.connect(&Context::default(), &lane("s")).await.unwrap();
    let samples: Vec<Sample> = (0..3).map(|n| Sample::new("t", n.to_string())).collect();
    let own: u64 = redis::cmd("CLIENT").arg("ID").query_async(&mut client).await.unwrap();
    let connections = async |client: &mut MultiplexedConnection| {
        let list: String = redis::cmd("CLIENT").arg("LIST").query_async(client).await.unwrap();
        let id = |line: &str| line.strip_prefix("id=")?.split(' ').next()?.parse::<u64>().ok();
        list.lines().filter_map(id).filter(|id| *id != own).collect::<Vec<_>>()
    };
    let stuck = connections(&mut client).await;
    proxy.set(NetFault::HoldBack);
    let published = timeout(Duration::from_millis(200), publish(&mut *sink, &samples)).await;
    assert!(published.is_err() && !stuck.is_empty(), "{published:?}");
    drop(sink);
    let direct = super::redis_server::target(KIND, &redis.url(), setting("delivery", delivery));
    let mut sink = direct.connect(&Context::default(), &lane("s")).await.unwrap();
    let outcomes = publish(&mut *sink, &samples).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Accepted));
    let mut keys: Vec<String> = client.keys("bull:t:*").await.unwrap();
    keys.retain(|key| *key != "bull:t:meta");
    let () = client.del(keys).await.unwrap();
    // Bytes are held until somebody else connects.
    drop(tokio::net::TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap());
    let is_over = async || {
        let now = connections(&mut client.clone()).await;
        stuck.iter().all(|id| !now.contains(id))
    };
    eventually_async("the stuck batch", CALL_LIMIT, is_over).await;
    waiting(&mut client, "bull:t").await.len()
}

#[tokio::test]
async fn r11_bullmq_late_batch_adds_no_job_that_was_run_and_removed() {
    assert_eq!(jobs_after_a_late_batch("exactly-once").await, 0);
    assert_eq!(jobs_after_a_late_batch("at-least-once").await, 3, "what the place prevents");
}

#[tokio::test]
async fn permissions_of_the_manual_suffice_and_a_missing_one_adds_nothing() {
    let user = |rules: &str| {
        let (name, password) = ("relay".to_owned(), "secret".to_owned());
        let auth = RedisAuth::User { name, password, rules: rules.to_owned() };
        Redis::start_with(RedisOptions { auth, ..RedisOptions::default() })
    };
    let may = "~bull:* +ping +script|load +evalsha +hmget +hset +exists +llen +lpush +incr +zadd \
               +zrange +zrevrangebyscore +xadd";
    let reads = " +lrange +hgetall +zcard +keys";
    let samples = [
        Sample::new("t", "1"),
        Sample::new("t", "2").header("bullmq-priority", "1"),
        Sample::new("t", "3").header("bullmq-delay", "1"),
    ];
    for (delivery, told_at_connect) in [("exactly-once", 6), ("at-least-once", 4)] {
        let redis = user(&format!("{may}{reads}"));
        let mut sink = connected(KIND, &redis, setting("delivery", delivery)).await;
        assert_eq!(publish(&mut *sink, &samples).await.unwrap(), [const { Outcome::Accepted }; 3]);
        let needed = may.split_whitespace().skip(told_at_connect);
        for missing in needed.filter(|permission| *permission != "+llen") {
            let redis = user(&format!("{}{reads}", may.replace(missing, "")));
            let mut sink = connected(KIND, &redis, setting("delivery", delivery)).await;
            let outcomes = publish(&mut *sink, &samples).await.unwrap();
            let at = outcomes.iter().position(|outcome| *outcome != Outcome::Accepted).unwrap();
            let Outcome::Retry { scope: Scope::Sink, reason } = &outcomes[at] else {
                panic!("{missing}: {outcomes:?}");
            };
            assert!(reason.contains("can't run this command"), "{missing}: {reason}");
            let mut reader = client(&redis).await;
            let mut ids = waiting(&mut reader, "bull:t").await.len();
            for set in ["prioritized", "delayed"] {
                ids += reader.zcard::<_, usize>(format!("bull:t:{set}")).await.unwrap();
            }
            assert_eq!(ids, at, "{missing}");
            for sample in &samples[at..] {
                assert!(job(&mut reader, "bull:t", sample.id).await.is_empty(), "{missing}");
            }
        }
    }
}

#[test]
fn faulty_settings_name_the_key() {
    assert_refused(
        KIND,
        &[
            ("prefix", setting("prefix", "")),
            ("queue", setting("queue", "a{")),
            ("queue", setting("queue", "a:{topic}")),
            ("name", setting("name", "{what}")),
            ("attempts", setting("attempts", 0)),
            ("priority", setting("priority", 2_097_152)),
            ("kind", settings("backoff = { kind = 'random', delay = '1s' }")),
            ("delay", settings("backoff = { kind = 'fixed' }")),
            ("backoff.delay", settings("backoff = { kind = 'fixed', delay = '0s' }")),
            ("backoff.jitter", settings("backoff = { kind = 'fixed', delay = '1s', jitter = 2 }")),
            ("remove_on_complete", setting("remove_on_complete", "soon")),
            ("remove_on_complete", setting("remove_on_complete", -1)),
            ("age", settings("remove_on_fail = {}")),
            ("age", settings("remove_on_fail = { age = '1ms' }")),
            ("days", settings("remove_on_fail = { days = 1 }")),
            ("format", setting("format", "raw")),
            ("cloudevents_source", setting("cloudevents_source", "")),
            ("qeue", setting("qeue", "jobs")),
        ],
    );
    assert!(parse(KIND, toml::Table::new()).unwrap_err().message.contains("url"));
}

#[test]
fn colon_in_the_name_of_a_header_is_none_in_the_name_of_the_queue() {
    let target = target(KIND, "redis://h", setting("queue", "{header:tenant}-{topic}"));
    assert_eq!(target.destination().unwrap().prefix(), "bull:");
}

#[test]
fn schema_lists_every_setting_with_its_description() {
    assert_settings(
        KIND,
        &[
            "attempts",
            "backoff",
            "cloudevents_source",
            "delivery",
            "format",
            "name",
            "prefix",
            "priority",
            "queue",
            "remove_on_complete",
            "remove_on_fail",
        ],
    );
}

#[test]
fn target_is_described_without_login() {
    let described = target(KIND, "redis://relay:secret@h:6380/3", toml::Table::new()).describe();
    assert_eq!(described, "redis://h:6380/3 queue bull:{topic}");
}
