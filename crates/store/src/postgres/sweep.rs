//! The sweep: learns which slots are sealed, and truncates those that nobody needs any more.
//!
//! Truncating locks one child table and waits for that lock 50 ms at most, so writers, which lock
//! the parent and the head's child, are never held up.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use posthaste_core::Ring;

use super::{
    PostgresStore,
    connect::Loan,
    indexing,
    retention::{self, Needs, max_xid},
    slots::{Geometry, Knowledge},
    ticker::{current_snapshot, take_xid},
};
use crate::{Result, StoreError, StoreErrorKind, SweepReport, defect};

/// A slot of the ticks or of the progress is emptied when the head is this close to reaching it
/// again: the longer it stays, the further back `published_at` is exact.
const STRETCHES_AHEAD: i64 = 2;

/// Rows beside the log that one transaction deletes: a few milliseconds.
const CHUNK: u64 = 1_000;
/// Chunks of one sweep and table: at the default interval of 5 s, 20,000 rows a second can come and
/// go.
const CHUNKS_MAX: usize = 100;

/// One sweep over the three rings.
pub(super) async fn sweep(store: &PostgresStore) -> Result<SweepReport> {
    let loan = store.shared.connections.lend().await?;
    let geometry = store.geometry(&loan).await?;
    let mut report = SweepReport::default();
    let last = store.last_position(&loan).await?;
    learn(store, &loan, geometry.log, last).await?;
    report.slots_shared = shared_slots(store, &loan, geometry.log, last).await?;
    let needs = retention::needs(store, &loan).await?;
    report.bytes_over = retention::bytes_over(store, &loan, geometry.log).await?;
    if let Some(needs) = &needs {
        sweep_log(store, &loan, geometry.log, last, needs, &mut report).await?;
        report.slots_emptied += sweep_ticks(store, &loan, geometry, needs).await?;
        report.slots_emptied += sweep_progress(store, &loan, geometry).await?;
    }
    if report.bytes_over > 0 || report.slots_shared > 0 {
        let (needs, is_over) = (needs.as_ref(), report.bytes_over > 0);
        report.pin = retention::pin(store, &loan, geometry.log, last, needs, is_over).await?;
    }
    report.tokens_deleted = sweep_tokens(store, &loan).await?;
    report.inbox_deleted = sweep_inbox(store, &loan).await?;
    let kept = store.shared.options.command_retention;
    report.commands_deleted = forget(store, &loan, "commands", kept).await?;
    let kept = store.shared.options.job_retention;
    report.jobs_deleted = forget(store, &loan, "jobs", kept).await?;
    indexing::reconcile(store, &loan, geometry.log).await?;
    loan.give_back();
    Ok(report)
}

/// Forgets tokens that are older than their retention, in small transactions. `skip locked`, so
/// that sweeps of several relays do not wait for each other.
async fn sweep_tokens(store: &PostgresStore, loan: &Loan) -> Result<u64> {
    // A range of the index on `created_at`, from its start.
    let sql = format!(
        "delete from {0}.token where token = any (array(select token from {0}.token \
         where created_at <= statement_timestamp() - make_interval(secs => {1}) \
         order by created_at limit {CHUNK} for update skip locked))",
        store.schema(),
        store.shared.options.token_retention.as_secs_f64()
    );
    delete_chunks(loan, "sweep tokens", &sql).await
}

/// Forgets handled messages that are older than their retention, likewise. A consumer waits for a
/// chunk at most, and only if one of its messages comes again after all that time.
async fn sweep_inbox(store: &PostgresStore, loan: &Loan) -> Result<u64> {
    // A range of the index on `handled_at`, from its start. The rows are locked and never updated,
    // so each stays where its `ctid` says.
    let sql = format!(
        "delete from {0}.inbox where ctid = any (array(select ctid from {0}.inbox \
         where handled_at <= statement_timestamp() - make_interval(secs => {1}) \
         order by handled_at limit {CHUNK} for update skip locked))",
        store.schema(),
        store.shared.options.inbox_retention.as_secs_f64()
    );
    delete_chunks(loan, "sweep inboxes", &sql).await
}

/// Forgets commands or jobs that are older than their retention, by the function that may: their tables
/// are for their functions alone.
async fn forget(
    store: &PostgresStore,
    loan: &Loan,
    what: &str,
    retention: Duration,
) -> Result<u64> {
    let sql = format!(
        "select {}.forget_{what}(make_interval(secs => {}), {CHUNK})",
        store.schema(),
        retention.as_secs_f64()
    );
    let mut deleted = 0;
    for _ in 0..CHUNKS_MAX {
        let rows =
            loan.bounded(&format!("sweep {what}"), loan.client().query_typed(&sql, &[])).await?;
        let now = rows.first().map_or(0, |row| row.get::<_, i64>(0).cast_unsigned());
        deleted += now;
        if now < CHUNK {
            break;
        }
    }
    Ok(deleted)
}

