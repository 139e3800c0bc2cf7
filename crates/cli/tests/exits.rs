//! How the program ends: exit codes, errors as JSON, a reader that went away.

use std::{fs::OpenOptions, process::Stdio};

use serde_json::Value;

use crate::harness::{Place, deserted_port};

#[test]
fn zero_when_done_and_help_lists_every_code() {
    let place = Place::new();
    let help = place.run(&["--help"]).succeeds().stdout;
    for code in ["    0  ", "    1  ", "    2  ", "    3  ", "    4  ", "  130  "] {
        assert!(help.contains(code), "{help}");
    }
    assert_eq!(place.run(&["--version"]).succeeds().stdout, "posthaste 0.1.0\n");
}

#[test]
fn one_when_the_output_cannot_be_written() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let place = Place::new();
    let mut command = place.command(&["config", "reference"]);
    let status = command.stdout(full).stderr(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[test]
fn two_for_a_wrong_command_line() {
    let place = Place::migrated("");
    for arguments in [
        &["dance"][..],
        &["enqueue"],
        &["enqueue", "not a topic"],
        &["enqueue", "a", "--header", "no-value"],
        &["enqueue", "a", "--json-payload", "{"],
        &["enqueue", "a", "--file", "nowhere"],
        &["enqueue", "a", "--text", "b", "--file", "c"],
        &["enqueue", "a", "--count", "0"],
        &["tail", "--topic", "a*b"],
        &["relay", "--only", "nobody"],
    ] {
        place.run(arguments).fails(2);
    }
    assert!(place.run(&["tail"]).succeeds().objects().is_empty(), "nothing was written");
}

#[test]
fn three_when_the_database_is_away() {
    let url = format!("postgres://me@127.0.0.1:{}/db", deserted_port());
    let place = Place::with(&format!(
        "[database]\nurl = \"{url}\"\n[subscriptions.a.sink]\nkind = \"stdout\""
    ));
    for arguments in
        [&["status"][..], &["tail"], &["enqueue", "a"], &["migrate"], &["relay", "--once"]]
    {
        let ran = place.run(arguments).fails(3);
        assert!(ran.stderr.contains("127.0.0.1"), "{ran:#?}");
    }
}

#[test]
fn four_when_the_schema_is_missing() {
    let place = Place::migrated("");
    for arguments in [&["status"][..], &["tail"], &["relay"], &["relay", "--once"]] {
        let ran = place.run_in(arguments, &[("POSTHASTE_DATABASE__SCHEMA", "other")]).fails(4);
        assert!(ran.stderr.contains("posthaste migrate"), "{ran:#?}");
    }
    let absent = [("POSTHASTE_DATABASE__URL", "sqlite:absent.db")];
    place.run_in(&["status"], &absent).fails(4);
    assert!(!place.path().join("absent.db").exists(), "only migrate makes a file");
}

#[test]
fn errors_are_objects_when_json_is_asked_for() {
    let place = Place::with("[database]\nurl = \"sqlite:absent.db\"");
    for (arguments, code, kind) in
        [(&["status", "--json"][..], 4, "schema"), (&["dance", "--json"], 2, "usage")]
    {
        let ran = place.run(arguments).fails(code);
        let error: Value = serde_json::from_str(&ran.stderr).unwrap();
        assert_eq!(error["error"]["kind"], kind, "{ran:#?}");
        assert_eq!(error["error"]["exit_code"], code, "{ran:#?}");
        assert!(error["error"]["message"].is_string(), "{ran:#?}");
    }
}

#[test]
fn error_is_one_line_and_its_causes_are_indented() {
    let url = format!("postgres://me@127.0.0.1:{}/db", deserted_port());
    let ran = Place::new().run(&["status", "--database-url", &url]).fails(3);
    let mut lines = ran.stderr.lines();
    assert!(lines.next().unwrap().starts_with("error: "), "{ran:#?}");
    assert!(lines.all(|line| line.starts_with("  caused by: ")), "{ran:#?}");
}

#[test]
fn reader_that_went_away_is_no_fault() {
    let place = Place::migrated("");
    place.run(&["enqueue", "a", "--count", "100"]).succeeds();
    for arguments in [&["tail", "-n", "100"][..], &["config", "reference"], &["--help"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = place.command(arguments);
        let output = command.stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
}
