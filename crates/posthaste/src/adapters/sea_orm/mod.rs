//! sea-orm: hand over `&transaction`, or `&database` for a message in a transaction of its own. On
//! PostgreSQL and on SQLite.
//!
//! It runs on sqlx, with sqlx's hazard: keep `begin` out of `select!` and time-outs, because a cancelled
//! one can return a connection to the pool with a transaction open on it.
//!
//! On PostgreSQL every statement is prepared under a name, as all of sea-orm's are: one round trip from
//! its second use on a connection on, and a pooler in transaction mode must be one that carries named
//! statements.
//!
//! On SQLite a failed enqueue poisons the transaction, so that `commit` fails; where `pragma
//! foreign_keys` is off (sqlx switches it on), the transaction is rolled back at once instead.
//!
//! Begin with `SqliteTransactionMode::Immediate` there: a transaction that reads first and enqueues
//! later can fail because another writer was faster.
//!
//! # Examples
//! ```no_run
//! # use posthaste::{Message, Outbox};
//! # async fn example(outbox: Outbox, database: sea_orm::DatabaseConnection) -> Result<(), Box<dyn std::error::Error>> {
//! use sea_orm::{ConnectionTrait, TransactionTrait};
//!
//! let transaction = database.begin().await?;
//! transaction.execute_unprepared("insert into orders (id) values (17)").await?;
//! outbox.enqueue(&transaction, &Message::new("orders.created").text("17")).await?;
//! transaction.commit().await?;
//! # Ok(())
//! # }
//! ```

pub(crate) mod postgres;
pub(crate) mod sqlite;

use ::sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, QueryResult,
    RuntimeErr, sqlx,
};
use posthaste_core::MessageId;

use crate::{
    EnqueueError, EnqueueErrorKind, Entry, Statements, Writer,
    caller::{Answer, Caller, Value},
};

/// Its two connections share a trait, but an implementation for whatever has it would stand in the
/// way of the other adapters'.
macro_rules! writer {
    ($($connection:ty)*) => {$(
        impl Writer for &$connection {
            async fn write(
                &mut self,
                statements: &Statements,
                entries: &[Entry<'_>],
            ) -> Result<(), EnqueueError> {
                match database(*self)? {
                    Database::Postgres => postgres::write(*self, &statements.postgres, entries).await,
                    Database::Sqlite => sqlite::write(*self, &statements.sqlite, entries).await,
                }
            }

            async fn write_each(
                &mut self,
                statements: &Statements,
                entries: &[Entry<'_>],
            ) -> Result<Vec<MessageId>, EnqueueError> {
                match database(*self)? {
                    Database::Postgres => postgres::write_each(*self, &statements.postgres, entries).await,
                    Database::Sqlite => sqlite::write_each(*self, &statements.sqlite, entries).await,
                }
            }

            async fn cancel(
                &mut self,
                statements: &Statements,
                id: MessageId,
            ) -> Result<bool, EnqueueError> {
                match database(*self)? {
                    Database::Postgres => postgres::cancel(*self, &statements.postgres, id).await,
                    Database::Sqlite => sqlite::cancel(*self, &statements.sqlite, id).await,
                }
            }

            async fn lock_keys(
                &mut self,
                statements: &Statements,
                keys: &[&str],
            ) -> Result<(), EnqueueError> {
                match database(*self)? {
                    Database::Postgres => postgres::lock_keys(*self, &statements.postgres, keys).await,
                    // One transaction writes at a time.
                    Database::Sqlite => Ok(()),
                }
            }

            async fn handle_once(
                &mut self,
                statements: &Statements,
                consumer: &str,
                id: MessageId,
            ) -> Result<bool, EnqueueError> {
                match database(*self)? {
                    Database::Postgres => {
                        postgres::handle_once(*self, &statements.postgres, consumer, id).await
                    }
                    Database::Sqlite => {
                        sqlite::handle_once(*self, &statements.sqlite, consumer, id).await
                    }
                }
            }

            async fn handle_many(
                &mut self,
                statements: &Statements,
                consumer: &str,
                ids: &[MessageId],
            ) -> Result<Vec<MessageId>, EnqueueError> {
                match database(*self)? {
                    Database::Postgres => {
                        postgres::handle_many(*self, &statements.postgres, consumer, ids).await
                    }
                    Database::Sqlite => {
                        sqlite::handle_many(*self, &statements.sqlite, consumer, ids).await
                    }
                }
            }

            async fn abort(&mut self, statements: &Statements, reason: &str) -> Result<(), EnqueueError> {
                match database(*self)? {
                    Database::Postgres => postgres::abort(*self, &statements.postgres, reason).await,
                    Database::Sqlite => sqlite::abort(*self, &statements.sqlite).await,
                }
            }
        }

        impl Caller for &$connection {
            fn is_sqlite(&self) -> Result<bool, EnqueueError> {
                Ok(matches!(database(*self)?, Database::Sqlite))
            }

            async fn call(
                &mut self,
                sql: &str,
                values: &[Value<'_>],
            ) -> Result<Option<Answer>, EnqueueError> {
                match database(*self)? {
                    Database::Postgres => {
                        let row = self.query_one_raw(postgres::call(sql, values)).await;
                        row.and_then(answer).map_err(postgres::failed)
                    }
                    Database::Sqlite => {
                        let row = self.query_one_raw(sqlite::call(sql, values)).await;
                        row.and_then(answer).map_err(sqlite::failed)
                    }
                }
            }
        }
    )*};
}

writer!(DatabaseConnection DatabaseTransaction);

fn answer(row: Option<QueryResult>) -> Result<Option<Answer>, DbErr> {
    let Some(row) = row else { return Ok(None) };
    let (text, bytes) = (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
    Ok(Some(Answer { text, bytes, number: row.try_get_by_index(2)? }))
}

pub(crate) enum Database {
    Postgres,
    Sqlite,
}

pub(crate) fn database(connection: &impl ConnectionTrait) -> Result<Database, EnqueueError> {
    match connection.get_database_backend() {
        DbBackend::Postgres => Ok(Database::Postgres),
        DbBackend::Sqlite => Ok(Database::Sqlite),
        other => {
            let text = format!("Posthaste keeps its log on PostgreSQL or SQLite, not on {other:?}");
            Err(EnqueueError::new(EnqueueErrorKind::Database, text))
        }
    }
}

/// sqlx's own error, if sea-orm passed one on.
fn cause(error: &DbErr) -> Option<&sqlx::Error> {
    match error {
        DbErr::Conn(RuntimeErr::SqlxError(cause))
        | DbErr::Exec(RuntimeErr::SqlxError(cause))
        | DbErr::Query(RuntimeErr::SqlxError(cause)) => Some(cause),
        _ => None,
    }
}
