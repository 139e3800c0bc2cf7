//! What the tests of all sinks on Redis share: servers, connections of their own, settings.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use posthaste_relay::{
    sink::{Context, InvalidTarget, Sink, Target},
    sinks,
};
use posthaste_testkit::{Redis, RedisCluster};
use redis::aio::MultiplexedConnection;

/// A cluster is three servers: one serves all tests that break nothing.
static CLUSTER: LazyLock<Arc<RedisCluster>> = LazyLock::new(|| Arc::new(RedisCluster::start()));

/// A server that is shared, or started for one test alone.
pub(crate) enum Server {
    Shared(&'static Redis),
    Alone(Box<Redis>),
    /// A cluster, and the number of the node that holds the test's names.
    Cluster(Arc<RedisCluster>, usize),
}

impl Server {
    /// A server, and a prefix for the names of one test; in a cluster one with a hash tag.
    pub(crate) fn prefixed(is_alone: bool, is_cluster: bool) -> (Self, String) {
        if !is_cluster {
            return (Self::start(is_alone), Redis::shared().prefix());
        }
        let cluster = if is_alone { Arc::new(RedisCluster::start()) } else { Arc::clone(&CLUSTER) };
        let prefix = format!("{{{}}}:", uuid::Uuid::new_v4());
        let node = cluster.node_of(&prefix);
        (Self::Cluster(cluster, node), prefix)
    }

    /// Where a sink connects: in a cluster to a node that it has to be sent on from.
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Cluster(cluster, node) => cluster.nodes[(node + 1) % cluster.nodes.len()].url(),
            _ => self.redis().url(),
        }
    }

    /// Starts a killed server again.
    pub(crate) fn restart(&self) {
        self.redis().restart();
        if let Self::Cluster(cluster, _) = self {
            cluster.serves();
        }
    }

    pub(crate) fn start(is_alone: bool) -> Self {
        if is_alone { Self::Alone(Box::new(Redis::start())) } else { Self::Shared(Redis::shared()) }
    }

    pub(crate) fn redis(&self) -> &Redis {
        match self {
            Self::Shared(redis) => redis,
            Self::Alone(redis) => redis,
            Self::Cluster(cluster, node) => &cluster.nodes[*node],
        }
    }
}

pub(crate) fn parse(kind: &str, settings: toml::Table) -> Result<Box<dyn Target>, InvalidTarget> {
    (sinks::find(kind).unwrap().parse)(settings)
}

/// The sink for these settings and this `url`.
pub(crate) fn target(kind: &str, url: &str, settings: toml::Table) -> Box<dyn Target> {
    let mut table = settings;
    table.insert("url".to_owned(), url.into());
    parse(kind, table).unwrap()
}

/// The sink for these settings on this server, connected.
pub(crate) async fn connected(kind: &str, redis: &Redis, settings: toml::Table) -> Box<dyn Sink> {
    target(kind, &redis.url(), settings)
        .connect(&Context::default(), &super::messages::lane("s"))
        .await
        .unwrap()
}

/// A template that makes names with this prefix.
pub(crate) fn template(prefix: &str) -> String {
    prefix.replace('{', "{{").replace('}', "}}") + "{topic}"
}

/// One setting.
pub(crate) fn setting(key: &str, value: impl Into<toml::Value>) -> toml::Table {
    toml::Table::from_iter([(key.to_owned(), value.into())])
}

/// A connection of the test's own.
pub(crate) async fn client(redis: &Redis) -> MultiplexedConnection {
    let client = redis::Client::open(redis.url()).unwrap();
    // The library's 500 ms are too short for a machine that runs all tests at once.
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(Duration::from_secs(30)))
        .set_response_timeout(Some(Duration::from_secs(30)));
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// Each case is a key that must be refused and the settings beside `url` at fault.
pub(crate) fn assert_refused(kind: &str, cases: &[(&str, toml::Table)]) {
    for (key, settings) in cases {
        let mut table = settings.clone();
        table.insert("url".to_owned(), "redis://127.0.0.1".into());
        let Err(error) = parse(kind, table) else { panic!("{key} must be refused") };
        assert!(error.message.contains(key), "{key}: {error}");
        assert!(error.key.is_empty() || error.key == *key, "{key}: {}", error.key);
    }
}

/// The settings of a kind are the connection's and `own`, each with a description.
pub(crate) fn assert_settings(kind: &str, own: &[&str]) {
    let schema = (sinks::find(kind).unwrap().schema)();
    let properties = schema.get("properties").and_then(|value| value.as_object()).unwrap();
    let mut expected = vec![
        "ca_file",
        "connect_timeout",
        "operation_timeout",
        "password",
        "password_file",
        "sentinel_password",
        "sentinel_password_file",
        "sentinel_username",
        "sentinels",
        "url",
        "username",
    ];
    expected.extend(own);
    expected.sort_unstable();
    let mut names: Vec<&str> = properties.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, expected);
    assert!(properties.values().all(|property| property.get("description").is_some()));
}
