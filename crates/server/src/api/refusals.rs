//! What routes may answer instead of what they were asked for, for the API's description. It follows from what a
//! request is read for; what only some handlers refuse stands at them.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use utoipa::openapi::{Content, Header, Object, Ref, RefOr, Response, Type, path::Operation};

use crate::{guard::Access, problem::Code};

/// Whatever is asked.
const ALWAYS: [StatusCode; 4] = [
    StatusCode::FORBIDDEN,
    StatusCode::MISDIRECTED_REQUEST,
    StatusCode::INTERNAL_SERVER_ERROR,
    StatusCode::GATEWAY_TIMEOUT,
];
/// Where callers have to say who they are: these routes ask the database as well.
const WITH_TOKEN: [StatusCode; 2] = [StatusCode::UNAUTHORIZED, StatusCode::SERVICE_UNAVAILABLE];
const WITH_PARAMETERS: [StatusCode; 1] = [StatusCode::BAD_REQUEST];
/// Where the path names something that there may not be.
const WITH_NAME: [StatusCode; 1] = [StatusCode::NOT_FOUND];
const WITH_BODY: [StatusCode; 5] = [
    StatusCode::BAD_REQUEST,
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::UNSUPPORTED_MEDIA_TYPE,
    StatusCode::UNPROCESSABLE_ENTITY,
];

/// Adds to an operation what it may refuse, and the headers of its answers.
pub(super) fn describe(operation: &mut Operation, path: &str, access: Access) {
    let mut statuses = ALWAYS.to_vec();
    if access != Access::Public {
        statuses.extend(WITH_TOKEN);
    }
    if operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty()) {
        statuses.extend(WITH_PARAMETERS);
    }
    if path.contains('{') {
        statuses.extend(WITH_NAME);
    }
    if operation.request_body.is_some() {
        statuses.extend(WITH_BODY);
    }
    let responses = &mut operation.responses.responses;
    for (status, response) in responses.iter_mut() {
        let RefOr::T(response) = response else { continue };
        if status.starts_with('4') && response.content.is_empty() {
            response.content.insert(PROBLEM.to_owned(), problem().into());
        }
        response.headers.insert("x-request-id".to_owned(), request_id().into());
    }
    for status in statuses {
        let shared = || Ref::from_response_name(name(status)).into();
        responses.entry(status.as_str().to_owned()).or_insert_with(shared);
    }
}

/// The answers that operations share, by name.
pub(super) fn shared() -> BTreeMap<String, RefOr<Response>> {
    let lists = [&ALWAYS[..], &WITH_TOKEN, &WITH_PARAMETERS, &WITH_NAME, &WITH_BODY];
    let response = |status| (name(status), refusal(status).into());
    lists.concat().into_iter().map(response).collect()
}

fn refusal(status: StatusCode) -> Response {
    let codes = Code::ALL.iter().filter(|code| code.status() == status);
    let told = codes.map(|code| format!("`{}`: {}", code.as_str(), code.title()));
    let mut response = Response::new(told.collect::<Vec<_>>().join(". "));
    response.content.insert(PROBLEM.to_owned(), problem().into());
    response.headers.insert("x-request-id".to_owned(), request_id().into());
    let more = match status {
        StatusCode::UNAUTHORIZED => Some(("www-authenticate", text("How to say who calls"))),
        StatusCode::SERVICE_UNAVAILABLE => {
            Some(("retry-after", text("Seconds to wait, if another try is worth it")))
        }
        _ => None,
    };
    response.headers.extend(more.map(|(name, header)| (name.to_owned(), header.into())));
    response
}

const PROBLEM: &str = "application/problem+json";

fn problem() -> Content {
    Content::new(Some(Ref::from_schema_name("Problem")))
}

fn request_id() -> Header {
    text("The request's id, as in the server's log")
}

fn text(told: &str) -> Header {
    let mut header = Header::new(Object::with_type(Type::String));
    header.description = Some(told.to_owned());
    header
}

/// `BadRequest` of 400.
fn name(status: StatusCode) -> String {
    status.canonical_reason().unwrap_or_default().replace(' ', "")
}
