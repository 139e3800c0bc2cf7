//! Dead letters: listed, grouped, shown, tried again, given up. One at once; more of them by an operation in the
//! background ([`super::operations`]).

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use posthaste_core::Timestamp;
use posthaste_store::{
    DeadLetter, DeadLetterFilter, DeadLetterGroup, DeadLetterPlace, DeadLetterRow, GROUPED_MAX,
    OperationKind, OperationSpec, Order, Request, Selection,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    filters::{Conditions, Of, cursor},
    operations::{self, OperationBody},
    shown::{as_json, readable},
};
use crate::{
    app::App,
    clock,
    extract::{Json, OfDeadLetter, OptionalJson, Parameters},
    problem::{Code, Problem},
    tokens::{Principal, Scope},
};

const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 200;

/// Which dead letters.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Listing {
    /// Of this subscription.
    #[param(max_length = 1024, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    subscription: Option<String>,
    /// Of these topics, separated by commas: exact, or as `prefix*`.
    #[param(pattern = r"^(\*|[A-Za-z0-9._:/-]+\*?)(,(\*|[A-Za-z0-9._:/-]+\*?))*$")]
    topic: Option<String>,
    /// Of this key.
    #[param(max_length = 1024, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    key: Option<String>,
    /// With this text in the reason.
    #[param(min_length = 1, max_length = 4096, pattern = r"^[^\x00]*$")]
    reason: Option<String>,
    /// Of this group of reasons, as `/api/v1/dead-letters/groups` names it.
    #[param(min_length = 1, max_length = 4096, pattern = r"^[^\x00]*$")]
    group: Option<String>,
    /// That failed at this time or later.
    #[param(format = DateTime)]
    since: Option<String>,
    /// That failed before this time.
    #[param(format = DateTime)]
    until: Option<String>,
    /// `newest` failure first, if not given, or `oldest`.
    #[param(inline, value_type = Option<Sequence>)]
    order: Option<String>,
    /// How many at most; 50 if not given.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Which failure stands first.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "only described: the text is compared where it is read")]
enum Sequence {
    Newest,
    Oldest,
}

/// A page of dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadLetters {
    /// The page.
    dead_letters: Vec<DeadLetterBody>,
    /// What to send as `cursor` for the next page; null on the last one.
    next: Option<String>,
}

/// A message out of attempts.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(crate) struct DeadLetterBody {
    /// The message's id.
    id: Uuid,
    /// The subscription whose sink rejected it.
    subscription: String,
    /// Its position in the log.
    position: i64,
    /// Its topic.
    topic: String,
    /// Its key.
    key: Option<String>,
    /// Its payload's media type.
    content_type: String,
    /// What ties it to others.
    correlation_id: Option<String>,
    /// How long its payload is.
    payload_bytes: u64,
    /// How often it was rejected.
    attempts: u32,
    /// The sink's last reason.
    reason: String,
    /// Whether its key waits for it.
    holds_key: bool,
    /// When it was written.
    #[schema(format = DateTime)]
    enqueued_at: String,
    /// When it was set aside.
    #[schema(format = DateTime)]
    failed_at: String,
}

impl DeadLetterBody {
    fn of(row: &DeadLetterRow) -> Self {
        Self {
            id: row.place.id,
            subscription: row.subscription.clone(),
            position: row.place.position,
            topic: row.topic.clone(),
            key: row.key.clone(),
            content_type: row.content_type.clone(),
            correlation_id: row.correlation_id.clone(),
            payload_bytes: row.payload_bytes,
            attempts: row.attempts,
            reason: row.reason.clone(),
            holds_key: row.holds_key,
            enqueued_at: clock::rfc3339(row.enqueued_at),
            failed_at: clock::rfc3339(row.place.failed_at),
        }
    }
}

