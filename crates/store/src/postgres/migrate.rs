//! Migrations: numbered SQL files, embedded, applied in one transaction.

use tokio_postgres::types::{ToSql, Type};

use super::{PostgresStore, connect::Loan};
use crate::{Migration, MigrationReport, Result, SchemaState, StoreError, StoreErrorKind};

/// File names and texts, in order. A file that has been released is never edited.
const FILES: &[(&str, &str)] = &[
    ("log", include_str!("../../migrations/postgres/0001_log.sql")),
    ("enqueue", include_str!("../../migrations/postgres/0002_enqueue.sql")),
    ("views", include_str!("../../migrations/postgres/0003_views.sql")),
    ("failures", include_str!("../../migrations/postgres/0004_failures.sql")),
    ("writing", include_str!("../../migrations/postgres/0005_writing.sql")),
    ("strict", include_str!("../../migrations/postgres/0006_strict.sql")),
    ("import", include_str!("../../migrations/postgres/0007_import.sql")),
    ("leases", include_str!("../../migrations/postgres/0008_leases.sql")),
    ("rewound", include_str!("../../migrations/postgres/0009_rewound.sql")),
    ("emptied", include_str!("../../migrations/postgres/0010_emptied.sql")),
    ("inbox", include_str!("../../migrations/postgres/0011_inbox.sql")),
    ("commands", include_str!("../../migrations/postgres/0012_commands.sql")),
    ("machines", include_str!("../../migrations/postgres/0013_machines.sql")),
    ("contracts", include_str!("../../migrations/postgres/0014_contracts.sql")),
    ("entities", include_str!("../../migrations/postgres/0015_entities.sql")),
    ("jobs", include_str!("../../migrations/postgres/0016_jobs.sql")),
    ("incidents", include_str!("../../migrations/postgres/0017_incidents.sql")),
    ("operations", include_str!("../../migrations/postgres/0018_operations.sql")),
    ("browse", include_str!("../../migrations/postgres/0019_browse.sql")),
    ("reserved", include_str!("../../migrations/postgres/0020_reserved.sql")),
    ("job lists", include_str!("../../migrations/postgres/0021_job_lists.sql")),
    ("incidents seen", include_str!("../../migrations/postgres/0022_incidents_seen.sql")),
    ("lookups", include_str!("../../migrations/postgres/0023_lookups.sql")),
];

/// Lock space of Posthaste's advisory locks ("PHST"), and the lock that orders migrations.
const LOCK_SPACE: i32 = 0x5048_5354;
const MIGRATION_LOCK: i32 = 1;

/// The oldest server with `xid8` and `pg_snapshot`.
const SERVER_VERSION_MIN: i32 = 130_000;

/// Which migrations the database has and lacks.
pub(super) async fn state(store: &PostgresStore) -> Result<SchemaState> {
    let loan = store.shared.connections.lend().await?;
    refuse_old_server(store, &loan).await?;
    let version = version(store, &loan).await?;
    loan.give_back();
    Ok(SchemaState { version, pending: pending(store, version) })
}

/// Applies what is missing, all of it in one transaction.
pub(super) async fn migrate(store: &PostgresStore) -> Result<MigrationReport> {
    let mut loan = store.shared.connections.lend().await?;
    refuse_old_server(store, &loan).await?;
    let from = version(store, &loan).await?;
    refuse_newer(store, from)?;
    let migrations = pending(store, from);
    let applied = if migrations.is_empty() {
        Vec::new()
    } else {
        apply(store, &mut loan, migrations).await?
    };
    let to = version(store, &loan).await?;
    refuse_newer(store, to)?;
    loan.give_back();
    Ok(MigrationReport { from, to, applied })
}

/// Checks that the schema is this build's and the server takes writes.
pub(super) async fn check(store: &PostgresStore) -> Result<()> {
    let loan = store.shared.connections.lend().await?;
    refuse_old_server(store, &loan).await?;
    super::ticker::current_snapshot(&loan).await?;
    let version = version(store, &loan).await?;
    refuse_newer(store, version)?;
    let described = &store.shared.description;
    if version == 0 {
        let doing = format!("there is no Posthaste schema in {described}");
        return Err(StoreError::new(StoreErrorKind::MissingSchema, doing));
    }
    if version < FILES.len() as i32 {
        let doing = format!("the schema of {described} has version {version}, not {}", FILES.len());
        return Err(StoreError::new(StoreErrorKind::OlderSchema, doing));
    }
    store.geometry(&loan).await?;
    loan.give_back();
    Ok(())
}

