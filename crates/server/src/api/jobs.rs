//! Jobs: submitted, listed, shown, cancelled, run again.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use posthaste_core::{JobState, Message, message::CONTRACT_HEADER};
use posthaste_store::{Cancelled, JobDetail, JobFilter, JobId, Request, Retried};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    shown::{JobBody, JobStatus, WholeJob, as_json},
    submission::{Mark, NewJobBody, Submission, Trace},
};
use crate::{
    app::App,
    batches::NotWritten,
    context::correlate,
    extract::{Json, OfJob, OptionalJson, Parameters},
    problem::{Code, Problem},
    strict_json,
    tokens::{Principal, Scope},
    traces::{STATE_BYTES_MAX, TRACEPARENT, TRACESTATE},
};

/// The header by which a submission may be repeated.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 200;
/// Attempts of a job that is run again, unless told otherwise.
const RETRY_ATTEMPTS: u32 = 5;
const ATTEMPTS_MAX: u32 = 1_000;

/// A job that was accepted.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Submitted {
    /// The job's id.
    id: Uuid,
    /// The same.
    jobspec_id: Uuid,
    /// Where it stands.
    #[schema(value_type = JobStatus)]
    status: &'static str,
}

/// Submit a job
///
/// The job and its message are committed when this answers. With an `Idempotency-Key` or a `jobspec_id` it may be
/// repeated: it answers the first job.
#[utoipa::path(post, path = "/api/v1/jobs", tag = "jobs", request_body = NewJobBody,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 128, pattern = r"^[!-~]+$",
        description = "1 to 128 visible ASCII characters; a repetition with the same body answers the first job")),
    responses((status = 202, description = "It is committed", body = Submitted)))]
pub(crate) async fn submit(
    State(app): State<Arc<App>>,
    principal: Principal,
    headers: HeaderMap,
    body: Json<NewJobBody>,
) -> Result<Response, Problem> {
    let Json { value, bytes, _room } = body;
    if !principal.knows(value.topic()) {
        let topics = principal.topics();
        let detail = format!("the token may submit jobs of the topics {topics}");
        return Err(Problem::of(Code::TopicNotAllowed, "topic", detail));
    }
    let mark = match headers.get(IDEMPOTENCY_KEY) {
        Some(key) => Some(Mark::new(&principal.name, key.to_str().unwrap_or_default(), &bytes)?),
        None => None,
    };
    let submission = value.submission(mark.as_ref(), trace(&headers))?;
    let lane = submission.lane();
    let Submission { job, proposed, is_named } = submission;
    correlate(job.message());
    check_contract(&app, job.message()).await?;
    let first = if job.message().due().is_some() { JobState::Scheduled } else { JobState::Created };
    let id = app.batches.submit(job, lane).await?;
    let is_known = is_named || proposed.is_some_and(|proposed| proposed != id);
    let earlier = if is_known { app.jobs.job(id).await? } else { None };
    let state = match &earlier {
        Some(earlier) => repeated(earlier, mark.as_ref(), &principal)?,
        None => first,
    };
    tracing::debug!(job = %id, status = state.as_str(), "a job is committed");
    let submitted = Submitted { id, jobspec_id: id, status: state.as_str() };
    let response = (StatusCode::ACCEPTED, as_json(&submitted)).into_response();
    Ok(app.located(response, &format!("/api/v1/jobs/{id}")))
}

/// The state of the job that stands for a submission, if its submitter may know.
fn repeated(
    job: &JobDetail,
    mark: Option<&Mark>,
    principal: &Principal,
) -> Result<JobState, Problem> {
    if mark.is_some_and(|mark| mark.is_reused(job)) {
        return Err(Problem::key_reused());
    }
    if !principal.knows(&job.job.topic) {
        let detail =
            "the id or the unique key belongs to a job of a topic that the token may not see";
        return Err(Problem::new(Code::TopicNotAllowed, detail));
    }
    Ok(job.job.state)
}

pub(super) async fn check_contract(app: &App, message: &Message) -> Result<(), Problem> {
    let version = message.header_pairs().iter().find(|(name, _)| name == CONTRACT_HEADER);
    let version = version.map(|(_, version)| version.as_str());
    let Some(contracts) = app.contracts.now().await else {
        let detail = "the contracts have yet to be read from the database: try again";
        let wait = std::time::Duration::from_secs(1);
        return Err(Problem::new(Code::DatabaseAway, detail).retry_after(wait));
    };
    let checked = contracts.check(message.topic(), version, message.payload());
    let broken = |breach| Problem::of(Code::ContractBroken, "payload", format!("{breach}"));
    checked.map(drop).map_err(broken)
}

