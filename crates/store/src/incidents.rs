//! Incidents: what somebody has been told of, so that it is told once, whoever notices it and whatever is restarted.

use std::time::Duration;

use async_trait::async_trait;
use posthaste_core::Timestamp;

use crate::{Result, Store};

/// What an incident is: a condition, and what it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IncidentKey {
    /// The condition; 1 to 64 bytes.
    pub condition: String,
    /// What it is about, such as a subscription; at most 256 bytes, and empty where it is about everything.
    pub subject: String,
}

/// A condition that holds, or whose end nobody has been told of yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// What it is.
    pub key: IncidentKey,
    /// When it was noticed.
    pub opened_at: Timestamp,
    /// Whether somebody has been told of it.
    pub is_told: bool,
    /// How long ago a process saw that it holds, if one has said so.
    pub seen_before: Option<Duration>,
}

/// What became of telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// People know that it has begun.
    Begun,
    /// People know that it is over: it is forgotten.
    Over,
    /// It could not be told: anybody may try.
    Failed,
}

/// Who tells what. Times are the database's.
#[async_trait]
pub trait Incidents: Store {
    /// All incidents, by their keys.
    async fn incidents(&self) -> Result<Vec<Incident>>;

    /// Notes that an incident has begun. Answers when it was noticed, if it is the caller's to tell, within `claim`:
    /// [`Incidents::tell_incident`] says what became of it, and without that it is anybody's afterwards.
    async fn open_incident(&self, key: &IncidentKey, claim: Duration) -> Result<Option<Timestamp>>;

    /// Notes that an incident is over, and answers as [`Incidents::open_incident`] does. One that could not be told
    /// is forgotten; one whose teller is gone may have been told, and so its end is told as well.
    async fn close_incident(&self, key: &IncidentKey, claim: Duration)
    -> Result<Option<Timestamp>>;

    /// Notes that an incident's condition holds still, as the caller sees it. Nothing where there is no such incident.
    async fn see_incident(&self, key: &IncidentKey) -> Result<()>;

    /// Notes what became of an incident that was the caller's to tell.
    async fn tell_incident(&self, key: &IncidentKey, telling: Telling) -> Result<()>;
}
