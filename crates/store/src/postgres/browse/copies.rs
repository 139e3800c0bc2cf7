//! Messages beside the log: scheduled ones, and copies of those that were set aside.

use posthaste_core::{Position, Timestamp};

use super::{
    super::rows::Micros,
    Part,
    session::Session,
    texts::{Conditions, READ, SHOWN, found},
};
use crate::{MessageFilter, MessageState, Result};

/// Rows that one page may look at.
const EXAMINED_MAX: i64 = 20_000;

/// Scheduled messages below a number, the last one written first. Their numbers stand where positions do.
pub(super) async fn scheduled(
    session: &Session,
    which: &MessageFilter,
    before: Option<i64>,
    wanted: usize,
) -> Result<Part> {
    let conditions = Conditions::of_copies(which, "m");
    let before = before.unwrap_or(i64::MAX);
    let headers = if conditions.has_header { ", headers" } else { "" };
    // The primary key, backwards.
    let sql = format!(
        "with c as materialized (select n as position, null::xid8 as xid, {READ}, deliver_at{headers} \
           from {}.scheduled where n < {before} order by n desc limit {EXAMINED_MAX}) \
         select n.examined, n.reached, {SHOWN}, m.deliver_at \
         from (select count(*) as examined, min(position) as reached from c) n \
         left join lateral (select * from c m where {} order by m.position desc limit {wanted}) m on true",
        session.schema, conditions.text
    );
    read(session, &sql, &conditions, MessageState::Scheduled, wanted).await
}

/// Copies of dead letters, or of messages that wait for their next attempt and are no dead letters elsewhere, below a
/// position.
pub(super) async fn set_aside(
    session: &Session,
    which: &MessageFilter,
    before: Position,
    wanted: usize,
    is_dead: bool,
) -> Result<Part> {
    let conditions = Conditions::of_copies(which, "m");
    let headers = if conditions.has_header { ", headers" } else { "" };
    let schema = &session.schema;
    let (due, alone, state) = if is_dead {
        ("due is null", String::new(), MessageState::Dead)
    } else {
        let alone = format!(
            " and not exists (select from {schema}.failed_message d where d.position = m.position \
             and d.id = m.id and d.due is null)"
        );
        ("due is not null", alone, MessageState::Parked)
    };
    // An index of its own on positions, backwards.
    let sql = format!(
        "with c as materialized (select position, null::xid8 as xid, {READ}{headers} \
           from {schema}.failed_message where {due} and position < {before} \
           order by position desc limit {EXAMINED_MAX}) \
         select n.examined, n.reached, {SHOWN}, null::timestamptz \
         from (select count(*) as examined, min(position) as reached from c) n \
         left join lateral (select distinct on (m.position, m.id) * from c m where {}{alone} \
           order by m.position desc, m.id limit {wanted}) m on true",
        conditions.text
    );
    read(session, &sql, &conditions, state, wanted).await
}

/// What was found, and how far was looked if that was not all.
async fn read(
    session: &Session,
    sql: &str,
    conditions: &Conditions,
    state: MessageState,
    wanted: usize,
) -> Result<Part> {
    let rows = session.rows(sql, &conditions.params).await?;
    let mut part = Part::default();
    for row in &rows {
        if row.get::<_, i64>(0) >= EXAMINED_MAX {
            part.next = row.get(1);
        }
        if row.get::<_, Option<i64>>(2).is_none() {
            continue;
        }
        let mut one = found(row, 2, state);
        one.message.deliver_at = row.get::<_, Option<Micros>>(11).map(|due| Timestamp(due.0));
        part.found.push(one);
    }
    if part.found.len() >= wanted {
        part.next = part.found.last().and_then(|last| last.message.position);
    }
    Ok(part)
}
