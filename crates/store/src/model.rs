//! What crosses the store's seam besides the types of `posthaste-core`.

use std::{fmt, sync::Arc, time::Duration};

use posthaste_core::{
    Epoch, MessageId, Page, Place, Position, RelayView, SchemaName, TickRef, Timestamp,
    TopicFilter, Window,
};

/// What a look found.
#[derive(Clone, Debug)]
pub struct Advance {
    /// The newest tick of the log, whoever took it.
    pub tick: TickRef,
    /// The window that this call closed, if it took a tick.
    pub window: Option<Arc<Window>>,
    /// Whether messages came or may come soon: look again at the busy pace.
    pub busy: bool,
}

/// A subscription as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionSpec {
    /// Unique name.
    pub name: String,
    /// Topics it reads.
    pub filter: TopicFilter,
    /// Where it starts when it is created.
    pub start: Start,
}

/// Where a new subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the oldest message that the log still holds.
    Beginning,
    /// At the messages that commit after its creation.
    Now,
}

/// The answer to a settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The place is recorded.
    Recorded,
    /// The epoch has been raised: another relay holds the subscription. Nothing was written.
    Fenced,
}

/// A key that is set aside: its messages wait in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedKey {
    /// The ordering key.
    pub key: String,
    /// Every message of the key up to here is published, or set aside as a failed message. Its
    /// own message id is not kept.
    pub place: Place,
    /// The message that failed.
    pub message: MessageId,
    /// How often it was rejected since it was parked or its dead letter was resolved.
    pub attempts: u32,
    /// The sink's last reason.
    pub reason: String,
    /// Until the next attempt; `None` while a dead letter holds the key.
    pub retry_in: Option<Duration>,
    /// How long it has been parked; not written.
    pub parked_for: Duration,
}

/// What came of an attempt to take a subscription over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquired {
    /// It is this holder's, under this epoch and from this place on.
    Taken(Epoch, Place),
    /// Another relay holds it.
    Held {
        /// Its name.
        holder: String,
        /// Until its lease runs out, unless it is renewed.
        left: Duration,
    },
}

/// A subscription's lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The subscription.
    pub subscription: String,
    /// The epoch of its last holder.
    pub epoch: Epoch,
    /// Who holds it, while the lease lasts.
    pub holder: Option<String>,
    /// Whether a person has paused it.
    pub is_paused: bool,
    /// Whether an operator has asked relays to leave it for now ([`Operations::reserve`](crate::Operations::reserve)).
    pub is_reserved: bool,
    /// Whether a message is set aside until its next attempt, a replay among them.
    pub has_parked: bool,
}

/// Leases, and the relays that share them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    /// Of the subscriptions that were asked for, by name; those that do not exist are left out.
    pub leases: Vec<Lease>,
    /// Relays that are alive, the asking one among them.
    pub relays: Vec<RelayView>,
}

/// A message that is set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedMessage {
    /// Its position in the log.
    pub position: Position,
    /// Its id.
    pub id: MessageId,
    /// The number of the tick that closes its window.
    pub tick: i64,
    /// How often it was rejected.
    pub attempts: u32,
    /// The sink's last reason.
    pub reason: String,
    /// Until the next attempt; `None` for a dead letter.
    pub retry_in: Option<Duration>,
    /// Whether its key waits for it.
    pub holds_key: bool,
}

/// One change to what a subscription has set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Aside {
    /// Parks a key, or writes its place and its next attempt again.
    ParkKey(ParkedKey),
    /// Everything of the key is published up to the subscription's place.
    UnparkKey(String),
    /// Copies a message out of the log.
    Keep(FailedMessage),
    /// Writes the attempts of a message that was set aside before.
    Retried(FailedMessage),
    /// What the second lane has published up to this call of its sink is written down.
    Counted(i64),
    /// A message that was set aside has been accepted: its copy goes, and a key that waited for
    /// it is due.
    Published {
        /// Its position.
        position: Position,
        /// Its id.
        id: MessageId,
    },
}

