//! Redis behind sentinels and in a cluster: the server that takes the writes is found, left when it is
//! demoted, and found again.

use posthaste_relay::sink::{Context, Outcome, Sink, SinkErrorKind, Target};
use posthaste_testkit::{Redis, RedisCluster, RedisSentinels, eventually_async};

use super::{
    contract::CALL_LIMIT,
    messages::{Sample, lane, publish},
    redis_server::{assert_refused, client, setting, target},
    redis_stream::entries,
};

const KIND: &str = "redis-stream";

fn one() -> [Sample; 1] {
    [Sample::new("t", b"p".as_slice())]
}

async fn connect(target: &dyn Target) -> Box<dyn Sink> {
    target.connect(&Context::default(), &lane("s")).await.unwrap()
}

/// Connects until it works, as the pipeline does, and publishes one message.
async fn publishes_again(target: &dyn Target) {
    let works = async || {
        let Ok(mut sink) = target.connect(&Context::default(), &lane("s")).await else {
            return false;
        };
        publish(&mut *sink, &one()).await.is_ok_and(|done| done == [Outcome::Accepted])
    };
    eventually_async("a connection that takes messages", 4 * CALL_LIMIT, works).await;
}

#[tokio::test]
async fn name_without_a_hash_tag_is_refused_in_a_cluster_with_the_remedy() {
    let cluster = RedisCluster::start();
    let url = cluster.nodes[0].url();
    for (kind, key, extra) in [
        ("redis-stream", "stream", None),
        ("redis-stream", "stream", Some("at-least-once")),
        ("redis-list", "list", None),
    ] {
        let mut settings = setting(key, "shop:{topic}");
        settings.extend(extra.map(|delivery| ("delivery".to_owned(), delivery.into())));
        let target = target(kind, &url, settings);
        let refused = target.connect(&Context::default(), &lane("s")).await.err().unwrap();
        for error in [refused, target.preflight().await.unwrap_err()] {
            assert_eq!(error.kind(), SinkErrorKind::Misconfigured, "{error:?}");
            let said = error.to_string();
            assert!(said.contains(&format!("{key} = \"{{{{posthaste}}}}:{{topic}}\"")), "{said}");
            assert!(said.contains("shop:{topic}"), "{said}");
        }
    }
    // A channel is no name in a slot.
    let pubsub = target("redis-pubsub", &url, setting("channel", "shop:{topic}"));
    let mut sink = connect(&*pubsub).await;
    assert_eq!(publish(&mut *sink, &one()).await.unwrap(), [Outcome::Accepted]);
    for node in &cluster.nodes {
        let size: u64 = redis::cmd("DBSIZE").query_async(&mut client(node).await).await.unwrap();
        assert!(size <= 1, "nothing but the place of the channel's subscription");
    }
}

#[tokio::test]
async fn slot_that_moves_to_another_node_is_followed() {
    let cluster = RedisCluster::start();
    let (name, from) = ("{tag}:t", cluster.node_of("{tag}:t"));
    let to = (from + 1) % cluster.nodes.len();
    let target = target(KIND, &cluster.nodes[from].url(), setting("stream", "{{tag}}:{topic}"));
    let mut sink = connect(&*target).await;
    assert_eq!(publish(&mut *sink, &one()).await.unwrap(), [Outcome::Accepted]);
    cluster.move_slot_of(name, to);
    let error = publish(&mut *sink, &one()).await.unwrap_err();
    assert_eq!(error.kind(), SinkErrorKind::Unavailable, "{error:?}");
    let mut sink = connect(&*target).await;
    assert_eq!(sink.calls(), Some(1), "its place has moved with it");
    assert_eq!(publish(&mut *sink, &one()).await.unwrap(), [Outcome::Accepted]);
    assert_eq!(entries(&mut client(&cluster.nodes[to]).await, name).await.len(), 2);
}

/// The settings of a sink behind sentinels, the first of which is not there.
fn watched(sentinels: &RedisSentinels) -> toml::Table {
    let addresses = ["127.0.0.1:1".to_owned()].into_iter().chain(sentinels.addresses());
    setting("sentinels", addresses.map(toml::Value::from).collect::<Vec<_>>())
}

#[tokio::test]
async fn primary_is_found_through_sentinels_and_a_demoted_one_is_left() {
    let sentinels = RedisSentinels::start();
    let target = target(KIND, "redis://mymaster/0", watched(&sentinels));
    assert!(target.describe().contains("mymaster (sentinels 127.0.0.1:1, "), "{target:?}");
    let mut sink = connect(&*target).await;
    assert_eq!(publish(&mut *sink, &one()).await.unwrap(), [Outcome::Accepted]);
    let warned = target.preflight().await.unwrap();
    assert!(warned.iter().any(|text| text.contains("min-replicas-to-write")), "{warned:?}");

    sentinels.fail_over();
    let demoted = async || !sentinels.is_primary(0);
    eventually_async("a demoted primary", 4 * CALL_LIMIT, demoted).await;
    let error = publish(&mut *sink, &one()).await.unwrap_err();
    let expected = [SinkErrorKind::Resources, SinkErrorKind::Unavailable];
    assert!(expected.contains(&error.kind()), "{error:?}");
    publishes_again(&*target).await;
    assert_eq!(entries(&mut client(&sentinels.nodes[1]).await, "posthaste:t").await.len(), 2);
}

