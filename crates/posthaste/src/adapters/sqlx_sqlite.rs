//! sqlx with SQLite: hand over `&mut *transaction`, or `&mut connection`.
//!
//! The statement stays prepared on the connection. SQLite keeps a transaction going after a failed
//! statement, so a failed enqueue poisons it: a row with a deferred foreign key that can never
//! hold makes `commit` fail. That needs `pragma foreign_keys`, which sqlx switches on by default.
//! Where it is off, or the schema is missing, the transaction is rolled back at once instead;
//! `commit` fails then too, but what the caller writes after the error no longer stands in a
//! transaction. Return on the error.
//!
//! Rolling back to a savepoint from before the failed enqueue takes the poison along.
//!
//! Begin with `begin_with("begin immediate")`: a transaction that reads first and enqueues later
//! can otherwise fail because another writer was faster (<https://sqlite.org/lang_transaction.html>).
//! Keep `Pool::begin` out of `select!` and time-outs: see [`sqlx_postgres`](super), where the
//! same release of sqlx has the same hazard.
//!
//! # Examples
//! ```no_run
//! # use posthaste::{Message, Outbox};
//! # async fn example(outbox: Outbox, pool: sqlx::SqlitePool) -> Result<(), Box<dyn std::error::Error>> {
//! let mut transaction = pool.begin_with("begin immediate").await?;
//! sqlx::query("insert into orders (id) values (17)").execute(&mut *transaction).await?;
//! outbox.enqueue(&mut *transaction, &Message::new("orders.created").text("17")).await?;
//! transaction.commit().await?;
//! # Ok(())
//! # }
//! ```

