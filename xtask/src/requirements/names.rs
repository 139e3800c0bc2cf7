//! Finds test functions and their paths in source text.
//!
//! Line by line, without a parser: the workspace is formatted, so an attribute, a function and a
//! module each begin a line, and indentation tells which module a function is in.

use std::iter::once;
use std::path::{Path, PathBuf};

/// A test function.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Test {
    /// Its name in lower case, without a language's own prefix such as Python's `test_`.
    pub(crate) name: String,
    /// Where it is: `posthaste_store::tests::claim::r8_order_is_kept`.
    pub(crate) path: String,
}

/// The tests in one file.
pub(crate) fn tests(path: &Path, text: &str) -> Vec<Test> {
    if path.extension().is_some_and(|extension| extension == "rs") {
        in_rust(&module_path(path), text)
    } else {
        in_other(path, text)
    }
}

fn in_rust(module: &str, text: &str) -> Vec<Test> {
    let mut found = Vec::new();
    // Inline modules that the current line is in, each with its indentation.
    let mut modules: Vec<(usize, &str)> = Vec::new();
    let mut is_test = false;
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let code = line.trim_start();
        let indentation = line.len() - code.len();
        if indentation == 0 || code.starts_with('}') {
            modules.retain(|(of_module, _)| *of_module < indentation);
        }
        if let Some(name) = inline_module(code) {
            modules.push((indentation, name));
        } else if code.starts_with("#[") {
            is_test |= is_test_attribute(code);
        } else if let Some(name) = function(code) {
            if is_test {
                let inner = modules.iter().map(|(_, inner)| *inner);
                let parts: Vec<&str> = once(module).chain(inner).chain([name]).collect();
                let path = parts.join("::");
                found.push(Test { name: name.to_lowercase(), path });
            }
            is_test = false;
        } else if let Some(name) = listed_case(code) {
            found.push(Test { name: name.to_lowercase(), path: format!("{module}::{name}") });
        }
    }
    found
}

/// The cases of a suite stand one a line in the macro that makes a test of each.
fn listed_case(code: &str) -> Option<&str> {
    let name = code.strip_suffix(',')?;
    let is_name = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    (is_name && row_name(name).is_some()).then_some(name)
}

/// `#[test]`, `#[tokio::test(…)]`, and any other macro whose last part is `test`.
fn is_test_attribute(code: &str) -> bool {
    let name = code.trim_start_matches("#[").split(['(', ']']).next().unwrap_or_default();
    name.rsplit("::").next() == Some("test")
}

fn inline_module(code: &str) -> Option<&str> {
    let name = code.strip_prefix("pub ").unwrap_or(code).strip_prefix("mod ")?;
    name.strip_suffix('{').map(str::trim)
}

fn function(code: &str) -> Option<&str> {
    let start = code.find("fn ")?;
    let is_function =
        code[..start].split_whitespace().all(|word| word == "async" || word.starts_with("pub"));
    is_function.then(|| code[start + 3..].split(['(', '<']).next().unwrap_or_default())
}

/// The crate's or folder's name and the modules below it: `crates/store/src/a/b.rs` →
/// `posthaste_store::a::b`.
fn module_path(path: &Path) -> String {
    let stem = path.with_extension("");
    let mut parts: Vec<&str> = stem.iter().filter_map(|part| part.to_str()).collect();
    if matches!(parts.last(), Some(&"main" | &"lib" | &"mod")) {
        parts.pop();
    }
    let root = match parts.first() {
        Some(&"crates" | &"examples") if parts.len() > 1 => 2,
        _ => 1,
    };
    let (package, modules) = parts.split_at(root.min(parts.len()));
    let mut names = vec![package_name(package)];
    names.extend(modules.iter().filter(|part| **part != "src").map(|part| part.replace('-', "_")));
    names.join("::")
}

/// Packages are `posthaste-<folder>`, but for the one named after the product, examples and
/// `xtask`.
fn package_name(folders: &[&str]) -> String {
    match folders {
        ["crates", "posthaste"] => "posthaste".to_owned(),
        ["crates", folder] => format!("posthaste_{}", folder.replace('-', "_")),
        ["bench"] => "posthaste_bench".to_owned(),
        folders => folders.join("::").replace('-', "_"),
    }
}

/// `def test_r5_…`, `func TestR5_…` and `test("r5_…", …)`: the first word of a declaring line that
/// looks like a row.
fn in_other(path: &Path, text: &str) -> Vec<Test> {
    let place: PathBuf = path.strip_prefix("tests").unwrap_or(path).with_extension("");
    let place: Vec<&str> = place.iter().filter_map(|part| part.to_str()).collect();
    let declares = |line: &str| {
        ["def test_", "async def test_", "func Test", "test(", "it("]
            .iter()
            .any(|start| line.trim_start().starts_with(start))
    };
    text.lines()
        .filter(|line| declares(line))
        .filter_map(|line| {
            line.split(|c: char| !c.is_alphanumeric() && c != '_').find_map(row_name)
        })
        .map(|name| Test { path: format!("{}::{name}", place.join("::")), name })
        .collect()
}

fn row_name(word: &str) -> Option<String> {
    let lower = word.to_lowercase();
    let name = lower.strip_prefix("test_").or(lower.strip_prefix("test")).unwrap_or(&lower);
    let digit = name.strip_prefix('r')?.chars().next()?;
    (digit.is_ascii_digit() && name.contains('_')).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::tests as find;

    fn paths(file: &str, text: &str) -> Vec<String> {
        find(Path::new(file), text).into_iter().map(|test| test.path).collect()
    }

    #[test]
    fn attributed_functions_are_tests_and_others_are_not() {
        let text = "#[test]\nfn r1_a() {}\nfn r2_b() {}\n#[tokio::test(flavor = \"x\")]\n#[should_panic]\n\
                    async fn r3_c() {}\n#[cfg(test)]\nfn r4_d() {}\n";
        let expected =
            ["posthaste_store::tests::claim::r1_a", "posthaste_store::tests::claim::r3_c"];
        assert_eq!(paths("crates/store/tests/claim.rs", text), expected);
    }

    #[test]
    fn inline_modules_are_part_of_the_path_until_they_end() {
        let text = "mod tests {\n    mod inner {\n        #[test]\n        fn r1_a() {}\n    }\n    #[test]\n    \
                    fn r2_b() {}\n}\n#[test]\nfn r3_c() {}\n";
        let expected =
            ["posthaste::a::tests::inner::r1_a", "posthaste::a::tests::r2_b", "posthaste::a::r3_c"];
        assert_eq!(paths("crates/posthaste/src/a/mod.rs", text), expected);
    }

    #[test]
    fn cases_that_a_macro_lists_are_tests() {
        let text = "suite!(\n    r1_a,\n    not_a_row,\n    r2_b::<T>(),\n);\n\
                    pub(crate) async fn r1_a<H: Harness>() {}\n";
        assert_eq!(
            paths("crates/store/tests/suite/mod.rs", text),
            ["posthaste_store::tests::suite::r1_a"]
        );
    }

    #[test]
    fn other_languages_are_read_too() {
        assert_eq!(
            paths("tests/interop/python/test_sql.py", "def test_r5_psycopg(x):\n"),
            ["interop::python::test_sql::r5_psycopg"]
        );
        assert_eq!(
            paths("tests/interop/go/sql_test.go", "func TestR5_Pgx(t *testing.T) {\n"),
            ["interop::go::sql_test::r5_pgx"]
        );
        assert_eq!(
            paths("tests/interop/node/sql.js", "test('r5_node_pg', async () => {\n"),
            ["interop::node::sql::r5_node_pg"]
        );
    }
}
