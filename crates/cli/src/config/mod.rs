//! The configuration: one TOML file, the environment over it, flags over that.
//!
//! [`load`] reads the layers, keeps where each value came from, and finds every mistake at once.
//! `layers` reads, `check` and `kinds` judge, `settings` and `workers` are the types, `reference` is the page
//! made from them. Commands use [`Loaded`] and never read files or variables themselves.

mod alerts;
mod check;
mod kinds;
mod layers;
mod otel;
mod outbox;
mod problem;
mod reference;
mod schema;
pub(crate) mod secret;
mod settings;
mod values;
mod workers;

use std::path::Path;

use serde::Serialize;

pub(crate) use self::{
    alerts::{AlertFormat, AlertSettings},
    kinds::{source, target},
    problem::{Problem, Source},
    reference::reference,
    settings::{
        Config, DatabaseSettings, From, LogFormat, LogSettings, SubscriptionSettings,
        TelemetrySettings, TracesSettings,
    },
    values::{DatabaseUrl, shown_size},
    workers::{HandlerTable, WorkerTable},
};
use self::{layers::Entries, problem::dotted, schema::Schema};

/// The flags that stand over file and environment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flags {
    /// `--database-url`
    pub(crate) database_url: Option<String>,
    /// `--schema`
    pub(crate) schema: Option<String>,
    /// `--log-format`
    pub(crate) log_format: Option<String>,
    /// `--log-level`
    pub(crate) log_level: Option<String>,
}

/// The configuration with its sources and its mistakes.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The settings as far as they are sound.
    pub(crate) config: Config,
    /// Every mistake.
    pub(crate) problems: Vec<Problem>,
    entries: Entries,
}

/// One effective value, ready to be shown.
#[derive(Debug, Serialize)]
pub(crate) struct Shown {
    /// Dotted key.
    pub(crate) key: String,
    /// The value; secrets are masked.
    pub(crate) value: serde_json::Value,
    /// `file`, `env`, `flag` or `default`.
    pub(crate) source: &'static str,
    /// File and line, variable or option.
    pub(crate) origin: String,
}

/// Reads all layers and checks them.
pub(crate) fn load(file: Option<&Path>, flags: &Flags) -> Loaded {
    let document = schema::of::<Config>();
    let schema = Schema::new(&document);
    let mut entries = Entries::default();
    let mut problems = Vec::new();
    if let Some(path) = layers::file_to_read(file) {
        problems.extend(layers::add_file(&mut entries, &path).err());
    }
    problems.extend(otel::add(&mut entries, std::env::vars_os()));
    problems.extend(outbox::add(&mut entries, std::env::vars_os()));
    problems.extend(layers::add_environment(&mut entries, schema, std::env::vars_os()));
    add_flags(&mut entries, flags);
    let checked = check::check(&entries, schema);
    problems.extend(checked.problems);
    problems.sort_by_key(Problem::order);
    Loaded { config: checked.config, problems, entries }
}

fn add_flags(entries: &mut Entries, flags: &Flags) {
    let settings = [
        (["database", "url"], "--database-url", &flags.database_url),
        (["database", "schema"], "--schema", &flags.schema),
        (["log", "format"], "--log-format", &flags.log_format),
        (["log", "level"], "--log-level", &flags.log_level),
    ];
    for (key, flag, value) in settings {
        if let Some(value) = value {
            let value = toml::Value::String(value.clone());
            entries.set(key.map(str::to_owned).to_vec(), value, Source::Flag(flag));
        }
    }
}

impl Loaded {
    /// Every effective value with its source, in the order of the keys.
    pub(crate) fn effective(&self) -> Vec<Shown> {
        let document = schema::of::<Config>();
        let schema = Schema::new(&document);
        let mut all = self.entries.clone();
        for (key, value) in self.defaults(schema) {
            let is_set = self.entries.source(&key).is_some();
            if let (false, Ok(value)) = (is_set, toml::Value::try_from(value)) {
                all.set(key, value, Source::Default);
            }
        }
        let show = |(key, entry): (&layers::Key, &layers::Entry)| Shown {
            key: dotted(key),
            value: shown_json(&entry.value, check::is_secret(&self.entries, schema, key)),
            source: entry.source.layer(),
            origin: entry.source.to_string(),
        };
        all.iter().map(show).collect()
    }

    fn defaults(&self, schema: Schema<'_>) -> Vec<(layers::Key, serde_json::Value)> {
        let mut defaults = check::defaults(schema, &self.entries, &[]);
        for table in kinds::tables(&self.entries) {
            defaults.extend(kinds::defaults(&self.entries, &table));
        }
        defaults
    }
}

fn shown_json(value: &toml::Value, is_secret: bool) -> serde_json::Value {
    if is_secret {
        return secret::MASK.into();
    }
    match value {
        toml::Value::String(text) => secret::masked_url(text).into(),
        other => {
            let mut json = serde_json::to_value(other).unwrap_or_default();
            mask_inside(&mut json);
            json
        }
    }
}

fn mask_inside(json: &mut serde_json::Value) {
    match json {
        serde_json::Value::String(text) => *text = secret::masked_url(text),
        serde_json::Value::Array(items) => items.iter_mut().for_each(mask_inside),
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                if secret::is_secret_name(name) {
                    *value = secret::MASK.into();
                } else {
                    mask_inside(value);
                }
            }
        }
        _ => {}
    }
}
