//! The options of a job: what the settings say, and what headers of its message say instead.

use std::{fmt::Write as _, ops::RangeInclusive, time::Duration};

use posthaste_core::{MessageRef, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::keep::Keep;
use crate::sink::InvalidTarget;

const ATTEMPTS_HEADER: &str = "bullmq-attempts";
const PRIORITY_HEADER: &str = "bullmq-priority";
const DELAY_HEADER: &str = "bullmq-delay";

/// The lowest priority that BullMQ knows, as the highest number.
const PRIORITY_MAX: u32 = (1 << 21) - 1;
/// Milliseconds since the Unix epoch up to which a job can be delayed, in the year 2039: BullMQ orders
/// delayed jobs by 4,096 times that, and Redis counts no further than 2^53 without gaps.
const DUE_MAX_MS: i64 = 1 << 41;

/// The wait before a job that has failed is tried again, as BullMQ's own strategies have it.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Backoff {
    /// How the wait grows.
    kind: BackoffKind,
    /// The first wait, at least 1 ms.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    delay: Duration,
    /// The part of the wait that is random, from 0 to 1; none unless given.
    jitter: Option<f64>,
}

/// How the wait grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum BackoffKind {
    /// It does not.
    Fixed,
    /// It doubles each time.
    Exponential,
}

/// What the settings say of every job.
#[derive(Clone, Debug)]
pub(super) struct Options {
    attempts: u32,
    backoff: Option<Backoff>,
    priority: u32,
    remove_on_complete: Option<Keep>,
    remove_on_fail: Option<Keep>,
}

/// What the headers of a message say instead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) attempts: Option<u32>,
    pub(super) priority: Option<u32>,
    /// From the time when the message was written.
    pub(super) delay_ms: i64,
}

impl Options {
    pub(super) fn checked(
        attempts: Option<u32>,
        backoff: Option<Backoff>,
        priority: u32,
        remove_on_complete: Option<Keep>,
        remove_on_fail: Option<Keep>,
    ) -> Result<Self, InvalidTarget> {
        if attempts == Some(0) {
            return Err(invalid("attempts", "must be at least 1, not 0"));
        }
        if priority > PRIORITY_MAX {
            let message = format!("must be 0 to {PRIORITY_MAX}, not {priority}");
            return Err(invalid("priority", &message));
        }
        if backoff.as_ref().is_some_and(|backoff| backoff.delay.as_millis() == 0) {
            return Err(invalid("backoff.delay", "must be at least 1ms"));
        }
        let jitter = backoff.as_ref().and_then(|backoff| backoff.jitter);
        if jitter.is_some_and(|jitter| !(0.0..=1.0).contains(&jitter)) {
            return Err(invalid("backoff.jitter", "must be 0 to 1"));
        }
        // What BullMQ writes for jobs without the option.
        let attempts = attempts.unwrap_or(0);
        Ok(Self { attempts, backoff, priority, remove_on_complete, remove_on_fail })
    }

    /// The priority of jobs whose messages have none of their own.
    pub(super) const fn priority(&self) -> u32 {
        self.priority
    }

    /// Writes the JSON object that BullMQ keeps in the job's `opts`, up to the job's id, into `text`,
    /// which is cleared first.
    pub(super) fn write(&self, own: Own, text: &mut String) {
        text.clear();
        let _ = write!(text, "{{\"attempts\":{}", own.attempts.unwrap_or(self.attempts));
        if let Some(Backoff { kind, delay, jitter }) = &self.backoff {
            let kind = match kind {
                BackoffKind::Fixed => "fixed",
                BackoffKind::Exponential => "exponential",
            };
            let delay_ms = delay.as_millis();
            let _ = write!(text, ",\"backoff\":{{\"type\":\"{kind}\",\"delay\":{delay_ms}");
            if let Some(jitter) = jitter {
                let _ = write!(text, ",\"jitter\":{jitter}");
            }
            text.push('}');
        }
        if own.delay_ms > 0 {
            let _ = write!(text, ",\"delay\":{}", own.delay_ms);
        }
        let priority = own.priority.unwrap_or(self.priority);
        if priority > 0 {
            let _ = write!(text, ",\"priority\":{priority}");
        }
        let kept =
            [("removeOnComplete", self.remove_on_complete), ("removeOnFail", self.remove_on_fail)];
        for (name, keep) in kept {
            if let Some(keep) = keep {
                let _ = write!(text, ",\"{name}\":");
                keep.write(text);
            }
        }
        text.push_str(",\"jobId\":\"");
    }
}

impl Own {
    /// What the headers of `message` say; `None` where they say nothing.
    ///
    /// # Errors
    /// Which header cannot be followed, for people.
    pub(super) fn of(message: &MessageRef<'_>) -> Result<Option<Self>, String> {
        let mut own = Self::default();
        for (name, value) in message.headers.iter() {
            match name {
                ATTEMPTS_HEADER => own.attempts = Some(number(name, value, 1..=u32::MAX)?),
                PRIORITY_HEADER => own.priority = Some(number(name, value, 0..=PRIORITY_MAX)?),
                DELAY_HEADER => own.delay_ms = number(name, value, 0..=DUE_MAX_MS)?,
                _ => {}
            }
        }
        if own.delay_ms > 0 && milliseconds(message.enqueued_at) + own.delay_ms > DUE_MAX_MS {
            return Err(format!(
                "the header {DELAY_HEADER:?} delays it beyond 2039-09-07, further than BullMQ can \
                 keep jobs in order"
            ));
        }
        Ok((own != Self::default()).then_some(own))
    }
}

/// A time as BullMQ writes it.
pub(super) const fn milliseconds(time: Timestamp) -> i64 {
    time.0.div_euclid(1_000)
}

fn number<N>(name: &str, value: &str, range: RangeInclusive<N>) -> Result<N, String>
where
    N: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    let (low, high) = (range.start(), range.end());
    let number = value.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| {
        format!("the header {name:?} is {value:?}, not a whole number from {low} to {high}")
    })
}

fn invalid(key: &str, message: &str) -> InvalidTarget {
    InvalidTarget { key: key.to_owned(), message: format!("{key} {message}") }
}
