//! The tables whose `kind` chooses the schema of the other keys: sinks of subscriptions and sources of workers, which
//! their registries know. No kind is named here.

use posthaste_relay::{
    sink::{SinkKind, Target},
    sinks,
};
use posthaste_worker::{
    source::{Source as WorkerSource, SourceKind},
    sources,
};
use serde_json::Value as Json;

use super::{
    check::{Checked, check_keys},
    layers::{Entries, Key},
    problem::{Problem, Source, did_you_mean, dotted, shown},
    schema::{Schema, Shape},
};

/// The key that chooses the kind.
const KIND: &str = "kind";
/// Levels of the key of such a table.
const DEPTH: usize = 3;

/// A section whose tables have a table with a `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Sink,
    Source,
}

/// A kind of either family.
#[derive(Clone, Copy)]
enum Kind {
    Sink(&'static SinkKind),
    Source(&'static SourceKind),
}

impl Family {
    /// The family of the table that the key stands in.
    fn of(key: &[String]) -> Option<Self> {
        match [key.first()?.as_str(), key.get(2)?.as_str()] {
            ["subscriptions", "sink"] => Some(Self::Sink),
            ["workers", "source"] => Some(Self::Source),
            _ => None,
        }
    }

    const fn noun(self) -> &'static str {
        match self {
            Self::Sink => "sink",
            Self::Source => "source",
        }
    }

    fn names(self) -> Vec<&'static str> {
        match self {
            Self::Sink => sinks::KINDS.iter().map(|kind| kind.name).collect(),
            Self::Source => sources::KINDS.iter().map(|kind| kind.name).collect(),
        }
    }

    fn find(self, name: &str) -> Option<Kind> {
        match self {
            Self::Sink => sinks::find(name).map(Kind::Sink),
            Self::Source => sources::find(name).map(Kind::Source),
        }
    }
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Sink(kind) => kind.name,
            Self::Source(kind) => kind.name,
        }
    }

    fn document(self) -> Json {
        match self {
            Self::Sink(kind) => (kind.schema)().to_value(),
            Self::Source(kind) => (kind.schema)().to_value(),
        }
    }

    /// What the kind itself demands of its table: the key at fault, and why.
    fn check(self, table: toml::Table) -> Result<(), (String, String)> {
        match self {
            Self::Sink(kind) => {
                (kind.parse)(table).map(drop).map_err(|error| (error.key, error.message))
            }
            Self::Source(kind) => {
                (kind.parse)(table).map(drop).map_err(|error| (error.key, error.message))
            }
        }
    }
}

/// Whether the key stands in such a table; then how many levels its table is deep.
pub(super) fn depth_of_table(key: &[String]) -> Option<usize> {
    (key.len() > DEPTH && Family::of(key).is_some()).then_some(DEPTH)
}

/// Such tables that there are, or that should be: every subscription has a sink.
pub(super) fn tables(entries: &Entries) -> Vec<Key> {
    let table =
        |section: &str, name: String, last: &str| vec![section.to_owned(), name, last.to_owned()];
    let sinks = entries.names("subscriptions").into_iter();
    let sources = entries.names("workers").into_iter();
    let mut tables: Vec<Key> = sinks.map(|name| table("subscriptions", name, "sink")).collect();
    let sources = sources.map(|name| table("workers", name, "source"));
    tables.extend(sources.filter(|source| entries.source(source).is_some()));
    tables
}

/// What type a key wants, in these tables too.
pub(super) fn shape_at(schema: Schema<'_>, entries: &Entries, key: &[String]) -> Shape {
    let walk = |schema: Schema<'_>, key: &[String]| {
        let end = key.iter().try_fold(schema, |schema, part| schema.child(part));
        end.map_or(Shape::Any, Schema::shape)
    };
    let Some(depth) = depth_of_table(key) else { return walk(schema, key) };
    match document(entries, &key[..depth]) {
        Some(document) => walk(Schema::new(&document), &key[depth..]),
        None => Shape::Any,
    }
}

fn document(entries: &Entries, table: &[String]) -> Option<Json> {
    kind_of(entries, table).ok().map(Kind::document)
}

/// Whether the key is a secret of its kind.
pub(super) fn is_secret(entries: &Entries, key: &[String]) -> bool {
    let Some(depth) = depth_of_table(key) else { return false };
    let Some(document) = document(entries, &key[..depth]) else { return false };
    let end = key[depth..].iter().try_fold(Schema::new(&document), |it, part| it.child(part));
    end.is_some_and(Schema::is_write_only)
}

