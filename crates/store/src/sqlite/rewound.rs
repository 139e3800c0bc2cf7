//! Whether the file still is the one that a subscription was read from, and what follows when it
//! was restored: positions are handed out again, while a sink or a relay remembers later places.

use posthaste_core::{Epoch, MessageId, Place, TickRef, Within};
use serde_json::json;
use uuid::Uuid;

use super::{leases, operations, session::Scope, subscriptions, ticks};
use crate::{Lineage, Rebased, Request, Result, Selection, StoreError, StoreErrorKind};

/// Checks the log against the place that it has for `subscription`, and against the one that this
/// process settled last.
pub(super) fn confirm(
    scope: &Scope<'_>,
    subscription: &str,
    place: &Place,
    remembered: Option<&Place>,
) -> Result<Lineage> {
    let sql = "select coalesce(s.log, m.incarnation), s.adopts, s.rewound \
               from @schema@_subscription s cross join @schema@_meta m where s.name = ?1";
    let row = scope.first(sql, [subscription], |row| {
        let found: Option<String> = row.get(2)?;
        Ok((Lineage { log: subscriptions::uuid(row, 0)?, adopts: row.get(1)? }, found))
    })?;
    let Some((lineage, found)) = row else {
        let doing = format!("the subscription \"{subscription}\" does not exist here");
        return Err(StoreError::new(StoreErrorKind::Invalid, doing));
    };
    if let Some(found) = found {
        let doing = format!("\"{subscription}\" was halted: {found}");
        return Err(StoreError::new(StoreErrorKind::Rewound, doing));
    }
    subscriptions::through(scope, place)?;
    if let Some(remembered) = remembered {
        check_ticks(scope, remembered, "this relay has settled")?;
    }
    Ok(lineage)
}

/// Checks the log against the place that a sink keeps: its ticks, and its message.
pub(super) fn confirm_mark(scope: &Scope<'_>, mark: &Place) -> Result<()> {
    check_ticks(scope, mark, "the sink keeps")?;
    let (Some(Within { position, .. }), Some(message)) = (mark.within, mark.message) else {
        return Ok(());
    };
    let sql = "select id from @schema@_log where position = ?1";
    let found: Option<MessageId> =
        scope.first(sql, [position], |row| subscriptions::uuid(row, 0))?;
    match found {
        Some(found) if found != message => {
            let doing = format!(
                "position {position} of the log holds message {found}, the sink has {message} of it"
            );
            Err(StoreError::new(StoreErrorKind::Rewound, doing))
        }
        // Messages that are published go one by one.
        _ => Ok(()),
    }
}

/// Checks that the ticks of a place that was settled here once are there, unless they have been
/// swept since: ticks have no gaps.
fn check_ticks(scope: &Scope<'_>, place: &Place, whose: &str) -> Result<()> {
    let head = place.within.map(|within| within.head);
    for at in [Some(place.base), head].into_iter().flatten() {
        let Err(error) = ticks::find(scope, at) else { continue };
        let sql = "select 1 from @schema@_tick where n = ?1";
        let is_missing = scope.first(sql, [at.n], |_| Ok(()))?.is_none();
        if !is_missing || ticks::newest(scope)?.at.n < at.n {
            return Err(error.while_doing(&format!("{whose} a place that is not of this log")));
        }
    }
    Ok(())
}

/// Notes why a subscription must not go on, and gives it up. A log that went back may know an
/// earlier epoch than the one that its reader was given.
pub(super) fn halt(scope: &Scope<'_>, name: &str, epoch: Epoch, found: &str) -> Result<()> {
    scope.run(
        "update @schema@_subscription set rewound = coalesce(rewound, ?3) \
         where name = ?1 and epoch <= ?2",
        (name, epoch, found),
    )?;
    leases::release(scope, name, epoch)
}

/// Notes that the sink's places have been taken over, under the holder's epoch only.
pub(super) fn adopted(scope: &Scope<'_>, name: &str, epoch: Epoch) -> Result<()> {
    let sql = "update @schema@_subscription set adopts = 0 where name = ?1 and epoch = ?2";
    scope.run(sql, (name, epoch)).map(drop)
}

/// Accepts the log as the one to go on with. A place whose ticks are not there is moved back to the
/// newest tick before it: rather twice than never.
pub(super) fn rebase(scope: &Scope<'_>, name: &str, request: &Request) -> Result<Rebased> {
    let subscription = operations::unheld(scope, name, request.is_forced)?;
    let before = subscriptions::progress(scope, &subscription)?.place;
    let place = standing(scope, before)?.counted(None);
    let through = subscriptions::through(scope, &place)?;
    let sql = "select count(*) from @schema@_delivery \
               where subscription = ?1 and (state = 'pending' or position > ?2)";
    let pending: i64 = scope.first(sql, (name, through), |row| row.get(0))?.unwrap_or_default();
    if !request.is_dry_run {
        // FENCED: the epoch keeps out whoever held the subscription.
        scope.run(
            "update @schema@_subscription set epoch = epoch + 1, holder = null, expires_at = null, \
             rewound = null, \
             adopts = 1, log = ?2, retry_calls = 0 where id = ?1",
            (subscription.id, Uuid::new_v4().as_bytes()),
        )?;
        subscriptions::settle(scope, name, subscription.epoch + 1, &place)?;
        let which = Selection { subscription: Some(name.to_owned()), ..Selection::default() };
        let detail = json!({ "tick": place.base.n, "messages": pending });
        operations::audit(scope, "rebase", &which, detail, request)?;
    }
    let pending = pending.cast_unsigned();
    Ok(Rebased { place, pending, was_copied: false, rewritten: 0 })
}

/// `place`, or the one nearest before it whose ticks are there.
fn standing(scope: &Scope<'_>, place: Place) -> Result<Place> {
    if subscriptions::through(scope, &place).is_ok() {
        return Ok(place);
    }
    let sql = "select n, id, position from @schema@_tick where n <= ?1 and (n < ?1 or id = ?2) \
               order by n desc limit 1";
    let base = place.base.id.as_bytes();
    let found = scope.first(sql, (place.base.n, base), ticks::StoredTick::from_row)?;
    Ok(Place::at(found.map_or(TickRef::BEGINNING, |tick| tick.at)))
}
