//! Operations in the background: what concerns more messages than one transaction should, done in pieces by whoever
//! takes it up.
//!
//! An operation is a row. Each piece and the progress that it makes commit together, so an operation whose runner is
//! killed is gone on with where it stood. A lease on the database's clock says who runs it, and an epoch keeps out
//! whoever did before.

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod spec;

use std::{fmt, str::FromStr, time::Duration};

use async_trait::async_trait;
use posthaste_core::Timestamp;
use uuid::Uuid;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) use self::spec::{from_json, selection as selection_json, to_json};
use crate::{DeadLetterFilter, Request, Result, Store};

/// Operations that may wait or run at a time.
pub const UNFINISHED_MAX: u32 = 100;
/// Operations that are kept once they are over: the newest ones.
pub const KEPT_MAX: u32 = 1_000;
/// Messages up to which a replay of the log is counted before it begins.
pub const COUNTED_MAX: u32 = 100_000;

/// Identifies an operation.
pub type OperationId = Uuid;

/// Operations in the background, as people and their runners see them.
#[async_trait]
pub trait Background: Store {
    /// Begins an operation on what there is now, and notes it; or counts what it would concern.
    ///
    /// # Errors
    /// `Invalid` where the subscription that is to publish messages again does not exist.
    async fn begin_operation(
        &self,
        spec: &OperationSpec,
        request: &Request,
    ) -> Result<OperationBegun>;

    /// Operations, the newest first: those before the number `before`, if given.
    async fn operations(&self, before: Option<i64>, limit: u32) -> Result<Vec<Operation>>;

    /// One operation.
    async fn operation(&self, id: OperationId) -> Result<Option<Operation>>;

    /// Has an operation end before its next piece.
    async fn cancel_operation(
        &self,
        id: OperationId,
        request: &Request,
    ) -> Result<OperationCancelled>;

    /// Takes up the oldest operation that nobody runs, for `lease`. Durable when it returns.
    async fn claim_operation(
        &self,
        runner: &str,
        lease: Duration,
    ) -> Result<Option<OperationClaim>>;

    /// Does the next piece of an operation, at most `rows_max` messages, and keeps it for `lease`. Piece, progress
    /// and the note of its end are one transaction.
    async fn advance_operation(
        &self,
        claim: &OperationClaim,
        rows_max: u32,
        lease: Duration,
    ) -> Result<Advanced>;

    /// Gives an operation up, so that another runner may take it up at once. Nothing happens under an older epoch.
    async fn release_operation(&self, claim: &OperationClaim) -> Result<()>;

    /// Ends an operation that cannot go on, with the reason for people. Nothing happens under an older epoch.
    async fn fail_operation(&self, claim: &OperationClaim, problem: &str) -> Result<()>;
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// Makes dead letters due again, each once, also where one fails again meanwhile.
    ReplayDeadLetters,
    /// Gives dead letters up.
    DiscardDeadLetters,
    /// Has messages of the log published again.
    ReplayMessages,
}

impl OperationKind {
    /// All of them.
    pub const ALL: [Self; 3] =
        [Self::ReplayDeadLetters, Self::DiscardDeadLetters, Self::ReplayMessages];

    /// As programs compare it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReplayDeadLetters => "replay-dead-letters",
            Self::DiscardDeadLetters => "discard-dead-letters",
            Self::ReplayMessages => "replay-messages",
        }
    }

    /// What the audit trail calls it, whoever does it in how many pieces.
    pub const fn action(self) -> &'static str {
        match self {
            Self::ReplayDeadLetters => "replay dead letters",
            Self::DiscardDeadLetters => "discard dead letters",
            Self::ReplayMessages => "replay",
        }
    }
}

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationState {
    /// Nobody has taken it up yet.
    Waiting,
    /// It has been taken up.
    Running,
    /// It has been through all.
    Done,
    /// Somebody ended it before that.
    Cancelled,
    /// It could not go on.
    Failed,
}

impl OperationState {
    const ALL: [Self; 5] =
        [Self::Waiting, Self::Running, Self::Done, Self::Cancelled, Self::Failed];

    /// As programs compare it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// Whether it is over.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::Failed)
    }
}

/// A word that names no kind or state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such word")]
pub struct UnknownWord;

impl FromStr for OperationKind {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(UnknownWord)
    }
}

