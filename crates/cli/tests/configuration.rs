//! Every mistake in the configuration, the layers and their sources.

use serde_json::{Value, json};

use crate::harness::Place;

const FILE: &str = "posthaste.toml";
const SOUND: &str = "[database]\nurl = \"sqlite:a.db\"\n";

/// `config check` of a file must say exactly these lines and exit with 2.
#[track_caller]
fn check(file: &str, lines: &[&str]) {
    check_in(file, &[], &[], lines);
}

#[track_caller]
fn check_in(file: &str, arguments: &[&str], variables: &[(&str, &str)], lines: &[&str]) {
    let arguments = [&["config", "check"], arguments].concat();
    let ran = Place::with(file).run_in(&arguments, variables).fails(2);
    let said: Vec<&str> = ran.stderr.lines().collect();
    let expected: Vec<String> = lines.iter().map(|line| format!("error: {line}")).collect();
    assert_eq!(said, expected);
    assert_eq!(ran.stdout, "");
}

/// A sound file with one more subscription, whose sink starts at line 4.
fn with_sink(sink: &str) -> String {
    format!("{SOUND}[subscriptions.a.sink]\n{sink}")
}

#[test]
fn unknown_key_is_named_with_its_place_and_the_nearest_one_at_every_level() {
    check(
        &format!("{SOUND}pasword = \"x\""),
        &["database.pasword (posthaste.toml:3): unknown key; did you mean \"password\"?"],
    );
    check(
        &format!("{SOUND}[databse]\nurl = 1\nschema = 2"),
        &["databse (posthaste.toml:3): unknown key; did you mean \"database\"?"],
    );
    check(
        &format!("{SOUND}[database.ring]\nslot_sise = 3"),
        &["database.ring.slot_sise (posthaste.toml:4): unknown key; did you mean \"slot_size\"?"],
    );
    check(
        &format!("{SOUND}[relay.retry]\ncapp = \"1s\""),
        &["relay.retry.capp (posthaste.toml:4): unknown key; did you mean \"cap\"?"],
    );
    check(
        &with_sink("kind = \"stdout\"\n[subscriptions.a]\ntopic = [\"*\"]"),
        &["subscriptions.a.topic (posthaste.toml:6): unknown key; did you mean \"topics\"?"],
    );
    check(
        &with_sink("kind = \"stdout\"\nfromat = \"raw\""),
        &["subscriptions.a.sink.fromat (posthaste.toml:5): unknown key; did you mean \"format\"?"],
    );
    check(
        &with_sink("kind = \"stdout\"\nformat.depth.more = 1"),
        &["subscriptions.a.sink.format (posthaste.toml:5): must be \"raw\" or \"cloudevents\", \
           not a table"],
    );
    check(&format!("{SOUND}zebra = 1"), &["database.zebra (posthaste.toml:3): unknown key"]);
}

#[test]
fn value_of_the_wrong_type_or_form_is_named_with_the_remedy() {
    let duration = "must be a duration such as \"200ms\", \"5s\" or \"1m 30s\"";
    for (line, said) in [
        ("[database]\nurl = 3", "database.url = 3 (posthaste.toml:2): must be text in quotes"),
        (
            "[relay]\nbatch_messages = \"ten\"",
            "relay.batch_messages = \"ten\" (posthaste.toml:2): must be a whole number, 0 or more",
        ),
        ("[relay]\nenabled = 1", "relay.enabled = 1 (posthaste.toml:2): must be true or false"),
        (
            "[relay]\nretry = 3",
            "relay.retry = 3 (posthaste.toml:2): must be a table with keys of its own",
        ),
        (
            "[relay]\npage_stride = 5000000000",
            "relay.page_stride = 5000000000 (posthaste.toml:2): must be a whole number from 0 to \
             4294967295",
        ),
        (
            "[relay]\nbusy_interval = \"5 parsecs\"",
            &format!("relay.busy_interval = \"5 parsecs\" (posthaste.toml:2): {duration}"),
        ),
        (
            "[database]\nretention = \"soon\"",
            &format!("database.retention = \"soon\" (posthaste.toml:2): {duration}"),
        ),
        (
            "[log]\nformat = \"jsn\"",
            "log.format = \"jsn\" (posthaste.toml:2): must be \"auto\", \"human\" or \"json\"",
        ),
        (
            "[log]\nlevel = \"inf\"",
            "log.level = \"inf\" (posthaste.toml:2): is not a level; write error, warn, info, \
             debug or trace, or levels by module such as info,posthaste_relay=debug",
        ),
        (
            "[database]\nschema = \"My-Schema\"",
            "database.schema = \"My-Schema\" (posthaste.toml:2): schema name \"My-Schema\" is not \
             allowed: use a lower-case letter followed by up to 39 lower-case letters, digits or \
             underscores, not starting with pg_, for example \"posthaste\"",
        ),
    ] {
        let ran = Place::with(line).run_in(
            &["config", "check"],
            if line.contains("url") { &[] } else { &[("POSTHASTE_DATABASE__URL", "sqlite:a.db")] },
        );
        assert_eq!(ran.fails(2).stderr, format!("error: {said}\n"), "{line}");
    }
}

