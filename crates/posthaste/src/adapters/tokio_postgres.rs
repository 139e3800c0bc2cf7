//! tokio-postgres: hand over `&transaction`, or `&client` for a message in a transaction of its own.
//!
//! Every enqueue is one round trip: the statement goes out unnamed, with its parameter types and
//! values, in one piece. Nothing stays prepared on the server, so a pooler in transaction mode
//! (pgbouncer) needs no setting.
//!
//! Dropping a [`Transaction`] queues its rollback, also when the future that held it was cancelled.
//!
//! # Examples
//! ```no_run
//! # use posthaste::{EnqueueError, Message, Outbox};
//! # async fn example(outbox: Outbox, client: &mut tokio_postgres::Client) -> Result<(), Box<dyn std::error::Error>> {
//! let transaction = client.transaction().await?;
//! transaction.execute("insert into orders (id) values (17)", &[]).await?;
//! outbox.enqueue(&transaction, &Message::new("orders.created").text("17")).await?;
//! transaction.commit().await?;
//! # Ok(())
//! # }
//! ```

use std::{error::Error as _, io};

use ::tokio_postgres::{
    Client, Error, GenericClient, Row, Transaction,
    types::{ToSql, Type},
};

use posthaste_core::MessageId;

use super::{columns::Columns, refuse_answered};
use crate::{
    EnqueueError, EnqueueErrorKind, Entry, Statements, Writer,
    caller::{Answer, Caller, Value},
    encode::header_pairs,
};

type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// What an enqueue can be handed a reference to: something that is, or holds, one of tokio-postgres'
/// connections. Implement it for a wrapper of your own to enqueue through that.
pub trait Connection: Sync {
    /// tokio-postgres' own type.
    type Client: GenericClient + Sync;

    /// The connection itself.
    fn client(&self) -> &Self::Client;
}

impl Connection for Client {
    type Client = Self;

    fn client(&self) -> &Self {
        self
    }
}

impl Connection for Transaction<'_> {
    type Client = Self;

    fn client(&self) -> &Self {
        self
    }
}

