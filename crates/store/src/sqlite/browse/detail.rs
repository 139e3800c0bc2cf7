//! One message with its timeline.

use posthaste_core::{Headers, MessageId, Timestamp};
use rusqlite::Row;

use super::{
    super::{headers, session::Scope},
    candidates::{COLUMNS, listed},
    states::{Readers, failure},
};
use crate::{
    ListedMessage, MessageDelivery, MessageDetail, MessageState, Result, StoreError, StoreErrorKind,
};

/// Where columns begin that are not those of a list.
const MORE: usize = 8;

pub(super) fn detail(
    scope: &Scope<'_>,
    id: MessageId,
    with_payload: bool,
) -> Result<Option<MessageDetail>> {
    let payload = if with_payload { "payload" } else { "x''" };
    let row = |row: &Row<'_>| {
        Ok((listed(row, MessageState::Unread)?, row.get::<_, String>(MORE)?, row.get(MORE + 1)?))
    };
    let sql = format!(
        "select position, {COLUMNS}, headers, {payload} from @schema@_log where id = ?1 \
         order by position desc limit 1"
    );
    if let Some((mut message, packed, payload)) = scope.first(&sql, [id.as_bytes()], row)? {
        let each = Readers::read(scope)?.deliveries(scope, &message)?;
        message.state = MessageState::over(each.iter().map(|(_, delivery)| delivery.state));
        let mut deliveries = Vec::new();
        for (subscription, mut delivery) in each {
            if delivery.state == MessageState::Published {
                delivery.published_at = published_at(scope, subscription, &message)?;
            }
            deliveries.push(delivery);
        }
        let headers = pairs(&packed)?;
        return Ok(Some(MessageDetail { message, headers, payload, deliveries }));
    }
    let sql = format!(
        "select n, {COLUMNS}, headers, {payload}, deliver_at from @schema@_scheduled where id = ?1 \
         order by n desc limit 1"
    );
    let scheduled = scope.first(&sql, [id.as_bytes()], |found| {
        let (message, packed, payload) = row(found)?;
        Ok((message, packed, payload, found.get(MORE + 2)?))
    })?;
    if let Some((mut message, packed, payload, due)) = scheduled {
        message.number = message.position.take();
        message.state = MessageState::Scheduled;
        message.deliver_at = Some(Timestamp(due));
        let headers = pairs(&packed)?;
        return Ok(Some(MessageDetail { message, headers, payload, deliveries: Vec::new() }));
    }
    copy(scope, id, payload)
}

/// The first settle that covered it.
fn published_at(
    scope: &Scope<'_>,
    subscription: i64,
    message: &ListedMessage,
) -> Result<Option<Timestamp>> {
    let sql = "select at from @schema@_progress where subscription = ?1 and through >= ?2 \
               order by through, n limit 1";
    scope.first(sql, (subscription, message.position), |row| Ok(Timestamp(row.get(0)?)))
}

/// A copy of a message that the log has forgotten.
fn copy(scope: &Scope<'_>, id: MessageId, payload: &str) -> Result<Option<MessageDetail>> {
    // Its own columns alone: the subscription has an id as well.
    let sql = format!(
        "select position, {COLUMNS}, headers, {payload}, attempts, reason, id, failed_at, due, \
         (select s.name from @schema@_subscription s where s.id = f.subscription) as name \
         from @schema@_failed_message f where id = ?1 order by position desc, name"
    );
    let rows = scope.all(&sql, [id.as_bytes()], |row| {
        let message = listed(row, MessageState::Parked)?;
        let failure = failure(row, MORE + 2)?;
        let is_dead = failure.next_attempt_at.is_none();
        let delivery = MessageDelivery {
            subscription: row.get(MORE + 7)?,
            state: if is_dead { MessageState::Dead } else { MessageState::Parked },
            published_at: None,
            failure: Some(failure),
        };
        Ok((message, row.get::<_, String>(MORE)?, row.get::<_, Vec<u8>>(MORE + 1)?, delivery))
    })?;
    let mut rows = rows.into_iter();
    let Some((mut message, packed, payload, first)) = rows.next() else { return Ok(None) };
    let same = rows.filter(|(other, ..)| other.position == message.position);
    let mut deliveries = vec![first];
    deliveries.extend(same.map(|(.., delivery)| delivery));
    message.state = MessageState::over(deliveries.iter().map(|delivery| delivery.state));
    Ok(Some(MessageDetail { message, headers: pairs(&packed)?, payload, deliveries }))
}

pub(super) fn pairs(json: &str) -> Result<Vec<(String, String)>> {
    let mut packed = Vec::new();
    headers::pack(json, &mut packed)
        .map_err(|error| StoreError::caused(StoreErrorKind::Unexpected, "read headers", error))?;
    let pairs = Headers::packed(&packed).iter();
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}