/// The defaults of such a table's keys that nobody set.
pub(super) fn defaults(entries: &Entries, table: &[String]) -> Vec<(Key, Json)> {
    let Some(document) = document(entries, table) else { return Vec::new() };
    super::check::defaults(Schema::new(&document), entries, table)
}

/// Checks the table at `table`: its kind, its keys, and what the kind itself demands.
pub(super) fn check(entries: &Entries, table: &[String], checked: &mut Checked) {
    let kind = match kind_of(entries, table) {
        Ok(kind) => kind,
        Err(problem) => return checked.problems.push(*problem),
    };
    let before = checked.problems.len();
    let document = kind.document();
    let keys = |key: &Key| key.starts_with(table) && key.last().is_some_and(|last| last != KIND);
    check_keys(entries, Schema::new(&document), table.len(), &keys, checked);
    check_required(entries, Schema::new(&document), table, kind, checked);
    if checked.problems.len() == before
        && let Err((key, message)) = kind.check(own_keys(entries.table(table)))
    {
        checked.problems.push(refused(entries, table, &key, &message));
    }
}

/// What `kind` makes of a sink's table that has been checked.
pub(crate) fn target(table: &toml::Table) -> Result<Box<dyn Target>, String> {
    let kind = table.get(KIND).and_then(toml::Value::as_str).and_then(sinks::find);
    let kind = kind.ok_or("its kind is unknown")?;
    (kind.parse)(own_keys(table.clone())).map_err(|error| error.to_string())
}

/// What `kind` makes of a source's table that has been checked.
pub(crate) fn source(table: &toml::Table) -> Result<Box<dyn WorkerSource>, String> {
    let kind = table.get(KIND).and_then(toml::Value::as_str).and_then(sources::find);
    let kind = kind.ok_or("its kind is unknown")?;
    (kind.parse)(own_keys(table.clone())).map_err(|error| error.to_string())
}

fn own_keys(mut table: toml::Table) -> toml::Table {
    table.remove(KIND);
    table
}

fn kind_of(entries: &Entries, table: &[String]) -> Result<Kind, Box<Problem>> {
    let key = [table, &[KIND.to_owned()]].concat();
    let family = Family::of(table).unwrap_or(Family::Sink);
    let names = family.names();
    let choose = format!("choose one of {}", names.join(", "));
    let Some(entry) = entries.get(&key) else {
        return Err(Box::new(Problem::missing(&key, at(entries, table), &choose)));
    };
    let name = entry.value.as_str();
    name.and_then(|name| family.find(name)).ok_or_else(|| {
        let near = did_you_mean(name.unwrap_or_default(), names);
        let problem = Problem::at(&key, &entry.source, format!("unknown kind; {choose}{near}"));
        Box::new(problem.with(shown(&entry.value, false)))
    })
}

/// Where the table begins, or its owner when it is not there at all.
fn at<'a>(entries: &'a Entries, table: &[String]) -> Option<&'a Source> {
    entries.source(table).or_else(|| entries.source(&table[..2]))
}

fn check_required(
    entries: &Entries,
    schema: Schema<'_>,
    table: &[String],
    kind: Kind,
    checked: &mut Checked,
) {
    for name in schema.required() {
        let key = [table, &[name.to_owned()]].concat();
        if entries.source(&key).is_none() {
            let wanted = schema.child(name).map_or(Shape::Any, Schema::shape).wanted();
            let noun = Family::of(table).map_or("table", Family::noun);
            let about = format!("a {noun} of kind {:?} needs it: {wanted}", kind.name());
            checked.problems.push(Problem::missing(&key, at(entries, table), &about));
        }
    }
    for name in schema.keys() {
        let key = [table, &[name.to_owned()]].concat();
        let is_table = schema.child(name).filter(|child| child.shape() == Shape::Table);
        if let (Some(child), Some(_)) = (is_table, entries.source(&key)) {
            check_required(entries, child, &key, kind, checked);
        }
    }
}

fn refused(entries: &Entries, table: &[String], key: &str, message: &str) -> Problem {
    let parts = key.split('.').filter(|part| !part.is_empty()).map(str::to_owned);
    let key: Key = table.iter().cloned().chain(parts).collect();
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match entries.source(&key).or_else(|| entries.source(table)) {
        Some(source) => Problem::at(&key, source, message),
        None => Problem { key: dotted(&key), value: None, at: Some(Source::Default), message },
    }
}
