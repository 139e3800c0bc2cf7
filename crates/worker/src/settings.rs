//! How a worker works, and the limits of each value.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use posthaste_core::{Backoff, RetryPolicy};

/// Milliseconds.
const DAY: u64 = 86_400_000;

/// How a worker works.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerSettings {
    /// Its name, for people: 1 to 255 bytes.
    pub name: String,
    /// The consumer under which it remembers messages that are no jobs: workers of one name never repeat
    /// each other's effects.
    pub consumer: String,
    /// Messages that are in hand at a time, from 1 to 10,000.
    pub concurrency: usize,
    /// Messages begun in a second at most; no limit if not given.
    pub rate: Option<f64>,
    /// Longest run of a handler.
    pub timeout: Duration,
    /// How long its jobs are its own after it was last heard of, from 1 s.
    pub lease: Duration,
    /// How long handlers may go on when it is to end.
    pub drain_timeout: Duration,
    /// How often failed tasks are tried.
    pub retry: RetryPolicy,
    /// The same for failures of a class.
    pub retry_by_class: BTreeMap<String, RetryPolicy>,
    /// How long a job whose message has arrived may take to be visible in the database, as in one that
    /// follows another.
    pub visible_within: Duration,
    /// How often it looks for workers that were lost and for jobs that wait; never if not given.
    pub watch_interval: Option<Duration>,
    /// How long a job waits before a watch asks why.
    pub watch_age: Duration,
}

impl Default for WorkerSettings {
    fn default() -> Self {
        Self {
            name: format!("worker-{}", std::process::id()),
            consumer: "worker".to_owned(),
            concurrency: 50,
            rate: None,
            timeout: Duration::from_mins(5),
            lease: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            retry_by_class: BTreeMap::new(),
            visible_within: Duration::from_secs(10),
            watch_interval: Some(Duration::from_secs(5)),
            watch_age: Duration::from_secs(20),
        }
    }
}

/// A setting out of its bounds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} must be {rule}, not {value}")]
pub struct InvalidSetting {
    /// Which.
    pub name: Cow<'static, str>,
    /// What it must be.
    pub rule: &'static str,
    /// What it is.
    pub value: String,
}

impl WorkerSettings {
    /// Checks every value.
    ///
    /// # Errors
    /// The first that is out of bounds.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        let invalid = |name: &'static str, rule, value: String| {
            Err(InvalidSetting { name: name.into(), rule, value })
        };
        let within = |value: Duration, low, high| {
            (Duration::from_millis(low)..=Duration::from_millis(high)).contains(&value)
        };
        if self.name.is_empty() || self.name.len() > 255 {
            return invalid("name", "1 to 255 bytes", format!("{:?}", self.name));
        }
        if !(1..=10_000).contains(&self.concurrency) {
            return invalid("concurrency", "from 1 to 10000", self.concurrency.to_string());
        }
        if let Some(rate) = self.rate.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            return invalid("rate", "above 0", rate.to_string());
        }
        let times = [
            ("timeout", "from 1ms to 1 day", self.timeout, 1, DAY),
            ("lease", "from 1s to 1h", self.lease, 1_000, 3_600_000),
            ("drain_timeout", "at most 1 day", self.drain_timeout, 0, DAY),
            ("visible_within", "at most 1h", self.visible_within, 0, 3_600_000),
            ("watch_age", "from 1s to 1 day", self.watch_age, 1_000, DAY),
            (
                "watch_interval",
                "from 100ms to 1h",
                self.watch_interval.unwrap_or(Duration::from_secs(1)),
                100,
                3_600_000,
            ),
        ];
        for (name, rule, value, low, high) in times {
            if !within(value, low, high) {
                return invalid(name, rule, format!("{value:?}"));
            }
        }
        let by_class = self.retry_by_class.iter();
        let by_class = by_class.map(|(class, policy)| (format!("retry_by_class.{class}"), policy));
        for (name, policy) in by_class.chain([("retry".to_owned(), &self.retry)]) {
            let RetryPolicy { attempts, backoff: Backoff { initial, cap } } = *policy;
            let invalid = |key: &str, rule, value: String| {
                Err(InvalidSetting { name: format!("{name}.{key}").into(), rule, value })
            };
            if !(1..=posthaste_core::failure::ATTEMPTS_MAX).contains(&attempts) {
                return invalid("attempts", "from 1 to 1000", attempts.to_string());
            }
            for (key, value) in [("initial", initial), ("cap", cap)] {
                if !within(value, 1, DAY) {
                    return invalid(key, "from 1ms to 1 day", format!("{value:?}"));
                }
            }
        }
        Ok(())
    }

    /// The policy for failures of a class.
    pub(crate) fn retry_of(&self, class: &str) -> &RetryPolicy {
        self.retry_by_class.get(class).unwrap_or(&self.retry)
    }
}