/// Runs a deletion of one chunk until it finds less than that.
async fn delete_chunks(loan: &Loan, doing: &str, sql: &str) -> Result<u64> {
    let mut deleted = 0;
    for _ in 0..CHUNKS_MAX {
        let now = loan.bounded(doing, loan.client().execute_typed(sql, &[])).await?;
        deleted += now;
        if now < CHUNK {
            break;
        }
    }
    Ok(deleted)
}

/// Moves what is known of each slot forward: passed, then sealed.
async fn learn(store: &PostgresStore, loan: &Loan, ring: Ring, last: i64) -> Result<()> {
    let newest: Vec<(i64, i64)> = (0..ring.slots)
        .filter_map(|slot| Some((slot, ring.newest_stretch_in(slot, last)?)))
        .filter(|(_, stretch)| *stretch != ring.stretch_of(last))
        .collect();
    let known: HashMap<i64, Knowledge> = store.shared.slots.lock().clone();
    let mut fresh = HashMap::with_capacity(newest.len());
    let is_new = |stretch: &i64| !known.contains_key(stretch);
    // X is taken after `last` was read: whoever still holds a position of a passed slot has a
    // lower xid.
    let xid = if newest.iter().any(|(_, stretch)| is_new(stretch)) {
        Some(take_xid(loan).await?)
    } else {
        None
    };
    let snapshot = current_snapshot(loan).await?;
    for (slot, stretch) in newest {
        let state = match (known.get(&stretch).copied(), xid) {
            (Some(Knowledge::Passed { xid }), _) if snapshot.xmin() > xid => {
                Knowledge::Sealed { max_xid: max_xid(store, loan, slot).await? }
            }
            (Some(state), _) => state,
            (None, Some(xid)) if snapshot.xmin() > xid => {
                Knowledge::Sealed { max_xid: max_xid(store, loan, slot).await? }
            }
            (None, Some(xid)) => Knowledge::Passed { xid },
            (None, None) => continue,
        };
        fresh.insert(stretch, state);
    }
    *store.shared.slots.lock() = fresh;
    Ok(())
}

/// Slots that hold messages of an earlier lap beside those of their newest one.
async fn shared_slots(store: &PostgresStore, loan: &Loan, ring: Ring, last: i64) -> Result<u32> {
    if ring.stretch_of(last) < ring.slots {
        return Ok(0);
    }
    let mut shared = 0;
    for slot in 0..ring.slots {
        let Some(stretch) = ring.newest_stretch_in(slot, last) else { continue };
        let sql = format!(
            "select exists (select from {}.log_{slot} where position < {})",
            store.schema(),
            ring.start_of(stretch)
        );
        let rows = loan.bounded("look at a slot", loan.client().query_typed(&sql, &[])).await?;
        shared += u32::from(rows.first().is_some_and(|row| row.get(0)));
    }
    Ok(shared)
}

/// Empties the slots that may go, the oldest first, so that a log above its size keeps the newest.
async fn sweep_log(
    store: &PostgresStore,
    loan: &Loan,
    ring: Ring,
    last: i64,
    needs: &Needs,
    report: &mut SweepReport,
) -> Result<()> {
    let known: BTreeMap<i64, Knowledge> =
        store.shared.slots.lock().iter().map(|(stretch, known)| (*stretch, *known)).collect();
    for (stretch, state) in known {
        let Knowledge::Sealed { max_xid: Some(max_xid) } = state else { continue };
        let slot = stretch % ring.slots;
        if ring.newest_stretch_in(slot, last) != Some(stretch)
            || (needs.first_behind(store, loan, slot, max_xid).await?.is_some()
                && !defect::is("slot-emptied-early"))
            || (report.bytes_over == 0 && !is_old(store, loan, slot).await?)
        {
            continue;
        }
        let bytes = retention::slot_bytes(store, loan, slot).await?;
        let note = retention::note_emptied(store, loan, slot, max_xid, needs.tick).await?;
        // The head may come round while we wait: a position of the next lap in this slot means
        // that it is in use again.
        let guard = format!(
            "(select last_value < {} from {}.log_position_seq)",
            ring.start_of(stretch + ring.slots),
            store.schema()
        );
        if truncate(store, loan, &format!("log_{slot}"), &guard, &note).await? {
            let empty = Knowledge::Sealed { max_xid: None };
            store.shared.slots.lock().insert(stretch, empty);
            report.slots_emptied += 1;
            report.bytes_over = report.bytes_over.saturating_sub(bytes);
        }
    }
    Ok(())
}

/// Whether the newest message of a slot has outlived the retention time.
async fn is_old(store: &PostgresStore, loan: &Loan, slot: i64) -> Result<bool> {
    let sql = format!(
        "select enqueued_at < clock_timestamp() - make_interval(secs => {}) from {}.log_{slot} \
         order by position desc limit 1",
        store.shared.options.retention.as_secs_f64(),
        store.schema()
    );
    let rows = loan.bounded("look at a slot", loan.client().query_typed(&sql, &[])).await?;
    Ok(rows.first().is_none_or(|row| row.get(0)))
}

