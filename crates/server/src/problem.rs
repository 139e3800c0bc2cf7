//! Refusals and failures as `application/problem+json` (RFC 9457), each with a code that stays.
//!
//! A problem travels in the response's extensions until [`crate::context`] writes it with the request's id. It names
//! the field, the kind of value that was found and the remedy; never a payload, a secret or SQL. What an operator
//! needs beyond that goes to the log.

use std::{borrow::Cow, error::Error, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use posthaste_core::{InvalidMessage, describe, job::InvalidJob};
use posthaste_store::{StoreError, StoreErrorKind};
use serde::Serialize;
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, Type},
};

macro_rules! codes {
    ($($(#[doc = $told:literal])+ $name:ident = $code:literal, $status:ident, $title:literal;)*) => {
        /// What went wrong: the one list, from which `docs/server.md` is checked.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code {
            $($(#[doc = $told])+ $name,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// As programs compare it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The status that goes with it.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            pub(crate) const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    /// The request is none that HTTP knows, or one of its headers cannot be used.
    BadRequest = "bad-request", BAD_REQUEST, "The request cannot be read";
    /// A parameter of the query or of the path.
    BadParameter = "bad-parameter", BAD_REQUEST, "A parameter is not valid";
    /// The body is not UTF-8, not JSON, too deep, or names a key twice.
    BadJson = "bad-json", BAD_REQUEST, "The body is not valid JSON";
    /// No token came with the request.
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "A token is needed";
    /// The token is none of the server's.
    UnknownToken = "unknown-token", UNAUTHORIZED, "The token is not known";
    /// The token's time is over.
    ExpiredToken = "expired-token", UNAUTHORIZED, "The token has expired";
    /// The token lacks the scope.
    ScopeMissing = "scope-missing", FORBIDDEN, "The token may not do this";
    /// The topic is none of the token's.
    TopicNotAllowed = "topic-not-allowed", FORBIDDEN, "The token may not use this topic";
    /// The organisation is none of the token's.
    OrganizationNotAllowed = "organization-not-allowed", FORBIDDEN, "The token may not use this organisation";
    /// The server was called by a name that is not its own.
    UnknownHost = "unknown-host", MISDIRECTED_REQUEST, "The server is not known by this name";
    /// A page of another origin called.
    OriginNotAllowed = "origin-not-allowed", FORBIDDEN, "Pages of this origin may not call";
    /// The server takes everybody for a program of its machine, and a proxy passes on what others send.
    UntrustedProxy = "untrusted-proxy", FORBIDDEN, "The request came through a proxy that is not trusted";
    /// There is no such route.
    NoRoute = "no-route", NOT_FOUND, "There is nothing at this path";
    /// There is no such job, or it is none of the token's.
    NoJob = "no-job", NOT_FOUND, "There is no such job";
    /// There is no such message, or it is none of the token's.
    NoMessage = "no-message", NOT_FOUND, "There is no such message";
    /// There is no such subscription.
    NoSubscription = "no-subscription", NOT_FOUND, "There is no such subscription";
    /// There is no such dead letter.
    NoDeadLetter = "no-dead-letter", NOT_FOUND, "There is no such dead letter";
    /// There is no such operation.
    NoOperation = "no-operation", NOT_FOUND, "There is no such operation";
    /// There is no such machine.
    NoMachine = "no-machine", NOT_FOUND, "There is no such machine";
    /// The machine has no such entity.
    NoEntity = "no-entity", NOT_FOUND, "There is no such entity";
    /// There is no such contract.
    NoContract = "no-contract", NOT_FOUND, "There is no such contract";
    /// The log no longer has what follows the event.
    StreamGone = "stream-gone", GONE, "The log no longer has what follows";
    /// The route knows other methods.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "The path does not know this method";
    /// The body did not come in time.
    SlowBody = "slow-body", REQUEST_TIMEOUT, "The body took too long";
    /// The job is over, or not far enough.
    JobState = "job-state", CONFLICT, "The job's state does not allow it";
    /// A relay holds the subscription.
    SubscriptionHeld = "subscription-held", CONFLICT, "A relay holds the subscription";
    /// The operation is over.
    OperationState = "operation-state", CONFLICT, "The operation's state does not allow it";
    /// The entity's machine has no such step from where it is.
    IllegalStep = "illegal-step", CONFLICT, "The machine has no such step";
    /// The entity is elsewhere than the request expects it.
    EntityMoved = "entity-moved", CONFLICT, "The entity has moved";
    /// The message does not wait any more.
    MessageState = "message-state", CONFLICT, "The message's state does not allow it";
    /// The body is too large.
    BodyTooLarge = "body-too-large", PAYLOAD_TOO_LARGE, "The body is too large";
    /// The body is of another type.
    NotJson = "not-json", UNSUPPORTED_MEDIA_TYPE, "The body must be JSON";
    /// A field of the body.
    InvalidField = "invalid-field", UNPROCESSABLE_ENTITY, "A field is not valid";
    /// The step is for others, or asks for metadata.
    StepGuarded = "step-guarded", UNPROCESSABLE_ENTITY, "The step asks for more";
    /// The payload breaks its topic's contract.
    ContractBroken = "contract-broken", UNPROCESSABLE_ENTITY, "The payload breaks its contract";
    /// The idempotency key stands for another request.
    KeyReused = "idempotency-key-reused", UNPROCESSABLE_ENTITY, "The idempotency key was used for another request";
    /// The database has a rule of its own against it.
    RefusedByDatabase = "refused-by-database", UNPROCESSABLE_ENTITY, "The database refuses it";
    /// As many streams are open as may be.
    TooManyStreams = "too-many-streams", TOO_MANY_REQUESTS, "Too many streams are open";
    /// As many operations wait or run as may.
    TooManyOperations = "too-many-operations", TOO_MANY_REQUESTS, "Too many operations are not over";
    /// Too much waits to be written.
    Busy = "busy", SERVICE_UNAVAILABLE, "Too much is waiting";
    /// The database is away, or did not answer in time.
    DatabaseAway = "database-unavailable", SERVICE_UNAVAILABLE, "The database does not answer";
    /// The request took too long.
    TimedOut = "timed-out", GATEWAY_TIMEOUT, "The request took too long";
    /// A fault of the server.
    Internal = "internal", INTERNAL_SERVER_ERROR, "The server failed";
}

impl PartialSchema for Code {
    fn schema() -> RefOr<Schema> {
        let codes = Self::ALL.iter().map(|code| code.as_str());
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(codes)).build().into()
    }
}

impl ToSchema for Code {
    fn name() -> Cow<'static, str> {
        "Code".into()
    }
}

/// A refusal or a failure, not yet HTTP.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    code: Code,
    detail: String,
    field: Option<String>,
    retry_after: Option<Duration>,
}

/// A refusal or a failure (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    /// A URN of the code.
    #[serde(rename = "type")]
    type_uri: String,
    /// What the code means.
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// What was wrong, and what to do about it.
    detail: &'a str,
    /// For programs; it stays the same.
    #[schema(value_type = Code)]
    code: &'static str,
    /// The field or parameter at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    /// The request's id, as in `x-request-id` and in the server's log.
    request_id: &'a str,
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), field: None, retry_after: None }
    }

    /// About one field.
    pub(crate) fn of(code: Code, field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { field: Some(field.into()), ..Self::new(code, detail) }
    }

    pub(crate) const fn code(&self) -> Code {
        self.code
    }

    /// The same words under another code.
    pub(crate) fn with_code(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// Worth another try after this.
    pub(crate) fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }

    /// A status of the libraries below, which say no more.
    pub(crate) fn of_status(status: StatusCode) -> Self {
        let is_its = |code: &&Code| code.status() == status;
        let other = if status.is_server_error() { &Code::Internal } else { &Code::BadRequest };
        let code = Code::ALL.iter().find(is_its).unwrap_or(other);
        Self::new(*code, code.title())
    }

    /// The answer, with the request's id.
    pub(crate) fn render(&self, request_id: &str) -> Response {
        let body = ProblemBody {
            type_uri: format!("urn:posthaste:problem:{}", self.code.as_str()),
            title: self.code.title(),
            status: self.code.status().as_u16(),
            detail: &self.detail,
            code: self.code.as_str(),
            field: self.field.as_deref(),
            request_id,
        };
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        let json = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, json);
        if self.code.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            headers.insert(header::RETRY_AFTER, wait.as_secs().max(1).into());
        }
        response
    }
}

