//! What handlers take out of requests. Every refusal is a [`Problem`].

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes, HttpBody as _},
    extract::{
        FromRequest, FromRequestParts, Path, Query, Request, path::ErrorKind,
        rejection::PathRejection,
    },
    http::{HeaderMap, header, request::Parts},
};
use http_body_util::BodyExt as _;
use posthaste_core::MessageId;
use posthaste_store::{JobId, OperationId};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    app::App,
    batches::UNIT_BYTES,
    problem::{Code, Problem},
    strict_json,
    tokens::Principal,
};

/// How much more than the limit is read and thrown away, so that a client that is still sending hears the answer.
const OVERRUN_FACTOR: usize = 8;

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Json<T> {
    pub(crate) value: T,
    /// As it was sent.
    pub(crate) bytes: Bytes,
    /// The room that it takes, until the request is answered.
    pub(crate) _room: Option<OwnedSemaphorePermit>,
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "send the body as content-type: application/json";
            return Err(Problem::of(Code::NotJson, "content-type", detail));
        }
        if let Some(coding) = coding(request.headers()) {
            let detail =
                format!("content-encoding {coding:?} is not known here: send the body as it is");
            return Err(Problem::of(Code::NotJson, "content-encoding", detail));
        }
        let (bytes, room) = body(request, app).await?;
        Ok(Self { value: strict_json::read(&bytes)?, bytes, _room: room })
    }
}

/// A JSON body that may be left out, or be null.
#[derive(Debug)]
pub(crate) struct OptionalJson<T>(pub(crate) T);

impl<T: DeserializeOwned + Default> FromRequest<Arc<App>> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &Arc<App>) -> Result<Self, Problem> {
        if request.body().is_end_stream() {
            return Ok(Self(T::default()));
        }
        let Json { value, .. } = Json::<Option<T>>::from_request(request, app).await?;
        Ok(Self(value.unwrap_or_default()))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()) else {
        return false;
    };
    let mut parts = kind.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    // JSON is UTF-8, whatever else is said.
    is_json && parts.all(|part| part.is_empty() || part.eq_ignore_ascii_case("charset=utf-8"))
}

/// What was done to the body before it was sent.
fn coding(headers: &HeaderMap) -> Option<String> {
    let coding = headers.get(header::CONTENT_ENCODING)?;
    let coding = String::from_utf8_lossy(coding.as_bytes()).trim().to_ascii_lowercase();
    (!matches!(&*coding, "" | "identity")).then_some(coding)
}

/// A body, and the room that it takes.
type Collected = (Bytes, Option<OwnedSemaphorePermit>);

async fn body(request: Request, app: &App) -> Result<Collected, Problem> {
    let limit = app.settings.body_bytes_max;
    let is_asked_first = request.headers().contains_key(header::EXPECT);
    let body = request.into_body();
    if is_asked_first && body.size_hint().lower() > limit as u64 {
        return Err(too_large(limit));
    }
    match timeout(app.settings.body_timeout, collect(body, limit, &app.bodies)).await {
        Ok(collected) => collected,
        Err(_elapsed) => {
            let limit = app.settings.body_timeout;
            let detail = format!("the body must come within {limit:?} (server.body_timeout)");
            Err(Problem::new(Code::SlowBody, detail))
        }
    }
}

async fn collect(
    mut body: Body,
    limit: usize,
    room: &Arc<Semaphore>,
) -> Result<Collected, Problem> {
    let mut bytes = Vec::new();
    let mut held: Option<OwnedSemaphorePermit> = None;
    let mut seen: usize = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_broken| {
            Problem::new(Code::BadRequest, "the body broke off: send as much as was announced")
        })?;
        let Ok(data) = frame.into_data() else { continue };
        seen = seen.saturating_add(data.len());
        if seen <= limit {
            widen(&mut held, room, seen)?;
            bytes.extend_from_slice(&data);
        } else if seen > limit.saturating_mul(OVERRUN_FACTOR) {
            break;
        }
    }
    if seen > limit { Err(too_large(limit)) } else { Ok((bytes.into(), held)) }
}

/// Takes as much room more as a body of so many bytes needs.
fn widen(
    held: &mut Option<OwnedSemaphorePermit>,
    room: &Arc<Semaphore>,
    bytes: usize,
) -> Result<(), Problem> {
    let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
    let lacks = bytes.div_ceil(UNIT_BYTES).saturating_sub(has);
    if lacks == 0 {
        return Ok(());
    }
    let more =
        u32::try_from(lacks).ok().and_then(|n| Arc::clone(room).try_acquire_many_owned(n).ok());
    let more = more.ok_or_else(|| {
        let detail = "too many bodies are being read: try again, or raise server.queue_bytes_max";
        Problem::new(Code::Busy, detail).retry_after(Duration::from_secs(1))
    })?;
    match held {
        Some(held) => held.merge(more),
        None => *held = Some(more),
    }
    Ok(())
}

fn too_large(limit: usize) -> Problem {
    let detail = format!("a body has at most {limit} bytes (server.body_bytes_max)");
    Problem::new(Code::BodyTooLarge, detail)
}

