//! `redis-stream` beside a server that refuses, stalls or is full, and its settings.

use std::{
    error::Error,
    fmt::Write as _,
    time::{Duration, Instant},
};

use posthaste_relay::{
    sink::{Context, Lane, Mark, Outcome, Scope, SinkError, SinkErrorKind, Target},
    sinks,
};
use posthaste_testkit::{Redis, RedisAuth, RedisOptions, Tls};

use super::{
    contract::CALL_LIMIT,
    messages::{Sample, lane, publish},
    redis_server::{assert_settings, client, setting},
    redis_stream::{entries, target},
};

const PASSWORD: &str = "hunter2-secret";

fn one() -> [Sample; 1] {
    [Sample::new("t", b"p".as_slice())]
}

async fn refused(target: &dyn Target) -> SinkError {
    target
        .connect(&Context::default(), &lane("s"))
        .await
        .err()
        .expect("the connection must be refused")
}

async fn accepts(target: &dyn Target) {
    let mut sink = target.connect(&Context::default(), &lane("s")).await.unwrap();
    assert_eq!(publish(&mut *sink, &one()).await.unwrap(), [Outcome::Accepted]);
}

/// An error with all its causes, in both forms that may reach a log.
fn everything_said(error: &SinkError) -> String {
    let mut said = format!("{error}\n{error:?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(said, "\n{error}\n{error:?}");
        cause = error.source();
    }
    said
}

fn with_password() -> RedisOptions {
    let auth = RedisAuth::Password(PASSWORD.to_owned());
    RedisOptions { auth, ..RedisOptions::default() }
}

#[tokio::test]
async fn wrong_credentials_are_told_without_the_password() {
    let redis = Redis::start_with(with_password());
    let plain = format!("redis://127.0.0.1:{}", redis.port());
    let wrong = format!("redis://:{PASSWORD}x@127.0.0.1:{}", redis.port());
    for target in [
        target(&wrong, toml::Table::new()),
        target(&plain, setting("password", format!("{PASSWORD}y"))),
        target(&plain, toml::Table::new()),
    ] {
        let error = refused(&*target).await;
        assert_eq!(error.kind(), SinkErrorKind::Authentication, "{error:?}");
        let said = everything_said(&error) + &target.describe() + &format!("{target:?}");
        assert!(!said.contains(PASSWORD), "{said}");
        assert!(error.to_string().contains(&format!("127.0.0.1:{}", redis.port())), "{error}");
    }
    accepts(&*target(&plain, setting("password", PASSWORD))).await;
    accepts(&*target(&redis.url(), toml::Table::new())).await;
}

#[tokio::test]
async fn user_with_a_password_file_publishes_and_the_file_is_read_again() {
    let auth = RedisAuth::User {
        name: "relay".to_owned(),
        password: PASSWORD.to_owned(),
        rules: "~posthaste:* +ping +script|load +evalsha +hmget +hset +xadd".to_owned(),
    };
    let redis = Redis::start_with(RedisOptions { auth, ..RedisOptions::default() });
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "not yet").unwrap();
    let mut table = setting("password_file", file.to_str().unwrap());
    table.insert("username".to_owned(), "relay".into());
    let url = format!("redis://127.0.0.1:{}", redis.port());
    let target = target(&url, table);
    assert_eq!(refused(&*target).await.kind(), SinkErrorKind::Authentication);
    std::fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    accepts(&*target).await;
    std::fs::remove_file(&file).unwrap();
    let error = refused(&*target).await;
    assert_eq!(error.kind(), SinkErrorKind::Misconfigured);
    assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn missing_permission_is_told_and_nothing_is_lost() {
    let auth = RedisAuth::User {
        name: "relay".to_owned(),
        password: PASSWORD.to_owned(),
        rules: "~* +ping +script|load +evalsha +hmget +hset".to_owned(),
    };
    let redis = Redis::start_with(RedisOptions { auth, ..RedisOptions::default() });
    let target = target(&redis.url(), toml::Table::new());
    let mut sink = target.connect(&Context::default(), &lane("s")).await.unwrap();
    let outcomes = publish(&mut *sink, &one()).await.unwrap();
    let [Outcome::Retry { scope: Scope::Sink, reason }] = outcomes.as_slice() else {
        panic!("{outcomes:?}");
    };
    assert!(reason.contains("can't run this command"), "{reason}");
}

