//! All SQL text of Posthaste, and the database I/O of the relay side, behind one seam: [`Store`].
//!
//! [`postgres`] and [`sqlite`] implement the seam and run one conformance suite. Without features
//! only [`statements`] remains: the texts that applications send inside their own transactions.
//! Nothing here knows sinks, HTTP or configuration files.

mod application;
mod background;
pub mod browse;
mod contracts;
#[doc(hidden)]
pub mod defect;
mod entities;
mod error;
#[doc(hidden)]
pub mod failpoint;
pub mod import;
mod incidents;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod job_list;
mod jobs;
mod model;
mod oversight;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod rewinding;
mod rewound;
pub mod statements;

#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use posthaste_core::{
    Epoch, Machine, Message, MessageId, Page, PageLimit, Place, RelayView, SchemaName, TickRef,
    Timestamp, TopicFilter, Window,
};
use uuid::Uuid;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub use crate::rewinding::rewind_handed_over;
pub use crate::{
    application::{Note, Work},
    background::{
        Advanced, Background, COUNTED_MAX, KEPT_MAX, Operation, OperationBegun, OperationCancelled,
        OperationClaim, OperationId, OperationKind, OperationSpec, OperationState, UNFINISHED_MAX,
    },
    browse::{
        Browse, BrowsePlace, ListedMessage, MessageDelivery, MessageDetail, MessageFailure,
        MessageFilter, MessagePage, MessageState,
    },
    contracts::{
        CONTRACT_BYTES_MAX, CONTRACTS_BYTES_MAX, CONTRACTS_MAX, ContractSet, ContractText,
        ContractsMark, StoredContract,
    },
    entities::{
        ContractRow, EVENTS_MAX, Entities, Entity, EntityFilter, MACHINES_MAX, StateEvent,
        StoredMachine, VERSIONS_MAX,
    },
    error::{StoreError, StoreErrorKind},
    import::{
        Copied, Import, ImportCounts, ImportRow, ImportSource, TableColumn, TableName,
        TopicTemplate,
    },
    incidents::{Incident, IncidentKey, Incidents, Telling},
    jobs::{
        Beat, Begun, Cancelled, Cron, CronDefinition, Ended, Execution, Handed, Job, JobDetail,
        JobFilter, JobId, JobPage, Jobs, Outcome, Receipt, Retried, WaitingJob, WorkerId,
        WorkerSpec,
    },
    model::{
        Acquired, Advance, Aside, AsideState, DeadLetter, DueMessages, FailedMessage, Lease,
        Leases, LogSize, Migration, MigrationReport, Moved, ParkedKey, Pin, Progress, ReplayChunk,
        Replayed, Request, RewindTo, Rewound, RingSizes, RoleNames, SchemaState, Selection,
        Settled, SlotCounts, Start, Status, StoredMessage, SubscriptionSpec, SubscriptionStatus,
        SweepReport, WrittenTopic,
    },
    oversight::{
        AuditEntry, AuditFilter, CENSUS_MAX, Census, DeadLetterFilter, DeadLetterGroup,
        DeadLetterGroups, DeadLetterPlace, DeadLetterRow, EntityCensus, FLEET_MAX, GROUPED_MAX,
        HeldLease, Order, Oversight, RelayStatus, WorkerStatus,
    },
    rewound::{Lineage, Rebased},
};

