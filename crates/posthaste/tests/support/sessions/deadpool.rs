//! A client of a deadpool-postgres pool.

use std::error::Error;

use deadpool_postgres::{Client, Manager, Pool};
use posthaste::{
    Delivery, EnqueueError, Inbox, InboxError, Message, MessageId, Outbox,
    testing::{self, Enqueued, Mark, ReadError},
};
use tokio_postgres::NoTls;

use super::{Place, Session};

pub(crate) struct Deadpool(pub(super) Client);

/// A client of a pool that holds no other.
pub(crate) async fn client(url: &str) -> Client {
    let manager = Manager::new(url.parse().unwrap(), NoTls);
    Pool::builder(manager).max_size(1).build().unwrap().get().await.unwrap()
}

impl Session for Deadpool {
    const COMMIT_FAILS: bool = false;

    async fn place() -> Place {
        Place::postgres().await
    }

    async fn open(place: &Place) -> Self {
        Self(client(place.database().url()).await)
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
