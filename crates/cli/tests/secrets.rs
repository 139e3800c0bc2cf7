//! No secret shows in anything that the program prints, whatever goes wrong.

use std::thread;

use crate::harness::{Place, deserted_port};

const SECRET: &str = "hunter2";

/// Runs every command and demands that the secret shows in no output.
fn all_commands(place: &Place, arguments: &[&str], variables: &[(&str, &str)]) {
    let commands: [&[&str]; 9] = [
        &["config", "check"],
        &["config", "show"],
        &["config", "reference"],
        &["migrate"],
        &["migrate", "--dry-run"],
        &["enqueue", "a"],
        &["relay", "--once"],
        &["status"],
        &["tail"],
    ];
    // Side by side: each waits for the same database that is not there.
    thread::scope(|scope| {
        for command in commands {
            for json in [&[][..], &["--json"]] {
                scope.spawn(move || {
                    let arguments = [command, arguments, json, &["--log-level", "trace"]].concat();
                    let ran = place.run_in(&arguments, variables);
                    assert!(!ran.stdout.contains(SECRET), "{}: {ran:#?}", ran.arguments());
                    assert!(!ran.stderr.contains(SECRET), "{}: {ran:#?}", ran.arguments());
                });
            }
        }
    });
}

fn database(more: &str) -> String {
    let port = deserted_port();
    format!("[database]\nurl = \"postgres://me@127.0.0.1:{port}/db\"\n{more}")
}

#[test]
fn secrets_of_a_sound_configuration_show_nowhere() {
    let sink = format!(
        "[subscriptions.a.sink]\nkind = \"redis-stream\"\nurl = \"redis://:{SECRET}@127.0.0.1:1\"\n"
    );
    let port = deserted_port();
    for file in [
        database(&format!("password = \"{SECRET}\"\n{sink}")),
        database(&format!("password_file = \"password\"\n{sink}")),
        format!("[database]\nurl = \"postgres://me:{SECRET}@127.0.0.1:{port}/db\"\n{sink}"),
        format!("[database]\nurl = \"postgres://127.0.0.1:{port}/db?user=me&password={SECRET}\""),
        database(
            "[subscriptions.a.sink]\nkind = \"redis-stream\"\nurl = \"redis://127.0.0.1:1\"\n\
             password = \"hunter2\"",
        ),
    ] {
        let place = Place::with(&file);
        place.write("password", &format!("{SECRET}\n"));
        all_commands(&place, &[], &[]);
    }
}

#[test]
fn secrets_in_the_environment_and_on_the_command_line_show_nowhere() {
    let place = Place::with(&database("[subscriptions.a.sink]\nkind = \"stdout\""));
    let url = format!("postgres://me:{SECRET}@127.0.0.1:{}/db", deserted_port());
    all_commands(&place, &[], &[("POSTHASTE_DATABASE__PASSWORD", SECRET)]);
    all_commands(&place, &[], &[("POSTHASTE_DATABASE__URL", &url)]);
    all_commands(&place, &["--database-url", &url], &[]);
}

#[test]
fn secrets_of_a_faulty_configuration_show_nowhere() {
    for file in [
        database(&format!("pasword = \"{SECRET}\"")),
        database(&format!("password = [\"{SECRET}\"]")),
        database(&format!("password = {{ value = \"{SECRET}\" }}")),
        database(&format!("password = \"{SECRET}")),
        database(&format!("password = {SECRET}")),
        database(&format!("password = \"{SECRET}\"\npassword = \"{SECRET}\"")),
        database(&format!("password = \"{SECRET}\"\npassword_file = \"x\"")),
        format!("[database]\nurl = \"mysql://me:{SECRET}@h/d\""),
        format!("[database]\nurl = \"postgres://me:{SECRET}@h:port/d\""),
        format!("[database]\nurl = \"host=h password={SECRET}\""),
        database(&format!(
            "[subscriptions.a.sink]\nkind = \"redis-stream\"\nurl = \"http://me:{SECRET}@h\""
        )),
        database(&format!(
            "[subscriptions.a.sink]\nkind = \"redis-stream\"\nurl = \"redis://h\"\n\
             password = [\"{SECRET}\"]"
        )),
    ] {
        let place = Place::with(&file);
        place.run(&["config", "check"]).fails(2);
        all_commands(&place, &[], &[]);
    }
}

#[test]
fn password_in_the_flag_is_warned_of_and_masked_in_show() {
    let place = Place::new();
    let url = format!("postgres://me:{SECRET}@h/d");
    let ran = place.run(&["config", "show", "--database-url", &url]).succeeds();
    assert!(ran.stderr.starts_with("warning: --database-url holds a password"), "{ran:#?}");
    assert!(ran.stdout.contains("postgres://me:•••@h/d"), "{ran:#?}");
    let without = place.run(&["config", "show", "--database-url", "postgres://me@h/d"]).succeeds();
    assert_eq!(without.stderr, "");
}

#[test]
fn password_file_that_cannot_be_read_is_named() {
    let place = Place::with(&database("password_file = \"nowhere\""));
    let ran = place.run(&["status"]).fails(2);
    assert!(ran.stderr.contains("database.password_file nowhere cannot be read"), "{ran:#?}");
}