#[test]
fn telemetry_settings_are_checked_and_say_what_to_write() {
    check(
        &format!("{SOUND}[telemetry]\nlisten = \"localhost\"\ninterval = \"1ms\""),
        &[
            "telemetry.listen = \"localhost\" (posthaste.toml:4): is not an address with a port; \
             write for example 127.0.0.1:9464, or [::]:9464 for every address of this machine",
            "telemetry.interval = \"1ms\" (posthaste.toml:5): must lie between 1s and 1h",
        ],
    );
}

#[test]
fn value_out_of_range_is_named_with_its_range() {
    check(
        &format!("{SOUND}operation_timeout = \"1ms\"\n[relay]\nbatch_messages = 0\npage_bytes = 1"),
        &[
            "database.operation_timeout = \"1ms\" (posthaste.toml:3): must lie between 100ms and \
             10m",
            "relay.batch_messages = 0 (posthaste.toml:5): must lie between 1 and 10000",
            "relay.page_bytes = 1 (posthaste.toml:6): must lie between 1024 and 67108864",
        ],
    );
    check(
        &format!("{SOUND}[database.ring]\nslots = 1\nslot_size = 0"),
        &[
            "database.ring.slots = 1 (posthaste.toml:4): must lie between 2 and 1024",
            "database.ring.slot_size = 0 (posthaste.toml:5): must lie between 1 and 16777216",
        ],
    );
}

#[test]
fn url_that_is_missing_or_leads_nowhere_is_named() {
    let remedy = "write postgres://user@host:5432/database or sqlite:PATH";
    for (url, said) in [
        ("mysql://h/d", "has an unknown scheme"),
        ("sqlite:", "names no file"),
        ("postgres://h:port/d", "is not a valid URL (invalid port number)"),
    ] {
        let at = format!("database.url = \"{url}\" (posthaste.toml:2)");
        check(&format!("[database]\nurl = \"{url}\""), &[&format!("{at}: {said}; {remedy}")]);
    }
    check(
        "",
        &["database.url is missing; set it in the file, with POSTHASTE_DATABASE__URL or with \
           --database-url, for example sqlite:posthaste.db"],
    );
}

