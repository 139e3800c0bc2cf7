//! `posthaste contracts`: from files to what is found, pushed, shown and written as types.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use posthaste_testkit::Postgres;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::harness::{Place, Ran};

/// A job with an id; `more` is added to the schema.
fn job(more: &str) -> String {
    let id = r#""type": "object", "required": ["id"], "properties": {"id": {"type": "string"}}"#;
    format!("{{{id}{more}}}\n")
}

/// A new version of it whose readers ask for more.
const STRICTER: &str = r#"{"type": "object", "required": ["id", "region"],
  "properties": {"id": {"type": "string"}, "region": {"type": "string"}}}"#;

fn put(place: &Place, name: &str, text: &str) {
    fs::create_dir_all(place.path().join(name).parent().unwrap()).unwrap();
    place.write(name, text);
}

/// A tree with one contract, and the configuration of an embedded log.
fn place() -> Place {
    let place = Place::with("[database]\nurl = \"sqlite:log.db\"\n");
    put(&place, "contracts/jobs/v1.json", &job(""));
    place
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/benchmark-jobs/contracts")
}

/// Findings by topic and version, or by file.
fn findings(ran: &Ran) -> BTreeMap<String, Vec<String>> {
    let name = |it: &Value| match it["topic"].as_str() {
        Some(topic) => format!("{topic} {}", it["version"]),
        None => it["file"].as_str().unwrap().to_owned(),
    };
    let texts = |it: &Value| serde_json::from_value(it["findings"].clone()).unwrap();
    ran.objects().iter().map(|it| (name(it), texts(it))).collect()
}

#[test]
fn r29_contracts_of_jobs_and_receipts_pass_the_check_with_their_samples() {
    let checked = Place::new().run(&["contracts", "check", example().to_str().unwrap()]);
    let checked = checked.succeeds().objects();
    let told: Vec<_> = checked
        .iter()
        .map(|it| (it["topic"].as_str().unwrap(), &it["version"], &it["samples"], &it["findings"]))
        .collect();
    let (one, six, none) = (json!(1), json!(6), json!([]));
    assert_eq!(told, [("jobs.receipt", &one, &six, &none), ("jobs.submitted", &one, &six, &none)]);
}

#[test]
fn r31_incompatible_version_fails_the_check_which_names_the_property() {
    let place = Place::new();
    let file = |version| format!("contracts/jobs.submitted/v{version}.json");
    let text = fs::read_to_string(example().join("jobs.submitted/v1.json")).unwrap();
    put(&place, &file(1), &text);
    let check = ["contracts", "check"];
    // As it happened: one side says `id`, and the other `jobspec_id`.
    put(&place, &file(2), &text.replace("\"jobspec_id\"", "\"id\""));
    let refused = place.run(&check).fails(1);
    let found = findings(&refused);
    assert_eq!(found["jobs.submitted 1"], [""; 0]);
    let said = "version 2 cannot read all that version 1 writes: ";
    let of_id = format!("{said}/id: required: optional when written, required when read");
    assert!(found["jobs.submitted 2"].contains(&of_id), "{found:?}");
    assert!(refused.stderr.contains("findings: correct the files"), "{}", refused.stderr);
    place.run(&["contracts", "check", "--compatibility", "none"]).succeeds();

    put(&place, &file(2), &text.replace("\"minimum\": 1", "\"minimum\": 2"));
    let found = findings(&place.run(&check).fails(1));
    let bound = &found["jobs.submitted 2"];
    assert!(bound[0].starts_with(&format!("{said}/constraints/min_regions: ")), "{bound:?}");
}

#[test]
fn demand_says_which_version_has_to_read_which() {
    let place = place();
    put(&place, "contracts/jobs/v2.json", STRICTER);
    let check = |demand| place.run(&["contracts", "check", "--compatibility", demand]);
    check("none").succeeds();
    check("forward").succeeds();
    for demand in ["backward", "full"] {
        let found = findings(&check(demand).fails(1));
        let said = "version 2 cannot read all that version 1 writes: /region: ";
        assert!(found["jobs 2"].iter().all(|it| it.starts_with(said)), "{found:?}");
    }
    // Each version is compared with the one before it.
    fs::rename(
        place.path().join("contracts/jobs/v1.json"),
        place.path().join("contracts/jobs/v3.json"),
    )
    .unwrap();
    check("backward").succeeds();
    let found = findings(&check("forward").fails(1));
    assert!(found["jobs 3"][0].starts_with("version 2 cannot read all that version 3 writes: "));
}

