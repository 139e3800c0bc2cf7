//! One test session per adapter, so that one contract suite runs them all.
//!
//! Sessions begin and end transactions by statements, because the clients' own transaction types
//! have little in common; `cancellation` covers those.

use std::error::Error;

use posthaste::{
    Delivery, EnqueueError, Inbox, InboxError, Message, MessageId, Outbox,
    testing::{self, Enqueued, Mark, ReadError},
};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use super::Place;

pub(crate) mod commands;
pub(crate) mod deadpool;
pub(crate) mod diesel;
pub(crate) mod machines;
pub(crate) mod sea_orm;

/// A connection of one client library.
pub(crate) trait Session: Sized {
    /// Whether `commit` fails on a transaction that cannot commit. PostgreSQL answers `ROLLBACK`
    /// instead.
    const COMMIT_FAILS: bool;

    async fn place() -> Place;
    async fn open(place: &Place) -> Self;
    async fn execute(&mut self, sql: &str) -> Result<(), String>;
    async fn enqueue(&mut self, o: &Outbox, message: &Message) -> Result<MessageId, EnqueueError>;
    async fn enqueue_many(
        &mut self,
        outbox: &Outbox,
        messages: &[Message],
    ) -> Result<Vec<MessageId>, EnqueueError>;
    async fn cancel(&mut self, outbox: &Outbox, id: MessageId) -> Result<bool, EnqueueError>;
    async fn lock_keys(&mut self, outbox: &Outbox, keys: &[&str]) -> Result<(), EnqueueError>;
    async fn handle(&mut self, inbox: &Inbox, id: MessageId) -> Result<Delivery, InboxError>;
    async fn handle_many(
        &mut self,
        inbox: &Inbox,
        ids: &[MessageId],
    ) -> Result<Vec<MessageId>, InboxError>;
    async fn mark(&mut self, outbox: &Outbox) -> Result<Mark, ReadError>;
    async fn enqueued_since(&mut self, o: &Outbox, mark: &Mark) -> Result<Enqueued, ReadError>;
    /// Whether `cause` is the client's own error.
    fn is_own(cause: &(dyn Error + 'static)) -> bool;
}

pub(crate) struct TokioPostgres(tokio_postgres::Client);

impl Session for TokioPostgres {
    const COMMIT_FAILS: bool = false;

    async fn place() -> Place {
        Place::postgres().await
    }

    async fn open(place: &Place) -> Self {
        Self(place.database().connect().await)
    }

    async fn execute(&mut self, sql: &str) -> Result<(), String> {
        self.0.batch_execute(sql).await.map_err(|error| format!("{error:?}"))
    }

    async fn enqueue(&mut self, o: &Outbox, message: &Message) -> Result<MessageId, EnqueueError> {
        o.enqueue(&self.0, message).await
    }

    async fn enqueue_many(
        &mut self,
        outbox: &Outbox,
        messages: &[Message],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        outbox.enqueue_many(&self.0, messages).await
    }

    async fn cancel(&mut self, outbox: &Outbox, id: MessageId) -> Result<bool, EnqueueError> {
        outbox.cancel(&self.0, id).await
    }

    async fn lock_keys(&mut self, outbox: &Outbox, keys: &[&str]) -> Result<(), EnqueueError> {
        outbox.lock_keys(&self.0, keys).await
    }

    async fn handle(&mut self, inbox: &Inbox, id: MessageId) -> Result<Delivery, InboxError> {
        inbox.handle(&self.0, id).await
    }

    async fn handle_many(
        &mut self,
        inbox: &Inbox,
        ids: &[MessageId],
    ) -> Result<Vec<MessageId>, InboxError> {
        inbox.handle_many(&self.0, ids).await
    }

    async fn mark(&mut self, outbox: &Outbox) -> Result<Mark, ReadError> {
        testing::mark(outbox, &self.0).await
    }

    async fn enqueued_since(&mut self, o: &Outbox, mark: &Mark) -> Result<Enqueued, ReadError> {
        testing::enqueued_since(o, &self.0, mark).await
    }

    fn is_own(cause: &(dyn Error + 'static)) -> bool {
        cause.is::<tokio_postgres::Error>()
    }
}

pub(crate) struct SqlxPostgres(sqlx::PgConnection);

impl Session for SqlxPostgres {
    const COMMIT_FAILS: bool = false;

    async fn place() -> Place {
        Place::postgres().await
    }

    async fn open(place: &Place) -> Self {
        Self(sqlx::PgConnection::connect(place.database().url()).await.unwrap())
    }

    async fn execute(&mut self, sql: &str) -> Result<(), String> {
        let outcome = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.0).await;
        outcome.map(drop).map_err(|error| error.to_string())
    }

    async fn enqueue(&mut self, o: &Outbox, message: &Message) -> Result<MessageId, EnqueueError> {
        o.enqueue(&mut self.0, message).await
    }

    async fn enqueue_many(
        &mut self,
        outbox: &Outbox,
        messages: &[Message],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        outbox.enqueue_many(&mut self.0, messages).await
    }

    async fn cancel(&mut self, outbox: &Outbox, id: MessageId) -> Result<bool, EnqueueError> {
        outbox.cancel(&mut self.0, id).await
    }

    async fn lock_keys(&mut self, outbox: &Outbox, keys: &[&str]) -> Result<(), EnqueueError> {
        outbox.lock_keys(&mut self.0, keys).await
    }

    async fn handle(&mut self, inbox: &Inbox, id: MessageId) -> Result<Delivery, InboxError> {
        inbox.handle(&mut self.0, id).await
    }

    async fn handle_many(
        &mut self,
        inbox: &Inbox,
        ids: &[MessageId],
    ) -> Result<Vec<MessageId>, InboxError> {
        inbox.handle_many(&mut self.0, ids).await
    }

    async fn mark(&mut self, outbox: &Outbox) -> Result<Mark, ReadError> {
        testing::mark(outbox, &mut self.0).await
    }

    async fn enqueued_since(&mut self, o: &Outbox, mark: &Mark) -> Result<Enqueued, ReadError> {
        testing::enqueued_since(o, &mut self.0, mark).await
    }

    fn is_own(cause: &(dyn Error + 'static)) -> bool {
        cause.is::<sqlx::Error>()
    }
}

pub(crate) struct SqlxSqlite(sqlx::SqliteConnection);

impl Session for SqlxSqlite {
    const COMMIT_FAILS: bool = true;

    async fn place() -> Place {
        Place::sqlite().await
    }

    async fn open(place: &Place) -> Self {
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(place.file());
        Self(options.connect().await.unwrap())
    }

    async fn execute(&mut self, sql: &str) -> Result<(), String> {
        let outcome = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.0).await;
        outcome.map(drop).map_err(|error| error.to_string())
    }

    async fn enqueue(&mut self, o: &Outbox, message: &Message) -> Result<MessageId, EnqueueError> {
        o.enqueue(&mut self.0, message).await
    }

    async fn enqueue_many(
        &mut self,
        outbox: &Outbox,
        messages: &[Message],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        outbox.enqueue_many(&mut self.0, messages).await
    }

    async fn cancel(&mut self, outbox: &Outbox, id: MessageId) -> Result<bool, EnqueueError> {
        outbox.cancel(&mut self.0, id).await
    }

    async fn lock_keys(&mut self, outbox: &Outbox, keys: &[&str]) -> Result<(), EnqueueError> {
        outbox.lock_keys(&mut self.0, keys).await
    }

    async fn handle(&mut self, inbox: &Inbox, id: MessageId) -> Result<Delivery, InboxError> {
        inbox.handle(&mut self.0, id).await
    }

    async fn handle_many(
        &mut self,
        inbox: &Inbox,
        ids: &[MessageId],
    ) -> Result<Vec<MessageId>, InboxError> {
        inbox.handle_many(&mut self.0, ids).await
    }

    async fn mark(&mut self, outbox: &Outbox) -> Result<Mark, ReadError> {
        testing::mark(outbox, &mut self.0).await
    }

    async fn enqueued_since(&mut self, o: &Outbox, mark: &Mark) -> Result<Enqueued, ReadError> {
        testing::enqueued_since(o, &mut self.0, mark).await
    }

    fn is_own(cause: &(dyn Error + 'static)) -> bool {
        cause.is::<sqlx::Error>()
    }
}

pub(crate) struct Rusqlite(rusqlite::Connection);

impl Session for Rusqlite {
    const COMMIT_FAILS: bool = true;

    async fn place() -> Place {
        Place::sqlite().await
    }

    async fn open(place: &Place) -> Self {
        Self(rusqlite::Connection::open(place.file()).unwrap())
    }

    async fn execute(&mut self, sql: &str) -> Result<(), String> {
        self.0.execute_batch(sql).map_err(|error| error.to_string())
    }

    async fn enqueue(&mut self, o: &Outbox, message: &Message) -> Result<MessageId, EnqueueError> {
        o.enqueue_blocking(&self.0, message)
    }

    async fn enqueue_many(
        &mut self,
        outbox: &Outbox,
        messages: &[Message],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        outbox.enqueue_many_blocking(&self.0, messages)
    }

    async fn cancel(&mut self, outbox: &Outbox, id: MessageId) -> Result<bool, EnqueueError> {
        outbox.cancel_blocking(&self.0, id)
    }

    /// There is no such call: one transaction writes at a time.
    async fn lock_keys(&mut self, _: &Outbox, _: &[&str]) -> Result<(), EnqueueError> {
        Ok(())
    }

    async fn handle(&mut self, inbox: &Inbox, id: MessageId) -> Result<Delivery, InboxError> {
        inbox.handle_blocking(&self.0, id)
    }

    async fn handle_many(
        &mut self,
        inbox: &Inbox,
        ids: &[MessageId],
    ) -> Result<Vec<MessageId>, InboxError> {
        inbox.handle_many_blocking(&self.0, ids)
    }

    async fn mark(&mut self, outbox: &Outbox) -> Result<Mark, ReadError> {
        testing::mark_blocking(outbox, &self.0)
    }

    async fn enqueued_since(&mut self, o: &Outbox, mark: &Mark) -> Result<Enqueued, ReadError> {
        testing::enqueued_since_blocking(o, &self.0, mark)
    }

    fn is_own(cause: &(dyn Error + 'static)) -> bool {
        cause.is::<rusqlite::Error>()
    }
}