/// List dead letters
///
/// Page by page, without their payloads. What fails or goes meanwhile moves nothing else.
#[utoipa::path(get, path = "/api/v1/dead-letters", tag = "dead letters", params(Listing),
    responses((status = 200, description = "A page", body = DeadLetters)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    Parameters(listing): Parameters<Listing>,
) -> Result<Response, Problem> {
    let order = match listing.order.as_deref() {
        None | Some("newest") => Order::NewestFirst,
        Some("oldest") => Order::OldestFirst,
        Some(_) => return Err(Of::Query.wrong("order", "newest or oldest")),
    };
    let limit = Of::Query.limit(listing.limit.clone(), LIMIT_DEFAULT, LIMIT_MAX)?;
    let after = Of::Query.place('d', listing.cursor.clone(), place)?;
    let filter = listing.conditions().filter(Of::Query)?;
    let page = app.operations.dead_letter_page(&filter, order, after.as_ref(), limit).await?;
    let is_full = page.len() == usize::try_from(limit).unwrap_or(usize::MAX);
    let next = page.last().filter(|_| is_full).map(|last| cursor('d', &place_text(&last.place)));
    let dead_letters = page.iter().map(DeadLetterBody::of).collect();
    Ok(as_json(&DeadLetters { dead_letters, next }).into_response())
}

impl Listing {
    fn conditions(self) -> Conditions {
        Conditions {
            subscription: self.subscription,
            ids: None,
            topic: self.topic,
            key: self.key,
            reason: self.reason,
            group: self.group,
            since: self.since,
            until: self.until,
        }
    }
}

fn place_text(place: &DeadLetterPlace) -> String {
    let DeadLetterPlace { failed_at, subscription, position, id } = place;
    format!("{}/{subscription}/{position}/{id}", failed_at.0)
}

fn place(text: &str) -> Option<DeadLetterPlace> {
    let mut parts = text.split('/');
    let mut number = || parts.next()?.parse::<i64>().ok().filter(|number| *number >= 0);
    let (failed_at, subscription, position) = (Timestamp(number()?), number()?, number()?);
    let id = parts.next()?.parse().ok()?;
    let is_whole = parts.next().is_none() && failed_at.0 < i64::MAX / 2;
    is_whole.then_some(DeadLetterPlace { failed_at, subscription, position, id })
}

/// Which dead letters to group.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Grouping {
    /// Of this subscription.
    #[param(max_length = 1024, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    subscription: Option<String>,
    /// Of these topics, separated by commas: exact, or as `prefix*`.
    #[param(pattern = r"^(\*|[A-Za-z0-9._:/-]+\*?)(,(\*|[A-Za-z0-9._:/-]+\*?))*$")]
    topic: Option<String>,
    /// Of this key.
    #[param(max_length = 1024, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    key: Option<String>,
    /// With this text in the reason.
    #[param(min_length = 1, max_length = 4096, pattern = r"^[^\x00]*$")]
    reason: Option<String>,
    /// That failed at this time or later.
    #[param(format = DateTime)]
    since: Option<String>,
    /// That failed before this time.
    #[param(format = DateTime)]
    until: Option<String>,
    /// How many groups at most; 50 if not given.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Option<String>,
}

/// Dead letters by subscription and reason.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetterGroups)]
pub(crate) struct GroupedBody {
    /// The largest groups.
    groups: Vec<GroupBody>,
    /// How many groups there are.
    groups_total: u64,
    /// How many dead letters were looked at: the newest, at most 50,000.
    looked_at: u64,
    /// Whether these were all.
    is_all: bool,
}

/// Dead letters whose reasons differ in numbers and ids alone.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetterGroup)]
pub(crate) struct GroupBody {
    /// The subscription.
    subscription: String,
    /// What their reasons have in common, with `#` for numbers and ids; other requests take it as `group`.
    group: String,
    /// How many they are.
    count: u64,
    /// When the first of them failed.
    #[schema(format = DateTime)]
    first_failed_at: String,
    /// When the last of them failed.
    #[schema(format = DateTime)]
    last_failed_at: String,
    /// The message that failed last.
    example_id: Uuid,
}

