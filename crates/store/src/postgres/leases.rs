//! Leases: who holds a subscription, and until when, on this database's clock.
//!
//! Transactions are short and take no locks that outlive them, so that a pooler in transaction mode
//! may stand in between.

use std::time::Duration;

use posthaste_core::{Epoch, RelayView};
use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::{
    PostgresStore,
    connect::{Loan, bounded},
    subscriptions::{PLACE_COLUMNS, place},
};
use crate::{Acquired, Lease, Leases, Result, StoreError, StoreErrorKind, defect};

/// Takes a subscription over unless another holder's lease has not run out. Raises the epoch, then
/// reads the place: every settle of an earlier holder is either visible to that read or refused
/// (FENCED).
///
/// The epoch is raised only from the value that was read: a statement that outlived its time-out
/// and runs late must not fence whoever holds the subscription by then. And it is raised durably,
/// whatever the role's `synchronous_commit`, so that a crash never hands an epoch out twice.
pub(super) async fn acquire(
    store: &PostgresStore,
    subscription: &str,
    holder: &str,
    lease: Duration,
) -> Result<Acquired> {
    let mut loan = store.shared.connections.lend().await?;
    let schema = store.schema();
    let unknown = || {
        let doing = format!("acquire a subscription: {subscription:?} does not exist");
        StoreError::new(StoreErrorKind::Invalid, doing)
    };
    let sql = format!(
        "select l.epoch, l.subscription, l.holder, \
         extract(epoch from l.expires_at - {now})::float8 from {schema}.lease l \
         join {schema}.subscription s on s.id = l.subscription where s.name = $1",
        now = now()
    );
    let name: &[(&(dyn ToSql + Sync), Type)] = &[(&subscription, Type::TEXT)];
    let rows = loan.bounded("read a lease", loan.client().query_typed(&sql, name)).await?;
    let row = rows.first().ok_or_else(unknown)?;
    let (read, id): (Epoch, i32) = (row.get(0), row.get(1));
    let left = row.get::<_, Option<f64>>(3).filter(|left| *left > 0.0);
    if let (Some(other), Some(left)) = (row.get::<_, Option<String>>(2), left)
        && other != holder
    {
        loan.give_back();
        let left = Duration::try_from_secs_f64(left).unwrap_or_default();
        return Ok(Acquired::Held { holder: other, left });
    }
    if !raise(store, &mut loan, id, read, holder, lease).await? {
        let doing = format!("acquire {subscription:?}: another relay acquired it meanwhile");
        return Err(StoreError::new(StoreErrorKind::Conflict, doing));
    }
    let newest = format!(
        "select {PLACE_COLUMNS} from {schema}.progress where subscription = {id} \
         order by n desc limit 1"
    );
    let rows = loan.bounded("read a place", loan.client().query_typed(&newest, &[])).await?;
    let place = rows.first().map(place).ok_or_else(unknown)?;
    loan.give_back();
    Ok(Acquired::Taken(read + 1, place))
}

/// Raises a lease's epoch from `read`; false when it has been raised meanwhile, or prolonged: a
/// renewal in time may commit after the read.
async fn raise(
    store: &PostgresStore,
    loan: &mut Loan,
    id: i32,
    read: Epoch,
    holder: &str,
    lease: Duration,
) -> Result<bool> {
    let sql = format!(
        "update {}.lease set epoch = epoch + 1, holder = $2, acquired_at = clock_timestamp(), \
         expires_at = clock_timestamp() + make_interval(secs => $3) \
         where subscription = {id} and epoch = $1 \
         and (holder = $2 or (expires_at > {now}) is not true)",
        store.schema(),
        now = now()
    );
    let seconds = lease.as_secs_f64();
    let params: &[(&(dyn ToSql + Sync), Type)] =
        &[(&read, Type::INT8), (&holder, Type::TEXT), (&seconds, Type::FLOAT8)];
    let limit = loan.operation_timeout();
    let work = async {
        let transaction = loan.begin_durably().await?;
        let raised = transaction.execute_typed(&sql, params).await?;
        transaction.commit().await?;
        Ok(raised == 1)
    };
    bounded(limit, "acquire a subscription", work).await
}

