//! `redis-list`: the contract on both sides, and what only lists do.

use async_trait::async_trait;
use posthaste_relay::sink::{Outcome, Scope, Target};
use posthaste_testkit::{Redis, RedisAuth, RedisOptions};
use redis::aio::MultiplexedConnection;

use super::{
    contract::{Breaking, Harness, sink_contract},
    messages::{Arrived, Sample, publish, read_envelope, read_event},
    redis_server::{
        Server, assert_refused, assert_settings, client, connected, parse, setting, target,
        template,
    },
};

const KIND: &str = "redis-list";

/// Events on the right, or envelopes on the left.
struct List<const EVENTS: bool, const CLUSTER: bool = false> {
    server: Server,
    prefix: String,
}

/// The elements as `LRANGE name 0 -1` shows them.
async fn elements(client: &mut MultiplexedConnection, list: &str) -> Vec<Vec<u8>> {
    redis::cmd("LRANGE").arg(list).arg(0).arg(-1).query_async(client).await.unwrap()
}

/// Takes the oldest element, as a worker does.
async fn take(client: &mut MultiplexedConnection, list: &str) -> Vec<u8> {
    redis::cmd("RPOP").arg(list).query_async(client).await.unwrap()
}

fn is_held(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Retry { scope: Scope::Destination, .. })
}

#[async_trait]
impl<const EVENTS: bool, const CLUSTER: bool> Harness for List<EVENTS, CLUSTER> {
    async fn start(is_alone: bool) -> Self {
        let (server, prefix) = Server::prefixed(is_alone, CLUSTER);
        Self { server, prefix }
    }

    fn target(&self) -> Box<dyn Target> {
        let (side, format) = if EVENTS { ("right", "cloudevents") } else { ("left", "envelope") };
        let mut settings = setting("list", template(&self.prefix));
        settings.insert("side".to_owned(), side.into());
        settings.insert("format".to_owned(), format.into());
        target(KIND, &self.server.url(), settings)
    }

    async fn arrived(&mut self, topic: &str) -> Vec<Arrived> {
        let mut client = client(self.server.redis()).await;
        let mut elements = elements(&mut client, &format!("{}{topic}", self.prefix)).await;
        let read = if EVENTS {
            read_event
        } else {
            elements.reverse();
            read_envelope
        };
        elements.iter().map(|element| read(element)).collect()
    }

    fn go_away(&mut self) {
        self.server.redis().kill();
    }

    fn come_back(&mut self) {
        self.server.restart();
    }
}

#[async_trait]
impl<const EVENTS: bool, const CLUSTER: bool> Breaking for List<EVENTS, CLUSTER> {
    async fn refuse(&mut self, topic: &str) {
        let list = format!("{}{topic}", self.prefix);
        let mut client = client(self.server.redis()).await;
        redis::cmd("SET").arg(list).arg("no list").exec_async(&mut client).await.unwrap();
    }

    async fn relent(&mut self, topic: &str) {
        let list = format!("{}{topic}", self.prefix);
        let mut client = client(self.server.redis()).await;
        redis::cmd("DEL").arg(list).exec_async(&mut client).await.unwrap();
    }
}

sink_contract!(contract_of_envelopes_on_the_left, super::List<false>, breaking);
sink_contract!(contract_of_events_on_the_right, super::List<true>, breaking);
sink_contract!(contract_of_lists_in_a_cluster, super::List<false, true>, breaking);

#[tokio::test]
async fn r11_list_queue_jobs_holds_the_payloads_newest_first() {
    let redis = Redis::start();
    let mut sink = connected(KIND, &redis, setting("list", "jobs")).await;
    let mut client = client(&redis).await;
    let payloads = [b"{\"job\":1}".to_vec(), b"\xff\0\r\n".to_vec(), Vec::new()];
    let samples = payloads.clone().map(|payload| Sample::new("t", payload).key("k"));
    publish(&mut *sink, &samples).await.unwrap();
    let [first, second, third] = payloads;
    assert_eq!(elements(&mut client, "jobs").await, [&third[..], &second, &first]);
    assert_eq!(take(&mut client, "jobs").await, first, "a worker takes the oldest");
}

#[tokio::test]
async fn full_list_holds_its_messages_back_and_loses_no_element() {
    let prefix = Redis::shared().prefix();
    let mut settings = setting("list", format!("{prefix}{{topic}}"));
    settings.insert("maxlen".to_owned(), 3.into());
    let mut sink = connected(KIND, Redis::shared(), settings).await;
    let mut client = client(Redis::shared()).await;
    let (full, over) = (format!("{prefix}full"), format!("{prefix}over"));
    let mut fill = redis::cmd("LPUSH");
    fill.arg(&over).arg(&["a", "b", "c", "d"]).exec_async(&mut client).await.unwrap();
    let topics = ["full", "full", "free", "over", "full", "full", "free", "full"];
    let samples: Vec<Sample> =
        topics.iter().enumerate().map(|(n, topic)| Sample::new(topic, format!("{n}"))).collect();
    let outcomes = publish(&mut *sink, &samples).await.unwrap();
    for (n, outcome) in outcomes.iter().enumerate() {
        assert_eq!(is_held(outcome), [3, 5, 7].contains(&n), "{n}: {outcome:?}");
        assert_eq!(*outcome == Outcome::Accepted, ![3, 5, 7].contains(&n), "{n}: {outcome:?}");
    }
    let said = format!("list {full:?} holds 3 elements, and maxlen is 3");
    assert!(matches!(&outcomes[5], Outcome::Retry { reason, .. } if *reason == said));
    assert_eq!(elements(&mut client, &full).await, [b"4", b"1", b"0"]);
    assert_eq!(elements(&mut client, &over).await.len(), 4);
    assert_eq!(take(&mut client, &full).await, b"0");
    let held = [samples[5].clone(), samples[7].clone()];
    let outcomes = publish(&mut *sink, &held).await.unwrap();
    assert!(outcomes[0] == Outcome::Accepted && is_held(&outcomes[1]), "{outcomes:?}");
    assert_eq!(elements(&mut client, &full).await, [b"5", b"4", b"1"]);
}

