//! The API's description, made from the table of routes and the types of its bodies.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderName, header},
    response::IntoResponse,
};
use utoipa::{
    OpenApi,
    openapi::{
        SecurityRequirement, Server,
        path::{HttpMethod, PathItem},
        security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme},
    },
};

use super::{
    audit, contracts, dead_letters, fleet, health, jobs, machines, messages, metrics, new_message,
    operations, refusals, rewinds, shown, shown_messages, streams, submission, subscriptions,
    transitions,
};
use crate::{app::App, guard::Access, problem, routes, tokens::Scope};

/// The types that answers and bodies are made of.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Posthaste",
        description = "Messages, jobs, subscriptions and health of a transactional outbox. Every refusal is a Problem (RFC 9457).",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(
        problem::ProblemBody<'static>,
        problem::Code,
        submission::NewJobBody,
        jobs::Submitted,
        shown::JobStatus,
        jobs::Jobs,
        shown::JobBody,
        shown::WholeJob,
        shown::Execution,
        shown::Receipt,
        jobs::JobChange,
        jobs::JobRetry,
        jobs::JobChanged,
        new_message::NewMessageBody,
        messages::Enqueued,
        messages::Messages,
        messages::MessageChange,
        messages::MessageChanged,
        shown_messages::MessageStatus,
        shown_messages::MessageBody,
        shown_messages::WholeMessage,
        shown_messages::Delivery,
        shown_messages::Failure,
        streams::TicketBody,
        streams::TicketMade,
        subscriptions::Subscriptions,
        subscriptions::Subscription,
        subscriptions::SubscriptionChange,
        subscriptions::SubscriptionChanged,
        rewinds::Rewind,
        rewinds::RewoundBody,
        rewinds::Replay,
        dead_letters::DeadLetters,
        dead_letters::DeadLetterBody,
        dead_letters::GroupedBody,
        dead_letters::GroupBody,
        dead_letters::WholeDeadLetter,
        dead_letters::OneDeadLetterChange,
        dead_letters::DeadLetterChanged,
        dead_letters::DeadLetterChange,
        operations::Operations,
        operations::OperationBody,
        operations::OperationFilter,
        operations::OperationPreview,
        operations::OperationChange,
        operations::OperationChanged,
        audit::Audit,
        audit::AuditBody,
        fleet::Relays,
        fleet::RelayBody,
        fleet::LeaseBody,
        fleet::Workers,
        fleet::WorkerBody,
        machines::Machines,
        machines::MachineBody,
        machines::WholeMachine,
        machines::StateCount,
        machines::Entities,
        machines::EntityBody,
        machines::WholeEntity,
        machines::EventBody,
        transitions::NewTransition,
        transitions::Transitioned,
        contracts::ContractPage,
        contracts::ContractBody,
        contracts::WholeContract,
        health::Liveness,
        health::ReadyState,
        health::Health,
        health::DeepHealth,
        health::DatabaseHealth,
        health::OutboxFigures,
        health::OutboxHealth,
        health::OutboxStatistics,
        metrics::AllMetrics,
        metrics::OutboxMetrics,
        metrics::SubscriptionMetrics,
        metrics::RelayMetrics,
        metrics::MachineMetrics,
        metrics::MachineCount,
        metrics::StateFigure,
        metrics::CommandCount,
        metrics::FallbackMetrics,
        metrics::WorkerFallbacks,
        metrics::JobMetrics,
        metrics::WorkerMetrics,
        metrics::HealthCheck,
    ))
)]
struct Described;

/// The description, as it stands in `openapi.json`.
pub fn document() -> String {
    described("")
}

/// The same, for a server that is offered under a path.
fn described(base_path: &str) -> String {
    let mut api = Described::openapi();
    if !base_path.is_empty() {
        api.servers = Some(vec![Server::new(base_path)]);
    }
    env!("CARGO_PKG_VERSION").clone_into(&mut api.info.version);
    let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = api.components.get_or_insert_default();
    components.security_schemes.insert("token".to_owned(), token.into());
    let ticket = SecurityScheme::ApiKey(ApiKey::Query(ApiKeyValue::new("ticket")));
    components.security_schemes.insert("ticket".to_owned(), ticket.into());
    components.responses.extend(refusals::shared());
    for route in routes::table() {
        let mut operation = route.operation;
        let (security, asks) = asked(route.access);
        operation.security = Some(security);
        let told =
            operation.description.take().map_or(asks.clone(), |told| format!("{told}\n\n{asks}"));
        operation.description = Some(told);
        refusals::describe(&mut operation, &route.path, route.access);
        let item = PathItem::new(HttpMethod::Get, operation.clone());
        let item = if route.method == HttpMethod::Get {
            item
        } else {
            PathItem::new(route.method, operation)
        };
        match api.paths.paths.get_mut(&route.path) {
            Some(there) => there.merge_operations(item),
            None => {
                api.paths.paths.insert(route.path, item);
            }
        }
    }
    let mut text = api.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// What a route asks of its callers, for programs and in words.
fn asked(access: Access) -> (Vec<SecurityRequirement>, String) {
    let token = |scope: Scope| SecurityRequirement::new("token", [scope.as_str()]);
    let ticket = || SecurityRequirement::new("ticket", [""; 0]);
    match access {
        Access::Public => (Vec::new(), "Needs no token.".to_owned()),
        Access::Scope(scope) => {
            (vec![token(scope)], format!("Needs a token with the scope `{scope}`."))
        }
        Access::Whole(scope) => (
            vec![token(scope)],
            format!(
                "Needs a token with the scope `{scope}` that is not limited to some topics or organisations."
            ),
        ),
        Access::Entities(scope) => (
            vec![token(scope)],
            format!(
                "Needs a token with the scope `{scope}` that is not limited to some topics, or is limited to some \
                 organisations, whose entities alone it has to do with then."
            ),
        ),
        Access::Ticket(scope) => (
            vec![token(scope), ticket()],
            format!("Needs a token with the scope `{scope}`, or a ticket."),
        ),
    }
}

/// The API's description
///
/// This document.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "description",
    responses((status = 200, description = "The description", body = serde_json::Value)))]
pub(crate) async fn description(State(app): State<Arc<App>>) -> impl IntoResponse {
    const KIND: [(HeaderName, &str); 1] = [(header::CONTENT_TYPE, "application/json")];
    let text = app.description.get_or_init(|| described(&app.settings.base_path).into());
    (KIND, text.clone())
}
