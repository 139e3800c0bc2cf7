//! How jobs look in answers.

use std::borrow::Cow;

use axum::http::{HeaderName, header};
use posthaste_store::{Job, JobDetail};
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{clock, payloads::ShownPayload};

/// Where a job stands.
#[derive(ToSchema)]
#[schema(rename_all = "lowercase")]
#[expect(dead_code, reason = "for the API's description")]
pub(crate) enum JobStatus {
    Scheduled,
    Created,
    Queued,
    Running,
    Completed,
    Failed,
    Dead,
    Cancelled,
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub(crate) struct JobBody {
    /// Its id.
    id: Uuid,
    /// The same.
    jobspec_id: Uuid,
    /// Where it stands.
    #[schema(value_type = JobStatus)]
    status: &'static str,
    /// Its topic.
    topic: String,
    /// Its key.
    key: Option<String>,
    /// What ties it to others.
    correlation_id: Option<String>,
    /// The message that carries it at present.
    message_id: Uuid,
    /// Attempts that were begun.
    attempt: u32,
    /// How many it may have, if it says so itself.
    attempts_max: Option<u32>,
    /// The worker that has it.
    worker: Option<String>,
    /// It waits for an earlier job of its key.
    is_blocked: bool,
    /// Why its last attempt did not complete it.
    reason: Option<String>,
    /// How far it has come, as its handler says.
    #[schema(value_type = Option<serde_json::Value>)]
    progress: Option<Box<RawValue>>,
    /// When it was submitted.
    #[schema(format = DateTime)]
    created_at: String,
    /// When it or its next attempt is due, if it waits for that.
    #[schema(format = DateTime)]
    due_at: Option<String>,
    /// When its last attempt began.
    #[schema(format = DateTime)]
    started_at: Option<String>,
    /// When it was over.
    #[schema(format = DateTime)]
    finished_at: Option<String>,
}

impl JobBody {
    pub(crate) fn of(job: &Job) -> Self {
        let progress = job.progress.as_deref();
        Self {
            id: job.id,
            jobspec_id: job.id,
            status: job.state.as_str(),
            topic: job.topic.clone(),
            key: job.key.clone(),
            correlation_id: job.correlation_id.clone(),
            message_id: job.message_id,
            attempt: job.attempt,
            attempts_max: job.attempts_max,
            worker: job.worker.clone(),
            is_blocked: job.is_blocked,
            reason: job.reason.clone(),
            progress: progress.and_then(|text| serde_json::from_str(text).ok()),
            created_at: clock::rfc3339(job.created_at),
            due_at: job.due_at.map(clock::rfc3339),
            started_at: job.started_at.map(clock::rfc3339),
            finished_at: job.finished_at.map(clock::rfc3339),
        }
    }
}

/// A job with all that belongs to it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WholeJob {
    #[serde(flatten)]
    job: JobBody,
    /// Attempts that have ended, in their order.
    executions: Vec<Execution>,
    /// What they brought back; without their bodies for tokens without the scope `payloads`.
    receipts: Vec<Receipt>,
    #[serde(flatten)]
    payload: ShownPayload<'static>,
    /// Its payload's media type, with the scope `payloads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    /// Its headers, with the scope `payloads`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<std::collections::BTreeMap<String, String>>)]
    headers: Option<serde_json::Map<String, Value>>,
}

/// An attempt that has ended.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Execution {
    /// From 1.
    attempt: u32,
    /// The worker's name.
    worker: String,
    /// When it began.
    #[schema(format = DateTime)]
    started_at: String,
    /// When it ended.
    #[schema(format = DateTime)]
    ended_at: String,
    /// `completed`, `retry`, `dead`, `snooze`, `cancelled` or `lost`.
    outcome: String,
    /// Why it did not complete the job.
    reason: Option<String>,
}

/// What an attempt brought back.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Receipt {
    /// Which attempt, from 1.
    attempt: u32,
    /// Its media type.
    content_type: String,
    /// What it is, with the scope `payloads`: JSON, as the handler gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    body: Option<Box<RawValue>>,
    /// Other text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_text: Option<String>,
    /// Other bytes, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl WholeJob {
    pub(crate) fn of(detail: JobDetail, with_payloads: bool) -> Self {
        let execution = |it: &posthaste_store::Execution| Execution {
            attempt: it.attempt,
            worker: it.worker.clone(),
            started_at: clock::rfc3339(it.started_at),
            ended_at: clock::rfc3339(it.ended_at),
            outcome: it.outcome.clone(),
            reason: it.reason.clone(),
        };
        let receipt = |(attempt, it): &(u32, posthaste_store::Receipt)| {
            let shown = || ShownPayload::owned(&it.content_type, &it.body);
            let body = if with_payloads { shown() } else { ShownPayload::default() };
            Receipt {
                attempt: *attempt,
                content_type: it.content_type.clone(),
                body: body.payload.map(Cow::into_owned),
                body_text: body.payload_text.map(Cow::into_owned),
                body_base64: body.payload_base64,
            }
        };
        let shown = |bytes| ShownPayload::owned(&detail.content_type, bytes);
        let payload = if with_payloads { shown(&detail.payload) } else { ShownPayload::default() };
        let pairs = detail.headers.iter();
        let headers = pairs.map(|(name, value)| (name.clone(), value.clone().into())).collect();
        Self {
            job: JobBody::of(&detail.job),
            executions: detail.executions.iter().map(execution).collect(),
            receipts: detail.receipts.iter().map(receipt).collect(),
            payload,
            headers: with_payloads.then_some(headers),
            content_type: with_payloads.then_some(detail.content_type),
        }
    }
}

/// A JSON answer.
pub(crate) fn as_json(body: &impl Serialize) -> ([(HeaderName, &'static str); 1], Vec<u8>) {
    let bytes = serde_json::to_vec(body).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    use posthaste_core::{JobState, Timestamp};
    use posthaste_store::JobId;

    use super::*;

    pub(crate) fn job() -> Job {
        Job {
            id: JobId::nil(),
            n: 1,
            state: JobState::Created,
            topic: "t".to_owned(),
            key: None,
            correlation_id: None,
            message_id: JobId::nil(),
            attempt: 0,
            attempts_max: None,
            worker: None,
            is_blocked: false,
            reason: None,
            progress: None,
            created_at: Timestamp(0),
            due_at: None,
            started_at: None,
            finished_at: None,
        }
    }
}