impl GroupBody {
    fn of(group: &DeadLetterGroup) -> Self {
        Self {
            subscription: group.subscription.clone(),
            group: group.reason.clone(),
            count: group.count,
            first_failed_at: clock::rfc3339(group.first),
            last_failed_at: clock::rfc3339(group.last),
            example_id: group.example,
        }
    }
}

/// Group dead letters
///
/// By subscription and reason, the largest group first. In a reason, `#` stands for a UUID, for a run of eight
/// hexadecimal digits or more, and for one that begins with a decimal digit; 400 characters of it are looked at.
#[utoipa::path(get, path = "/api/v1/dead-letters/groups", tag = "dead letters", params(Grouping),
    responses((status = 200, description = "The groups", body = GroupedBody)))]
pub(crate) async fn groups(
    State(app): State<Arc<App>>,
    Parameters(asked): Parameters<Grouping>,
) -> Result<Response, Problem> {
    let limit = Of::Query.limit(asked.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let conditions = Conditions {
        subscription: asked.subscription,
        ids: None,
        topic: asked.topic,
        key: asked.key,
        reason: asked.reason,
        group: None,
        since: asked.since,
        until: asked.until,
    };
    let filter = conditions.filter(Of::Query)?;
    let found = app.operations.dead_letter_groups(&filter, limit).await?;
    let body = GroupedBody {
        groups: found.groups.iter().map(GroupBody::of).collect(),
        groups_total: found.groups_total,
        looked_at: found.looked_at,
        is_all: found.looked_at < u64::from(GROUPED_MAX),
    };
    Ok(as_json(&body).into_response())
}

/// A dead letter with its payload.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WholeDeadLetter {
    #[serde(flatten)]
    dead_letter: DeadLetterBody,
    /// Its payload, with the scope `payloads`: JSON as it is, other text as a string, other bytes in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Value>,
    /// Its headers, with the scope `payloads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    headers: Option<serde_json::Map<String, Value>>,
}

impl WholeDeadLetter {
    fn of(letter: DeadLetter, with_payload: bool) -> Self {
        let DeadLetter { subscription, message, attempts, reason, failed_at, holds_key } = letter;
        let payload = with_payload.then(|| readable(&message.content_type, &message.payload));
        let pairs = message.headers.into_iter().map(|(name, value)| (name, value.into()));
        let dead_letter = DeadLetterBody {
            id: message.id,
            subscription,
            position: message.position,
            topic: message.topic,
            key: message.key,
            content_type: message.content_type,
            correlation_id: message.correlation_id,
            payload_bytes: message.payload.len() as u64,
            attempts,
            reason,
            holds_key,
            enqueued_at: clock::rfc3339(message.enqueued_at),
            failed_at: clock::rfc3339(failed_at),
        };
        Self { dead_letter, payload, headers: with_payload.then(|| pairs.collect()) }
    }
}

/// Show a dead letter
///
/// With its payload and its headers for tokens with the scope `payloads`.
#[utoipa::path(get, path = "/api/v1/dead-letters/{subscription}/{id}", tag = "dead letters",
    params(("subscription" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The subscription's name"),
        ("id" = Uuid, Path, description = "The message's id")),
    responses((status = 200, description = "The dead letter", body = WholeDeadLetter)))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfDeadLetter(subscription, id): OfDeadLetter,
) -> Result<Response, Problem> {
    let which = one(subscription, id);
    let found = app.operations.dead_letters(&which, 1).await?.into_iter().next();
    let letter = found.ok_or_else(no_dead_letter)?;
    let whole = WholeDeadLetter::of(letter, principal.may(Scope::Payloads));
    Ok(as_json(&whole).into_response())
}

fn one(subscription: String, id: Uuid) -> Selection {
    Selection { subscription: Some(subscription), ids: vec![id], ..Selection::default() }
}

