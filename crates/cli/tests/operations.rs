//! What operators do: dead letters, replay, erasure and subscriptions, from end to end.

use posthaste_testkit::{Redis, RedisAuth, RedisOptions, Tls};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::harness::Place;

/// Messages without a header `tenant` are rejected, and dead at once.
fn place() -> (Place, String) {
    let redis = Redis::shared();
    let prefix = redis.prefix();
    let place = Place::with(&format!(
        "[database]\nurl = \"sqlite:log.db\"\n\
         [subscriptions.orders]\nfailure = {{ policy = \"dead-letter\", attempts = 1 }}\n\
         [subscriptions.orders.sink]\nkind = \"redis-stream\"\nurl = \"{}\"\n\
         stream = \"{prefix}{{header:tenant}}\"\n",
        redis.url()
    ));
    place.run(&["migrate"]).succeeds();
    for (topic, tenant) in [("good", Some("tenant=acme")), ("bad", None), ("worse", None)] {
        let mut arguments = vec!["enqueue", topic, "--key", topic, "--json-payload", "1"];
        arguments.extend(tenant.into_iter().flat_map(|tenant| ["--header", tenant]));
        place.run(&arguments).succeeds();
    }
    place.run(&["relay", "--once"]).succeeds();
    (place, prefix)
}

fn topics(objects: &[Value]) -> Vec<&str> {
    objects.iter().filter_map(|it| it["topic"].as_str()).collect()
}

#[test]
fn r14_dead_letters_are_listed_shown_replayed_and_discarded() {
    let (place, _) = place();
    let listed = place.run(&["dead-letters", "list"]).succeeds().objects();
    assert_eq!(topics(&listed), ["bad", "worse"]);
    assert!(listed[0]["reason"].as_str().unwrap().contains("no header"), "{}", listed[0]);
    assert_eq!((&listed[0]["attempts"], &listed[0]["subscription"]), (&json!(1), &json!("orders")));
    let worse = place.run(&["dead-letters", "list", "--topic", "wor*"]).succeeds().objects();
    assert_eq!(topics(&worse), ["worse"]);
    let none = place.run(&["dead-letters", "list", "--until", "1h"]).succeeds().stdout;
    assert_eq!(none, "");

    let id = listed[0]["id"].as_str().unwrap();
    let shown = place.run(&["dead-letters", "show", id]).succeeds().objects();
    assert_eq!(shown[0]["message"]["payload"], "1");

    let refused = place.run(&["dead-letters", "replay"]).fails(2);
    assert!(refused.stderr.contains("--all"), "{}", refused.stderr);
    let seen = place.run(&["dead-letters", "replay", "--all", "--dry-run"]).succeeds().objects();
    assert_eq!(seen[0], json!({ "replayed": 2, "dry_run": true }));
    let replayed = place.run(&["dead-letters", "replay", id]).succeeds().objects();
    assert_eq!(replayed[0]["replayed"], 1);
    let left = place.run(&["dead-letters", "list"]).succeeds().objects();
    assert_eq!(topics(&left), ["worse"]);
    // Refused again, and dead again.
    place.run(&["relay", "--once"]).succeeds();
    assert_eq!(place.run(&["dead-letters", "list"]).succeeds().objects().len(), 2);

    let discarded = ["dead-letters", "discard", "--reason", "no header", "--actor", "ann"];
    assert_eq!(place.run(&discarded).succeeds().objects()[0]["discarded"], 2);
    assert_eq!(place.run(&["dead-letters", "list"]).succeeds().stdout, "");
    let gone = place.run(&["dead-letters", "show", id]).fails(1);
    assert!(gone.stderr.contains("dead-letters list"), "{}", gone.stderr);
}

#[test]
fn r14_published_message_is_replayed_and_an_erased_one_says_so() {
    let (place, prefix) = place();
    let replay = ["replay", "--subscription", "orders", "--topic", "good"];
    let seen = place.run(&[&replay[..], &["--dry-run"]].concat()).succeeds().objects();
    assert_eq!(seen[0], json!({ "replayed": 1, "dry_run": true }));
    place.run(&replay).succeeds();
    place.run(&["relay", "--once"]).succeeds();
    let mut redis = redis::Client::open(Redis::shared().url()).unwrap().get_connection().unwrap();
    let stream = format!("{prefix}acme");
    let length: u64 = redis::cmd("XLEN").arg(&stream).query(&mut redis).unwrap();
    assert_eq!(length, 2);

    place.run(&["erase"]).fails(2);
    let erased = place.run(&["erase", "--key", "good"]).succeeds().objects();
    assert_eq!(erased[0]["erased"], 1);
    let tail = place.run(&["tail"]).succeeds().objects();
    assert_eq!((&tail[0]["payload"], tail.len()), (&json!(""), 3));
    assert!(tail[0]["headers"]["posthaste-erased"].is_string(), "{}", tail[0]);
}

