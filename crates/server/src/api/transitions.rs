//! Steps of entities, by hand or by a service that has no connection to the database.

use std::sync::Arc;

use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use posthaste::{Step, Taken};
use posthaste_store::Note;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{filters::Of, jobs, machines::no_machine, shown::as_json, submission::Mark};
use crate::{
    app::App,
    extract::{Json, OfEntity},
    problem::{Code, Problem},
    steps,
    tokens::Principal,
};

/// Bytes of a name or an id.
const FIELD_BYTES: std::ops::RangeInclusive<usize> = 1..=256;
/// Bytes of what an event says, as JSON.
const METADATA_BYTES_MAX: usize = 65_536;

/// A step to be taken.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(crate) struct NewTransition {
    /// To which state.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    to: String,
    /// Only from this state: refused where somebody was faster.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    from: Option<String>,
    /// Of which organisation the entity is; needed where it has one.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    organization_id: Option<String>,
    /// For which user.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    user_id: Option<String>,
    /// What ties the step and its messages to others.
    #[schema(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    correlation_id: Option<String>,
    /// What the event says of the step: an object of at most 64 KiB, without the character U+0000.
    #[serde(default)]
    metadata: Map<String, Value>,
    /// Say what would happen, and change nothing.
    #[serde(default)]
    dry_run: bool,
}

/// A step that was taken.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Transitioned {
    /// The machine.
    machine: String,
    /// The entity.
    id: String,
    /// Where it is since.
    state: String,
    /// Counts its steps, from 1.
    version: u64,
    /// The event that the step has left.
    event_id: Uuid,
    /// The messages that were enqueued with it.
    messages: Vec<Uuid>,
    /// Nothing was changed.
    dry_run: bool,
}

/// Take an entity on
///
/// State, event and the machine's messages are committed together when this answers. The initiator that the machine's
/// guards know is the name of the token. It stands in the audit trail as well. With an `Idempotency-Key` it may be
/// repeated: it answers the first step, whatever the entity has done since.
#[utoipa::path(post, path = "/api/v1/machines/{name}/entities/{id}/transition", tag = "machines",
    params(("name" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The machine's name"),
        ("id" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The entity's id"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 128, pattern = r"^[!-~]+$",
            description = "1 to 128 visible ASCII characters; a repetition with the same body answers the first step")),
    request_body = NewTransition,
    responses((status = 200, description = "It is committed", body = Transitioned),
        (status = 409, description = "`illegal-step`: the machine has no such step. `entity-moved`: it is not in `from` any more")))]
pub(crate) async fn transition(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfEntity(machine, id): OfEntity,
    headers: HeaderMap,
    body: Json<NewTransition>,
) -> Result<Response, Problem> {
    let Json { value, bytes, _room } = body;
    let mark = match headers.get(jobs::IDEMPOTENCY_KEY) {
        Some(key) => Some(Mark::new(&principal.name, key.to_str().unwrap_or_default(), &bytes)?),
        None => None,
    };
    value.check()?;
    if !principal.knows_organization(value.organization_id.as_deref()) {
        let own = principal.organizations().unwrap_or_default().join(", ");
        let detail = format!("name the entity's organisation, one of the token's: {own}");
        return Err(Problem::of(Code::OrganizationNotAllowed, "organization_id", detail));
    }
    if [&machine, &id].into_iter().any(|name| !FIELD_BYTES.contains(&name.len())) {
        return Err(Problem::new(Code::NoEntity, "names and ids have 1 to 256 bytes"));
    }
    let request = jobs::request(&principal, value.dry_run);
    let detail = json!({ "machine": machine, "entity": id, "to": value.to }).to_string();
    let note = Note { action: "transition", detail };
    let (to, is_dry_run) = (value.to.clone(), value.dry_run);
    let of = [machine.clone(), id.clone()];
    let step = value.step(&machine, &id, &principal, mark.as_ref());
    let taken = match steps::take(&*app.operations, step, of, &note, &request).await {
        Err(problem) if problem.code() == Code::NoEntity => {
            return Err(unknown(&app, &machine, &to, problem).await?);
        }
        taken => taken?,
    };
    Ok(as_json(&Transitioned::of(machine, id, taken, is_dry_run)).into_response())
}

impl NewTransition {
    /// What the library and the databases would refuse, by the fields' names.
    fn check(&self) -> Result<(), Problem> {
        let fields = [
            ("to", Some(&self.to)),
            ("from", self.from.as_ref()),
            ("organization_id", self.organization_id.as_ref()),
            ("user_id", self.user_id.as_ref()),
            ("correlation_id", self.correlation_id.as_ref()),
        ];
        for (field, text) in fields {
            let Some(text) = text else { continue };
            if !FIELD_BYTES.contains(&text.len()) || text.chars().any(char::is_control) {
                let rule = "1 to 256 bytes without control characters";
                return Err(Of::Body.wrong(field, rule));
            }
        }
        let metadata = serde_json::to_string(&self.metadata).unwrap_or_default();
        // PostgreSQL's JSON has no such character.
        if metadata.len() > METADATA_BYTES_MAX || metadata.contains("\\u0000") {
            let rule = "an object of at most 65536 bytes without the character U+0000";
            return Err(Of::Body.wrong("metadata", rule));
        }
        Ok(())
    }

    fn step(self, machine: &str, entity: &str, principal: &Principal, mark: Option<&Mark>) -> Step {
        let mut step = Step::new(machine, entity, self.to).by(&*principal.name);
        if let Some(state) = self.from {
            step = step.from(state);
        }
        if let Some(id) = self.organization_id {
            step = step.organization(id);
        }
        if let Some(id) = self.user_id {
            step = step.user(id);
        }
        if let Some(id) = self.correlation_id {
            step = step.correlation_id(id);
        }
        if let Some(mark) = mark {
            step = step.idempotency_key(mark.token());
        }
        self.metadata.into_iter().fold(step, |step, (name, value)| step.metadata(name, value))
    }
}

impl Transitioned {
    fn of(machine: String, id: String, taken: Taken, dry_run: bool) -> Self {
        let Taken { state, version, event_id, messages, .. } = taken;
        Self { machine, id, state, version, event_id, messages, dry_run }
    }
}

/// What it is that there is not: the machine, its state, or the entity.
async fn unknown(app: &App, machine: &str, to: &str, told: Problem) -> Result<Problem, Problem> {
    let Some((found, _)) = app.operations.machine(machine).await? else { return Ok(no_machine()) };
    let definition: Value = serde_json::from_str(&found.definition).unwrap_or_default();
    let states = definition["states"].as_array();
    let has_state = states.is_some_and(|states| states.iter().any(|state| state == to));
    Ok(if has_state { told } else { told.with_code(Code::IllegalStep) })
}
