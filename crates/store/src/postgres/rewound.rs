//! Whether the log still is the one that a subscription was read from. A dump that was loaded, a
//! volume that was restored and a lagging replica that was promoted hand positions and transaction
//! ids out again, while a sink or a relay remembers later places.
//!
//! Only finds it; `rebase` resolves it.

use posthaste_core::{Epoch, Place, Position, Snapshot, Tick, TickRef, Within};
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use super::{PostgresStore, connect::Loan, leases, ticker::current_snapshot};
use crate::{Lineage, Result, StoreError, StoreErrorKind, defect};

const DOING: &str = "compare the log with a place";

/// Whether the row of `meta` was written by another server or for another table than it says: what
/// the migration noted has been copied since, row by row. Transaction ids in the rows are then
/// those of another server.
pub(super) fn is_copy_sql(schema: &str) -> String {
    format!(
        "(m.xmin::text::bigint <> (m.written_by::text::numeric % 4294967296)::bigint \
         and (m.log_oid <> '{schema}.log'::regclass::oid \
         or m.system_id <> (select system_identifier from pg_control_system())))"
    )
}

/// Checks the log against the place that it has for `subscription`, and against the one that this
/// process settled last.
pub(super) async fn confirm(
    store: &PostgresStore,
    subscription: &str,
    place: &Place,
    remembered: Option<&Place>,
) -> Result<Lineage> {
    let loan = store.shared.connections.lend().await?;
    refuse_copy(store, &loan).await?;
    let lineage = lineage(store, &loan, subscription).await?;
    if defect::is("reused-position") {
        return Ok(lineage);
    }
    let settled = store.tick(&loan, place.base).await?;
    refuse_step_back(store, &settled, &current_snapshot(&loan).await?)?;
    refuse_rows_ahead(store, &loan).await?;
    if let Some(Within { head, .. }) = place.within {
        store.tick(&loan, head).await?;
    }
    if let Some(remembered) = remembered {
        check_ticks(store, &loan, remembered, "this relay has settled").await?;
    }
    loan.give_back();
    Ok(lineage)
}

/// Checks the log against the place that a sink keeps: its ticks, and its message.
pub(super) async fn confirm_mark(store: &PostgresStore, mark: &Place) -> Result<()> {
    if defect::is("reused-position") {
        return Ok(());
    }
    let loan = store.shared.connections.lend().await?;
    check_ticks(store, &loan, mark, "the sink keeps").await?;
    if let (Some(Within { position, .. }), Some(message)) = (mark.within, mark.message) {
        check_message(store, &loan, position, message).await?;
    }
    loan.give_back();
    Ok(())
}

/// Notes why a subscription must not go on, and gives it up. A log that went back may know an
/// earlier epoch than the one that its reader was given.
pub(super) async fn halt(
    store: &PostgresStore,
    subscription: &str,
    epoch: Epoch,
    found: &str,
) -> Result<()> {
    let sql = lease_sql(store, "rewound = coalesce(rewound, $3)", "epoch <= $2");
    let params: &[(&(dyn ToSql + Sync), Type)] =
        &[(&subscription, Type::TEXT), (&epoch, Type::INT8), (&found, Type::TEXT)];
    let loan = store.shared.connections.lend().await?;
    loan.bounded("halt a subscription", loan.client().execute_typed(&sql, params)).await?;
    loan.give_back();
    leases::release(store, subscription, epoch).await
}

/// Notes that the sink's places have been taken over, under the holder's epoch only (FENCED).
pub(super) async fn adopted(store: &PostgresStore, subscription: &str, epoch: Epoch) -> Result<()> {
    let sql = lease_sql(store, "adopts = false", "epoch = $2");
    let params: &[(&(dyn ToSql + Sync), Type)] =
        &[(&subscription, Type::TEXT), (&epoch, Type::INT8)];
    let loan = store.shared.connections.lend().await?;
    let doing = "note that the sink was taken over";
    loan.bounded(doing, loan.client().execute_typed(&sql, params)).await?;
    loan.give_back();
    Ok(())
}

/// Changes the lease of the subscription `$1` under such an epoch.
fn lease_sql(store: &PostgresStore, change: &str, epoch: &str) -> String {
    format!(
        "update {0}.lease set {change} where {epoch} and subscription = \
         (select id from {0}.subscription where name = $1)",
        store.schema()
    )
}

/// Refuses a log whose rows were copied from another database.
pub(super) async fn refuse_copy(store: &PostgresStore, loan: &Loan) -> Result<()> {
    let schema = store.schema();
    let sql = format!("select {} from {schema}.meta m", is_copy_sql(schema.as_str()));
    let rows = loan.bounded(DOING, loan.client().query_typed(&sql, &[])).await?;
    if rows.first().is_some_and(|row| row.get(0)) {
        return Err(rewound(store, "its rows were copied from another database"));
    }
    Ok(())
}

