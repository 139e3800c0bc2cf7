//! The commands on real servers: PostgreSQL as the log, Redis as the sink.

use posthaste_testkit::{Auth, Clock, Database, Postgres, PostgresOptions, Redis};
use serde_json::json;

use crate::harness::Place;

/// A directory whose configuration reads `database` and publishes to a stream below `prefix`.
fn place(database: &Database, prefix: &str) -> Place {
    let (url, redis) = (database.url(), Redis::shared().url());
    Place::with(&format!(
        "[database]\nurl = \"{url}\"\n\
         [subscriptions.orders]\ntopics = [\"orders.*\"]\n\
         [subscriptions.orders.sink]\nkind = \"redis-stream\"\nurl = \"{redis}\"\n\
         stream = \"{prefix}{{topic}}\"\n"
    ))
}

/// Entries of a stream: its field values, in order, by `redis-cli`.
async fn entries(stream: &str) -> Vec<Vec<(String, String)>> {
    let client = redis::Client::open(Redis::shared().url()).unwrap();
    let mut connection =
        client.get_multiplexed_async_connection_with_config(&patient()).await.unwrap();
    let reply: redis::streams::StreamRangeReply = redis::cmd("XRANGE")
        .arg(stream)
        .arg("-")
        .arg("+")
        .query_async(&mut connection)
        .await
        .unwrap();
    let fields = |id: redis::streams::StreamId| {
        let text = |name: &str| id.get::<String>(name).map(|value| (name.to_owned(), value));
        ["topic", "key", "payload"].iter().filter_map(|name| text(name)).collect()
    };
    reply.ids.into_iter().map(fields).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_from_the_command_line_to_redis_once_and_in_order() {
    let database = Postgres::shared().database().await;
    let prefix = Redis::shared().prefix();
    let place = place(&database, &prefix);
    let missing = place.run(&["relay", "--once"]).fails(4);
    assert!(missing.stderr.contains("posthaste migrate"), "{missing:#?}");
    let planned = place.run(&["migrate", "--dry-run"]).succeeds();
    assert!(planned.stdout.contains("create table posthaste.log"), "{planned:#?}");
    place.run(&["migrate"]).succeeds();
    for n in 0..3 {
        let payload = json!({ "n": n }).to_string();
        let arguments = ["enqueue", "orders.created", "--key", "k", "--json-payload", &payload];
        place.run(&arguments).succeeds();
    }
    place.run(&["enqueue", "invoices.sent", "--text", "not for this subscription"]).succeeds();
    let before = place.run(&["status", "--json"]).succeeds();
    assert!(before.stdout.contains("\"messages\":4"), "{before:#?}");

    place.run(&["relay", "--once"]).succeeds();
    place.run(&["relay", "--once"]).succeeds();
    let expected: Vec<Vec<(String, String)>> = (0..3)
        .map(|n| {
            let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
            let payload = format!("{{\"n\":{n}}}");
            [("topic", "orders.created"), ("key", "k"), ("payload", &payload)].map(own).to_vec()
        })
        .collect();
    assert_eq!(entries(&format!("{prefix}orders.created")).await, expected);
    assert_eq!(entries(&format!("{prefix}invoices.sent")).await, Vec::<Vec<_>>::new());

    let tail = place.run(&["tail", "--json"]).succeeds().objects();
    let published: Vec<bool> =
        tail.iter().map(|message| !message["published_at"].is_null()).collect();
    assert_eq!(published, [true, true, true, false]);
    let after = place.run(&["status", "--json"]).succeeds();
    assert!(after.stdout.contains("\"backlog\":0"), "{after:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_schema_is_refused_by_every_command_that_needs_it() {
    let database = Postgres::shared().database().await;
    let place = place(&database, "unused:");
    place.run(&["migrate"]).succeeds();
    let record = "insert into posthaste.migration (version, name) values (9999, 'later')";
    database.connect().await.execute(record, &[]).await.unwrap();
    for arguments in [vec!["migrate"], vec!["relay", "--once"], vec!["relay"]] {
        let refused = place.run(&arguments).fails(4);
        assert!(refused.stderr.contains("9999"), "{refused:#?}");
        assert!(refused.stderr.contains("upgrade this binary"), "{refused:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn password_comes_from_file_or_environment_and_is_never_shown() {
    let password = "only-in-the-file-7361";
    let auth = Auth::Scram(password.to_owned());
    let server = Postgres::start_with(PostgresOptions { auth, ..PostgresOptions::default() });
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", server.port());
    let place = Place::with(&format!(
        "[database]\nurl = \"{url}\"\npassword_file = \"password\"\n\
         [subscriptions.all.sink]\nkind = \"stdout\"\n"
    ));
    place.write("password", &format!("{password}\n"));
    let shown = [
        place.run(&["migrate"]).succeeds(),
        place.run(&["status"]).succeeds(),
        place.run(&["config", "show"]).succeeds(),
    ];
    place.write("password", "wrong\n");
    let refused = place.run(&["status"]).fails(3);
    assert!(refused.stderr.contains("check user, password"), "{refused:#?}");
    place.write("posthaste.toml", &format!("[database]\nurl = \"{url}\"\n"));
    let variable = [("POSTHASTE_DATABASE__PASSWORD", password)];
    let by_environment = place.run_in(&["status"], &variable).succeeds();
    for ran in shown.iter().chain([&refused, &by_environment]) {
        let output = format!("{}{}", ran.stdout, ran.stderr);
        assert!(!output.contains(password), "{}: {output}", ran.arguments());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn demo_runs_on_postgresql_and_redis_and_leaves_nothing() {
    let database = Postgres::shared().database().await;
    let redis = Redis::start();
    let (store, sink) = (database.url(), redis.url());
    let arguments =
        ["demo", "--for", "2s", "--json", "--rate", "200", "--store", store, "--sink", &sink];
    let ran = Place::new().run(&arguments).succeeds();
    crate::demo::is_faultless(&ran);
    let client = database.connect().await;
    let schemas = "select count(*) from pg_namespace where nspname like 'posthaste%'";
    assert_eq!(client.query_one(schemas, &[]).await.unwrap().get::<_, i64>(0), 0);
    let client = redis::Client::open(sink).unwrap();
    let mut connection =
        client.get_multiplexed_async_connection_with_config(&patient()).await.unwrap();
    let keys: i64 = redis::cmd("DBSIZE").query_async(&mut connection).await.unwrap();
    assert_eq!(keys, 0);
}

/// The library's 500 ms are too short for a machine that runs all tests at once.
pub(crate) fn patient() -> redis::AsyncConnectionConfig {
    let limit = Some(std::time::Duration::from_secs(30));
    redis::AsyncConnectionConfig::new().set_connection_timeout(limit).set_response_timeout(limit)
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_and_doctor_tell_of_a_clock_that_is_wrong() {
    let database = Postgres::shared().database().await;
    let place = place(&database, &Redis::shared().prefix());
    place.run(&["migrate"]).succeeds();
    let clock = Clock::new();
    let environment = clock.environment();
    let environment = environment.each_ref().map(|(name, value)| (*name, value.to_str().unwrap()));
    for (seconds, expected) in [(7_200, "7200 s ahead of"), (-7_200, "7200 s behind")] {
        clock.set(seconds);
        let relay = place.run_in(&["relay", "--once"], &environment).succeeds();
        assert!(relay.stderr.contains(expected), "{}", relay.stderr);
        let findings = place.run_in(&["doctor"], &environment).succeeds().objects();
        let is_told = |it: &serde_json::Value| it["text"].as_str().unwrap().contains(expected);
        assert!(findings.iter().any(is_told), "{findings:?}");
    }
}
