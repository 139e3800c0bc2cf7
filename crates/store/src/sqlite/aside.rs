//! What subscriptions have set aside: parked keys, parked messages and dead letters.

use std::time::Duration;

use posthaste_core::{Epoch, MessageId, Page, Place, Position, TickRef, Within};
use rusqlite::Row;
use uuid::Uuid;

use super::{
    pages,
    session::Scope,
    subscriptions::{self, uuid},
};
use crate::{Aside, AsideState, DueMessages, FailedMessage, ParkedKey, Result, Settled};

/// Columns of a failed message in the order [`failed`] reads them, `?2` being now.
const FAILED_COLUMNS: &str = "position, id, tick, attempts, reason, max(due - ?2, 0), holds_key";

/// Writes `changes`, and `place` with them, unless the epoch has been raised.
pub(super) fn set_aside(
    scope: &Scope<'_>,
    name: &str,
    epoch: Epoch,
    changes: &[Aside],
    place: Option<&Place>,
) -> Result<Settled> {
    let subscription = subscriptions::by_name(scope, name)?;
    if subscription.epoch != epoch {
        return Ok(Settled::Fenced);
    }
    for change in changes {
        let of = subscription.id;
        match change {
            Aside::ParkKey(parked) => park(scope, of, parked)?,
            Aside::UnparkKey(key) => {
                scope.run(
                    "delete from @schema@_parked_key where subscription = ?1 and key = ?2",
                    (of, key),
                )?;
            }
            Aside::Keep(failed) => set_message_aside(scope, of, failed)?,
            Aside::Retried(failed) => retried(scope, of, failed)?,
            Aside::Published { position, id } => published(scope, of, *position, *id)?,
            Aside::Counted(calls) => {
                scope.run(
                    "update @schema@_subscription set retry_calls = ?2 where id = ?1",
                    (of, calls),
                )?;
            }
        }
    }
    match place {
        Some(place) => subscriptions::settle(scope, name, epoch, place),
        None => Ok(Settled::Recorded),
    }
}

fn park(scope: &Scope<'_>, of: i64, parked: &ParkedKey) -> Result<()> {
    let Place { base, within, .. } = parked.place;
    let (head, position) = within.map_or((base, 0), |within| (within.head, within.position));
    scope.run(
        "insert into @schema@_parked_key (subscription, key, base_tick, base_id, head_tick, \
         head_id, position, through, message_id, attempts, reason, due) \
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) \
         on conflict (subscription, key) do update set base_tick = excluded.base_tick, \
         base_id = excluded.base_id, head_tick = excluded.head_tick, head_id = excluded.head_id, \
         position = excluded.position, through = excluded.through, \
         message_id = excluded.message_id, attempts = excluded.attempts, \
         reason = excluded.reason, due = excluded.due",
        (
            of,
            &parked.key,
            base.n,
            base.id.as_bytes(),
            head.n,
            head.id.as_bytes(),
            position,
            subscriptions::through(scope, &parked.place)?,
            parked.message.as_bytes(),
            parked.attempts,
            &parked.reason,
            due(scope, parked.retry_in)?,
        ),
    )?;
    Ok(())
}

/// Copies a message out of the log. One that stands there already (its relay ended before the
/// place had passed it) keeps its copy.
fn set_message_aside(scope: &Scope<'_>, of: i64, failed: &FailedMessage) -> Result<()> {
    scope.run(
        "insert into @schema@_failed_message (subscription, position, id, topic, key, \
         content_type, headers, correlation_id, enqueued_at, attempts, reason, due, holds_key, \
         payload, tick) \
         select ?1, position, id, topic, key, content_type, headers, correlation_id, enqueued_at, \
         ?4, ?5, ?6, ?7, payload, ?8 from @schema@_log where position = ?2 and id = ?3 \
         on conflict (subscription, position, id) do update set attempts = excluded.attempts, \
         reason = excluded.reason, due = excluded.due, holds_key = excluded.holds_key",
        (
            of,
            failed.position,
            failed.id.as_bytes(),
            failed.attempts,
            &failed.reason,
            due(scope, failed.retry_in)?,
            failed.holds_key,
            failed.tick,
        ),
    )?;
    Ok(())
}

fn retried(scope: &Scope<'_>, of: i64, failed: &FailedMessage) -> Result<()> {
    scope.run(
        "update @schema@_failed_message set attempts = ?4, reason = ?5, due = ?6, holds_key = ?7 \
         where subscription = ?1 and position = ?2 and id = ?3",
        (
            of,
            failed.position,
            failed.id.as_bytes(),
            failed.attempts,
            &failed.reason,
            due(scope, failed.retry_in)?,
            failed.holds_key,
        ),
    )?;
    Ok(())
}

