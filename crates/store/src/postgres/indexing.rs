//! The indexes by which people find messages: built when a slot is sealed, gone when it is emptied (`0019_browse.sql`).

use std::collections::HashSet;

use posthaste_core::Ring;
use tokio_postgres::types::Type;

use super::{PostgresStore, connect::Loan, slots::Knowledge};
use crate::{Result, StoreErrorKind};

/// Slots that one sweep indexes: a slot takes about a second.
const INDEXED_MAX: usize = 4;

/// Brings the indexes of sealed slots in step with what the slots hold. A slot that cannot be locked at once, or whose
/// indexes are not this role's to make, stays as it is: that costs those who look for messages time, and nobody else.
pub(super) async fn reconcile(store: &PostgresStore, loan: &Loan, ring: Ring) -> Result<()> {
    let mut known: Vec<(i64, Knowledge)> =
        store.shared.slots.lock().iter().map(|(stretch, known)| (*stretch, *known)).collect();
    known.sort_unstable_by_key(|(stretch, _)| std::cmp::Reverse(*stretch));
    let indexed = indexed(store, loan).await?;
    let schema = store.schema();
    let mut left = INDEXED_MAX;
    for (stretch, known) in known {
        let Knowledge::Sealed { max_xid } = known else { continue };
        let slot = stretch % ring.slots;
        let call = match (max_xid.is_some(), indexed.contains(&slot)) {
            (true, false) if left > 0 => {
                left -= 1;
                let until = ring.start_of(stretch + ring.slots);
                format!("select {schema}.index_slot({slot}, {until})")
            }
            (false, true) => format!("select {schema}.unindex_slot({slot})"),
            _ => continue,
        };
        let done = loan.bounded("index a slot", loan.client().query_typed(&call, &[])).await;
        match done {
            Err(error) if error.kind() == StoreErrorKind::Privilege => return Ok(()),
            Err(error)
                if !matches!(error.kind(), StoreErrorKind::Held | StoreErrorKind::Conflict) =>
            {
                return Err(error);
            }
            _ => {}
        }
    }
    Ok(())
}

/// The slots that have their indexes.
async fn indexed(store: &PostgresStore, loan: &Loan) -> Result<HashSet<i64>> {
    let sql = "select substring(c.relname from '^log_([0-9]+)_by_id$')::int8 \
               from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace \
               where n.nspname = $1 and c.relname ~ '^log_[0-9]+_by_id$'";
    let schema = store.schema().as_str();
    let name: &[(&(dyn tokio_postgres::types::ToSql + Sync), Type)] = &[(&schema, Type::TEXT)];
    let rows = loan.bounded("look at the indexes", loan.client().query_typed(sql, name)).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
