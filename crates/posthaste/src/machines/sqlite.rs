//! Steps on SQLite: what PostgreSQL leaves to functions, statement by statement.
//!
//! The caller's transaction has the only writer, so nothing moves between the statements. It is kept
//! from committing until the last of them has run: a step that fails, or is dropped, in the middle
//! leaves nothing that could be committed without the rest.

use std::time::Duration;

use posthaste_core::{
    HeaderObject, Message, MessageId,
    machine::{EntityTable, Machine, Refusal as Decision, Request},
};
use posthaste_store::statements::{SqliteMachines, SqliteWriter};
use serde::Serialize;
use serde_json::{Map, Value as Json};
use uuid::Uuid;

use super::{
    Kind, Machines, Step,
    answer::{Answer, Enqueued, Taken},
};
use crate::{
    Begun, Command, CommandError, CommandErrorKind, EnqueueErrorKind, Refusal,
    caller::{Caller, Value},
};

/// Nothing, in a transaction: what it has begun is seen by nobody else.
const LEASE: Duration = Duration::from_mins(1);

/// Where the entity is after the step, and what follows from it.
struct Moved {
    from: Option<String>,
    version: i64,
    user: Option<String>,
    topics: Vec<String>,
}

/// A message about a step, with the members that PostgreSQL gives it.
#[derive(Serialize)]
struct Told<'a> {
    machine: &'a str,
    entity_id: &'a str,
    event_id: Uuid,
    version: i64,
    from: Option<&'a str>,
    to: &'a str,
    initiated_by: Option<&'a str>,
    user_id: Option<&'a str>,
    organization_id: Option<&'a str>,
    metadata: &'a Map<String, Json>,
    at: &'a str,
}

impl Machines {
    pub(super) async fn take_on_sqlite<C: Caller>(
        &self,
        mut caller: C,
        kind: Kind,
        step: &Step,
    ) -> Result<Taken, CommandError> {
        let caller = &mut caller;
        let keys = caller.call(SqliteMachines::FOREIGN_KEYS, &[]).await?;
        let is_guarded = keys.is_some_and(|keys| keys.number == Some(1));
        if is_guarded && let Err(error) = caller.call(&self.sqlite.guard, &[]).await {
            return Err(match error.kind() {
                // Outside a transaction a deferred foreign key is checked at once.
                EnqueueErrorKind::Database => CommandError::argument(
                    "a step needs a transaction: begin one and hand it over".to_owned(),
                ),
                _ => error.into(),
            });
        }
        let taken = self.decide_and_write(caller, kind, step).await;
        if is_guarded {
            let after = if taken.is_ok() { &self.sqlite.lift } else { &self.sqlite.refuse };
            caller.call(after, &[]).await?;
        } else if taken.is_err() {
            // Fails where the database has rolled back by itself.
            let _ = caller.call(SqliteMachines::ROLLBACK, &[]).await;
        }
        taken
    }

    async fn decide_and_write<C: Caller>(
        &self,
        caller: &mut C,
        kind: Kind,
        step: &Step,
    ) -> Result<Taken, CommandError> {
        self.check(kind, step)?;
        let command = step.command(kind);
        if let Some(command) = &command {
            match self.commands.begin_over(caller, command, LEASE).await? {
                Begun::First | Begun::TakenOver => {}
                Begun::Repeat(answer) => {
                    return Taken::read(String::from_utf8_lossy(&answer).into_owned());
                }
                Begun::InProgress { .. } => {
                    let key = step.key.as_deref().unwrap_or_default();
                    let what = format!("the request with the key {key:?} is in progress elsewhere");
                    return Err(CommandError::refused(Refusal::InProgress, what));
                }
            }
        }
        let machine = self.machine(caller, &step.machine).await?;
        let moved = match kind {
            Kind::Start => self.begin_entity(caller, &machine, step).await?,
            Kind::Transition => self.advance_entity(caller, &machine, step).await?,
        };
        let answer = self.record(caller, step, &moved).await?;
        if let Some(command) = &command {
            self.complete(caller, command, step, answer.answer()).await?;
        }
        Ok(answer)
    }

