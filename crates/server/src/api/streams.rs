//! Live streams: messages as server-sent events, and tickets for browsers.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use posthaste_core::TopicFilter;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::{Instrument as _, Span};
use utoipa::{IntoParams, ToSchema};

use super::shown::as_json;
use crate::{
    app::App,
    extract::{OptionalJson, Parameters},
    problem::{Code, Problem},
    streams::{Entry, Follower, From, StreamError, Wish},
    tickets::Ticket,
    tokens::{Principal, Scope},
};

/// The id of the last event that a client has seen; a browser sends it when it comes again.
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const WORD: Bytes = Bytes::from_static(b":\n\n");

/// What to follow.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Following {
    /// Topics, separated by commas: exact ones, or `prefix*`; all if not given.
    #[param(pattern = r"^(\*|[A-Za-z0-9._:/-]+\*?)(,(\*|[A-Za-z0-9._:/-]+\*?))*$")]
    topic: Option<String>,
    /// Messages with this ordering key alone.
    #[param(pattern = r"^[^\x00]*$")]
    key: Option<String>,
    /// Where to begin: `now`, `beginning`, a time in RFC 3339 (at what was committed from then on, or a little earlier),
    /// or the id of the last event that was seen; now if not given. The header `Last-Event-ID` goes before it.
    since: Option<String>,
    /// Instead of a token. It names topics and key itself: those here must be the same, or be left out.
    ticket: Option<String>,
}

/// Follow the log
///
/// Messages as they are committed, as server-sent events, in the order of their keys, without gap and without repetition.
/// An event's id is a place in the log: whoever comes again with the last one, by `Last-Event-ID` or `since`, goes on
/// behind it, whatever was restarted in between. A client that is too slow is cut off, and goes on in the same way.
#[utoipa::path(get, path = "/api/v1/streams", tag = "streams",
    params(Following, ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen")),
    responses((status = 200, description = "Events, until either side ends it; their data is JSON: `id`, `topic`, `key`, \
        `content_type`, `correlation_id`, `enqueued_at`, and with the scope `payloads` `headers` and one of `payload` (JSON), \
        `payload_text` and `payload_base64`", content_type = "text/event-stream", body = String),
        (status = 410, description = "`stream-gone`: the log no longer has what follows, or never had it"),
        (status = 429, description = "`too-many-streams`: end one first")))]
pub(crate) async fn follow(
    State(app): State<Arc<App>>,
    principal: Principal,
    ticket: Option<Extension<Ticket>>,
    headers: HeaderMap,
    Parameters(following): Parameters<Following>,
) -> Result<Response, Problem> {
    let ticket = ticket.map(|Extension(ticket)| ticket);
    let wish = wish(&principal, ticket.as_ref(), following, &headers)?;
    let Some(entry) = app.streams.enter(&principal.name) else {
        let detail =
            "end a stream first, or raise server.streams_max and server.streams_per_token_max";
        let wait = Duration::from_secs(5);
        return Err(Problem::new(Code::TooManyStreams, detail).retry_after(wait));
    };
    let follower = app.streams.follow(wish).await?;
    let silence_max = app.settings.stream_silence_max;
    // What becomes of it later stands in the log under the request's id as well.
    let span = Span::current();
    let next = move |open| frame(open, silence_max).instrument(span.clone());
    let body = Body::from_stream(stream::unfold((follower, entry), next));
    let event_stream = HeaderValue::from_static("text/event-stream");
    // Proxies that collect answers would hold events back.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(([(header::CONTENT_TYPE, event_stream), unbuffered], body).into_response())
}

type Frame = Result<Bytes, std::convert::Infallible>;

async fn frame(
    (mut follower, entry): (Follower, Entry),
    silence_max: Duration,
) -> Option<(Frame, (Follower, Entry))> {
    let frame = match timeout(silence_max, follower.next()).await {
        Ok(frame) => frame?,
        Err(_elapsed) => WORD,
    };
    Some((Ok(frame), (follower, entry)))
}

