//! Reads the pages of a window, straight from SQLite's own memory into the page's buffers.

use posthaste_core::{
    Headers, MessageId, MessageRef, Page, PageLimit, Position, Step, Timestamp, TopicFilter, Window,
};
use rusqlite::{Row, types::FromSqlError};

use super::{headers, session::Scope};
use crate::{Result, StoreError, StoreErrorKind};

/// A range of the primary key, in its order. The topic stands before the payload in the row, so
/// a message that does not match costs no overflow page.
const RANGE: &str = "\
select position, id, topic, key, content_type, headers, correlation_id, enqueued_at, payload
from @schema@_log where position > ?1 and position <= ?2 order by position";

/// The positions `(after, through]` that the next page may span; `None` at the window's end. A
/// page reaches no further than its window, so that its reach may be settled.
pub(super) fn next_range(
    window: &Window,
    after: Position,
    stride: i64,
) -> Option<(Position, Position)> {
    match (window.step(after, stride), window.main) {
        (Step::Read { after, through }, Some((_, high))) => Some((after, through.min(high))),
        // Windows of SQLite have no late part.
        _ => None,
    }
}

/// Reads one range, up to the byte limit.
pub(super) fn read(
    scope: &Scope<'_>,
    (after, through): (Position, Position),
    filter: &TopicFilter,
    limit: PageLimit,
) -> Result<Page> {
    let mut page = Page::new(through);
    let mut packed = Vec::new();
    let mut statement = scope.prepare(RANGE)?;
    let mut rows = statement.query((after, through))?;
    while let Some(row) = rows.next()? {
        let position = row.get(0)?;
        let topic = text(row, position, 2, "topic")?;
        if !filter.matches(topic) {
            continue;
        }
        packed.clear();
        headers::pack(text(row, position, 5, "headers")?, &mut packed)
            .map_err(|cause| unreadable(position, "headers", "a JSON object", cause))?;
        let message = message(row, position, topic, &packed)?;
        if !page.has_room_for(&message, limit.bytes) {
            page.cut(position - 1);
            break;
        }
        page.push(&message);
    }
    Ok(page)
}

fn message<'r>(
    row: &'r Row<'_>,
    position: Position,
    topic: &'r str,
    packed: &'r [u8],
) -> Result<MessageRef<'r>> {
    Ok(MessageRef {
        id: MessageId::from_bytes(row.get(1)?),
        position,
        enqueued_at: Timestamp(row.get(7)?),
        topic,
        key: optional_text(row, position, 3, "key")?,
        content_type: text(row, position, 4, "content_type")?,
        correlation_id: optional_text(row, position, 6, "correlation_id")?,
        headers: Headers::packed(packed),
        payload: row
            .get_ref(8)?
            .as_blob()
            .map_err(|cause| unreadable(position, "payload", "a blob", cause))?,
    })
}

fn text<'r>(row: &'r Row<'_>, position: Position, column: usize, name: &str) -> Result<&'r str> {
    let value = row.get_ref(column)?;
    value.as_str().map_err(|cause| unreadable(position, name, "UTF-8 text", cause))
}

fn optional_text<'r>(
    row: &'r Row<'_>,
    position: Position,
    column: usize,
    name: &str,
) -> Result<Option<&'r str>> {
    let value = row.get_ref(column)?;
    value
        .as_str_or_null()
        .map_err(|cause: FromSqlError| unreadable(position, name, "UTF-8 text", cause))
}

/// SQLite does not check that text is UTF-8. Such a message is neither altered nor passed over.
fn unreadable(
    position: Position,
    field: &str,
    expected: &str,
    cause: impl std::error::Error + Send + Sync + 'static,
) -> StoreError {
    let doing = format!(
        "the message at position {position} has a {field} that is not {expected}, which its \
         writer must not store; update that row"
    );
    StoreError::caused(StoreErrorKind::Invalid, doing, cause)
}