/// Deletes a message's copy; a key that waited for it is due behind it.
pub(super) fn published(
    scope: &Scope<'_>,
    of: i64,
    position: Position,
    id: MessageId,
) -> Result<()> {
    scope.run(
        "update @schema@_parked_key as k set position = ?2, through = max(through, ?2), \
         attempts = 0, due = ?4 \
         where subscription = ?1 and message_id = ?3 and exists (\
           select 1 from @schema@_failed_message f where f.subscription = ?1 \
           and f.position = ?2 and f.id = ?3 and f.holds_key and f.key = k.key)",
        (of, position, id.as_bytes(), scope.now_micros()?),
    )?;
    scope.run(
        "delete from @schema@_failed_message where subscription = ?1 and position = ?2 \
         and id = ?3",
        (of, position, id.as_bytes()),
    )?;
    Ok(())
}

/// All that a subscription has set aside.
pub(super) fn aside(scope: &Scope<'_>, name: &str) -> Result<AsideState> {
    let subscription = subscriptions::by_name(scope, name)?;
    let (of, now) = (subscription.id, scope.now_micros()?);
    let keys = "select key, base_tick, base_id, head_tick, head_id, position, message_id, \
                attempts, reason, max(due - ?2, 0), ?2 - parked_at \
                from @schema@_parked_key where subscription = ?1";
    let messages =
        format!("select {FAILED_COLUMNS} from @schema@_failed_message where subscription = ?1");
    Ok(AsideState {
        is_paused: subscription.is_paused,
        retry_calls: subscription.retry_calls,
        keys: scope.all(keys, (of, now), parked)?,
        messages: scope.all(&messages, (of, now), |row| failed(row, 0))?,
    })
}

/// Messages whose next attempt is due.
pub(super) fn due_messages(scope: &Scope<'_>, name: &str, limit: u32) -> Result<DueMessages> {
    let of = subscriptions::by_name(scope, name)?.id;
    let sql = format!(
        "select {}, {FAILED_COLUMNS} from (select * from @schema@_failed_message \
         where subscription = ?1 and due <= ?2 order by due limit ?3) order by position, id",
        pages::COLUMNS
    );
    let mut due = DueMessages { page: Page::default(), failures: Vec::new() };
    let mut packed = Vec::new();
    let mut statement = scope.prepare(&sql)?;
    let mut rows = statement.query((of, scope.now_micros()?, limit))?;
    while let Some(row) = rows.next()? {
        due.page.push(&pages::message(row, &mut packed)?);
        due.failures.push(failed(row, pages::COLUMN_COUNT)?);
    }
    Ok(due)
}

fn parked(row: &Row<'_>) -> rusqlite::Result<ParkedKey> {
    let tick = |at| -> rusqlite::Result<TickRef> {
        Ok(TickRef { n: row.get(at)?, id: uuid(row, at + 1)? })
    };
    let (base, within) = (tick(1)?, Within { head: tick(3)?, position: row.get(5)? });
    Ok(ParkedKey {
        key: row.get(0)?,
        place: Place { within: (within.head != base).then_some(within), ..Place::at(base) },
        message: Uuid::from_bytes(row.get(6)?),
        attempts: row.get(7)?,
        reason: row.get(8)?,
        retry_in: row.get::<_, Option<i64>>(9)?.map(micros),
        parked_for: micros(row.get(10)?),
    })
}

/// A failed message from the columns at `at`.
fn failed(row: &Row<'_>, at: usize) -> rusqlite::Result<FailedMessage> {
    Ok(FailedMessage {
        position: row.get(at)?,
        id: uuid(row, at + 1)?,
        tick: row.get(at + 2)?,
        attempts: row.get(at + 3)?,
        reason: row.get(at + 4)?,
        retry_in: row.get::<_, Option<i64>>(at + 5)?.map(micros),
        holds_key: row.get(at + 6)?,
    })
}

fn due(scope: &Scope<'_>, retry_in: Option<Duration>) -> Result<Option<i64>> {
    let now = scope.now_micros()?;
    let wait = retry_in.map(|wait| i64::try_from(wait.as_micros()).unwrap_or(i64::MAX));
    Ok(wait.map(|wait| now.saturating_add(wait)))
}

fn micros(micros: i64) -> Duration {
    Duration::from_micros(micros.max(0).cast_unsigned())
}