fn wish(
    principal: &Principal,
    ticket: Option<&Ticket>,
    following: Following,
    headers: &HeaderMap,
) -> Result<Wish, Problem> {
    let Following { topic, key, since, .. } = following;
    let (topic, key) = match ticket {
        Some(ticket) => {
            let is_same =
                |asked: &Option<String>, own: &Option<String>| asked.is_none() || asked == own;
            if !is_same(&topic, &ticket.topic) || !is_same(&key, &ticket.key) {
                let detail = "the ticket is for another topic or key: leave them out here";
                return Err(Problem::of(Code::TopicNotAllowed, "ticket", detail));
            }
            (ticket.topic.clone(), ticket.key.clone())
        }
        None => (topic, key),
    };
    let last = headers.get(LAST_EVENT_ID).map(|id| id.to_str().unwrap_or_default());
    let from = last.or(since.as_deref()).map_or(Some(From::Now), From::parse);
    let from = from.ok_or_else(|| {
        let field = if last.is_some() { "last-event-id" } else { "since" };
        let detail = format!("{field} must be `now`, `beginning`, a time such as 2026-01-02T03:04:05Z from 1970 on, or the id of an event");
        Problem::of(Code::BadParameter, field, detail)
    })?;
    let topics = topics(principal, topic.as_deref())?;
    check_key(key.as_deref())?;
    Ok(Wish { topics, key, with_payloads: principal.may(Scope::Payloads), from })
}

/// Databases know no text with a zero in it.
fn check_key(key: Option<&str>) -> Result<(), Problem> {
    if key.is_some_and(|key| key.contains('\0')) {
        let detail = "key must not have the character U+0000: no message has it";
        return Err(Problem::of(Code::BadParameter, "key", detail));
    }
    Ok(())
}

/// What is wrong with a parameter, as it is told of a field.
fn of_body(problem: Problem) -> Problem {
    match problem.code() {
        Code::BadParameter => problem.with_code(Code::InvalidField),
        _ => problem,
    }
}

/// The topics that were asked for, if they are the caller's to see.
fn topics(principal: &Principal, topic: Option<&str>) -> Result<TopicFilter, Problem> {
    let patterns: Vec<&str> = topic.unwrap_or("*").split(',').map(str::trim).collect();
    let topics = TopicFilter::new(&patterns)
        .map_err(|error| Problem::of(Code::BadParameter, "topic", error.to_string()))?;
    if principal.knows_all(&topics) {
        return Ok(topics);
    }
    let own = principal.topics();
    let detail = format!("the token may see the topics {own}: name some of them as topic=…");
    Err(Problem::of(Code::TopicNotAllowed, "topic", detail))
}

impl std::convert::From<StreamError> for Problem {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Store(error) => Self::from(&error),
            gone => {
                let detail = format!("{gone}; begin again, with since=now or since=beginning");
                Self::of(Code::StreamGone, "since", detail)
            }
        }
    }
}

/// What a ticket is wanted for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TicketBody {
    /// Topics, separated by commas: exact ones, or `prefix*`; all if not given.
    #[schema(pattern = r"^(\*|[A-Za-z0-9._:/-]+\*?)(,(\*|[A-Za-z0-9._:/-]+\*?))*$")]
    topic: Option<String>,
    /// Messages with this ordering key alone.
    #[schema(pattern = r"^[^\x00]*$")]
    key: Option<String>,
}

/// A ticket.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TicketMade {
    /// What to send as `ticket` in the query of a stream.
    ticket: String,
    /// Seconds that are left to begin a stream with it, and to come again; a stream that is open goes on.
    expires_in: u64,
}

/// Get a ticket
///
/// Leave to follow one stream for some minutes, for pages: a browser's `EventSource` sends no headers. It sees what the
/// token sees. When it has expired the page gets a new one, and goes on with `since` and its last event's id.
#[utoipa::path(post, path = "/api/v1/streams/tickets", tag = "streams", request_body = Option<TicketBody>,
    responses((status = 200, description = "A ticket", body = TicketMade)))]
pub(crate) async fn ticket(
    State(app): State<Arc<App>>,
    principal: Principal,
    OptionalJson(body): OptionalJson<TicketBody>,
) -> Result<Response, Problem> {
    let TicketBody { topic, key } = body;
    topics(&principal, topic.as_deref()).map_err(of_body)?;
    check_key(key.as_deref()).map_err(of_body)?;
    let longer = if topic.as_ref().map(String::len) > key.as_ref().map(String::len) {
        "topic"
    } else {
        "key"
    };
    let ticket = app.tickets.make(&Ticket { principal, topic, key });
    let ticket = ticket.ok_or_else(|| {
        let detail =
            "topic and key do not fit into an address: ask for fewer topics, or a shorter key";
        Problem::of(Code::InvalidField, longer, detail)
    })?;
    let expires_in = app.tickets.lifetime().as_secs();
    Ok(as_json(&TicketMade { ticket, expires_in }).into_response())
}
