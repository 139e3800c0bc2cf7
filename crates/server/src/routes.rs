//! The one table of routes: the router, the API's description and the test of all routes are made from it.

use std::sync::Arc;

use axum::{
    Router,
    handler::Handler,
    http::{HeaderValue, Method, header},
    middleware::from_fn_with_state,
    routing::{MethodFilter, MethodRouter, on},
};
use tower_http::cors::{AllowOrigin, CorsLayer};
use utoipa::openapi::path::{HttpMethod, Operation};

use crate::{
    api::{
        audit, contracts, dead_letters, fleet, health, jobs, machines, messages, metrics, openapi,
        operations, rewinds, streams, subscriptions, transitions,
    },
    app::App,
    context, guard,
    guard::Access,
    problem::{Code, Problem},
    tokens::Scope,
    traces,
};

/// A route with what it asks of its callers.
pub(crate) struct Route {
    pub(crate) method: HttpMethod,
    pub(crate) path: String,
    pub(crate) access: Access,
    pub(crate) operation: Operation,
    serve: MethodRouter<Arc<App>>,
}

/// A route, for tests that call them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// `GET` or `POST`.
    pub method: &'static str,
    /// The path, with its parameters in braces.
    pub path: String,
    /// What it asks for.
    pub access: Access,
}

/// Every route.
pub fn routes() -> Vec<Listed> {
    let listed = |route: Route| Listed {
        method: if route.method == HttpMethod::Post { "POST" } else { "GET" },
        path: route.path,
        access: route.access,
    };
    table().into_iter().map(listed).collect()
}

/// The table. `__path_…` is what `utoipa` makes of the attribute at the handler: its method, path and description.
pub(crate) fn table() -> Vec<Route> {
    use Access::{Entities, Public, Scope as With, Ticket, Whole};
    vec![
        route::<health::__path_livez, _, _>(Public, health::livez),
        route::<health::__path_readyz, _, _>(Public, health::readyz),
        route::<health::__path_health, _, _>(Public, health::health),
        route::<health::__path_deep, _, _>(Whole(Scope::View), health::deep),
        route::<health::__path_api_health, _, _>(Whole(Scope::View), health::api_health),
        route::<health::__path_outbox, _, _>(Whole(Scope::View), health::outbox),
        route::<health::__path_metrics, _, _>(Whole(Scope::View), health::metrics),
        route::<metrics::__path_all, _, _>(Whole(Scope::View), metrics::all),
        route::<metrics::__path_outbox, _, _>(Whole(Scope::View), metrics::outbox),
        route::<metrics::__path_machines, _, _>(Whole(Scope::View), metrics::machines),
        route::<metrics::__path_fallbacks, _, _>(Whole(Scope::View), metrics::fallbacks),
        route::<metrics::__path_jobs, _, _>(Whole(Scope::View), metrics::jobs),
        route::<metrics::__path_health, _, _>(Whole(Scope::View), metrics::health),
        route::<openapi::__path_description, _, _>(Public, openapi::description),
        route::<jobs::__path_submit, _, _>(With(Scope::Enqueue), jobs::submit),
        route::<jobs::__path_list, _, _>(With(Scope::View), jobs::list),
        route::<jobs::__path_get, _, _>(With(Scope::View), jobs::get),
        route::<jobs::__path_cancel, _, _>(With(Scope::Operate), jobs::cancel),
        route::<jobs::__path_retry, _, _>(With(Scope::Operate), jobs::retry),
        route::<messages::__path_submit, _, _>(With(Scope::Enqueue), messages::submit),
        route::<messages::__path_list, _, _>(With(Scope::View), messages::list),
        route::<messages::__path_get, _, _>(With(Scope::View), messages::get),
        route::<messages::__path_cancel, _, _>(With(Scope::Operate), messages::cancel),
        route::<streams::__path_follow, _, _>(Ticket(Scope::View), streams::follow),
        route::<streams::__path_ticket, _, _>(With(Scope::View), streams::ticket),
        route::<subscriptions::__path_list, _, _>(Whole(Scope::View), subscriptions::list),
        route::<subscriptions::__path_get, _, _>(Whole(Scope::View), subscriptions::get),
        route::<subscriptions::__path_pause, _, _>(Whole(Scope::Operate), subscriptions::pause),
        route::<subscriptions::__path_resume, _, _>(Whole(Scope::Operate), subscriptions::resume),
        route::<rewinds::__path_rewind, _, _>(Whole(Scope::Operate), rewinds::rewind),
        route::<rewinds::__path_replay, _, _>(Whole(Scope::Operate), rewinds::replay),
        route::<dead_letters::__path_list, _, _>(Whole(Scope::View), dead_letters::list),
        route::<dead_letters::__path_groups, _, _>(Whole(Scope::View), dead_letters::groups),
        route::<dead_letters::__path_replay, _, _>(Whole(Scope::Operate), dead_letters::replay),
        route::<dead_letters::__path_discard, _, _>(Whole(Scope::Operate), dead_letters::discard),
        route::<dead_letters::__path_get, _, _>(Whole(Scope::View), dead_letters::get),
        route::<dead_letters::__path_replay_one, _, _>(
            Whole(Scope::Operate),
            dead_letters::replay_one,
        ),
        route::<dead_letters::__path_discard_one, _, _>(
            Whole(Scope::Operate),
            dead_letters::discard_one,
        ),
        route::<operations::__path_list, _, _>(Whole(Scope::View), operations::list),
        route::<operations::__path_get, _, _>(Whole(Scope::View), operations::get),
        route::<operations::__path_cancel, _, _>(Whole(Scope::Operate), operations::cancel),
        route::<audit::__path_list, _, _>(Whole(Scope::View), audit::list),
        route::<fleet::__path_relays, _, _>(Whole(Scope::View), fleet::relays),
        route::<fleet::__path_workers, _, _>(Whole(Scope::View), fleet::workers),
        route::<machines::__path_list, _, _>(Entities(Scope::View), machines::list),
        route::<machines::__path_get, _, _>(Entities(Scope::View), machines::get),
        route::<machines::__path_entities, _, _>(Entities(Scope::View), machines::entities),
        route::<machines::__path_entity, _, _>(Entities(Scope::View), machines::entity),
        route::<transitions::__path_transition, _, _>(
            Entities(Scope::Operate),
            transitions::transition,
        ),
        route::<contracts::__path_list, _, _>(Whole(Scope::View), contracts::list),
        route::<contracts::__path_get, _, _>(Whole(Scope::View), contracts::get),
    ]
}