#[test]
fn subscriptions_are_listed_paused_rewound_and_removed() {
    let place = Place::migrated("");
    place.run(&["enqueue", "a", "--json-payload", "1"]).succeeds();
    assert_eq!(place.run(&["relay", "--once"]).succeeds().objects().len(), 1);
    let listed = place.run(&["subscriptions", "list"]).succeeds().objects();
    assert_eq!((&listed[0]["name"], &listed[0]["state"]), (&json!("orders"), &json!("idle")));

    place.run(&["subscriptions", "pause", "orders"]).succeeds();
    let paused = place.run(&["subscriptions", "show", "orders"]).succeeds().objects();
    assert_eq!((&paused[0]["state"], &paused[0]["keys"]), (&json!("paused"), &json!([])));
    place.run(&["enqueue", "a", "--json-payload", "2"]).succeeds();
    assert_eq!(place.run(&["relay", "--once"]).fails(1).stdout, "");
    place.run(&["subscriptions", "resume", "orders"]).succeeds();
    assert_eq!(place.run(&["relay", "--once"]).succeeds().objects().len(), 1);

    let rewind = ["subscriptions", "rewind", "orders", "--to", "beginning"];
    let seen = place.run(&[&rewind[..], &["--dry-run"]].concat()).succeeds().objects();
    assert_eq!((&seen[0]["messages"], &seen[0]["tick"]), (&json!(2), &json!(0)));
    assert_eq!(place.run(&["relay", "--once"]).succeeds().stdout, "");
    place.run(&rewind).succeeds();
    assert_eq!(place.run(&["relay", "--once"]).succeeds().objects().len(), 2);

    place.write("posthaste.toml", "[database]\nurl = \"sqlite:log.db\"");
    let listed = place.run(&["subscriptions", "list"]).succeeds().objects();
    assert_eq!(listed[0]["state"], "abandoned");
    place.run(&["subscriptions", "remove", "orders", "--dry-run"]).succeeds();
    place.run(&["subscriptions", "remove", "orders"]).succeeds();
    assert_eq!(place.run(&["subscriptions", "list"]).succeeds().stdout, "");
    for command in ["show", "pause", "remove"] {
        let refused = place.run(&["subscriptions", command, "orders"]);
        assert_ne!(refused.code, Some(0), "{command}");
        assert!(refused.stderr.contains("orders"), "{}", refused.stderr);
    }
    let nonsense = place.run(&["subscriptions", "rewind", "orders", "--to", "soon"]).fails(2);
    assert!(nonsense.stderr.contains("is no time"), "{}", nonsense.stderr);
}

/// The findings of a level, by check.
fn found<'a>(findings: &'a [Value], level: &str) -> Vec<(&'a str, &'a str)> {
    let of = findings.iter().filter(|it| it["level"] == level);
    of.map(|it| (it["check"].as_str().unwrap(), it["text"].as_str().unwrap())).collect()
}

#[test]
fn r19_doctor_finds_drift_between_writer_relay_and_consumer() {
    let (place, prefix) = place();
    let stream = format!("{prefix}acme");
    let sound = ["doctor", "--consumer", &stream, "--writer-url", "sqlite:log.db"];
    let findings = place.run(&sound).succeeds().objects();
    assert!(found(&findings, "error").is_empty(), "{findings:?}");
    assert_eq!(found(&findings, "warning").len(), 1, "the dead letters: {findings:?}");

    // A topic that nobody reads, and readers of one that nobody writes.
    let text = std::fs::read_to_string(place.path().join("posthaste.toml")).unwrap();
    let text = text.replace("[subscriptions.orders]", "[subscriptions.orders]\ntopics = [\"god\"]");
    place.write("posthaste.toml", &text);
    let other = Place::migrated("");
    let url = format!("sqlite:{}", other.path().join("log.db").display());
    let ran = place.run(&["doctor", "--consumer", "jobs", "--writer-url", &url]).fails(1);
    let findings = ran.objects();
    let errors = found(&findings, "error");
    let about = |check: &str, text: &str| {
        errors.iter().any(|(of, told)| *of == check && told.contains(text))
    };
    assert!(about("topics", "good is written"), "{errors:?}");
    assert!(about("topics", "worse is written"), "{errors:?}");
    assert!(about("consumers", "jobs is written by no subscription"), "{errors:?}");
    assert!(about("writer", "another log"), "{errors:?}");
    let warnings = found(&findings, "warning");
    assert!(warnings.iter().any(|(_, told)| told.contains("reads god")), "{warnings:?}");
}

