//! Steps of entities, taken by the library that applications use, in a transaction that the store lends.

use std::{error::Error as _, time::Duration};

use async_trait::async_trait;
use posthaste::{
    CommandError, CommandErrorKind, EnqueueErrorKind, Machines, Outbox, Refusal, Step, Taken,
};
use posthaste_core::SchemaName;
use posthaste_store::{Note, Operations, Request, Work, sqlite::entity_version};
use tokio::sync::oneshot;

use crate::problem::{Code, Problem};

type Answer = Result<Taken, CommandError>;

/// A step on its way.
struct Transition {
    step: Step,
    /// The machine and the entity.
    of: [String; 2],
    answer: Option<oneshot::Sender<Answer>>,
}

impl Transition {
    /// Whether it was taken.
    fn tell(&mut self, answer: Answer) -> bool {
        let is_taken = answer.is_ok();
        // Nobody waits any more: it is taken all the same.
        let _ = self.answer.take().map(|sender| sender.send(answer));
        is_taken
    }
}

#[async_trait]
impl Work for Transition {
    async fn on_postgres(
        &mut self,
        transaction: &tokio_postgres::Transaction<'_>,
        schema: &SchemaName,
    ) -> bool {
        let answer = machines(schema).transition(transaction, &self.step).await;
        self.tell(answer)
    }

    fn on_sqlite(&mut self, connection: &rusqlite::Connection, schema: &SchemaName) -> bool {
        let [machine, entity] = &self.of;
        let before = entity_version(connection, schema, [machine, entity]).unwrap_or_default();
        let answer = machines(schema).transition_blocking(connection, &self.step);
        // An answer that is repeated is of a step that was noted when it was taken.
        let is_new = answer.as_ref().is_ok_and(|taken| taken.version > before);
        self.tell(answer) && is_new
    }
}

fn machines(schema: &SchemaName) -> Machines {
    Machines::new(Outbox::new(schema.clone()))
}

/// Takes a step in a transaction of its own, and notes who asked for it.
///
/// # Cancel safety
/// Dropped, it is not known whether the step was taken.
pub(crate) async fn take(
    store: &dyn Operations,
    step: Step,
    of: [String; 2],
    note: &Note,
    request: &Request,
) -> Result<Taken, Problem> {
    let (answer, answered) = oneshot::channel();
    store.work(Box::new(Transition { step, of, answer: Some(answer) }), note, request).await?;
    let taken = answered.await.map_err(|_never| Problem::internal())?;
    taken.map_err(Problem::from)
}

impl From<CommandError> for Problem {
    /// Refusals are the function's own words, which name the request's fields and the allowed steps; anything else goes
    /// to the log.
    fn from(error: CommandError) -> Self {
        let refusal = match error.kind() {
            CommandErrorKind::Refused(refusal) => *refusal,
            CommandErrorKind::Failed(
                EnqueueErrorKind::Conflict
                | EnqueueErrorKind::Unavailable
                | EnqueueErrorKind::Resources,
            ) => return Self::database_away(&error),
            _ => return Self::fault(&error),
        };
        let code = match refusal {
            Refusal::Argument => Code::InvalidField,
            Refusal::IllegalStep => Code::IllegalStep,
            Refusal::Moved => Code::EntityMoved,
            Refusal::KeyTaken => return Self::key_reused(),
            Refusal::Unknown => Code::NoEntity,
            Refusal::Guarded => Code::StepGuarded,
            Refusal::InProgress => {
                return Self::new(Code::Busy, words(&error)).retry_after(Duration::from_secs(1));
            }
            // Nothing begins here.
            _ => return Self::fault(&error),
        };
        Self::new(code, words(&error))
    }
}

/// What the function said.
fn words(error: &CommandError) -> String {
    let source = error.source();
    let told = source.and_then(|source| source.downcast_ref::<tokio_postgres::Error>());
    match told.and_then(tokio_postgres::Error::as_db_error) {
        Some(told) => told.message().to_owned(),
        None => source.map_or_else(|| error.to_string(), ToString::to_string),
    }
}
