//! A step as an application asks for it, and how it is written down.

use std::fmt::Write as _;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use posthaste_core::{HeaderObject, Message};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{Command, CommandError, time::utc};

const FIELD_BYTES_MAX: usize = 256;
const METADATA_BYTES_MAX: usize = 65_536;

/// Which of the two it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Start,
    Transition,
}

/// One step of an entity: where it begins, or where it goes.
///
/// Names and ids have 1 to 256 bytes without control characters.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub(super) machine: String,
    pub(super) entity: String,
    pub(super) state: String,
    pub(super) from: Option<String>,
    pub(super) key: Option<String>,
    pub(super) by: Option<String>,
    pub(super) user: Option<String>,
    pub(super) organization: Option<String>,
    pub(super) correlation_id: Option<String>,
    pub(super) metadata: Map<String, Value>,
    pub(super) messages: Vec<Message>,
}

impl Step {
    /// A step of an entity to `state`, or the first one of its life.
    pub fn new(
        machine: impl Into<String>,
        entity: impl Into<String>,
        state: impl Into<String>,
    ) -> Self {
        Self {
            machine: machine.into(),
            entity: entity.into(),
            state: state.into(),
            from: None,
            key: None,
            by: None,
            user: None,
            organization: None,
            correlation_id: None,
            metadata: Map::new(),
            messages: Vec::new(),
        }
    }

    /// Refuses the step where the entity is in another state: somebody was faster. For transitions.
    #[must_use]
    pub fn from(self, state: impl Into<String>) -> Self {
        Self { from: Some(state.into()), ..self }
    }

    /// The step is taken once under this key, within its machine and organisation.
    #[must_use]
    pub fn idempotency_key(self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// Who asks for it, as the machine's guards know them.
    #[must_use]
    pub fn by(self, initiator: impl Into<String>) -> Self {
        Self { by: Some(initiator.into()), ..self }
    }

    /// For which user.
    #[must_use]
    pub fn user(self, id: impl Into<String>) -> Self {
        Self { user: Some(id.into()), ..self }
    }

    /// Of which organisation: an entity of another one is no entity.
    #[must_use]
    pub fn organization(self, id: impl Into<String>) -> Self {
        Self { organization: Some(id.into()), ..self }
    }

    /// What the event and the messages belong to.
    #[must_use]
    pub fn correlation_id(self, id: impl Into<String>) -> Self {
        Self { correlation_id: Some(id.into()), ..self }
    }

    /// Adds a member to what the event says about the step; at most 64 KiB together.
    #[must_use]
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Adds a message that is enqueued with the step, behind those of the machine. Its key is the
    /// entity, and its correlation id the step's, unless it has its own.
    #[must_use]
    pub fn message(mut self, message: Message) -> Self {
        self.messages.push(message);
        self
    }

    /// As PostgreSQL checks it.
    pub(super) fn check(&self, kind: Kind) -> Result<(), CommandError> {
        let fields = [
            ("machine", Some(&self.machine)),
            ("entity_id", Some(&self.entity)),
            ("state", Some(&self.state)),
            ("from_state", self.from.as_ref()),
            ("idempotency_key", self.key.as_ref()),
            ("initiated_by", self.by.as_ref()),
            ("user_id", self.user.as_ref()),
            ("organization_id", self.organization.as_ref()),
            ("correlation_id", self.correlation_id.as_ref()),
        ];
        for (name, value) in fields {
            let Some(value) = value else { continue };
            let is_bounded = (1..=FIELD_BYTES_MAX).contains(&value.len());
            if !is_bounded || value.chars().any(char::is_control) {
                let rule = "1 to 256 bytes without control characters";
                return Err(CommandError::argument(format!(
                    "{name} must be {rule}, not {value:.60?}"
                )));
            }
        }
        if kind == Kind::Start && self.from.is_some() {
            let what = "from_state is for transitions: an entity that begins was nowhere before";
            return Err(CommandError::argument(what.to_owned()));
        }
        let bytes = self.metadata_json().len();
        if bytes > METADATA_BYTES_MAX {
            let rule = "at most 65536 bytes";
            return Err(CommandError::argument(format!(
                "metadata must be {rule}, not {bytes} bytes"
            )));
        }
        Ok(())
    }

    pub(super) fn metadata_json(&self) -> String {
        Value::from(self.metadata.clone()).to_string()
    }

    /// The argument `messages` of the functions. Payloads go as they are, whatever they hold.
    pub(super) fn messages_json(&self) -> String {
        let mut json = String::from("[");
        for (nth, message) in self.messages.iter().enumerate() {
            let comma = if nth == 0 { "" } else { "," };
            let entry = Entry {
                topic: message.topic(),
                payload_base64: BASE64_STANDARD.encode(message.payload()),
                key: message.ordering_key(),
                headers: HeaderObject(message.header_pairs()),
                content_type: message.media_type(),
                correlation_id: message.correlation(),
                message_id: message.message_id().map(|id| id.to_string()),
                token: message.idempotency_token(),
                deliver_at: message.due().map(utc),
            };
            let entry = serde_json::to_string(&entry).expect("texts always serialise");
            write!(json, "{comma}{entry}").expect("a string takes what is written");
        }
        json.push(']');
        json
    }

    /// The request under the step's key.
    pub(super) fn command(&self, kind: Kind) -> Option<Command> {
        let organization = self.organization.as_ref();
        let of =
            organization.map_or_else(String::new, |organization| format!(" of {organization}"));
        let kind = match kind {
            Kind::Start => "start",
            Kind::Transition => "transition",
        };
        let request = json!({
            "kind": kind, "entity_id": self.entity, "from": self.from, "to": self.state,
            "initiated_by": self.by, "user_id": self.user, "messages": self.messages_json(),
            "metadata": self.metadata,
        });
        let scope = format!("machine {}{of}", self.machine);
        Some(Command::new(scope, self.key.as_ref()?, request.to_string().as_bytes()))
    }
}

#[derive(Serialize)]
struct Entry<'a> {
    topic: &'a str,
    payload_base64: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    headers: HeaderObject<'a>,
    content_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_at: Option<String>,
}
