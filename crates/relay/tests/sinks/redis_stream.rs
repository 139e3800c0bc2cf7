//! `redis-stream`: the contract in both formats, and what only Redis streams do.

use async_trait::async_trait;
use posthaste_relay::sink::{Context, Outcome, Scope, Sink, Target};
use posthaste_testkit::Redis;
use redis::aio::MultiplexedConnection;

use super::{
    contract::{Breaking, Harness, sink_contract},
    messages::{Arrived, Sample, lane, publish, read_event},
    redis_server::{Server, client, template},
};

type Entries = Vec<(String, Vec<(String, Vec<u8>)>)>;

struct Stream<const EVENTS: bool, const CLUSTER: bool = false> {
    server: Server,
    prefix: String,
}

/// The sink for these settings and this `url`.
pub(crate) fn target(url: &str, settings: toml::Table) -> Box<dyn Target> {
    super::redis_server::target("redis-stream", url, settings)
}

pub(crate) async fn entries(client: &mut MultiplexedConnection, stream: &str) -> Entries {
    redis::cmd("XRANGE").arg(stream).arg("-").arg("+").query_async(client).await.unwrap()
}

fn read_entry(fields: &[(String, Vec<u8>)]) -> Arrived {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let find = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, v)| v.clone());
    let headers = fields
        .iter()
        .filter_map(|(field, value)| Some((field.strip_prefix("h:")?.to_owned(), text(value))));
    Arrived {
        id: text(&find("id").unwrap()).parse().unwrap(),
        topic: text(&find("topic").unwrap()),
        key: find("key").map(|key| text(&key)),
        headers: headers.collect(),
        payload: fields.last().filter(|(field, _)| field == "payload").unwrap().1.clone(),
    }
}

#[async_trait]
impl<const EVENTS: bool, const CLUSTER: bool> Harness for Stream<EVENTS, CLUSTER> {
    async fn start(is_alone: bool) -> Self {
        let (server, prefix) = Server::prefixed(is_alone, CLUSTER);
        Self { server, prefix }
    }

    fn target(&self) -> Box<dyn Target> {
        let mut settings = toml::Table::new();
        settings.insert("stream".to_owned(), template(&self.prefix).into());
        settings.insert("format".to_owned(), if EVENTS { "cloudevents" } else { "raw" }.into());
        target(&self.server.url(), settings)
    }

    async fn arrived(&mut self, topic: &str) -> Vec<Arrived> {
        let mut client = client(self.server.redis()).await;
        let entries = entries(&mut client, &format!("{}{topic}", self.prefix)).await;
        let read = |fields: Vec<(String, Vec<u8>)>| match fields.as_slice() {
            [(name, event)] if EVENTS && name == "cloudevent" => read_event(event),
            _ => read_entry(&fields),
        };
        entries.into_iter().map(|(_, fields)| read(fields)).collect()
    }

    fn go_away(&mut self) {
        self.server.redis().kill();
    }

    fn come_back(&mut self) {
        self.server.restart();
    }
}

#[async_trait]
impl<const EVENTS: bool, const CLUSTER: bool> Breaking for Stream<EVENTS, CLUSTER> {
    async fn refuse(&mut self, topic: &str) {
        let stream = format!("{}{topic}", self.prefix);
        let mut client = client(self.server.redis()).await;
        redis::cmd("SET").arg(stream).arg("no stream").exec_async(&mut client).await.unwrap();
    }

    async fn relent(&mut self, topic: &str) {
        let stream = format!("{}{topic}", self.prefix);
        let mut client = client(self.server.redis()).await;
        redis::cmd("DEL").arg(stream).exec_async(&mut client).await.unwrap();
    }
}

sink_contract!(contract_of_raw_entries, super::Stream<false>, breaking);
sink_contract!(contract_of_event_entries, super::Stream<true>, breaking);
sink_contract!(contract_of_streams_in_a_cluster, super::Stream<false, true>, breaking);

