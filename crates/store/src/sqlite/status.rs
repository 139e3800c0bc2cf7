//! Answers for people: counts, places and the newest messages. Not a reader of the log.

use posthaste_core::{MessageRef, Position, Timestamp};
use rusqlite::Row;

use super::{
    pages,
    session::Scope,
    sizes,
    subscriptions::{self, Subscription},
    ticks,
};
use crate::{Result, Status, StoredMessage, SubscriptionStatus};

/// Counts and places, all on one snapshot.
pub(super) fn status(scope: &Scope<'_>, bytes_max: Option<u64>) -> Result<Status> {
    let mut states = Vec::new();
    for subscription in subscriptions::list(scope)? {
        states.push(state_of(scope, subscription)?);
    }
    let (messages, bytes) = sizes::count(scope)?;
    Ok(Status {
        head: highest_handed_out(scope)?,
        tick: ticks::newest(scope)?.at,
        messages,
        size: sizes::size(scope, bytes, bytes_max)?,
        // Rows are deleted, and their pages used again at once.
        slots: None,
        dead_tuples: None,
        subscriptions: states,
    })
}

fn state_of(scope: &Scope<'_>, subscription: Subscription) -> Result<SubscriptionStatus> {
    let progress = subscriptions::progress(scope, &subscription)?;
    let (backlog, oldest) = backlog(scope, &subscription)?;
    let now = scope.now_micros()?;
    let keys = "select count(*), min(case when due is not null then parked_at end) \
                from @schema@_parked_key where subscription = ?1";
    let messages = "select count(due), count(*) - count(due), \
                    min(case when due is not null and reason <> 'replay' then failed_at end) \
                    from @schema@_failed_message where subscription = ?1";
    let count = |row: &Row<'_>, at| row.get::<_, i64>(at).map(i64::cast_unsigned);
    let (parked_keys, oldest_key): (_, Option<i64>) = scope
        .first(keys, [subscription.id], |row| Ok((count(row, 0)?, row.get(1)?)))?
        .unwrap_or_default();
    let (parked_messages, dead_letters, oldest_message) = scope
        .first(messages, [subscription.id], |row| {
            Ok((count(row, 0)?, count(row, 1)?, row.get::<_, Option<i64>>(2)?))
        })?
        .unwrap_or_default();
    let age = |at: i64| now.saturating_sub(at).max(0);
    let holder = subscription.held(now).map(|(holder, _)| holder.to_owned());
    Ok(SubscriptionStatus {
        is_paused: subscription.is_paused,
        parked_keys,
        parked_messages,
        dead_letters,
        aside_micros: oldest_key.into_iter().chain(oldest_message).map(age).max().unwrap_or(0),
        lag_micros: oldest.map_or(0, |Timestamp(oldest)| age(oldest)),
        name: subscription.name,
        filter: subscription.filter,
        epoch: subscription.epoch,
        holder,
        progress,
        backlog,
    })
}

/// How many messages match and are not settled, and when the oldest was written. Walks the
/// primary key from the settled position; the topic is read without the payload's pages.
fn backlog(scope: &Scope<'_>, of: &Subscription) -> Result<(u64, Option<Timestamp>)> {
    let mut statement = scope.prepare(
        "select topic, enqueued_at from @schema@_log where position > \
           (select through from @schema@_settled where subscription = ?1) order by position",
    )?;
    let mut rows = statement.query([of.id])?;
    let (mut count, mut oldest) = (0, None);
    while let Some(row) = rows.next()? {
        if of.filter.is_all() || of.filter.matches(row.get_ref(0)?.as_str().unwrap_or_default()) {
            count += 1;
            if oldest.is_none() {
                oldest = Some(Timestamp(row.get(1)?));
            }
        }
    }
    Ok((count, oldest))
}

/// Positions of deleted messages count: SQLite remembers them for `autoincrement`.
fn highest_handed_out(scope: &Scope<'_>) -> Result<Position> {
    let sql = "select seq from sqlite_sequence where name = '@schema@_log'";
    Ok(scope.first(sql, [], |row| row.get(0))?.unwrap_or(0))
}

/// The `limit` messages above `after`, or the newest ones; oldest first.
pub(super) fn recent(
    scope: &Scope<'_>,
    after: Option<Position>,
    limit: u32,
) -> Result<Vec<StoredMessage>> {
    let order = if after.is_some() { "asc" } else { "desc" };
    // Walks the primary key up or down. The sub-select finds the message's deliveries by its
    // position; one that is null outweighs the others, as in the view `outbox`.
    let columns = pages::columns_of("l");
    let sql = format!(
        "select {columns}, \
                (select case when count(*) = count(d.published_at) then max(d.published_at) end \
                 from @schema@_delivery d where d.position = l.position) \
         from @schema@_log l where l.position > ?1 order by l.position {order} limit ?2"
    );
    let mut statement = scope.prepare(&sql)?;
    let mut rows = statement.query((after.unwrap_or(0), limit))?;
    let (mut messages, mut packed) = (Vec::new(), Vec::new());
    while let Some(row) = rows.next()? {
        let published_at = row.get::<_, Option<i64>>(pages::COLUMN_COUNT)?.map(Timestamp);
        messages.push(owned(&pages::message(row, &mut packed)?, published_at));
    }
    if after.is_none() {
        messages.reverse();
    }
    Ok(messages)
}

/// A message that outlives its row.
pub(super) fn owned(message: &MessageRef<'_>, published_at: Option<Timestamp>) -> StoredMessage {
    let pairs = message.headers.iter();
    StoredMessage {
        position: message.position,
        id: message.id,
        topic: message.topic.to_owned(),
        key: message.key.map(str::to_owned),
        payload: message.payload.to_vec(),
        content_type: message.content_type.to_owned(),
        headers: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        correlation_id: message.correlation_id.map(str::to_owned),
        enqueued_at: message.enqueued_at,
        published_at,
    }
}