fn no_dead_letter() -> Problem {
    let detail = "the subscription has no dead letter with this id: it never failed, is due again, or was given up";
    Problem::new(Code::NoDeadLetter, detail)
}

/// How to change a dead letter.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub(crate) struct OneDeadLetterChange {
    /// Say what would happen, and change nothing.
    dry_run: bool,
}

/// What became of a dead letter.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeadLetterChanged {
    /// The subscription.
    subscription: String,
    /// The message's id.
    id: Uuid,
    /// `replayed` or `discarded`.
    outcome: &'static str,
    /// Nothing was changed.
    dry_run: bool,
}

/// Try a dead letter again
///
/// With all its attempts before it; a running relay takes it up within a second. It stands in the audit trail under
/// the token's name.
#[utoipa::path(post, path = "/api/v1/dead-letters/{subscription}/{id}/replay", tag = "dead letters",
    params(("subscription" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The subscription's name"),
        ("id" = Uuid, Path, description = "The message's id")),
    request_body = Option<OneDeadLetterChange>,
    responses((status = 200, description = "It is due", body = DeadLetterChanged)))]
pub(crate) async fn replay_one(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfDeadLetter(subscription, id): OfDeadLetter,
    OptionalJson(change): OptionalJson<OneDeadLetterChange>,
) -> Result<Response, Problem> {
    let (which, request) = (one(subscription.clone(), id), request(&principal, change.dry_run));
    let count = app.operations.replay_dead_letters(&which, None, &request).await?;
    changed(&app, subscription, id, "replayed", count, change.dry_run)
}

/// Give a dead letter up
///
/// It is deleted, and a key that waits for it goes on. It stands in the audit trail under the token's name.
#[utoipa::path(post, path = "/api/v1/dead-letters/{subscription}/{id}/discard", tag = "dead letters",
    params(("subscription" = String, Path, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$", description = "The subscription's name"),
        ("id" = Uuid, Path, description = "The message's id")),
    request_body = Option<OneDeadLetterChange>,
    responses((status = 200, description = "It is gone", body = DeadLetterChanged)))]
pub(crate) async fn discard_one(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfDeadLetter(subscription, id): OfDeadLetter,
    OptionalJson(change): OptionalJson<OneDeadLetterChange>,
) -> Result<Response, Problem> {
    let (which, request) = (one(subscription.clone(), id), request(&principal, change.dry_run));
    let count = app.operations.discard_dead_letters(&which, &request).await?;
    changed(&app, subscription, id, "discarded", count, change.dry_run)
}

pub(crate) fn request(principal: &Principal, is_dry_run: bool) -> Request {
    Request { actor: principal.name.to_string(), is_dry_run, is_forced: false }
}

fn changed(
    app: &App,
    subscription: String,
    id: Uuid,
    outcome: &'static str,
    count: u64,
    dry_run: bool,
) -> Result<Response, Problem> {
    if count == 0 {
        return Err(no_dead_letter());
    }
    app.outlook.forget();
    Ok(as_json(&DeadLetterChanged { subscription, id, outcome, dry_run }).into_response())
}

