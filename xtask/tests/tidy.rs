//! Style that no lint knows. Every check is a pure function from a path and a text to messages that
//! name the fix.
//!
//! After `src/tidy.zig` of <https://github.com/tigerbeetle/tigerbeetle>.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use regex::Regex;

use crate::rust_text::{Piece, split};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 5] = ["utils", "common", "helpers", "misc", "manager"];
/// The demo plays an application, which writes its own rows.
const SQL_PLACES: [&str; 7] = [
    "crates/store/",
    "crates/testkit/",
    "bench/",
    "torture/",
    "examples/",
    "crates/cli/src/demo",
    "tests/",
];
const REDIS_PLACES: [&str; 9] = [
    "crates/redis/",
    "crates/relay/src/sinks",
    "crates/posthaste/src/commands/cache",
    "crates/worker/src/sources",
    "crates/cli/src/demo",
    "crates/testkit/",
    "bench/",
    "torture/",
    "tests/",
];

/// The third one is a client, of the collector of traces; examples are applications with servers of their own.
const HTTP_PLACES: [&str; 4] =
    ["crates/cli/src/listener", "crates/server/", "crates/traces/src/client.rs", "examples/"];

/// What learns of sinks from whoever runs it.
const SINKLESS_PLACES: [&str; 1] = ["crates/server/src"];

type Check = fn(&str, &str) -> Vec<String>;
const RUST_CHECKS: [Check; 6] = [file_name, sql, redis_client, http_server, sink_name, unfinished];

#[test]
fn rust_files_are_tidy() {
    let files = files("*.rs");
    assert!(files.len() > 10, "git lists hardly any Rust file");
    let complaints: Vec<String> = files
        .iter()
        .flat_map(|(path, text)| RUST_CHECKS.iter().flat_map(move |check| check(path, text)))
        .collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn no_file_names_a_directory_of_one_machine() {
    let complaints: Vec<String> =
        files("*").iter().flat_map(|(path, text)| machine_path(path, text)).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn migrations_are_numbered_without_a_gap() {
    let mut folders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, _) in files("*migrations/*.sql") {
        if let Some((folder, name)) = path.rsplit_once('/') {
            folders.entry(folder.to_owned()).or_default().push(name.to_owned());
        }
    }
    let complaints: Vec<String> =
        folders.iter().flat_map(|(folder, names)| migrations(folder, names)).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Tracked and new files that match git's `pattern`; what is not text is left out.
fn files(pattern: &str) -> Vec<(String, String)> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "--", pattern])
        .current_dir(ROOT)
        .output()
        .expect("git is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|path| {
            Some((path.to_owned(), fs::read_to_string(Path::new(ROOT).join(path)).ok()?))
        })
        .collect()
}

fn file_name(path: &str, _: &str) -> Vec<String> {
    let is_empty = |part: &&str| EMPTY_NAMES.contains(&part.trim_end_matches(".rs"));
    let complain =
        |part| format!("{path}: `{part}` says nothing; name the file after the concept it holds");
    path.split('/').filter(is_empty).map(complain).collect()
}

fn sql(path: &str, text: &str) -> Vec<String> {
    if is_in(path, &SQL_PLACES) {
        return Vec::new();
    }
    let statement = Regex::new(
        r"(?is)\b(select\b.+\bfrom\b|insert\s+into\b|create\s+table\b|update\s+\S+\s+set\b)",
    )
    .unwrap();
    let complain = |piece: &Piece| {
        format!("{path}:{}: SQL outside the store; make it a method of crates/store", piece.line)
    };
    let before_tests = without_unit_tests(text);
    let literals = split(before_tests).literals;
    literals.iter().filter(|piece| statement.is_match(&piece.text)).map(complain).collect()
}

