//! Subscriptions: creating them, recording their places.
//!
//! Every function writes and runs under the write lock (`Session::write`), so what it reads
//! cannot change before it commits: an epoch that was compared is still the epoch (FENCED).

use posthaste_core::{Epoch, Place, Position, TickRef, Timestamp, TopicFilter, Within};
use rusqlite::Row;
use uuid::Uuid;

use super::{
    session::Scope,
    ticks::{self, StoredTick},
};
use crate::{Progress, Result, Settled, Start, StoreError, StoreErrorKind, SubscriptionSpec};

/// A subscription's row.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) id: i64,
    pub(super) name: String,
    pub(super) filter: TopicFilter,
    pub(super) epoch: Epoch,
    holder: Option<String>,
    /// When its holder's lease runs out, in microseconds.
    expires_at: Option<i64>,
    /// Until when relays leave it, in microseconds.
    reserved_until: Option<i64>,
    pub(super) start_position: Position,
    pub(super) is_paused: bool,
    pub(super) retry_calls: i64,
    start: TickRef,
}

/// Creates the missing ones and updates the filters of the others.
pub(super) fn reconcile(scope: &Scope<'_>, specs: &[SubscriptionSpec]) -> Result<()> {
    for spec in specs {
        let topics = json(spec.filter.exact())?;
        let prefixes = json(spec.filter.prefixes())?;
        let updated = scope.run(
            "update @schema@_subscription set topics = ?2, prefixes = ?3 where name = ?1",
            (&spec.name, &topics, &prefixes),
        )?;
        if updated > 0 {
            continue;
        }
        let start = start_of(scope, spec.start)?;
        scope
            .run(
                "insert into @schema@_subscription \
                 (name, topics, prefixes, start_tick, start_id, start_position) \
                 values (?1, ?2, ?3, ?4, ?5, ?6)",
                (
                    &spec.name,
                    &topics,
                    &prefixes,
                    start.at.n,
                    start.at.id.as_bytes(),
                    start.position,
                ),
            )
            .map_err(|error| error.while_doing(&format!("create \"{}\"", spec.name)))?;
    }
    Ok(())
}

/// For `Now` a tick that covers everything committed so far, taken for that purpose if the
/// newest one does not.
fn start_of(scope: &Scope<'_>, start: Start) -> Result<StoredTick> {
    match start {
        Start::Beginning => ticks::find(scope, TickRef::BEGINNING),
        Start::Now => ticks::take(scope).map(|(tick, _)| tick),
    }
}

/// Records a place, unless the epoch has been raised.
pub(super) fn settle(
    scope: &Scope<'_>,
    name: &str,
    epoch: Epoch,
    place: &Place,
) -> Result<Settled> {
    let subscription = by_name(scope, name)?;
    if subscription.epoch != epoch {
        return Ok(Settled::Fenced);
    }
    let through = through(scope, place)?;
    let head = place.within.map(|within| within.head);
    scope.run(
        "insert into @schema@_progress (subscription, base_tick, base_id, head_tick, head_id, \
         position, message_id, calls, through, epoch) \
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        (
            subscription.id,
            place.base.n,
            place.base.id.as_bytes(),
            head.map(|head| head.n),
            head.as_ref().map(|head| head.id.as_bytes()),
            place.within.map(|within| within.position),
            place.message.as_ref().map(Uuid::as_bytes),
            place.calls,
            through,
            epoch,
        ),
    )?;
    Ok(Settled::Recorded)
}

/// The position up to which `place` has everything settled. Its ticks must exist: a place of
/// another incarnation says nothing here.
pub(super) fn through(scope: &Scope<'_>, place: &Place) -> Result<Position> {
    let base = ticks::find(scope, place.base)?.position;
    let Some(Within { head, position }) = place.within else { return Ok(base) };
    // A reach beyond the window must not cover what was committed after it.
    let head = ticks::find(scope, head)?.position;
    Ok(position.clamp(base, head.max(base)))
}

/// Every subscription, by name.
pub(super) fn list(scope: &Scope<'_>) -> Result<Vec<Subscription>> {
    let sql = "select id, name, topics, prefixes, epoch, holder, start_tick, start_id, \
               start_position, paused_at is not null, retry_calls, expires_at, reserved_until \
               from @schema@_subscription order by name";
    scope.all(sql, [], Subscription::from_row)
}

/// The newest settled place, or the start: one seek in `progress_newest`.
pub(super) fn progress(scope: &Scope<'_>, subscription: &Subscription) -> Result<Progress> {
    let sql = "select base_tick, base_id, head_tick, head_id, position, message_id, at, calls \
               from @schema@_progress where subscription = ?1 order by n desc limit 1";
    let settled = scope.first(sql, [subscription.id], |row| {
        let within = match row.get(2)? {
            None => None,
            Some(n) => {
                Some(Within { head: TickRef { n, id: uuid(row, 3)? }, position: row.get(4)? })
            }
        };
        let place = Place {
            base: TickRef { n: row.get(0)?, id: uuid(row, 1)? },
            within,
            message: row.get::<_, Option<[u8; 16]>>(5)?.map(Uuid::from_bytes),
            calls: row.get(7)?,
        };
        Ok(Progress { place, at: Some(Timestamp(row.get(6)?)) })
    })?;
    Ok(settled.unwrap_or(Progress { place: Place::at(subscription.start), at: None }))
}

impl Subscription {
    /// Who holds it, and for how long yet, in microseconds.
    pub(super) fn held(&self, now: i64) -> Option<(&str, i64)> {
        let left = self.expires_at? - now;
        Some((self.holder.as_deref()?, left)).filter(|_| left > 0)
    }

    /// Whether relays are to leave it.
    pub(super) fn is_reserved(&self, now: i64) -> bool {
        self.reserved_until.is_some_and(|until| until > now)
    }

    fn from_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            id: row.get(0)?,
            name: row.get(1)?,
            filter: TopicFilter::from_parts(strings(row, 2)?, strings(row, 3)?),
            epoch: row.get(4)?,
            holder: row.get(5)?,
            start: TickRef { n: row.get(6)?, id: uuid(row, 7)? },
            start_position: row.get(8)?,
            is_paused: row.get(9)?,
            retry_calls: row.get(10)?,
            expires_at: row.get(11)?,
            reserved_until: row.get(12)?,
        })
    }
}

pub(super) fn by_name(scope: &Scope<'_>, name: &str) -> Result<Subscription> {
    let sql = "select id, name, topics, prefixes, epoch, holder, start_tick, start_id, \
               start_position, paused_at is not null, retry_calls, expires_at, reserved_until \
               from @schema@_subscription where name = ?1";
    scope.first(sql, [name], Subscription::from_row)?.ok_or_else(|| unknown(name))
}

fn unknown(name: &str) -> StoreError {
    let doing = format!(
        "the subscription \"{name}\" does not exist here; add it to the configuration, which \
         creates it at the next start"
    );
    StoreError::new(StoreErrorKind::Invalid, doing)
}

pub(super) fn uuid(row: &Row<'_>, column: usize) -> rusqlite::Result<Uuid> {
    Ok(Uuid::from_bytes(row.get(column)?))
}

pub(super) fn strings(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
    let text = row.get_ref(column)?.as_str()?;
    serde_json::from_str(text).map_err(|cause| {
        let kind = rusqlite::types::Type::Text;
        rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(cause))
    })
}

fn json(patterns: &[String]) -> Result<String> {
    serde_json::to_string(patterns).map_err(|cause| {
        StoreError::caused(StoreErrorKind::Invalid, "write the topic filter as JSON", cause)
    })
}
