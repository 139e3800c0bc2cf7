//! Leases: who holds a subscription, and until when.

use std::time::Duration;

use posthaste_core::{Epoch, RelayView};

use super::{
    clock,
    session::Scope,
    subscriptions::{self, by_name},
};
use crate::{Acquired, Lease, Leases, Result, StoreError, StoreErrorKind};

/// Takes a subscription over unless another holder's lease has not run out: raises the epoch, which
/// fences every earlier holder, then reads the place.
pub(super) fn acquire(
    scope: &Scope<'_>,
    name: &str,
    holder: &str,
    lease: Duration,
) -> Result<Acquired> {
    let now = clock::look(scope)?;
    let subscription = by_name(scope, name)?;
    if let Some((other, left)) = subscription.held(now).filter(|(other, _)| *other != holder) {
        let left = Duration::from_micros(left.cast_unsigned());
        return Ok(Acquired::Held { holder: other.to_owned(), left });
    }
    scope.run(
        "update @schema@_subscription set epoch = epoch + 1, holder = ?2, acquired_at = ?3, \
         expires_at = ?4 where name = ?1",
        (name, holder, now, now.saturating_add(micros(lease))),
    )?;
    let place = subscriptions::progress(scope, &subscription)?.place;
    Ok(Acquired::Taken(subscription.epoch + 1, place))
}

/// Prolongs a relay's leases, notes that it is alive, and reads who holds what.
pub(super) fn renew(scope: &Scope<'_>, relay: &RelayView, lease: Duration) -> Result<Leases> {
    let (now, lease) = (clock::look(scope)?, micros(lease));
    scope.run(
        "update @schema@_subscription set expires_at = ?3 where holder = ?1 and expires_at > ?2",
        (&relay.holder, now, now.saturating_add(lease)),
    )?;
    scope.run("delete from @schema@_relay where seen_at < ?1", [now - lease.saturating_mul(10)])?;
    let known = serde_json::to_string(&relay.subscriptions).map_err(|cause| {
        StoreError::caused(StoreErrorKind::Invalid, "write the subscriptions as JSON", cause)
    })?;
    scope.run(
        "insert into @schema@_relay (holder, subscriptions, version, started_at, seen_at) \
         values (?1, ?2, ?3, ?4, ?4) on conflict (holder) do update set seen_at = excluded.seen_at, \
         subscriptions = excluded.subscriptions",
        (&relay.holder, known, env!("CARGO_PKG_VERSION"), now),
    )?;
    let relays = scope.all(
        "select holder, subscriptions from @schema@_relay where seen_at > ?1 order by holder",
        [now - lease],
        |row| {
            let subscriptions = subscriptions::strings(row, 1)?;
            Ok(RelayView { holder: row.get(0)?, subscriptions })
        },
    )?;
    let parked = "select distinct subscription from @schema@_failed_message where due is not null";
    let parked: Vec<i64> = scope.all(parked, [], |row| row.get(0))?;
    let all = subscriptions::list(scope)?;
    let leases = all.iter().filter(|it| relay.subscriptions.contains(&it.name)).map(|it| Lease {
        subscription: it.name.clone(),
        epoch: it.epoch,
        holder: it.held(now).map(|(holder, _)| holder.to_owned()),
        is_paused: it.is_paused,
        is_reserved: it.is_reserved(now),
        has_parked: parked.contains(&it.id),
    });
    Ok(Leases { leases: leases.collect(), relays })
}

/// Clears the holder, under its own epoch only.
pub(super) fn release(scope: &Scope<'_>, name: &str, epoch: Epoch) -> Result<()> {
    scope.run(
        "update @schema@_subscription set holder = null, expires_at = null \
         where name = ?1 and epoch = ?2",
        (name, epoch),
    )?;
    Ok(())
}

/// Reserves it, or lets it go again, and answers who holds it.
pub(super) fn reserve(scope: &Scope<'_>, name: &str, time: Duration) -> Result<Option<String>> {
    let now = clock::look(scope)?;
    let subscription = by_name(scope, name)?;
    let until = (!time.is_zero()).then(|| now.saturating_add(micros(time)));
    let sql = "update @schema@_subscription set reserved_until = ?2 where id = ?1";
    scope.run(sql, (subscription.id, until))?;
    Ok(subscription.held(now).map(|(holder, _)| holder.to_owned()))
}

/// Forgets a relay.
pub(super) fn leave(scope: &Scope<'_>, holder: &str) -> Result<()> {
    scope.run("delete from @schema@_relay where holder = ?1", [holder])?;
    Ok(())
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
