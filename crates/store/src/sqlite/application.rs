//! Work as an application does it, on the writer's thread.

use posthaste_core::SchemaName;

use super::session::Session;
use crate::{Note, Request, Result, Work};

/// Does the work and notes it in the same transaction; a dry run takes both back.
pub(super) fn work(
    session: &mut Session,
    mut work: Box<dyn Work>,
    note: &Note,
    request: &Request,
) -> Result<()> {
    session.write_if(|scope| {
        let is_done = work.on_sqlite(scope.connection(), scope.schema());
        if !is_done || request.is_dry_run {
            return Ok(false);
        }
        scope.run(
            "insert into @schema@_audit (actor, action, detail) values (?1, ?2, ?3)",
            (&request.actor, note.action, &note.detail),
        )?;
        Ok(true)
    })
}

/// How many steps an entity has taken; 0 where there is none.
///
/// # Errors
/// The file cannot be read.
pub fn entity_version(
    connection: &rusqlite::Connection,
    schema: &SchemaName,
    [machine, entity]: [&str; 2],
) -> rusqlite::Result<u64> {
    let sql = format!(
        "select coalesce(max(version), 0) from {schema}_entity where machine = ?1 and entity_id = ?2"
    );
    connection.query_row(&sql, [machine, entity], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
}