/// A sink on the shared server, for streams below a prefix of its own.
async fn sink(prefix: &str, settings: toml::Table) -> (Box<dyn Sink>, MultiplexedConnection) {
    let redis = Redis::shared();
    let mut settings = settings;
    let name = settings.get("stream").and_then(toml::Value::as_str).unwrap_or("{topic}");
    settings.insert("stream".to_owned(), format!("{prefix}{name}").into());
    let sink =
        target(&redis.url(), settings).connect(&Context::default(), &lane("s")).await.unwrap();
    (sink, client(redis).await)
}

#[tokio::test]
async fn raw_entry_has_the_documented_fields_in_order() {
    let prefix = Redis::shared().prefix();
    let (mut sink, mut client) = sink(&prefix, toml::Table::new()).await;
    let bare = Sample::new("t", b"p".as_slice());
    let keyed = Sample::new("t", b"p".as_slice()).key("k");
    let full = Sample::new("t", b"p".as_slice()).key("k").header("b", "1").header("a", "2");
    let full = Sample { correlation_id: Some("c".to_owned()), ..full };
    let headed = Sample::new("t", b"p".as_slice()).header("b", "1");
    publish(&mut *sink, &[bare, keyed, full, headed]).await.unwrap();
    let entries = entries(&mut client, &format!("{prefix}t")).await;
    let names = |at: usize| {
        let names: Vec<&str> = entries[at].1.iter().map(|(name, _)| name.as_str()).collect();
        names.join(" ")
    };
    assert_eq!(names(0), "id topic content_type enqueued_at payload");
    assert_eq!(names(1), "id topic key content_type enqueued_at payload");
    assert_eq!(names(2), "id topic key content_type enqueued_at correlation_id h:b h:a payload");
    assert_eq!(names(3), "id topic content_type enqueued_at h:b payload");
    assert_eq!(entries[0].1[3].1, b"2026-01-02T03:04:05.000006Z");
}

#[tokio::test]
async fn message_without_the_key_of_its_name_is_rejected_alone() {
    let prefix = Redis::shared().prefix();
    let (mut sink, mut client) = sink(&prefix, toml::toml! { stream = "run:{key}" }).await;
    let samples = [
        Sample::new("t", b"1".as_slice()).key("7"),
        Sample::new("t", b"2".as_slice()),
        Sample::new("t", b"3".as_slice()).key("7"),
    ];
    let outcomes = publish(&mut *sink, &samples).await.unwrap();
    assert!(matches!(&outcomes[1], Outcome::Reject { reason } if reason.contains("no key")));
    assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::Accepted, &Outcome::Accepted));
    assert_eq!(entries(&mut client, &format!("{prefix}run:7")).await.len(), 2);
    let nothing = publish(&mut *sink, &samples[1..2]).await.unwrap();
    assert!(matches!(nothing[0], Outcome::Reject { .. }));
}

#[tokio::test]
async fn hostile_names_stay_under_the_prefix() {
    let prefix = Redis::shared().prefix();
    let (mut sink, mut client) = sink(&prefix, toml::toml! { stream = "run:{key}" }).await;
    let keys = ["*", "../x", "a b\"c", "{tag}", "{key}", "$1\u{2028}", "-", "run:", "\u{1f680}"];
    let samples: Vec<Sample> =
        keys.iter().map(|key| Sample::new("t", b"p".as_slice()).key(key)).collect();
    let outcomes = publish(&mut *sink, &samples).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Accepted), "{outcomes:?}");
    for key in keys {
        assert_eq!(entries(&mut client, &format!("{prefix}run:{key}")).await.len(), 1, "{key}");
    }
    let breaking = ["a\r\nDEL x", "\0", ""].map(|key| Sample::new("t", b"p".as_slice()).key(key));
    let outcomes = publish(&mut *sink, &breaking).await.unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Reject { .. })));
}

