//! Messages: enqueued, listed, shown with their timeline, and taken back while they wait.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use posthaste_core::{MessageId, Timestamp, TopicFilter};
use posthaste_store::{
    BrowsePlace, MessageDetail, MessageFilter, MessageState,
    browse::{HEADER_RANGE_MAX, PAGE_MAX},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    filters::Of,
    jobs::{IDEMPOTENCY_KEY, check_contract, request, trace},
    new_message::NewMessageBody,
    shown::as_json,
    shown_messages::{MessageBody, MessageStatus, WholeMessage},
    submission::Mark,
};
use crate::{
    app::App,
    clock,
    context::correlate,
    extract::{Json, OfMessage, OptionalJson, Parameters},
    problem::{Code, Problem},
    tokens::{Principal, Scope},
};

const LIMIT_DEFAULT: u32 = 50;
/// Bytes of a key and of a correlation id: longer ones cannot be enqueued.
const KEY_BYTES_MAX: usize = 512;
const CORRELATION_BYTES_MAX: usize = 256;
/// The header that says which job a message carries.
const JOB_HEADER: &str = "posthaste-job";

/// A message that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Enqueued {
    /// Its id, or that of the first one with its token.
    id: Uuid,
}

/// Enqueue a message
///
/// It is committed when this answers. With an `Idempotency-Key` it may be repeated for as long as tokens are kept
/// (`database.token_retention`): the first message is answered. On a strict topic its key is locked for it.
#[utoipa::path(post, path = "/api/v1/messages", tag = "messages", request_body = NewMessageBody,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 128, pattern = r"^[!-~]+$",
        description = "1 to 128 visible ASCII characters; a repetition with the same body answers the first message")),
    responses((status = 202, description = "It is committed", body = Enqueued)))]
pub(crate) async fn submit(
    State(app): State<Arc<App>>,
    principal: Principal,
    headers: HeaderMap,
    body: Json<NewMessageBody>,
) -> Result<Response, Problem> {
    let Json { value, bytes, _room } = body;
    if !principal.knows(value.topic()) {
        let topics = principal.topics();
        let detail = format!("the token may enqueue messages of the topics {topics}");
        return Err(Problem::of(Code::TopicNotAllowed, "topic", detail));
    }
    let mark = match headers.get(IDEMPOTENCY_KEY) {
        Some(key) => Some(Mark::new(&principal.name, key.to_str().unwrap_or_default(), &bytes)?),
        None => None,
    };
    let enqueue = value.enqueue(mark.as_ref(), trace(&headers))?;
    correlate(&enqueue.message);
    check_contract(&app, &enqueue.message).await?;
    let id = app.messages.submit(enqueue.message.clone(), enqueue.lane()).await?;
    if enqueue.is_reused(id) {
        return Err(Problem::key_reused());
    }
    if principal.is_limited() && enqueue.is_repeated(id) {
        check_first(&app, &principal, id).await?;
    }
    tracing::debug!(message_id = %id, "a message is committed");
    let response = (StatusCode::ACCEPTED, as_json(&Enqueued { id })).into_response();
    Ok(app.located(response, &format!("/api/v1/messages/{id}")))
}

/// Refuses a token that stands for a message which its sender may not know of.
async fn check_first(app: &App, principal: &Principal, id: MessageId) -> Result<(), Problem> {
    let first = app.operations.message(id, false).await?;
    if first.is_none_or(|first| principal.knows(&first.message.topic)) {
        return Ok(());
    }
    let detail = "it belongs to a message of a topic that the caller's token may not see";
    Err(Problem::of(Code::TopicNotAllowed, "token", detail))
}

/// Which messages.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct MessageListing {
    /// Of this topic, or of those that begin so: `prefix*`.
    #[param(pattern = r"^(\*|[A-Za-z0-9._:/-]+\*?)$")]
    topic: Option<String>,
    /// Of this ordering key.
    #[param(min_length = 1, max_length = 512, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    key: Option<String>,
    /// With this id.
    #[param(value_type = Option<Uuid>)]
    id: Option<String>,
    /// With this correlation id.
    #[param(min_length = 1, max_length = 256, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    correlation_id: Option<String>,
    /// In this state.
    #[param(value_type = Option<MessageStatus>)]
    state: Option<String>,
    /// Written at this time or later.
    #[param(format = DateTime)]
    since: Option<String>,
    /// Written before this time.
    #[param(format = DateTime)]
    until: Option<String>,
    /// With this header, as `NAME=VALUE`; only with `since` and `until`, at most 24 hours apart, and with the scope
    /// `payloads`.
    #[param(pattern = r"^[^=\x00]+=[^\x00]*$")]
    header: Option<String>,
    /// How many at most; 50 if not given.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Messages, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Messages {
    /// The page. It may be shorter than asked for, even empty, and not be the last: a page looks at a limited part of
    /// the log.
    messages: Vec<MessageBody>,
    /// What to send as `cursor` for the next page; null on the last one.
    next: Option<String>,
}

