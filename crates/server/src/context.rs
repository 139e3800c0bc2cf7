//! What surrounds every request: its id, its spans in log and trace, its time, and the form of what was refused.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures_util::FutureExt as _;
use posthaste_core::Message;
use tokio::time::timeout;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::{
    app::App,
    problem::{Code, Problem},
    proxy::Caller,
    traces::RequestSpan,
};

/// The header of a request's id, in requests and answers.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const ID_CHARS_MAX: usize = 64;

/// Surrounds a request.
pub(crate) async fn surround(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let id = own_id(request.headers()).unwrap_or_else(|| Uuid::now_v7().to_string());
    let traced = RequestSpan::begin(&app, &mut request, &id);
    let began = app.telemetry.meter().begin();
    let matched = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let route = matched.as_deref().unwrap_or("-");
    let client = request.extensions().get::<Caller>().map(|caller| caller.address);
    let client = client.map(tracing::field::display);
    let method = request.method().clone();
    // Of the highest level, or lines of a stricter filter would be without it.
    let span = tracing::error_span!(
        "request",
        request_id = id,
        %method,
        route,
        client,
        correlation_id = tracing::field::Empty,
    );
    let answer = async {
        let since = Instant::now();
        let response = next.run(request).await;
        let (status, took) = (response.status(), since.elapsed());
        app.telemetry.meter().answered(matched.as_deref(), &method, status, took);
        let elapsed_ms = took.as_millis() as u64;
        tracing::debug!(status = status.as_u16(), elapsed_ms, "answered");
        response
    };
    let response = answer.instrument(span).await;
    drop(began);
    let response = finish(response, &id);
    if let Some(traced) = traced {
        traced.answered(response.status());
    }
    response
}

/// Gives a request its time. A panic in a handler is an answer like any other, and the connection goes on. Both stand
/// below CORS, or pages of other origins could not read these answers.
pub(crate) async fn bound(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let work = AssertUnwindSafe(next.run(request)).catch_unwind();
    match timeout(app.settings.request_timeout, work).await {
        Ok(Ok(response)) => response,
        Ok(Err(_panic)) => {
            // The panic hook has said where.
            tracing::error!("a handler panicked");
            Problem::internal().into_response()
        }
        Err(_elapsed) => {
            let detail = "the request was given up; what it was to change may have happened";
            Problem::new(Code::TimedOut, detail).into_response()
        }
    }
}

/// Says in every further line of the request's log what it is part of.
pub(crate) fn correlate(message: &Message) {
    if let Some(id) = message.correlation() {
        tracing::Span::current().record("correlation_id", id);
    }
}

/// Writes out what was refused, here and in the libraries below, and adds the id.
fn finish(mut response: Response, id: &str) -> Response {
    let status = response.status();
    let problem = response.extensions_mut().remove::<Problem>().or_else(|| {
        let is_refusal = status.is_client_error() || status.is_server_error();
        let is_ours = response.extensions().get::<Told>().is_some();
        (is_refusal && !is_ours).then(|| Problem::of_status(status))
    });
    if let Some(problem) = problem {
        let mut written = problem.render(id);
        // What the libraries say besides: the methods of a path, and what CORS asks for.
        for (name, value) in response.headers() {
            if !written.headers().contains_key(name) && name != "content-length" {
                written.headers_mut().append(name.clone(), value.clone());
            }
        }
        response = written;
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let no_store = HeaderValue::from_static("no-store");
    response.headers_mut().entry("cache-control").or_insert(no_store);
    let no_sniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert("x-content-type-options", no_sniff);
    response
}

/// Marks an answer that says what it has to say with a status of refusal: 503 of a probe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told;

/// The caller's id, if it can stand in a log line.
fn own_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_sound = !id.is_empty() && id.len() <= ID_CHARS_MAX && id.chars().all(is_plain);
    is_sound.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_could_not_stand_in_a_log_line_are_not_taken_over() {
        let ask = |id: &[u8]| {
            let value = HeaderValue::from_bytes(id).unwrap();
            own_id(&HeaderMap::from_iter([(REQUEST_ID, value)]))
        };
        assert_eq!(ask(b"a-1_b.C").as_deref(), Some("a-1_b.C"));
        let long = "x".repeat(65);
        for id in [&b""[..], b"a b", b"a\"b", b"\xc3\xa4", long.as_bytes()] {
            assert_eq!(ask(id), None, "{id:?}");
        }
        assert_eq!(own_id(&HeaderMap::new()), None);
    }
}