fn route<P: utoipa::Path, H, T>(access: Access, handler: H) -> Route
where
    H: Handler<T, Arc<App>>,
    T: 'static,
{
    let method = P::methods().into_iter().next().unwrap_or(HttpMethod::Get);
    let filter = if method == HttpMethod::Post { MethodFilter::POST } else { MethodFilter::GET };
    let (path, operation) = (P::path(), P::operation());
    Route { method, path, access, operation, serve: on(filter, handler) }
}

/// The service of all routes, with what surrounds them. Nothing is served that is not in the table.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let mut router = Router::new();
    for Route { path, access, serve, .. } in table() {
        let guard = from_fn_with_state((Arc::clone(app), access), guard::authorize);
        router = router.route(&path, serve.route_layer(guard));
    }
    let mut router = router
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::clone(app), context::bound));
    if !app.settings.cors_origins.is_empty() {
        router = router.layer(cors(&app.settings.cors_origins));
    }
    router
        .layer(from_fn_with_state(Arc::clone(app), guard::check_names))
        .layer(from_fn_with_state(Arc::clone(app), context::surround))
        .with_state(Arc::clone(app))
}

fn cors(origins: &[String]) -> CorsLayer {
    let origins = origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            streams::LAST_EVENT_ID,
            jobs::IDEMPOTENCY_KEY,
            context::REQUEST_ID,
            traces::TRACEPARENT,
            traces::TRACESTATE,
        ])
        .expose_headers([context::REQUEST_ID, header::RETRY_AFTER, header::LOCATION])
}

async fn no_route() -> Problem {
    Problem::new(Code::NoRoute, "the API is described at /api/v1/openapi.json")
}

async fn wrong_method() -> Problem {
    Problem::new(Code::MethodNotAllowed, "the header `allow` names the methods of this path")
}
