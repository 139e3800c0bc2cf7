//! How messages look in answers.

use posthaste_core::MessageId;
use posthaste_store::{ListedMessage, MessageDelivery, MessageDetail, MessageFailure};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{clock, payloads::ShownPayload};

/// Where a message stands, over all subscriptions that read it: the worst of `dead`, `parked`, `pending` and
/// `published`; `unread` if none does, and `scheduled` while it waits for its time.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "for the API's description")]
pub(crate) enum MessageStatus {
    Scheduled,
    Unread,
    Pending,
    Published,
    Parked,
    Dead,
}

/// A message.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Message)]
pub(crate) struct MessageBody {
    /// Its id.
    id: Uuid,
    /// Its position in the log; null while it is scheduled.
    position: Option<i64>,
    /// Its topic.
    topic: String,
    /// Its ordering key.
    key: Option<String>,
    /// What ties it to others.
    correlation_id: Option<String>,
    /// Bytes of its payload.
    payload_bytes: u64,
    /// When it was written into the log, or scheduled.
    #[schema(format = DateTime)]
    enqueued_at: String,
    /// When it is due, while it is scheduled.
    #[schema(format = DateTime)]
    deliver_at: Option<String>,
    /// Where it stands.
    #[schema(value_type = MessageStatus)]
    state: &'static str,
}

impl MessageBody {
    pub(crate) fn of(message: ListedMessage) -> Self {
        Self {
            id: message.id,
            position: message.position,
            topic: message.topic,
            key: message.key,
            correlation_id: message.correlation_id,
            payload_bytes: message.payload_bytes,
            enqueued_at: clock::rfc3339(message.enqueued_at),
            deliver_at: message.deliver_at.map(clock::rfc3339),
            state: message.state.as_str(),
        }
    }
}

/// A message with all that is known of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WholeMessage {
    #[serde(flatten)]
    message: MessageBody,
    /// Where it stands at each subscription that reads it.
    deliveries: Vec<Delivery>,
    #[serde(flatten)]
    payload: ShownPayload<'static>,
    /// Its payload's media type, with the scope `payloads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    /// Its headers, with the scope `payloads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    headers: Option<serde_json::Map<String, Value>>,
}

impl WholeMessage {
    pub(crate) fn of(detail: MessageDetail, with_payloads: bool, is_limited: bool) -> Self {
        let own = is_limited.then_some(detail.message.id);
        let kind = detail.message.content_type.clone();
        let shown = |bytes| ShownPayload::owned(&kind, bytes);
        let payload = if with_payloads { shown(&detail.payload) } else { ShownPayload::default() };
        let pairs = detail.headers.into_iter();
        let headers = pairs.map(|(name, value)| (name, value.into())).collect();
        Self {
            deliveries: detail.deliveries.into_iter().map(|it| Delivery::of(it, own)).collect(),
            payload,
            content_type: with_payloads.then_some(kind),
            headers: with_payloads.then_some(headers),
            message: MessageBody::of(detail.message),
        }
    }
}

/// A message at one subscription.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Delivery {
    /// The subscription.
    subscription: String,
    /// Where it stands there.
    #[schema(value_type = MessageStatus)]
    state: &'static str,
    /// When it was published, as far as that is remembered.
    #[schema(format = DateTime)]
    published_at: Option<String>,
    /// Why it is set aside, if it is.
    failure: Option<Failure>,
}

impl Delivery {
    fn of(delivery: MessageDelivery, own: Option<MessageId>) -> Self {
        Self {
            subscription: delivery.subscription,
            state: delivery.state.as_str(),
            published_at: delivery.published_at.map(clock::rfc3339),
            failure: delivery.failure.map(|failure| Failure::of(failure, own)),
        }
    }
}

/// Why a subscription has set a message aside.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Failure {
    /// How often it was rejected.
    attempts: u32,
    /// The sink's last reason; not here where its key waits for another message and the caller's token is limited to
    /// some topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The message that failed: itself, unless its key waits for another one, which may be of any topic; not here where
    /// the reason is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<Uuid>,
    /// Since when.
    #[schema(format = DateTime)]
    since: String,
    /// When it is tried again; null for a dead letter, or behind one.
    #[schema(format = DateTime)]
    next_attempt_at: Option<String>,
}

impl Failure {
    /// As whoever may know of the message `own` alone sees it.
    fn of(failure: MessageFailure, own: Option<MessageId>) -> Self {
        let is_shown = own.is_none_or(|own| own == failure.message);
        Self {
            attempts: failure.attempts,
            reason: is_shown.then_some(failure.reason),
            message_id: is_shown.then_some(failure.message),
            since: clock::rfc3339(failure.since),
            next_attempt_at: failure.next_attempt_at.map(clock::rfc3339),
        }
    }
}