#[test]
fn r19_doctor_names_a_sink_that_cannot_be_reached_and_an_abandoned_subscription() {
    let place = Place::migrated("");
    place.run(&["enqueue", "a", "--json-payload", "1"]).succeeds();
    place.run(&["relay", "--once"]).succeeds();
    place.write(
        "posthaste.toml",
        "[database]\nurl = \"sqlite:log.db\"\n[subscriptions.new.sink]\n\
         kind = \"redis-stream\"\nurl = \"redis://127.0.0.1:1\"\n",
    );
    let findings = place.run(&["doctor"]).fails(1).objects();
    let errors = found(&findings, "error");
    assert!(errors.len() == 1 && errors[0].1.contains("127.0.0.1:1"), "{errors:?}");
    let warnings = found(&findings, "warning");
    let told = |text: &str| warnings.iter().any(|(_, warning)| warning.contains(text));
    assert!(told("orders is in the database and not in the configuration"), "{warnings:?}");
    assert!(told("new has never been published"), "{warnings:?}");
}

/// TLS, a user of the access control list, and a provider that keeps CONFIG to itself.
#[test]
fn r56_managed_redis_that_refuses_config_is_published_to_with_a_warning() {
    let password = "hunter2";
    let redis = Redis::start_with(RedisOptions {
        auth: RedisAuth::User {
            name: "relay".to_owned(),
            password: password.to_owned(),
            rules: "~* &* +@all -config".to_owned(),
        },
        tls: Some(Tls::generate()),
        append_only: false,
        ..RedisOptions::default()
    });
    let place = Place::migrated("");
    place.write("password", password);
    place.write(
        "posthaste.toml",
        &format!(
            "[database]\nurl = \"sqlite:log.db\"\n[subscriptions.orders.sink]\n\
             kind = \"redis-stream\"\nurl = \"rediss://relay@127.0.0.1:{}\"\n\
             password_file = \"password\"\nca_file = \"{}\"\n",
            redis.port(),
            redis.ca_file().display()
        ),
    );
    place.run(&["enqueue", "a", "--json-payload", "1"]).succeeds();
    let ran = place.run(&["relay", "--once"]).succeeds();
    assert!(!ran.stderr.contains(password), "{}", ran.stderr);
    let doctor = place.run(&["doctor"]).succeeds();
    assert!(!doctor.stdout.contains(password), "{}", doctor.stdout);
    let findings = doctor.objects();
    let warnings = found(&findings, "warning");
    let told = |text: &str| warnings.iter().any(|(_, warning)| warning.contains(text));
    assert!(told("settings could not be read"), "{warnings:?}");
    // `INFO` still tells that nothing is appended to disk.
    assert!(told("set appendonly yes"), "{warnings:?}");
    let backlog = place.run(&["status"]).succeeds().objects();
    assert_eq!(backlog[0]["subscriptions"][0]["backlog"], 0, "{backlog:?}");
}

#[test]
fn r10b_compatibility_view_is_created_on_request() {
    let place = Place::migrated("");
    let made = place.run(&["migrate", "--compatibility-view", "job_outbox"]).succeeds().objects();
    assert_eq!(made[0]["compatibility_view"], "job_outbox");
    let refused = place.run(&["migrate", "--compatibility-view", "Job Outbox"]).fails(2);
    assert!(refused.stderr.contains("job_outbox"), "{}", refused.stderr);
}

#[test]
fn r23_sweep_forgets_what_is_past_its_retention_until_nothing_is_left() {
    let place = Place::with(
        "[database]\nurl = \"sqlite:log.db\"\ninbox_retention = \"1h\"\ncommand_retention = \"1h\"\n",
    );
    place.run(&["migrate"]).succeeds();
    let connection = Connection::open(place.path().join("log.db")).unwrap();
    // More than one sweep takes at once.
    connection
        .execute_batch(
            "with recursive n (n) as (select 1 union all select n + 1 from n where n < 120000) \
             insert into posthaste_inbox (consumer, message_id, handled_at) \
             select 'c', randomblob(16), 1 from n; \
             insert into posthaste_inbox (consumer, message_id) values ('c', randomblob(16)); \
             insert into posthaste_command (scope, key, fingerprint, owner, response, created_at) \
             values ('s', 'old', zeroblob(32), zeroblob(16), x'', 1); \
             insert into posthaste_job (id, state, topic, content_type, headers, message_id, payload, \
               finished_at) values (zeroblob(16), 'dead', 't', 't', '{}', zeroblob(16), x'', 1)",
        )
        .unwrap();
    let swept = place.run(&["sweep"]).succeeds().objects();
    let told = ["inbox", "commands", "jobs"].map(|what| swept[0][what].clone());
    assert_eq!(told, [120_000, 1, 1].map(|count| json!(count)));
    let left = "select count(*) from posthaste_inbox";
    assert_eq!(connection.query_row(left, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    assert_eq!(place.run(&["sweep"]).succeeds().objects()[0]["inbox"], 0);
}