/// All that a subscription has set aside, without payloads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AsideState {
    /// Whether the subscription is paused.
    pub is_paused: bool,
    /// The last [`Aside::Counted`].
    pub retry_calls: i64,
    /// Parked keys.
    pub keys: Vec<ParkedKey>,
    /// Parked messages and dead letters.
    pub messages: Vec<FailedMessage>,
}

/// Messages that were set aside and are due, in position order.
#[derive(Clone, Debug)]
pub struct DueMessages {
    /// The messages.
    pub page: Page,
    /// What is known of each.
    pub failures: Vec<FailedMessage>,
}

/// Which messages a person means. Every condition that is given must hold; none means all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// The subscription.
    pub subscription: Option<String>,
    /// Any of these ids.
    pub ids: Vec<MessageId>,
    /// Topics.
    pub topics: Option<TopicFilter>,
    /// The ordering key.
    pub key: Option<String>,
    /// Text in the reason of a failure.
    pub reason: Option<String>,
    /// Failed (dead letters) or written (messages of the log) at this time or later.
    pub since: Option<Timestamp>,
    /// Failed or written before this time.
    pub until: Option<Timestamp>,
}

/// A message out of attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The subscription whose sink rejected it.
    pub subscription: String,
    /// The message; never published by this subscription.
    pub message: StoredMessage,
    /// How often it was rejected.
    pub attempts: u32,
    /// The sink's last reason.
    pub reason: String,
    /// When it was set aside.
    pub failed_at: Timestamp,
    /// Whether its key waits for it.
    pub holds_key: bool,
}

/// One piece of a replay: enough for one transaction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplayChunk {
    /// Messages above this position.
    pub after: Position,
    /// Up to this one; `None` for all that the log holds.
    pub through: Option<Position>,
    /// How many at most.
    pub limit: u32,
    /// Messages a second; `None` for at once.
    pub rate: Option<f64>,
    /// When the first of them is due.
    pub starts_in: Duration,
}

impl Default for ReplayChunk {
    /// The first 10,000 messages at once: each is copied out of the log until it is published.
    fn default() -> Self {
        Self { after: 0, through: None, limit: 10_000, rate: None, starts_in: Duration::ZERO }
    }
}

/// What a piece of a replay did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Messages that are on their way again.
    pub messages: u64,
    /// The position of the last of them; `None` when nothing lies above [`ReplayChunk::after`].
    pub reached: Option<Position>,
    /// Up to where the log was looked at.
    pub through: Position,
}

/// Where a subscription is moved back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RewindTo {
    /// The oldest message that the log still holds.
    Beginning,
    /// The last tick before this time.
    Time(Timestamp),
}

/// A subscription's place moved back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewound {
    /// Where it stands now. Where it stood, if that is not behind what was asked for: a place never moves forward, over
    /// messages that were not published.
    pub place: Place,
    /// Whether it was not there before.
    pub is_moved: bool,
    /// Messages that are published again; `None` above [`COUNTED_MAX`](crate::COUNTED_MAX), or where counting takes
    /// longer than some seconds.
    pub messages: Option<u64>,
    /// The position of the first of them, and when the oldest was written; `None` without any, or where they are not
    /// counted.
    pub oldest: Option<(Position, Timestamp)>,
}

/// Names of the group roles with no more than their task needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleNames {
    /// May enqueue, and read nothing that others wrote.
    pub writer: SchemaName,
    /// May publish.
    pub relay: SchemaName,
    /// May work on jobs.
    pub worker: SchemaName,
    /// May look at everything but payloads and headers.
    pub viewer: SchemaName,
}

/// A topic that is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenTopic {
    /// The topic.
    pub topic: String,
    /// Messages of it among those looked at.
    pub messages: u64,
    /// When the newest of them was written.
    pub newest: Timestamp,
}

