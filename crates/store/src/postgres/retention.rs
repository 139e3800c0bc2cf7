//! What the log's slots are kept for: the places that still need them, and the room they take.

use posthaste_core::{Place, Position, Ring, Snapshot, TickRef};
use uuid::Uuid;

use super::{PostgresStore, connect::Loan, rows, slots::Knowledge, status::uncompiled};
use crate::{LogSize, Pin, Result};

/// What the subscriptions still need. Never empty.
pub(super) struct Needs {
    /// Places that differ in what they have settled, the furthest behind first.
    places: Vec<Need>,
    /// The lowest tick a place names.
    pub(super) tick: i64,
}

/// A place of a subscription or of a key that it has parked.
struct Need {
    pin: Pin,
    settled: Snapshot,
}

impl Needs {
    /// Whose place is furthest behind of those that have not passed every message of a slot. Where
    /// something old was in progress at the settled tick, its xmin says too little and the rows
    /// above it are looked at: otherwise a log that falls quiet would keep its last slots for good.
    pub(super) async fn first_behind(
        &self,
        store: &PostgresStore,
        loan: &Loan,
        slot: i64,
        max_xid: u64,
    ) -> Result<Option<&Pin>> {
        let behind = |need: &&Need| max_xid >= need.settled.xmin();
        for Need { pin, settled } in self.places.iter().filter(behind) {
            // A range of (xid, position).
            let sql = format!(
                "select exists (select from {}.log_{slot} where xid >= '{}'::xid8 \
                 and not pg_visible_in_snapshot(xid, '{settled}'))",
                store.schema(),
                settled.xmin()
            );
            let rows = loan.bounded("look at a slot", loan.client().query_typed(&sql, &[])).await?;
            if rows.first().is_none_or(|row| row.get(0)) {
                return Ok(Some(pin));
            }
        }
        Ok(None)
    }
}

/// What the subscriptions need; `None` when there is none, because then nobody has published.
pub(super) async fn needs(store: &PostgresStore, loan: &Loan) -> Result<Option<Needs>> {
    // A parked key waits at a place of its own.
    let sql = format!(
        "select base_snapshot::text, base_tick, subscription, false from {0}.place union all \
         select coalesce(t.snapshot, '1:1:')::text, k.base_tick, s.name, true \
         from {0}.parked_key k join {0}.subscription s on s.id = k.subscription \
         left join {0}.tick t on t.n = k.base_tick order by 2, 3",
        store.schema()
    );
    let rows = uncompiled(loan, "read the places", &sql).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let mut needs = Needs { places: Vec::new(), tick: first.get(1) };
    for row in &rows {
        let settled: Snapshot = rows::snapshot(row.get(0))?;
        if needs.places.iter().all(|need| need.settled != settled) {
            let name = row.get(2);
            let pin = if row.get(3) { Pin::ParkedKey(name) } else { Pin::Subscription(name) };
            needs.places.push(Need { pin, settled });
        }
    }
    Ok(Some(needs))
}

/// The highest xid in a slot; served by (xid, position), as is the descending order.
pub(super) async fn max_xid(store: &PostgresStore, loan: &Loan, slot: i64) -> Result<Option<u64>> {
    let sql = format!(
        "select xid::text from {}.log_{slot} order by log_{slot}.xid desc limit 1",
        store.schema()
    );
    let rows = loan.bounded("look at a slot", loan.client().query_typed(&sql, &[])).await?;
    rows.first().map(|row| rows::xid(row.get(0))).transpose()
}

/// The statement that notes what a slot held, for the transaction that empties it.
pub(super) async fn note_emptied(
    store: &PostgresStore,
    loan: &Loan,
    slot: i64,
    max_xid: u64,
    tick: i64,
) -> Result<String> {
    let schema = store.schema();
    let sql = format!("select min(position), max(position) from {schema}.log_{slot}");
    let rows = loan.bounded("look at a slot", loan.client().query_typed(&sql, &[])).await?;
    let Some((Some(first), Some(last))) = rows.first().map(|row| (row.get(0), row.get(1))) else {
        return Ok(String::new());
    };
    let (first, last): (Position, Position) = (first, last);
    Ok(format!(
        "insert into {schema}.emptied as e (slot, first_position, last_position, max_xid, tick) \
         values ({slot}, {first}, {last}, '{max_xid}', {tick}) on conflict (slot) do update set \
         first_position = excluded.first_position, last_position = excluded.last_position, \
         max_xid = greatest(e.max_xid, excluded.max_xid), tick = excluded.tick, \
         emptied_at = excluded.emptied_at"
    ))
}

