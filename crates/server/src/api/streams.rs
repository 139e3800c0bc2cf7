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
use posthaste_core::{Timestamp, TopicFilter};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::{Instrument as _, Span};
use utoipa::{IntoParams, ToSchema};

use super::{filters::Of, shown::as_json};
use crate::{
    app::App,
    clock,
    extract::{OptionalJson, Parameters},
    problem::{Code, Problem},
    streams::{Entry, Follower, From, StreamError, Wish},
    tickets::Ticket,
    tokens::{Principal, Scope},
};

/// The id of the last event that a client has seen; a browser sends it when it comes again.
pub(crate) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Characters of an ordering key: of those that messages have, the longest have as many bytes.
const KEY_CHARS_MAX: usize = 512;
/// Bytes of the topics of a ticket: with the longest key it still is no longer than what is read of one.
const TICKET_TOPIC_BYTES_MAX: usize = 2_048;
const WORD: Bytes = Bytes::from_static(b":\n\n");

/// What to follow.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Following {
    /// Up to 100 topics, separated by commas: exact ones, or `prefix*`; all if not given.
    #[param(pattern = r"^(\*|[A-Za-z0-9._:/-]+\*?)(,(\*|[A-Za-z0-9._:/-]+\*?)){0,99}$")]
    topic: Option<String>,
    /// Messages with this ordering key alone.
    #[param(max_length = 512, pattern = r"^[^\x00]*$")]
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
    responses((status = 200, description = "Events, until either side ends it or the token expires; their data is JSON: `id`, `topic`, `key`, \
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
    let open = Open { follower, expires: principal.expires, silence_max, _entry: entry };
    let frames = stream::unfold(open, move |open| frame(open).instrument(span.clone()));
    let body = Body::from_stream(frames);
    let event_stream = HeaderValue::from_static("text/event-stream");
    // Proxies that collect answers would hold events back.
    let unbuffered = (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(([(header::CONTENT_TYPE, event_stream), unbuffered], body).into_response())
}

type Frame = Result<Bytes, std::convert::Infallible>;

/// A stream that is open.
struct Open {
    follower: Follower,
    /// When the token ends that it was begun with.
    expires: Option<Timestamp>,
    /// After so long without an event there is a word, so that nobody on the way takes the connection for dead.
    silence_max: Duration,
    /// Its place among those that may be open.
    _entry: Entry,
}

async fn frame(mut open: Open) -> Option<(Frame, Open)> {
    let patience = patience(open.silence_max, open.expires, clock::now())?;
    let frame = match timeout(patience, open.follower.next()).await {
        Ok(frame) => frame?,
        Err(_elapsed) => WORD,
    };
    Some((Ok(frame), open))
}

/// How long to wait for the next frame before the clock is looked at again; `None` once the stream is over.
fn patience(silence_max: Duration, expires: Option<Timestamp>, now: Timestamp) -> Option<Duration> {
    let Some(expires) = expires else { return Some(silence_max) };
    let left = u64::try_from(expires.0.saturating_sub(now.0)).ok().filter(|left| *left > 0)?;
    Some(silence_max.min(Duration::from_micros(left)))
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
    let topics = topics(Of::Query, principal, topic)?;
    check_key(Of::Query, key.as_deref())?;
    Ok(Wish { topics, key, with_payloads: principal.may(Scope::Payloads), from })
}

/// No message has another key, and databases know no text with a zero in it.
fn check_key(of: Of, key: Option<&str>) -> Result<(), Problem> {
    let is_wrong = |key: &str| key.contains('\0') || key.chars().nth(KEY_CHARS_MAX).is_some();
    if key.is_some_and(is_wrong) {
        return Err(of.wrong("key", "text of at most 512 characters without U+0000"));
    }
    Ok(())
}

/// The topics that were asked for, if they are the caller's to see.
fn topics(of: Of, principal: &Principal, topic: Option<String>) -> Result<TopicFilter, Problem> {
    let topics = of.topics(topic)?.unwrap_or_else(TopicFilter::all);
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
    /// Up to 100 topics, separated by commas: exact ones, or `prefix*`; all if not given.
    #[schema(
        max_length = 2048,
        pattern = r"^(\*|[A-Za-z0-9._:/-]+\*?)(,(\*|[A-Za-z0-9._:/-]+\*?)){0,99}$"
    )]
    topic: Option<String>,
    /// Messages with this ordering key alone.
    #[schema(max_length = 512, pattern = r"^[^\x00]*$")]
    key: Option<String>,
}

/// A ticket.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TicketMade {
    /// What to send as `ticket` in the query of a stream.
    ticket: String,
    /// Seconds that are left to begin a stream with it, and to come again, at most until the token expires; a stream that is
    /// open goes on until then.
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
    if topic.as_ref().is_some_and(|topic| topic.len() > TICKET_TOPIC_BYTES_MAX) {
        return Err(Of::Body.wrong("topic", "text of at most 2048 bytes"));
    }
    topics(Of::Body, &principal, topic.clone())?;
    check_key(Of::Body, key.as_deref())?;
    let ticket = app.tickets.make(&Ticket { principal, topic, key });
    let (ticket, lasts) = ticket.ok_or_else(|| {
        let detail = "the ticket would be too long for an address, with the token's topics: use a token of fewer topics";
        Problem::of(Code::InvalidField, "topic", detail)
    })?;
    let expires_in = lasts.as_secs();
    Ok(as_json(&TicketMade { ticket, expires_in }).into_response())
}