fn redis_client(path: &str, text: &str) -> Vec<String> {
    if is_in(path, &REDIS_PLACES) {
        return Vec::new();
    }
    // `sinks::redis::…` and `crate::redis::…` are our own modules; only a path's root is the
    // client's crate.
    let client = Regex::new(r"(^|[^:\w])(::)?redis::").unwrap();
    let complain = |piece: &Piece| {
        format!(
            "{path}:{}: the Redis client outside its places; move the call to \
             crates/relay/src/sinks or crates/worker/src/sources",
            piece.line
        )
    };
    let code = split(without_unit_tests(text)).code;
    code.iter().filter(|piece| client.is_match(&piece.text)).map(complain).collect()
}

fn http_server(path: &str, text: &str) -> Vec<String> {
    if is_in(path, &HTTP_PLACES) {
        return Vec::new();
    }
    let server = Regex::new(r"(^|[^:\w])(::)?(hyper|axum)::").unwrap();
    let complain = |piece: &Piece| {
        format!("{path}:{}: HTTP serving outside its place; move it to crates/server", piece.line)
    };
    let code = split(without_unit_tests(text)).code;
    code.iter().filter(|piece| server.is_match(&piece.text)).map(complain).collect()
}

fn sink_name(path: &str, text: &str) -> Vec<String> {
    if !SINKLESS_PLACES.iter().any(|place| path.starts_with(place)) {
        return Vec::new();
    }
    let name = Regex::new(r"(?i)\b(redis|kafka|nats|jetstream|rabbitmq|bullmq|webhook)").unwrap();
    let complain = |piece: &Piece| {
        format!(
            "{path}:{}: the name of a sink; let the parts beside the server tell it",
            piece.line
        )
    };
    let literals = split(without_unit_tests(text)).literals;
    literals.iter().filter(|piece| name.is_match(&piece.text)).map(complain).collect()
}

fn unfinished(path: &str, text: &str) -> Vec<String> {
    let in_code = Regex::new(r"#\[ignore\b|\b(todo|unimplemented)!").unwrap();
    let mut complaints: Vec<String> = split(text)
        .code
        .iter()
        .filter_map(|piece| Some((piece.line, in_code.find(&piece.text)?.as_str().to_owned())))
        .map(|(line, found)| format!("{path}:{line}: `{found}`; finish it, or remove it"))
        .collect();
    // Spelt in two parts, or this file would complain about itself.
    let mark = concat!("FIX", "ME");
    let marked = text.lines().enumerate().filter(|(_, line)| line.contains(mark));
    complaints
        .extend(marked.map(|(index, _)| {
            format!("{path}:{}: `{mark}`; fix it, or write an issue", index + 1)
        }));
    complaints
}

fn machine_path(path: &str, text: &str) -> Vec<String> {
    // Paths inside an image are the same on every machine.
    if path.starts_with("deploy/") || path.ends_with("Dockerfile") {
        return Vec::new();
    }
    let directory =
        Regex::new(concat!(r#"(^|[\s"'`(=:])/("#, r"work|root|home/[a-z]+|Users/[a-z]+)/"))
            .unwrap();
    text.lines()
        .enumerate()
        .filter(|(_, line)| directory.is_match(line))
        .map(|(index, _)| {
            format!(
                "{path}:{}: a directory of one machine; derive it from the manifest's or a setting",
                index + 1
            )
        })
        .collect()
}

fn migrations(folder: &str, names: &[String]) -> Vec<String> {
    let mut names: Vec<&String> = names.iter().collect();
    names.sort();
    let numbered = names.iter().zip(1..);
    numbered
        .filter_map(|(name, expected)| {
            let number: Option<u32> = name.split('_').next()?.parse().ok();
            (number != Some(expected)).then(|| {
                format!(
                    "{folder}/{name}: expected number {expected}; rename it, so that no number is \
                     missing or double"
                )
            })
        })
        .collect()
}

fn is_in(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path.starts_with(place))
        || path.contains("/tests/")
        || path.ends_with("/tests.rs")
}

/// Unit tests stand last in a file, and may name anything.
fn without_unit_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod ").map_or(text, |start| &text[..start])
}

