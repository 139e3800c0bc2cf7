//! From the configuration to an open store: the URL's scheme chooses which.

use std::{path::Path, sync::Arc};

use posthaste_store::{
    Incidents, Jobs, Migration, Operations,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::{SqliteOptions, SqliteStore},
};
use secrecy::SecretString;

use crate::{
    config::{Config, DatabaseSettings, DatabaseUrl, Problem},
    exit::Exit,
    failure::{Failure, Result},
};

/// What to do about an embedded database whose file is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Make it: only `migrate` does.
    Create,
    /// Refuse, rather than work on an empty log because of a misspelt path.
    Refuse,
}

/// A database for every command.
pub(crate) trait Database: Operations + Jobs + Incidents {}

impl<T: Operations + Jobs + Incidents> Database for T {}

/// Opens the configured database.
pub(crate) async fn open(config: &Config, missing: Missing) -> Result<Arc<dyn Database>> {
    let database = &config.database;
    match &database.url {
        None => Err(Failure::configuration(missing_url(config).into_iter().collect())),
        Some(DatabaseUrl::Postgres(url)) => postgres(url, database),
        Some(DatabaseUrl::Sqlite(path)) => sqlite(path, database, missing).await,
    }
}

/// The migrations that the configured database lacks; all of them for a file that is not there.
pub(crate) async fn pending(config: &Config) -> Result<Vec<Migration>> {
    if let Some(DatabaseUrl::Sqlite(path)) = &config.database.url
        && !path.exists()
    {
        // An empty database elsewhere lacks the same, and nothing is left behind at the path.
        let elsewhere = tempfile::tempdir()
            .map_err(|error| Failure::caused(Exit::Failed, "cannot make a directory", error))?;
        let empty = elsewhere.path().join("empty.db");
        let store = sqlite(&empty, &config.database, Missing::Create).await?;
        return Ok(store.schema_state().await?.pending);
    }
    let store = open(config, Missing::Refuse).await?;
    Ok(store.schema_state().await?.pending)
}

/// The mistake of a configuration that names no database.
pub(crate) fn missing_url(config: &Config) -> Option<Problem> {
    config.database.url.is_none().then(|| {
        Problem::missing(
            &["database", "url"].map(str::to_owned),
            None,
            "set it in the file, with POSTHASTE_DATABASE__URL or with --database-url, for \
             example sqlite:posthaste.db",
        )
    })
}

fn postgres(url: &str, database: &DatabaseSettings) -> Result<Arc<dyn Database>> {
    let options = PostgresOptions {
        schema: database.schema.clone(),
        password: password(database)?,
        ca_file: database.ca_file.clone(),
        operation_timeout: database.operation_timeout,
        retention: database.retention,
        retention_bytes: database.retention_size,
        token_retention: database.token_retention,
        inbox_retention: database.inbox_retention,
        command_retention: database.command_retention,
        job_retention: database.job_retention,
        transaction_age_max: database.transaction_age_max,
        rings: database.ring.sizes(),
        ..PostgresOptions::default()
    };
    Ok(Arc::new(PostgresStore::connect(url, &options)?))
}

async fn sqlite(
    path: &Path,
    database: &DatabaseSettings,
    missing: Missing,
) -> Result<Arc<dyn Database>> {
    let options = SqliteOptions {
        schema: database.schema.clone(),
        create: missing == Missing::Create,
        operation_timeout: database.operation_timeout,
        retention: database.retention,
        retention_bytes: database.retention_size,
        token_retention: database.token_retention,
        inbox_retention: database.inbox_retention,
        command_retention: database.command_retention,
        job_retention: database.job_retention,
    };
    Ok(Arc::new(SqliteStore::open(path, &options).await?))
}

fn password(database: &DatabaseSettings) -> Result<Option<SecretString>> {
    let Some(path) = &database.password_file else { return Ok(database.password.clone()) };
    let text = std::fs::read_to_string(path).map_err(|error| {
        let about = format!("database.password_file {} cannot be read", path.display());
        Failure::caused(Exit::Usage, about, error)
    })?;
    // The first line only: editors end files with a line break, which is no part of a password.
    Ok(Some(SecretString::from(text.lines().next().unwrap_or_default())))
}