    async fn machine<C: Caller>(
        &self,
        caller: &mut C,
        name: &str,
    ) -> Result<Machine, CommandError> {
        let found = caller.call(&self.sqlite.definition, &[Value::Text(Some(name))]).await?;
        let Some(definition) = found.and_then(|row| row.text) else {
            let remedy = "push its definition with `posthaste machines push`";
            let what = format!("there is no machine {name:?}: {remedy}");
            return Err(CommandError::refused(Refusal::Unknown, what));
        };
        serde_json::from_str(&definition).map_err(|error| {
            let what = format!("the definition of machine {name} cannot be read: {error}");
            CommandError::unreadable(what)
        })
    }

    async fn begin_entity<C: Caller>(
        &self,
        caller: &mut C,
        machine: &Machine,
        step: &Step,
    ) -> Result<Moved, CommandError> {
        machine.start(&step.state).map_err(|decision| decided(&decision))?;
        if let Some(table) = machine.entity() {
            require(caller, table, step).await?;
        }
        let [name, entity, organization] = named(step);
        let user = Value::Text(step.user.as_deref());
        let values = [name, entity, Value::Text(Some(&step.state)), user, organization];
        if caller.call(&self.sqlite.begin, &values).await?.is_some() {
            let user = step.user.clone();
            return Ok(Moved { from: None, version: 1, user, topics: Vec::new() });
        }
        let row = caller.call(&self.sqlite.entity, &[name, entity, organization]).await?;
        let Some(state) = row.and_then(|row| row.text) else { return Err(no_entity(step)) };
        let (entity, machine) = (&step.entity, &step.machine);
        let what =
            format!("entity {entity:?} of machine {machine} has begun already and is in {state}");
        Err(CommandError::refused(Refusal::Begun, what))
    }

    async fn advance_entity<C: Caller>(
        &self,
        caller: &mut C,
        machine: &Machine,
        step: &Step,
    ) -> Result<Moved, CommandError> {
        let [name, entity, organization] = named(step);
        let row = caller.call(&self.sqlite.entity, &[name, entity, organization]).await?;
        let found = row.and_then(|row| row.text);
        let current = found.as_deref().unwrap_or_default();
        let request = Request { by: step.by.as_deref(), metadata: Some(&step.metadata) };
        let topics = match machine.step(current, step.from.as_deref(), &step.state, &request) {
            Err(decision)
                if found.is_some() || matches!(decision, Decision::UnknownState { .. }) =>
            {
                return Err(decided(&decision));
            }
            Ok(rule) if found.is_some() => rule.messages.clone(),
            _ => return Err(no_entity(step)),
        };
        let values = [name, entity, Value::Text(Some(&step.state))];
        let row = caller.call(&self.sqlite.advance, &values).await?.unwrap_or_default();
        let user = step.user.clone().or(row.text);
        Ok(Moved { from: found, version: row.number.unwrap_or_default(), user, topics })
    }

    /// Writes the event, the messages of the machine and those of the caller.
    async fn record<C: Caller>(
        &self,
        caller: &mut C,
        step: &Step,
        moved: &Moved,
    ) -> Result<Taken, CommandError> {
        let event_id = Uuid::now_v7();
        let metadata = step.metadata_json();
        let [name, entity, organization] = named(step);
        let values = [
            name,
            entity,
            Value::Number(moved.version),
            Value::Id(event_id),
            Value::Text(moved.from.as_deref()),
            Value::Text(Some(&step.state)),
            Value::Text(step.by.as_deref()),
            Value::Text(moved.user.as_deref()),
            organization,
            Value::Text(step.correlation_id.as_deref()),
            Value::Text(Some(&metadata)),
        ];
        let at = caller.call(&self.sqlite.event, &values).await?.and_then(|row| row.text);
        let told = Told {
            machine: &step.machine,
            entity_id: &step.entity,
            event_id,
            version: moved.version,
            from: moved.from.as_deref(),
            to: &step.state,
            initiated_by: step.by.as_deref(),
            user_id: moved.user.as_deref(),
            organization_id: step.organization.as_deref(),
            metadata: &step.metadata,
            at: at.as_deref().unwrap_or_default(),
        };
        let of_machine = moved.topics.iter().map(|topic| Message::new(topic).json(&told));
        let mut outbox_entries = Vec::with_capacity(moved.topics.len() + step.messages.len());
        for message in of_machine.chain(step.messages.iter().cloned()) {
            let message = step.completed(message);
            let outbox_id = self.enqueue(caller, &message).await?;
            outbox_entries.push(Enqueued { outbox_id, topic: message.topic().to_owned() });
        }
        let answer = Answer {
            machine: step.machine.clone(),
            entity_id: step.entity.clone(),
            fsm_state: step.state.clone(),
            version: moved.version.unsigned_abs(),
            event_id,
            outbox_entries,
        };
        Taken::read(serde_json::to_string(&answer).expect("texts and numbers always serialise"))
    }

