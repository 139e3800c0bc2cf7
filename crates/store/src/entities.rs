//! Machines with their entities, and contracts, as people see them. Nothing here changes anything, and every answer
//! has a bound.

use async_trait::async_trait;
use posthaste_core::Timestamp;
use uuid::Uuid;

use crate::{Result, Store, StoredContract};

/// Machines that are told of, and states of one that are counted.
pub const MACHINES_MAX: u32 = 1_000;
/// Steps of an entity that are told of: the newest ones.
pub const EVENTS_MAX: u32 = 200;
/// Versions of a contract that are told of: the newest ones.
pub const VERSIONS_MAX: u32 = 1_000;

/// Which entities are meant: those that meet every condition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EntityFilter<'a> {
    /// In this state.
    pub state: Option<&'a str>,
    /// Of one of these organisations.
    pub organizations: Option<&'a [String]>,
    /// Behind this id, for the next page.
    pub after: Option<&'a str>,
}

/// Machines, entities and contracts.
#[async_trait]
pub trait Entities: Store {
    /// Machines that were pushed, by name.
    async fn machines(&self) -> Result<Vec<StoredMachine>>;

    /// One machine, with how many of its entities are in each state, by state.
    async fn machine(&self, name: &str) -> Result<Option<(StoredMachine, Vec<(String, u64)>)>>;

    /// Entities of a machine, by id.
    async fn entities(
        &self,
        machine: &str,
        which: &EntityFilter<'_>,
        limit: u32,
    ) -> Result<Vec<Entity>>;

    /// One entity, with its newest [`EVENTS_MAX`] steps, the newest first.
    async fn entity(&self, machine: &str, id: &str) -> Result<Option<(Entity, Vec<StateEvent>)>>;

    /// Contracts by topic and version, without their schemas: those behind `after`, if given.
    async fn contract_page(
        &self,
        after: Option<(&str, u32)>,
        limit: u32,
    ) -> Result<Vec<ContractRow>>;

    /// A contract of a topic, the newest unless a version is given, and the newest [`VERSIONS_MAX`] versions that
    /// there are, the newest first.
    async fn contract(
        &self,
        topic: &str,
        version: Option<u32>,
    ) -> Result<Option<(StoredContract, Vec<u32>)>>;
}

/// A machine as it was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMachine {
    /// Its name.
    pub name: String,
    /// Its definition: JSON.
    pub definition: String,
    /// When it was pushed last.
    pub pushed_at: Timestamp,
}

/// An entity of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entity {
    /// Its id.
    pub id: String,
    /// Where it is.
    pub state: String,
    /// Counts its steps, from 1.
    pub version: i64,
    /// Whose it is.
    pub user: Option<String>,
    /// Of which organisation.
    pub organization: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it took its last step.
    pub changed_at: Timestamp,
}

/// A step of an entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateEvent {
    /// Its id.
    pub id: Uuid,
    /// Which step, from 1.
    pub version: i64,
    /// From where; `None` where the entity began.
    pub from: Option<String>,
    /// To where.
    pub to: String,
    /// Who took it.
    pub initiated_by: Option<String>,
    /// What ties it to others.
    pub correlation_id: Option<String>,
    /// What was said of it: JSON.
    pub metadata: String,
    /// When.
    pub at: Timestamp,
}

/// A contract without its schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContractRow {
    /// The topic.
    pub topic: String,
    /// The version, from 1.
    pub version: u32,
    /// How long its schema is.
    pub schema_bytes: u64,
    /// When it was pushed.
    pub pushed_at: Timestamp,
}
