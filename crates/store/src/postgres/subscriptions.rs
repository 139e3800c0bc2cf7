//! Subscriptions: creating them, and settling their places.

use posthaste_core::{Epoch, Place, Snapshot, TickRef, Within};
use tokio_postgres::{
    GenericClient, Row,
    types::{ToSql, Type},
};

use super::{PostgresStore, connect::Loan, ticker::force_tick};
use crate::{Result, Settled, Start, StoreError, StoreErrorKind, SubscriptionSpec, defect};

/// Columns of a place, in the order [`place`] reads them.
pub(super) const PLACE_COLUMNS: &str =
    "base_tick, base_id, head_tick, head_id, position, message_id, calls";

/// Creates what is missing and updates filters.
pub(super) async fn reconcile(store: &PostgresStore, specs: &[SubscriptionSpec]) -> Result<()> {
    let mut loan = store.shared.connections.lend().await?;
    for spec in specs {
        if !update_filter(store, &loan, spec).await? {
            create(store, &mut loan, spec).await?;
        }
    }
    loan.give_back();
    Ok(())
}

async fn update_filter(
    store: &PostgresStore,
    loan: &Loan,
    spec: &SubscriptionSpec,
) -> Result<bool> {
    let (topics, prefixes) = (spec.filter.exact(), spec.filter.prefixes());
    let find = format!(
        "select topics = $2 and prefixes = $3 from {}.subscription where name = $1",
        store.schema()
    );
    let params: &[(&(dyn ToSql + Sync), Type)] =
        &[(&spec.name, Type::TEXT), (&topics, Type::TEXT_ARRAY), (&prefixes, Type::TEXT_ARRAY)];
    let rows =
        loan.bounded("find a subscription", loan.client().query_typed(&find, params)).await?;
    let Some(row) = rows.first() else { return Ok(false) };
    if !row.get::<_, bool>(0) {
        let update = format!(
            "update {}.subscription set topics = $2, prefixes = $3 where name = $1",
            store.schema()
        );
        loan.bounded("update a subscription", loan.client().execute_typed(&update, params)).await?;
    }
    Ok(true)
}

async fn create(store: &PostgresStore, loan: &mut Loan, spec: &SubscriptionSpec) -> Result<()> {
    // The tick is taken first, in a transaction of its own: a place may name only committed ticks.
    let (place, start) = match spec.start {
        Start::Beginning => (Place::beginning(), Snapshot::nothing()),
        Start::Now => {
            let tick = force_tick(store, loan).await?;
            (Place::at(tick.at), tick.snapshot)
        }
    };
    let (topics, prefixes) = (spec.filter.exact(), spec.filter.prefixes());
    let schema = store.schema();
    // One statement, so that a subscription never exists without its lease and its first place.
    // `on conflict do nothing`: another process may create it at the same time.
    let sql = format!(
        "with s as (insert into {schema}.subscription (name, topics, prefixes, start_snapshot) \
         values ($1, $2, $3, $4::text::pg_snapshot) on conflict (name) do nothing returning id), \
         l as (insert into {schema}.lease (subscription) select id from s) \
         insert into {schema}.progress (subscription, base_tick, base_id, epoch) \
         select id, $5, $6, 0 from s"
    );
    let start = start.to_string();
    let params: &[(&(dyn ToSql + Sync), Type)] = &[
        (&spec.name, Type::TEXT),
        (&topics, Type::TEXT_ARRAY),
        (&prefixes, Type::TEXT_ARRAY),
        (&start, Type::TEXT),
        (&place.base.n, Type::INT8),
        (&place.base.id, Type::UUID),
    ];
    loan.bounded("create a subscription", loan.client().execute_typed(&sql, params)).await?;
    Ok(())
}

/// A place about to be appended, guarded by the lease row.
///
/// FENCED: `for share` is the guard. It waits for a takeover that is under way and then sees the
/// raised epoch; a plain `exists` or `for key share` lets a stale settle in beside it. Appending
/// instead of updating keeps the newest place cheap to read while something holds the horizon.
pub(super) struct Settlement<'a> {
    sql: String,
    subscription: &'a str,
    epoch: Epoch,
    place: &'a Place,
}