#[tokio::test]
async fn tls_trusts_the_configured_authority_and_no_other() {
    let tls = RedisOptions { tls: Some(Tls::generate()), ..with_password() };
    let redis = Redis::start_with(tls);
    let ca_file = redis.ca_file();
    let ca_file = ca_file.to_str().unwrap();
    accepts(&*target(&redis.url(), setting("ca_file", ca_file))).await;
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other.crt");
    std::fs::write(&other, Tls::generate().ca_pem()).unwrap();
    for unknown in [setting("ca_file", other.to_str().unwrap()), toml::Table::new()] {
        let error = refused(&*target(&redis.url(), unknown)).await;
        assert_eq!(error.kind(), SinkErrorKind::Authentication, "{error:?}");
        assert!(everything_said(&error).contains("invalid peer certificate"), "{error:?}");
    }
    std::fs::write(&other, "no certificate").unwrap();
    let error = refused(&*target(&redis.url(), setting("ca_file", other.to_str().unwrap()))).await;
    assert_eq!(error.kind(), SinkErrorKind::Misconfigured);
    assert!(everything_said(&error).contains("other.crt"), "{error:?}");
}

#[tokio::test]
async fn tls_to_a_port_without_it_ends_in_a_hint() {
    let url = Redis::shared().url().replace("redis://", "rediss://");
    let error = refused(&*target(&url, setting("connect_timeout", "1s"))).await;
    assert_eq!(error.kind(), SinkErrorKind::Timeout, "{error:?}");
    assert!(error.to_string().contains("needs a port that speaks TLS"), "{error}");
}

#[tokio::test]
async fn r12_redis_out_of_memory_keeps_the_batch_to_be_tried_again() {
    let redis = Redis::start();
    let target = target(&redis.url(), toml::Table::new());
    let mut sink = target.connect(&Context::default(), &lane("s")).await.unwrap();
    let mut client = client(&redis).await;
    let admin = client.clone();
    let limit = |bytes: &str| {
        let mut config = redis::cmd("CONFIG");
        config.arg("SET").arg("maxmemory").arg(bytes);
        let mut client = admin.clone();
        async move { config.exec_async(&mut client).await.unwrap() }
    };
    let samples: Vec<Sample> = (0..10).map(|n| Sample::new("t", format!("{n}"))).collect();
    limit("1").await;
    let error = publish(&mut *sink, &samples).await.unwrap_err();
    assert_eq!(error.kind(), SinkErrorKind::Resources, "{error:?}");
    assert!(everything_said(&error).contains("OOM"), "{error:?}");
    assert!(entries(&mut client, "posthaste:t").await.is_empty());
    limit("0").await;
    let outcomes = publish(&mut *sink, &samples).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Accepted), "{outcomes:?}");
    assert_eq!(entries(&mut client, "posthaste:t").await.len(), samples.len());
}

#[tokio::test]
async fn r12_paused_redis_is_a_timeout_within_the_limit() {
    let redis = Redis::start();
    let limits = toml::toml! { operation_timeout = "1s" connect_timeout = "2s" };
    let target = target(&redis.url(), limits);
    let mut sink = target.connect(&Context::default(), &lane("s")).await.unwrap();
    redis.pause();
    let since = Instant::now();
    let answer = tokio::time::timeout(CALL_LIMIT, publish(&mut *sink, &one())).await;
    let error = answer.expect("publishing must end by itself").unwrap_err();
    assert_eq!(error.kind(), SinkErrorKind::Timeout, "{error:?}");
    let waited = since.elapsed();
    assert!((Duration::from_secs(1)..CALL_LIMIT).contains(&waited), "{waited:?}");
    let error = refused(&*target).await;
    assert_eq!(error.kind(), SinkErrorKind::Timeout, "{error:?}");
    redis.resume();
    accepts(&*target).await;
}

#[tokio::test]
async fn r12_replica_keeps_the_batch_to_be_tried_again() {
    let redis = Redis::start();
    let target = target(&redis.url(), toml::Table::new());
    let mut sink = target.connect(&Context::default(), &lane("s")).await.unwrap();
    let mut client = client(&redis).await;
    let mut follow = redis::cmd("REPLICAOF");
    follow.arg("127.0.0.1").arg(1).exec_async(&mut client).await.unwrap();
    match publish(&mut *sink, &one()).await {
        Ok(outcomes) => {
            let outcome = &outcomes[0];
            assert!(matches!(outcome, Outcome::Retry { scope: Scope::Sink, .. }), "{outcome:?}");
        }
        Err(error) => assert_eq!(error.kind(), SinkErrorKind::Resources, "{error:?}"),
    }
}