/// Prolongs a relay's leases, notes that it is alive, and reads who holds what.
///
/// Committed synchronously: a renewal that a crash undid would let another relay in while this one
/// believes in its lease. In one round trip but for the transaction around it.
pub(super) async fn renew(
    store: &PostgresStore,
    relay: &RelayView,
    lease: Duration,
) -> Result<Leases> {
    let mut loan = store.shared.connections.lend().await?;
    let schema = store.schema();
    let alive = format!(
        "with prolonged as (update {schema}.lease set \
         expires_at = clock_timestamp() + make_interval(secs => $2) \
         where holder = $1 and expires_at > clock_timestamp()), \
         gone as (delete from {schema}.relay where holder <> $1 and seen_at < \
         clock_timestamp() - make_interval(secs => 10 * $2)) \
         insert into {schema}.relay as r (holder, subscriptions, version) values ($1, $3, $4) \
         on conflict (holder) do update set seen_at = excluded.seen_at, \
         subscriptions = excluded.subscriptions"
    );
    // What has run out is nobody's, whoever held it. The probe is served by (subscription, due).
    let leases = format!(
        "select s.name, l.epoch, case when l.expires_at > {now} then l.holder end, \
         s.paused_at is not null, (l.reserved_until > {now}) is true, exists (select from {schema}.failed_message f \
         where f.subscription = s.id and f.due is not null) from {schema}.lease l \
         join {schema}.subscription s on s.id = l.subscription where s.name = any ($1) \
         order by s.name",
        now = now()
    );
    let relays = format!(
        "select holder, subscriptions from {schema}.relay \
         where seen_at > clock_timestamp() - make_interval(secs => $1) order by holder"
    );
    let (seconds, version) = (lease.as_secs_f64(), env!("CARGO_PKG_VERSION"));
    let params: &[(&(dyn ToSql + Sync), Type)] = &[
        (&relay.holder, Type::TEXT),
        (&seconds, Type::FLOAT8),
        (&relay.subscriptions, Type::TEXT_ARRAY),
        (&version, Type::TEXT),
    ];
    let limit = loan.operation_timeout();
    let work = async {
        let transaction = loan.begin_durably().await?;
        transaction.execute_typed(&alive, params).await?;
        let names: &[(&(dyn ToSql + Sync), Type)] = &[(&relay.subscriptions, Type::TEXT_ARRAY)];
        let leases = transaction.query_typed(&leases, names).await?;
        let relays = transaction.query_typed(&relays, &[(&seconds, Type::FLOAT8)]).await?;
        transaction.commit().await?;
        Ok((leases, relays))
    };
    let (leases, relays) = bounded(limit, "renew the leases", work).await?;
    loan.give_back();
    let view = |row: &Row| RelayView { holder: row.get(0), subscriptions: row.get(1) };
    Ok(Leases {
        leases: leases.iter().map(state).collect(),
        relays: relays.iter().map(view).collect(),
    })
}

/// The one clock by which leases run out.
fn now() -> String {
    if defect::is("lease-on-local-clock") {
        let since_1970 = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        return format!("to_timestamp({})", since_1970.as_secs_f64());
    }
    "clock_timestamp()".to_owned()
}

fn state(row: &Row) -> Lease {
    Lease {
        subscription: row.get(0),
        epoch: row.get(1),
        holder: row.get(2),
        is_paused: row.get(3),
        is_reserved: row.get(4),
        has_parked: row.get(5),
    }
}

/// Clears the holder, unless somebody took over meanwhile.
pub(super) async fn release(store: &PostgresStore, subscription: &str, epoch: Epoch) -> Result<()> {
    let schema = store.schema();
    let sql = format!(
        "update {schema}.lease set holder = null, expires_at = null \
         where epoch = $2 and subscription = \
         (select id from {schema}.subscription where name = $1)"
    );
    let params: &[(&(dyn ToSql + Sync), Type)] =
        &[(&subscription, Type::TEXT), (&epoch, Type::INT8)];
    let loan = store.shared.connections.lend().await?;
    loan.bounded("release a subscription", loan.client().execute_typed(&sql, params)).await?;
    loan.give_back();
    Ok(())
}

/// Reserves a subscription, or lets it go again, and answers who holds it; `None` without such a subscription.
pub(super) async fn reserve(
    store: &PostgresStore,
    subscription: &str,
    time: Duration,
) -> Result<Option<Option<String>>> {
    let schema = store.schema();
    let sql = format!(
        "update {schema}.lease set reserved_until = \
         case when $2 > 0 then clock_timestamp() + make_interval(secs => $2) end \
         where subscription = (select id from {schema}.subscription where name = $1) \
         returning case when expires_at > clock_timestamp() then holder end"
    );
    let params: &[(&(dyn ToSql + Sync), Type)] =
        &[(&subscription, Type::TEXT), (&time.as_secs_f64(), Type::FLOAT8)];
    let loan = store.shared.connections.lend().await?;
    let asked = loan.client().query_typed(&sql, params);
    let rows = loan.bounded("reserve a subscription", asked).await?;
    loan.give_back();
    Ok(rows.first().map(|row| row.get(0)))
}

/// Forgets a relay.
pub(super) async fn leave(store: &PostgresStore, holder: &str) -> Result<()> {
    let sql = format!("delete from {}.relay where holder = $1", store.schema());
    let loan = store.shared.connections.lend().await?;
    let params: &[(&(dyn ToSql + Sync), Type)] = &[(&holder, Type::TEXT)];
    loan.bounded("leave the relays", loan.client().execute_typed(&sql, params)).await?;
    loan.give_back();
    Ok(())
}