/// Refuses a fresh snapshot that does not reach as far as a tick: transactions with the ids in
/// between would never be in any window.
pub(super) fn refuse_step_back(store: &PostgresStore, tick: &Tick, fresh: &Snapshot) -> Result<()> {
    let (next, passed) = (fresh.xmax(), tick.snapshot.xmax());
    if next >= passed {
        return Ok(());
    }
    let n = tick.at.n;
    Err(rewound(store, &format!("tick {n} ends at transaction {passed}, the next one is {next}")))
}

async fn lineage(store: &PostgresStore, loan: &Loan, subscription: &str) -> Result<Lineage> {
    let sql = format!(
        "select coalesce(l.log, m.incarnation), l.adopts, l.rewound from {0}.lease l \
         join {0}.subscription s on s.id = l.subscription cross join {0}.meta m where s.name = $1",
        store.schema()
    );
    let name: &[(&(dyn ToSql + Sync), Type)] = &[(&subscription, Type::TEXT)];
    let rows = loan.bounded(DOING, loan.client().query_typed(&sql, name)).await?;
    let Some(row) = rows.first() else {
        let doing = format!("{DOING}: the subscription {subscription:?} does not exist");
        return Err(StoreError::new(StoreErrorKind::Invalid, doing));
    };
    match row.get::<_, Option<String>>(2) {
        Some(found) => {
            let doing = format!("{subscription:?} was halted: {found}");
            Err(StoreError::new(StoreErrorKind::Rewound, doing))
        }
        None => Ok(Lineage { log: row.get(0), adopts: row.get(1) }),
    }
}

/// Refuses rows that have not been written yet: by transactions to come, at positions to come.
async fn refuse_rows_ahead(store: &PostgresStore, loan: &Loan) -> Result<()> {
    // Both are ranges of an index, from above everything that there should be. In one statement:
    // what its own snapshot shows has lower ids, and the sequence is read after it.
    let sql = format!(
        "select (select position from {0}.log where xid >= pg_snapshot_xmax(pg_current_snapshot()) \
         limit 1), (select position from {0}.log \
         where position > (select last_value from {0}.log_position_seq) limit 1)",
        store.schema()
    );
    let rows = loan.bounded(DOING, loan.client().query_typed(&sql, &[])).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let ahead = |position: i64, of: &str| {
        rewound(store, &format!("the message at position {position} is ahead of the {of}"))
    };
    match (row.get::<_, Option<i64>>(0), row.get::<_, Option<i64>>(1)) {
        (Some(position), _) => Err(ahead(position, "server's transaction ids")),
        (None, Some(position)) => Err(ahead(position, "sequence of positions")),
        (None, None) => Ok(()),
    }
}

/// Checks that the ticks of a place that was settled here once are there, unless the ring has
/// forgotten them since.
async fn check_ticks(store: &PostgresStore, loan: &Loan, place: &Place, whose: &str) -> Result<()> {
    let all = [place.base, place.within.map_or(place.base, |within| within.head)];
    if store.ticks(loan, all).await.is_ok() {
        return Ok(());
    }
    for at in all {
        let Err(error) = store.tick(loan, at).await else { continue };
        if error.kind() != StoreErrorKind::Rewound {
            return Err(error);
        }
        if !is_forgotten(store, loan, at).await? {
            return Err(error.while_doing(&format!("{whose} a place that is not of this log")));
        }
    }
    Ok(())
}

/// Whether a tick is missing because its slot was emptied: ticks have no gaps.
async fn is_forgotten(store: &PostgresStore, loan: &Loan, at: TickRef) -> Result<bool> {
    let slot = store.geometry(loan).await?.tick.slot_of(at.n);
    let sql = format!("select from {}.tick_{slot} where n = {}", store.schema(), at.n);
    let found = loan.bounded(DOING, loan.client().query_typed(&sql, &[])).await?;
    Ok(found.is_empty() && store.newest_tick(loan).await?.at.n > at.n)
}

/// Checks that a message stands at its position, unless the slot has been emptied.
async fn check_message(
    store: &PostgresStore,
    loan: &Loan,
    position: Position,
    message: Uuid,
) -> Result<()> {
    let ring = store.geometry(loan).await?.log;
    let (stretch, slot) = (ring.stretch_of(position), ring.slot_of(position));
    let sql = format!(
        "select (select id from {0}.log_{slot} where position = {position}), \
         exists (select from {0}.log_{slot} where position between {1} and {2})",
        store.schema(),
        ring.start_of(stretch),
        ring.end_of(stretch)
    );
    let rows = loan.bounded(DOING, loan.client().query_typed(&sql, &[])).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (found, is_kept): (Option<Uuid>, bool) = (row.get(0), row.get(1));
    if found == Some(message) || (found.is_none() && !is_kept) {
        return Ok(());
    }
    let what = found.map_or_else(|| "no message".to_owned(), |id| format!("message {id}"));
    Err(rewound(store, &format!("position {position} holds {what}, the sink has {message} of it")))
}

fn rewound(store: &PostgresStore, found: &str) -> StoreError {
    let doing = format!("{} is not the log that was read: {found}", store.shared.description);
    StoreError::new(StoreErrorKind::Rewound, doing)
}
