//! One message with its timeline.

use std::{collections::HashMap, fmt::Write as _};

use posthaste_core::{MessageId, Timestamp};
use tokio_postgres::{Row, types::Type};

use super::{
    super::rows::Micros,
    Found,
    places::{Readers, failure},
    session::{Param, Session},
    texts::{READ, SHOWN, found},
};
use crate::{ListedMessage, MessageDelivery, MessageDetail, MessageState, Result};

/// Columns behind those of a list.
const MORE: usize = 9;

pub(super) async fn detail(
    session: &Session,
    id: MessageId,
    with_payload: bool,
) -> Result<Option<MessageDetail>> {
    let payload = if with_payload { "payload" } else { "null::bytea as payload" };
    if let Some(row) = of_log(session, id, payload).await? {
        let found = found(&row, 0, MessageState::Unread);
        return Ok(Some(whole(session, &row, found).await?));
    }
    let sql = format!(
        "select {SHOWN}, m.headers, m.payload, m.deliver_at from (select n as position, null::xid8 as xid, \
         {READ}, headers, {payload}, deliver_at from {}.scheduled where id = $1 \
         order by n desc limit 1) m",
        session.schema
    );
    if let Some(row) = session.rows(&sql, &[(Box::new(id), Type::UUID)]).await?.first() {
        let mut message = found(row, 0, MessageState::Scheduled).message;
        message.number = message.position.take();
        message.deliver_at = row.get::<_, Option<Micros>>(MORE + 2).map(|due| Timestamp(due.0));
        return Ok(Some(shown(row, message, Vec::new())));
    }
    copy(session, id, payload).await
}

/// The newest of the log with this id: one probe for each slot.
async fn of_log(session: &Session, id: MessageId, payload: &str) -> Result<Option<Row>> {
    let schema = &session.schema;
    let mut slots = String::new();
    for slot in 0..session.geometry.log.slots {
        let union = if slot == 0 { "" } else { " union all " };
        let _ = write!(
            slots,
            "{union}select position, xid, {READ}, headers, {payload} from {schema}.log_{slot} \
             where id = $1"
        );
    }
    let sql = format!(
        "select {SHOWN}, m.headers, m.payload from ({slots}) m order by m.position desc limit 1"
    );
    Ok(session.rows(&sql, &[(Box::new(id), Type::UUID)]).await?.into_iter().next())
}

async fn whole(session: &Session, row: &Row, found: Found) -> Result<MessageDetail> {
    let readers = Readers::read(session).await?;
    let aside = readers.set_aside(session, std::slice::from_ref(&found)).await?;
    let Found { mut message, xid } = found;
    let xid = xid.unwrap_or_default();
    let each = readers.deliveries(&aside, &message, xid);
    message.state = MessageState::over(each.iter().map(|(_, delivery)| delivery.state));
    let published = |(id, delivery): &(i32, MessageDelivery)| {
        (delivery.state == MessageState::Published).then_some(*id)
    };
    let published: Vec<i32> = each.iter().filter_map(published).collect();
    let times = published_at(session, &message, xid, published).await?;
    let dated = |(id, delivery): (i32, MessageDelivery)| MessageDelivery {
        published_at: times.get(&id).copied().flatten(),
        ..delivery
    };
    Ok(shown(row, message, each.into_iter().map(dated).collect()))
}

/// When subscriptions have published a message.
async fn published_at(
    session: &Session,
    message: &ListedMessage,
    xid: u64,
    subscriptions: Vec<i32>,
) -> Result<HashMap<i32, Option<Timestamp>>> {
    if subscriptions.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = format!(
        "select s.id, {}.settled_at(s.id, '{xid}'::xid8, {}, \
         'epoch'::timestamptz + {} * interval '1 microsecond') from unnest($1::int4[]) s (id)",
        session.schema,
        message.position.unwrap_or_default(),
        message.enqueued_at.0
    );
    let rows = session.rows(&sql, &[(Box::new(subscriptions), Type::INT4_ARRAY)]).await?;
    let time = |row: &Row| row.get::<_, Option<Micros>>(1).map(|at| Timestamp(at.0));
    Ok(rows.iter().map(|row| (row.get(0), time(row))).collect())
}

/// A copy of a message that the log has forgotten.
async fn copy(session: &Session, id: MessageId, payload: &str) -> Result<Option<MessageDetail>> {
    let sql = format!(
        "select {SHOWN}, m.headers, m.payload, s.name, m.attempts, m.reason, m.id, m.failed_at, m.due \
         from (select subscription, position, null::xid8 as xid, {READ}, headers, {payload}, attempts, \
           reason, failed_at, due from {0}.failed_message where id = $1) m \
         join {0}.subscription s on s.id = m.subscription order by m.position desc, s.name",
        session.schema
    );
    let params: [Param; 1] = [(Box::new(id), Type::UUID)];
    let rows = session.rows(&sql, &params).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let mut message = found(first, 0, MessageState::Parked).message;
    let delivery = |row: &Row| {
        let failure = failure(row, MORE + 3);
        let is_dead = failure.next_attempt_at.is_none();
        MessageDelivery {
            subscription: row.get(MORE + 2),
            state: if is_dead { MessageState::Dead } else { MessageState::Parked },
            published_at: None,
            failure: Some(failure),
        }
    };
    let same = rows.iter().filter(|row| Some(row.get::<_, i64>(0)) == message.position);
    let deliveries: Vec<MessageDelivery> = same.map(delivery).collect();
    message.state = MessageState::over(deliveries.iter().map(|delivery| delivery.state));
    Ok(Some(shown(first, message, deliveries)))
}

fn shown(row: &Row, message: ListedMessage, deliveries: Vec<MessageDelivery>) -> MessageDetail {
    let headers: Vec<String> = row.get(MORE);
    let pairs = headers.as_chunks().0.iter().cloned();
    MessageDetail {
        message,
        headers: pairs.map(|[name, value]| (name, value)).collect(),
        payload: row.get::<_, Option<Vec<u8>>>(MORE + 1).unwrap_or_default(),
        deliveries,
    }
}
