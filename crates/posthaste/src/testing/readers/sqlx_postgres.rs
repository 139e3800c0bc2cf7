//! sqlx with PostgreSQL.

use posthaste_core::{SchemaName, Timestamp};
use posthaste_store::statements::PostgresReader;
use sqlx::{AssertSqlSafe, Error, PgConnection, Row as _, postgres::PgRow};

use super::{EnqueuedMessage, ReadError, Reader, pairs};
use crate::adapters::sqlx_postgres::failed;

/// Unnamed statements: a test reads seldom, and its pooler may not carry names.
impl Reader for &mut PgConnection {
    async fn position(&mut self, schema: &SchemaName) -> Result<i64, ReadError> {
        let statement = sqlx::query_scalar(AssertSqlSafe(PostgresReader::new(schema).position));
        Ok(statement.persistent(false).fetch_one(&mut **self).await.map_err(failed)?)
    }

    async fn read(
        &mut self,
        schema: &SchemaName,
        after: i64,
        limit: i64,
    ) -> Result<Vec<EnqueuedMessage>, ReadError> {
        let statement = sqlx::query(AssertSqlSafe(PostgresReader::new(schema).enqueued));
        let bound = statement.bind(after).bind(limit).persistent(false);
        let rows = bound.fetch_all(&mut **self).await;
        Ok(rows.and_then(|rows| rows.iter().map(message).collect()).map_err(failed)?)
    }
}

fn message(row: &PgRow) -> Result<EnqueuedMessage, Error> {
    Ok(EnqueuedMessage {
        id: row.try_get(0)?,
        topic: row.try_get(1)?,
        key: row.try_get(2)?,
        payload: row.try_get(3)?,
        content_type: row.try_get(4)?,
        headers: pairs(row.try_get(5)?),
        correlation_id: row.try_get(6)?,
        deliver_at: row.try_get::<Option<i64>, _>(7)?.map(Timestamp),
    })
}
