//! `posthaste migrate [--dry-run]`: creates the schema or brings it up to date.

use clap::Args;
use posthaste_core::SchemaName;
use serde_json::json;

use crate::{config::Config, failure::Result, output::Output, progress, store};

/// How to migrate.
#[derive(Args, Debug)]
pub(crate) struct MigrateArgs {
    /// Print the SQL that would run, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Create a view of this name as well, for queries that were written for a hand-made outbox:
    /// id, topic, key, payload, `created_at` and `processed_at` of every message
    #[arg(long, value_name = "NAME", conflicts_with = "dry_run", value_parser = view_name)]
    compatibility_view: Option<SchemaName>,
    /// Create `initialize_fsm_with_outbox` as well, for callers that were written for a hand-made
    /// coordinator: it begins entities of this machine. Grant it to whoever calls it
    #[arg(long, value_name = "MACHINE", conflicts_with = "dry_run")]
    compatibility_function: Option<String>,
}

/// A view's name needs to be as plain as a schema's.
fn view_name(text: &str) -> Result<SchemaName, String> {
    text.parse().map_err(|_| {
        format!(
            "{text:?} is no name for the view: use a lower-case letter followed by up to 39 \
             lower-case letters, digits or underscores, as job_outbox"
        )
    })
}

/// Migrates, or shows how.
pub(crate) async fn run(args: &MigrateArgs, config: &Config, out: &mut Output) -> Result {
    if args.dry_run {
        return dry_run(config, out).await;
    }
    let store = store::open(config, store::Missing::Create).await?;
    let report = progress::wait(out, "migrating", store.migrate()).await?;
    if let Some(name) = &args.compatibility_view {
        store.create_compatibility_view(name).await?;
    }
    if let Some(machine) = &args.compatibility_function {
        store.create_compatibility_function(machine).await?;
    }
    let human = match report.applied.as_slice() {
        [] => format!("{} is up to date (version {}).", store.describe(), report.to),
        applied => {
            let applied = applied.join(", ");
            let (from, to) = (report.from, report.to);
            format!("{}: version {from} → {to}, applied {applied}.", store.describe())
        }
    };
    let value = json!({
        "database": store.describe(),
        "from": report.from,
        "to": report.to,
        "applied": report.applied,
        "compatibility_view": args.compatibility_view.as_ref().map(SchemaName::as_str),
        "compatibility_function": args.compatibility_function,
    });
    Ok(out.result(&value, &human)?)
}

/// SQL as it is, so that it can be reviewed or piped into another tool; `--json` wraps it.
async fn dry_run(config: &Config, out: &mut Output) -> Result {
    for migration in store::pending(config).await? {
        let (version, name) = (migration.version, migration.name);
        out.raw(
            &json!({ "version": version, "name": name, "sql": migration.sql }),
            &format!("-- {version:04}_{name}\n{}", migration.sql.trim_end()),
        )?;
    }
    Ok(())
}