#[tokio::test]
async fn connection_fences_every_earlier_one_of_its_lane_and_no_other() {
    let redis = Redis::start();
    let target = target(&redis.url(), toml::Table::new());
    let context = Context::default();
    let mut first = target.connect(&context, &lane("s")).await.unwrap();
    let mut elsewhere = target.connect(&context, &lane("another")).await.unwrap();
    assert_eq!(publish(&mut *first, &one()).await.unwrap(), [Outcome::Accepted]);
    let mut second = target.connect(&context, &lane("s")).await.unwrap();
    // As does a call that was stuck until its connection had been given up.
    let error = publish(&mut *first, &one()).await.unwrap_err();
    assert_eq!(error.kind(), SinkErrorKind::Displaced, "{error:?}");
    assert!(error.to_string().contains("posthaste:place:s"), "{error}");
    for sink in [&mut second, &mut elsewhere] {
        assert_eq!(publish(&mut **sink, &one()).await.unwrap(), [Outcome::Accepted]);
    }
    let later = Lane { epoch: 2, ..lane("s") };
    let mut third = target.connect(&context, &later).await.unwrap();
    assert_eq!(refused(&*target).await.kind(), SinkErrorKind::Fenced);
    let error = publish(&mut *second, &one()).await.unwrap_err();
    assert_eq!(error.kind(), SinkErrorKind::Displaced, "{error:?}");
    assert_eq!(publish(&mut *third, &one()).await.unwrap(), [Outcome::Accepted]);
    let mut client = client(&redis).await;
    assert_eq!(entries(&mut client, "posthaste:t").await.len(), 4);
}

#[tokio::test]
async fn place_that_was_flushed_displaces_its_holder_and_begins_anew() {
    let redis = Redis::start();
    let target = target(&redis.url(), toml::Table::new());
    let context = Context::default();
    let mut sink = target.connect(&context, &lane("s")).await.unwrap();
    assert_eq!(publish(&mut *sink, &one()).await.unwrap(), [Outcome::Accepted]);
    assert_eq!((sink.mark(), sink.calls()), (Some(&Mark::default()), Some(1)));
    let mut client = client(&redis).await;
    redis::cmd("FLUSHALL").exec_async(&mut client).await.unwrap();
    let error = publish(&mut *sink, &one()).await.unwrap_err();
    assert_eq!(error.kind(), SinkErrorKind::Displaced, "{error:?}");
    assert!(entries(&mut client, "posthaste:t").await.is_empty());
    let sink = target.connect(&context, &lane("s")).await.unwrap();
    assert_eq!(sink.mark(), Some(&Mark::default()));
}

#[tokio::test]
async fn place_of_another_log_is_refused() {
    let redis = Redis::start();
    let target = target(&redis.url(), toml::Table::new());
    accepts(&*target).await;
    let foreign = Lane { log: uuid::Uuid::from_u128(7), ..lane("s") };
    let error = target.connect(&Context::default(), &foreign).await.err().unwrap();
    assert_eq!(error.kind(), SinkErrorKind::Misconfigured, "{error:?}");
    assert!(error.to_string().contains("log of another database"), "{error}");
}

#[tokio::test]
async fn place_of_another_log_is_taken_over_once_a_person_says_so() {
    let redis = Redis::start();
    let target = target(&redis.url(), toml::Table::new());
    let context = Context::default();
    let earlier = Lane { epoch: 9, ..lane("s") };
    let mut stale = target.connect(&context, &earlier).await.unwrap();
    assert_eq!(publish(&mut *stale, &one()).await.unwrap(), [Outcome::Accepted]);
    let rebased = Lane { epoch: 2, log: uuid::Uuid::from_u128(7), adopts: true, ..lane("s") };
    let mut sink = target.connect(&context, &rebased).await.unwrap();
    // Nothing of the other log but the count, which no call of it will find again.
    assert_eq!(sink.mark(), Some(&Mark { calls: 1, ..Mark::default() }));
    let error = publish(&mut *stale, &one()).await.unwrap_err();
    assert_eq!(error.kind(), SinkErrorKind::Displaced, "{error:?}");
    assert_eq!(publish(&mut *sink, &one()).await.unwrap(), [Outcome::Accepted]);
    // Its own place is left as it is.
    let sink = target.connect(&context, &rebased).await.unwrap();
    let mark = sink.mark().unwrap();
    assert_eq!((mark.calls, mark.text.is_empty()), (2, false));
    let back = target.connect(&context, &earlier).await.err().unwrap();
    assert_eq!(back.kind(), SinkErrorKind::Misconfigured, "{back:?}");
}

#[tokio::test]
async fn place_tells_the_next_connection_what_was_taken_and_what_is_missing() {
    let redis = Redis::start();
    let target = target(&redis.url(), setting("stream", "{topic}"));
    let context = Context::default();
    let mut client = client(&redis).await;
    redis::cmd("SET").arg("bad").arg("text").exec_async(&mut client).await.unwrap();
    let mut sink = target.connect(&context, &lane("s")).await.unwrap();
    let samples = ["a", "bad", "a", "bad", "b"].map(|topic| Sample::new(topic, b"".as_slice()));
    publish(&mut *sink, &samples).await.unwrap();
    let counted = sink.calls().unwrap();
    let sink = target.connect(&context, &lane("s")).await.unwrap();
    let mark = Mark { calls: counted, text: "5".to_owned(), missing: vec![2, 4] };
    assert_eq!(sink.mark(), Some(&mark));
}