async fn refuse_old_server(store: &PostgresStore, loan: &Loan) -> Result<()> {
    let sql = "select current_setting('server_version_num')::int, \
               current_setting('server_version')";
    let rows =
        loan.bounded("read the server's version", loan.client().query_typed(sql, &[])).await?;
    match rows.first().map(|row| (row.get::<_, i32>(0), row.get::<_, String>(1))) {
        Some((number, text)) if number < SERVER_VERSION_MIN => {
            let doing =
                format!("{} is PostgreSQL {text}; 13 or later is needed", store.shared.description);
            Err(StoreError::new(StoreErrorKind::Invalid, doing))
        }
        _ => Ok(()),
    }
}

async fn version(store: &PostgresStore, loan: &Loan) -> Result<i32> {
    let name = format!("{}.migration", store.schema());
    let exists = "select to_regclass($1) is not null";
    let rows = loan
        .bounded("find the schema", loan.client().query_typed(exists, &[(&name, Type::TEXT)]))
        .await?;
    if !rows.first().is_some_and(|row| row.get(0)) {
        return Ok(0);
    }
    let newest = format!("select coalesce(max(version), 0) from {name}");
    let rows =
        loan.bounded("read the schema's version", loan.client().query_typed(&newest, &[])).await?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}

fn refuse_newer(store: &PostgresStore, version: i32) -> Result<()> {
    let known = FILES.len() as i32;
    if version <= known {
        return Ok(());
    }
    let doing = format!(
        "the schema of {} has version {version}; this build knows {known}",
        store.shared.description
    );
    Err(StoreError::new(StoreErrorKind::NewerSchema, doing))
}

fn pending(store: &PostgresStore, version: i32) -> Vec<Migration> {
    let numbered = (1..).zip(FILES);
    numbered
        .filter(|(number, _)| *number > version)
        .map(|(number, (name, text))| Migration { version: number, name, sql: fit(store, text) })
        .collect()
}

/// Puts the schema name and the ring's sizes in place; the name is validated, the rest numbers.
fn fit(store: &PostgresStore, text: &str) -> String {
    let options = &store.shared.options;
    text.replace("@schema@", options.schema.as_str())
        .replace("@slots@", &options.rings.slots.to_string())
        .replace("@slot_size@", &options.rings.slot_size.to_string())
        .replace("@payload_bytes_max@", &options.limits.payload_bytes.to_string())
}

/// Applies migrations under an advisory lock of their transaction, and answers the names of those
/// that no other process has applied meanwhile.
async fn apply(
    store: &PostgresStore,
    loan: &mut Loan,
    migrations: Vec<Migration>,
) -> Result<Vec<String>> {
    let schema = store.schema();
    let limit = loan.operation_timeout();
    let work = async {
        let transaction = loan.begin().await?;
        // The lock comes first: two processes that create the same schema would otherwise collide
        // on the catalogue.
        transaction
            .batch_execute(&format!(
                "select pg_advisory_xact_lock({LOCK_SPACE}, {MIGRATION_LOCK}); \
                 create schema if not exists {schema}; \
                 create table if not exists {schema}.migration (version int primary key, \
                 name text not null, applied_at timestamptz not null default clock_timestamp())"
            ))
            .await?;
        let record = format!(
            "insert into {schema}.migration (version, name) values ($1, $2) on conflict do nothing"
        );
        let mut applied = Vec::new();
        for Migration { version, name, sql } in migrations {
            let row: &[(&(dyn ToSql + Sync), Type)] =
                &[(&version, Type::INT4), (&name, Type::TEXT)];
            if transaction.execute_typed(&record, row).await? == 1 {
                transaction.batch_execute(&sql).await?;
                applied.push(name.to_owned());
            }
        }
        transaction.commit().await?;
        Ok(applied)
    };
    super::connect::bounded(limit, "migrate the schema", work).await
}
