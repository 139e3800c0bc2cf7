//! State machines with their entities: listed and shown.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use posthaste_store::{EVENTS_MAX, Entity, EntityFilter, StateEvent, StoredMachine};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    filters::{Of, cursor},
    shown::as_json,
};
use crate::{
    app::App,
    clock,
    extract::{OfEntity, OfName, Parameters},
    problem::{Code, Problem},
    tokens::{Principal, Scope},
};

const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 200;

/// Machines, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Machines {
    /// The machines, at most 1,000.
    machines: Vec<MachineBody>,
}

/// A state machine.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Machine)]
pub(crate) struct MachineBody {
    /// Its name.
    name: String,
    /// Its definition, as it was pushed.
    definition: Value,
    /// When it was pushed last.
    #[schema(format = DateTime)]
    pushed_at: String,
}

impl MachineBody {
    fn of(machine: &StoredMachine) -> Self {
        Self {
            name: machine.name.clone(),
            definition: serde_json::from_str(&machine.definition).unwrap_or_default(),
            pushed_at: clock::rfc3339(machine.pushed_at),
        }
    }
}

/// A state machine with how many entities are where.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WholeMachine {
    #[serde(flatten)]
    machine: MachineBody,
    /// Entities by state; states without any are left out. Null for tokens of some organisations.
    states: Option<Vec<StateCount>>,
}

/// How many entities are in a state.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StateCount {
    /// The state.
    state: String,
    /// How many entities.
    entities: u64,
}

/// List machines
///
/// With their definitions.
#[utoipa::path(get, path = "/api/v1/machines", tag = "machines",
    responses((status = 200, description = "All of them", body = Machines)))]
pub(crate) async fn list(State(app): State<Arc<App>>) -> Result<Response, Problem> {
    let machines = app.operations.machines().await?.iter().map(MachineBody::of).collect();
    Ok(as_json(&Machines { machines }).into_response())
}

/// Show a machine
///
/// With how many entities are in each state.
#[utoipa::path(get, path = "/api/v1/machines/{name}", tag = "machines",
    params(("name" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "Its name")),
    responses((status = 200, description = "The machine", body = WholeMachine)))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfName(name): OfName,
) -> Result<Response, Problem> {
    let (found, states) = app.operations.machine(&name).await?.ok_or_else(no_machine)?;
    let count = |(state, entities): (String, u64)| StateCount { state, entities };
    let is_whole = principal.organizations().is_none();
    let states = is_whole.then(|| states.into_iter().map(count).collect());
    Ok(as_json(&WholeMachine { machine: MachineBody::of(&found), states }).into_response())
}

pub(super) fn no_machine() -> Problem {
    Problem::new(Code::NoMachine, "/api/v1/machines lists those that were pushed")
}

/// Which entities.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Listing {
    /// In this state.
    #[param(max_length = 1024, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    state: Option<String>,
    /// How many at most; 50 if not given.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A page of entities, by id.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Entities {
    /// The page.
    entities: Vec<EntityBody>,
    /// What to send as `cursor` for the next page; null on the last one.
    next: Option<String>,
}

/// An entity of a machine.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Entity)]
pub(crate) struct EntityBody {
    /// Its id.
    id: String,
    /// Where it is.
    state: String,
    /// Counts its steps, from 1.
    version: i64,
    /// Whose it is.
    user_id: Option<String>,
    /// Of which organisation.
    organization_id: Option<String>,
    /// When it began.
    #[schema(format = DateTime)]
    started_at: String,
    /// When it took its last step.
    #[schema(format = DateTime)]
    changed_at: String,
}

impl EntityBody {
    fn of(entity: &Entity) -> Self {
        Self {
            id: entity.id.clone(),
            state: entity.state.clone(),
            version: entity.version,
            user_id: entity.user.clone(),
            organization_id: entity.organization.clone(),
            started_at: clock::rfc3339(entity.started_at),
            changed_at: clock::rfc3339(entity.changed_at),
        }
    }
}

/// List entities
///
/// Of a machine, by id, page by page.
#[utoipa::path(get, path = "/api/v1/machines/{name}/entities", tag = "machines",
    params(("name" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The machine's name"), Listing),
    responses((status = 200, description = "A page", body = Entities)))]
pub(crate) async fn entities(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfName(name): OfName,
    Parameters(listing): Parameters<Listing>,
) -> Result<Response, Problem> {
    let limit = Of::Query.limit(listing.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let state = Of::Query.name("state", listing.state)?;
    let text = |text: &str| (!text.contains('\0')).then(|| text.to_owned());
    let after = Of::Query.place('e', listing.cursor, text)?;
    let store = &app.operations;
    let which = EntityFilter {
        state: state.as_deref(),
        organizations: principal.organizations(),
        after: after.as_deref(),
    };
    let page = store.entities(&name, &which, limit).await?;
    if page.is_empty() && store.machine(&name).await?.is_none() {
        return Err(no_machine());
    }
    let is_full = page.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next = page.last().filter(|_| is_full).map(|last| cursor('e', &last.id));
    let entities = page.iter().map(EntityBody::of).collect();
    Ok(as_json(&Entities { entities, next }).into_response())
}

/// An entity with its steps.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WholeEntity {
    #[serde(flatten)]
    entity: EntityBody,
    /// Its newest steps, the newest first: at most 200.
    events: Vec<EventBody>,
    /// Whether these are all.
    is_all: bool,
}

/// A step of an entity.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StateEvent)]
pub(crate) struct EventBody {
    /// Its id.
    id: Uuid,
    /// Which step, from 1.
    version: i64,
    /// From where; null where the entity began.
    from_state: Option<String>,
    /// To where.
    to_state: String,
    /// Who took it.
    initiated_by: Option<String>,
    /// What ties it to others.
    correlation_id: Option<String>,
    /// What was said of it, with the scope `payloads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Value>,
    /// When.
    #[schema(format = DateTime)]
    at: String,
}

impl EventBody {
    fn of(event: &StateEvent, with_metadata: bool) -> Self {
        let metadata = || serde_json::from_str(&event.metadata).unwrap_or_default();
        Self {
            id: event.id,
            version: event.version,
            from_state: event.from.clone(),
            to_state: event.to.clone(),
            initiated_by: event.initiated_by.clone(),
            correlation_id: event.correlation_id.clone(),
            metadata: with_metadata.then(metadata),
            at: clock::rfc3339(event.at),
        }
    }
}

/// Show an entity
///
/// With its newest steps.
#[utoipa::path(get, path = "/api/v1/machines/{name}/entities/{id}", tag = "machines",
    params(("name" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The machine's name"),
        ("id" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The entity's id")),
    responses((status = 200, description = "The entity", body = WholeEntity)))]
pub(crate) async fn entity(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfEntity(machine, id): OfEntity,
) -> Result<Response, Problem> {
    let found = app.operations.entity(&machine, &id).await?;
    let is_known =
        |(entity, _): &(Entity, _)| principal.knows_organization(entity.organization.as_deref());
    let (entity, events) = found.filter(is_known).ok_or_else(|| {
        let detail =
            "the machine has no entity with this id: it never began, or its row is deleted";
        Problem::new(Code::NoEntity, detail)
    })?;
    let with_metadata = principal.may(Scope::Payloads);
    let body = WholeEntity {
        entity: EntityBody::of(&entity),
        is_all: events.len() < usize::try_from(EVENTS_MAX).unwrap_or(usize::MAX),
        events: events.iter().map(|event| EventBody::of(event, with_metadata)).collect(),
    };
    Ok(as_json(&body).into_response())
}
