//! `posthaste roles`: group roles with no more than their task needs.

use clap::Args;
use posthaste_core::SchemaName;
use posthaste_store::RoleNames;
use serde_json::json;

use crate::{config::Config, failure::Result, output::Output, store};

/// The roles' names.
#[derive(Args, Debug)]
pub(crate) struct RolesArgs {
    /// For applications that enqueue
    #[arg(long, default_value = "posthaste_writer", value_name = "ROLE", value_parser = role)]
    writer: SchemaName,
    /// For relays
    #[arg(long, default_value = "posthaste_relay", value_name = "ROLE", value_parser = role)]
    relay: SchemaName,
    /// For job workers
    #[arg(long, default_value = "posthaste_worker", value_name = "ROLE", value_parser = role)]
    worker: SchemaName,
    /// For people who look, but not at payloads
    #[arg(long, default_value = "posthaste_viewer", value_name = "ROLE", value_parser = role)]
    viewer: SchemaName,
    /// Print the SQL that would run, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// A role's name needs to be as plain as a schema's.
fn role(text: &str) -> Result<SchemaName, String> {
    text.parse().map_err(|_| {
        format!(
            "{text:?} is no name for a role: use a lower-case letter followed by up to 39 \
             lower-case letters, digits or underscores"
        )
    })
}

pub(crate) async fn run(args: &RolesArgs, config: &Config, out: &mut Output) -> Result {
    let names = RoleNames {
        writer: args.writer.clone(),
        relay: args.relay.clone(),
        worker: args.worker.clone(),
        viewer: args.viewer.clone(),
    };
    let store = store::open(config, store::Missing::Refuse).await?;
    if args.dry_run {
        let sql = store.roles_sql(&names)?;
        return Ok(out.raw(&json!({ "sql": sql }), sql.trim_end())?);
    }
    store.check().await?;
    store.create_roles(&names).await?;
    let roles = [&names.writer, &names.relay, &names.worker, &names.viewer];
    let roles = roles.map(SchemaName::as_str);
    let human = format!("{}: grant them to login roles.", roles.join(", "));
    Ok(out.result(&json!({ "roles": roles }), &human)?)
}
