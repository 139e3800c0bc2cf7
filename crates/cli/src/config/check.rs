//! Judges the layered values: unknown keys, wrong types, values out of range. Finds every
//! mistake, not only the first, by judging each value alone.

use serde::Deserialize as _;
use serde_json::Value as Json;

use super::{
    kinds,
    layers::{Entries, Entry, Key, insert},
    problem::{Problem, Source, did_you_mean, shown},
    schema::{Schema, Shape},
    secret,
    settings::Config,
};

/// The settings as far as they are sound, and every mistake.
#[derive(Debug, Default)]
pub(super) struct Checked {
    pub(super) config: Config,
    pub(super) problems: Vec<Problem>,
}

/// Checks all values against the settings' schema and their own rules.
pub(super) fn check(entries: &Entries, schema: Schema<'_>) -> Checked {
    let mut checked = Checked::default();
    let mut sound = entries.clone();
    let outside_kinds = |key: &Key| kinds::depth_of_table(key).is_none();
    for key in check_keys(entries, schema, 0, &outside_kinds, &mut checked) {
        sound.remove(&key);
    }
    for (key, entry) in entries.iter().filter(|(key, _)| outside_kinds(key)) {
        if sound.get(key).is_some()
            && let Err(message) = alone(key, entry)
        {
            checked.problems.push(at_entry(entries, schema, key, entry, message));
            sound.remove(key);
        }
    }
    for section in ["subscriptions", "workers"] {
        for name in entries.names(section) {
            check_name(entries, section, &name, &mut checked);
        }
    }
    for table in kinds::tables(entries) {
        let is_table = entries.get(&table).is_none_or(|entry| entry.value.is_table());
        if is_table && entries.get(&table[..2]).is_none_or(|entry| entry.value.is_table()) {
            kinds::check(entries, &table, &mut checked);
        }
    }
    check_ranges(&mut sound, entries, schema, &mut checked);
    checked
}

/// Checks the keys that `wanted` chooses against the schema of the table `depth` levels down.
/// Answers the keys at fault.
pub(super) fn check_keys(
    entries: &Entries,
    schema: Schema<'_>,
    depth: usize,
    wanted: &dyn Fn(&Key) -> bool,
    checked: &mut Checked,
) -> Vec<Key> {
    let mut faulty = Vec::new();
    let mut reported: Vec<Key> = Vec::new();
    for (key, entry) in entries.iter().filter(|(key, _)| wanted(key)) {
        let problem = match locate(schema, key, depth) {
            Ok(node) => match node.shape().accepts(&entry.value) {
                Ok(()) => continue,
                Err(message) => at_entry(entries, schema, key, entry, message),
            },
            Err(Unlocated::Unknown(level, siblings)) => {
                let unknown = key[..=level].to_vec();
                let near = did_you_mean(&key[level], siblings);
                let source = entries.heading(&unknown, &entry.source);
                let problem = Problem::at(&unknown, source, format!("unknown key{near}"));
                faulty.push(key.clone());
                if reported.contains(&unknown) {
                    continue;
                }
                reported.push(unknown);
                checked.problems.push(problem);
                continue;
            }
            Err(Unlocated::NotATable(level, shape)) => {
                let message = format!("must be {}, not a table", shape.wanted());
                Problem::at(&key[..level], &entry.source, message)
            }
        };
        checked.problems.push(problem);
        faulty.push(key.clone());
    }
    faulty
}

enum Unlocated<'a> {
    /// The part of the key that is unknown, and what is known there.
    Unknown(usize, Vec<&'a str>),
    /// The part of the key that stands below a value which is not a table.
    NotATable(usize, Shape),
}

fn locate<'a>(schema: Schema<'a>, key: &Key, depth: usize) -> Result<Schema<'a>, Unlocated<'a>> {
    let mut node = schema;
    for (level, part) in key.iter().enumerate().skip(depth) {
        node = match (node.child(part), node.shape()) {
            (Some(child), _) => child,
            (None, Shape::Table | Shape::Any) => {
                return Err(Unlocated::Unknown(level, node.keys()));
            }
            (None, shape) => return Err(Unlocated::NotATable(level, shape)),
        };
    }
    Ok(node)
}

