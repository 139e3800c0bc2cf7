//! rusqlite, which blocks.

use posthaste_core::SchemaName;
use posthaste_store::statements::SqliteReader;
use rusqlite::{Connection, Error, Row};

use super::{
    super::{Enqueued, Mark, limit},
    EnqueuedMessage, ReadError, SqliteRow,
};
use crate::{Outbox, adapters::rusqlite::failed};

/// As [`mark`](super::super::mark). Blocks the thread; a `&rusqlite::Transaction` will do.
///
/// # Errors
/// The log cannot be read.
pub fn mark_blocking(outbox: &Outbox, connection: &Connection) -> Result<Mark, ReadError> {
    let statement = SqliteReader::new(outbox.schema()).position;
    let position = connection.query_row(&statement, [], |row| row.get(0)).map_err(failed)?;
    Mark::at(position, &read(connection, outbox.schema(), i64::MAX)?)
}

/// As [`enqueued`](super::super::enqueued). Blocks the thread; a `&rusqlite::Transaction` will do.
///
/// # Errors
/// The log cannot be read, or it holds more than 10,000 messages.
pub fn enqueued_blocking(outbox: &Outbox, connection: &Connection) -> Result<Enqueued, ReadError> {
    enqueued_since_blocking(outbox, connection, &Mark::beginning())
}

/// As [`enqueued_since`](super::super::enqueued_since). Blocks the thread.
///
/// # Errors
/// As [`enqueued_blocking`].
pub fn enqueued_since_blocking(
    outbox: &Outbox,
    connection: &Connection,
    mark: &Mark,
) -> Result<Enqueued, ReadError> {
    mark.enqueued(read(connection, outbox.schema(), mark.position)?)
}

fn read(
    connection: &Connection,
    schema: &SchemaName,
    after: i64,
) -> Result<Vec<EnqueuedMessage>, ReadError> {
    let mut statement = connection.prepare(&SqliteReader::new(schema).enqueued).map_err(failed)?;
    let rows = statement.query_map([after, limit()], message).map_err(failed)?;
    rows.map(|row| row.map_err(failed)?.message()).collect()
}

fn message(row: &Row<'_>) -> Result<SqliteRow, Error> {
    Ok(SqliteRow {
        id: row.get(0)?,
        topic: row.get(1)?,
        key: row.get(2)?,
        payload: row.get(3)?,
        content_type: row.get(4)?,
        headers: row.get(5)?,
        correlation_id: row.get(6)?,
        due: row.get(7)?,
    })
}