/// Who asks for a change, and whether it is only to be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who, for the audit trail.
    pub actor: String,
    /// Count what would change, and change nothing.
    pub is_dry_run: bool,
    /// Also where a relay is named as the holder: one that was killed never gave up.
    pub is_forced: bool,
}

/// One embedded migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Number, from 1 without gaps.
    pub version: i32,
    /// File name without number and extension.
    pub name: &'static str,
    /// The SQL as it would run, with the schema name in place.
    pub sql: String,
}

/// How the database's schema compares with this build's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaState {
    /// Version in the database; 0 when there is none.
    pub version: i32,
    /// Migrations still to run, in order.
    pub pending: Vec<Migration>,
}

/// What `migrate` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationReport {
    /// Version before.
    pub from: i32,
    /// Version now.
    pub to: i32,
    /// Names of the migrations that ran.
    pub applied: Vec<String>,
}

/// Sizes of the rings, fixed when the schema is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSizes {
    /// Slots of the log.
    pub slots: u32,
    /// Positions of one slot.
    pub slot_size: u32,
}

impl Default for RingSizes {
    /// 32 slots of 262,144 positions: 8 million messages before a slot is shared, and a slot of
    /// 200-byte messages (about 100 MB with its indexes) emptied at a time.
    fn default() -> Self {
        Self { slots: 32, slot_size: 262_144 }
    }
}

/// What a move of scheduled messages did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Messages that are in the log now.
    pub count: u64,
    /// How long until the next message is due: no time while more may be due, `None` when nothing
    /// waits for a later time.
    pub next_in: Option<Duration>,
}

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Slots (PostgreSQL) emptied.
    pub slots_emptied: u32,
    /// Rows (SQLite) deleted.
    pub rows_deleted: u64,
    /// Idempotency tokens forgotten.
    pub tokens_deleted: u64,
    /// Handled messages that inboxes have forgotten.
    pub inbox_deleted: u64,
    /// Commands that were forgotten.
    pub commands_deleted: u64,
    /// Jobs that were forgotten because they were over for longer than their retention.
    pub jobs_deleted: u64,
    /// Slots that hold messages of two laps because a subscription lags too far behind.
    pub slots_shared: u32,
    /// Bytes that the log has above its size although nothing more can be emptied.
    pub bytes_over: u64,
    /// What keeps the oldest messages, while slots are shared or the log is above its size.
    pub pin: Option<Pin>,
}

/// How much room the log takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSize {
    /// Bytes: of its relations with their indexes (PostgreSQL), of its rows (SQLite).
    pub bytes: u64,
    /// The size above which settled messages go before their retention time, if one is set.
    pub bytes_max: Option<u64>,
    /// What keeps the oldest messages, while slots are shared or the log is above its size.
    pub pin: Option<Pin>,
}

impl LogSize {
    /// Bytes above the size that is set; 0 without one.
    pub fn over(&self) -> u64 {
        self.bytes_max.map_or(0, |max| self.bytes.saturating_sub(max))
    }
}

/// What keeps the oldest messages of a log that should be smaller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// The subscription that is furthest behind: slow, paused or abandoned.
    Subscription(String),
    /// A key that this subscription has parked.
    ParkedKey(String),
    /// A transaction that is still open and could add to them.
    Transaction,
    /// There is no subscription, so that nobody has published them.
    Unread,
    /// The retention time alone, in a ring that comes round before it has passed.
    Retention,
    /// They are the newest as well: the slot that is being filled is never emptied.
    Newest,
}

impl Pin {
    /// Every word of [`Pin::word`].
    pub const WORDS: [&str; 6] =
        ["subscription", "parked_key", "transaction", "unread", "retention", "newest"];

    /// The word for it, in metrics and JSON.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Subscription(_) => Self::WORDS[0],
            Self::ParkedKey(_) => Self::WORDS[1],
            Self::Transaction => Self::WORDS[2],
            Self::Unread => Self::WORDS[3],
            Self::Retention => Self::WORDS[4],
            Self::Newest => Self::WORDS[5],
        }
    }

    /// The subscription that somebody has to look after.
    pub fn subscription(&self) -> Option<&str> {
        match self {
            Self::Subscription(name) | Self::ParkedKey(name) => Some(name),
            Self::Transaction | Self::Unread | Self::Retention | Self::Newest => None,
        }
    }
}

