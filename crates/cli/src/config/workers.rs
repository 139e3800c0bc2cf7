//! The settings of workers: what they read, what runs, and how.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use posthaste::{Limits, Message};
use posthaste_core::{Backoff, RetryPolicy};
use posthaste_worker::{CronJob, WorkerSettings};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values;

/// A worker: runs jobs, and handles messages of some topics, each once. `posthaste worker` runs all of them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct WorkerTable {
    /// The queue, a table of its own: `[workers.NAME.source]` with `kind` and that kind's keys. Without it the
    /// worker runs a relay of its own over the topics of its handlers, as the subscription of its name, and takes
    /// jobs straight from the log: no broker, one process at a time.
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub(crate) source: toml::Table,
    /// What runs for which topics, one table per handler.
    pub(crate) handlers: BTreeMap<String, HandlerTable>,
    /// Jobs that are submitted by the clock, once across all workers, one table per job.
    pub(crate) cron: BTreeMap<String, CronTable>,
    /// Under which name it remembers the messages that it has handled and that are no jobs: workers with
    /// one name never repeat each other's effects. The worker's name if not given.
    pub(crate) consumer: Option<String>,
    /// Messages that are in hand at a time (1 to 10,000).
    pub(crate) concurrency: usize,
    /// Messages begun in a second at most; no limit if not given.
    pub(crate) rate: Option<f64>,
    /// Longest run of a handler (1ms to 1 day).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) timeout: Duration,
    /// How long its jobs are its own after it was last heard of (1s to 1h).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) lease: Duration,
    /// How long handlers may go on when it is to end; what is not over then is handed back.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) drain_timeout: Duration,
    /// How often failed tasks are tried, and how far apart.
    pub(crate) retry: RetryTable,
    /// The same for failures of a class, by its name: `busy` (exit code 75, HTTP 429 and 503), `command`, `http`,
    /// `timeout`, `contract`.
    pub(crate) retry_by_class: BTreeMap<String, RetryTable>,
    /// Whether messages are held to their contracts before their handlers run, as read every
    /// `relay.contracts_interval`.
    pub(crate) contracts: bool,
    /// How long a job whose message has arrived may take to be visible in the database (at most 1h).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) visible_within: Duration,
    /// How often it looks for lost workers and for jobs that wait (100ms to 1h).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) watch_interval: Duration,
    /// How long a job waits before a watch asks why (1s to 1 day).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) watch_age: Duration,
}

/// What runs for the messages of some topics: a program or an endpoint, exactly one of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct HandlerTable {
    /// The topics, by their full names.
    pub(crate) topics: Vec<String>,
    /// A program and its arguments, run without a shell for each attempt: the task as one line of JSON on its
    /// standard input, the receipt on its standard output. Exit code 0 is done, 65 rejects, 75 is busy,
    /// everything else has failed.
    pub(crate) command: Option<Vec<String>>,
    /// An endpoint, http or https: the task as JSON in a POST, the receipt in the answer. 2xx is done, 400, 410,
    /// 413, 414, 415 and 422 reject, 429 and 503 are busy, everything else has failed.
    pub(crate) url: Option<String>,
    /// File whose first line the endpoint gets as `authorization: Bearer …`.
    pub(crate) token_file: Option<PathBuf>,
    /// PEM file with the certificate authorities that the endpoint's certificate must come from; the system's if
    /// not given.
    pub(crate) ca_file: Option<PathBuf>,
    /// Longest receipt, such as `1MiB` (1B to 64MiB): a longer one is a rejection. 1MiB unless set.
    #[serde(with = "values::optional_size")]
    #[schemars(with = "Option<String>")]
    pub(crate) output_max: Option<u64>,
}

/// How often failed tasks are tried, and how far apart.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RetryTable {
    /// Attempts before a job is dead, or a message goes to the queue's dead letters (1 to 1,000); a job may carry its
    /// own limit.
    pub(crate) attempts: u32,
    /// Longest first pause.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) initial: Duration,
    /// Longest pause.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) cap: Duration,
}

/// A job that is submitted by the clock, as long as any worker runs. It stays until it is removed by hand.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CronTable {
    /// When: minute, hour, day, month, day of the week, as in `0 3 * * *`; with seconds before them if wanted.
    pub(crate) schedule: String,
    /// Whose clock: a name of the IANA database such as `Europe/Berlin`.
    pub(crate) time_zone: String,
    /// Topic of the job.
    pub(crate) topic: String,
    /// Payload of the job, in JSON.
    pub(crate) payload: String,
    /// Ordering key of the job: it waits for the one before it.
    pub(crate) key: Option<String>,
    /// How often the job may be tried; as often as its worker says if not given.
    pub(crate) attempts: Option<u32>,
    /// Whether none is submitted while the one before it is not over.
    pub(crate) unless_running: bool,
}