/// Whatever a store call answers.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// The relay's view of a database that holds a log.
///
/// Every call is bounded by the store's operation time-out. Dropping a call's future leaves no
/// open transaction behind; whether a write took effect is then unknown, as after a time-out.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// The source for logs and errors, without secrets: `postgres://host:5432/db (schema x)`.
    fn describe(&self) -> &str;

    /// Which migrations the database has and lacks.
    async fn schema_state(&self) -> Result<SchemaState>;

    /// Brings the schema up to date. Safe to run twice and from several processes at once.
    ///
    /// # Errors
    /// `NewerSchema` when the database knows a migration that this build does not.
    async fn migrate(&self) -> Result<MigrationReport>;

    /// Checks that the schema is the one this build reads and that the server can be written to.
    ///
    /// # Errors
    /// `MissingSchema`, `OlderSchema`, `NewerSchema`, `Standby`, `Privilege`.
    async fn check(&self) -> Result<()>;

    /// Names what deserves an operator's look before a relay begins, with the remedy.
    ///
    /// # Errors
    /// Where a promise would not hold: `Standby`, `Privilege`, `Invalid`.
    async fn preflight(&self) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Writes `messages`, already checked against the limits, in one transaction of its own.
    /// For the command line and for tests; applications enqueue in their own transactions.
    async fn append(&self, messages: &[Message]) -> Result<Vec<MessageId>>;

    /// The one object per process and source that looks at the log and ticks.
    fn ticker(&self) -> Box<dyn Ticker>;

    /// The random id of this log: the same in every process that uses it, and another one in every
    /// other log.
    async fn incarnation(&self) -> Result<Uuid>;

    /// The window from the tick `base` to the newest tick, or to `head` if given (to go on inside
    /// a window that was begun). `None` when no tick is newer than `base`.
    ///
    /// # Errors
    /// `Rewound` when `base` or `head` is not in the database: the source is another incarnation.
    async fn window(&self, base: TickRef, head: Option<TickRef>) -> Result<Option<Arc<Window>>>;

    /// The newest tick before a time on the database's clock; the virtual one before the first where the ticks do not
    /// reach as far back.
    async fn tick_before(&self, time: Timestamp) -> Result<TickRef>;

    /// Reads the next page of `window` above the position `after`. `None` when nothing of the
    /// window lies above it. A page may be empty: its reach still moves the place.
    async fn read(
        &self,
        window: &Window,
        after: i64,
        filter: &TopicFilter,
        limit: PageLimit,
    ) -> Result<Option<Page>>;

    /// As [`Store::read`], of the messages with this ordering key.
    async fn read_key(
        &self,
        window: &Window,
        after: i64,
        filter: &TopicFilter,
        key: &str,
        limit: PageLimit,
    ) -> Result<Option<Page>>;

    /// Creates the subscriptions that do not exist, at their configured start, and updates the
    /// filters of those that do.
    async fn reconcile(&self, specs: &[SubscriptionSpec]) -> Result<()>;

    /// Takes a subscription over for `holder`, for the time of `lease`, unless another holder's
    /// lease has not run out: raises its epoch, which fences every earlier holder, then reads its
    /// place. Times are the database's.
    async fn acquire(&self, subscription: &str, holder: &str, lease: Duration) -> Result<Acquired>;

    /// Prolongs every lease of `relay` that has not run out by `lease` from now, notes that it is
    /// alive, and tells of the leases of the subscriptions that it is configured for, and of
    /// every relay that was alive within `lease`. Durable when it returns.
    async fn renew(&self, relay: &RelayView, lease: Duration) -> Result<Leases>;

    /// Checks that the log is the one that `subscription` was read from: against its `place`, and
    /// against the place that this process has settled last, which a restored log does not know.
    ///
    /// # Errors
    /// `Rewound`, with what was found: nothing may be published before it is rebased.
    async fn confirm(
        &self,
        subscription: &str,
        place: &Place,
        remembered: Option<&Place>,
    ) -> Result<Lineage>;

    /// Checks that the log is the one that a sink's place was read from.
    ///
    /// # Errors
    /// `Rewound`, as [`Store::confirm`].
    async fn confirm_mark(&self, mark: &Place) -> Result<()>;

    /// What the log no longer holds of the messages that follow a sink's place, for people; `None`
    /// when it holds all of them. What has been emptied is known by ranges: they may have held
    /// nothing that the subscription reads.
    async fn gone(&self, mark: &Place) -> Result<Option<String>>;

    /// Notes that a subscription must not go on before it is rebased and why, and gives it up.
    /// Nothing happens once a later epoch was handed out; an earlier one than `epoch` is that of the
    /// log before it went back.
    async fn halt(&self, subscription: &str, epoch: Epoch, found: &str) -> Result<()>;

    /// Notes that the sink's places have been taken over after a rebase. Nothing happens under an
    /// older epoch.
    async fn adopted(&self, subscription: &str, epoch: Epoch) -> Result<()>;

    /// Records the place of a subscription, unless its epoch has been raised meanwhile (FENCED).
    async fn settle(&self, subscription: &str, epoch: Epoch, place: &Place) -> Result<Settled>;

    /// Changes what a subscription has set aside, and settles `place` with it if given: all of it
    /// or, under an older epoch, nothing (FENCED). Durable when it returns.
    async fn set_aside(
        &self,
        subscription: &str,
        epoch: Epoch,
        changes: &[Aside],
        place: Option<&Place>,
    ) -> Result<Settled>;

    /// All that a subscription has set aside.
    async fn aside(&self, subscription: &str) -> Result<AsideState>;

    /// Messages set aside whose next attempt is due, at most `limit`, the longest due first.
    async fn due_messages(&self, subscription: &str, limit: u32) -> Result<DueMessages>;

    /// Gives a subscription up after its last settle. Nothing happens under an older epoch.
    async fn release(&self, subscription: &str, epoch: Epoch) -> Result<()>;

    /// Forgets a relay that ends: the others share without it at once.
    async fn leave(&self, holder: &str) -> Result<()>;

    /// Moves scheduled messages that are due on the database's clock into the log, at most `limit`,
    /// in the order in which they are due. In one transaction, and not the one that ticks: a
    /// message is scheduled or in the log, at any moment and whatever is killed. While another
    /// process moves, this leaves it to that one.
    async fn move_due(&self, limit: u32) -> Result<Moved>;

    /// Empties slots whose messages every subscription has published, once they are older than
    /// the retention time or, the oldest first, while the log is above its size; and forgets idempotency tokens that are older than theirs. A second
    /// sweep at the same time does no harm.
    async fn sweep(&self) -> Result<SweepReport>;

    /// Counts and places, for `posthaste status` and the relay's gauges. Its work grows with the
    /// log and with the backlogs: nothing asks for it per message or per scrape.
    async fn status(&self) -> Result<Status>;

    /// The newest `limit` messages, oldest first, or those above the position `after`. Shows what
    /// is committed, in position order; it is not a reader of the log.
    async fn recent(&self, after: Option<i64>, limit: u32) -> Result<Vec<StoredMessage>>;

    /// All contracts that were pushed; `None` where they are those of the mark `known`, of which the
    /// default knows none. Cheap then, whatever their number: for asking every few seconds.
    async fn contracts(&self, known: &ContractsMark) -> Result<Option<ContractSet>> {
        let _ = known;
        Ok(None)
    }
}

