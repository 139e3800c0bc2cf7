//! sqlx with SQLite.

use posthaste_core::SchemaName;
use posthaste_store::statements::SqliteReader;
use sqlx::{AssertSqlSafe, Error, Row as _, SqliteConnection};

use super::{EnqueuedMessage, ReadError, Reader, SqliteRow};
use crate::adapters::sqlx_sqlite::failed;

impl Reader for &mut SqliteConnection {
    async fn position(&mut self, schema: &SchemaName) -> Result<i64, ReadError> {
        let statement = sqlx::query_scalar(AssertSqlSafe(SqliteReader::new(schema).position));
        Ok(statement.fetch_one(&mut **self).await.map_err(failed)?)
    }

    async fn read(
        &mut self,
        schema: &SchemaName,
        after: i64,
        limit: i64,
    ) -> Result<Vec<EnqueuedMessage>, ReadError> {
        let statement = sqlx::query(AssertSqlSafe(SqliteReader::new(schema).enqueued));
        let rows = statement.bind(after).bind(limit).fetch_all(&mut **self).await;
        let read = |row| message(row).map_err(failed)?.message();
        rows.map_err(failed)?.iter().map(read).collect()
    }
}

fn message(row: &sqlx::sqlite::SqliteRow) -> Result<SqliteRow, Error> {
    Ok(SqliteRow {
        id: row.try_get(0)?,
        topic: row.try_get(1)?,
        key: row.try_get(2)?,
        payload: row.try_get(3)?,
        content_type: row.try_get(4)?,
        headers: row.try_get(5)?,
        correlation_id: row.try_get(6)?,
        due: row.try_get(7)?,
    })
}
