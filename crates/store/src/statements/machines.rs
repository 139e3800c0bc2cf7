//! The texts of steps of state machines. Each answers at most one row of three columns, any of which
//! may be null: a text, bytes, and a number.

use posthaste_core::{SchemaName, machine::EntityTable};

use super::NOW;
use crate::import::quoted;

/// The statements of steps on PostgreSQL: its functions do all of it.
#[derive(Clone, Debug)]
pub struct PostgresMachines {
    /// Begins an entity: `$1 machine, $2 entity_id, $3 state, $4 idempotency_key, $5 initiated_by,
    /// $6 user_id, $7 organization_id, $8 messages` (a JSON array)`, $9 metadata` (a JSON object)`,
    /// $10 correlation_id`, all of them texts. The answer as JSON.
    pub start: String,
    /// Takes an entity on: as [`Self::start`], and `$11` is the state from which it is to go.
    pub transition: String,
    /// Fails on purpose with `$1 text` as its message, which leaves the caller's transaction
    /// aborted.
    pub refuse: String,
}

impl PostgresMachines {
    /// The statements for one schema.
    pub fn new(schema: &SchemaName) -> Self {
        let arguments = "idempotency_key => $4::text, initiated_by => $5::text, user_id => $6::text, \
                         organization_id => $7::text, messages => $8::text::json, \
                         metadata => $9::text::jsonb, correlation_id => $10::text";
        let rest = "::text, null::bytea, null::int8";
        Self {
            start: format!(
                "select {schema}.start_machine($1::text, $2::text, $3::text, {arguments}){rest}"
            ),
            transition: format!(
                "select {schema}.transition($1::text, $2::text, $3::text, {arguments}, \
                 from_state => $11::text){rest}"
            ),
            refuse: format!(
                "select null::text, null::bytea, 0::int8 from {schema}.refuse($1::text)"
            ),
        }
    }
}

/// The statements of steps on SQLite, where the library decides between them.
#[derive(Clone, Debug)]
pub struct SqliteMachines {
    /// Keeps the caller's transaction from committing until [`Self::lift`]; fails outside of one.
    /// Where [`Self::FOREIGN_KEYS`] are off it does nothing.
    pub guard: String,
    /// Lets the transaction commit again.
    pub lift: String,
    /// Keeps the transaction from committing for good.
    pub refuse: String,
    /// The definition of the machine `?1`, as JSON.
    pub definition: String,
    /// Begins the entity `?2` of the machine `?1` in the state `?3`, of the user `?4` and the
    /// organisation `?5`: a row if nobody has.
    pub begin: String,
    /// The entity `?2` of the machine `?1`, of the organisation `?3` (or of none): its state, and its
    /// version.
    pub entity: String,
    /// Takes the entity `?2` of the machine `?1` to the state `?3`: its user, and its new version.
    pub advance: String,
    /// Writes an event: `?1 machine, ?2 entity_id, ?3 version, ?4 id, ?5 from_state, ?6 to_state,
    /// ?7 initiated_by, ?8 user_id, ?9 organization_id, ?10 correlation_id, ?11 metadata`. Its time,
    /// in RFC 3339.
    pub event: String,
    /// The id of the message that the token `?1` stands for, as bytes.
    pub token_id: String,
    /// Keeps the response `?4 blob` of `?1 scope, ?2 key` of `?3 owner`, which is about the entity
    /// `?6` of the machine `?5`.
    pub complete: String,
}

impl SqliteMachines {
    /// Whether [`Self::guard`] works on this connection: 1 if it does.
    pub const FOREIGN_KEYS: &str = "select null, null, foreign_keys from pragma_foreign_keys";
    /// Ends the caller's transaction where it cannot be kept from committing.
    pub const ROLLBACK: &str = "rollback";

    /// The statements for one schema name, which SQLite has as a prefix of table names.
    pub fn new(schema: &SchemaName) -> Self {
        let done = "returning null, null, 1";
        // Positions that exist nowhere; -1 is that of messages that were refused, and stays. Without
        // `returning`: a client that reads one row and no further would not hear that the end of the
        // statement, which is the transaction's outside of one, failed.
        let insert = format!("insert into {schema}_refused (log_position)");
        Self {
            guard: format!("{insert} values (-2)"),
            lift: format!("delete from {schema}_refused where log_position = -2"),
            refuse: format!("{insert} values (-1)"),
            definition: format!(
                "select definition, null, null from {schema}_machine where name = ?1"
            ),
            begin: format!(
                "insert into {schema}_entity (machine, entity_id, state, user_id, organization_id) \
                 values (?1, ?2, ?3, ?4, ?5) on conflict (machine, entity_id) do nothing {done}"
            ),
            entity: format!(
                "select state, null, version from {schema}_entity \
                 where machine = ?1 and entity_id = ?2 and organization_id is ?3"
            ),
            advance: format!(
                "update {schema}_entity set state = ?3, version = version + 1, changed_at = {NOW} \
                 where machine = ?1 and entity_id = ?2 returning user_id, null, version"
            ),
            event: format!(
                "insert into {schema}_state_event (machine, entity_id, version, id, from_state, \
                 to_state, initiated_by, user_id, organization_id, correlation_id, metadata) \
                 values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11) \
                 returning strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000000.0, 'unixepoch'), null, null"
            ),
            token_id: format!("select null, message_id, null from {schema}_token where token = ?1"),
            complete: format!(
                "update {schema}_command set response = ?4, lease_until = null, \
                 completed_at = {NOW}, machine = ?5, entity_id = ?6 \
                 where scope = ?1 and key = ?2 and owner = ?3 {done}"
            ),
        }
    }

    /// Whether the application's table holds the entity `?1`, of the organisation `?2` where that is
    /// told apart: a row if so.
    ///
    /// The first comparison is the index's, with the column's affinity; the second refuses what only
    /// looks alike, such as `017`.
    pub fn is_there(table: &EntityTable) -> String {
        let key = quoted(&table.key);
        let organization = table.organization.as_ref().map_or_else(String::new, |column| {
            let column = quoted(column);
            format!(" and {column} = ?2 and cast({column} as text) = ?2")
        });
        format!(
            "select null, null, 1 from {} \
             where {key} = ?1 and cast({key} as text) = ?1{organization}",
            quoted(sqlite_table(table))
        )
    }
}

/// The name of an application's table on SQLite: without the schema, which stands for one file on
/// PostgreSQL's side of things only.
pub(crate) fn sqlite_table(entity: &EntityTable) -> &str {
    entity.table.rsplit_once('.').map_or(entity.table.as_str(), |(_, table)| table)
}
