//! What people and pages see of the log: lists of messages, and one message with its timeline.

use std::{fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use posthaste_core::{MessageId, Position, Timestamp, TopicFilter};

use crate::{Result, Store, StoreError, StoreErrorKind};

/// Messages that one page may have.
pub const PAGE_MAX: u32 = 200;

/// The longest range of time in which messages are looked for by a header: no index knows headers.
pub const HEADER_RANGE_MAX: Duration = Duration::from_hours(24);

/// A log as people look at it. Nothing here is a reader of the log: what commits late stands where its position is,
/// which may be on a page that was seen already.
#[async_trait]
pub trait Browse: Store {
    /// Messages without their payloads: scheduled ones first, the last one written at the top, then those of the log,
    /// the highest position at the top. At most `limit` and [`PAGE_MAX`].
    ///
    /// The work for one page is bounded. A page may be shorter than asked for, even empty, and not be the last: only
    /// [`MessagePage::next`] says so.
    ///
    /// # Errors
    /// `Invalid` where a header is asked for without a range of time of at most [`HEADER_RANGE_MAX`].
    async fn messages(&self, which: &MessageFilter, limit: u32) -> Result<MessagePage>;

    /// One message, wherever it is: in the log, scheduled, or a copy that was set aside. The newest where several
    /// have the id. Its payload is empty unless asked for.
    async fn message(&self, id: MessageId, with_payload: bool) -> Result<Option<MessageDetail>>;
}

/// Where a message stands, over all subscriptions that read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageState {
    /// It waits for its time, and is not in the log yet.
    Scheduled,
    /// No subscription reads it: none has its topic, or all that have it began after it.
    Unread,
    /// A subscription has yet to publish it; none has set it aside.
    Pending,
    /// Every subscription that reads it has published it.
    Published,
    /// A subscription has set it aside until its next attempt, or its key waits for another message; for none it is
    /// dead.
    Parked,
    /// For a subscription it is out of attempts.
    Dead,
}

impl MessageState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Scheduled, Self::Unread, Self::Pending, Self::Published, Self::Parked, Self::Dead];

    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Unread => "unread",
            Self::Pending => "pending",
            Self::Published => "published",
            Self::Parked => "parked",
            Self::Dead => "dead",
        }
    }

    /// The state of a message of the log, from its state at each subscription that reads it: the worst of them.
    pub fn over(each: impl IntoIterator<Item = Self>) -> Self {
        let rank = |state: &Self| match state {
            Self::Scheduled | Self::Unread => 0,
            Self::Published => 1,
            Self::Pending => 2,
            Self::Parked => 3,
            Self::Dead => 4,
        };
        each.into_iter().max_by_key(rank).unwrap_or(Self::Unread)
    }
}