/// What keeps them, and the remedy.
impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscription(name) => write!(
                f,
                "{name} is furthest behind and has not published them: let it catch up, or, if no \
                 relay publishes it any more, `posthaste subscriptions remove {name}`"
            ),
            Self::ParkedKey(name) => write!(
                f,
                "{name} has parked a key that needs them: see `posthaste subscriptions show \
                 {name}`, then replay or discard what holds the key"
            ),
            Self::Transaction => f.write_str(
                "a transaction that is still open could add to them: find it in pg_stat_activity by \
                 the oldest backend_xid and end it",
            ),
            Self::Unread => f.write_str(
                "there is no subscription, so nobody has published them: configure one and run a \
                 relay",
            ),
            Self::Retention => f.write_str(
                "they are younger than database.retention: set a shorter one, or create the schema \
                 with more slots",
            ),
            Self::Newest => f.write_str(
                "they are in the newest slot, which is never emptied: set a larger \
                 database.retention_size, or create the schema with smaller slots",
            ),
        }
    }
}

/// The state of a source for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Highest position handed out.
    pub head: Position,
    /// Newest tick.
    pub tick: TickRef,
    /// Messages that the log holds.
    pub messages: u64,
    /// How much room they take.
    pub size: LogSize,
    /// The log's slots; `None` for a store without a ring.
    pub slots: Option<SlotCounts>,
    /// Rows of the log that nobody sees any more and a vacuum has yet to remove, as far as the
    /// server has counted them; `None` for a store that keeps none.
    pub dead_tuples: Option<u64>,
    /// Subscriptions by name.
    pub subscriptions: Vec<SubscriptionStatus>,
}

/// The slots of the log's ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotCounts {
    /// Slots that the ring has.
    pub total: u32,
    /// Slots that hold a message.
    pub used: u32,
    /// Slots that hold messages of two laps because a subscription lags too far behind.
    pub shared: u32,
}

/// The state of one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionStatus {
    /// Name.
    pub name: String,
    /// Topics it reads.
    pub filter: TopicFilter,
    /// Epoch of its last holder.
    pub epoch: Epoch,
    /// Its last holder, while it holds the subscription.
    pub holder: Option<String>,
    /// Last settled place.
    pub progress: Progress,
    /// Committed messages that match and are not settled (backlog).
    pub backlog: u64,
    /// Age of the oldest of them in microseconds (lag), on the database's clock; 0 without any.
    pub lag_micros: i64,
    /// Keys that are set aside.
    pub parked_keys: u64,
    /// Messages that are set aside alone until their next attempt.
    pub parked_messages: u64,
    /// Age of the oldest key or message that is set aside until its next attempt, in microseconds; 0 without any. Copies that
    /// a replay has made, and that nobody has tried yet, do not count.
    pub aside_micros: i64,
    /// Messages out of attempts.
    pub dead_letters: u64,
    /// Whether a person has paused it.
    pub is_paused: bool,
}

/// A settled place and when it was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The place.
    pub place: Place,
    /// When it was settled; `None` before the first settle.
    pub at: Option<Timestamp>,
}

/// A message as people look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMessage {
    /// Position in the log.
    pub position: Position,
    /// Id.
    pub id: MessageId,
    /// Topic.
    pub topic: String,
    /// Ordering key.
    pub key: Option<String>,
    /// Payload.
    pub payload: Vec<u8>,
    /// Content type.
    pub content_type: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// Correlation id.
    pub correlation_id: Option<String>,
    /// When it was written.
    pub enqueued_at: Timestamp,
    /// When every subscription that matches had published it.
    pub published_at: Option<Timestamp>,
}
