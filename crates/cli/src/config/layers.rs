//! The layers of the configuration: file, environment, flags, each over the one before. Every
//! value keeps its source. Nothing is judged here except what cannot be read at all.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use toml::{Value, de::DeTable};

use super::{
    kinds,
    problem::{Problem, Source, nearest},
    schema::{Schema, Shape},
};

/// A key, level by level.
pub(super) type Key = Vec<String>;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) source: Source,
}

/// Every value that somebody set, by its full key. Tables appear as their leaves; only an empty
/// table stands for itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    values: BTreeMap<Key, Entry>,
    /// Where the file begins its tables, for mistakes that concern a table as a whole.
    tables: BTreeMap<Key, Source>,
}

impl Entries {
    /// Sets a value, replacing what a lower layer set at, above or below the key.
    pub(super) fn set(&mut self, key: Key, value: Value, source: Source) {
        self.values.retain(|other, _| !other.starts_with(&key) && !key.starts_with(other));
        self.values.insert(key, Entry { value, source });
    }

    /// All values in the order of their keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.values.iter()
    }

    /// The value at exactly this key.
    pub(super) fn get(&self, key: &[String]) -> Option<&Entry> {
        self.values.get(key)
    }

    /// Where the key stands: its table's first line, else the first value at or below it.
    pub(super) fn source(&self, key: &[String]) -> Option<&Source> {
        if let Some(heading) = self.tables.get(key) {
            return Some(heading);
        }
        self.values.iter().find(|(other, _)| other.starts_with(key)).map(|(_, entry)| &entry.source)
    }

    /// Where the file begins the table at `key`, if `of` is a line of it; else `of` itself.
    pub(super) fn heading<'a>(&'a self, key: &[String], of: &'a Source) -> &'a Source {
        self.tables.get(key).filter(|_| of.layer() == "file").unwrap_or(of)
    }

    /// Takes a value out.
    pub(super) fn remove(&mut self, key: &[String]) -> Option<Entry> {
        self.values.remove(key)
    }

    /// The names that stand directly below a section.
    pub(super) fn names(&self, section: &str) -> Vec<String> {
        self.below(&[section.to_owned()])
    }

    /// The names that stand directly below a table.
    pub(super) fn below(&self, table: &[String]) -> Vec<String> {
        let below =
            self.values.keys().filter(|key| key.len() > table.len() && key.starts_with(table));
        let mut names: Vec<String> = below.map(|key| key[table.len()].clone()).collect();
        names.dedup();
        names
    }

    /// The values below `prefix` as a table.
    pub(super) fn table(&self, prefix: &[String]) -> toml::Table {
        let mut table = toml::Table::new();
        for (key, entry) in self.values.iter().filter(|(key, _)| key.starts_with(prefix)) {
            insert(&mut table, &key[prefix.len()..], entry.value.clone());
        }
        table
    }
}

/// Puts a value into nested tables.
pub(super) fn insert(table: &mut toml::Table, key: &[String], value: Value) {
    let Some((first, rest)) = key.split_first() else { return };
    if rest.is_empty() {
        table.insert(first.clone(), value);
        return;
    }
    let below = table.entry(first.clone()).or_insert_with(|| Value::Table(toml::Table::new()));
    if let Value::Table(below) = below {
        insert(below, rest, value);
    }
}

/// Adds the file at `path`.
pub(super) fn add_file(entries: &mut Entries, path: &Path) -> Result<(), Problem> {
    let name = path.display().to_string();
    let at = |line| Source::File { path: name.clone(), line };
    let text = std::fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot be read ({error}); check --config or POSTHASTE_CONFIG");
        Problem { key: name.clone(), value: None, at: None, message }
    })?;
    let line_of = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    // Only message and line: the parser's full text quotes the line, which may hold a password.
    let not_toml = |error: &toml::de::Error| {
        let line = error.span().map_or(1, |span| line_of(span.start));
        let message = error.message().replace('\n', " ");
        Problem::whole(at(line), format!("not valid TOML: {message}"))
    };
    let table: toml::Table = toml::from_str(&text).map_err(|error| not_toml(&error))?;
    let spans = DeTable::parse(&text).map_err(|error| not_toml(&error))?;
    let mut lines = BTreeMap::new();
    collect_lines(spans.get_ref(), &mut Vec::new(), &|offset| line_of(offset), &mut lines);
    add_table(entries, &table, &mut Vec::new(), &|key| at(lines.get(key).copied().unwrap_or(1)));
    Ok(())
}

fn collect_lines(
    table: &DeTable<'_>,
    key: &mut Key,
    line_of: &dyn Fn(usize) -> usize,
    lines: &mut BTreeMap<Key, usize>,
) {
    for (name, value) in table {
        key.push(name.get_ref().to_string());
        lines.insert(key.clone(), line_of(name.span().start));
        if let Some(below) = value.get_ref().as_table() {
            collect_lines(below, key, line_of, lines);
        }
        key.pop();
    }
}

