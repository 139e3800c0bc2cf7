//! tokio-postgres and what holds its connections.

use posthaste_core::{SchemaName, Timestamp};
use posthaste_store::statements::PostgresReader;
use tokio_postgres::{Error, GenericClient as _, Row, types::Type};

use super::{EnqueuedMessage, ReadError, Reader, pairs};
use crate::adapters::tokio_postgres::{Connection, failed};

impl<C: Connection> Reader for &C {
    async fn position(&mut self, schema: &SchemaName) -> Result<i64, ReadError> {
        let statement = PostgresReader::new(schema).position;
        let rows = self.client().query_typed(&statement, &[]).await.map_err(failed)?;
        Ok(rows.first().map_or(Ok(0), |row| row.try_get(0)).map_err(failed)?)
    }

    async fn read(
        &mut self,
        schema: &SchemaName,
        after: i64,
        limit: i64,
    ) -> Result<Vec<EnqueuedMessage>, ReadError> {
        let statement = PostgresReader::new(schema).enqueued;
        let bounds = [(&after as _, Type::INT8), (&limit as _, Type::INT8)];
        let rows = self.client().query_typed(&statement, &bounds).await;
        Ok(rows.and_then(|rows| rows.iter().map(message).collect()).map_err(failed)?)
    }
}

fn message(row: &Row) -> Result<EnqueuedMessage, Error> {
    Ok(EnqueuedMessage {
        id: row.try_get(0)?,
        topic: row.try_get(1)?,
        key: row.try_get(2)?,
        payload: row.try_get(3)?,
        content_type: row.try_get(4)?,
        headers: pairs(row.try_get(5)?),
        correlation_id: row.try_get(6)?,
        deliver_at: row.try_get::<_, Option<i64>>(7)?.map(Timestamp),
    })
}