/// What operators do by hand, with what they see and what goes on in the background. Every change leaves a row in the
/// audit trail, in its transaction.
#[async_trait]
pub trait Operations: Browse + Oversight + Background + Entities {
    /// Dead letters, the oldest failure first.
    async fn dead_letters(&self, which: &Selection, limit: u32) -> Result<Vec<DeadLetter>>;

    /// The topics of the newest `looked_at` messages, by name.
    async fn written_topics(&self, looked_at: u32) -> Result<Vec<WrittenTopic>>;

    /// Creates (or replaces) the view `name`, one row a message, with the columns `id`, `topic`,
    /// `key`, `payload`, `created_at` and `processed_at`, for queries that were written for a
    /// hand-made outbox. In PostgreSQL it stands in the first schema of the search path.
    async fn create_compatibility_view(&self, name: &SchemaName) -> Result<()>;

    /// Creates (or replaces) the function `initialize_fsm_with_outbox(p_entity_id, p_user_id,
    /// p_organization_id, p_idempotency_key, p_initiated_by, p_initial_state, p_job_data, p_metadata)`,
    /// which begins entities of a machine, for callers that were written for a hand-made coordinator.
    /// It stands in the first schema of the search path, and is its owner's to grant.
    ///
    /// # Errors
    /// `Invalid` when there is no such machine, and on SQLite, which knows no functions.
    async fn create_compatibility_function(&self, machine: &str) -> Result<()>;

    /// The statements that create group roles of these names and grant them what they need. Safe to
    /// run again.
    ///
    /// # Errors
    /// `Invalid` on SQLite, which knows no roles.
    fn roles_sql(&self, names: &RoleNames) -> Result<String>;

    /// Runs them.
    async fn create_roles(&self, names: &RoleNames) -> Result<()>;

    /// Makes dead letters due again with all their attempts before them, `rate` a second if given.
    /// Answers how many.
    async fn replay_dead_letters(
        &self,
        which: &Selection,
        rate: Option<f64>,
        request: &Request,
    ) -> Result<u64>;

    /// Deletes dead letters; keys that waited for them go on. Answers how many.
    async fn discard_dead_letters(&self, which: &Selection, request: &Request) -> Result<u64>;

    /// Has messages that the log still holds published again by the subscription `target`, beside
    /// its own stream: one piece of them. Messages that `target` has not come to yet are left out.
    async fn replay(
        &self,
        which: &Selection,
        target: &str,
        chunk: &ReplayChunk,
        request: &Request,
    ) -> Result<Replayed>;