/// The parameters of a query, each at most once.
#[derive(Debug)]
pub(crate) struct Parameters<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<App>> for Parameters<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let read = Query::<T>::from_request_parts(parts, app).await;
        let Query(value) = read.map_err(|error| {
            let said = error.body_text();
            let said = said.split_once(": ").map_or(said.as_str(), |(_, said)| said);
            let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
            Problem::new(Code::BadParameter, format!("the query cannot be read: {said}"))
        })?;
        Ok(Self(value))
    }
}

/// The job that the path names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfJob(pub(crate) JobId);

impl FromRequestParts<Arc<App>> for OfJob {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, app).await;
        let id = path.ok().and_then(|Path(text)| text.parse().ok());
        let wrong = || Problem::of(Code::BadParameter, "id", "id must be a UUID");
        id.map(Self).ok_or_else(wrong)
    }
}

/// The operation that the path names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfOperation(pub(crate) OperationId);

impl FromRequestParts<Arc<App>> for OfOperation {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        OfJob::from_request_parts(parts, app).await.map(|OfJob(id)| Self(id))
    }
}

/// The message that the path names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OfMessage(pub(crate) MessageId);

impl FromRequestParts<Arc<App>> for OfMessage {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        OfJob::from_request_parts(parts, app).await.map(|OfJob(id)| Self(id))
    }
}

/// Texts of the path, each with the name that it has there; none with control characters, which no database keeps in
/// a name.
async fn texts<const N: usize>(
    parts: &mut Parts,
    app: &Arc<App>,
    fields: [&str; N],
) -> Result<[String; N], Problem> {
    let wrong = |field: &str| {
        let detail = format!("{field} must be text in UTF-8 without control characters");
        Problem::of(Code::BadParameter, field, detail)
    };
    let path = Path::<Vec<(String, String)>>::from_request_parts(parts, app).await;
    let path = match path {
        Ok(Path(path)) => path,
        Err(error) => return Err(wrong(undecodable(&error).unwrap_or(fields[0]))),
    };
    let mut found = fields.map(|_| String::new());
    for (field, text) in fields.into_iter().zip(&mut found) {
        let given = path.iter().find(|(name, _)| name == field);
        let given = given.filter(|(_, given)| !given.chars().any(char::is_control));
        given.ok_or_else(|| wrong(field))?.1.clone_into(text);
    }
    Ok(found)
}

/// The name of the part of a path that is no UTF-8.
fn undecodable(error: &PathRejection) -> Option<&str> {
    let PathRejection::FailedToDeserializePathParams(error) = error else { return None };
    match error.kind() {
        ErrorKind::InvalidUtf8InPathParam { key } => Some(key),
        _ => None,
    }
}

/// The subscription and the message that the path names.
#[derive(Clone, Debug)]
pub(crate) struct OfDeadLetter(pub(crate) String, pub(crate) MessageId);

impl FromRequestParts<Arc<App>> for OfDeadLetter {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        let [subscription, id] = texts(parts, app, ["subscription", "id"]).await?;
        let wrong = |_| Problem::of(Code::BadParameter, "id", "id must be a UUID");
        Ok(Self(subscription, id.parse().map_err(wrong)?))
    }
}

/// The machine that the path names.
#[derive(Clone, Debug)]
pub(crate) struct OfName(pub(crate) String);

impl FromRequestParts<Arc<App>> for OfName {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        texts(parts, app, ["name"]).await.map(|[name]| Self(name))
    }
}

/// The machine and the entity that the path names.
#[derive(Clone, Debug)]
pub(crate) struct OfEntity(pub(crate) String, pub(crate) String);

impl FromRequestParts<Arc<App>> for OfEntity {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        texts(parts, app, ["name", "id"]).await.map(|[name, id]| Self(name, id))
    }
}

/// The topic that the path names.
#[derive(Clone, Debug)]
pub(crate) struct OfTopic(pub(crate) String);

impl FromRequestParts<Arc<App>> for OfTopic {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        texts(parts, app, ["topic"]).await.map(|[topic]| Self(topic))
    }
}

/// The subscription that the path names.
#[derive(Clone, Debug)]
pub(crate) struct OfSubscription(pub(crate) String);

impl FromRequestParts<Arc<App>> for OfSubscription {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Problem> {
        texts(parts, app, ["name"]).await.map(|[name]| Self(name))
    }
}

impl FromRequestParts<Arc<App>> for Principal {
    type Rejection = Problem;

    /// [`crate::guard::authorize`] has put it there, on every route but public ones.
    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(|| {
            tracing::error!("a public route asks who calls");
            Problem::internal()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_json_in_utf8_is_json() {
        let ask = |kind: &str| {
            is_json(&HeaderMap::from_iter([(header::CONTENT_TYPE, kind.parse().unwrap())]))
        };
        for kind in ["application/json", "Application/JSON; charset=UTF-8", "application/json;"] {
            assert!(ask(kind), "{kind}");
        }
        for kind in ["text/plain", "application/jsonp", "application/json; charset=latin1", ""] {
            assert!(!ask(kind), "{kind}");
        }
        assert!(!is_json(&HeaderMap::new()));
    }
}
