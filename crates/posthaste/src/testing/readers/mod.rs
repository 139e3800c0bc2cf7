//! How each client reads what was enqueued. An implementation only sends two statements and takes
//! rows apart.

#[cfg(feature = "diesel-async")]
mod diesel_async;
#[cfg(feature = "rusqlite")]
mod rusqlite;
#[cfg(feature = "sea-orm")]
mod sea_orm;
#[cfg(feature = "sqlx-postgres")]
mod sqlx_postgres;
#[cfg(feature = "sqlx-sqlite")]
mod sqlx_sqlite;
#[cfg(feature = "tokio-postgres")]
mod tokio_postgres;

use posthaste_core::SchemaName;

#[cfg(feature = "rusqlite")]
pub use self::rusqlite::{enqueued_blocking, enqueued_since_blocking, mark_blocking};
use super::{EnqueuedMessage, ReadError};

/// Reads the log over a connection. Implemented for what an enqueue is handed.
pub trait Reader: Send {
    /// The highest position that the log has handed out, or 0.
    fn position(
        &mut self,
        schema: &SchemaName,
    ) -> impl Future<Output = Result<i64, ReadError>> + Send;

    /// The messages of the log behind `after` in their order, then those that wait for their time,
    /// as they are due; at most `limit`.
    fn read(
        &mut self,
        schema: &SchemaName,
        after: i64,
        limit: i64,
    ) -> impl Future<Output = Result<Vec<EnqueuedMessage>, ReadError>> + Send;
}

/// Headers from PostgreSQL: name, value, ….
#[cfg(feature = "_postgres")]
fn pairs(flat: Vec<String>) -> Vec<(String, String)> {
    let mut flat = flat.into_iter();
    std::iter::from_fn(|| Some((flat.next()?, flat.next()?))).collect()
}

#[cfg(feature = "_sqlite")]
use from_json::Headers;

#[cfg(feature = "_sqlite")]
mod from_json {
    use std::fmt;

    use serde::{
        Deserialize, Deserializer,
        de::{MapAccess, Visitor},
    };

    /// Headers from SQLite: a JSON object of strings, in its order, which a map type would lose.
    pub(super) struct Headers(pub(super) Vec<(String, String)>);

    impl<'de> Deserialize<'de> for Headers {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_map(Object)
        }
    }

    struct Object;

    impl<'de> Visitor<'de> for Object {
        type Value = Headers;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a JSON object of strings")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
            let mut headers = Vec::new();
            while let Some(pair) = map.next_entry()? {
                headers.push(pair);
            }
            Ok(Headers(headers))
        }
    }
}

/// A row from SQLite, as its clients hand it over.
#[cfg(feature = "_sqlite")]
struct SqliteRow {
    id: Vec<u8>,
    topic: String,
    key: Option<String>,
    payload: Vec<u8>,
    content_type: String,
    headers: String,
    correlation_id: Option<String>,
    due: Option<i64>,
}

#[cfg(feature = "_sqlite")]
impl SqliteRow {
    fn message(self) -> Result<EnqueuedMessage, ReadError> {
        let Headers(headers) = serde_json::from_str(&self.headers).map_err(ReadError::strange)?;
        Ok(EnqueuedMessage {
            id: posthaste_core::MessageId::from_slice(&self.id).map_err(ReadError::strange)?,
            topic: self.topic,
            key: self.key,
            payload: self.payload,
            content_type: self.content_type,
            headers,
            correlation_id: self.correlation_id,
            deliver_at: self.due.map(posthaste_core::Timestamp),
        })
    }
}