/// The trace context of the request, or of its caller where it has no span, if it is one
/// (<https://www.w3.org/TR/trace-context/>).
pub(super) fn trace(headers: &HeaderMap) -> Option<Trace<'_>> {
    const LEN: usize = 55;
    let parent = headers.get(TRACEPARENT)?.to_str().ok()?;
    let is_hex = |c: u8| matches!(c, b'0'..=b'9' | b'a'..=b'f' | b'-');
    if parent.len() != LEN || !parent.starts_with("00-") || !parent.bytes().all(is_hex) {
        return None;
    }
    let state = headers.get(TRACESTATE).and_then(|state| state.to_str().ok());
    let state = state.filter(|state| state.len() <= STATE_BYTES_MAX).unwrap_or_default();
    Some(Trace { parent, state })
}

impl From<NotWritten> for Problem {
    fn from(why: NotWritten) -> Self {
        let wait = std::time::Duration::from_secs(1);
        match why {
            NotWritten::Busy => {
                let detail = "too much waits to be written: send it again later, or raise server.queue_jobs_max \
                              and server.queue_bytes_max";
                Self::new(Code::Busy, detail).retry_after(wait)
            }
            NotWritten::Ending => {
                Self::new(Code::Busy, "the server ends: send it again").retry_after(wait)
            }
            NotWritten::Failed(error) => Self::from(&*error),
        }
    }
}

/// Which jobs.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Listing {
    /// In this state.
    #[param(value_type = Option<JobStatus>)]
    state: Option<String>,
    /// Of this topic.
    #[param(pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    topic: Option<String>,
    /// Of this key.
    #[param(pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    key: Option<String>,
    /// How many at most; 50 if not given.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200)]
    limit: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Jobs, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Jobs {
    /// The page. It looks at a limited number of jobs: it may be shorter than asked for, even empty, and not be the
    /// last.
    jobs: Vec<JobBody>,
    /// What to send as `cursor` for the next page; null on the last one.
    next: Option<String>,
}

/// List jobs
///
/// The newest first, page by page. Jobs that are submitted meanwhile stand before the first page.
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", params(Listing),
    responses((status = 200, description = "A page", body = Jobs)))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    principal: Principal,
    Parameters(listing): Parameters<Listing>,
) -> Result<Response, Problem> {
    let (which, limit) = listing.filter(&principal)?;
    let page = app.jobs.jobs(&which, limit).await?;
    let (shown, next) = (page.jobs.iter().map(JobBody::of).collect(), page.next.map(cursor));
    Ok(as_json(&Jobs { jobs: shown, next }).into_response())
}

impl Listing {
    fn filter(self, principal: &Principal) -> Result<(JobFilter, u32), Problem> {
        let wrong = |field: &str, rule: &str| {
            Problem::of(Code::BadParameter, field, format!("{field} must be {rule}"))
        };
        for (field, text) in [("topic", &self.topic), ("key", &self.key)] {
            if text.as_ref().is_some_and(|text| text.chars().any(char::is_control)) {
                return Err(wrong(field, "text without control characters"));
            }
        }
        let state = self.state.map(|text| text.parse::<JobState>()).transpose();
        let states = "scheduled, created, queued, running, completed, failed, dead or cancelled";
        let state = state.map_err(|_| wrong("state", states))?;
        let limit = self.limit.map_or(Ok(LIMIT_DEFAULT), |text| text.parse());
        let limit = limit.ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
        let limit = limit.ok_or_else(|| wrong("limit", "a number from 1 to 200"))?;
        let before = self.cursor.map(|text| {
            uncursor(&text).ok_or_else(|| wrong("cursor", "the `next` of an earlier page"))
        });
        let before = before.transpose()?;
        let topics = principal.limits();
        Ok((JobFilter { state, topic: self.topic, topics, key: self.key, before }, limit))
    }
}

/// Where a page ends. Its form may change: clients hand it back as it is.
fn cursor(n: i64) -> String {
    URL_SAFE_NO_PAD.encode(format!("j{n}"))
}

fn uncursor(text: &str) -> Option<i64> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    std::str::from_utf8(&bytes).ok()?.strip_prefix('j')?.parse().ok()
}

/// Show a job
///
/// With its attempts and what they brought back.
#[utoipa::path(get, path = "/api/v1/jobs/{id}", tag = "jobs",
    params(("id" = Uuid, Path, description = "The job's id")),
    responses((status = 200, description = "The job", body = WholeJob)))]
pub(crate) async fn get(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfJob(id): OfJob,
) -> Result<Response, Problem> {
    let detail = find(&app, &principal, id).await?;
    Ok(as_json(&WholeJob::of(detail, principal.may(Scope::Payloads))).into_response())
}

/// The job, if there is one that the caller may know of.
async fn find(app: &App, principal: &Principal, id: JobId) -> Result<JobDetail, Problem> {
    let found = app.jobs.job(id).await?;
    found.filter(|found| principal.knows(&found.job.topic)).ok_or_else(no_job)
}

