//! diesel-async with PostgreSQL.

use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text, Uuid};
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use posthaste_core::{MessageId, SchemaName, Timestamp};
use posthaste_store::statements::PostgresReader;

use super::{EnqueuedMessage, ReadError, Reader, pairs};
use crate::adapters::diesel_async::{Bind, Statement, failed};

type Columns =
    (Uuid, Text, Nullable<Text>, Binary, Text, Array<Text>, Nullable<Text>, Nullable<BigInt>);
type Row =
    (MessageId, String, Option<String>, Vec<u8>, String, Vec<String>, Option<String>, Option<i64>);

impl Reader for &mut AsyncPgConnection {
    async fn position(&mut self, schema: &SchemaName) -> Result<i64, ReadError> {
        let text = PostgresReader::new(schema).position;
        let statement: Statement<'_, BigInt> = Statement::new(&text, Vec::new());
        Ok(statement.get_result(*self).await.map_err(failed)?)
    }

    async fn read(
        &mut self,
        schema: &SchemaName,
        after: i64,
        limit: i64,
    ) -> Result<Vec<EnqueuedMessage>, ReadError> {
        let text = PostgresReader::new(schema).enqueued;
        let bounds = vec![Bind::Number(after), Bind::Number(limit)];
        let statement: Statement<'_, Columns> = Statement::new(&text, bounds);
        let rows: Vec<Row> = statement.load(*self).await.map_err(failed)?;
        Ok(rows.into_iter().map(message).collect())
    }
}

fn message(row: Row) -> EnqueuedMessage {
    let (id, topic, key, payload, content_type, headers, correlation_id, due) = row;
    EnqueuedMessage {
        id,
        topic,
        key,
        payload,
        content_type,
        headers: pairs(headers),
        correlation_id,
        deliver_at: due.map(Timestamp),
    }
}
