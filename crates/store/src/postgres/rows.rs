//! Column types that the relay reads without parsing or allocating.

use std::error::Error;

use posthaste_core::{Headers, MessageRef, Snapshot, Timestamp};
use tokio_postgres::{
    Row,
    types::{FromSql, Type},
};
use uuid::Uuid;

use crate::{Result, StoreError, StoreErrorKind};

/// Microseconds between the Unix epoch and 2000-01-01, where PostgreSQL counts from.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The columns that [`message`] reads, in its order.
pub(super) const MESSAGE_COLUMNS: &str = "position, id, topic, key, payload, content_type, \
                                          headers, correlation_id, enqueued_at";

/// A `timestamptz` as microseconds since the Unix epoch.
pub(super) struct Micros(pub(super) i64);

impl<'a> FromSql<'a> for Micros {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let since_2000 = i64::from_be_bytes(raw.try_into()?);
        Ok(Self(since_2000.saturating_add(POSTGRES_EPOCH_MICROS)))
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TIMESTAMPTZ
    }
}

/// The elements of a one-dimensional `text[]`, as they came over the wire.
struct Elements<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Elements<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        // Header: dimensions, flags, element type, then length and lower bound per dimension.
        let dimensions = raw.first_chunk::<4>().map(|bytes| i32::from_be_bytes(*bytes));
        match dimensions {
            Some(0) => Ok(Self(&[])),
            Some(1) => Ok(Self(raw.get(20..).ok_or("array header is cut off")?)),
            _ => Err("not a one-dimensional array".into()),
        }
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT_ARRAY
    }
}

/// A message from a row of [`MESSAGE_COLUMNS`].
pub(super) fn message(row: &Row) -> Result<MessageRef<'_>, tokio_postgres::Error> {
    Ok(MessageRef {
        position: row.try_get(0)?,
        id: row.try_get::<_, Uuid>(1)?,
        topic: row.try_get(2)?,
        key: row.try_get(3)?,
        payload: row.try_get(4)?,
        content_type: row.try_get(5)?,
        headers: Headers::packed(row.try_get::<_, Elements<'_>>(6)?.0),
        correlation_id: row.try_get(7)?,
        enqueued_at: Timestamp(row.try_get::<_, Micros>(8)?.0),
    })
}

/// A `pg_snapshot` sent as text.
pub(super) fn snapshot(text: &str) -> Result<Snapshot> {
    text.parse()
        .map_err(|error| StoreError::caused(StoreErrorKind::Unexpected, "read a snapshot", error))
}

/// An `xid8` sent as text.
pub(super) fn xid(text: &str) -> Result<u64> {
    text.parse().map_err(|error| {
        StoreError::caused(StoreErrorKind::Unexpected, "read a transaction id", error)
    })
}