#[test]
fn sinks_are_checked_through_the_registry() {
    let kinds = "choose one of bullmq, local, redis-list, redis-pubsub, redis-stream, stdout";
    check(
        &with_sink("kind = \"stdotu\""),
        &[&format!(
            "subscriptions.a.sink.kind = \"stdotu\" (posthaste.toml:4): unknown kind; {kinds}; \
             did you mean \"stdout\"?"
        )],
    );
    check(
        &format!("{SOUND}[subscriptions.a]"),
        &[&format!("subscriptions.a.sink.kind (posthaste.toml:3): is missing; {kinds}")],
    );
    check(
        &with_sink("kind = \"local\""),
        &[
            "subscriptions.a.sink.channel (posthaste.toml:3): is missing; a sink of kind \"local\" needs it: text in \
           quotes",
        ],
    );
    let template = Place::with(&with_sink(
        "kind = \"redis-stream\"\nurl = \"redis://h\"\nstream = \"run:{id}\"",
    ));
    let said = template.run(&["config", "check"]).fails(2).stderr;
    let start = "error: subscriptions.a.sink.stream (posthaste.toml:6): ";
    assert!(said.starts_with(start) && said.contains("\"run:{id}\""), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn names_and_topics_of_subscriptions_are_checked() {
    check(
        &format!("{SOUND}[subscriptions.\"Big Orders\".sink]\nkind = \"stdout\""),
        &[
            "subscriptions.\"Big Orders\" (posthaste.toml:3): a name is 1 to 64 lower-case letters, \
           digits, _ or - and starts with a letter",
        ],
    );
    check(
        &with_sink("kind = \"stdout\"\n[subscriptions.a]\ntopics = [\"a*b\"]"),
        &["subscriptions.a.topics = [\"a*b\"] (posthaste.toml:6): topic pattern \"a*b\" is not \
           allowed: use an exact topic, a prefix followed by one *, or * for every topic"],
    );
}

#[test]
fn file_that_cannot_be_read_or_is_not_toml_is_named() {
    check_in(
        SOUND,
        &["--config", "nowhere.toml", "--database-url", "sqlite:a.db"],
        &[],
        &["nowhere.toml cannot be read (No such file or directory (os error 2)); check --config \
           or POSTHASTE_CONFIG"],
    );
    check_in(
        "[database]\nurl = \"sqlite:a.db\"\nschema = \"a",
        &["--database-url", "sqlite:a.db"],
        &[],
        &["posthaste.toml:3: not valid TOML: invalid basic string, expected `\"`"],
    );
}

#[test]
fn unknown_variables_are_named_and_those_of_kubernetes_left_alone() {
    check_in(
        SOUND,
        &[],
        &[("POSTHASTE_DATABASE__SHCEMA", "x")],
        &["database.shcema (POSTHASTE_DATABASE__SHCEMA): unknown key; did you mean \"schema\"?"],
    );
    check_in(
        SOUND,
        &[],
        &[("POSTHASTE_DATABASE_URL", "x")],
        &["POSTHASTE_DATABASE_URL: unknown variable; did you mean POSTHASTE_DATABASE__URL?"],
    );
    check_in(
        &with_sink("kind = \"stdout\""),
        &[],
        &[("POSTHASTE_SUBSCRIPTIONS__A__SINK__FROMAT", "x")],
        &["subscriptions.a.sink.fromat (POSTHASTE_SUBSCRIPTIONS__A__SINK__FROMAT): unknown key; \
           did you mean \"format\"?"],
    );
    let service = [("POSTHASTE_SERVICE_HOST", "10.0.0.1"), ("POSTHASTE_PORT_80_TCP", "x")];
    Place::with(SOUND).run_in(&["config", "check"], &service).succeeds();
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_the_file() {
    let file = "[relay]\nbatch_messages = 0\nbusy_interval = 3\nidel_interval = \"1s\"\n\
                [subscriptions.a.sink]\nkind = \"x\"\n[database]\nurl = \"x:y\"";
    let ran = Place::with(file)
        .run_in(&["config", "check", "--json"], &[("POSTHASTE_LOG__LEVEL", "loud")])
        .fails(2);
    let error: Value = serde_json::from_str(&ran.stderr).unwrap();
    let problems = error["error"]["problems"].as_array().unwrap();
    let keys: Vec<&str> = problems.iter().map(|it| it["key"].as_str().unwrap()).collect();
    assert_eq!(
        keys,
        [
            "relay.batch_messages",
            "relay.busy_interval",
            "relay.idel_interval",
            "subscriptions.a.sink.kind",
            "database.url",
            "log.level",
        ]
    );
    assert_eq!(error["error"]["exit_code"], 2);
}

#[test]
fn other_commands_refuse_a_faulty_configuration_before_they_do_anything() {
    let place = Place::with("[database]\nurl = \"sqlite:a.db\"\nshcema = \"x\"");
    for command in [&["migrate"][..], &["relay"], &["status"], &["tail"], &["enqueue", "a"]] {
        let ran = place.run(command).fails(2);
        assert!(ran.stderr.contains("database.shcema"), "{ran:#?}");
    }
    assert!(!place.path().join("a.db").exists());
}

fn shown(place: &Place, arguments: &[&str], variables: &[(&str, &str)], key: &str) -> Value {
    let arguments = [&["config", "show", "--json"], arguments].concat();
    let objects = place.run_in(&arguments, variables).succeeds().objects();
    objects.into_iter().find(|it| it["key"] == key).unwrap_or(Value::Null)
}

#[test]
fn flag_stands_over_variable_over_file_over_default() {
    let variable = [("POSTHASTE_DATABASE__SCHEMA", "of_env")];
    let place = Place::with(SOUND);
    let schema = |arguments: &[&str], variables: &[(&str, &str)]| {
        shown(&place, arguments, variables, "database.schema")
    };
    let expected = |value: &str, source: &str, origin: &str| json!({ "key": "database.schema", "value": value, "source": source, "origin": origin });
    assert_eq!(schema(&[], &[]), expected("posthaste", "default", "default"));
    place.write(FILE, &format!("{SOUND}schema = \"of_file\""));
    assert_eq!(schema(&[], &[]), expected("of_file", "file", "posthaste.toml:3"));
    assert_eq!(schema(&[], &variable), expected("of_env", "env", variable[0].0));
    let flag = ["--schema", "of_flag"];
    assert_eq!(schema(&flag, &variable), expected("of_flag", "flag", "--schema"));
}

#[test]
fn file_is_found_by_flag_then_variable_then_name() {
    let place = Place::with(SOUND);
    for (name, schema) in [("b.toml", "of_b"), ("c.toml", "of_c")] {
        place.write(name, &format!("{SOUND}schema = \"{schema}\""));
    }
    let variable = [("POSTHASTE_CONFIG", "b.toml")];
    let schema = |arguments: &[&str], variables: &[(&str, &str)]| {
        shown(&place, arguments, variables, "database.schema")["value"].clone()
    };
    assert_eq!(schema(&[], &[]), "posthaste");
    assert_eq!(schema(&[], &variable), "of_b");
    assert_eq!(schema(&["--config", "c.toml"], &variable), "of_c");
}

#[test]
fn variables_take_the_type_of_their_key_and_reach_sinks_and_names_with_dashes() {
    let place = Place::with(&format!("{SOUND}[subscriptions.big-orders.sink]\nkind = \"local\""));
    let prefix = "POSTHASTE_SUBSCRIPTIONS__BIG_ORDERS__";
    let (topics, channel) = (format!("{prefix}TOPICS"), format!("{prefix}SINK__CHANNEL"));
    let variables = [
        (topics.as_str(), "a, b*"),
        (channel.as_str(), "007"),
        ("POSTHASTE_RELAY__BATCH_MESSAGES", "7"),
        ("POSTHASTE_RELAY__ENABLED", "false"),
    ];
    let value = |key| shown(&place, &[], &variables, key)["value"].clone();
    assert_eq!(value("subscriptions.big-orders.topics"), json!(["a", "b*"]));
    assert_eq!(value("subscriptions.big-orders.sink.channel"), "007");
    assert_eq!(value("relay.batch_messages"), 7);
    assert_eq!(value("relay.enabled"), false);
}

#[test]
fn defaults_of_sinks_are_shown_too() {
    let place = Place::with(&with_sink("kind = \"redis-stream\"\nurl = \"redis://h\""));
    let stream = shown(&place, &[], &[], "subscriptions.a.sink.stream");
    assert_eq!(
        (&stream["value"], &stream["source"]),
        (&json!("posthaste:{topic}"), &json!("default"))
    );
}

#[test]
fn r43_variables_of_hand_made_outboxes_stand_between_the_file_and_ours() {
    let place = Place::with(
        "[database]\nurl = \"sqlite:log.db\"\n[relay]\nbatch_messages = 7\n\
         [subscriptions.orders.sink]\nkind = \"stdout\"\n",
    );
    let variables = [
        ("OUTBOX_BATCH_SIZE", "10"),
        ("OUTBOX_MAX_RETRIES", "3"),
        ("OUTBOX_DEAD_LETTER_SIZE", "1000"),
        ("OUTBOX_PROCESS_INTERVAL", "5s"),
        ("POSTHASTE_RELAY__IDLE_INTERVAL", "1s"),
    ];
    let shown = place.run_in(&["config", "show"], &variables).succeeds().objects();
    let find = |key: &str| shown.iter().find(|it| it["key"] == key).unwrap();
    let batch = find("relay.batch_messages");
    assert_eq!((&batch["value"], &batch["origin"]), (&json!(10), &json!("OUTBOX_BATCH_SIZE")));
    assert_eq!(find("subscriptions.orders.failure.attempts")["value"], 3);
    assert_eq!(find("subscriptions.orders.failure.dead_letters_max")["value"], 1000);
    assert_eq!(find("relay.idle_interval")["value"], "1s");

    let refused = place.run_in(&["config", "check"], &[("OUTBOX_BATCH_SIZE", "0")]).fails(2);
    assert!(refused.stderr.contains("OUTBOX_BATCH_SIZE"), "{}", refused.stderr);
}