fn no_job() -> Problem {
    Problem::new(Code::NoJob, "there is none with this id, or its time in the database is over")
}

/// How to change a job.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub(crate) struct JobChange {
    /// Say what would happen, and change nothing.
    dry_run: bool,
}

/// How to run a job again.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields, expecting = "an object")]
pub(crate) struct JobRetry {
    /// Say what would happen, and change nothing.
    dry_run: bool,
    /// How often it may be tried again; 5 if not given.
    #[serde(deserialize_with = "strict_json::whole")]
    #[schema(minimum = 1, maximum = 1000)]
    attempts: Option<u32>,
}

/// What became of a change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobChanged {
    /// The job's id.
    id: Uuid,
    /// The same.
    jobspec_id: Uuid,
    /// `cancelled`; `cancelling`, where its worker has yet to stop it; `published`, where it runs again.
    outcome: &'static str,
    /// Nothing was changed.
    dry_run: bool,
}

/// Take a job back
///
/// At once, or, where it runs, as soon as its worker has stopped it. It stands in the audit trail under the token's
/// name.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/cancel", tag = "jobs",
    params(("id" = Uuid, Path, description = "The job's id")), request_body = Option<JobChange>,
    responses((status = 200, description = "What became of it", body = JobChanged),
        (status = 409, description = "`job-state`: it is over")))]
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfJob(id): OfJob,
    OptionalJson(change): OptionalJson<JobChange>,
) -> Result<Response, Problem> {
    find(&app, &principal, id).await?;
    let request = request(&principal, change.dry_run);
    let outcome = match app.jobs.cancel_job(id, &request).await? {
        Cancelled::Done => "cancelled",
        Cancelled::Wanted => "cancelling",
        Cancelled::Over => return Err(Problem::new(Code::JobState, "the job is over")),
        Cancelled::Unknown => return Err(no_job()),
    };
    Ok(changed(id, outcome, change.dry_run))
}

/// Run a job again
///
/// One that is dead, cancelled or waits for its next attempt. It stands in the audit trail under the token's name.
#[utoipa::path(post, path = "/api/v1/jobs/{id}/retry", tag = "jobs",
    params(("id" = Uuid, Path, description = "The job's id")), request_body = Option<JobRetry>,
    responses((status = 200, description = "What became of it", body = JobChanged),
        (status = 409, description = "`job-state`: it is under way already, or over")))]
pub(crate) async fn retry(
    State(app): State<Arc<App>>,
    principal: Principal,
    OfJob(id): OfJob,
    OptionalJson(change): OptionalJson<JobRetry>,
) -> Result<Response, Problem> {
    let attempts = change.attempts.unwrap_or(RETRY_ATTEMPTS);
    if !(1..=ATTEMPTS_MAX).contains(&attempts) {
        let detail = format!("attempts must be from 1 to {ATTEMPTS_MAX}, not {attempts}");
        return Err(Problem::of(Code::InvalidField, "attempts", detail));
    }
    find(&app, &principal, id).await?;
    let request = request(&principal, change.dry_run);
    match app.jobs.retry_job(id, attempts, &request).await? {
        Retried::Done => Ok(changed(id, "published", change.dry_run)),
        Retried::Under(state) => {
            let detail = format!("the job is {state} already: there is nothing to run again");
            Err(Problem::new(Code::JobState, detail))
        }
        Retried::Over => {
            let detail = "the job is completed, or another job that is not over has its unique key";
            Err(Problem::new(Code::JobState, detail))
        }
        Retried::Unknown => Err(no_job()),
    }
}

pub(super) fn request(principal: &Principal, is_dry_run: bool) -> Request {
    Request { actor: principal.name.to_string(), is_dry_run, is_forced: false }
}

fn changed(id: JobId, outcome: &'static str, dry_run: bool) -> Response {
    as_json(&JobChanged { id, jobspec_id: id, outcome, dry_run }).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_handed_back_and_nothing_else_is_one() {
        for n in [0, 1, i64::MAX] {
            assert_eq!(uncursor(&cursor(n)), Some(n));
        }
        for text in ["", "1", "aaaa", "äö", &URL_SAFE_NO_PAD.encode("j")] {
            assert_eq!(uncursor(text), None, "{text}");
        }
    }

    #[test]
    fn traces_that_are_none_are_left_out() {
        let of = |value: &str| {
            let headers = HeaderMap::from_iter([(
                HeaderName::from_static("traceparent"),
                value.parse().unwrap(),
            )]);
            trace(&headers).is_some()
        };
        assert!(of("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        for value in ["", "00-1-2-01", "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"] {
            assert!(!of(value), "{value}");
        }
    }
}
