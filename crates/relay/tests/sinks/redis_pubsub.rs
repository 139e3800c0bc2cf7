//! `redis-pubsub`: the contract with listeners, and what becomes of messages that nobody hears.

use std::{
    cell::RefCell,
    fmt::{Debug, Write as _},
    sync::Once,
    time::Duration,
};

use async_trait::async_trait;
use posthaste_relay::sink::{Outcome, Scope, Sink, Target};
use posthaste_testkit::{Redis, RedisAuth, RedisOptions};
use redis::Value;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::Field,
    span::{Attributes, Id, Record},
};

use super::{
    contract::{Breaking, Harness, sink_contract},
    messages::{Arrived, Sample, publish, read_envelope, read_event},
    redis_server::{Server, assert_refused, assert_settings, connected, parse, setting, target},
};

const KIND: &str = "redis-pubsub";
/// The topics of the contract's tests.
const TOPICS: [&str; 7] = ["a", "b", "bad", "c", "good", "many", "t"];

/// A consumer that listens. Blocks, and so can be used where the contract has no `async`.
struct Listener {
    connection: redis::Connection,
    /// Channel and message, in the order in which they came.
    heard: Vec<(String, Vec<u8>)>,
}

impl Listener {
    fn start(redis: &Redis) -> Self {
        let client = redis::Client::open(redis.url()).unwrap();
        let connection = client.get_connection().unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { connection, heard: Vec::new() }
    }

    /// `SUBSCRIBE`, `PSUBSCRIBE` or `UNSUBSCRIBE`, done when this returns.
    fn ask(&mut self, command: &str, channel: &str) {
        self.send(redis::cmd(command).arg(channel), &command.to_lowercase());
    }

    /// All that was published before this call, by channel.
    fn heard(&mut self, channel: &str) -> Vec<Vec<u8>> {
        // Answered behind the messages that the server has put into the connection already.
        self.send(redis::cmd("PING").arg("all"), "pong");
        let of_channel = self.heard.iter().filter(|(name, _)| name == channel);
        of_channel.map(|(_, message)| message.clone()).collect()
    }

    /// Sends a command and notes messages until it is confirmed.
    fn send(&mut self, command: &redis::Cmd, confirmation: &str) {
        self.connection.send_packed_command(&command.get_packed_command()).unwrap();
        loop {
            let Value::Array(parts) = self.connection.recv_response().unwrap() else {
                panic!("{confirmation}: no answer of a subscribed connection");
            };
            let part = |back: usize| match &parts[parts.len() - back] {
                Value::BulkString(bytes) => bytes.clone(),
                other => panic!("{other:?}"),
            };
            match &parts[0] {
                Value::BulkString(kind) if *kind == confirmation.as_bytes() => return,
                _ => self.heard.push((String::from_utf8(part(2)).unwrap(), part(1))),
            }
        }
    }
}

/// Events to listeners of each channel, for which a channel without one is refused; or envelopes
/// to one listener of all.
struct Pubsub<const EVENTS: bool> {
    server: Server,
    prefix: String,
    listener: Listener,
}

impl<const EVENTS: bool> Pubsub<EVENTS> {
    fn listen(&mut self) {
        if EVENTS {
            for topic in TOPICS {
                self.listener.ask("SUBSCRIBE", &format!("{}{topic}", self.prefix));
            }
        } else {
            self.listener.ask("PSUBSCRIBE", &format!("{}*", self.prefix));
        }
    }
}

#[async_trait]
impl<const EVENTS: bool> Harness for Pubsub<EVENTS> {
    async fn start(is_alone: bool) -> Self {
        let server = Server::start(is_alone);
        let listener = Listener::start(server.redis());
        let mut pubsub = Self { server, prefix: Redis::shared().prefix(), listener };
        pubsub.listen();
        pubsub
    }

    fn target(&self) -> Box<dyn Target> {
        let mut settings = setting("channel", format!("{}{{topic}}", self.prefix));
        if EVENTS {
            settings.insert("format".to_owned(), "cloudevents".into());
            settings.insert("no_subscriber".to_owned(), "park".into());
        }
        target(KIND, &self.server.redis().url(), settings)
    }

    async fn arrived(&mut self, topic: &str) -> Vec<Arrived> {
        let heard = self.listener.heard(&format!("{}{topic}", self.prefix));
        heard
            .iter()
            .map(|message| if EVENTS { read_event(message) } else { read_envelope(message) })
            .collect()
    }

    fn go_away(&mut self) {
        self.listener.heard("");
        self.server.redis().kill();
    }