#[tokio::test]
async fn without_a_place_nothing_is_kept_and_a_batch_arrives_in_order() {
    let redis = Redis::start();
    let target = target(&redis.url(), setting("delivery", "at-least-once"));
    let mut sink = target.connect(&Context::default(), &lane("s")).await.unwrap();
    let samples: Vec<Sample> = (0..700).map(|n| Sample::new("t", format!("{n}"))).collect();
    let outcomes = publish(&mut *sink, &samples).await.unwrap();
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::Accepted));
    assert_eq!(sink.mark(), None);
    let mut client = client(&redis).await;
    assert_eq!(entries(&mut client, "posthaste:t").await.len(), 700);
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut client).await.unwrap();
    assert_eq!(keys, ["posthaste:t"]);
}

#[tokio::test]
async fn name_of_the_place_that_holds_other_data_stops_and_spares_the_data() {
    let redis = Redis::start();
    let target = target(&redis.url(), setting("stream", "orders"));
    let mut client = client(&redis).await;
    let mut add = redis::cmd("XADD");
    add.arg("ordersplace:s").arg("*").arg("f").arg("v").exec_async(&mut client).await.unwrap();
    let error = refused(&*target).await;
    assert_eq!(error.kind(), SinkErrorKind::Misconfigured, "{error:?}");
    assert!(error.to_string().contains("taken by other data"), "{error}");
    assert_eq!(entries(&mut client, "ordersplace:s").await.len(), 1);
    assert!(entries(&mut client, "orders").await.is_empty());
}

#[tokio::test]
async fn server_that_is_not_there_is_named() {
    let redis = Redis::start();
    let target = target(&redis.url(), toml::Table::new());
    redis.kill();
    let error = refused(&*target).await;
    assert_eq!(error.kind(), SinkErrorKind::Unavailable, "{error:?}");
    assert!(error.to_string().contains(&format!("127.0.0.1:{}", redis.port())), "{error}");
}

#[test]
fn faulty_settings_name_the_key_and_never_the_secret() {
    let parse = sinks::find("redis-stream").unwrap().parse;
    let good = "redis://127.0.0.1";
    let with_secret = format!("redis://u:{PASSWORD}@127.0.0.1");
    let secret_number = toml::Value::Integer(47_114_711);
    let cases: Vec<(&str, Vec<(&str, toml::Value)>)> = vec![
        ("url", vec![]),
        ("url", vec![("url", secret_number.clone())]),
        ("url", vec![("url", format!("http://u:{PASSWORD}@h").into())]),
        ("url", vec![("url", format!("rediss://u:{PASSWORD}@h#insecure").into())]),
        ("url", vec![("url", format!("redis://u:{PASSWORD}@h/db").into())]),
        ("url", vec![("url", PASSWORD.into())]),
        ("password", vec![("url", good.into()), ("password", secret_number)]),
        ("password", vec![("url", (*with_secret).into()), ("password", PASSWORD.into())]),
        ("password", vec![("url", (*with_secret).into()), ("password_file", "/p".into())]),
        ("username", vec![("url", (*with_secret).into()), ("username", "x".into())]),
        ("ca_file", vec![("url", good.into()), ("ca_file", "/ca".into())]),
        ("stream", vec![("url", good.into()), ("stream", "a{".into())]),
        ("maxlen", vec![("url", good.into()), ("maxlen", 0.into())]),
        ("format", vec![("url", good.into()), ("format", "xml".into())]),
        ("cloudevents_source", vec![("url", good.into()), ("cloudevents_source", "".into())]),
        ("operation_timeout", vec![("url", good.into()), ("operation_timeout", "1ms".into())]),
        ("maxlne", vec![("url", good.into()), ("maxlne", 5.into())]),
    ];
    for (key, settings) in cases {
        let table = settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        let Err(error) = parse(table) else { panic!("{key} must be refused") };
        assert!(error.message.contains(key), "{key}: {error}");
        assert!(error.key.is_empty() || error.key == key, "{key}: {}", error.key);
        assert!(!format!("{error} {error:?}").contains(PASSWORD), "{error:?}");
        assert!(!format!("{error:?}").contains("47114711"), "{error:?}");
    }
}

#[test]
fn schema_lists_every_setting_with_its_description() {
    assert_settings(
        "redis-stream",
        &["cloudevents_source", "delivery", "format", "maxlen", "stream"],
    );
}

#[test]
fn target_is_described_without_login() {
    let url = format!("redis://relay:{PASSWORD}@cache.example:6380/3");
    let described = target(&url, toml::Table::new()).describe();
    assert_eq!(described, "redis://cache.example:6380/3 stream posthaste:{topic}");
}