#[test]
fn r31_samples_that_are_not_what_they_say_are_found_without_their_content() {
    let place = place();
    let samples = "contracts/jobs/v1.samples";
    for (name, text) in [
        ("valid-whole", r#"{"id": "a"}"#),
        ("invalid-number", r#"{"id": 1}"#),
        ("invalid-text", "no JSON"),
        ("valid-secret", r#"{"id": 48151623}"#),
        ("invalid-whole", r#"{"id": "a"}"#),
        ("valid-empty", ""),
    ] {
        put(&place, &format!("{samples}/{name}.json"), text);
    }
    let refused = place.run(&["contracts", "check"]).fails(1);
    assert!(!refused.stdout.contains("48151623"));
    let expected = [
        "invalid-whole.json is valid: name it so, or have the contract refuse it",
        "valid-empty.json is not valid: payload: ",
        "valid-secret.json is not valid: /id: not of type string",
    ];
    let found = &findings(&refused)["jobs 1"];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(&format!("{samples}/{expected}")), "{found}");
    }
}

#[test]
fn everything_strange_in_a_tree_is_named_and_the_rest_is_checked() {
    let place = place();
    let contracts = place.path().join("contracts");
    let outside = put_outside(&place);
    for (name, text) in [
        ("contracts/v1.json", "{}"),
        ("contracts/jobs/v01.json", "{}"),
        ("contracts/jobs/v0.json", "{}"),
        ("contracts/jobs/v4294967296.json", "{}"),
        ("contracts/jobs/README.md", "notes"),
        ("contracts/jobs/v2.json", "{"),
        ("contracts/jobs/v2.samples/valid-a.json", "1"),
        ("contracts/jobs/v1.samples/good.json", "{}"),
        ("contracts/jobs/v1.samples/valid-folder.json/a", "{}"),
        ("contracts/jobs/v9.samples/valid-a.json", "1"),
        ("contracts/jobs/x.samples/valid-a.json", "1"),
        ("contracts/jobs/.v1.json.swp", "an editor's"),
        ("contracts/refused/v1.json", r#"{"type": "strnig"}"#),
        ("contracts/bad topic/v1.json", "{}"),
        ("contracts/in/folders/v1.json", "{}"),
    ] {
        put(&place, name, text);
    }
    put(&place, "contracts/jobs/v3.json", &" ".repeat(1024 * 1024 + 1));
    fs::write(contracts.join("jobs/v5.json"), b"\"\xff\"").unwrap();
    symlink(&outside, contracts.join("jobs/v6.json")).unwrap();
    symlink("v1.json", contracts.join("jobs/v7.json")).unwrap();
    symlink("nowhere", contracts.join("jobs/v8.json")).unwrap();
    symlink(".", contracts.join("round")).unwrap();
    let fifo = contracts.join("jobs/v10.json");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());

    let refused = place.run(&["contracts", "check"]).fails(1);
    assert!(!refused.stdout.contains("a secret"));
    let mut found = findings(&refused);
    for (name, said) in [
        ("contracts/v1.json", "belongs to no topic"),
        ("contracts/jobs/v01.json", "name it v<version>.json"),
        ("contracts/jobs/v0.json", "name it v<version>.json"),
        ("contracts/jobs/v4294967296.json", "name it v<version>.json"),
        ("contracts/jobs/README.md", "name it v<version>.json"),
        ("contracts/jobs/v2.json", "is not JSON: EOF"),
        ("contracts/jobs/v1.samples/good.json", "name it valid-<what>.json"),
        ("contracts/jobs/v1.samples/valid-folder.json", "name it valid-<what>.json"),
        ("contracts/jobs/v9.samples", "holds samples of no contract: add v9.json"),
        ("contracts/jobs/x.samples", "name it v<version>.samples"),
        ("contracts/jobs/v3.json", "is longer than 1048576 bytes"),
        ("contracts/jobs/v5.json", "is not UTF-8 from byte 1"),
        ("contracts/jobs/v6.json", "leads out of the contracts"),
        ("contracts/jobs/v8.json", "cannot be read: No such file"),
        ("contracts/jobs/v10.json", "is neither a file nor a folder"),
        ("contracts/round", "is a link to a folder"),
        ("refused 1", "at /type: \"strnig\""),
        ("bad topic 1", "its topic is not valid"),
    ] {
        let texts = found.remove(name).unwrap_or_else(|| panic!("{name}: {refused:#?}"));
        assert!(texts.len() == 1 && texts[0].contains(said), "{name}: {texts:?}");
    }
    let sound = ["in/folders 1", "jobs 1", "jobs 7"].map(|name| (name.to_owned(), Vec::new()));
    assert_eq!(found, BTreeMap::from(sound));
    assert!(refused.stderr.contains("18 findings"), "{}", refused.stderr);
}

/// A file beside the tree.
fn put_outside(place: &Place) -> PathBuf {
    place.write("outside.json", "{\"title\": \"a secret\"}")
}

#[test]
fn r31_tree_is_compared_with_that_of_the_main_branch() {
    let place = place();
    put(&place, "main/jobs/v1.json", &job(""));
    put(&place, "main/jobs/v3.json", STRICTER);
    put(&place, "main/gone/v1.json", "{}");
    let check = ["contracts", "check", "--against", "main"];
    place.run(&check).succeeds();

    // Written otherwise, and the same.
    put(
        &place,
        "contracts/jobs/v1.json",
        &job("").replace("{\"type\": \"object\", ", "{").replace("}}}", "}}, \"type\":\"object\"}"),
    );
    place.run(&check).succeeds();

    put(&place, "contracts/jobs/v1.json", &job(r#", "title": "A job""#));
    put(&place, "contracts/jobs/v2.json", &job(""));
    put(&place, "contracts/jobs/v4.json", &STRICTER.replace("region", "area"));
    let found = findings(&place.run(&check).fails(1));
    let [changed, low, new] = [1, 2, 4].map(|version| &found[&format!("jobs {version}")]);
    assert!(changed[0].contains("is not that of version 1 in main"), "{changed:?}");
    assert_eq!(low[..], ["it is new, and main has version 3: number it 4"]);
    let expected = "version 4 cannot read all that version 3 writes: ";
    assert!(new.iter().any(|it| it.starts_with(expected)), "{new:?}");

    put(&place, "main/notes", "?");
    let refused = place.run(&check).fails(2);
    assert!(refused.stderr.contains("main/notes is no contract"), "{}", refused.stderr);
}

#[test]
fn r31_contracts_are_pushed_once_and_never_change() {
    let place = place();
    place.run(&["migrate"]).succeeds();
    put(&place, "contracts/in/folders/v1.json", "true");
    let connection = Connection::open(place.path().join("log.db")).unwrap();
    let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    let pushed =
        |ran: &Ran| -> Vec<_> { ran.objects().iter().map(|it| it["new"].clone()).collect() };
    let push = ["contracts", "push", "--actor", "olga"];
    let dry = place.run(&["contracts", "push", "--dry-run"]).succeeds();
    assert_eq!(pushed(&dry), [true, true]);
    assert_eq!(place.run(&["contracts", "list"]).succeeds().stdout, "");
    assert_eq!(pushed(&place.run(&push).succeeds()), [true, true]);
    assert_eq!(pushed(&place.run(&push).succeeds()), [false, false]);
    let noted =
        "select count(*) from posthaste_audit where actor = 'olga' and action = 'push-contract'";
    assert_eq!(count(noted), 2);

    let listed = place.run(&["contracts", "list"]).succeeds().objects();
    assert_eq!((&listed[0]["topic"], &listed[1]["topic"]), (&json!("in/folders"), &json!("jobs")));
    assert!(listed[1]["pushed_at"].as_str().unwrap().ends_with('Z'), "{listed:?}");
    assert_eq!(place.run(&["contracts", "show", "jobs", "1"]).succeeds().stdout, job(""));
    let shown = place.run(&["contracts", "show", "jobs", "--json"]).succeeds().objects();
    assert_eq!((&shown[0]["version"], &shown[0]["schema"]["type"]), (&json!(1), &json!("object")));

    // A new version that does not follow, and an old one that is not what it was: nothing is written.
    put(&place, "contracts/jobs/v2.json", STRICTER);
    put(&place, "contracts/in/folders/v1.json", "false");
    put(&place, "contracts/more/v1.json", "{}");
    for arguments in [&push[..], &["contracts", "check", "--against-database"]] {
        let found = findings(&place.run(arguments).fails(1));
        assert!(found["jobs 2"][0].starts_with("version 2 cannot read all"), "{found:?}");
        assert!(found["in/folders 1"][0].contains("in the database, and a contract never changes"));
    }
    assert_eq!(count("select count(*) from posthaste_contract"), 2);
    put(&place, "contracts/in/folders/v1.json", "true");
    assert_eq!(
        pushed(&place.run(&[&push[..], &["--compatibility", "none"]].concat()).succeeds()),
        [json!(false), json!(false), json!(true), json!(true)]
    );

    let remove = ["contracts", "remove", "jobs", "2"];
    place.run(&[&remove[..], &["--dry-run"]].concat()).succeeds();
    assert_eq!(count("select count(*) from posthaste_contract"), 4);
    place.run(&remove).succeeds();
    let refused = place.run(&remove).fails(2);
    assert!(refused.stderr.contains("no contract \"jobs\" version 2"), "{}", refused.stderr);
    assert_eq!(count("select count(*) from posthaste_contract where topic = 'jobs'"), 1);
}

#[tokio::test]
async fn r31_contracts_are_pushed_to_postgresql() {
    let database = Postgres::shared().database().await;
    let place = Place::with(&format!("[database]\nurl = \"{}\"\n", database.url()));
    place.run(&["migrate"]).succeeds();
    let root = example();
    let root = root.to_str().unwrap();
    for is_new in [true, false] {
        let pushed = place.run(&["contracts", "push", root]).succeeds().objects();
        assert!(pushed.iter().all(|it| it["new"] == is_new) && pushed.len() == 2, "{pushed:?}");
    }
    let client = database.connect().await;
    let sql = "select schema from posthaste.contract where topic = 'jobs.receipt'";
    let stored: String = client.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(stored, fs::read_to_string(example().join("jobs.receipt/v1.json")).unwrap());
    put(&place, "contracts/jobs.receipt/v1.json", &stored.replace("\"title\"", "\"$comment\""));
    let refused = place.run(&["contracts", "push"]).fails(1);
    assert!(findings(&refused)["jobs.receipt 1"][0].contains("a contract never changes"));
    place.run(&["contracts", "diff", "jobs.receipt", "1", "1", "--database"]).succeeds();
}

#[test]
fn payload_is_judged_by_its_contract_and_not_shown() {
    let place = place();
    place.write("good.json", r#"{"id": "a"}"#);
    place.write("bad.json", r#"{"id": 48151623}"#);
    let judge = |file, version| {
        ["contracts", "check", "--topic", "jobs", "--version", version, "--payload", file]
    };
    let good = place.run(&judge("good.json", "1")).succeeds().objects();
    assert_eq!(good, [json!({"topic": "jobs", "version": 1, "valid": true})]);
    let bad = place.run(&judge("bad.json", "1")).fails(1);
    let said = "bad.json does not keep contract \"jobs\" version 1: /id: not of type string";
    assert!(bad.stderr.contains(said) && !bad.stderr.contains("48151623"), "{}", bad.stderr);
    place.run_with_input(&judge("-", "1"), b"{\"id\": \"\"}").succeeds();
    place.run_with_input(&judge("-", "1"), b"").fails(1);
    let none = place.run(&judge("good.json", "2")).fails(2);
    assert!(none.stderr.contains("it would be contracts/jobs/v2.json"), "{}", none.stderr);
    let none = place.run(&judge("none.json", "1")).fails(2);
    assert!(none.stderr.contains("--payload none.json cannot be read"), "{}", none.stderr);
}

#[test]
fn diff_tells_what_each_version_cannot_read_of_the_other() {
    let place = place();
    put(&place, "contracts/jobs/v2.json", STRICTER);
    put(&place, "contracts/jobs/v3.json", &job(r#", "additionalProperties": false"#));
    let diff =
        |a, b| place.run(&["contracts", "diff", "jobs", a, b]).succeeds().objects().remove(0);
    let stricter = diff("1", "2");
    assert_eq!(stricter["compatibility"], "forward");
    let difference = &stricter["differences"][0];
    assert_eq!((&difference["written"], &difference["read"]), (&json!(1), &json!(2)));
    assert_eq!(difference["path"], "/region");
    assert_eq!(diff("2", "1")["compatibility"], "backward");
    assert_eq!(diff("2", "3")["compatibility"], "none");
    let same = diff("1", "1");
    assert_eq!((&same["compatibility"], &same["differences"]), (&json!("full"), &json!([])));
}

#[test]
fn types_are_printed_or_written_to_one_file_each() {
    let place = place();
    put(&place, "contracts/2fa/sent.codes/v1.json", &job(""));
    let types = |more: &[&str]| place.run(&[&["contracts", "types", "--language"], more].concat());
    let one = types(&["typescript", "--topic", "jobs"]).succeeds().stdout;
    assert!(one.contains("export interface JobsV1 {"), "{one}");
    let refused = types(&["go"]).fails(2);
    assert!(refused.stderr.contains("there are 2 contracts; name a folder"), "{}", refused.stderr);

    for (language, extension) in [("typescript", "ts"), ("python", "py"), ("go", "go")] {
        let written = types(&[language, "--output", "out/types"]).succeeds().objects();
        let names = ["topic_2fa_sent_codes_v1", "jobs_v1"];
        for (written, name) in written.iter().zip(names) {
            assert_eq!(written["file"], format!("out/types/{name}.{extension}"));
            let text = fs::read_to_string(place.path().join(written["file"].as_str().unwrap()));
            assert!(text.unwrap().contains("V1"));
        }
    }
    let printed = types(&["python", "--topic", "jobs", "--version", "1"]).succeeds().stdout;
    assert_eq!(printed, fs::read_to_string(place.path().join("out/types/jobs_v1.py")).unwrap());

    put(&place, "contracts/Jobs/v1.json", &job(""));
    let refused = types(&["python", "--output", "out"]).fails(2);
    assert!(refused.stderr.contains("would both be written as jobs_v1.py"), "{}", refused.stderr);
    fs::rename(place.path().join("contracts/Jobs"), place.path().join("contracts/jobs-")).unwrap();
    types(&["python", "--output", "out"]).succeeds();
    let refused = types(&["go", "--output", "out"]).fails(2);
    assert!(refused.stderr.contains("would both be written as type JobsV1"), "{}", refused.stderr);
}

#[test]
fn misuse_is_refused_with_what_to_do() {
    let place = place();
    place.write("file", "");
    fs::create_dir(place.path().join("empty")).unwrap();
    let one: &[&str] = &["contracts", "types", "--language", "go", "--topic"];
    for (arguments, code, said) in [
        (&["contracts", "check", "none"][..], 2, "cannot read the contracts in none"),
        (&["contracts", "check", "file"], 2, "file is no folder"),
        (&["contracts", "check", "empty"], 2, "write one to empty/TOPIC/v1.json"),
        (&["contracts", "check", "--against", "none"], 2, "cannot read the contracts in none"),
        (&["contracts", "check", "--against", "empty", "--against-database"], 2, "cannot be used"),
        (&["contracts", "check", "--compatibility", "both"], 2, "possible values: backward"),
        (&["contracts", "check", "--payload", "file"], 2, "--topic <TOPIC>"),
        (&["contracts", "check", "--topic", "jobs"], 2, "--payload <FILE>"),
        (&["contracts", "diff", "jobs", "1", "2"], 2, "it would be contracts/jobs/v2.json"),
        (&["contracts", "diff", "jobs", "1", "2", "contracts", "--database"], 2, "cannot be used"),
        (&[one, &["more"]].concat(), 2, "there is no contract \"more\""),
        (&[one, &["jobs", "--output", "file/a"]].concat(), 1, "cannot write file/a/jobs_v1.go"),
        (&["contracts", "list"], 4, "does not exist"),
    ] {
        let refused = place.run(arguments).fails(code);
        assert!(refused.stderr.contains(said), "{arguments:?}: {}", refused.stderr);
    }
    place.run(&["migrate"]).succeeds();
    for arguments in [&["show", "jobs"][..], &["remove", "jobs", "1"]] {
        let refused = place.run(&[&["contracts"], arguments].concat()).fails(2);
        assert!(refused.stderr.contains("`posthaste contracts list`"), "{}", refused.stderr);
    }
    // Files need no configuration; a push does.
    fs::remove_file(place.path().join("posthaste.toml")).unwrap();
    place.run(&["contracts", "check"]).succeeds();
    let refused = place.run(&["contracts", "push"]).fails(2);
    assert!(refused.stderr.contains("database.url"), "{}", refused.stderr);
}
