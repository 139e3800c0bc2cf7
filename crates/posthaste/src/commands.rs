//! Requests that are executed once, whatever their effect is.
//!
//! The decisions are the database's: on PostgreSQL a function's, on SQLite the conditions of the
//! statements, one after the other in a transaction that nobody else writes beside.

#[cfg(feature = "redis-cache")]
pub(crate) mod cache;
pub(crate) mod waiting;

#[cfg(feature = "redis-cache")]
use std::time::Instant;
use std::{error::Error, fmt, time::Duration};

use posthaste_core::SchemaName;
use posthaste_store::statements::{PostgresCommands, SqliteCommands};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

#[cfg(feature = "redis-cache")]
use self::cache::{Cached, CommandCache};
#[cfg(feature = "_tokio")]
use self::waiting::Wait;
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
/// With a `CommandCache` (feature `redis-cache`), repeats need no connection to the database:
/// `answer`.
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
    #[cfg(feature = "redis-cache")]
    schema: SchemaName,
    #[cfg(feature = "redis-cache")]
    cache: Option<CommandCache>,
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
                let what = format!("{name} must be {rule}, not {value:.60?}");
                return Err(CommandError::argument(what));
            }
        }
        Ok(())
    }

    pub(crate) fn named(&self) -> [Value<'_>; 2] {
        [Value::Text(Some(&self.scope)), Value::Text(Some(&self.key))]
    }

    pub(crate) const fn owner(&self) -> Uuid {
        self.owner
    }
}

impl Commands {
    /// Commands in `schema`.
    pub fn new(schema: &SchemaName) -> Self {
        Self {
            postgres: PostgresCommands::new(schema),
            sqlite: SqliteCommands::new(schema),
            #[cfg(feature = "redis-cache")]
            schema: schema.clone(),
            #[cfg(feature = "redis-cache")]
            cache: None,
        }
    }

    /// The same with a cache before them.
    #[cfg(feature = "redis-cache")]
    #[must_use]
    pub fn with_cache(self, cache: CommandCache) -> Self {
        Self { cache: Some(cache), ..self }
    }

    /// Looks for the answer of a repeat in the cache, before there is a connection. Nothing means
    /// that the database has to be asked, with [`begin`](Self::begin).
    ///
    /// What `begin` answers to a repeat on PostgreSQL is kept for the next one, in one call of
    /// Redis, if it is certain to be committed: hand `begin` a bare connection, or make it the
    /// transaction's first statement that writes. On SQLite nothing is kept.
    ///
    /// # Errors
    /// [`Refusal::KeyTaken`] if the key stands for another request, or [`Refusal::Argument`] if
    /// this is no command. Never because of Redis: that is counted in [`CommandCache::counts`].
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    #[cfg(feature = "redis-cache")]
    pub async fn answer(&self, command: &Command) -> Result<Option<Vec<u8>>, CommandError> {
        command.check()?;
        let Some(cache) = &self.cache else { return Ok(None) };
        match cache.look(&self.schema, command).await {
            Cached::Answer(response) => Ok(Some(response)),
            Cached::AnotherRequest => Err(key_taken()),
            Cached::Nothing => Ok(None),
        }
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
        self.begin_over(&mut caller, command, lease).await
    }