impl IntoResponse for Problem {
    /// Without a body: that is written where the request's id is known.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.code.status();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}

impl From<&StoreError> for Problem {
    /// The cause goes to the log: it may hold SQL and names of the database's.
    fn from(error: &StoreError) -> Self {
        if error.kind() == StoreErrorKind::Held {
            return Self::held(error);
        }
        if error.kind().is_transient() {
            return Self::database_away(error);
        }
        if error.kind() == StoreErrorKind::Invalid {
            tracing::info!(cause = describe(error), "the database refused it");
            let detail = "a rule of the database's own is against it: the server's log has the cause under this \
                          request's id";
            return Self::new(Code::RefusedByDatabase, detail);
        }
        Self::fault(error)
    }
}

impl Problem {
    /// The database is not there, for now; its cause goes to the log.
    pub(crate) fn database_away(error: &(dyn Error + 'static)) -> Self {
        tracing::warn!(cause = describe(error), "the database did not do it");
        let detail = "the database is away or too slow: try again; a submission with an Idempotency-Key or a \
                      jobspec_id may be repeated safely";
        Self::new(Code::DatabaseAway, detail).retry_after(Duration::from_secs(1))
    }

    /// Somebody else's transaction has what the request needs; its cause goes to the log.
    fn held(error: &StoreError) -> Self {
        tracing::info!(cause = describe(error), "the database did not do it");
        let detail = "another transaction holds the key, the token or the id for longer than the server waits: try \
                      again, as it passes with that transaction; nothing was written";
        Self::new(Code::DatabaseAway, detail).retry_after(Duration::from_secs(1))
    }

    /// The database failed in a way that is nobody's request's fault; its cause goes to the log.
    pub(crate) fn fault(error: &(dyn Error + 'static)) -> Self {
        tracing::error!(cause = describe(error), "the database failed");
        Self::internal()
    }

    /// The idempotency key stands for another request.
    pub(crate) fn key_reused() -> Self {
        let detail = "this Idempotency-Key was sent with another body before: take a new key for a new request";
        Self::of(Code::KeyReused, "idempotency-key", detail)
    }

    /// A fault of the server, whose cause is in the log.
    pub(crate) fn internal() -> Self {
        let detail = "the server failed: its log has the cause under this request's id";
        Self::new(Code::Internal, detail)
    }
}

impl From<InvalidMessage> for Problem {
    fn from(error: InvalidMessage) -> Self {
        let field = match error.field {
            "header name" | "header value" => "headers",
            field => field,
        };
        Self::of(Code::InvalidField, field, format!("{} must be {}", error.field, error.limit))
    }
}

impl From<InvalidJob> for Problem {
    fn from(error: InvalidJob) -> Self {
        match error {
            InvalidJob::UniqueKey(bytes) => {
                let detail = format!("unique_key must be 1 to 256 bytes, not {bytes}");
                Self::of(Code::InvalidField, "unique_key", detail)
            }
            InvalidJob::Attempts(attempts) => {
                let detail = format!("attempts must be from 1 to 1000, not {attempts}");
                Self::of(Code::InvalidField, "attempts", detail)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_told_apart_and_their_statuses_are_errors() {
        let codes: HashSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(codes.len(), Code::ALL.len());
        let is_error = |code: &Code| code.status().as_u16() >= 400 && !code.title().is_empty();
        assert!(Code::ALL.iter().all(is_error));
    }

    #[test]
    fn what_another_transaction_holds_is_not_the_databases_fault() {
        let held = Problem::from(StoreError::new(StoreErrorKind::Held, "submit jobs"));
        assert_eq!(held.code(), Code::DatabaseAway);
        assert!(held.detail.contains("another transaction holds the key"), "{held:?}");
        assert!(held.retry_after.is_some());
    }

    #[test]
    fn causes_in_the_database_are_not_told() {
        let cause = "select secret from t";
        for kind in [StoreErrorKind::Unexpected, StoreErrorKind::Invalid, StoreErrorKind::Timeout] {
            let problem = Problem::from(StoreError::caused(kind, "submit jobs", cause));
            assert!(!format!("{problem:?}").contains("select"), "{problem:?}");
        }
    }
}
