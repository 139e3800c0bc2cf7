//! The reference page, made from the schemas that the configuration is checked against: every
//! key with its documentation, type, default and variable, and every kind of sink.

use std::fmt::Write as _;

use posthaste_relay::{
    sink::{PlaceKeeping, SinkKind},
    sinks,
};
use posthaste_worker::{source::SourceKind, sources};
use serde_json::Value;

use super::{
    layers::{Key, variable_of},
    otel, outbox,
    problem::dotted,
    schema::{self, Schema, Shape},
    settings::Config,
};

/// What stands for a name that the user chooses.
const NAME: &str = "NAME";

const INTRODUCTION: &str = "\
# Configuration

This page is what `posthaste config reference` prints.

Posthaste reads one TOML file: the one that `--config` names, else the one that `POSTHASTE_CONFIG`
names, else `posthaste.toml` in the working directory if it is there. Environment variables stand over
the file, and the options `--database-url`, `--schema`, `--log-format` and `--log-level` over both.

A variable's name is `POSTHASTE_`, then the levels of the key in capitals with `__` between them;
dashes become `_`. A list is written with commas (`a,b`). Variables that start with
`POSTHASTE_SERVICE_` or `POSTHASTE_PORT` are left alone, because Kubernetes sets them beside a
service named `posthaste`. Durations are written like `200ms`, `5s` or `1m 30s`.

Unknown keys and variables are errors. `posthaste config check` finds every mistake, and
`posthaste config show` prints each effective value and where it comes from, without secrets.

Below, a key stands with its default; `#` before it means that it has none.
";

/// The page.
pub(crate) fn reference() -> String {
    let document = schema::of::<Config>();
    let mut page = INTRODUCTION.to_owned();
    let root = Schema::new(&document);
    // The order in which a newcomer needs them, then whatever else there is.
    let mut sections = vec!["database", "subscriptions", "workers", "relay", "telemetry", "log"];
    sections
        .extend(root.keys().into_iter().filter(|key| !sections.contains(key)).collect::<Vec<_>>());
    for name in sections {
        if let Some(section) = root.child(name) {
            add_table(&mut page, section, &[name.to_owned()], root.about(name));
        }
    }
    for kind in sinks::KINDS {
        add_sink(&mut page, kind);
    }
    for kind in sources::KINDS {
        add_source(&mut page, kind);
    }
    page.push_str(&outbox::reference());
    page.push_str(&otel::reference());
    page
}

fn add_sink(page: &mut String, kind: &SinkKind) {
    let place = match kind.place {
        PlaceKeeping::Held => "It can hold the subscription's place: a message is published once.",
        PlaceKeeping::None => {
            "It holds no place: after a fault, what was in flight may be published again, with \
             the same message id."
        }
    };
    let _ = write!(page, "\n## Sink `{}`\n\nA sink that {}. {place}\n", kind.name, kind.about);
    add_kind(page, ["subscriptions", NAME, "sink"], kind.name, &(kind.schema)().to_value());
}

fn add_source(page: &mut String, kind: &SourceKind) {
    let _ = write!(page, "\n## Source `{}`\n\nA source that {}.\n", kind.name, kind.about);
    add_kind(page, ["workers", NAME, "source"], kind.name, &(kind.schema)().to_value());
}

fn add_kind(page: &mut String, key: [&str; 3], kind: &str, document: &Value) {
    let kind_line = format!("kind = \"{kind}\"\n");
    add_block(page, Schema::new(document), &key.map(str::to_owned), &kind_line);
}