impl fmt::Display for MessageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is none of [`MessageState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a state is scheduled, unread, pending, published, parked or dead")]
pub struct UnknownState;

impl FromStr for MessageState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(UnknownState)
    }
}

/// Where a page ends: the next one has what stands behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrowsePlace {
    /// Among the scheduled messages, which are numbered in the order in which they were written.
    Scheduled(i64),
    /// In the log.
    Log(Position),
}

/// Which messages are meant: those that meet every condition.
///
/// Dead letters and parked messages that the log has forgotten are found by their state, in the copies that are kept of
/// them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessageFilter {
    /// Of a topic of each of these.
    pub topics: Vec<TopicFilter>,
    /// Of this ordering key.
    pub key: Option<String>,
    /// With this id.
    pub id: Option<MessageId>,
    /// With this correlation id.
    pub correlation_id: Option<String>,
    /// In this state.
    pub state: Option<MessageState>,
    /// Written at this time or later.
    pub since: Option<Timestamp>,
    /// Written before this time.
    pub until: Option<Timestamp>,
    /// With this header; only within a range of time.
    pub header: Option<(String, String)>,
    /// Behind this place.
    pub before: Option<BrowsePlace>,
}

impl MessageFilter {
    /// Checks what every store asks for.
    ///
    /// # Errors
    /// `Invalid`, as [`Browse::messages`] says.
    pub fn check(&self) -> Result<()> {
        let range =
            self.since.zip(self.until).map(|(since, until)| until.0.saturating_sub(since.0));
        let longest = i64::try_from(HEADER_RANGE_MAX.as_micros()).unwrap_or(i64::MAX);
        if self.header.is_none() || range.is_some_and(|range| range <= longest) {
            return Ok(());
        }
        let doing = "messages are found by a header within at most 24 hours: give since and until";
        Err(StoreError::new(StoreErrorKind::Invalid, doing))
    }
}

/// A page of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MessagePage {
    /// The messages.
    pub messages: Vec<ListedMessage>,
    /// Where the next page begins; `None` on the last one.
    pub next: Option<BrowsePlace>,
}

/// A message without its payload and headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedMessage {
    /// Its position in the log, if it is there.
    pub position: Option<Position>,
    /// Its number among the scheduled ones, while it is one: several may have its id.
    pub number: Option<i64>,
    /// Its id.
    pub id: MessageId,
    /// Its topic.
    pub topic: String,
    /// Its ordering key.
    pub key: Option<String>,
    /// What ties it to others.
    pub correlation_id: Option<String>,
    /// Its payload's media type.
    pub content_type: String,
    /// Bytes of its payload.
    pub payload_bytes: u64,
    /// When it was written: for a scheduled one to where it waits, else into the log.
    pub enqueued_at: Timestamp,
    /// When it is due, while it is scheduled.
    pub deliver_at: Option<Timestamp>,
    /// Where it stands.
    pub state: MessageState,
}

/// A message with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageDetail {
    /// The message.
    pub message: ListedMessage,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its payload, if it was asked for.
    pub payload: Vec<u8>,
    /// Where it stands at each subscription that reads it, by name. Of a copy whose message the log has forgotten,
    /// only those that have set it aside are known.
    pub deliveries: Vec<MessageDelivery>,
}

/// A message at one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageDelivery {
    /// The subscription.
    pub subscription: String,
    /// Where it stands there.
    pub state: MessageState,
    /// When it was published: the first settle that covered it, as far as that is remembered.
    pub published_at: Option<Timestamp>,
    /// What is known of its failure, if it is set aside.
    pub failure: Option<MessageFailure>,
}

/// Why a subscription has set a message aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageFailure {
    /// How often the message was rejected, or the one that its key waits for.
    pub attempts: u32,
    /// The sink's last reason.
    pub reason: String,
    /// The message that failed: itself, unless its key waits for another one.
    pub message: MessageId,
    /// Since when.
    pub since: Timestamp,
    /// When it is tried again; `None` for a dead letter, or behind one.
    pub next_attempt_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_over_all_subscriptions_is_the_worst() {
        use MessageState as S;
        assert_eq!(S::over([]), S::Unread);
        assert_eq!(S::over([S::Published, S::Published]), S::Published);
        assert_eq!(S::over([S::Published, S::Pending]), S::Pending);
        assert_eq!(S::over([S::Parked, S::Pending]), S::Parked);
        assert_eq!(S::over([S::Parked, S::Dead, S::Pending]), S::Dead);
        for state in S::ALL {
            assert_eq!(state.to_string().parse(), Ok(state));
        }
        assert_eq!("queued".parse::<S>(), Err(UnknownState));
    }

    #[test]
    fn headers_are_looked_for_in_a_bounded_range_alone() {
        let header = Some(("a".to_owned(), "b".to_owned()));
        let day = Timestamp(86_400_000_000);
        let asked = |since, until| MessageFilter {
            since,
            until,
            header: header.clone(),
            ..MessageFilter::default()
        };
        assert!(asked(Some(Timestamp(0)), Some(day)).check().is_ok());
        assert!(MessageFilter::default().check().is_ok());
        for (since, until) in
            [(None, Some(day)), (Some(day), None), (Some(Timestamp(-1)), Some(day))]
        {
            let refused = asked(since, until).check().unwrap_err();
            assert_eq!(refused.kind(), StoreErrorKind::Invalid);
        }
    }
}