    async fn enqueue<C: Caller>(
        &self,
        caller: &mut C,
        message: &Message,
    ) -> Result<MessageId, CommandError> {
        let entry = self.outbox.entry(message)?;
        let statements: &SqliteWriter = &self.outbox.statements().sqlite;
        let headers = HeaderObject(message.header_pairs()).to_string();
        let token = message.idempotency_token();
        let values = [
            Value::Id(entry.id),
            Value::Text(Some(message.topic())),
            Value::Text(message.ordering_key()),
            Value::Bytes(message.payload()),
            Value::Text(Some(message.media_type())),
            Value::Text(Some(&headers)),
            Value::Text(message.correlation()),
            Value::Text(token),
            message.due().map_or(Value::Text(None), |due| Value::Number(due.0)),
        ];
        if entry.is_plain() {
            caller.call(&statements.insert, &values[..7]).await?;
            return Ok(entry.id);
        }
        caller.call(&statements.write_one, &values).await?;
        let Some(token) = token else { return Ok(entry.id) };
        let first = caller.call(&self.sqlite.token_id, &[Value::Text(Some(token))]).await?;
        let id = first.and_then(|row| row.bytes).and_then(|id| MessageId::from_slice(&id).ok());
        Ok(id.unwrap_or(entry.id))
    }

    async fn complete<C: Caller>(
        &self,
        caller: &mut C,
        command: &Command,
        step: &Step,
        answer: &str,
    ) -> Result<(), CommandError> {
        let [scope, key] = command.named();
        let [machine, entity, _] = named(step);
        let owner = Value::Id(command.owner());
        let values = [scope, key, owner, Value::Bytes(answer.as_bytes()), machine, entity];
        match caller.call(&self.sqlite.complete, &values).await? {
            Some(_) => Ok(()),
            None => Err(CommandErrorKind::TakenOver.into()),
        }
    }
}

impl Step {
    /// A message of the step, with what it leaves to the step.
    fn completed(&self, message: Message) -> Message {
        let message = match message.ordering_key() {
            None => message.key(&self.entity),
            Some(_) => message,
        };
        match (&self.correlation_id, message.correlation()) {
            (Some(id), None) => message.correlation_id(id),
            _ => message,
        }
    }
}

fn named(step: &Step) -> [Value<'_>; 3] {
    [
        Value::Text(Some(&step.machine)),
        Value::Text(Some(&step.entity)),
        Value::Text(step.organization.as_deref()),
    ]
}

/// Fails unless the application's table holds the entity.
async fn require<C: Caller>(
    caller: &mut C,
    table: &EntityTable,
    step: &Step,
) -> Result<(), CommandError> {
    let [_, entity, organization] = named(step);
    let values = [entity, organization];
    let values = if table.organization.is_some() { &values[..] } else { &values[..1] };
    match caller.call(&SqliteMachines::is_there(table), values).await? {
        Some(_) => Ok(()),
        None => Err(no_entity(step)),
    }
}

/// Says the same of an entity that is not there and of one of another organisation.
fn no_entity(step: &Step) -> CommandError {
    let what = format!("machine {} has no entity {:?}", step.machine, step.entity);
    CommandError::refused(Refusal::Unknown, what)
}

fn decided(decision: &Decision) -> CommandError {
    let refusal = match decision {
        Decision::UnknownState { .. } => Refusal::Unknown,
        Decision::NotInitial { .. } | Decision::Illegal { .. } => Refusal::IllegalStep,
        Decision::Moved { .. } => Refusal::Moved,
        Decision::NotBy { .. } | Decision::Metadata { .. } => Refusal::Guarded,
    };
    CommandError::refused(refusal, decision.to_string())
}