fn add_table(page: &mut String, table: Schema<'_>, key: &[String], about: Option<&str>) {
    if let Some(each) = table.of_each() {
        let named = [key, &[NAME.to_owned()]].concat();
        return add_table(page, each, &named, about);
    }
    let _ = write!(page, "\n## `[{}]`\n", dotted(key));
    if let Some(about) = about {
        let _ = write!(page, "\n{}\n", about.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    add_block(page, table, key, "");
}

/// One fenced block with the table's own keys, and after them its tables.
fn add_block(page: &mut String, table: Schema<'_>, key: &[String], first: &str) {
    let _ = write!(page, "\n```toml\n[{}]\n{first}", dotted(key));
    let mut tables = Vec::new();
    for name in table.keys() {
        let Some(child) = table.child(name) else { continue };
        let below = [key, &[name.to_owned()]].concat();
        let is_table = !child.keys().is_empty() || child.of_each().is_some();
        if child.shape() == Shape::Table && is_table {
            tables.push((child, below, table.about(name)));
            continue;
        }
        add_key(page, table, child, &below);
    }
    page.push_str("```\n");
    for (child, below, about) in tables {
        add_table(page, child, &below, about);
    }
}

fn add_key(page: &mut String, table: Schema<'_>, child: Schema<'_>, key: &Key) {
    let Some(name) = key.last() else { return };
    // Not below the heading of its table.
    if !page.lines().last().is_some_and(|line| line.starts_with('[')) {
        page.push('\n');
    }
    comment(page, table.about(name).unwrap_or_default());
    for (choice, about) in child.choices() {
        comment(page, &format!("- {choice:?}: {about}"));
    }
    if child.shape() == Shape::Table {
        let _ = writeln!(page, "# {name} = {{ … }}");
        return;
    }
    let required = if table.required().contains(&name.as_str()) { ", required" } else { "" };
    let variable = variable_of(key);
    let wanted = match table.default(name).and_then(Value::as_str) {
        Some(text) if humantime::parse_duration(text).is_ok() => "a duration".to_owned(),
        _ => child.shape().wanted(),
    };
    comment(page, &format!("({wanted}{required}; {variable})"));
    let _ = match table.default(name).map(toml::Value::try_from) {
        Some(Ok(value)) => writeln!(page, "{name} = {value}"),
        _ => writeln!(page, "# {name} = {}", example(&child.shape())),
    };
}

fn example(shape: &Shape) -> Value {
    match shape {
        Shape::Integer { .. } | Shape::Number => Value::from(0),
        Shape::Boolean => Value::from(false),
        Shape::List => Value::from(Vec::<String>::new()),
        Shape::Choice(known) => Value::from(known.first().map_or("", String::as_str)),
        _ => Value::from("…"),
    }
}

/// Comment lines of at most 96 characters.
fn comment(page: &mut String, text: &str) {
    const WIDTH: usize = 96;
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(page, "{line}");
            line = String::from("#");
        }
        line.push(' ');
        line.push_str(word);
    }
    if line.len() > 1 {
        let _ = writeln!(page, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The part of the page between a heading and the next one.
    fn section<'a>(page: &'a str, heading: &str) -> &'a str {
        let start = page.find(heading).unwrap_or_else(|| panic!("no heading {heading:?}"));
        let rest = &page[start + heading.len()..];
        &rest[..rest.find("\n## ").unwrap_or(rest.len())]
    }

    /// Walks a schema document by hand, not through `Schema`, and demands every key.
    fn demand_keys(page: &str, document: &Value, node: &Value, heading: &str, key: &str) {
        let node = match node.get("$ref").and_then(Value::as_str) {
            Some(pointer) => document.pointer(pointer.trim_start_matches('#')).unwrap(),
            None => node,
        };
        if let Some(each) = node.get("additionalProperties").filter(|each| each.is_object()) {
            let key = format!("{key}.{NAME}");
            return demand_keys(page, document, each, &format!("\n## `[{key}]`\n"), &key);
        }
        for (name, child) in node.get("properties").and_then(Value::as_object).into_iter().flatten()
        {
            // A table that may be left out stands beside `null`.
            let optional = child.get("anyOf").and_then(|all| all.get(0)).unwrap_or(child);
            let target = optional.get("$ref").and_then(Value::as_str);
            let target = target.and_then(|it| document.pointer(it.trim_start_matches('#')));
            let target = target.unwrap_or(child);
            let is_map = target.get("additionalProperties").is_some_and(Value::is_object);
            if target.get("properties").is_some() || is_map {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                demand_keys(page, document, target, &format!("\n## `[{key}]`\n"), &key);
                continue;
            }
            let lines: Vec<&str> = section(page, heading).lines().collect();
            let stands =
                |line: &&str| line.trim_start_matches("# ").starts_with(&format!("{name} = "));
            assert!(lines.iter().any(stands), "{heading:?} lacks {name:?}");
        }
    }

    #[test]
    fn every_key_of_every_schema_stands_on_the_page() {
        let page = reference();
        let document = schema::of::<Config>();
        demand_keys(&page, &document, &document, "\n## ", "");
        for kind in sinks::KINDS {
            let document = (kind.schema)().to_value();
            let heading = format!("\n## Sink `{}`\n", kind.name);
            let key = format!("subscriptions.{NAME}.sink");
            demand_keys(&page, &document, &document, &heading, &key);
        }
        for kind in sources::KINDS {
            let document = (kind.schema)().to_value();
            let heading = format!("\n## Source `{}`\n", kind.name);
            let key = format!("workers.{NAME}.source");
            demand_keys(&page, &document, &document, &heading, &key);
        }
    }

    #[test]
    fn page_in_the_documentation_is_the_one_that_is_printed() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/configuration.md");
        let stored = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            stored == reference(),
            "docs/reference/configuration.md is out of date; write it anew with: \
             cargo run -q -p posthaste-cli -- config reference > docs/reference/configuration.md"
        );
    }
}
