//! What the listener answers to which path: `/metrics`, `/livez`, `/readyz`. No answer asks the
//! database or a sink.

use hyper::{Method, StatusCode, header::HeaderValue};
use serde::Serialize;
use serde_json::json;

use super::Told;

const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// An answer, not yet HTTP.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: HeaderValue,
    pub(super) body: String,
}

impl Answer {
    pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self { status, content_type: TEXT, body: body.into() }
    }

    fn json(is_well: bool, body: &impl Serialize) -> Self {
        let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = serde_json::to_string(body).unwrap_or_default();
        Self { status, content_type: JSON, body }
    }
}

/// The answer to a request.
pub(super) fn to(method: &Method, path: &str, told: &impl Told) -> Answer {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Answer::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n");
    }
    match path {
        "/metrics" => {
            Answer { status: StatusCode::OK, content_type: METRICS, body: told.metrics() }
        }
        // Not whether the database or a sink is there: starting the process anew mends neither.
        "/livez" => Answer::json(told.is_alive(), &json!({ "alive": told.is_alive() })),
        "/readyz" => {
            let (is_ready, readiness) = told.readiness();
            Answer::json(is_ready, &readiness)
        }
        _ => Answer::text(StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz\n"),
    }
}