    fn come_back(&mut self) {
        self.server.redis().restart();
        self.listener.connection = Listener::start(self.server.redis()).connection;
        self.listen();
    }
}

#[async_trait]
impl Breaking for Pubsub<true> {
    async fn refuse(&mut self, topic: &str) {
        self.listener.ask("UNSUBSCRIBE", &format!("{}{topic}", self.prefix));
    }

    async fn relent(&mut self, topic: &str) {
        self.listener.ask("SUBSCRIBE", &format!("{}{topic}", self.prefix));
    }
}

sink_contract!(contract_of_envelopes, super::Pubsub<false>);
sink_contract!(contract_of_events_that_somebody_must_hear, super::Pubsub<true>, breaking);

/// A sink on the shared server, for channels below a prefix of its own.
async fn sink(prefix: &str, no_subscriber: &str) -> Box<dyn Sink> {
    let mut settings = setting("channel", format!("{prefix}{{topic}}"));
    settings.insert("no_subscriber".to_owned(), no_subscriber.into());
    settings.insert("format".to_owned(), "payload".into());
    connected(KIND, Redis::shared(), settings).await
}

fn numbered(topics: &[&str]) -> Vec<Sample> {
    topics.iter().enumerate().map(|(n, topic)| Sample::new(topic, format!("{n}"))).collect()
}

fn is_held(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Retry { scope: Scope::Destination, .. })
}

#[tokio::test]
async fn r11_channel_of_a_run_gets_the_messages_of_that_run_alone() {
    let run = Redis::shared().prefix();
    let mut settings = setting("channel", "run:{header:runId}");
    settings.insert("format".to_owned(), "payload".into());
    let mut sink = connected(KIND, Redis::shared(), settings).await;
    let mut listener = Listener::start(Redis::shared());
    listener.ask("SUBSCRIBE", &format!("run:{run}1"));
    let samples = [("1", "a"), ("2", "b"), ("1", "c")]
        .map(|(n, payload)| Sample::new("t", payload).header("runId", &format!("{run}{n}")));
    let outcomes = publish(&mut *sink, &samples).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Accepted), "{outcomes:?}");
    assert_eq!(listener.heard(&format!("run:{run}1")), [b"a", b"c"]);
    assert_eq!(listener.heard.len(), 2);
}

#[tokio::test]
async fn message_that_must_wait_holds_its_channel_until_somebody_listens() {
    let prefix = Redis::shared().prefix();
    let mut sink = sink(&prefix, "wait").await;
    let mut listener = Listener::start(Redis::shared());
    listener.ask("SUBSCRIBE", &format!("{prefix}attended"));
    // Past several calls, so that later ones hold the channel too.
    let topic = |n: usize| if n >= 50 && n.is_multiple_of(7) { "deserted" } else { "attended" };
    let samples: Vec<Sample> = (0..1_000).map(|n| Sample::new(topic(n), format!("{n}"))).collect();
    let outcomes = publish(&mut *sink, &samples).await.unwrap();
    for (n, outcome) in outcomes.iter().enumerate() {
        let is_deserted = topic(n) == "deserted";
        assert_eq!(is_held(outcome), is_deserted, "{n}: {outcome:?}");
        assert_eq!(*outcome == Outcome::Accepted, !is_deserted, "{n}: {outcome:?}");
    }
    let said = format!("channel \"{prefix}deserted\" has no subscriber");
    assert!(matches!(&outcomes[56], Outcome::Retry { reason, .. } if *reason == said));
    let of = |wanted: &str| -> Vec<Sample> {
        samples.iter().filter(|sample| sample.topic == wanted).cloned().collect()
    };
    let payloads = |samples: &[Sample]| -> Vec<Vec<u8>> {
        samples.iter().map(|sample| sample.payload.clone()).collect()
    };
    assert_eq!(listener.heard(&format!("{prefix}attended")), payloads(&of("attended")));
    // Who listens by a pattern counts.
    listener.ask("PSUBSCRIBE", &format!("{prefix}dese*"));
    let held = of("deserted");
    let outcomes = publish(&mut *sink, &held).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Accepted), "{outcomes:?}");
    assert_eq!(listener.heard(&format!("{prefix}deserted")), payloads(&held));
}

#[tokio::test]
async fn message_to_park_is_rejected_with_its_channel() {
    let prefix = Redis::shared().prefix();
    let mut sink = sink(&prefix, "park").await;
    let outcomes = publish(&mut *sink, &numbered(&["t", "u", "t"])).await.unwrap();
    for (n, topic) in [(0, "t"), (1, "u")] {
        let reason = format!("channel \"{prefix}{topic}\" has no subscriber");
        assert_eq!(outcomes[n], Outcome::Reject { reason });
    }
    assert!(is_held(&outcomes[2]), "{outcomes:?}");
}

