//! sea-orm, on both databases.

use posthaste_core::{SchemaName, Timestamp};
use posthaste_store::statements::{PostgresReader, SqliteReader};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, QueryResult, Statement,
};

use super::{EnqueuedMessage, ReadError, Reader, SqliteRow, pairs};
use crate::{
    EnqueueError,
    adapters::sea_orm::{Database, database, postgres, sqlite},
};

macro_rules! reader {
    ($($connection:ty)*) => {$(
        impl Reader for &$connection {
            async fn position(&mut self, schema: &SchemaName) -> Result<i64, ReadError> {
                position(*self, schema).await
            }

            async fn read(
                &mut self,
                schema: &SchemaName,
                after: i64,
                limit: i64,
            ) -> Result<Vec<EnqueuedMessage>, ReadError> {
                read(*self, schema, after, limit).await
            }
        }
    )*};
}

reader!(DatabaseConnection DatabaseTransaction);

async fn position(
    connection: &impl ConnectionTrait,
    schema: &SchemaName,
) -> Result<i64, ReadError> {
    let (text, failed): (_, fn(DbErr) -> EnqueueError) = match database(connection)? {
        Database::Postgres => (PostgresReader::new(schema).position, postgres::failed),
        Database::Sqlite => (SqliteReader::new(schema).position, sqlite::failed),
    };
    let statement = Statement::from_string(connection.get_database_backend(), text);
    let row = connection.query_one_raw(statement).await;
    Ok(row.and_then(|row| row.map_or(Ok(0), |row| row.try_get_by_index(0))).map_err(failed)?)
}

async fn read(
    connection: &impl ConnectionTrait,
    schema: &SchemaName,
    after: i64,
    limit: i64,
) -> Result<Vec<EnqueuedMessage>, ReadError> {
    let backend = connection.get_database_backend();
    let rows = async |text: String| {
        let bounds = [after.into(), limit.into()];
        connection.query_all_raw(Statement::from_sql_and_values(backend, text, bounds)).await
    };
    match database(connection)? {
        Database::Postgres => {
            let rows = rows(PostgresReader::new(schema).enqueued).await;
            let messages = rows.and_then(|rows| rows.iter().map(message).collect());
            Ok(messages.map_err(postgres::failed)?)
        }
        Database::Sqlite => {
            let rows = rows(SqliteReader::new(schema).enqueued).await.map_err(sqlite::failed)?;
            rows.iter().map(|row| sqlite_row(row).map_err(sqlite::failed)?.message()).collect()
        }
    }
}

fn message(row: &QueryResult) -> Result<EnqueuedMessage, DbErr> {
    Ok(EnqueuedMessage {
        id: row.try_get_by_index(0)?,
        topic: row.try_get_by_index(1)?,
        key: row.try_get_by_index(2)?,
        payload: row.try_get_by_index(3)?,
        content_type: row.try_get_by_index(4)?,
        headers: pairs(row.try_get_by_index(5)?),
        correlation_id: row.try_get_by_index(6)?,
        deliver_at: row.try_get_by_index::<Option<i64>>(7)?.map(Timestamp),
    })
}

fn sqlite_row(row: &QueryResult) -> Result<SqliteRow, DbErr> {
    Ok(SqliteRow {
        id: row.try_get_by_index(0)?,
        topic: row.try_get_by_index(1)?,
        key: row.try_get_by_index(2)?,
        payload: row.try_get_by_index(3)?,
        content_type: row.try_get_by_index(4)?,
        headers: row.try_get_by_index(5)?,
        correlation_id: row.try_get_by_index(6)?,
        due: row.try_get_by_index(7)?,
    })
}