#[tokio::test]
async fn list_that_fills_amid_several_calls_holds_its_messages_alone() {
    let prefix = Redis::shared().prefix();
    let mut settings = setting("list", format!("{prefix}{{topic}}"));
    settings.insert("maxlen".to_owned(), 700.into());
    let mut sink = connected(KIND, Redis::shared(), settings).await;
    let mut client = client(Redis::shared()).await;
    let topic = |n: usize| if n.is_multiple_of(3) { "free" } else { "full" };
    let samples: Vec<Sample> = (0..2_000).map(|n| Sample::new(topic(n), format!("{n}"))).collect();
    let outcomes = publish(&mut *sink, &samples).await.unwrap();
    let of = |wanted: &str| -> Vec<usize> { (0..2_000).filter(|n| topic(*n) == wanted).collect() };
    let (full, free) = (of("full"), of("free"));
    assert!(free.iter().all(|n| outcomes[*n] == Outcome::Accepted));
    assert!(full[..700].iter().all(|n| outcomes[*n] == Outcome::Accepted));
    assert!(full[700..].iter().all(|n| is_held(&outcomes[*n])));
    for (topic, sent) in [("free", &free[..]), ("full", &full[..700])] {
        let newest_first: Vec<Vec<u8>> =
            sent.iter().rev().map(|n| n.to_string().into_bytes()).collect();
        assert_eq!(elements(&mut client, &format!("{prefix}{topic}")).await, newest_first);
    }
}

#[tokio::test]
async fn permissions_of_the_manual_suffice_and_a_missing_one_is_told() {
    let user = |name: &str, rules: &str| {
        let (name, password) = (name.to_owned(), "secret".to_owned());
        let auth = RedisAuth::User { name, password, rules: rules.to_owned() };
        Redis::start_with(RedisOptions { auth, ..RedisOptions::default() })
    };
    let may = "~posthaste:* +ping +script|load +evalsha +hmget +hset +lpush +llen +lrange";
    let samples = [Sample::new("t", b"p".as_slice())];
    let redis = user("relay", may);
    let mut sink = connected(KIND, &redis, setting("maxlen", 5)).await;
    assert_eq!(publish(&mut *sink, &samples).await.unwrap(), [Outcome::Accepted]);
    let mut reader = client(&redis).await;
    assert_eq!(elements(&mut reader, "posthaste:t").await, [b"p"], "under the default name");
    for missing in ["+lpush", "+llen"] {
        let redis = user("relay", &may.replace(missing, ""));
        let mut sink = connected(KIND, &redis, setting("maxlen", 5)).await;
        let outcomes = publish(&mut *sink, &samples).await.unwrap();
        let [Outcome::Retry { scope: Scope::Sink, reason }] = outcomes.as_slice() else {
            panic!("{outcomes:?}");
        };
        assert!(reason.contains("can't run this command"), "{reason}");
        let mut reader = client(&redis).await;
        assert!(elements(&mut reader, "posthaste:t").await.is_empty());
    }
}

#[tokio::test]
async fn name_of_other_data_is_the_lists_fault_where_a_limit_is_set_too() {
    let prefix = Redis::shared().prefix();
    let mut settings = setting("list", format!("{prefix}{{topic}}"));
    settings.insert("maxlen".to_owned(), 5.into());
    let mut sink = connected(KIND, Redis::shared(), settings).await;
    let mut client = client(Redis::shared()).await;
    redis::cmd("SET").arg(format!("{prefix}bad")).arg("").exec_async(&mut client).await.unwrap();
    let samples = ["bad", "bad", "good"].map(|topic| Sample::new(topic, b"p".as_slice()));
    let outcomes = publish(&mut *sink, &samples).await.unwrap();
    let Outcome::Retry { scope: Scope::Destination, reason } = &outcomes[0] else {
        panic!("{outcomes:?}")
    };
    assert!(reason.contains("WRONGTYPE"), "{reason}");
    assert!(is_held(&outcomes[1]), "{outcomes:?}");
    assert_eq!(outcomes[2], Outcome::Accepted);
}

#[test]
fn faulty_settings_name_the_key() {
    assert_refused(
        KIND,
        &[
            ("list", setting("list", "a{")),
            ("side", setting("side", "top")),
            ("maxlen", setting("maxlen", 0)),
            ("format", setting("format", "raw")),
            ("cloudevents_source", setting("cloudevents_source", "")),
            ("lsit", setting("lsit", "jobs")),
        ],
    );
    assert!(parse(KIND, toml::Table::new()).unwrap_err().message.contains("url"));
}

#[test]
fn schema_lists_every_setting_with_its_description() {
    assert_settings(KIND, &["cloudevents_source", "delivery", "format", "list", "maxlen", "side"]);
}

#[test]
fn target_is_described_without_login() {
    let described =
        target(KIND, "redis://relay:secret@h:6380/3", setting("list", "jobs")).describe();
    assert_eq!(described, "redis://h:6380/3 list jobs");
}
