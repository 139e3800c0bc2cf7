//! Types of other languages, against files that were looked at by a person and by the languages'
//! own tools.

use std::path::PathBuf;

use posthaste_core::contract::{Contract, types};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::examples;

fn golden(file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/contract/golden").join(file)
}

fn odd() -> Contract {
    let text = std::fs::read_to_string(golden("odd.json")).unwrap();
    Contract::new("odd.things", 12, serde_json::from_str(&text).unwrap()).unwrap()
}

/// Compares with the golden files; `BLESS=1` writes them.
#[test]
fn r25_types_of_each_language_are_those_of_the_golden_files() {
    let contracts = [
        ("jobs.submitted", examples::contract("jobs.submitted", 1)),
        ("jobs.receipt", examples::contract("jobs.receipt", 1)),
        ("odd", odd()),
    ];
    for (name, contract) in contracts {
        for language in types::Language::ALL {
            let file = golden(&format!("{name}.{}", language.extension()));
            let written = types::source(&contract, language);
            if std::env::var_os("BLESS").is_some() {
                std::fs::write(&file, &written).unwrap();
            }
            let expected = std::fs::read_to_string(&file).unwrap_or_default();
            assert_eq!(written, expected, "{}: BLESS=1 writes it anew", file.display());
        }
    }
}

#[test]
fn type_is_named_after_the_title_or_the_topic_and_the_version() {
    let named = |topic: &str, schema: Value| {
        let contract = Contract::new(topic, 3, schema).unwrap();
        types::source(&contract, types::Language::TypeScript)
    };
    for (topic, schema, name) in [
        ("jobs.submitted", json!({ "type": "string" }), "JobsSubmittedV3"),
        ("jobs.submitted", json!({ "type": "string", "title": "a job" }), "AJobV3"),
        ("jobs.submitted", json!({ "type": "string", "title": "日本" }), "JobsSubmittedV3"),
        ("1/2", json!({ "type": "string" }), "T12V3"),
    ] {
        let text = named(topic, schema);
        assert!(text.contains(&format!("export type {name} = string;")), "{text}");
    }
}

/// What is left of a text without its strings and comments, and whether all of them end.
fn code_of(text: &str, language: types::Language) -> Option<String> {
    let mut code = String::new();
    let mut rest = text;
    let line_comment = if language == types::Language::Python { "#" } else { "//" };
    while let Some(c) = rest.chars().next() {
        if rest.starts_with(line_comment) {
            rest = &rest[rest.find('\n')?..];
        } else if rest.starts_with("/*") {
            rest = &rest[rest.find("*/")? + 2..];
        } else if c == '"' || c == '`' {
            rest = &rest[string_end(rest, c)?..];
        } else {
            code.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    Some(code)
}

fn string_end(text: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' if quote == '"' => is_escaped = true,
            '\n' => return None,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// What is code, with each name as `x`.
fn structure(code: &str) -> String {
    let mut structure = String::new();
    let mut is_name = false;
    for c in code.chars().filter(|c| *c != ' ' && *c != '\t') {
        let continues = is_name && (c.is_ascii_alphanumeric() || c == '_');
        is_name = c.is_ascii_alphanumeric() || c == '_';
        match c {
            _ if continues => {}
            _ if is_name => structure.push('x'),
            '\n' if structure.ends_with('\n') => {}
            other => structure.push(other),
        }
    }
    structure
}

fn schema_with(text: &str) -> Value {
    json!({
        "title": text, "description": text, "type": "object", "required": ["state"],
        "properties": {
            "state": { "enum": [text, "EVIL"], "description": text }, "only": { "const": text },
        },
    })
}

fn code_with(schema: Value, language: types::Language) -> (String, Option<String>) {
    let source = types::source(&Contract::new("t", 1, schema).unwrap(), language);
    let code = code_of(&source, language);
    (source, code)
}

proptest! {
    #[test]
    fn text_of_a_schema_stays_in_its_comment_or_string(
        text in "([a-z]|\\*/|/\\*|[\"'`\\\\#{};\n\r\u{2028}\u{85}\u{c}\u{202e}]|EVIL|//| ){0,12}",
    ) {
        for language in types::Language::ALL {
            let (source, code) = code_with(schema_with(&text), language);
            let (_, harmless) = code_with(schema_with("x"), language);
            let code = code.map(|code| structure(&code));
            prop_assert_eq!(code, harmless.map(|code| structure(&code)), "{}", source);
            let named = json!({ "type": "object", "properties": { text.as_str(): true } });
            let (source, code) = code_with(named, language);
            let is_plain = |code: String| {
                code.chars().all(|c| c.is_ascii_graphic() && !"'\\`".contains(c) || " \n\t".contains(c))
            };
            prop_assert!(code.is_some_and(is_plain), "{source}");
        }
    }
}