impl FromStr for OperationState {
    type Err = UnknownWord;

    fn from_str(text: &str) -> Result<Self, UnknownWord> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(UnknownWord)
    }
}

impl fmt::Display for OperationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an operation is to do. It never changes.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationSpec {
    /// What it does.
    pub kind: OperationKind,
    /// To which messages. Of the log it looks at no reasons and groups.
    pub filter: DeadLetterFilter,
    /// Messages a second; `None` for at once.
    pub rate: Option<f64>,
    /// The subscription that publishes messages of the log again.
    pub target: Option<String>,
}

/// An operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// Operations are numbered in the order in which they began.
    pub n: i64,
    /// What it does.
    pub spec: OperationSpec,
    /// Who began it.
    pub actor: String,
    /// Where it stands.
    pub state: OperationState,
    /// Whether somebody wants it to end.
    pub is_cancel_wanted: bool,
    /// How many messages it concerned when it began; `None` above [`COUNTED_MAX`].
    pub total: Option<u64>,
    /// How many it is done with. What others take away meanwhile is not among them.
    pub done: u64,
    /// Who runs it.
    pub runner: Option<String>,
    /// Why it could not go on.
    pub problem: Option<String>,
    /// When it began.
    pub began_at: Timestamp,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
}

/// What came of an operation that was to begin.
#[derive(Clone, Debug, PartialEq)]
pub enum OperationBegun {
    /// It waits for a runner.
    Begun(Box<Operation>),
    /// It would concern so many messages; `None` above [`COUNTED_MAX`].
    WouldConcern(Option<u64>),
    /// [`UNFINISHED_MAX`] wait or run.
    TooMany,
}

/// What came of an operation that was to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationCancelled {
    /// It ends before its next piece.
    Wanted,
    /// It was over.
    Over(OperationState),
    /// There is no such operation.
    Unknown,
}

/// A runner's right to an operation.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationClaim {
    /// The operation, as it was when it was taken up.
    pub operation: Operation,
    /// Under which epoch.
    pub epoch: i64,
}

/// What came of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advanced {
    /// It goes on after this wait.
    Going(Duration),
    /// It is over.
    Over(OperationState),
    /// Another runner has it. Nothing was done.
    Lost,
}

/// The pace of an operation with a rate: pieces of a second, each behind the one before.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) mod pace {
    use std::time::Duration;

    /// A piece is begun so long before its first message is due.
    const AHEAD_SECONDS: f64 = 0.5;
    /// Longest wait between two looks at an operation, which also prolong its lease.
    const WAIT_SECONDS_MAX: f64 = 2.0;

    /// How many messages the next piece may have.
    pub(crate) fn rows(rate: Option<f64>, rows_max: u32) -> u32 {
        match rate {
            Some(rate) if rate < f64::from(rows_max) => (rate.ceil() as u32).max(1),
            _ => rows_max.max(1),
        }
    }

    /// How long to wait yet for a piece whose first message is due in so many seconds; `None` to begin it.
    pub(crate) fn wait(due_in: f64) -> Option<Duration> {
        let wait = (due_in - AHEAD_SECONDS).min(WAIT_SECONDS_MAX);
        (wait > 0.0).then(|| Duration::try_from_secs_f64(wait).unwrap_or_default())
    }

    /// For how many seconds a piece of so many messages keeps the next one waiting.
    pub(crate) fn seconds(rate: Option<f64>, messages: u64) -> f64 {
        rate.map_or(0.0, |rate| messages as f64 / rate)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn pieces_last_about_a_second_and_follow_each_other() {
            assert_eq!(rows(None, 1_000), 1_000);
            assert_eq!(rows(Some(1e12), 1_000), 1_000);
            assert_eq!(rows(Some(2.5), 1_000), 3);
            assert_eq!(rows(Some(0.001), 1_000), 1);
            assert_eq!(wait(0.4), None);
            assert_eq!(wait(-7.0), None);
            assert_eq!(wait(1.5), Some(Duration::from_secs(1)));
            assert_eq!(wait(1e300), Some(Duration::from_secs(2)));
            assert!(seconds(None, 7).abs() < 1e-9 && (seconds(Some(2.0), 7) - 3.5).abs() < 1e-9);
        }
    }
}