impl<C: Connection> Writer for &C {
    async fn write(
        &mut self,
        statements: &Statements,
        entries: &[Entry<'_>],
    ) -> Result<(), EnqueueError> {
        match entries {
            [entry] => insert(self.client(), &statements.postgres.insert, *entry).await,
            _ => insert_many(self.client(), &statements.postgres.insert_many, entries).await,
        }
    }

    async fn write_each(
        &mut self,
        statements: &Statements,
        entries: &[Entry<'_>],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        let columns = Columns::of(entries);
        let mut parameters = arrays(&columns).to_vec();
        parameters.push((&columns.tokens, Type::TEXT_ARRAY));
        parameters.push((&columns.dues, Type::INT8_ARRAY));
        let rows = self.client().query_typed(&statements.postgres.write_each, &parameters).await;
        rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect()).map_err(failed)
    }

    async fn cancel(
        &mut self,
        statements: &Statements,
        id: MessageId,
    ) -> Result<bool, EnqueueError> {
        let parameters: &[Parameter<'_>] = &[(&id, Type::UUID)];
        let rows = self.client().query_typed(&statements.postgres.cancel, parameters).await;
        Ok(rows.map_err(failed)?.first().is_some_and(|row| row.get(0)))
    }

    async fn lock_keys(
        &mut self,
        statements: &Statements,
        keys: &[&str],
    ) -> Result<(), EnqueueError> {
        let parameters: &[Parameter<'_>] = &[(&keys, Type::TEXT_ARRAY)];
        let locked = self.client().execute_typed(&statements.postgres.lock_keys, parameters).await;
        locked.map(drop).map_err(failed)
    }

    async fn handle_once(
        &mut self,
        statements: &Statements,
        consumer: &str,
        id: MessageId,
    ) -> Result<bool, EnqueueError> {
        let parameters: &[Parameter<'_>] = &[(&consumer, Type::TEXT), (&id, Type::UUID)];
        let rows = self.client().query_typed(&statements.postgres.handle_once, parameters).await;
        Ok(rows.map_err(failed)?.first().is_some_and(|row| row.get(0)))
    }

    async fn handle_many(
        &mut self,
        statements: &Statements,
        consumer: &str,
        ids: &[MessageId],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        let parameters: &[Parameter<'_>] = &[(&consumer, Type::TEXT), (&ids, Type::UUID_ARRAY)];
        let rows = self.client().query_typed(&statements.postgres.handle_many, parameters).await;
        rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect()).map_err(failed)
    }

    async fn abort(&mut self, statements: &Statements, reason: &str) -> Result<(), EnqueueError> {
        let parameters: &[Parameter<'_>] = &[(&reason, Type::TEXT)];
        match self.client().execute_typed(&statements.postgres.refuse, parameters).await {
            Ok(_) => Err(refuse_answered()),
            // Any error of the server aborts, also "there is no such function".
            Err(error) if error.as_db_error().is_some() || is_lost(&error) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }
}

impl<C: Connection> Caller for &C {
    fn is_sqlite(&self) -> Result<bool, EnqueueError> {
        Ok(false)
    }

    async fn call(
        &mut self,
        sql: &str,
        values: &[Value<'_>],
    ) -> Result<Option<Answer>, EnqueueError> {
        let parameters: Vec<Parameter<'_>> = values.iter().map(parameter).collect();
        let rows = self.client().query_typed(sql, &parameters).await.map_err(failed)?;
        rows.first().map(answer).transpose().map_err(failed)
    }
}

fn parameter<'a>(value: &'a Value<'_>) -> Parameter<'a> {
    match value {
        Value::Text(text) => (text, Type::TEXT),
        Value::Bytes(bytes) => (bytes, Type::BYTEA),
        Value::Id(id) => (id, Type::UUID),
        Value::Number(number) => (number, Type::INT8),
    }
}

fn answer(row: &Row) -> Result<Answer, Error> {
    Ok(Answer { text: row.try_get(0)?, bytes: row.try_get(1)?, number: row.try_get(2)? })
}

async fn insert<C: GenericClient + Sync>(
    client: &C,
    statement: &str,
    Entry { id, message }: Entry<'_>,
) -> Result<(), EnqueueError> {
    let parameters: &[Parameter<'_>] = &[
        (&id, Type::UUID),
        (&message.topic(), Type::TEXT),
        (&message.ordering_key(), Type::TEXT),
        (&message.payload(), Type::BYTEA),
        (&message.media_type(), Type::TEXT),
        (&header_pairs(message), Type::TEXT_ARRAY),
        (&message.correlation(), Type::TEXT),
    ];
    client.execute_typed(statement, parameters).await.map(drop).map_err(failed)
}

async fn insert_many<C: GenericClient + Sync>(
    client: &C,
    statement: &str,
    entries: &[Entry<'_>],
) -> Result<(), EnqueueError> {
    let columns = Columns::of(entries);
    client.execute_typed(statement, &arrays(&columns)).await.map(drop).map_err(failed)
}

/// The parameters of `insert_many`.
fn arrays<'a>(columns: &'a Columns<'_>) -> [Parameter<'a>; 7] {
    [
        (&columns.ids, Type::UUID_ARRAY),
        (&columns.topics, Type::TEXT_ARRAY),
        (&columns.keys, Type::TEXT_ARRAY),
        (&columns.payloads, Type::BYTEA_ARRAY),
        (&columns.content_types, Type::TEXT_ARRAY),
        (&columns.headers, Type::TEXT_ARRAY),
        (&columns.correlation_ids, Type::TEXT_ARRAY),
    ]
}

pub(crate) fn failed(error: Error) -> EnqueueError {
    let kind = match error.code() {
        Some(code) => EnqueueErrorKind::from_sqlstate(code.code()),
        None if is_lost(&error) => EnqueueErrorKind::Unavailable,
        None => EnqueueErrorKind::Database,
    };
    EnqueueError::new(kind, error)
}

fn is_lost(error: &Error) -> bool {
    error.is_closed() || error.source().is_some_and(<dyn std::error::Error>::is::<io::Error>)
}