fn add_table(
    entries: &mut Entries,
    table: &toml::Table,
    key: &mut Key,
    source: &dyn Fn(&Key) -> Source,
) {
    for (name, value) in table {
        key.push(name.clone());
        match value {
            Value::Table(below) if !below.is_empty() => {
                entries.tables.insert(key.clone(), source(key));
                add_table(entries, below, key, source);
            }
            leaf => entries.set(key.clone(), leaf.clone(), source(key)),
        }
        key.pop();
    }
}

/// What all variables of the program start with.
const PREFIX: &str = "POSTHASTE_";
/// Names the file, so it cannot be a setting in it.
const CONFIG_VARIABLE: &str = "POSTHASTE_CONFIG";
/// Kubernetes sets variables like these in every pod beside a service named `posthaste`
/// (<https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>).
const KUBERNETES: [&str; 2] = ["POSTHASTE_SERVICE_", "POSTHASTE_PORT"];

/// Adds the variables among `variables` that are settings.
pub(super) fn add_environment(
    entries: &mut Entries,
    schema: Schema<'_>,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<Problem> {
    let mut settings = Vec::new();
    let mut problems = Vec::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| is_ours(name)) else { continue };
        let source = Source::Env(name.to_owned());
        match (key_of(name, entries), value.into_string()) {
            (None, _) => problems.push(unknown_variable(source, name, schema)),
            (_, Err(_)) => problems.push(Problem::whole(source, "is not valid UTF-8")),
            (Some(key), Ok(value)) => settings.push((key, value, source)),
        }
    }
    // The kind of a sink or source first: the types of its other keys depend on it.
    settings.sort_by_key(|(key, ..)| (key.last().is_none_or(|last| last != "kind"), key.clone()));
    for (key, text, source) in settings {
        let shape = kinds::shape_at(schema, entries, &key);
        entries.set(key, typed(text, &shape), source);
    }
    problems
}

fn is_ours(name: &str) -> bool {
    let kubernetes = KUBERNETES.iter().any(|prefix| name.starts_with(prefix));
    name.starts_with(PREFIX) && name != CONFIG_VARIABLE && !kubernetes
}

/// The key that a variable sets. Names of subscriptions and workers that the file defines keep their dashes.
fn key_of(name: &str, entries: &Entries) -> Option<Key> {
    let lower = name.strip_prefix(PREFIX)?.to_lowercase();
    let mut key: Key = lower.split("__").map(str::to_owned).collect();
    if key.len() < 2 || key.iter().any(String::is_empty) {
        return None;
    }
    if matches!(key[0].as_str(), "subscriptions" | "workers") {
        let same = |known: &String| known.to_lowercase().replace(['-', '.'], "_") == key[1];
        if let Some(known) = entries.names(&key[0]).into_iter().find(same) {
            key[1] = known;
        }
    }
    Some(key)
}

fn unknown_variable(source: Source, name: &str, schema: Schema<'_>) -> Problem {
    let names: Vec<String> = schema.leaves().iter().map(|key| variable_of(key)).collect();
    let remedy = match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => "levels are separated by __, as in POSTHASTE_DATABASE__URL".to_owned(),
    };
    Problem::whole(source, format!("unknown variable; {remedy}"))
}

/// The variable that sets a key.
pub(super) fn variable_of(key: &[String]) -> String {
    format!("{PREFIX}{}", key.join("__").to_uppercase().replace('-', "_"))
}

/// A variable's text as the type that its key wants; text that does not fit stays text, and the
/// check of types says so. Text is never reinterpreted: a password `007` stays as it is.
fn typed(text: String, shape: &Shape) -> Value {
    let parsed = || toml::from_str::<toml::Table>(&format!("v = {text}")).ok()?.remove("v");
    match shape {
        Shape::Integer { .. } => text.parse().ok().map(Value::Integer),
        Shape::Number => text.parse().ok().map(Value::Float),
        Shape::Boolean => text.parse().ok().map(Value::Boolean),
        Shape::List if text.trim_start().starts_with('[') => parsed(),
        Shape::List => {
            let item = |item: &str| Value::String(item.trim().to_owned());
            Some(Value::Array(text.split(',').map(item).collect()))
        }
        Shape::Table if text.trim_start().starts_with('{') => parsed(),
        _ => None,
    }
    .unwrap_or(Value::String(text))
}

/// The configuration file: the one named, else `posthaste.toml` if it is there.
pub(super) fn file_to_read(named: Option<&Path>) -> Option<PathBuf> {
    const USUAL: &str = "posthaste.toml";
    match named {
        Some(path) => Some(path.to_owned()),
        None => Some(PathBuf::from(USUAL)).filter(|path| path.exists()),
    }
}
