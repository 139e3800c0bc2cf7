//! Work as an application does it, on the writer's thread.

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
