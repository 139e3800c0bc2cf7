//! What handlers get and answer.

use std::{
    borrow::Cow,
    error::Error,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use posthaste::{
    Attempt, CommandError, Delivery, Inbox, JobId, Jobs, Receipt, Received, caller::Caller,
};
use posthaste_core::{
    describe,
    job::{Failure, XID_HEADER},
};
use posthaste_store::defect;
use posthaste_traces::{Begun, Context};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{crew::Crew, traces::state};

/// Between two looks for what is not visible yet.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// Of what a handler elsewhere says about a failure, what is kept.
pub(crate) const COMPLAINT_BYTES: usize = 2048;
/// Longest text of a failure.
const REASON_BYTES_MAX: usize = 4096;

/// Handles the messages of a topic. Every `async` function of a [`Task`] that answers an [`Answer`] is one.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Handles one message. It may run more than once for one message (its worker may be killed): what it
    /// does in the database it does in a transaction that [`Task::settle`] is part of, or so that
    /// twice is as good as once.
    async fn run(&self, task: Task) -> Answer;
}

#[async_trait]
impl<F, Fut> Handler for F
where
    F: Fn(Task) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send,
{
    async fn run(&self, task: Task) -> Answer {
        self(task).await
    }
}

/// What a handler answers.
pub type Answer = Result<Done, Failed>;

/// A message that is handled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// What it brought back, kept with its job.
    pub receipt: Option<Receipt>,
}

impl Done {
    /// Done, with a receipt as JSON.
    ///
    /// # Errors
    /// The value does not serialise.
    pub fn json(value: &impl Serialize) -> Result<Self, serde_json::Error> {
        let body = serde_json::to_vec(value)?;
        Ok(Self { receipt: Some(Receipt { content_type: "application/json".to_owned(), body }) })
    }
}

/// A message that is not handled. Any error becomes one that is worth another attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    pub(crate) failure: Failure,
    pub(crate) class: Cow<'static, str>,
    pub(crate) reason: String,
}

impl Failed {
    fn of(failure: Failure, class: &'static str, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        if reason.len() > REASON_BYTES_MAX {
            reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX - 3));
            reason.push('…');
        }
        Self { failure, class: class.into(), reason }
    }

    /// May pass: another attempt is worth it.
    pub fn retry(reason: impl Into<String>) -> Self {
        Self::of(Failure::Retry(None), "failed", reason)
    }

    /// Would fail again: the job is dead, and a message goes to the dead letters.
    pub fn reject(reason: impl Into<String>) -> Self {
        Self::of(Failure::Reject, "rejected", reason)
    }

    /// Not now: the same attempt again, after this time.
    pub fn snooze(time: Duration) -> Self {
        Self::of(Failure::Snooze(time), "snoozed", "snoozed by its handler")
    }

    pub(crate) fn cancelled() -> Self {
        Self::of(Failure::Cancel, "cancelled", "cancelled while it ran")
    }

    pub(crate) fn timed_out(limit: Duration) -> Self {
        let reason = format!("its handler took longer than {limit:?}");
        Self::of(Failure::Retry(None), "timeout", reason)
    }

    pub(crate) fn panicked(what: &str) -> Self {
        Self::of(Failure::Retry(None), "panic", format!("its handler panicked: {what}"))
    }

    /// The next attempt is due after this, instead of what the policy says.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        if let Failure::Retry(due) = &mut self.failure {
            *due = Some(wait);
        }
        self
    }

    /// What kind of failure it is, for the policy of that class. `failed` if not given.
    #[must_use]
    pub fn class(mut self, class: impl Into<Cow<'static, str>>) -> Self {
        self.class = class.into();
        self
    }
}

impl<E: Error> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::retry(describe(&error))
    }
}

/// A message for a handler.
#[derive(Clone, Debug)]
pub struct Task {
    pub(crate) message: Arc<Received>,
    pub(crate) attempt: Option<Attempt>,
    pub(crate) number: u32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) cancelled: watch::Receiver<bool>,
    /// Its attempt, if that is traced.
    pub(crate) span: Option<Arc<Begun>>,
}

/// What a task and its worker have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) jobs: Jobs,
    pub(crate) inbox: Inbox,
    pub(crate) is_settled: AtomicBool,
    pub(crate) progress: Mutex<Option<Value>>,
}