/// List messages
///
/// Scheduled ones first, then those of the log, the newest first, page by page. Messages that are written meanwhile stand
/// before the first page. Dead letters and parked messages are listed by their state also when the log has forgotten
/// them.
#[utoipa::path(get, path = "/api/v1/messages", tag = "messages", params(MessageListing),
    responses((status = 200, description = "A page", body = Messages)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    Parameters(listing): Parameters<MessageListing>,
) -> Result<Response, Problem> {
    let limit = listing.limit()?;
    let which = listing.filter(&principal)?;
    let page = app.operations.messages(&which, limit).await?;
    let messages = page.messages.into_iter().map(MessageBody::of).collect();
    Ok(as_json(&Messages { messages, next: page.next.map(cursor) }).into_response())
}

fn wrong(field: &str, rule: &str) -> Problem {
    Problem::of(Code::BadParameter, field, format!("{field} must be {rule}"))
}

impl MessageListing {
    fn limit(&self) -> Result<u32, Problem> {
        let limit = self.limit.as_ref().map_or(Ok(LIMIT_DEFAULT), |text| text.parse());
        let limit = limit.ok().filter(|limit| (1..=PAGE_MAX).contains(limit));
        limit.ok_or_else(|| wrong("limit", "a number from 1 to 200"))
    }

    fn filter(self, principal: &Principal) -> Result<MessageFilter, Problem> {
        check_text("key", self.key.as_deref(), KEY_BYTES_MAX)?;
        check_text("correlation_id", self.correlation_id.as_deref(), CORRELATION_BYTES_MAX)?;
        let topic = self.topic.map(|topic| {
            TopicFilter::new(&[topic])
                .map_err(|_| wrong("topic", "a topic, a prefix followed by one *, or *"))
        });
        let state = self.state.map(|text| {
            let states = "scheduled, unread, pending, published, parked or dead";
            text.parse::<MessageState>().map_err(|_| wrong("state", states))
        });
        let id = self.id.map(|text| text.parse().map_err(|_| wrong("id", "a UUID")));
        let before = self.cursor.map(|text| {
            uncursor(&text).ok_or_else(|| wrong("cursor", "the `next` of an earlier page"))
        });
        let mut which = MessageFilter {
            topics: topic.transpose()?.into_iter().chain(principal.limits()).collect(),
            key: self.key,
            id: id.transpose()?,
            correlation_id: self.correlation_id,
            state: state.transpose()?,
            since: time("since", self.since.as_deref())?,
            until: time("until", self.until.as_deref())?,
            header: None,
            before: before.transpose()?,
        };
        Of::Query.range(which.since, which.until)?;
        if let Some(text) = self.header {
            which.header = Some(header(&text, &which, principal)?);
        }
        Ok(which)
    }
}

/// Text that a message may have.
fn check_text(field: &str, text: Option<&str>, bytes_max: usize) -> Result<(), Problem> {
    let is_fine = |text: &str| {
        !text.is_empty() && text.len() <= bytes_max && !text.chars().any(char::is_control)
    };
    if text.is_none_or(is_fine) {
        return Ok(());
    }
    Err(wrong(field, &format!("1 to {bytes_max} bytes without control characters")))
}

fn time(field: &str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let rule = "a time such as 2027-01-01T00:00:00Z, from 1970 to 9999";
    text.map(|text| clock::read(text).ok_or_else(|| wrong(field, rule))).transpose()
}

