//! What people look into: dead letters page by page and by reason, the audit trail, relays and workers. Nothing here
//! changes anything, and every answer has a bound.

use async_trait::async_trait;
use posthaste_core::{Epoch, MessageId, Position, Timestamp};

use crate::{Result, Selection, Store, WorkerId};

/// Dead letters that are looked at for [`Oversight::dead_letter_groups`]: the newest ones.
pub const GROUPED_MAX: u32 = 50_000;

/// Relays and workers that are told of.
pub const FLEET_MAX: u32 = 1_000;

/// Pairs of a machine and a state that a census tells of.
pub const CENSUS_MAX: u32 = 1_000;

/// What people look into.
#[async_trait]
pub trait Oversight: Store {
    /// A page of dead letters, behind `after` if given, without payloads and headers. A page is stable: what fails
    /// or goes meanwhile moves nothing else.
    async fn dead_letter_page(
        &self,
        which: &DeadLetterFilter,
        order: Order,
        after: Option<&DeadLetterPlace>,
        limit: u32,
    ) -> Result<Vec<DeadLetterRow>>;

    /// How many dead letters there are.
    async fn count_dead_letters(&self, which: &DeadLetterFilter) -> Result<u64>;

    /// Dead letters by subscription and group of reasons, at most `limit` groups, the largest first. Of the newest
    /// [`GROUPED_MAX`].
    async fn dead_letter_groups(
        &self,
        which: &DeadLetterFilter,
        limit: u32,
    ) -> Result<DeadLetterGroups>;

    /// The audit trail, the newest first.
    async fn audit(&self, which: &AuditFilter, limit: u32) -> Result<Vec<AuditEntry>>;

    /// Relays that have been seen lately, by name, with what they hold.
    async fn relays(&self) -> Result<Vec<RelayStatus>>;

    /// Workers that are registered, by name.
    async fn workers(&self) -> Result<Vec<WorkerStatus>>;

    /// How many jobs, entities and commands are where. It takes time that grows with them: to be asked now and then.
    async fn census(&self) -> Result<Census>;
}

/// How many there are of what has a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Jobs by state, by the state's name. Those that are queued count as created, or failed.
    pub jobs: Vec<(String, u64)>,
    /// Entities by machine and state, by name: the first [`CENSUS_MAX`].
    pub entities: Vec<EntityCensus>,
    /// Commands whose answer is kept.
    pub commands_completed: u64,
    /// Commands that have yet to be completed.
    pub commands_in_progress: u64,
}

/// Entities of a machine in a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityCensus {
    /// The machine.
    pub machine: String,
    /// The state.
    pub state: String,
    /// How many.
    pub entities: u64,
    /// The steps that they have taken, the first of each included.
    pub steps: u64,
}

/// Which dead letters are meant: those that meet every condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// The conditions of every selection.
    pub which: Selection,
    /// The group of its reason, as [`posthaste_core::reason::group`] makes it.
    pub group: Option<String>,
}

/// In which order dead letters come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The newest failure first.
    #[default]
    NewestFirst,
    /// The oldest failure first.
    OldestFirst,
}

/// Where a dead letter stands among all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadLetterPlace {
    /// When it was set aside.
    pub failed_at: Timestamp,
    /// The number of its subscription.
    pub subscription: i64,
    /// Its position in the log.
    pub position: Position,
    /// Its id.
    pub id: MessageId,
}

/// A dead letter without its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterRow {
    /// Where it stands, for the next page; with its id and the time of its failure.
    pub place: DeadLetterPlace,
    /// The subscription whose sink rejected it.
    pub subscription: String,
    /// Its topic.
    pub topic: String,
    /// Its ordering key.
    pub key: Option<String>,
    /// Its content type.
    pub content_type: String,
    /// What ties it to others.
    pub correlation_id: Option<String>,
    /// How long its payload is.
    pub payload_bytes: u64,
    /// When it was written.
    pub enqueued_at: Timestamp,
    /// How often it was rejected.
    pub attempts: u32,
    /// The sink's last reason.
    pub reason: String,
    /// Whether its key waits for it.
    pub holds_key: bool,
}

/// Dead letters by subscription and group of reasons.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterGroups {
    /// The largest groups.
    pub groups: Vec<DeadLetterGroup>,
    /// How many groups there are.
    pub groups_total: u64,
    /// How many dead letters were looked at.
    pub looked_at: u64,
}

/// Dead letters of one subscription whose reasons differ in numbers and ids alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterGroup {
    /// The subscription.
    pub subscription: String,
    /// What their reasons have in common, with `#` for numbers and ids.
    pub reason: String,
    /// How many they are.
    pub count: u64,
    /// The first failure.
    pub first: Timestamp,
    /// The last failure.
    pub last: Timestamp,
    /// The message that failed last.
    pub example: MessageId,
}

/// Which entries of the audit trail are meant: those that meet every condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Of this actor.
    pub actor: Option<String>,
    /// Of this action.
    pub action: Option<String>,
    /// On this subscription.
    pub subscription: Option<String>,
    /// At this time or later.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// Before the entry with this number, for the next page.
    pub before: Option<i64>,
}

/// What somebody did by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Entries are numbered in the order in which they were begun.
    pub n: i64,
    /// When.
    pub at: Timestamp,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// To which subscription.
    pub subscription: Option<String>,
    /// The particulars: a JSON object.
    pub detail: String,
}

/// A relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayStatus {
    /// Its name as a holder.
    pub holder: String,
    /// The version of its program; `None` for one that has not said that it is alive.
    pub version: Option<String>,
    /// Since when it runs.
    pub started_at: Option<Timestamp>,
    /// When it was last heard of.
    pub seen_at: Option<Timestamp>,
    /// How long ago that was, in microseconds on the database's clock.
    pub silent_micros: Option<i64>,
    /// Subscriptions that it is configured for.
    pub subscriptions: Vec<String>,
    /// Those that it holds.
    pub holds: Vec<HeldLease>,
}

/// A lease that has not run out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLease {
    /// The subscription.
    pub subscription: String,
    /// Under which epoch.
    pub epoch: Epoch,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Until when, unless it is renewed.
    pub until: Timestamp,
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Its id.
    pub id: WorkerId,
    /// Its name.
    pub name: String,
    /// Topics whose jobs it runs.
    pub topics: Vec<String>,
    /// Where it takes messages from.
    pub sources: Vec<String>,
    /// The version of its program.
    pub version: String,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// When it was last heard of.
    pub seen_at: Timestamp,
    /// Until when it keeps what it has, unless it is renewed; `None` once it has lost that.
    pub lease_until: Option<Timestamp>,
    /// Whether its lease has not run out.
    pub is_alive: bool,
    /// Jobs that it has.
    pub running: u64,
}
