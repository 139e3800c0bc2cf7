//! Where subscriptions stand, and what they have set aside: the state of a message, as the view `delivery` tells it.

use posthaste_core::{MessageId, Position, Timestamp, TopicFilter};
use rusqlite::Row;

use super::super::{session::Scope, subscriptions};
use crate::{ListedMessage, MessageDelivery, MessageFailure, MessageState, Result};

/// A subscription and its place.
pub(super) struct Reader {
    id: i64,
    name: String,
    pub(super) filter: TopicFilter,
    /// What stands up to here is not its own.
    pub(super) start: Position,
    /// Every position up to here is settled.
    pub(super) through: Position,
}

/// All subscriptions, by name.
pub(super) struct Readers {
    pub(super) all: Vec<Reader>,
    has_failed: bool,
    has_parked: bool,
}

impl Readers {
    pub(super) fn read(scope: &Scope<'_>) -> Result<Self> {
        let mut all = Vec::new();
        for subscription in subscriptions::list(scope)? {
            let through = "select through from @schema@_settled where subscription = ?1";
            let through = scope.first(through, [subscription.id], |row| row.get(0))?;
            all.push(Reader {
                id: subscription.id,
                start: subscription.start_position,
                through: through.unwrap_or(subscription.start_position),
                name: subscription.name,
                filter: subscription.filter,
            });
        }
        let is_any = |table: &str| {
            let sql = format!("select 1 from @schema@_{table} limit 1");
            scope.first(&sql, [], |_| Ok(())).map(|found| found.is_some())
        };
        let (has_failed, has_parked) = (is_any("failed_message")?, is_any("parked_key")?);
        Ok(Self { all, has_failed, has_parked })
    }

    /// Whether a message of the log may be in a state, as far as places tell: what is set aside has to be looked up.
    pub(super) fn may_be(&self, state: MessageState, message: &ListedMessage) -> bool {
        let Some(position) = message.position else { return false };
        let mut reading = self
            .all
            .iter()
            .filter(|reader| position > reader.start && reader.filter.matches(&message.topic));
        match state {
            MessageState::Unread => reading.next().is_none(),
            MessageState::Pending => reading.any(|reader| position > reader.through),
            MessageState::Published => reading.all(|reader| position <= reader.through),
            MessageState::Scheduled | MessageState::Parked | MessageState::Dead => true,
        }
    }

    /// The state of a message of the log.
    pub(super) fn state(&self, scope: &Scope<'_>, message: &ListedMessage) -> Result<MessageState> {
        let each = self.deliveries(scope, message)?;
        Ok(MessageState::over(each.iter().map(|(_, delivery)| delivery.state)))
    }

    /// The message at each subscription that reads it, without the time of its publishing.
    pub(super) fn deliveries(
        &self,
        scope: &Scope<'_>,
        message: &ListedMessage,
    ) -> Result<Vec<(i64, MessageDelivery)>> {
        let Some(position) = message.position else { return Ok(Vec::new()) };
        let mut deliveries = Vec::new();
        for reader in &self.all {
            if position <= reader.start || !reader.filter.matches(&message.topic) {
                continue;
            }
            let (state, failure) = if position > reader.through {
                (MessageState::Pending, None)
            } else {
                self.set_aside(scope, reader, message, position)?
            };
            let subscription = reader.name.clone();
            let delivery = MessageDelivery { subscription, state, published_at: None, failure };
            deliveries.push((reader.id, delivery));
        }
        Ok(deliveries)
    }

    fn set_aside(
        &self,
        scope: &Scope<'_>,
        reader: &Reader,
        message: &ListedMessage,
        position: Position,
    ) -> Result<(MessageState, Option<MessageFailure>)> {
        if self.has_failed {
            let sql = "select attempts, reason, id, failed_at, due from @schema@_failed_message \
                       where subscription = ?1 and position = ?2 order by due is not null limit 1";
            if let Some(failure) = scope.first(sql, (reader.id, position), |row| failure(row, 0))? {
                let is_dead = failure.next_attempt_at.is_none();
                let state = if is_dead { MessageState::Dead } else { MessageState::Parked };
                return Ok((state, Some(failure)));
            }
        }
        if let (true, Some(key)) = (self.has_parked, &message.key) {
            let sql = "select attempts, reason, message_id, parked_at, due from @schema@_parked_key \
                       where subscription = ?1 and key = ?2 and through < ?3";
            let found = scope.first(sql, (reader.id, key, position), |row| failure(row, 0))?;
            if found.is_some() {
                return Ok((MessageState::Parked, found));
            }
        }
        Ok((MessageState::Published, None))
    }
}

/// Attempts, reason, message, time and next attempt from five columns.
pub(super) fn failure(row: &Row<'_>, at: usize) -> rusqlite::Result<MessageFailure> {
    Ok(MessageFailure {
        attempts: row.get(at)?,
        reason: row.get(at + 1)?,
        message: MessageId::from_bytes(row.get(at + 2)?),
        since: Timestamp(row.get(at + 3)?),
        next_attempt_at: row.get::<_, Option<i64>>(at + 4)?.map(Timestamp),
    })
}
