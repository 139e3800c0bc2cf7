//! The tables of sinks: `kind` chooses the schema of the other keys, which the relay's registry
//! knows. No sink is named here.

use posthaste_relay::{
    sink::{SinkKind, Target},
    sinks,
};
use serde_json::Value as Json;

use super::{
    check::{Checked, check_keys},
    layers::{Entries, Key},
    problem::{Problem, Source, did_you_mean, dotted, shown},
    schema::{self, Schema, Shape},
};

/// The key that chooses the kind.
const KIND: &str = "kind";

/// Whether the key stands in a sink's table; then how many levels its table is deep.
pub(super) fn depth_of_table(key: &[String]) -> Option<usize> {
    (key.len() > 3 && key[0] == "subscriptions" && key[2] == "sink").then_some(3)
}

/// What type a key wants, in sinks' tables too.
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
    kind_of(entries, table).ok().map(schema::of_sink)
}

/// The schema that a sink's secrets are known by, if its kind is known.
pub(super) fn is_secret(entries: &Entries, key: &[String]) -> bool {
    let Some(depth) = depth_of_table(key) else { return false };
    let Some(document) = document(entries, &key[..depth]) else { return false };
    let end = key[depth..].iter().try_fold(Schema::new(&document), |it, part| it.child(part));
    end.is_some_and(Schema::is_write_only)
}

/// The defaults of a sink's keys that nobody set.
pub(super) fn defaults(entries: &Entries, table: &[String]) -> Vec<(Key, Json)> {
    let Some(document) = document(entries, table) else { return Vec::new() };
    super::check::defaults(Schema::new(&document), table)
}

/// Checks the sink's table at `table`: its kind, its keys, and what the kind itself demands.
pub(super) fn check(entries: &Entries, table: &[String], checked: &mut Checked) {
    let kind = match kind_of(entries, table) {
        Ok(kind) => kind,
        Err(problem) => return checked.problems.push(*problem),
    };
    let before = checked.problems.len();
    let document = schema::of_sink(kind);
    let keys = |key: &Key| key.starts_with(table) && key.last().is_some_and(|last| last != KIND);
    check_keys(entries, Schema::new(&document), table.len(), &keys, checked);
    check_required(entries, Schema::new(&document), table, kind, checked);
    if checked.problems.len() == before
        && let Err(error) = (kind.parse)(own_keys(entries.table(table)))
    {
        checked.problems.push(refused(entries, table, &error.key, &error.message));
    }
}

/// What `kind` makes of a sink's table that has been checked.
pub(crate) fn target(table: &toml::Table) -> Result<Box<dyn Target>, String> {
    let kind = table.get(KIND).and_then(toml::Value::as_str).and_then(sinks::find);
    let kind = kind.ok_or("its kind is unknown")?;
    (kind.parse)(own_keys(table.clone())).map_err(|error| error.to_string())
}

fn own_keys(mut table: toml::Table) -> toml::Table {
    table.remove(KIND);
    table
}

fn kind_of(entries: &Entries, table: &[String]) -> Result<&'static SinkKind, Box<Problem>> {
    let key = [table, &[KIND.to_owned()]].concat();
    let names: Vec<&str> = sinks::KINDS.iter().map(|kind| kind.name).collect();
    let choose = format!("choose one of {}", names.join(", "));
    let Some(entry) = entries.get(&key) else {
        return Err(Box::new(Problem::missing(&key, at(entries, table), &choose)));
    };
    let name = entry.value.as_str();
    name.and_then(sinks::find).ok_or_else(|| {
        let near = did_you_mean(name.unwrap_or_default(), names);
        let problem = Problem::at(&key, &entry.source, format!("unknown kind; {choose}{near}"));
        Box::new(problem.with(shown(&entry.value, false)))
    })
}

/// Where the table begins, or its subscription when it is not there at all.
fn at<'a>(entries: &'a Entries, table: &[String]) -> Option<&'a Source> {
    entries.source(table).or_else(|| entries.source(&table[..2]))
}

fn check_required(
    entries: &Entries,
    schema: Schema<'_>,
    table: &[String],
    kind: &SinkKind,
    checked: &mut Checked,
) {
    for name in schema.required() {
        let key = [table, &[name.to_owned()]].concat();
        if entries.source(&key).is_none() {
            let wanted = schema.child(name).map_or(Shape::Any, Schema::shape).wanted();
            let about = format!("a sink of kind {:?} needs it: {wanted}", kind.name);
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
