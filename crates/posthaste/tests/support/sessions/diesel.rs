//! A connection of diesel-async's.

use std::error::Error;

use diesel_async::{AsyncConnection as _, AsyncPgConnection, SimpleAsyncConnection as _};
use posthaste::{
    Delivery, EnqueueError, Inbox, InboxError, Message, MessageId, Outbox,
    testing::{self, Enqueued, Mark, ReadError},
};

use super::{Place, Session};

pub(crate) struct Diesel(pub(super) AsyncPgConnection);

impl Session for Diesel {
    const COMMIT_FAILS: bool = false;

    async fn place() -> Place {
        Place::postgres().await
    }

    async fn open(place: &Place) -> Self {
        Self(AsyncPgConnection::establish(place.database().url()).await.unwrap())
    }

    async fn execute(&mut self, sql: &str) -> Result<(), String> {
        self.0.batch_execute(sql).await.map_err(|error| error.to_string())
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
        cause.is::<diesel::result::Error>()
    }
}
