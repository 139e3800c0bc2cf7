//! Requests that are executed once, whatever their effect is.
//!
//! The decisions are the database's: on PostgreSQL a function's, on SQLite the conditions of the
//! statements, one after the other in a transaction that nobody else writes beside.

use std::{error::Error, fmt, time::Duration};

use posthaste_core::SchemaName;
use posthaste_store::statements::{PostgresCommands, SqliteCommands};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{
    EnqueueError, EnqueueErrorKind, Refusal,
    caller::{Answer, Caller, Value},
    error::Source,
};

const NAME_BYTES_MAX: usize = 512;

/// Keeps requests that are executed once. One per process is enough.
///
/// **Atomic**, for effects in the database: hand [`begin`](Self::begin) and
/// [`complete`](Self::complete) the transaction in which the effect stands. A twin waits for it, and
/// then gets the answer, or is the first itself if the transaction rolled back.
///
/// **Guarded**, for effects elsewhere: hand them a bare connection. `begin` then commits by itself and
/// gives this attempt a lease; a twin is told that the request is in progress; an attempt whose lease
/// has run out is taken over and cannot complete any more.
///
/// # Examples
#[cfg_attr(feature = "tokio-postgres", doc = "```no_run")]
#[cfg_attr(not(feature = "tokio-postgres"), doc = "```text")]
/// # use std::time::Duration;
/// # use posthaste::{Begun, Command, Commands};
/// # async fn pay(client: &mut tokio_postgres::Client, request: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
/// let commands = Commands::default();
/// let command = Command::new("payments", "request-17", request);
/// let transaction = client.transaction().await?;
/// match commands.begin(&transaction, &command, Duration::from_secs(60)).await? {
///     Begun::First | Begun::TakenOver => {
///         transaction.execute("update accounts set balance = balance - 5 where id = 1", &[]).await?;
///         let response = b"paid".to_vec();
///         commands.complete(&transaction, &command, &response).await?;
///         transaction.commit().await?;
///         Ok(response)
///     }
///     Begun::Repeat(response) => Ok(response),
///     Begun::InProgress { .. } => Err("ask again later".into()),
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Commands {
    postgres: PostgresCommands,
    sqlite: SqliteCommands,
}

/// One attempt at a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    scope: String,
    key: String,
    fingerprint: [u8; 32],
    owner: Uuid,
}

/// What became of a request that was begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// Execute it.
    First,
    /// Execute it; the attempt that had it before may have had its effect, or part of it.
    TakenOver,
    /// It was executed: this is its answer, byte for byte.
    Repeat(Vec<u8>),
    /// Another attempt has it.
    InProgress {
        /// How long nobody else may begin.
        lease_left: Duration,
    },
}

/// A call about a command that failed. In a transaction, roll back.
pub struct CommandError {
    kind: CommandErrorKind,
    source: Option<Source>,
}

/// What kind of failure it was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommandErrorKind {
    /// Posthaste refused what it was asked.
    Refused(Refusal),
    /// Another attempt has taken the request over: what this one did may be done twice, and its answer
    /// is not kept.
    TakenOver,
    /// The database or its client failed, as an enqueue would have.
    Failed(EnqueueErrorKind),
}

impl Command {
    /// An attempt at the request with these bytes, under a key of the caller's choice (1 to 512 bytes
    /// without control characters, like the scope). Another request under the same key is refused.
    pub fn new(scope: impl Into<String>, key: impl Into<String>, request: &[u8]) -> Self {
        let fingerprint = Sha256::digest(request).into();
        Self { scope: scope.into(), key: key.into(), fingerprint, owner: Uuid::now_v7() }
    }

    /// As PostgreSQL checks it.
    fn check(&self) -> Result<(), CommandError> {
        for (name, value) in [("scope", &self.scope), ("key", &self.key)] {
            if value.is_empty()
                || value.len() > NAME_BYTES_MAX
                || value.chars().any(char::is_control)
            {
                let rule = "1 to 512 bytes without control characters";
                return Err(refused(format!("{name} must be {rule}, not {value:.60?}")));
            }
        }
        Ok(())
    }

    fn named(&self) -> [Value<'_>; 2] {
        [Value::Text(Some(&self.scope)), Value::Text(Some(&self.key))]
    }
}

impl Commands {
    /// Commands in `schema`.
    pub fn new(schema: &SchemaName) -> Self {
        Self { postgres: PostgresCommands::new(schema), sqlite: SqliteCommands::new(schema) }
    }

    /// Begins a request, or says what became of it. Calling it again with the same command after an
    /// answer that was lost is safe. The lease, from 1 second to 1 day, matters only if this commits
    /// before the request is completed.
    ///
    /// # Errors
    /// [`Refusal::KeyTaken`] if the key stands for another request; or the database failed.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the request has begun: call it again with the same
    /// command, or let the lease run out.
    pub async fn begin<C: Caller>(
        &self,
        mut caller: C,
        command: &Command,
        lease: Duration,
    ) -> Result<Begun, CommandError> {
        let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        let [scope, key] = command.named();
        let rest = [Value::Bytes(&command.fingerprint), Value::Id(command.owner)];
        let values = [scope, key, rest[0], rest[1], Value::Number(lease_ms)];
        if !caller.is_sqlite()? {
            let answer = caller.call(&self.postgres.begin, &values).await?;
            return begun(answer.unwrap_or_default());
        }
        check_lease(lease)?;
        command.check()?;
        loop {
            if caller.call(&self.sqlite.insert, &values).await?.is_some() {
                return Ok(Begun::First);
            }
            // Gone in between, on a bare connection: begin anew.
            let Some(answer) = caller.call(&self.sqlite.look, &values[..4]).await? else {
                continue;
            };
            let is_free = matches!(answer.text.as_deref(), Some("first" | "taken over"));
            if !is_free || caller.call(&self.sqlite.take, &values).await?.is_some() {
                return begun(answer);
            }
        }
    }

