//! The calls of the adapter where the database is PostgreSQL.

use ::sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement, Value, sqlx};
use posthaste_core::MessageId;
use posthaste_store::statements::{PostgresWriter, nullable_array_literal};

use super::cause;
use crate::{
    EnqueueError, EnqueueErrorKind, Entry,
    adapters::{columns::Columns, refuse_answered},
    caller,
    encode::header_pairs,
};

pub(super) async fn write(
    connection: &impl ConnectionTrait,
    statements: &PostgresWriter,
    entries: &[Entry<'_>],
) -> Result<(), EnqueueError> {
    let statement = match entries {
        [entry] => statement(&statements.insert, values(*entry)),
        _ => statement(&statements.insert_many, arrays(Columns::of(entries))),
    };
    connection.execute_raw(statement).await.map(drop).map_err(failed)
}

pub(super) async fn write_each(
    connection: &impl ConnectionTrait,
    statements: &PostgresWriter,
    entries: &[Entry<'_>],
) -> Result<Vec<MessageId>, EnqueueError> {
    let columns = Columns::of(entries);
    let tokens = nullable_texts(&columns.tokens);
    let times = columns.dues.iter().map(|due| due.map(|due| due.to_string()));
    let dues = nullable_array_literal(times).into();
    let mut values = arrays(columns);
    values.extend([tokens, dues]);
    let rows = connection.query_all_raw(statement(&statements.write_each, values)).await;
    rows.and_then(|rows| rows.iter().map(|row| row.try_get_by_index(0)).collect()).map_err(failed)
}

pub(super) async fn cancel(
    connection: &impl ConnectionTrait,
    statements: &PostgresWriter,
    id: MessageId,
) -> Result<bool, EnqueueError> {
    let row = connection.query_one_raw(statement(&statements.cancel, vec![id.into()])).await;
    let answer = row.and_then(|row| row.map(|row| row.try_get_by_index(0)).transpose());
    answer.map(Option::unwrap_or_default).map_err(failed)
}

pub(super) async fn lock_keys(
    connection: &impl ConnectionTrait,
    statements: &PostgresWriter,
    keys: &[&str],
) -> Result<(), EnqueueError> {
    let lock = statement(&statements.lock_keys, vec![texts(keys)]);
    connection.execute_raw(lock).await.map(drop).map_err(failed)
}

pub(super) async fn handle_once(
    connection: &impl ConnectionTrait,
    statements: &PostgresWriter,
    consumer: &str,
    id: MessageId,
) -> Result<bool, EnqueueError> {
    let values = vec![consumer.into(), id.into()];
    let row = connection.query_one_raw(statement(&statements.handle_once, values)).await;
    let answer = row.and_then(|row| row.map(|row| row.try_get_by_index(0)).transpose());
    answer.map(Option::unwrap_or_default).map_err(failed)
}

pub(super) async fn handle_many(
    connection: &impl ConnectionTrait,
    statements: &PostgresWriter,
    consumer: &str,
    ids: &[MessageId],
) -> Result<Vec<MessageId>, EnqueueError> {
    let values = vec![consumer.into(), ids.to_vec().into()];
    let rows = connection.query_all_raw(statement(&statements.handle_many, values)).await;
    rows.and_then(|rows| rows.iter().map(|row| row.try_get_by_index(0)).collect()).map_err(failed)
}

pub(super) async fn abort(
    connection: &impl ConnectionTrait,
    statements: &PostgresWriter,
    reason: &str,
) -> Result<(), EnqueueError> {
    let refused = connection.execute_raw(statement(&statements.refuse, vec![reason.into()])).await;
    match refused {
        Ok(_) => Err(refuse_answered()),
        Err(error) => match cause(&error) {
            // Any error of the server aborts, also "there is no such function".
            Some(sqlx::Error::Database(_) | sqlx::Error::Io(_)) => Ok(()),
            _ => Err(failed(error)),
        },
    }
}

/// A command's statement.
pub(super) fn call(sql: &str, values: &[caller::Value<'_>]) -> Statement {
    let values = values.iter().map(|value| match value {
        caller::Value::Text(text) => (*text).into(),
        caller::Value::Bytes(bytes) => (*bytes).into(),
        caller::Value::Id(id) => (*id).into(),
        caller::Value::Number(number) => (*number).into(),
    });
    statement(sql, values.collect())
}

fn statement(sql: &str, values: Vec<Value>) -> Statement {
    Statement::from_sql_and_values(DbBackend::Postgres, sql, values)
}

/// The parameters of `insert`.
fn values(Entry { id, message }: Entry<'_>) -> Vec<Value> {
    vec![
        id.into(),
        message.topic().into(),
        message.ordering_key().into(),
        message.payload().into(),
        message.media_type().into(),
        texts(&header_pairs(message)),
        message.correlation().into(),
    ]
}

/// The parameters of `insert_many`.
fn arrays(columns: Columns<'_>) -> Vec<Value> {
    let payloads: Vec<Vec<u8>> = columns.payloads.into_iter().map(<[u8]>::to_vec).collect();
    vec![
        columns.ids.into(),
        texts(&columns.topics),
        nullable_texts(&columns.keys),
        payloads.into(),
        texts(&columns.content_types),
        columns.headers.into(),
        nullable_texts(&columns.correlation_ids),
    ]
}

fn texts(texts: &[&str]) -> Value {
    texts.iter().map(|text| (*text).to_owned()).collect::<Vec<String>>().into()
}

/// As one text, which the statement casts: sea-orm's arrays cannot hold a null.
fn nullable_texts(texts: &[Option<&str>]) -> Value {
    nullable_array_literal(texts.iter().copied()).into()
}

pub(crate) fn failed(error: DbErr) -> EnqueueError {
    let kind = match cause(&error) {
        Some(sqlx::Error::Database(fault)) => fault
            .code()
            .map_or(EnqueueErrorKind::Database, |code| EnqueueErrorKind::from_sqlstate(&code)),
        Some(sqlx::Error::Io(_)) => EnqueueErrorKind::Unavailable,
        _ if matches!(error, DbErr::ConnectionAcquire(_)) => EnqueueErrorKind::Unavailable,
        _ => EnqueueErrorKind::Database,
    };
    EnqueueError::new(kind, error)
}
