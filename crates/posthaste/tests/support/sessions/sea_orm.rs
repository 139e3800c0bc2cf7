//! sea-orm on both databases. Its transactions are values, not statements.

use std::error::Error;

use posthaste::{
    Delivery, EnqueueError, Inbox, InboxError, Message, MessageId, Outbox,
    testing::{self, Enqueued, Mark, ReadError},
};
use sea_orm::{
    ConnectOptions, ConnectionTrait as _, Database, DatabaseConnection, DatabaseTransaction, DbErr,
    TransactionTrait as _,
};

use super::{Place, Session};

pub(crate) struct SeaOrm {
    pub(super) database: DatabaseConnection,
    pub(super) transaction: Option<DatabaseTransaction>,
}

pub(crate) struct SeaOrmPostgres(pub(super) SeaOrm);
pub(crate) struct SeaOrmSqlite(pub(super) SeaOrm);

/// A pool of one connection.
pub(crate) async fn connect(url: String) -> DatabaseConnection {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    Database::connect(options).await.unwrap()
}

impl SeaOrm {
    async fn open(url: String) -> Self {
        Self { database: connect(url).await, transaction: None }
    }

    async fn execute(&mut self, sql: &str) -> Result<(), DbErr> {
        match (sql, &self.transaction) {
            ("begin", _) => self.transaction = Some(self.database.begin().await?),
            ("commit", _) => self.taken()?.commit().await?,
            ("rollback", _) => self.taken()?.rollback().await?,
            (sql, Some(transaction)) => transaction.execute_unprepared(sql).await.map(|_| ())?,
            (sql, None) => self.database.execute_unprepared(sql).await.map(|_| ())?,
        }
        Ok(())
    }

    fn taken(&mut self) -> Result<DatabaseTransaction, DbErr> {
        self.transaction.take().ok_or_else(|| DbErr::Custom("no transaction".to_owned()))
    }

    async fn enqueue(&self, o: &Outbox, message: &Message) -> Result<MessageId, EnqueueError> {
        match &self.transaction {
            Some(transaction) => o.enqueue(transaction, message).await,
            None => o.enqueue(&self.database, message).await,
        }
    }

    async fn enqueue_many(
        &self,
        outbox: &Outbox,
        messages: &[Message],
    ) -> Result<Vec<MessageId>, EnqueueError> {
        match &self.transaction {
            Some(transaction) => outbox.enqueue_many(transaction, messages).await,
            None => outbox.enqueue_many(&self.database, messages).await,
        }
    }

    async fn cancel(&self, outbox: &Outbox, id: MessageId) -> Result<bool, EnqueueError> {
        match &self.transaction {
            Some(transaction) => outbox.cancel(transaction, id).await,
            None => outbox.cancel(&self.database, id).await,
        }
    }

    async fn lock_keys(&self, outbox: &Outbox, keys: &[&str]) -> Result<(), EnqueueError> {
        match &self.transaction {
            Some(transaction) => outbox.lock_keys(transaction, keys).await,
            None => outbox.lock_keys(&self.database, keys).await,
        }
    }

    async fn handle(&self, inbox: &Inbox, id: MessageId) -> Result<Delivery, InboxError> {
        match &self.transaction {
            Some(transaction) => inbox.handle(transaction, id).await,
            None => inbox.handle(&self.database, id).await,
        }
    }

    async fn handle_many(
        &self,
        inbox: &Inbox,
        ids: &[MessageId],
    ) -> Result<Vec<MessageId>, InboxError> {
        match &self.transaction {
            Some(transaction) => inbox.handle_many(transaction, ids).await,
            None => inbox.handle_many(&self.database, ids).await,
        }
    }

    async fn mark(&self, outbox: &Outbox) -> Result<Mark, ReadError> {
        match &self.transaction {
            Some(transaction) => testing::mark(outbox, transaction).await,
            None => testing::mark(outbox, &self.database).await,
        }
    }

    async fn enqueued_since(&self, o: &Outbox, mark: &Mark) -> Result<Enqueued, ReadError> {
        match &self.transaction {
            Some(transaction) => testing::enqueued_since(o, transaction, mark).await,
            None => testing::enqueued_since(o, &self.database, mark).await,
        }
    }
}

macro_rules! session {
    ($session:ident, commit fails: $commit_fails:literal, $place:ident, $url:expr) => {
        impl Session for $session {
            const COMMIT_FAILS: bool = $commit_fails;

            async fn place() -> Place {
                Place::$place().await
            }

            async fn open(place: &Place) -> Self {
                Self(SeaOrm::open($url(place)).await)
            }

            async fn execute(&mut self, sql: &str) -> Result<(), String> {
                self.0.execute(sql).await.map_err(|error| error.to_string())
            }

            async fn enqueue(
                &mut self,
                outbox: &Outbox,
                message: &Message,
            ) -> Result<MessageId, EnqueueError> {
                self.0.enqueue(outbox, message).await
            }

            async fn enqueue_many(
                &mut self,
                outbox: &Outbox,
                messages: &[Message],
            ) -> Result<Vec<MessageId>, EnqueueError> {
                self.0.enqueue_many(outbox, messages).await
            }

            async fn cancel(
                &mut self,
                outbox: &Outbox,
                id: MessageId,
            ) -> Result<bool, EnqueueError> {
                self.0.cancel(outbox, id).await
            }

            async fn lock_keys(
                &mut self,
                outbox: &Outbox,
                keys: &[&str],
            ) -> Result<(), EnqueueError> {
                self.0.lock_keys(outbox, keys).await
            }

            async fn handle(
                &mut self,
                inbox: &Inbox,
                id: MessageId,
            ) -> Result<Delivery, InboxError> {
                self.0.handle(inbox, id).await
            }

            async fn handle_many(
                &mut self,
                inbox: &Inbox,
                ids: &[MessageId],
            ) -> Result<Vec<MessageId>, InboxError> {
                self.0.handle_many(inbox, ids).await
            }

            async fn mark(&mut self, outbox: &Outbox) -> Result<Mark, ReadError> {
                self.0.mark(outbox).await
            }

            async fn enqueued_since(
                &mut self,
                outbox: &Outbox,
                mark: &Mark,
            ) -> Result<Enqueued, ReadError> {
                self.0.enqueued_since(outbox, mark).await
            }

            fn is_own(cause: &(dyn Error + 'static)) -> bool {
                cause.is::<DbErr>()
            }
        }
    };
}

session!(SeaOrmPostgres, commit fails: false, postgres, |place: &Place| place.database().url().to_owned());
session!(SeaOrmSqlite, commit fails: true, sqlite, |place: &Place| format!("sqlite://{}", place.file().display()));
