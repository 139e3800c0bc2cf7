//! `cargo xtask requirements`: every row of `docs/requirements.md` with the tests that show it.
//!
//! A test belongs to a row by its name: `r12_redis_down_loses_nothing` to R12. Read from the
//! sources, not from a run, so it says which tests exist; `cargo xtask test` says whether they
//! pass.

mod names;

use std::fs;

use serde_json::{Value, json};

use crate::process::{Failure, root};
use crate::sources;
use names::Test;

const DOCUMENT: &str = "docs/requirements.md";
/// Rust everywhere, and the other languages in their one place.
const FILES: [&str; 5] = [
    "*.rs",
    "tests/interop/**/*.py",
    "tests/interop/**/*.go",
    "tests/interop/**/*.js",
    "tests/interop/**/*.ts",
];

/// A row's id with the paths of its tests.
type Row = (String, Vec<String>);

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let path = root().join(DOCUMENT);
    let document = fs::read_to_string(&path).map_err(Failure::io(format!("read {DOCUMENT}")))?;
    let tests: Vec<Test> = sources::matching(&FILES)?
        .iter()
        .flat_map(|source| names::tests(&source.path, &source.text))
        .collect();
    let rows = rows(&document, &tests);
    if arguments.iter().any(|argument| argument == "--json") {
        println!("{}", to_json(&rows));
    } else {
        print!("{}", to_table(&rows));
    }
    Ok(())
}

/// The rows in the document's order, sorted by number: the document tells R56 before R53.
fn rows(document: &str, tests: &[Test]) -> Vec<Row> {
    let mut ids: Vec<&str> = document.lines().filter_map(row_id).collect();
    ids.sort_by_key(|id| (number(id), id.len()));
    ids.into_iter()
        .map(|id| {
            let prefix = format!("{}_", id.to_lowercase());
            let named = tests.iter().filter(|test| test.name.starts_with(&prefix));
            (id.to_owned(), named.map(|test| test.path.clone()).collect())
        })
        .collect()
}

/// `R10b` of a line that begins `| R10b | …`.
fn row_id(line: &str) -> Option<&str> {
    let id = line.strip_prefix('|')?.split('|').next()?.trim();
    let rest = id.strip_prefix('R')?.trim_start_matches(|letter: char| letter.is_ascii_digit());
    (number(id) > 0 && rest.chars().all(|letter| letter.is_ascii_lowercase())).then_some(id)
}

fn number(id: &str) -> u32 {
    let digits: String = id.chars().filter(char::is_ascii_digit).collect();
    digits.parse().unwrap_or(0)
}

fn to_json(rows: &[Row]) -> Value {
    let rows: Vec<Value> =
        rows.iter().map(|(id, tests)| json!({ "id": id, "tests": tests })).collect();
    json!({ "rows": rows })
}

fn to_table(rows: &[Row]) -> String {
    let mut lines = Vec::new();
    for (id, tests) in rows {
        let first = tests.first().map_or("(no test)", String::as_str);
        lines.push(format!("{id:<6}{first}"));
        lines.extend(tests.iter().skip(1).map(|test| format!("{:<6}{test}", "")));
    }
    let shown = rows.iter().filter(|(_, tests)| !tests.is_empty()).count();
    lines.push(format!("{shown} of {} rows have a test\n", rows.len()));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::{Test, rows, to_json, to_table};

    const DOCUMENT: &str = "| id | requirement |\n|---|---|\n| R2 | a |\n| R10b | b |\n\
                            | R10 | c |\n| R1 | d |\n| RX | e |\n";

    fn test(name: &str) -> Test {
        Test { name: name.into(), path: format!("store::tests::{name}") }
    }

    #[test]
    fn every_row_is_listed_in_order_with_its_own_tests() {
        let rows = rows(DOCUMENT, &[test("r1_one"), test("r10_ten"), test("r10b_view")]);
        assert_eq!(
            to_json(&rows).to_string(),
            r#"{"rows":[{"id":"R1","tests":["store::tests::r1_one"]},{"id":"R2","tests":[]},"#
                .to_owned()
                + r#"{"id":"R10","tests":["store::tests::r10_ten"]},"#
                + r#"{"id":"R10b","tests":["store::tests::r10b_view"]}]}"#
        );
    }

    #[test]
    fn the_table_shows_rows_without_a_test() {
        let table = to_table(&rows(DOCUMENT, &[test("r1_one")]));
        assert!(table.contains("R2    (no test)"));
        assert!(table.ends_with("1 of 4 rows have a test\n"));
    }
}
