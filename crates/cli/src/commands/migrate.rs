//! `posthaste migrate [--dry-run]`: creates the schema or brings it up to date.

use clap::Args;
use serde_json::json;

use crate::{config::Config, failure::Result, output::Output, store};

/// How to migrate.
#[derive(Args, Debug)]
pub(crate) struct MigrateArgs {
    /// Print the SQL that would run, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// Migrates, or shows how.
pub(crate) async fn run(args: &MigrateArgs, config: &Config, out: &mut Output) -> Result {
    if args.dry_run {
        return dry_run(config, out).await;
    }
    let store = store::open(config, store::Missing::Create).await?;
    let report = store.migrate().await?;
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