/// Which dead letters to change, and how. Every condition that is given must hold.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub(crate) struct DeadLetterChange {
    /// Of this subscription.
    #[schema(max_length = 1024, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    subscription: Option<String>,
    /// With these ids.
    #[schema(max_items = 1000, min_items = 1)]
    ids: Option<Vec<Uuid>>,
    /// Of these topics, separated by commas: exact, or as `prefix*`.
    #[schema(pattern = r"^(\*|[A-Za-z0-9._:/-]+\*?)(,(\*|[A-Za-z0-9._:/-]+\*?))*$")]
    topic: Option<String>,
    /// Of this key.
    #[schema(max_length = 1024, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    key: Option<String>,
    /// With this text in the reason.
    #[schema(min_length = 1, max_length = 4096, pattern = r"^[^\x00]*$")]
    reason: Option<String>,
    /// Of this group of reasons, as `/api/v1/dead-letters/groups` names it.
    #[schema(min_length = 1, max_length = 4096, pattern = r"^[^\x00]*$")]
    group: Option<String>,
    /// That failed at this time or later.
    #[schema(format = DateTime)]
    since: Option<String>,
    /// That failed before this time.
    #[schema(format = DateTime)]
    until: Option<String>,
    /// Every dead letter: has to be said where no condition is given.
    all: bool,
    /// How many a second are due; at once if not given. Of a replay alone.
    #[schema(minimum = 0.001, maximum = 1_000_000)]
    rate: Option<f64>,
    /// Count them, and change nothing.
    dry_run: bool,
}

impl DeadLetterChange {
    fn filter(self) -> Result<DeadLetterFilter, Problem> {
        let all = self.all;
        let conditions = Conditions {
            subscription: self.subscription,
            ids: self.ids,
            topic: self.topic,
            key: self.key,
            reason: self.reason,
            group: self.group,
            since: self.since,
            until: self.until,
        };
        conditions.of_change(all)
    }
}

/// Try dead letters again
///
/// All that match when this is asked, each once, by an operation in the background. With `dry_run` it is answered at
/// once how many they are. It stands in the audit trail under the token's name.
#[utoipa::path(post, path = "/api/v1/dead-letters/replay", tag = "dead letters", request_body = DeadLetterChange,
    responses((status = 202, description = "The operation", body = OperationBody),
        (status = 200, description = "What it would concern", body = operations::OperationPreview),
        (status = 429, description = "`too-many-operations`: wait until one is over")))]
pub(crate) async fn replay(
    State(app): State<Arc<App>>,
    principal: Principal,
    Json { value: change, .. }: Json<DeadLetterChange>,
) -> Result<Response, Problem> {
    let (dry_run, rate) = (change.dry_run, Of::Body.rate(change.rate)?);
    let kind = OperationKind::ReplayDeadLetters;
    let spec = OperationSpec { kind, filter: change.filter()?, rate, target: None };
    operations::begin(&app, &principal, &spec, dry_run).await
}

/// Give dead letters up
///
/// All that match when this is asked, by an operation in the background. With `dry_run` it is answered at once how
/// many they are. It stands in the audit trail under the token's name.
#[utoipa::path(post, path = "/api/v1/dead-letters/discard", tag = "dead letters", request_body = DeadLetterChange,
    responses((status = 202, description = "The operation", body = OperationBody),
        (status = 200, description = "What it would concern", body = operations::OperationPreview),
        (status = 429, description = "`too-many-operations`: wait until one is over")))]
pub(crate) async fn discard(
    State(app): State<Arc<App>>,
    principal: Principal,
    Json { value: change, .. }: Json<DeadLetterChange>,
) -> Result<Response, Problem> {
    if change.rate.is_some() {
        return Err(Of::Body.wrong("rate", "left out: only a replay has one"));
    }
    let dry_run = change.dry_run;
    let kind = OperationKind::DiscardDeadLetters;
    let spec = OperationSpec { kind, filter: change.filter()?, rate: None, target: None };
    operations::begin(&app, &principal, &spec, dry_run).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written_and_nothing_else_is_one() {
        let whole = DeadLetterPlace {
            failed_at: Timestamp(1_700_000_000_000_001),
            subscription: 3,
            position: 7,
            id: Uuid::max(),
        };
        let text = place_text(&whole);
        assert_eq!(place(&text), Some(whole));
        let most = format!("{}/1/1/{}", i64::MAX, Uuid::nil());
        for wrong in ["", "1/2/3", "-1/1/1/x", &format!("{text}/1"), &text[1..20], &most] {
            assert_eq!(place(wrong), None, "{wrong}");
        }
    }
}
