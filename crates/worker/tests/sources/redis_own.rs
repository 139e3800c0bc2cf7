//! What only sources on Redis do, and their settings.

use std::time::Duration;

use posthaste_testkit::{Redis, RedisAuth, RedisOptions};
use posthaste_worker::{
    source::{Fate, Source},
    sources,
};
use tokio::time::timeout;

use super::{CLUSTER, Kind, Queue, WAIT, collect, numbers, read};
use crate::support::LIMIT;

async fn run(queue: &Queue, command: &[&str]) -> redis::Value {
    let mut built = redis::Cmd::new();
    built.arg(command);
    built.query_async(&mut queue.client().await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_elements_of_a_list_are_as_many_messages() {
    let queue = Queue::shared(Kind::List).await;
    let source = queue.source();
    queue.write([1]).await;
    let taken = collect(&*source, 1).await;
    let element = std::str::from_utf8(&taken[0].0.0).unwrap();
    run(&queue, &["LPUSH", &queue.name, element]).await;
    let twice = collect(&*source, 1).await;
    assert_eq!(twice[0].0, taken[0].0);
    source.settle(&[(twice[0].0.clone(), Fate::Done)]).await.unwrap();
    queue.pass_lease().await;
    let other = queue.source();
    assert_eq!(numbers(&collect(&*other, 1).await), [1], "the other one is still held");
    other.settle(&[(twice[0].0.clone(), Fate::Done)]).await.unwrap();
    assert!(queue.is_settled().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_in_hand_are_not_claimed_from_oneself_after_a_silence() {
    let queue = Queue::shared(Kind::Stream).await;
    let source = queue.source();
    queue.write(0..4).await;
    let taken = collect(&*source, 4).await;
    queue.pass_lease().await;
    source.settle(&[(taken[3].0.clone(), Fate::GiveBack)]).await.unwrap();
    queue.write([4]).await;
    assert_eq!(numbers(&collect(&*source, 2).await), [3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handled_entries_are_deleted_where_that_is_asked_for() {
    let queue = Queue::shared(Kind::Stream).await;
    for (is_deleted, left) in [("false", 4), ("true", 4)] {
        let mut settings = queue.settings(&queue.url());
        settings.insert("delete".to_owned(), (is_deleted == "true").into());
        let source = queue.parse(settings).unwrap();
        queue.write(0..4).await;
        let taken = collect(&*source, 4).await;
        let mut fates: Vec<_> =
            taken.iter().map(|(token, _)| (token.clone(), Fate::Done)).collect();
        fates[1].1 = Fate::Bury { reason: "no".to_owned() };
        source.settle(&fates).await.unwrap();
        assert_eq!(run(&queue, &["XLEN", &queue.name]).await, redis::Value::Int(left));
    }
    assert_eq!(queue.dead().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_that_was_removed_with_its_group_is_read_again() {
    let queue = Queue::shared(Kind::Stream).await;
    let source = queue.source();
    queue.write([0]).await;
    let taken = collect(&*source, 1).await;
    source.settle(&[(taken[0].0.clone(), Fate::Done)]).await.unwrap();
    run(&queue, &["DEL", &queue.name]).await;
    queue.write([1]).await;
    assert_eq!(numbers(&collect(&*source, 1).await), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_that_were_trimmed_away_while_they_were_held_are_passed_over() {
    let queue = Queue::shared(Kind::Stream).await;
    let dead = queue.source();
    queue.write(0..3).await;
    collect(&*dead, 3).await;
    run(&queue, &["XTRIM", &queue.name, "MAXLEN", "1"]).await;
    queue.pass_lease().await;
    let source = queue.source();
    let taken = collect(&*source, 1).await;
    assert_eq!(numbers(&taken), [2]);
    source.settle(&[(taken[0].0.clone(), Fate::Done)]).await.unwrap();
    assert!(queue.is_settled().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_streams_of_one_source_never_give_more_than_asked_for() {
    let queue = Queue::shared(Kind::Stream).await;
    let second = Queue::shared(Kind::Stream).await;
    let mut settings = queue.settings(&queue.url());
    let names = vec![queue.name.clone(), second.name.clone()];
    settings.insert("streams".to_owned(), names.into());
    let source = queue.parse(settings).unwrap();
    queue.write(0..10).await;
    second.write(10..20).await;
    let mut all = Vec::new();
    while all.len() < 20 {
        let taken = timeout(LIMIT, source.take(1, WAIT)).await.unwrap().unwrap();
        assert!(taken.len() <= 1, "{}", taken.len());
        let taken = read(taken);
        let fates: Vec<_> = taken.iter().map(|(token, _)| (token.clone(), Fate::Done)).collect();
        source.settle(&fates).await.unwrap();
        all.extend(numbers(&taken));
    }
    let of = |numbers: std::ops::Range<i64>| {
        all.iter().copied().filter(|number| numbers.contains(number)).collect::<Vec<_>>()
    };
    assert_eq!(of(0..10), (0..10).collect::<Vec<_>>());
    assert_eq!(of(10..20), (10..20).collect::<Vec<_>>());
    assert!(queue.is_settled().await && second.is_settled().await);
}

fn parse(kind: &str, settings: toml::Table) -> Box<dyn Source> {
    (sources::find(kind).unwrap().parse)(settings).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_without_a_hash_tag_are_refused_in_a_cluster() {
    let url = CLUSTER.nodes[0].url();
    let list = toml::toml! { list = "jobs" };
    let streams = toml::toml! { streams = ["{a}:jobs", "{b}:jobs"] };
    let queue = toml::toml! { queue = "jobs" };
    let all = [("redis-list", list), ("redis-stream", streams), ("bullmq", queue)];
    for (kind, mut settings) in all {
        settings.insert("url".to_owned(), url.clone().into());
        let source = parse(kind, settings);
        let said = source.take(1, Duration::from_millis(10)).await.unwrap_err().to_string();
        assert!(
            said.contains("begin the names of lists or streams")
                && said.contains("{posthaste}:jobs"),
            "{said}"
        );
    }
}

#[test]
fn settings_out_of_bounds_are_refused() {
    let cases = [
        ("redis-list", "list", toml::toml! { list = "" }),
        (
            "redis-list",
            "side",
            toml::toml! { list = "a"
            side = "top" },
        ),
        (
            "redis-list",
            "lease",
            toml::toml! { list = "a"
            lease = "10ms" },
        ),
        ("redis-list", "lists", toml::toml! { lists = ["a"] }),
        ("redis-stream", "streams", toml::toml! { streams = [] }),
        ("redis-stream", "streams", toml::toml! { streams = ["a", "a"] }),
        (
            "redis-stream",
            "group",
            toml::toml! { streams = ["a"]
            group = "" },
        ),
        (
            "redis-stream",
            "lease",
            toml::toml! { streams = ["a"]
            lease = "2h" },
        ),
        ("bullmq", "queue", toml::toml! { queue = "a:b" }),
        (
            "bullmq",
            "prefix",
            toml::toml! { queue = "a"
            prefix = "" },
        ),
        (
            "bullmq",
            "topic",
            toml::toml! { queue = "a"
            topic = "id" },
        ),
        (
            "bullmq",
            "lease",
            toml::toml! { queue = "a"
            lease = "10ms" },
        ),
        (
            "redis-stream",
            "connect_timeout",
            toml::toml! { streams = ["a"]
            connect_timeout = "1h" },
        ),
    ];
    for (kind, key, mut settings) in cases {
        settings.insert("url".to_owned(), "redis://127.0.0.1".into());
        let Err(error) = (sources::find(kind).unwrap().parse)(settings) else {
            panic!("{key} must be refused")
        };
        assert!(error.message.contains(key), "{key}: {error}");
    }
}

#[test]
fn every_setting_is_described() {
    for kind in sources::KINDS {
        let schema = (kind.schema)();
        let properties = schema.get("properties").and_then(|value| value.as_object()).unwrap();
        let own = match kind.name {
            "redis-list" => "side",
            "bullmq" => "queue",
            _ => "group",
        };
        for name in ["url", "password_file", "lease", own] {
            assert!(properties.contains_key(name), "{}: {name}", kind.name);
        }
        assert!(properties.values().all(|property| property.get("description").is_some()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_stay_out_of_names_and_errors() {
    let auth = RedisAuth::Password("right".to_owned());
    let redis = Redis::start_with(RedisOptions { auth, ..RedisOptions::default() });
    let refusing = format!("redis://:s3cr3t@127.0.0.1:{}/", redis.port());
    for (kind, mut settings) in [
        ("redis-list", toml::toml! { list = "jobs" }),
        ("redis-stream", toml::toml! { streams = ["jobs"] }),
        ("bullmq", toml::toml! { queue = "jobs" }),
    ] {
        for url in [&*refusing, "redis://:s3cr3t@127.0.0.1:1/"] {
            settings.insert("url".to_owned(), url.into());
            let source = parse(kind, settings.clone());
            let error = source.take(1, Duration::from_millis(10)).await.unwrap_err();
            let said = format!("{} {error} {error:?}", source.describe());
            assert!(!said.contains("s3cr3t"), "{said}");
            assert!(said.contains("127.0.0.1"), "{said}");
        }
    }
}