impl<'a> Settlement<'a> {
    pub(super) async fn new(
        store: &PostgresStore,
        loan: &Loan,
        subscription: &'a str,
        epoch: Epoch,
        place: &'a Place,
    ) -> Result<Self> {
        let ticks = store.geometry(loan).await?.tick;
        let schema = store.schema();
        // A place names only ticks of this incarnation; each is one probe of its slot's index.
        let known = |at: TickRef| match at {
            TickRef::BEGINNING => "true".to_owned(),
            _ if defect::is("reused-position") => "true".to_owned(),
            TickRef { n, id } => {
                let slot = ticks.slot_of(n);
                format!("exists (select from {schema}.tick_{slot} where n = {n} and id = '{id}')")
            }
        };
        let head = place.within.map(|within| within.head);
        let sql = format!(
            "insert into {schema}.progress (subscription, {PLACE_COLUMNS}, epoch) \
             select held.subscription, $3, $4, $5, $6, $7, $8, $9, $2 from (\
             select l.subscription from {schema}.lease l where {is_held} and l.subscription = \
             (select id from {schema}.subscription where name = $1) for share) held \
             where {} and {}",
            known(place.base),
            head.map_or_else(|| "true".to_owned(), known),
            is_held = if defect::is("stale-settle") { "l.epoch >= $2" } else { "l.epoch = $2" },
        );
        Ok(Self { sql, subscription, epoch, place })
    }

    /// Appends it; 0 when the epoch has been raised or a tick of the place is not there.
    pub(super) async fn run<C: GenericClient + Sync>(
        &self,
        client: &C,
    ) -> Result<u64, tokio_postgres::Error> {
        let Place { base, within, message, calls } = self.place;
        let head = within.map(|within| within.head);
        let (head_n, head_id) = (head.map(|head| head.n), head.map(|head| head.id));
        let position = within.map(|within| within.position);
        let params: &[(&(dyn ToSql + Sync), Type)] = &[
            (&self.subscription, Type::TEXT),
            (&self.epoch, Type::INT8),
            (&base.n, Type::INT8),
            (&base.id, Type::UUID),
            (&head_n, Type::INT8),
            (&head_id, Type::UUID),
            (&position, Type::INT8),
            (message, Type::UUID),
            (calls, Type::INT8),
        ];
        client.execute_typed(&self.sql, params).await
    }
}

/// Appends a place unless the epoch has been raised.
pub(super) async fn settle(
    store: &PostgresStore,
    subscription: &str,
    epoch: Epoch,
    place: &Place,
) -> Result<Settled> {
    let loan = store.shared.connections.lend().await?;
    let settlement = Settlement::new(store, &loan, subscription, epoch, place).await?;
    let mut written = loan.bounded("settle", settlement.run(loan.client())).await;
    if written.as_ref().is_err_and(|error| error.kind() == StoreErrorKind::Conflict) {
        // FENCED: where the database's default is `repeatable read`, a settle that waited behind
        // a takeover fails instead of seeing the raised epoch; the second try sees it.
        written = loan.bounded("settle", settlement.run(loan.client())).await;
    }
    let settled = match written? {
        1 => Settled::Recorded,
        _ if is_held(store, &loan, subscription, epoch).await? => {
            return Err(rewound(store, subscription));
        }
        _ => Settled::Fenced,
    };
    loan.give_back();
    Ok(settled)
}

/// The error for a place whose ticks are not in the database.
pub(super) fn rewound(store: &PostgresStore, subscription: &str) -> StoreError {
    let source = &store.shared.description;
    let doing = format!("settle {subscription:?}: a tick of the place is not in {source}");
    StoreError::new(StoreErrorKind::Rewound, doing)
}

async fn is_held(
    store: &PostgresStore,
    loan: &Loan,
    subscription: &str,
    epoch: Epoch,
) -> Result<bool> {
    let schema = store.schema();
    let sql = format!(
        "select exists (select from {schema}.lease l join {schema}.subscription s \
         on s.id = l.subscription where s.name = $1 and l.epoch = $2)"
    );
    let params: &[(&(dyn ToSql + Sync), Type)] =
        &[(&subscription, Type::TEXT), (&epoch, Type::INT8)];
    let rows = loan.bounded("read a lease", loan.client().query_typed(&sql, params)).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// A place from the first columns of `row`, which are [`PLACE_COLUMNS`].
pub(super) fn place(row: &Row) -> Place {
    let head_n: Option<i64> = row.get(2);
    let head_id: Option<uuid::Uuid> = row.get(3);
    let position: Option<i64> = row.get(4);
    let within = head_n
        .zip(head_id)
        .zip(position)
        .map(|((n, id), position)| Within { head: TickRef { n, id }, position });
    let base = TickRef { n: row.get(0), id: row.get(1) };
    Place { base, within, message: row.get(5), calls: row.get(6) }
}