    /// Keeps the answer (at most 1 MiB) for repeats. Twice with one answer is no fault.
    ///
    /// # Errors
    /// [`CommandErrorKind::TakenOver`] if another attempt has the request now; or the database
    /// failed.
    ///
    /// # Cancel safety
    /// As [`begin`](Self::begin).
    pub async fn complete<C: Caller>(
        &self,
        mut caller: C,
        command: &Command,
        response: &[u8],
    ) -> Result<(), CommandError> {
        let [scope, key] = command.named();
        let values = [scope, key, Value::Id(command.owner), Value::Bytes(response)];
        let sql = if caller.is_sqlite()? { &self.sqlite.complete } else { &self.postgres.complete };
        own(caller.call(sql, &values).await?)
    }

    /// Gives this attempt until `lease` from now.
    ///
    /// # Errors
    /// As [`complete`](Self::complete).
    pub async fn renew<C: Caller>(
        &self,
        mut caller: C,
        command: &Command,
        lease: Duration,
    ) -> Result<(), CommandError> {
        check_lease(lease)?;
        let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        let [scope, key] = command.named();
        let values = [scope, key, Value::Id(command.owner), Value::Number(lease_ms)];
        let sql = if caller.is_sqlite()? { &self.sqlite.renew } else { &self.postgres.renew };
        own(caller.call(sql, &values).await?)
    }

    /// Frees the key of a request that had no effect: the next attempt under it is the first.
    ///
    /// # Errors
    /// As [`complete`](Self::complete).
    pub async fn abandon<C: Caller>(
        &self,
        mut caller: C,
        command: &Command,
    ) -> Result<(), CommandError> {
        let [scope, key] = command.named();
        let values = [scope, key, Value::Id(command.owner)];
        let sql = if caller.is_sqlite()? { &self.sqlite.abandon } else { &self.postgres.abandon };
        own(caller.call(sql, &values).await?)
    }
}

impl Default for Commands {
    /// Commands in the schema `posthaste`.
    fn default() -> Self {
        Self::new(&SchemaName::default())
    }
}

fn begun(answer: Answer) -> Result<Begun, CommandError> {
    match answer.text.as_deref() {
        Some("first") => Ok(Begun::First),
        Some("taken over") => Ok(Begun::TakenOver),
        Some("repeat") => Ok(Begun::Repeat(answer.bytes.unwrap_or_default())),
        Some("in progress") => {
            let millis = answer.number.unwrap_or_default().max(0).unsigned_abs();
            Ok(Begun::InProgress { lease_left: Duration::from_millis(millis) })
        }
        Some("conflict") => {
            Err(CommandError { kind: CommandErrorKind::Refused(Refusal::KeyTaken), source: None })
        }
        other => {
            let source = format!("the schema's function begin_command answered {other:?}");
            let kind = CommandErrorKind::Failed(EnqueueErrorKind::Database);
            Err(CommandError { kind, source: Some(source.into()) })
        }
    }
}

/// As PostgreSQL checks it.
fn check_lease(lease: Duration) -> Result<(), CommandError> {
    if (Duration::from_secs(1)..=Duration::from_hours(24)).contains(&lease) {
        return Ok(());
    }
    Err(refused(format!("lease must be from 1 second to 1 day, not {lease:?}")))
}

fn refused(what: String) -> CommandError {
    let kind = CommandErrorKind::Refused(Refusal::Argument);
    CommandError { kind, source: Some(what.into()) }
}

fn own(answer: Option<Answer>) -> Result<(), CommandError> {
    if answer.is_some_and(|answer| answer.number == Some(1)) {
        return Ok(());
    }
    Err(CommandError { kind: CommandErrorKind::TakenOver, source: None })
}

impl CommandError {
    /// The kind of failure.
    pub const fn kind(&self) -> &CommandErrorKind {
        &self.kind
    }
}

impl From<EnqueueError> for CommandError {
    fn from(error: EnqueueError) -> Self {
        let (kind, source) = error.into_parts();
        let kind = match kind {
            EnqueueErrorKind::Refused(refusal) => CommandErrorKind::Refused(refusal),
            kind => CommandErrorKind::Failed(kind),
        };
        Self { kind, source }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            CommandErrorKind::Refused(refusal) => write!(f, "request refused ({})", refusal.remedy()),
            CommandErrorKind::TakenOver => f.write_str(
                "the request is not this attempt's any more: another has taken it over or completed \
                 it, and its answer counts",
            ),
            CommandErrorKind::Failed(kind) => write!(f, "request not executed ({})", kind.remedy()),
        }
    }
}

/// Leaves the cause out, as [`EnqueueError`]'s does.
impl fmt::Debug for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommandError")
            .field("kind", &self.kind)
            .field("has_source", &self.source.is_some())
            .finish()
    }
}

impl Error for CommandError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