impl Task {
    /// The message.
    pub fn message(&self) -> &Received {
        &self.message
    }

    /// The job that it carries, if it is one.
    pub fn job(&self) -> Option<JobId> {
        self.attempt.map(|attempt| attempt.job)
    }

    /// What a message or a call carries that comes of this task, so that its trace goes on: a `traceparent`, and a
    /// `tracestate` or nothing (<https://www.w3.org/TR/trace-context/>). It names this attempt where its worker traces
    /// it, else what the message came with; `None` where that is no trace context.
    pub fn trace_context(&self) -> Option<(Cow<'_, str>, &str)> {
        if let Some(span) = &self.span {
            return Some((span.traceparent().into(), span.tracestate()));
        }
        let (parent, state) = (self.message.header("traceparent")?, state(&self.message));
        Context::read(parent, state).map(|_| (parent.into(), state))
    }

    /// The task in JSON, for handlers elsewhere: the message as the relay's envelopes have it (a payload that is no UTF-8 as
    /// `payload_base64`), `job`, and `attempt`.
    pub fn to_json(&self) -> Value {
        let message = &self.message;
        let headers: Map<String, Value> = message
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into()))
            .collect();
        let mut json = json!({
            "id": message.id,
            "job": self.job(),
            "attempt": self.number,
            "topic": message.topic,
            "key": message.key,
            "correlation_id": message.correlation_id,
            "content_type": message.content_type,
            "headers": headers,
        });
        match std::str::from_utf8(&message.payload) {
            Ok(text) => json["payload"] = text.into(),
            Err(_) => json["payload_base64"] = STANDARD.encode(&message.payload).into(),
        }
        json
    }

    /// Which attempt this is, from 1. Of messages that are no jobs only this worker's own attempts count.
    pub const fn attempt(&self) -> u32 {
        self.number
    }

    /// Ends the task in the transaction of its effect: both are there or neither. Call it first, and have no
    /// effect where it is a [`Repeat`](Delivery::Repeat); then commit, and answer [`Done`], whose receipt
    /// counts for nothing any more.
    ///
    /// # Errors
    /// The attempt is not this worker's any more (its lease had run out), or the database failed: the transaction
    /// cannot commit. Roll back.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it open whether the end is in the transaction: roll back.
    pub async fn settle<C: Caller>(
        &self,
        caller: C,
        receipt: Option<&Receipt>,
    ) -> Result<Delivery, CommandError> {
        self.shared.is_settled.store(true, Ordering::Relaxed);
        let Some(attempt) = self.attempt else {
            let delivery = self.shared.inbox.handle_over(caller, self.message.id).await?;
            return Ok(if defect::is("ignored-inbox") { Delivery::First } else { delivery });
        };
        self.shared.jobs.complete(caller, attempt, receipt).await?;
        Ok(Delivery::First)
    }

    /// Waits until what was committed with the job shows on another connection, as to a standby that lags behind, for
    /// `limit` at most; answers whether it does. Call it outside of a transaction. A message that is no job
    /// does not say by whom it was written: true.
    ///
    /// # Errors
    /// The database failed.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn visible_on<C: Caller>(
        &self,
        mut caller: C,
        limit: Duration,
    ) -> Result<bool, CommandError> {
        let Some(xid) = self.message.header(XID_HEADER) else { return Ok(true) };
        let began = Instant::now();
        loop {
            if self.shared.jobs.is_visible(&mut caller, xid).await? {
                return Ok(true);
            }
            if began.elapsed() >= limit {
                return Ok(false);
            }
            sleep(LOOK_INTERVAL.min(limit)).await;
        }
    }

    /// Says how far it has come. Kept with its job now and then; the newest counts.
    pub fn progress(&self, progress: Value) {
        *Crew::lock(&self.shared.progress) = Some(progress);
    }

    /// Whether somebody wants it to stop: its job was cancelled or taken over, or the worker ends.
    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    /// Returns when somebody wants it to stop. The handler is dropped soon after.
    pub async fn cancelled(&mut self) {
        // An error means that the worker is gone.
        let _ = self.cancelled.wait_for(|is_cancelled| *is_cancelled).await;
    }
}