thread_local! {
    /// The warnings of the sink on this thread.
    static WARNINGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Writes the warnings of a sink to its thread's [`WARNINGS`].
///
/// One for the whole process: `tracing` asks once for each place in the code whether anybody
/// wants to hear of it. While a single subscriber is set for a single thread, a test on another
/// thread that comes by first answers no for all of them.
struct Listening;

impl Subscriber for Listening {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN && metadata.target().contains("redis_pubsub")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = String::new();
        event.record(&mut |field: &Field, value: &dyn Debug| {
            write!(line, "{field}={value:?} ").unwrap();
        });
        WARNINGS.with_borrow_mut(|warnings| warnings.push(line));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Has the warnings of this thread written down, from now on.
fn listen_to_warnings() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(Listening).unwrap();
        tracing::callsite::rebuild_interest_cache();
    });
    WARNINGS.take();
}

/// What this thread's sink has warned of since [`listen_to_warnings`].
fn warnings() -> Vec<String> {
    WARNINGS.with_borrow(Clone::clone)
}

#[tokio::test]
async fn messages_to_nobody_are_accepted_counted_and_told_once() {
    listen_to_warnings();
    let prefix = Redis::shared().prefix();
    let mut sink = sink(&prefix, "accept").await;
    let mut listener = Listener::start(Redis::shared());
    listener.ask("SUBSCRIBE", &format!("{prefix}attended"));
    assert_eq!(publish(&mut *sink, &numbered(&["attended"])).await.unwrap(), [Outcome::Accepted]);
    assert!(warnings().is_empty());
    let samples = numbered(&["attended", "deserted", "deserted"].repeat(300));
    for _ in 0..2 {
        let outcomes = publish(&mut *sink, &samples).await.unwrap();
        assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Accepted), "{outcomes:?}");
    }
    assert_eq!(listener.heard(&format!("{prefix}attended")).len(), 601);
    let [told] = warnings().try_into().unwrap();
    assert!(told.contains("without subscribers") && told.contains("subscription=\"s\""), "{told}");
    sink.close().await.unwrap();
    let [_, counted] = warnings().try_into().unwrap();
    assert!(counted.contains("messages=1200"), "{counted}");
}

#[tokio::test]
async fn channel_without_permission_stops_the_sink_and_those_before_it_count() {
    listen_to_warnings();
    let auth = RedisAuth::User {
        name: "relay".to_owned(),
        password: "secret".to_owned(),
        rules: "~posthaste:* resetchannels &posthaste:t +ping +script|load +evalsha +hmget +hset \
                +publish"
            .to_owned(),
    };
    let redis = Redis::start_with(RedisOptions { auth, ..RedisOptions::default() });
    let mut sink = connected(KIND, &redis, toml::Table::new()).await;
    let outcomes = publish(&mut *sink, &numbered(&["t", "t", "secret", "t"])).await.unwrap();
    assert_eq!(outcomes[..2], [Outcome::Accepted, Outcome::Accepted]);
    for outcome in &outcomes[2..] {
        let Outcome::Retry { scope: Scope::Sink, reason } = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains("channel \"posthaste:secret\""), "{reason}");
    }
    sink.close().await.unwrap();
    let lines = warnings();
    assert!(lines.len() == 2 && lines[1].contains("messages=2"), "{lines:?}");
}

#[test]
fn faulty_settings_name_the_key() {
    assert_refused(
        KIND,
        &[
            ("channel", setting("channel", "a{")),
            ("no_subscriber", setting("no_subscriber", "drop")),
            ("format", setting("format", "raw")),
            ("cloudevents_source", setting("cloudevents_source", "")),
            ("chanel", setting("chanel", "a")),
        ],
    );
    assert!(parse(KIND, toml::Table::new()).unwrap_err().message.contains("url"));
}

#[test]
fn schema_lists_every_setting_with_its_description() {
    assert_settings(
        KIND,
        &["channel", "cloudevents_source", "delivery", "format", "no_subscriber"],
    );
}

#[test]
fn target_is_described_without_login() {
    let settings = setting("channel", "run:{key}");
    let described = target(KIND, "redis://relay:secret@h:6380/3", settings).describe();
    assert_eq!(described, "redis://h:6380/3 channel run:{key}");
}