#[tokio::test]
async fn maxlen_trims_each_stream() {
    let prefix = Redis::shared().prefix();
    let (mut sink, mut client) = sink(&prefix, toml::toml! { maxlen = 500 }).await;
    for _ in 0..10 {
        let samples: Vec<Sample> = (0..500)
            .map(|n| Sample::new(if n % 2 == 0 { "a" } else { "b" }, vec![b'x'; 200]))
            .collect();
        publish(&mut *sink, &samples).await.unwrap();
    }
    for topic in ["a", "b"] {
        let kept = entries(&mut client, &format!("{prefix}{topic}")).await.len();
        assert!((500..=500 + 250 + 100).contains(&kept), "{topic}: {kept}");
    }
}

#[tokio::test]
async fn stream_whose_ids_are_exhausted_is_told_and_others_go_on() {
    let prefix = Redis::shared().prefix();
    let (mut sink, mut client) = sink(&prefix, toml::Table::new()).await;
    let last = "18446744073709551615-18446744073709551615";
    let mut add = redis::cmd("XADD");
    add.arg(format!("{prefix}full")).arg(last).arg("f").arg("v");
    add.exec_async(&mut client).await.unwrap();
    let samples = ["full", "free", "full"].map(|topic| Sample::new(topic, b"p".as_slice()));
    let outcomes = publish(&mut *sink, &samples).await.unwrap();
    assert!(tells(&outcomes[0], "exhausted"), "{outcomes:?}");
    assert_eq!(outcomes[1], Outcome::Accepted);
    assert!(matches!(outcomes[2], Outcome::Retry { .. }), "{outcomes:?}");
}

/// Whether a message is left by its stream's fault, for this reason.
fn tells(outcome: &Outcome, expected: &str) -> bool {
    matches!(outcome, Outcome::Retry { scope: Scope::Destination, reason } if reason.contains(expected))
}

#[tokio::test]
async fn fault_amid_several_calls_holds_its_stream_alone() {
    let prefix = Redis::shared().prefix();
    let (mut sink, mut client) = sink(&prefix, toml::Table::new()).await;
    redis::cmd("SET").arg(format!("{prefix}bad")).arg("").exec_async(&mut client).await.unwrap();
    let topic = |n: usize| if n >= 300 && n.is_multiple_of(7) { "bad" } else { "good" };
    let samples: Vec<Sample> = (0..2_000).map(|n| Sample::new(topic(n), format!("{n}"))).collect();
    let outcomes = publish(&mut *sink, &samples).await.unwrap();
    for (n, outcome) in outcomes.iter().enumerate() {
        let is_expected = match (topic(n), n) {
            ("good", _) => *outcome == Outcome::Accepted,
            (_, 301) => tells(outcome, "WRONGTYPE"),
            _ => tells(outcome, "did not take an earlier message"),
        };
        assert!(is_expected, "{n}: {outcome:?}");
    }
    let arrived: Vec<Vec<u8>> = entries(&mut client, &format!("{prefix}good"))
        .await
        .into_iter()
        .map(|(_, fields)| read_entry(&fields).payload)
        .collect();
    let sent = (0..2_000).filter(|n| topic(*n) == "good").map(|n| n.to_string().into_bytes());
    assert_eq!(arrived, sent.collect::<Vec<_>>());
}

#[tokio::test]
async fn forgotten_script_is_loaded_again() {
    let redis = Redis::start();
    let target = target(&redis.url(), toml::Table::new());
    let mut sink = target.connect(&Context::default(), &lane("s")).await.unwrap();
    let mut client = client(&redis).await;
    for published in [1_000, 2_000] {
        redis::cmd("SCRIPT").arg("FLUSH").exec_async(&mut client).await.unwrap();
        let samples: Vec<Sample> = (0..1_000).map(|n| Sample::new("t", format!("{n}"))).collect();
        let outcomes = publish(&mut *sink, &samples).await.unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Accepted), "{outcomes:?}");
        let arrived = entries(&mut client, "posthaste:t").await;
        assert_eq!(arrived.len(), published, "under the default name");
    }
}
