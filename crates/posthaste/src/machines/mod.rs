//! Steps of entities: state, event, idempotency key and messages in the caller's transaction.
//!
//! On PostgreSQL one call of a function does all of it. SQLite has none: there the library decides,
//! with the same [`Machine`](crate::machine::Machine), between statements (`sqlite.rs`).

mod answer;
mod sqlite;
mod step;

use posthaste_store::statements::{PostgresMachines, SqliteMachines};

use self::step::Kind;
pub use self::{answer::Taken, step::Step};
use crate::{
    CommandError, Commands, Outbox,
    caller::{Caller, Value},
};

/// Takes entities through their state machines. One per process is enough.
///
/// The machines are those that `posthaste machines push` has written to the database. What its
/// messages are checked against is the outbox's.
///
/// # Examples
#[cfg_attr(feature = "tokio-postgres", doc = "```no_run")]
#[cfg_attr(not(feature = "tokio-postgres"), doc = "```text")]
/// # use posthaste::{Machines, Message, Step};
/// # async fn submit(client: &mut tokio_postgres::Client, course: &str) -> Result<(), Box<dyn std::error::Error>> {
/// let machines = Machines::default();
/// let transaction = client.transaction().await?;
/// transaction.execute("insert into courses (id) values ($1)", &[&course]).await?;
/// let step = Step::new("course", course, "pending")
///     .idempotency_key("request-17")
///     .by("api")
///     .message(Message::new("document-processing").json(&serde_json::json!({ "file": "a.pdf" })));
/// let taken = machines.start(&transaction, &step).await?;
/// transaction.commit().await?;
/// assert_eq!(taken.state, "pending");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Machines {
    outbox: Outbox,
    commands: Commands,
    postgres: PostgresMachines,
    sqlite: SqliteMachines,
}

impl Machines {
    /// Machines in the schema of `outbox`.
    pub fn new(outbox: Outbox) -> Self {
        let schema = outbox.schema();
        Self {
            commands: Commands::new(schema),
            postgres: PostgresMachines::new(schema),
            sqlite: SqliteMachines::new(schema),
            outbox,
        }
    }

    /// Begins an entity in the transaction that `caller` stands in. A repeat under the same
    /// idempotency key gets the first answer, byte for byte.
    ///
    /// # Errors
    /// The step is refused, and the cause says why: the machine does not begin in that state, there is
    /// no such entity, it has begun already, the key stands for another request, a message is
    /// invalid. Or the database failed. Either way the caller's transaction cannot commit any more:
    /// roll back.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the step is in the transaction: roll back.
    pub async fn start<C: Caller>(&self, caller: C, step: &Step) -> Result<Taken, CommandError> {
        self.take(caller, Kind::Start, step).await
    }

    /// Takes an entity to its next state in the transaction that `caller` stands in, after any other
    /// step of it that is under way. A repeat under the same idempotency key gets the first answer.
    ///
    /// # Errors
    /// As [`start`](Self::start); refused are a state that does not follow the entity's, one that is
    /// not where the step [expected](Step::from) it, and a step that lacks what its machine asks for.
    ///
    /// # Cancel safety
    /// As [`start`](Self::start).
    pub async fn transition<C: Caller>(
        &self,
        caller: C,
        step: &Step,
    ) -> Result<Taken, CommandError> {
        self.take(caller, Kind::Transition, step).await
    }

    async fn take<C: Caller>(
        &self,
        mut caller: C,
        kind: Kind,
        step: &Step,
    ) -> Result<Taken, CommandError> {
        if caller.is_sqlite()? {
            return self.take_on_sqlite(caller, kind, step).await;
        }
        if let Err(error) = self.check(kind, step) {
            let reason = error.to_string();
            // Fails, as it is meant to.
            let _ = caller.call(&self.postgres.refuse, &[Value::Text(Some(&reason))]).await;
            return Err(error);
        }
        let (messages, metadata) = (step.messages_json(), step.metadata_json());
        let texts = [
            Some(step.machine.as_str()),
            Some(&step.entity),
            Some(&step.state),
            step.key.as_deref(),
            step.by.as_deref(),
            step.user.as_deref(),
            step.organization.as_deref(),
            Some(&messages),
            Some(&metadata),
            step.correlation_id.as_deref(),
            step.from.as_deref(),
        ];
        let values = texts.map(Value::Text);
        let answer = match kind {
            Kind::Start => caller.call(&self.postgres.start, &values[..10]).await?,
            Kind::Transition => caller.call(&self.postgres.transition, &values).await?,
        };
        Taken::read(answer.and_then(|answer| answer.text).unwrap_or_default())
    }

    /// What the database would refuse, or could not know.
    fn check(&self, kind: Kind, step: &Step) -> Result<(), CommandError> {
        step.check(kind)?;
        self.outbox.entries(&step.messages)?;
        Ok(())
    }
}

impl Default for Machines {
    /// Machines in the schema `posthaste`, with the default limits.
    fn default() -> Self {
        Self::new(Outbox::default())
    }
}