impl Default for WorkerTable {
    fn default() -> Self {
        let settings = WorkerSettings::default();
        Self {
            source: toml::Table::new(),
            handlers: BTreeMap::new(),
            cron: BTreeMap::new(),
            consumer: None,
            concurrency: settings.concurrency,
            rate: settings.rate,
            timeout: settings.timeout,
            lease: settings.lease,
            drain_timeout: settings.drain_timeout,
            retry: RetryTable::default(),
            retry_by_class: BTreeMap::new(),
            contracts: true,
            visible_within: settings.visible_within,
            watch_interval: settings.watch_interval.unwrap_or_default(),
            watch_age: settings.watch_age,
        }
    }
}

impl Default for RetryTable {
    fn default() -> Self {
        let RetryPolicy { attempts, backoff: Backoff { initial, cap } } = RetryPolicy::default();
        Self { attempts, initial, cap }
    }
}

impl Default for CronTable {
    fn default() -> Self {
        Self {
            schedule: String::new(),
            time_zone: "UTC".to_owned(),
            topic: String::new(),
            payload: "null".to_owned(),
            key: None,
            attempts: None,
            unless_running: false,
        }
    }
}

impl RetryTable {
    fn policy(self) -> RetryPolicy {
        let Self { attempts, initial, cap } = self;
        RetryPolicy { attempts, backoff: Backoff { initial, cap } }
    }
}

impl CronTable {
    /// The job as workers take it; an error names the key at fault.
    pub(crate) fn job(&self, name: &str) -> Result<CronJob, String> {
        topic("topic", &self.topic)?;
        let payload = serde_json::from_str(&self.payload)
            .map_err(|error| format!("payload must be JSON ({error}), not {:?}", self.payload))?;
        let job = CronJob::new(name, &self.schedule, &self.time_zone, &self.topic);
        let mut job = job
            .map_err(|error| match error {
                posthaste_worker::InvalidCron::TimeZone { .. } => format!("time_zone {error}"),
                _ => format!("schedule {error}"),
            })?
            .payload(&payload);
        if let Some(key) = &self.key {
            job = job.key(key);
        }
        if let Some(attempts) = self.attempts {
            job = job.attempts(attempts);
        }
        Ok(if self.unless_running { job.unless_running() } else { job })
    }
}

fn topic(key: &str, topic: &str) -> Result<(), String> {
    Limits::default().check(&Message::new(topic)).map_err(|error| format!("{key} {error}"))
}

impl WorkerTable {
    /// The settings as the worker takes them.
    pub(crate) fn settings(&self, name: &str) -> WorkerSettings {
        let by_class = self.retry_by_class.iter();
        WorkerSettings {
            name: name.to_owned(),
            consumer: self.consumer.clone().unwrap_or_else(|| name.to_owned()),
            concurrency: self.concurrency,
            rate: self.rate,
            timeout: self.timeout,
            lease: self.lease,
            drain_timeout: self.drain_timeout,
            retry: self.retry.policy(),
            retry_by_class: by_class
                .map(|(class, table)| (class.clone(), table.policy()))
                .collect(),
            visible_within: self.visible_within,
            watch_interval: Some(self.watch_interval),
            watch_age: self.watch_age,
        }
    }

    /// The topics that it has handlers for.
    pub(crate) fn topics(&self) -> Vec<&str> {
        self.handlers.values().flat_map(|handler| &handler.topics).map(String::as_str).collect()
    }

    /// Checks what one value alone does not show; the error names the key below the worker.
    pub(crate) fn validate(&self, name: &str) -> Result<(), String> {
        self.settings(name).validate().map_err(|error| error.to_string())?;
        if self.handlers.is_empty() {
            let example = "add a table with topics and a command or a url, such as handlers.mail";
            return Err(format!("handlers is missing; {example}"));
        }
        let mut topics = BTreeSet::new();
        for (name, handler) in &self.handlers {
            handler.validate().map_err(|text| format!("handlers.{name}.{text}"))?;
            if let Some(twice) = handler.topics.iter().find(|topic| !topics.insert(topic.as_str()))
            {
                let rule = "must not name a topic that another handler has";
                return Err(format!("handlers.{name}.topics {rule}, not {twice:?}"));
            }
        }
        for (name, cron) in &self.cron {
            cron.job(name).map_err(|text| format!("cron.{name}.{text}"))?;
        }
        Ok(())
    }
}

impl HandlerTable {
    fn validate(&self) -> Result<(), String> {
        if self.topics.is_empty() {
            return Err("topics is missing; name the topics that it handles".to_owned());
        }
        for name in &self.topics {
            topic("topics", name)?;
        }
        match (&self.command, &self.url) {
            (None, None) => return Err("command is missing; set it, or url".to_owned()),
            (Some(_), Some(_)) => {
                return Err("url must not stand beside command: remove one".to_owned());
            }
            (Some(command), None) if command.first().is_none_or(String::is_empty) => {
                return Err("command must begin with a program, not be empty".to_owned());
            }
            _ => {}
        }
        let of_url = [("token_file", &self.token_file), ("ca_file", &self.ca_file)];
        if let (None, Some((key, _))) = (&self.url, of_url.iter().find(|(_, file)| file.is_some()))
        {
            return Err(format!("{key} must stand beside a url: remove it"));
        }
        if !(1..=64 << 20).contains(&self.output_max.unwrap_or(1)) {
            return Err("output_max must lie between 1B and 64MiB".to_owned());
        }
        Ok(())
    }
}
