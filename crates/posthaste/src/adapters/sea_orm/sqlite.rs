//! The calls of the adapter where the database is SQLite.

use ::sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement, Value, sqlx};
use posthaste_core::{HeaderObject, MessageId};
use posthaste_store::statements::SqliteWriter;

use super::cause;
use crate::{
    EnqueueError, EnqueueErrorKind, Entry,
    adapters::{NO_TRANSACTION, sqlite_kind},
    caller,
};

pub(super) async fn write(
    connection: &impl ConnectionTrait,
    statements: &SqliteWriter,
    entries: &[Entry<'_>],
) -> Result<(), EnqueueError> {
    for entry in entries {
        let insert = statement(&statements.insert, values(*entry));
        connection.execute_raw(insert).await.map_err(failed)?;
    }
    Ok(())
}

pub(super) async fn write_each(
    connection: &impl ConnectionTrait,
    statements: &SqliteWriter,
    entries: &[Entry<'_>],
) -> Result<Vec<MessageId>, EnqueueError> {
    let mut ids = Vec::with_capacity(entries.len());
    for entry in entries {
        ids.push(write_one(connection, statements, *entry).await.map_err(failed)?);
    }
    Ok(ids)
}

/// Writes one message unless its token was used before, and answers the id that stands for it.
async fn write_one(
    connection: &impl ConnectionTrait,
    statements: &SqliteWriter,
    entry: Entry<'_>,
) -> Result<MessageId, DbErr> {
    let token = entry.message.idempotency_token();
    let mut values = values(entry);
    values.extend([token.into(), entry.message.due().map(|due| due.0).into()]);
    connection.execute_raw(statement(&statements.write_one, values)).await?;
    let Some(token) = token else { return Ok(entry.id) };
    let first = statement(&statements.token_id, vec![token.into()]);
    match connection.query_one_raw(first).await? {
        Some(row) => row.try_get_by_index(0),
        None => Err(DbErr::RecordNotFound("the token that was just written".to_owned())),
    }
}

pub(super) async fn cancel(
    connection: &impl ConnectionTrait,
    statements: &SqliteWriter,
    id: MessageId,
) -> Result<bool, EnqueueError> {
    let cancel = statement(&statements.cancel, vec![blob(id)]);
    connection.execute_raw(cancel).await.map(|done| done.rows_affected() > 0).map_err(failed)
}

pub(super) async fn handle_once(
    connection: &impl ConnectionTrait,
    statements: &SqliteWriter,
    consumer: &str,
    id: MessageId,
) -> Result<bool, EnqueueError> {
    let handle = statement(&statements.handle_once, vec![consumer.into(), blob(id)]);
    connection.execute_raw(handle).await.map(|done| done.rows_affected() > 0).map_err(failed)
}

pub(super) async fn handle_many(
    connection: &impl ConnectionTrait,
    statements: &SqliteWriter,
    consumer: &str,
    ids: &[MessageId],
) -> Result<Vec<MessageId>, EnqueueError> {
    let mut fresh = Vec::with_capacity(ids.len());
    for id in ids {
        if handle_once(connection, statements, consumer, *id).await? {
            fresh.push(*id);
        }
    }
    Ok(fresh)
}

pub(super) async fn abort(
    connection: &impl ConnectionTrait,
    statements: &SqliteWriter,
) -> Result<(), EnqueueError> {
    if poison(connection, &statements.refuse).await.is_ok_and(|poisoned| poisoned) {
        return Ok(());
    }
    match connection.execute_unprepared(SqliteWriter::ROLLBACK).await {
        Ok(_) => Ok(()),
        Err(error) => match cause(&error) {
            // Outside a transaction, where every statement stands alone.
            Some(sqlx::Error::Database(fault)) if fault.message().contains(NO_TRANSACTION) => {
                Ok(())
            }
            _ => Err(failed(error)),
        },
    }
}

/// Whether the poison could be and was written. Fails outside a transaction: there the foreign key
/// is checked at once.
async fn poison(connection: &impl ConnectionTrait, refuse: &str) -> Result<bool, DbErr> {
    let asked = statement(SqliteWriter::FOREIGN_KEYS, Vec::new());
    let row = connection.query_one_raw(asked).await?;
    let foreign_keys: Option<i32> = row.map(|row| row.try_get_by_index(0)).transpose()?;
    if foreign_keys != Some(1) {
        return Ok(false);
    }
    connection.execute_unprepared(refuse).await.map(|_| true)
}

/// A command's statement.
pub(super) fn call(sql: &str, values: &[caller::Value<'_>]) -> Statement {
    let values = values.iter().map(|value| match value {
        caller::Value::Text(text) => (*text).into(),
        caller::Value::Bytes(bytes) => (*bytes).into(),
        caller::Value::Id(id) => blob(*id),
        caller::Value::Number(number) => (*number).into(),
    });
    statement(sql, values.collect())
}

fn statement(sql: &str, values: Vec<Value>) -> Statement {
    Statement::from_sql_and_values(DbBackend::Sqlite, sql, values)
}

/// The parameters of `insert`.
fn values(Entry { id, message }: Entry<'_>) -> Vec<Value> {
    vec![
        blob(id),
        message.topic().into(),
        message.ordering_key().into(),
        message.payload().into(),
        message.media_type().into(),
        HeaderObject(message.header_pairs()).to_string().into(),
        message.correlation().into(),
    ]
}

fn blob(id: MessageId) -> Value {
    id.as_bytes().as_slice().into()
}

pub(crate) fn failed(error: DbErr) -> EnqueueError {
    let kind = match cause(&error) {
        Some(sqlx::Error::Database(fault)) => {
            // sqlx reports SQLite's extended result code as a decimal number.
            let code = fault.code().and_then(|code| code.parse().ok());
            sqlite_kind(code.unwrap_or_default(), fault.message())
        }
        _ => EnqueueErrorKind::Database,
    };
    EnqueueError::new(kind, error)
}