async fn sweep_ticks(
    store: &PostgresStore,
    loan: &Loan,
    geometry: Geometry,
    needs: &Needs,
) -> Result<u32> {
    let ring = geometry.tick;
    let head = ring.stretch_of(store.newest_tick(loan).await?.at.n);
    let mut emptied = 0;
    for slot in 0..ring.slots {
        let Some(stretch) = due(ring, head, slot) else { continue };
        if ring.end_of(stretch) < needs.tick && holds_rows(store, loan, "tick", slot).await? {
            emptied += u32::from(truncate(store, loan, &format!("tick_{slot}"), "true", "").await?);
        }
    }
    Ok(emptied)
}

async fn sweep_progress(store: &PostgresStore, loan: &Loan, geometry: Geometry) -> Result<u32> {
    let ring = geometry.progress;
    let schema = store.schema();
    let last = format!("select last_value from {schema}.progress_n_seq");
    let rows = loan.bounded("look at the progress", loan.client().query_typed(&last, &[])).await?;
    let head = ring.stretch_of(rows.first().map_or(0, |row| row.get(0)));
    let mut emptied = 0;
    for slot in 0..ring.slots {
        let Some(stretch) = due(ring, head, slot) else { continue };
        if !holds_rows(store, loan, "progress", slot).await? {
            continue;
        }
        copy_forward(store, loan, ring.end_of(stretch)).await?;
        let guard =
            format!("not exists (select from {schema}.place where n <= {})", ring.end_of(stretch));
        emptied += u32::from(truncate(store, loan, &format!("progress_{slot}"), &guard, "").await?);
    }
    Ok(emptied)
}

/// The stretch in `slot` if the head is about to reach the slot again.
fn due(ring: Ring, head: i64, slot: i64) -> Option<i64> {
    let stretch = ring.newest_stretch_in(slot, ring.start_of(head))?;
    (head - stretch >= ring.slots - STRETCHES_AHEAD).then_some(stretch)
}

async fn holds_rows(store: &PostgresStore, loan: &Loan, table: &str, slot: i64) -> Result<bool> {
    let sql = format!("select exists (select from {}.{table}_{slot})", store.schema());
    let rows = loan.bounded("look at a slot", loan.client().query_typed(&sql, &[])).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// Appends the newest place of idle subscriptions again, so that an old slot does not hold it.
/// The lease row is locked against a settle, which takes it `for share`: the copy can then never
/// come after a newer place.
async fn copy_forward(store: &PostgresStore, loan: &Loan, through: i64) -> Result<()> {
    let schema = store.schema();
    let columns = "subscription, base_tick, base_id, head_tick, head_id, position, message_id, \
                   epoch, at, calls";
    let sql = format!(
        "begin isolation level read committed; set local lock_timeout = '50ms'; \
         select from {schema}.lease l where l.subscription in \
         (select subscription_id from {schema}.place where n <= {through}) for update; \
         insert into {schema}.progress ({columns}) \
         select p.subscription_id, p.base_tick, p.base_id, p.head_tick, p.head_id, p.position, \
         p.message_id, p.settled_epoch, coalesce(p.settled_at, clock_timestamp()), r.calls \
         from {schema}.place p join {schema}.progress r \
         on r.subscription = p.subscription_id and r.n = p.n where p.n <= {through}; \
         commit"
    );
    ended(loan, "copy places forward", &sql).await.map(|_| ())
}

/// Truncates one child table if `guard` holds under its lock, and runs `note` with it; false when
/// the lock was not to be had in 50 ms or the guard failed.
async fn truncate(
    store: &PostgresStore,
    loan: &Loan,
    table: &str,
    guard: &str,
    note: &str,
) -> Result<bool> {
    let schema = store.schema();
    let sql = format!(
        "begin isolation level read committed; set local lock_timeout = '50ms'; \
         lock table {schema}.{table} in access exclusive mode; \
         do $$ begin if {guard} then truncate {schema}.{table}; \
         else raise exception using errcode = 'lock_not_available'; end if; end $$; \
         {note}; commit"
    );
    ended(loan, "empty a slot", &sql).await
}

/// Runs a whole transaction; a lock that was not to be had ends it and answers false.
async fn ended(loan: &Loan, doing: &str, sql: &str) -> Result<bool> {
    match loan.bounded(doing, loan.client().simple_query(sql)).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), StoreErrorKind::Held | StoreErrorKind::Conflict) => {
            loan.bounded(doing, loan.client().simple_query("rollback")).await?;
            Ok(false)
        }
        Err(error) => Err::<bool, StoreError>(error),
    }
}