use posthaste_core::{HeaderObject, MessageId};
use posthaste_store::statements::SqliteWriter;
use sqlx::{
    AssertSqlSafe, Error, Row as _, Sqlite, SqliteConnection,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use super::{NO_TRANSACTION, sqlite_kind};
use crate::{
    EnqueueError, EnqueueErrorKind, Entry, Statements, Writer,
    caller::{Answer, Caller, Value},
};

impl Writer for &mut SqliteConnection {
    async fn write(
        &mut self,
        statements: &Statements,
        entries: &[Entry<'_>],
    ) -> Result<(), EnqueueError> {
        for entry in entries {
            let written = insert(&statements.sqlite.insert, entry).execute(&mut **self).await;
            written.map_err(failed)?;
        }
        Ok(())
    }

    async fn write_each(
        &mut self,
        statements: &Statements,
        entries: &[Entry<'_>],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        let mut ids = Vec::with_capacity(entries.len());
        for entry in entries {
            ids.push(write_one(self, &statements.sqlite, entry).await.map_err(failed)?);
        }
        Ok(ids)
    }

    async fn cancel(
        &mut self,
        statements: &Statements,
        id: MessageId,
    ) -> Result<bool, EnqueueError> {
        let cancel = sqlx::query(AssertSqlSafe(statements.sqlite.cancel.as_str()));
        let cancelled = cancel.bind(id.as_bytes().as_slice()).execute(&mut **self).await;
        Ok(cancelled.map_err(failed)?.rows_affected() > 0)
    }

    /// Nothing: one transaction writes at a time.
    async fn lock_keys(&mut self, _: &Statements, _: &[&str]) -> Result<(), EnqueueError> {
        Ok(())
    }

    async fn handle_once(
        &mut self,
        statements: &Statements,
        consumer: &str,
        id: MessageId,
    ) -> Result<bool, EnqueueError> {
        let handle = sqlx::query(AssertSqlSafe(statements.sqlite.handle_once.as_str()));
        let handle = handle.bind(consumer).bind(id.as_bytes().as_slice());
        let handled = handle.execute(&mut **self).await.map_err(failed)?;
        Ok(handled.rows_affected() > 0)
    }

    async fn handle_many(
        &mut self,
        statements: &Statements,
        consumer: &str,
        ids: &[MessageId],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        let mut fresh = Vec::with_capacity(ids.len());
        for id in ids {
            if self.handle_once(statements, consumer, *id).await? {
                fresh.push(*id);
            }
        }
        Ok(fresh)
    }

    async fn abort(&mut self, statements: &Statements, _reason: &str) -> Result<(), EnqueueError> {
        if poison(self, &statements.sqlite.refuse).await.is_ok_and(|poisoned| poisoned) {
            return Ok(());
        }
        match sqlx::query(SqliteWriter::ROLLBACK).execute(&mut **self).await {
            Ok(_) => Ok(()),
            // On a bare connection, where every statement stands alone.
            Err(Error::Database(error)) if error.message().contains(NO_TRANSACTION) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

impl Caller for &mut SqliteConnection {
    fn is_sqlite(&self) -> Result<bool, EnqueueError> {
        Ok(true)
    }

    async fn call(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<Option<Answer>, EnqueueError> {
        let query = sqlx::query(AssertSqlSafe(sql));
        let query = values.iter().fold(query, |query, value| match value {
            Value::Text(text) => query.bind(text.map(str::to_owned)),
            Value::Bytes(bytes) => query.bind(bytes.to_vec()),
            Value::Id(id) => query.bind(id.as_bytes().to_vec()),
            Value::Number(number) => query.bind(*number),
        });
        let row = query.fetch_optional(&mut **self).await.map_err(failed)?;
        row.as_ref().map(answer).transpose().map_err(failed)
    }
}

fn answer(row: &SqliteRow) -> Result<Answer, Error> {
    Ok(Answer { text: row.try_get(0)?, bytes: row.try_get(1)?, number: row.try_get(2)? })
}

/// Whether the poison could be and was written. Fails outside a transaction: there the foreign key
/// is checked at once.
async fn poison(connection: &mut SqliteConnection, refuse: &str) -> Result<bool, Error> {
    let keys = sqlx::query_scalar(SqliteWriter::FOREIGN_KEYS).fetch_one(&mut *connection);
    let foreign_keys: i64 = keys.await?;
    if foreign_keys != 1 {
        return Ok(false);
    }
    sqlx::query(AssertSqlSafe(refuse)).execute(connection).await.map(|_| true)
}

/// The text holds no value: its only variable part is the schema's validated name.
fn insert<'a>(
    statement: &str,
    Entry { id, message }: &'a Entry<'_>,
) -> Query<'a, Sqlite, SqliteArguments> {
    sqlx::query(AssertSqlSafe(statement))
        .bind(id.as_bytes().as_slice())
        .bind(message.topic())
        .bind(message.ordering_key())
        .bind(message.payload())
        .bind(message.media_type())
        .bind(HeaderObject(message.header_pairs()).to_string())
        .bind(message.correlation())
}

/// Writes one message unless its token was used before, and answers the id that stands for it.
async fn write_one(
    connection: &mut SqliteConnection,
    statements: &SqliteWriter,
    entry: &Entry<'_>,
) -> Result<MessageId, Error> {
    let token = entry.message.idempotency_token();
    let due = entry.message.due().map(|due| due.0);
    let write = insert(&statements.write_one, entry).bind(token).bind(due);
    write.execute(&mut *connection).await?;
    let Some(token) = token else { return Ok(entry.id) };
    let first = sqlx::query_scalar(AssertSqlSafe(statements.token_id.as_str())).bind(token);
    let id: Vec<u8> = first.fetch_one(connection).await?;
    MessageId::from_slice(&id).map_err(|error| Error::Decode(error.into()))
}

pub(crate) fn failed(error: Error) -> EnqueueError {
    let kind = match error.as_database_error() {
        // sqlx reports SQLite's extended result code as a decimal number.
        Some(fault) => {
            let code = fault.code().and_then(|code| code.parse().ok());
            sqlite_kind(code.unwrap_or_default(), fault.message())
        }
        None => EnqueueErrorKind::Database,
    };
    EnqueueError::new(kind, error)
}