#[test]
fn an_empty_name_is_refused() {
    assert_eq!(file_name("crates/store/src/utils.rs", "").len(), 1);
    assert_eq!(file_name("crates/store/src/common/lease.rs", "").len(), 1);
    assert!(file_name("crates/store/src/lease.rs", "").is_empty());
}

#[test]
fn sql_is_refused_outside_the_store() {
    for statement in
        ["SELECT a\nFROM b", "insert  into t values (1)", "create table t ()", "update t set a = 1"]
    {
        let text = format!("fn f() {{ g(\"{statement}\") }}");
        assert_eq!(sql("crates/relay/src/lib.rs", &text).len(), 1, "{statement}");
        assert!(sql("crates/store/src/lib.rs", &text).is_empty());
        assert!(sql("crates/relay/tests/main.rs", &text).is_empty());
    }
    assert!(sql("crates/relay/src/lib.rs", "// \"select a from b\"\nselect(from)").is_empty());
    let in_tests = "#[cfg(test)]\nmod tests { const A: &str = \"select a from b\"; }";
    assert!(sql("crates/relay/src/lib.rs", in_tests).is_empty());
}

#[test]
fn the_redis_client_is_refused_outside_its_places() {
    let complain = |text| redis_client("crates/server/src/lib.rs", text).len();
    assert_eq!(complain("use redis::Client;"), 1);
    assert_eq!(complain("let a: ::redis::Value = b;"), 1);
    assert_eq!(complain("use crate::sinks::redis::Sink; // redis::Client"), 0);
    assert!(redis_client("crates/relay/src/sinks/redis_list.rs", "use redis::Client;").is_empty());
}

#[test]
fn http_serving_is_refused_outside_its_place() {
    assert_eq!(http_server("crates/relay/src/lib.rs", "use hyper::Request;").len(), 1);
    assert!(http_server("crates/cli/src/listener/mod.rs", "use hyper::Request;").is_empty());
}

#[test]
fn names_of_sinks_are_refused_where_they_are_not_known() {
    let text = "const A: &str = \"redis-stream\"; // kafka";
    assert_eq!(sink_name("crates/server/src/lib.rs", text).len(), 1);
    assert!(sink_name("crates/relay/src/lib.rs", text).is_empty());
    assert!(sink_name("crates/server/src/lib.rs", "// redis\nlet nats = 1;").is_empty());
}

#[test]
fn unfinished_code_is_refused() {
    let text = ["#[ignore = \"slow\"]", "todo!()", "unimplemented!(\"x\")"].join("\n");
    assert_eq!(unfinished("a.rs", &text).len(), 3);
    assert_eq!(unfinished("a.rs", concat!("// FIX", "ME: later")).len(), 1);
    assert!(unfinished("a.rs", "let ignore = \"todo!()\"; // todo!").is_empty());
}

#[test]
fn a_path_of_one_machine_is_refused() {
    let paths =
        [concat!("\"/ro", "ot/x\""), concat!("cd /wo", "rk/main"), concat!("(/ho", "me/ann/x)")];
    for path in paths {
        assert_eq!(machine_path("a.md", path).len(), 1, "{path}");
    }
    assert!(
        machine_path("a.md", concat!("https://example.org/wo", "rk/1 and /rooted/x")).is_empty()
    );
}

#[test]
fn a_gap_or_a_double_number_is_refused() {
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(migrations("m", &names(&["0002_b.sql", "0001_a.sql"])).is_empty());
    assert_eq!(migrations("m", &names(&["0001_a.sql", "0003_c.sql"])).len(), 1);
    assert_eq!(migrations("m", &names(&["0001_a.sql", "0001_b.sql"])).len(), 1);
    assert_eq!(migrations("m", &names(&["first.sql"])).len(), 1);
}
