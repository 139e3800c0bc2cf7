//! The texts of commands: requests that are executed once. Each answers at most one row of three
//! columns, any of which may be null: a text, bytes, and a number.

use posthaste_core::SchemaName;

/// The time on SQLite's clock, in microseconds since the Unix epoch, as the defaults of the tables
/// read it.
const NOW: &str = "cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000";

/// The statements of commands on PostgreSQL.
#[derive(Clone, Debug)]
pub struct PostgresCommands {
    /// Begins `$1 scope text, $2 key text, $3 fingerprint bytea` for `$4 owner uuid` with a lease of
    /// `$5 int8` milliseconds: the outcome, the response of a repeat, and the milliseconds that the
    /// lease of one in progress still has.
    pub begin: String,
    /// Keeps the response `$4 bytea` of `$1 scope text, $2 key text` if it is `$3 owner uuid`'s: 1, or 0.
    pub complete: String,
    /// Gives `$3 owner uuid` of `$1 scope text, $2 key text` `$4 int8` milliseconds more: 1, or 0.
    pub renew: String,
    /// Frees `$1 scope text, $2 key text` if it is `$3 owner uuid`'s: 1, or 0.
    pub abandon: String,
}

impl PostgresCommands {
    /// The statements for one schema.
    pub fn new(schema: &SchemaName) -> Self {
        let answer = "select null::text, null::bytea";
        Self {
            begin: format!(
                "select outcome, response, lease_ms from {schema}.begin_command($1::text, $2::text, \
                 $3::bytea, $4::uuid, $5::int8 * interval '1 millisecond')"
            ),
            complete: format!(
                "{answer}, {schema}.complete_command($1::text, $2::text, $3::uuid, $4::bytea)::int::int8"
            ),
            renew: format!(
                "{answer}, {schema}.renew_command($1::text, $2::text, $3::uuid, \
                 $4::int8 * interval '1 millisecond')::int::int8"
            ),
            abandon: format!(
                "{answer}, {schema}.abandon_command($1::text, $2::text, $3::uuid)::int::int8"
            ),
        }
    }
}

/// The statements of commands on SQLite, with the parameters of [`PostgresCommands`].
#[derive(Clone, Debug)]
pub struct SqliteCommands {
    /// Begins one that nobody has begun: a row if so.
    pub insert: String,
    /// What became of one that was begun: as [`PostgresCommands::begin`], and `conflict` where the
    /// fingerprint is another. No row if it is gone.
    pub look: String,
    /// Takes one over that is the owner's own or whose lease has run out: a row if so.
    pub take: String,
    /// As [`PostgresCommands::complete`].
    pub complete: String,
    /// As [`PostgresCommands::renew`].
    pub renew: String,
    /// As [`PostgresCommands::abandon`].
    pub abandon: String,
}

impl SqliteCommands {
    /// The statements for one schema name, which SQLite has as a prefix of table names.
    pub fn new(schema: &SchemaName) -> Self {
        let own = "scope = ?1 and key = ?2 and owner = ?3 and response is null";
        let done = "returning null, null, 1";
        Self {
            insert: format!(
                "insert into {schema}_command (scope, key, fingerprint, owner, lease_until) \
                 values (?1, ?2, ?3, ?4, {NOW} + ?5 * 1000) on conflict do nothing {done}"
            ),
            look: format!(
                "select case when fingerprint <> ?3 then 'conflict' \
                 when response is not null then 'repeat' when owner = ?4 then 'first' \
                 when lease_until > {NOW} then 'in progress' else 'taken over' end, response, \
                 (lease_until - {NOW} + 999) / 1000 from {schema}_command \
                 where scope = ?1 and key = ?2"
            ),
            take: format!(
                "update {schema}_command set owner = ?4, lease_until = {NOW} + ?5 * 1000 \
                 where scope = ?1 and key = ?2 and fingerprint = ?3 and response is null \
                 and (owner = ?4 or lease_until <= {NOW}) {done}"
            ),
            // Completed twice with one answer is no fault: the first answer may have been lost.
            complete: format!(
                "update {schema}_command set response = ?4, lease_until = null, \
                 completed_at = coalesce(completed_at, {NOW}) where scope = ?1 and key = ?2 \
                 and owner = ?3 and (response is null or response = ?4) {done}"
            ),
            renew: format!(
                "update {schema}_command set lease_until = {NOW} + ?4 * 1000 where {own} {done}"
            ),
            abandon: format!("delete from {schema}_command where {own} {done}"),
        }
    }
}