/// What was emptied of the messages behind a sink's place, for people. One statement, which each page of a stream costs.
pub(super) async fn gone(store: &PostgresStore, mark: &Place) -> Result<Option<String>> {
    let loan = store.shared.connections.lend().await?;
    let (schema, ring) = (store.schema(), store.geometry(&loan).await?.tick);
    let (base, head) = (mark.base, mark.within.map_or(mark.base, |within| within.head));
    let tick = |at: TickRef| {
        let TickRef { n, id } = at;
        if at == TickRef::BEGINNING {
            return format!("(select '{id}'::uuid as id, '1:1:'::pg_snapshot as snapshot)");
        }
        format!("(select id, snapshot from {schema}.tick_{} where n = {n})", ring.slot_of(n))
    };
    // What the base shows is passed, and of what the head shows everything up to a position.
    let is_shown = |n: i64, tick: &str| {
        format!("({n} >= tick or max_xid < pg_snapshot_xmin({tick}.snapshot))")
    };
    let sql = format!(
        "select b.id, h.id, e.low, e.high from (select) one left join {} b on true \
         left join {} h on true left join lateral \
         (select min(first_position) as low, max(last_position) as high from {schema}.emptied \
         where not {} and not ({} and last_position <= {})) e on true",
        tick(base),
        tick(head),
        is_shown(base.n, "b"),
        is_shown(head.n, "h"),
        mark.within.map_or(0, |within| within.position)
    );
    let doing = "look for what was emptied";
    let rows = loan.bounded(doing, loan.client().query_typed(&sql, &[])).await?;
    loan.give_back();
    let Some(row) = rows.first() else { return Ok(None) };
    let ids: [Option<Uuid>; 2] = [row.get(0), row.get(1)];
    if let Some((at, _)) = [base, head].iter().zip(ids).find(|(at, id)| *id != Some(at.id)) {
        return Ok(Some(format!("tick {} is swept", at.n)));
    }
    let (first, last): (Option<Position>, Option<Position>) = (row.get(2), row.get(3));
    let found = first.zip(last);
    Ok(found.map(|(first, last)| format!("slots with positions {first} to {last} are emptied")))
}

/// What keeps the oldest messages. `None` when the next sweep may empty their slot, as it does
/// before their time only while the log is above its size.
pub(super) async fn pin(
    store: &PostgresStore,
    loan: &Loan,
    ring: Ring,
    last: Position,
    needs: Option<&Needs>,
    is_over: bool,
) -> Result<Option<Pin>> {
    let Some(needs) = needs else { return Ok(Some(Pin::Unread)) };
    let head = ring.stretch_of(last);
    for stretch in (head - ring.slots + 1).max(0)..=head {
        let slot = stretch % ring.slots;
        let Some(max_xid) = max_xid(store, loan, slot).await? else { continue };
        if let Some(behind) = needs.first_behind(store, loan, slot, max_xid).await? {
            return Ok(Some(behind.clone()));
        }
        if stretch == head {
            break;
        }
        let known = store.shared.slots.lock().get(&stretch).copied();
        return Ok(match known {
            Some(Knowledge::Passed { .. }) => Some(Pin::Transaction),
            _ => (!is_over).then_some(Pin::Retention),
        });
    }
    Ok(Some(Pin::Newest))
}

/// Bytes of the log above its size; not asked for without one.
pub(super) async fn bytes_over(store: &PostgresStore, loan: &Loan, ring: Ring) -> Result<u64> {
    if store.shared.options.retention_bytes.is_none() {
        return Ok(0);
    }
    Ok(size(store, loan, ring).await?.over())
}

/// The room that the log takes; what pins it is not looked at.
pub(super) async fn size(store: &PostgresStore, loan: &Loan, ring: Ring) -> Result<LogSize> {
    let slots = format!("generate_series(0, {}) slot", ring.slots - 1);
    let bytes = bytes_of(store, loan, &slots).await?;
    Ok(LogSize { bytes, bytes_max: store.shared.options.retention_bytes, pin: None })
}

/// The room that one slot takes.
pub(super) async fn slot_bytes(store: &PostgresStore, loan: &Loan, slot: i64) -> Result<u64> {
    bytes_of(store, loan, &format!("(values ({slot})) slot (slot)")).await
}

/// With indexes and what is stored out of line. Asks the file system, not the tables.
async fn bytes_of(store: &PostgresStore, loan: &Loan, slots: &str) -> Result<u64> {
    let sql = format!(
        "select coalesce(sum(pg_total_relation_size(('{}.log_' || slot)::regclass)), 0)::bigint \
         from {slots}",
        store.schema()
    );
    let rows = loan.bounded("measure the log", loan.client().query_typed(&sql, &[])).await?;
    Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).cast_unsigned()))
}
