//! Spans of requests, after the OpenTelemetry conventions for HTTP
//! (<https://opentelemetry.io/docs/specs/semconv/http/http-spans/>). Routes and ids; never a path, a query or a body.
//!
//! A request whose caller's trace is sampled is a span below the caller's; one without a trace begins one. From then on
//! its header `traceparent` names its own span, so that the job or the message that it submits stands below it.

use axum::{
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode},
};
use posthaste_traces::{Begun, Context, SpanKind, Told, Tracer, number, text};

use crate::app::App;

/// The header that names a span, and the one beside it (<https://www.w3.org/TR/trace-context/>).
pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// Longest `tracestate` that is passed on.
pub(crate) const STATE_BYTES_MAX: usize = 512;

/// A request that is traced. Dropped without an answer, its caller has gone away.
#[derive(Debug)]
pub(crate) struct RequestSpan {
    tracer: Tracer,
    begun: Begun,
    method: &'static str,
    route: MatchedPath,
    scheme: &'static str,
    request_id: String,
    status: Option<StatusCode>,
}

impl RequestSpan {
    /// Begins the span of a request, if it is to have one.
    pub(crate) fn begin(app: &App, request: &mut Request, request_id: &str) -> Option<Self> {
        let tracer = app.tracer.as_ref()?;
        let route = request.extensions().get::<MatchedPath>()?;
        if !is_traced(route.as_str()) {
            return None;
        }
        let begun = begun(tracer, request.headers())?;
        let route = route.clone();
        enter(&begun, request.headers_mut());
        Some(Self {
            tracer: tracer.clone(),
            begun,
            method: known(request.method()),
            route,
            scheme: if app.settings.tls.certificate.is_some() { "https" } else { "http" },
            request_id: request_id.to_owned(),
            status: None,
        })
    }

    /// Ends it.
    pub(crate) fn answered(mut self, status: StatusCode) {
        self.status = Some(status);
    }

    fn told(&self) -> Told {
        let Self { method, scheme, status, .. } = self;
        let route = self.route.as_str();
        let mut attributes = vec![
            text("http.request.method", method),
            text("http.route", route),
            text("url.scheme", scheme),
            text("posthaste.request_id", &self.request_id),
        ];
        let error = match status {
            None => Some("the caller went away".to_owned()),
            Some(status) => {
                let status = i64::from(status.as_u16());
                attributes.push(number("http.response.status_code", status));
                (status >= 500).then(|| status.to_string())
            }
        };
        attributes.extend(error.as_deref().map(|error| text("error.type", error)));
        Told { name: format!("{method} {route}"), kind: SpanKind::Server, attributes, error }
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        self.tracer.end(&self.begun, || self.told());
    }
}

/// Whether requests of a route are traced. Probes and scrapes tell nothing and come all the time, and a stream's span
/// would end hours after everybody has looked.
fn is_traced(route: &str) -> bool {
    let is_quiet = matches!(route, "/api/v1/health" | "/api/v1/openapi.json" | "/api/v1/streams");
    route.starts_with("/api/v1/") && !is_quiet
}

/// The request's span; `None` where its trace is not sampled.
fn begun(tracer: &Tracer, headers: &HeaderMap) -> Option<Begun> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let state = text(TRACESTATE).filter(|state| state.len() <= STATE_BYTES_MAX);
    let parent = text(TRACEPARENT).unwrap_or_default();
    match Context::read(parent, state.unwrap_or_default()) {
        None => tracer.root(),
        Some(caller) if caller.is_sampled => Some(Begun::below(&caller)),
        Some(_) => None,
    }
}

/// Has the headers name the request's span instead of its caller's.
fn enter(begun: &Begun, headers: &mut HeaderMap) {
    if let Ok(parent) = HeaderValue::try_from(begun.traceparent()) {
        headers.insert(TRACEPARENT, parent);
    }
    if begun.tracestate().is_empty() {
        headers.remove(TRACESTATE);
    }
}

/// The method, if it is one of those that the conventions list: names of spans are few.
fn known(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] =
        ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use posthaste_traces::TraceSettings;

    use super::*;
    use crate::routes::routes;

    const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0";

    fn tracer(sample_ratio: f64) -> Tracer {
        let settings = TraceSettings {
            endpoint: "http://127.0.0.1:1".to_owned(),
            service_name: "test".to_owned(),
            headers: Vec::new(),
            ca_file: None,
            timeout: Duration::from_secs(1),
            queue_spans: 1,
            sample_ratio,
        };
        posthaste_traces::start(&settings).unwrap().0
    }

    fn headers(parent: &str) -> HeaderMap {
        let parent = HeaderValue::from_str(parent).unwrap();
        let state = HeaderValue::from_static("a=1");
        HeaderMap::from_iter([(TRACEPARENT, parent), (TRACESTATE, state)])
    }

    #[test]
    fn probes_scrapes_and_streams_are_not_traced() {
        let quiet: Vec<String> = routes()
            .into_iter()
            .filter(|route| !is_traced(&route.path))
            .map(|route| route.path)
            .collect();
        assert_eq!(
            quiet,
            [
                "/livez",
                "/readyz",
                "/health",
                "/health/deep",
                "/api/v1/health",
                "/api/health/outbox",
                "/metrics",
                "/api/v1/openapi.json",
                "/api/v1/streams",
            ]
        );
    }

    #[test]
    fn request_stands_below_its_sampled_caller_and_goes_on_as_itself() {
        let mut headers = headers(&format!("{CALLER}1"));
        let begun = begun(&tracer(0.0), &headers).unwrap();
        enter(&begun, &mut headers);
        let own = headers[TRACEPARENT].to_str().unwrap();
        assert_eq!(own, begun.traceparent());
        assert!(own[..36] == CALLER[..36] && own[36..52] != CALLER[36..52], "{own}");
        assert_eq!(headers[TRACESTATE], "a=1");
    }

    #[test]
    fn request_without_a_trace_begins_one_and_an_unsampled_one_has_none() {
        for none in ["", "nonsense", "00-0-0-01"] {
            let mut headers = headers(none);
            assert!(begun(&tracer(0.0), &headers).is_none());
            enter(&begun(&tracer(1.0), &headers).unwrap(), &mut headers);
            assert!(headers[TRACEPARENT].to_str().unwrap().ends_with("-01"));
            assert_eq!(headers.get(TRACESTATE), None, "the state of no trace");
        }
        assert!(begun(&tracer(1.0), &headers(&format!("{CALLER}0"))).is_none());
    }
}