    /// Cancels the scheduled messages with an id, or of those the one with a [number](ListedMessage::number), and
    /// answers whether one was still waiting.
    async fn cancel(&self, id: MessageId, number: Option<i64>, request: &Request) -> Result<bool>;

    /// Overwrites payload and headers of messages, in the log and where they are set aside or
    /// scheduled. Their places stay, and the header `posthaste-erased` says when. Answers how many of the log's.
    ///
    /// # Errors
    /// `Invalid` without ids and without a key: nobody means everything.
    async fn erase(&self, which: &Selection, request: &Request) -> Result<u64>;

    /// Adds a machine or replaces its definition. Its entities' rows in the application's table, where it
    /// has one, are from now on followed by what is known of them: deleting one deletes that.
    ///
    /// # Errors
    /// `Invalid` where an entity is in a state that the new definition lacks, or the table or one of
    /// its columns is not there; nothing is changed.
    async fn push_machine(&self, machine: &Machine, request: &Request) -> Result<()>;

    /// Does an application's work in a transaction of its own. The note stands in the audit trail if it is committed.
    ///
    /// # Errors
    /// The database's, and then it is not known whether the work was done.
    async fn work(&self, work: Box<dyn Work>, note: &Note, request: &Request) -> Result<()>;

    /// Adds contracts, all of them or none, and answers for each whether it is new. One that is there
    /// with the same schema, equal as JSON values, is left as it is. Whether the schemas are sound and
    /// compatible is the caller's to check.
    ///
    /// # Errors
    /// `Invalid` where a version is there with another schema, a text is no JSON or too long, or
    /// there would be more than [`CONTRACTS_MAX`] or [`CONTRACTS_BYTES_MAX`].
    async fn push_contracts(
        &self,
        contracts: &[ContractText],
        request: &Request,
    ) -> Result<Vec<bool>>;

    /// Removes a contract that was pushed by mistake, and answers whether it was there. Messages that
    /// name it are of an unknown version from then on.
    async fn remove_contract(&self, topic: &str, version: u32, request: &Request) -> Result<bool>;

    /// The columns of a table beside the log, for an import from it.
    ///
    /// # Errors
    /// `Invalid` where there is no such table, and on SQLite, which imports nothing.
    async fn table_columns(&self, table: &TableName) -> Result<Vec<TableColumn>>;

    /// Begins to copy an outbox that an application has kept itself into the log. Writes nothing
    /// yet.
    ///
    /// # Errors
    /// `Invalid` where the table cannot be read as it is described. `Conflict` where the table was
    /// created anew since rows of one with its name were copied.
    async fn import(&self, source: &ImportSource) -> Result<Box<dyn Import>>;

    /// Pauses a subscription, or lets it go on.
    async fn pause(&self, subscription: &str, paused: bool, request: &Request) -> Result<()>;

    /// Asks the relay that holds a subscription to hand it over, and all relays to leave it for `time`; with zero
    /// they may have it again at once. Answers who holds it still. It is a request: a relay may hold it nevertheless.
    async fn reserve(&self, subscription: &str, time: Duration) -> Result<Option<String>>;

    /// Moves a subscription's place back. What that would publish again is told at any time.
    ///
    /// # Errors
    /// `Conflict` while a relay holds it: [`rewind_handed_over`] asks that relay first.
    async fn rewind(&self, subscription: &str, to: RewindTo, request: &Request) -> Result<Rewound>;

    /// Accepts a log that was restored, copied or exchanged: what it says is settled stays settled,
    /// all else is published, and the next relay takes over the places that the sink keeps. Rows
    /// that were copied from another server get transaction ids of this one.
    ///
    /// # Errors
    /// `Conflict` while a relay holds the subscription, unless the request is forced or the log was
    /// copied, which no relay holds.
    async fn rebase(&self, subscription: &str, request: &Request) -> Result<Rebased>;

    /// Removes a subscription with all that it has set aside. A relay that still publishes it is
    /// fenced.
    ///
    /// # Errors
    /// `Conflict` while a relay holds it, unless the request is forced.
    async fn remove(&self, subscription: &str, request: &Request) -> Result<()>;
}

/// Looks at the log and takes ticks. Owned by one task.
#[async_trait]
pub trait Ticker: Send {
    /// Looks, and ticks if a message may have become visible since the newest tick. A tick is
    /// durable, with every commit that it shows, before this returns it.
    ///
    /// # Cancel safety
    /// Cancelling loses at most a look: the next call ticks.
    async fn advance(&mut self) -> Result<Advance>;
}