fn header(
    text: &str,
    which: &MessageFilter,
    principal: &Principal,
) -> Result<(String, String), Problem> {
    if !principal.may(Scope::Payloads) {
        let detail =
            format!("the token {:?} needs the scope payloads to see headers", principal.name);
        return Err(Problem::of(Code::ScopeMissing, "header", detail));
    }
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty() && !text.contains('\0'));
    let (name, value) = pair.ok_or_else(|| wrong("header", "NAME=VALUE"))?;
    let range = which.since.zip(which.until).map(|(since, until)| until.0.saturating_sub(since.0));
    let longest = i64::try_from(HEADER_RANGE_MAX.as_micros()).unwrap_or(i64::MAX);
    if range.is_none_or(|range| range > longest) {
        let detail = "headers are looked for within at most 24 hours: give since and until as well";
        return Err(Problem::of(Code::BadParameter, "header", detail));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Where a page ends. Its form may change: clients hand it back as it is.
fn cursor(place: BrowsePlace) -> String {
    URL_SAFE_NO_PAD.encode(match place {
        BrowsePlace::Scheduled(n) => format!("ms{n}"),
        BrowsePlace::Log(position) => format!("ml{position}"),
    })
}

fn uncursor(text: &str) -> Option<BrowsePlace> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let text = std::str::from_utf8(&bytes).ok()?;
    let number = |text: &str| text.parse().ok().filter(|number: &i64| *number >= 0);
    match text.split_at_checked(2)? {
        ("ms", n) => number(n).map(BrowsePlace::Scheduled),
        ("ml", position) => number(position).map(BrowsePlace::Log),
        _ => None,
    }
}

/// Show a message
///
/// With its timeline: where it stands at each subscription that reads it.
#[utoipa::path(get, path = "/api/v1/messages/{id}", tag = "messages",
    params(("id" = Uuid, Path, description = "The message's id")),
    responses((status = 200, description = "The message", body = WholeMessage)))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfMessage(id): OfMessage,
) -> Result<Response, Problem> {
    let with_payloads = principal.may(Scope::Payloads);
    let detail = find(&app, &principal, id, with_payloads).await?;
    Ok(as_json(&WholeMessage::of(detail, with_payloads, principal.is_limited())).into_response())
}

/// The message, if there is one that the caller may know of.
async fn find(
    app: &App,
    principal: &Principal,
    id: MessageId,
    with_payload: bool,
) -> Result<MessageDetail, Problem> {
    let found = app.operations.message(id, with_payload).await?;
    found.filter(|found| principal.knows(&found.message.topic)).ok_or_else(|| {
        let detail = "there is none with this id, or the log has forgotten it";
        Problem::new(Code::NoMessage, detail)
    })
}

/// How to change a message.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub(crate) struct MessageChange {
    /// Say what would happen, and change nothing.
    dry_run: bool,
}

/// What became of a change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MessageChanged {
    /// The message's id.
    id: Uuid,
    /// `cancelled`
    outcome: &'static str,
    /// Nothing was changed.
    dry_run: bool,
}

/// Take a scheduled message back
///
/// It is never published. It stands in the audit trail under the token's name. A job's message goes with its job.
#[utoipa::path(post, path = "/api/v1/messages/{id}/cancel", tag = "messages",
    params(("id" = Uuid, Path, description = "The message's id")), request_body = Option<MessageChange>,
    responses((status = 200, description = "What became of it", body = MessageChanged),
        (status = 409, description = "`message-state`: it is in the log already, or carries a job")))]
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfMessage(id): OfMessage,
    OptionalJson(change): OptionalJson<MessageChange>,
) -> Result<Response, Problem> {
    let found = find(&app, &principal, id, false).await?;
    if found.headers.iter().any(|(name, _)| name == JOB_HEADER) {
        let detail = "it carries a job: cancel the job, by POST /api/v1/jobs/{id}/cancel";
        return Err(Problem::new(Code::MessageState, detail));
    }
    let dry_run = change.dry_run;
    let is_waiting = found.message.state == MessageState::Scheduled
        && app.operations.cancel(id, found.message.number, &request(&principal, dry_run)).await?;
    if !is_waiting {
        let detail = "it is in the log already, from which nothing is taken back";
        return Err(Problem::new(Code::MessageState, detail));
    }
    Ok(as_json(&MessageChanged { id, outcome: "cancelled", dry_run }).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_handed_back_and_nothing_else_is_one() {
        for place in [BrowsePlace::Scheduled(7), BrowsePlace::Log(0), BrowsePlace::Log(i64::MAX)] {
            assert_eq!(uncursor(&cursor(place)), Some(place));
        }
        for text in [
            "",
            "7",
            "ml7",
            "bWw",
            &URL_SAFE_NO_PAD.encode("ml-1"),
            &URL_SAFE_NO_PAD.encode("\u{e4}7"),
        ] {
            assert_eq!(uncursor(text), None, "{text}");
        }
    }
}
