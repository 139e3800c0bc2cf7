//! `posthaste tokens new NAME --scopes …`: a token for the server. Writes nothing: the configuration keeps it.

use clap::{Args, Subcommand};
use posthaste_server::{NewSecret, Scope, ServerSettings, TokenSettings};
use serde_json::json;

use crate::{
    failure::{Failure, Result},
    output::Output,
};

/// What to do with tokens.
#[derive(Debug, Subcommand)]
pub(crate) enum TokensCommand {
    /// Make a token: shows its secret, once, and the table to add to the configuration
    New(NewArgs),
}

/// Which token.
#[derive(Args, Debug)]
pub(crate) struct NewArgs {
    /// Its name, for the audit trail
    name: String,
    /// What it may do: view, payloads, enqueue, operate, admin
    #[arg(long, value_name = "SCOPES", value_delimiter = ',', required = true)]
    scopes: Vec<Scope>,
    /// Beginnings of the topics whose jobs it may see and submit [default: all topics]
    #[arg(long, value_name = "TOPICS", value_delimiter = ',')]
    topics: Option<Vec<String>>,
    /// Organisations whose entities it may see and take on; topics only if --topics names some [default: all]
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    organizations: Option<Vec<String>>,
    /// When it ends, as 2027-01-01T00:00:00Z [default: never]
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
}

pub(crate) fn run(command: &TokensCommand, out: &mut Output) -> Result {
    let TokensCommand::New(NewArgs { name, scopes, topics, organizations, expires }) = command;
    let NewSecret { secret, sha256 } = NewSecret::random();
    let token = TokenSettings {
        secret_sha256: vec![sha256],
        scopes: scopes.clone(),
        topics: topics.clone(),
        organizations: organizations.clone(),
        expires: expires.clone(),
    };
    let tokens = [(name.clone(), token.clone())].into();
    let settings = ServerSettings { tokens, ..ServerSettings::default() };
    settings.validate().map_err(Failure::usage)?;
    if token.has_expired() {
        let expires = expires.as_deref().unwrap_or_default();
        return Err(Failure::usage(format!("--expires {expires} is past: name a time to come")));
    }
    let table = table(name, &token);
    let text = format!(
        "Secret, shown this once:\n\n  {secret}\n\nAdd to the configuration, and restart `posthaste serve`:\n\n{table}"
    );
    Ok(out.result(&json!({ "name": name, "secret": secret, "toml": table }), &text)?)
}

/// The token as it stands in the configuration.
fn table(name: &str, token: &TokenSettings) -> String {
    let list = |items: &[String]| {
        let items: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
        format!("[{}]", items.join(", "))
    };
    let scopes: Vec<String> = token.scopes.iter().map(ToString::to_string).collect();
    let mut lines = vec![
        format!("[server.tokens.{name}]"),
        format!("secret_sha256 = {}", list(&token.secret_sha256)),
        format!("scopes = {}", list(&scopes)),
    ];
    lines.extend(token.topics.as_ref().map(|topics| format!("topics = {}", list(topics))));
    let organizations = token.organizations.as_ref();
    lines.extend(organizations.map(|all| format!("organizations = {}", list(all))));
    lines.extend(token.expires.as_ref().map(|expires| format!("expires = {expires:?}")));
    lines.join("\n")
}
