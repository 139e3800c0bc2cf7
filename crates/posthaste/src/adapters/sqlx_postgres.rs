//! sqlx with PostgreSQL: hand over `&mut *transaction`, or `&mut connection`.
//!
//! sqlx cannot send an unnamed statement in one round trip, and a named one does not survive a
//! pooler in transaction mode. So the adapter follows the connection: where sqlx already caches
//! statements of yours, the enqueue is cached too and costs one round trip from its second use on;
//! where it caches none (`persistent(false)`, as such a pooler needs), the enqueue is unnamed and
//! costs two.
//!
//! # Cancellation
//! Dropping a `sqlx::Transaction` rolls it back before its connection is used again. In sqlx
//! 0.9.0, however, a *cancelled* `Pool::begin()` can return a connection to the pool with a
//! transaction open on it. Keep `begin` itself out of `select!` and time-outs: acquire the
//! connection under the time-out, and begin on it afterwards.
//!
//! # Examples
//! ```no_run
//! # use posthaste::{Message, Outbox};
//! # async fn example(outbox: Outbox, pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
//! let mut transaction = pool.begin().await?;
//! sqlx::query("insert into orders (id) values (17)").execute(&mut *transaction).await?;
//! outbox.enqueue(&mut *transaction, &Message::new("orders.created").text("17")).await?;
//! transaction.commit().await?;
//! # Ok(())
//! # }
//! ```

use posthaste_core::MessageId;
use sqlx::{
    AssertSqlSafe, Connection as _, Error, PgConnection, Postgres, Row as _,
    postgres::{PgArguments, PgQueryResult, PgRow},
    query::Query,
};

use super::{columns::Columns, refuse_answered};
use crate::{
    EnqueueError, EnqueueErrorKind, Entry, Statements, Writer,
    caller::{Answer, Caller, Value},
    encode::header_pairs,
};

impl Writer for &mut PgConnection {
    async fn write(
        &mut self,
        statements: &Statements,
        entries: &[Entry<'_>],
    ) -> Result<(), EnqueueError> {
        let query = match entries {
            [entry] => insert(&statements.postgres.insert, *entry),
            _ => arrays(&statements.postgres.insert_many, Columns::of(entries)),
        };
        execute(self, query).await.map(drop).map_err(failed)
    }

    async fn write_each(
        &mut self,
        statements: &Statements,
        entries: &[Entry<'_>],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        let columns = Columns::of(entries);
        let tokens: Vec<Option<String>> =
            columns.tokens.iter().map(|token| token.map(str::to_owned)).collect();
        let dues = columns.dues.clone();
        let query = arrays(&statements.postgres.write_each, columns).bind(tokens).bind(dues);
        let rows = fetch(self, query).await;
        rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect()).map_err(failed)
    }

    async fn cancel(
        &mut self,
        statements: &Statements,
        id: MessageId,
    ) -> Result<bool, EnqueueError> {
        let rows = fetch(self, sql(&statements.postgres.cancel).bind(id)).await;
        let answer = rows.and_then(|rows| rows.first().map(|row| row.try_get(0)).transpose());
        answer.map(Option::unwrap_or_default).map_err(failed)
    }

    async fn lock_keys(
        &mut self,
        statements: &Statements,
        keys: &[&str],
    ) -> Result<(), EnqueueError> {
        let keys: Vec<String> = keys.iter().map(|key| (*key).to_owned()).collect();
        let query = sql(&statements.postgres.lock_keys).bind(keys);
        execute(self, query).await.map(drop).map_err(failed)
    }

    async fn handle_once(
        &mut self,
        statements: &Statements,
        consumer: &str,
        id: MessageId,
    ) -> Result<bool, EnqueueError> {
        let query = sql(&statements.postgres.handle_once).bind(consumer.to_owned()).bind(id);
        let rows = fetch(self, query).await;
        let answer = rows.and_then(|rows| rows.first().map(|row| row.try_get(0)).transpose());
        answer.map(Option::unwrap_or_default).map_err(failed)
    }

    async fn handle_many(
        &mut self,
        statements: &Statements,
        consumer: &str,
        ids: &[MessageId],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        let query = sql(&statements.postgres.handle_many).bind(consumer.to_owned());
        let rows = fetch(self, query.bind(ids.to_vec())).await;
        rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect()).map_err(failed)
    }

    async fn abort(&mut self, statements: &Statements, reason: &str) -> Result<(), EnqueueError> {
        match execute(self, sql(&statements.postgres.refuse).bind(reason)).await {
            Ok(_) => Err(refuse_answered()),
            // Any error of the server aborts, also "there is no such function".
            Err(Error::Database(_) | Error::Io(_)) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

impl Caller for &mut PgConnection {
    fn is_sqlite(&self) -> Result<bool, EnqueueError> {
        Ok(false)
    }

    async fn call(
        &mut self,
        text: &str,
        values: &[Value<'_>],
    ) -> Result<Option<Answer>, EnqueueError> {
        let query = values.iter().fold(sql(text), |query, value| match value {
            Value::Text(text) => query.bind(text.map(str::to_owned)),
            Value::Bytes(bytes) => query.bind(bytes.to_vec()),
            Value::Id(id) => query.bind(*id),
            Value::Number(number) => query.bind(*number),
        });
        let rows = fetch(self, query).await.map_err(failed)?;
        rows.first().map(answer).transpose().map_err(failed)
    }
}

fn answer(row: &PgRow) -> Result<Answer, Error> {
    Ok(Answer { text: row.try_get(0)?, bytes: row.try_get(1)?, number: row.try_get(2)? })
}

type Statement = Query<'static, Postgres, PgArguments>;

/// The text holds no value: its only variable part is the schema's validated name.
fn sql(statement: &str) -> Statement {
    sqlx::query(AssertSqlSafe(statement))
}

async fn execute(connection: &mut PgConnection, query: Statement) -> Result<PgQueryResult, Error> {
    let cached = connection.cached_statements_size() > 0;
    query.persistent(cached).execute(connection).await
}

async fn fetch(connection: &mut PgConnection, query: Statement) -> Result<Vec<PgRow>, Error> {
    let cached = connection.cached_statements_size() > 0;
    query.persistent(cached).fetch_all(connection).await
}

fn insert(statement: &str, Entry { id, message }: Entry<'_>) -> Statement {
    sql(statement)
        .bind(id)
        .bind(message.topic())
        .bind(message.ordering_key())
        .bind(message.payload())
        .bind(message.media_type())
        .bind(header_pairs(message))
        .bind(message.correlation())
}

/// With the parameters of `insert_many`.
fn arrays(statement: &str, columns: Columns<'_>) -> Statement {
    sql(statement)
        .bind(columns.ids)
        .bind(columns.topics)
        .bind(columns.keys)
        .bind(columns.payloads)
        .bind(columns.content_types)
        .bind(columns.headers)
        .bind(columns.correlation_ids)
}

pub(crate) fn failed(error: Error) -> EnqueueError {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let kind = match (code, &error) {
        (Some(code), _) => EnqueueErrorKind::from_sqlstate(&code),
        (None, Error::Io(_)) => EnqueueErrorKind::Unavailable,
        (None, _) => EnqueueErrorKind::Database,
    };
    EnqueueError::new(kind, error)
}