/// Whether the value alone makes settings, everything else being at its default.
fn alone(key: &Key, entry: &Entry) -> Result<(), String> {
    let mut table = toml::Table::new();
    insert(&mut table, key, entry.value.clone());
    match Config::deserialize(table) {
        Ok(_) => Ok(()),
        Err(error) if error.message().ends_with("expected a duration") => {
            Err("must be a duration such as \"200ms\", \"5s\" or \"1m 30s\"".to_owned())
        }
        Err(error) => Err(error.message().replace('\n', " ")),
    }
}

fn at_entry(
    entries: &Entries,
    schema: Schema<'_>,
    key: &Key,
    entry: &Entry,
    message: String,
) -> Problem {
    let value = shown(&entry.value, is_secret(entries, schema, key));
    Problem::at(key, &entry.source, message).with(value)
}

/// Whether a key's value must never be shown.
pub(super) fn is_secret(entries: &Entries, schema: Schema<'_>, key: &Key) -> bool {
    let node = key.iter().try_fold(schema, |schema, part| schema.child(part));
    node.is_some_and(Schema::is_write_only)
        || key.iter().any(|part| secret::is_secret_name(part))
        || kinds::is_secret(entries, key)
}

fn check_name(entries: &Entries, section: &str, name: &str, checked: &mut Checked) {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase());
    if starts_well && name.len() <= 64 && name.chars().all(allowed) {
        return;
    }
    let key = [section, name].map(str::to_owned);
    let source = entries.source(&key).unwrap_or(&Source::Default);
    let rule = "a name is 1 to 64 lower-case letters, digits, _ or - and starts with a letter";
    checked.problems.push(Problem::at(&key, source, rule));
}

/// Builds the settings and applies the rules on their values. A value at fault is reported and
/// goes back to its default, so that the next one shows too.
fn check_ranges(sound: &mut Entries, entries: &Entries, schema: Schema<'_>, checked: &mut Checked) {
    loop {
        let table = sound.table(&[]);
        let Ok(config) = Config::deserialize(table) else { return };
        checked.config = config;
        let Err((section, text)) = check_sections(&checked.config) else { return };
        let (name, rest) = text.split_once(' ').unwrap_or((&text, ""));
        let key: Key = section.into_iter().chain(name.split('.').map(str::to_owned)).collect();
        let message = rest.rsplit_once(", not ").map_or(rest, |(rule, _value)| rule);
        let Some(entry) = sound.remove(&key) else {
            // The value at fault is a default that another value contradicts.
            let at = Source::Default;
            return checked.problems.push(Problem::at(&key, &at, text[name.len()..].trim()));
        };
        let problem = at_entry(entries, schema, &key, &entry, message.to_owned());
        checked.problems.push(problem);
    }
}

/// Where a section's settings stand, and the rule that one of them breaks.
type Broken = (Vec<String>, String);

/// The first rule that a setting breaks.
fn check_sections(config: &Config) -> Result<(), Broken> {
    let at = |section: &str| vec![section.to_owned()];
    config.relay.validate().map_err(|text| (at("relay"), text))?;
    config.telemetry.validate().map_err(|text| (at("telemetry"), text))?;
    config.alerts.validate().map_err(|text| (at("alerts"), text))?;
    config.server.validate().map_err(|text| (at("server"), text))?;
    config.database.validate().map_err(|text| (at("database"), text))?;
    for (name, subscription) in &config.subscriptions {
        let key = ["subscriptions", name, "failure"].map(str::to_owned);
        subscription.failure.validate().map_err(|text| (key.into(), text))?;
    }
    for (name, worker) in &config.workers {
        let key = ["workers", name].map(str::to_owned);
        worker.validate(name).map_err(|text| (key.into(), text))?;
    }
    Ok(())
}

/// The defaults of a table's keys at all depths, with full keys; in tables of names, of those that are there.
pub(super) fn defaults(
    schema: Schema<'_>,
    entries: &Entries,
    table: &[String],
) -> Vec<(Key, Json)> {
    let mut all = Vec::new();
    if let Some(each) = schema.of_each() {
        for name in entries.below(table) {
            all.extend(defaults(each, entries, &[table, &[name]].concat()));
        }
    }
    for name in schema.keys() {
        let key = [table, &[name.to_owned()]].concat();
        let Some(child) = schema.child(name) else { continue };
        if child.keys().is_empty() && child.of_each().is_none() {
            all.extend(schema.default(name).map(|value| (key, value.clone())));
        } else {
            all.extend(defaults(child, entries, &key));
        }
    }
    all
}