    pub(crate) async fn begin_over<C: Caller>(
        &self,
        caller: &mut C,
        command: &Command,
        lease: Duration,
    ) -> Result<Begun, CommandError> {
        let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        let [scope, key] = command.named();
        let rest = [Value::Bytes(&command.fingerprint), Value::Id(command.owner)];
        let values = [scope, key, rest[0], rest[1], Value::Number(lease_ms)];
        if !caller.is_sqlite()? {
            #[cfg(feature = "redis-cache")]
            let since = Instant::now();
            let answer = caller.call(&self.postgres.begin, &values).await?.unwrap_or_default();
            #[cfg(feature = "redis-cache")]
            if let (Some("repeat"), Some(response)) = (answer.text.as_deref(), &answer.bytes) {
                self.keep(command, response, answer.number, since).await;
            }
            return begun(answer);
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

    /// [`begin`](Self::begin) of a guarded request whose twins wait: while another attempt has it,
    /// looks again after pauses from 10 ms to 500 ms, until there is an answer, the lease has run
    /// out (then this attempt takes over) or the time is up ([`Begun::InProgress`]). The longest
    /// wait is a day.
    ///
    /// Hand it a bare connection, which it keeps meanwhile ([`Wait`] is for those of a pool); on a
    /// transaction it would keep that open, and in one an atomic twin waits by itself. Runs on
    /// tokio, with its timer.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    ///
    /// # Cancel safety
    /// As [`begin`](Self::begin).
    #[cfg(feature = "_tokio")]
    pub async fn begin_or_wait<C: Caller>(
        &self,
        mut caller: C,
        command: &Command,
        lease: Duration,
        wait: Duration,
    ) -> Result<Begun, CommandError> {
        let mut wait = Wait::at_most(wait);
        loop {
            let begun = self.begin_over(&mut caller, command, lease).await?;
            let Begun::InProgress { lease_left } = begun else { return Ok(begun) };
            let Some(pause) = wait.pause(lease_left) else { return Ok(begun) };
            tokio::time::sleep(pause).await;
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
        own(self.complete_over(&mut caller, command, response).await?).map(drop)
    }

    async fn complete_over<C: Caller>(
        &self,
        caller: &mut C,
        command: &Command,
        response: &[u8],
    ) -> Result<Option<Answer>, CommandError> {
        let [scope, key] = command.named();
        let values = [scope, key, Value::Id(command.owner), Value::Bytes(response)];
        let sql = if caller.is_sqlite()? { &self.sqlite.complete } else { &self.postgres.complete };
        Ok(caller.call(sql, &values).await?)
    }

    /// Puts the answer into the cache, so that its first repeat already finds it there; without
    /// this, the first repeat does. To be called **after** the commit, on a bare connection, and
    /// with what [`complete`](Self::complete) was called with, which it calls again: the database
    /// has to say that the answer is committed, or it is not kept.
    ///
    /// # Errors
    /// As [`complete`](Self::complete). Never because of Redis.
    ///
    /// # Cancel safety
    /// The answer may be in the cache or not.
    #[cfg(feature = "redis-cache")]
    pub async fn remember<C: Caller>(
        &self,
        mut caller: C,
        command: &Command,
        response: &[u8],
    ) -> Result<(), CommandError> {
        let since = Instant::now();
        let answer = self.complete_over(&mut caller, command, response).await?;
        let number = own(answer)?;
        self.keep(command, response, number, since).await;
        Ok(())
    }

    /// Keeps an answer with which the database has given this number.
    #[cfg(feature = "redis-cache")]
    async fn keep(&self, command: &Command, response: &[u8], number: Option<i64>, since: Instant) {
        if let Some(cache) = &self.cache
            && number == Some(PostgresCommands::COMMITTED)
        {
            cache.keep(&self.schema, command, response, since).await;
        }
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
        own(caller.call(sql, &values).await?).map(drop)
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
        own(caller.call(sql, &values).await?).map(drop)
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
        Some("conflict") => Err(key_taken()),
        other => Err(CommandError::unreadable(format!(
            "the schema's function begin_command answered {other:?}"
        ))),
    }
}

/// As PostgreSQL checks it.
fn check_lease(lease: Duration) -> Result<(), CommandError> {
    if (Duration::from_secs(1)..=Duration::from_hours(24)).contains(&lease) {
        return Ok(());
    }
    let what = format!("lease must be from 1 second to 1 day, not {lease:?}");
    Err(CommandError::argument(what))
}

fn key_taken() -> CommandError {
    CommandErrorKind::Refused(Refusal::KeyTaken).into()
}

/// The number that the database gave, unless it is the one of somebody else's request.
fn own(answer: Option<Answer>) -> Result<Option<i64>, CommandError> {
    match answer.and_then(|answer| answer.number) {
        None | Some(0) => Err(CommandErrorKind::TakenOver.into()),
        number => Ok(number),
    }
}

impl CommandError {
    pub(crate) fn argument(what: String) -> Self {
        Self::refused(Refusal::Argument, what)
    }

    pub(crate) fn refused(refusal: Refusal, what: String) -> Self {
        Self { kind: CommandErrorKind::Refused(refusal), source: Some(what.into()) }
    }

    /// The database answered what it never should.
    pub(crate) fn unreadable(what: String) -> Self {
        let kind = CommandErrorKind::Failed(EnqueueErrorKind::Database);
        Self { kind, source: Some(what.into()) }
    }

    /// The kind of failure.
    pub const fn kind(&self) -> &CommandErrorKind {
        &self.kind
    }
}

impl From<CommandErrorKind> for CommandError {
    fn from(kind: CommandErrorKind) -> Self {
        Self { kind, source: None }
    }
}

impl From<EnqueueError> for CommandError {
    fn from(error: EnqueueError) -> Self {
        let said = error.to_string();
        let (kind, source) = error.into_parts();
        // Which message, and what is wrong with it.
        let is_invalid = matches!(kind, EnqueueErrorKind::Invalid(_));
        let source = source.or_else(|| is_invalid.then(|| said.into()));
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
