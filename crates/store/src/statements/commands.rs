//! The texts of commands: requests that are executed once. Each answers at most one row of three
//! columns, any of which may be null: a text, bytes, and a number.

use posthaste_core::SchemaName;

use super::NOW;

/// The statements of commands on PostgreSQL.
#[derive(Clone, Debug)]
pub struct PostgresCommands {
    /// Begins `$1 scope text, $2 key text, $3 fingerprint bytea` for `$4 owner uuid` with a lease
    /// of `$5 int8` milliseconds: the outcome, the response of a repeat, and a number. Of one in
    /// progress that is the milliseconds that its lease still has, of a repeat
    /// [`COMMITTED`](Self::COMMITTED) or 1.
    pub begin: String,
    /// Keeps the response `$4 bytea` of `$1 scope text, $2 key text` if it is `$3 owner uuid`'s: 1,
    /// or 0. [`COMMITTED`](Self::COMMITTED) if that had been done before.
    pub complete: String,
    /// Gives `$3 owner uuid` of `$1 scope text, $2 key text` `$4 int8` milliseconds more: 1, or 0.
    pub renew: String,
    /// Frees `$1 scope text, $2 key text` if it is `$3 owner uuid`'s: 1, or 0.
    pub abandon: String,
}

impl PostgresCommands {
    /// The number of an answer that is committed for certain.
    pub const COMMITTED: i64 = 2;

    /// The statements for one schema.
    pub fn new(schema: &SchemaName) -> Self {
        let answer = "select null::text, null::bytea";
        // A transaction without an id has written nothing: what it reads is others', and committed.
        // The condition of a `case` is evaluated before its values, so after the function has had
        // its effect.
        let committed = format!(
            "case when pg_current_xact_id_if_assigned() is null then {} else 1 end::int8",
            Self::COMMITTED
        );
        Self {
            begin: format!(
                "select outcome, response, case when outcome = 'repeat' then {committed} \
                 else lease_ms end from {schema}.begin_command($1::text, $2::text, \
                 $3::bytea, $4::uuid, $5::int8 * interval '1 millisecond')"
            ),
            complete: format!(
                "{answer}, case when {schema}.complete_command($1::text, $2::text, $3::uuid, \
                 $4::bytea) then {committed} else 0 end::int8"
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
