//! `posthaste config check | show | reference`: the configuration, for people and scripts.

use clap::Subcommand;
use serde_json::json;

use crate::{
    config::{self, Loaded},
    failure::{Failure, Result},
    output::Output,
    store,
};

/// What to do with the configuration.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Find every mistake, sinks included; exit with 2 if there is one
    Check,
    /// Print each effective value and where it comes from, without secrets
    Show,
    /// Print the reference of all settings and sinks
    Reference,
}

/// Runs one of them. `load` is only called by those that read the configuration.
pub(crate) fn run(
    command: ConfigCommand,
    load: impl FnOnce() -> Loaded,
    out: &mut Output,
) -> Result {
    match command {
        ConfigCommand::Check => check(load(), out),
        ConfigCommand::Show => show(load(), out),
        ConfigCommand::Reference => Ok(out.line(config::reference().trim_end())?),
    }
}

fn check(loaded: Loaded, out: &mut Output) -> Result {
    let mut problems = loaded.problems;
    let url_is_faulty = problems.iter().any(|problem| problem.is_at("database.url"));
    if !url_is_faulty {
        problems.extend(store::missing_url(&loaded.config));
    }
    if !problems.is_empty() {
        return Err(Failure::configuration(problems));
    }
    let names: Vec<&String> = loaded.config.subscriptions.keys().collect();
    let human = format!("The configuration is sound; subscriptions: {}.", names.len());
    Ok(out.result(&json!({ "ok": true, "subscriptions": names }), &human)?)
}

/// Only of a sound configuration: what a mistake would have set is not effective.
fn show(loaded: Loaded, out: &mut Output) -> Result {
    if !loaded.problems.is_empty() {
        return Err(Failure::configuration(loaded.problems));
    }
    let values = loaded.effective();
    if out.is_json() {
        for value in values {
            out.object(&value)?;
        }
        return Ok(());
    }
    let rows = values.into_iter().map(|shown| {
        let value = match shown.value {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        };
        vec![shown.key, value, shown.origin]
    });
    Ok(out.table(&["KEY", "VALUE", "FROM"], rows.collect())?)
}