#[tokio::test]
async fn sentinels_that_do_not_know_the_name_are_told_apart_from_those_that_are_away() {
    let redis = Redis::start();
    // A server that is no sentinel.
    let address = format!("127.0.0.1:{}", redis.port());
    let away = setting("sentinels", vec![toml::Value::from("127.0.0.1:1")]);
    let target_of = |settings| target(KIND, "redis://mymaster/0", settings);
    let error = target_of(away).preflight().await.unwrap_err();
    assert_eq!(error.kind(), SinkErrorKind::Unavailable, "{error:?}");
    let error = target_of(setting("sentinels", vec![toml::Value::from(address)])).preflight().await;
    assert_eq!(error.unwrap_err().kind(), SinkErrorKind::Misconfigured);
    let sentinels = RedisSentinels::start();
    let known = setting("sentinels", vec![toml::Value::from(sentinels.addresses()[0].clone())]);
    let error = target(KIND, "redis://other/0", known).preflight().await.unwrap_err();
    assert_eq!(error.kind(), SinkErrorKind::Misconfigured, "{error:?}");
    assert!(error.to_string().contains("\"other\""), "{error}");
}

#[tokio::test]
async fn sentinel_that_has_not_heard_of_a_change_is_not_believed() {
    let sentinels = RedisSentinels::start();
    let target = target(KIND, "redis://mymaster/0", watched(&sentinels));
    drop(connect(&*target).await);
    let elsewhere = redis::cmd("REPLICAOF").arg("127.0.0.1").arg(1).to_owned();
    elsewhere.exec_async(&mut client(&sentinels.nodes[0]).await).await.unwrap();
    let error = target.connect(&Context::default(), &lane("s")).await.err().unwrap();
    assert_eq!(error.kind(), SinkErrorKind::Unavailable, "{error:?}");
    assert!(error.to_string().contains("a slave for itself"), "{error}");
}

#[test]
fn faulty_settings_of_sentinels_name_the_key() {
    let sentinels = || setting("sentinels", vec![toml::Value::from("a:1")]);
    let with = |key: &str, value: &str| {
        let mut settings = sentinels();
        settings.insert(key.to_owned(), value.into());
        settings
    };
    let twice = {
        let mut settings = with("sentinel_password", "x");
        settings.insert("sentinel_password_file".to_owned(), "y".into());
        settings
    };
    assert_refused(
        KIND,
        &[
            ("sentinels", setting("sentinels", vec![toml::Value::from("a:b:c")])),
            ("sentinels", setting("sentinels", vec![toml::Value::from("user@a")])),
            ("sentinel_username", setting("sentinel_username", "x")),
            ("sentinel_password_file", setting("sentinel_password_file", "x")),
            ("sentinel_password", twice),
        ],
    );
    let mut ported = sentinels();
    ported.insert("url".to_owned(), "redis://mymaster:6379".into());
    let error = super::redis_server::parse(KIND, ported).err().unwrap();
    assert_eq!(error.key, "url", "{error}");
}

#[tokio::test]
async fn group_that_maxlen_would_starve_is_named() {
    let redis = Redis::start();
    let mut client = client(&redis).await;
    for command in [
        "XGROUP CREATE posthaste:a slow 0 MKSTREAM",
        "XGROUP CREATE posthaste:b fast $ MKSTREAM",
        "XADD posthaste:a * f 1",
        "XADD posthaste:a * f 2",
        "XADD posthaste:a * f 3",
        "XREADGROUP GROUP slow c COUNT 1 STREAMS posthaste:a >",
    ] {
        let parts: Vec<&str> = command.split(' ').collect();
        redis::Cmd::new().arg(&parts).exec_async(&mut client).await.unwrap();
    }
    let warned = async |maxlen: i64| {
        let target = target(KIND, &redis.url(), setting("maxlen", maxlen));
        let found = target.preflight().await.unwrap();
        found.into_iter().filter(|text| text.contains("maxlen")).collect::<Vec<_>>()
    };
    assert!(warned(4).await.is_empty());
    let found = warned(3).await;
    assert!(found.len() == 1 && found[0].contains("\"slow\""), "{found:?}");
    assert!(found[0].contains("3 entries behind (1 of them delivered"), "{found:?}");
}
