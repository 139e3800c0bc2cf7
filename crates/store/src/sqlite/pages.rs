//! Reads the pages of a window, straight from SQLite's own memory into the page's buffers.

use posthaste_core::{
    Headers, MessageId, MessageRef, Page, PageLimit, Position, Step, Timestamp, TopicFilter, Window,
};
use rusqlite::{Row, types::FromSqlError};

use super::{headers, session::Scope};
use crate::{Result, StoreError, StoreErrorKind};

/// The columns that [`message`] reads, in its order. The topic stands before the payload in the
/// row, so a message that does not match costs no overflow page.
pub(super) const COLUMNS: &str =
    "position, id, topic, key, content_type, headers, correlation_id, enqueued_at, payload";
/// How many they are.
pub(super) const COLUMN_COUNT: usize = 9;

/// The columns with an alias before each.
pub(super) fn columns_of(alias: &str) -> String {
    let columns: Vec<String> =
        COLUMNS.split(", ").map(|column| format!("{alias}.{column}")).collect();
    columns.join(", ")
}

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

/// Reads one range, up to the byte limit: all messages, or those with one key.
pub(super) fn read(
    scope: &Scope<'_>,
    (after, through): (Position, Position),
    filter: &TopicFilter,
    key: Option<&str>,
    limit: PageLimit,
) -> Result<Page> {
    let mut page = Page::new(through);
    let mut packed = Vec::new();
    // A range of the primary key, in its order.
    let mut statement = scope.prepare(&format!(
        "select {COLUMNS} from @schema@_log where position > ?1 and position <= ?2 \
         and (?3 is null or key = ?3) order by position"
    ))?;
    let mut rows = statement.query((after, through, key))?;
    while let Some(row) = rows.next()? {
        let position = row.get(0)?;
        if !filter.matches(text(row, position, 2, "topic")?) {
            continue;
        }
        let message = message(row, &mut packed)?;
        if !page.has_room_for(&message, limit.bytes) {
            page.cut(position - 1);
            break;
        }
        page.push(&message);
    }
    Ok(page)
}

/// A message from the first columns of `row`; its headers are packed into `packed`.
pub(super) fn message<'r>(row: &'r Row<'_>, packed: &'r mut Vec<u8>) -> Result<MessageRef<'r>> {
    let position = row.get(0)?;
    packed.clear();
    headers::pack(text(row, position, 5, "headers")?, packed)
        .map_err(|cause| unreadable(position, "headers", "a JSON object", cause))?;
    Ok(MessageRef {
        id: MessageId::from_bytes(row.get(1)?),
        position,
        enqueued_at: Timestamp(row.get(7)?),
        topic: text(row, position, 2, "topic")?,
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
