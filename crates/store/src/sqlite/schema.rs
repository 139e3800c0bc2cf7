//! The embedded migrations: which ran, and running the rest.

use posthaste_core::SchemaName;

use super::session::{Scope, Session};
use crate::{Migration, MigrationReport, Result, SchemaState, StoreError, StoreErrorKind};

/// Name and text, in the order of their versions from 1.
const MIGRATIONS: &[(&str, &str)] = &[
    ("log", include_str!("../../migrations/sqlite/0001_log.sql")),
    ("views", include_str!("../../migrations/sqlite/0002_views.sql")),
    ("failures", include_str!("../../migrations/sqlite/0003_failures.sql")),
    ("writing", include_str!("../../migrations/sqlite/0004_writing.sql")),
    ("leases", include_str!("../../migrations/sqlite/0005_leases.sql")),
    ("rewound", include_str!("../../migrations/sqlite/0006_rewound.sql")),
    ("emptied", include_str!("../../migrations/sqlite/0007_emptied.sql")),
    ("inbox", include_str!("../../migrations/sqlite/0008_inbox.sql")),
    ("commands", include_str!("../../migrations/sqlite/0009_commands.sql")),
    ("contracts", include_str!("../../migrations/sqlite/0010_contracts.sql")),
    ("clock", include_str!("../../migrations/sqlite/0011_clock.sql")),
    ("jobs", include_str!("../../migrations/sqlite/0012_jobs.sql")),
    ("incidents", include_str!("../../migrations/sqlite/0013_incidents.sql")),
    ("operations", include_str!("../../migrations/sqlite/0014_operations.sql")),
    ("browse", include_str!("../../migrations/sqlite/0015_browse.sql")),
    ("reserved", include_str!("../../migrations/sqlite/0016_reserved.sql")),
    ("job lists", include_str!("../../migrations/sqlite/0017_job_lists.sql")),
    ("incidents seen", include_str!("../../migrations/sqlite/0018_incidents_seen.sql")),
    ("lookups", include_str!("../../migrations/sqlite/0019_lookups.sql")),
];

/// Version that this build reads.
const LATEST: i32 = MIGRATIONS.len() as i32;

const CREATE_HISTORY: &str = "\
create table if not exists @schema@_migration (
  version integer primary key,
  name text not null,
  applied_at integer not null
    default (cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000)
) strict";

/// Which migrations the database has and lacks.
pub(super) fn state(session: &mut Session) -> Result<SchemaState> {
    session.read(|scope| {
        let version = version(scope)?;
        Ok(SchemaState { version, pending: pending(scope.schema(), version) })
    })
}

/// Runs what is missing, all in one transaction. The write lock, taken before the version is
/// read, makes two processes migrate one after the other; the second finds nothing to do.
pub(super) fn migrate(session: &mut Session) -> Result<MigrationReport> {
    session.write(|scope| {
        scope.run(CREATE_HISTORY, [])?;
        let from = version(scope)?;
        refuse_newer(scope.schema(), from)?;
        let mut applied = Vec::new();
        for migration in pending(scope.schema(), from) {
            scope.run_all(&migration.sql)?;
            scope.run(
                "insert into @schema@_migration (version, name) values (?1, ?2)",
                (migration.version, migration.name),
            )?;
            applied.push(migration.name.to_owned());
        }
        Ok(MigrationReport { from, to: LATEST, applied })
    })
}

/// Checks the version, and by taking the write lock that the file can be written to.
pub(super) fn check(session: &mut Session) -> Result<()> {
    session.write(|scope| {
        let (schema, version) = (scope.schema(), version(scope)?);
        refuse_newer(schema, version)?;
        if version == 0 {
            let doing = format!("the database has no tables of the schema \"{schema}\"");
            return Err(StoreError::new(StoreErrorKind::MissingSchema, doing));
        }
        if version < LATEST {
            let doing = format!(
                "the schema \"{schema}\" has version {version} and this build reads version {LATEST}"
            );
            return Err(StoreError::new(StoreErrorKind::OlderSchema, doing));
        }
        Ok(())
    })
}

fn refuse_newer(schema: &SchemaName, version: i32) -> Result<()> {
    if version <= LATEST {
        return Ok(());
    }
    let doing = format!(
        "the schema \"{schema}\" has version {version} and this build knows versions up to {LATEST}"
    );
    Err(StoreError::new(StoreErrorKind::NewerSchema, doing))
}

fn version(scope: &Scope<'_>) -> Result<i32> {
    let history =
        "select 1 from sqlite_schema where type = 'table' and name = '@schema@_migration'";
    if scope.first(history, [], |_| Ok(()))?.is_none() {
        return Ok(0);
    }
    let newest = "select coalesce(max(version), 0) from @schema@_migration";
    Ok(scope.first(newest, [], |row| row.get(0))?.unwrap_or(0))
}

fn pending(schema: &SchemaName, version: i32) -> Vec<Migration> {
    let numbered = (1..).zip(MIGRATIONS);
    let missing = numbered.filter(|(number, _)| *number > version);
    missing
        .map(|(version, (name, text))| Migration {
            version,
            name,
            sql: text.replace("@schema@", schema.as_str()),
        })
        .collect()
}
