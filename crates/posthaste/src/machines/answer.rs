//! What a step answers.

use posthaste_core::MessageId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::CommandError;

/// A step that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Taken {
    /// Where the entity is since.
    pub state: String,
    /// How many steps it has taken, from 1.
    pub version: u64,
    /// The event that the step has left.
    pub event_id: Uuid,
    /// The messages that were enqueued with it, in their order.
    pub messages: Vec<MessageId>,
    answer: String,
}

/// The answer as it is kept for repeats and told to other languages.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    pub(super) machine: String,
    pub(super) entity_id: String,
    pub(super) fsm_state: String,
    pub(super) version: u64,
    pub(super) event_id: Uuid,
    pub(super) outbox_entries: Vec<Enqueued>,
}

#[derive(Deserialize, Serialize)]
pub(super) struct Enqueued {
    pub(super) outbox_id: MessageId,
    pub(super) topic: String,
}

impl Taken {
    /// The answer as JSON, the same bytes for every repeat: `machine`, `entityId`, `fsmState`,
    /// `version`, `eventId`, `outboxEntries` with an `outbox_id` and a `topic` each.
    pub fn answer(&self) -> &str {
        &self.answer
    }

    pub(super) fn read(text: String) -> Result<Self, CommandError> {
        let answer: Answer = serde_json::from_str(&text).map_err(|error| {
            CommandError::unreadable(format!("the answer of a step cannot be read: {error}"))
        })?;
        Ok(Self {
            state: answer.fsm_state,
            version: answer.version,
            event_id: answer.event_id,
            messages: answer.outbox_entries.iter().map(|entry| entry.outbox_id).collect(),
            answer: text,
        })
    }
}
