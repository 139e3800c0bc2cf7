//! The settings as the program uses them, their defaults and their documentation: the reference
//! page and the check for unknown keys are generated from these types.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use posthaste_core::SchemaName;
use posthaste_relay::{FailureSettings, OnBreach, RelaySettings};
use posthaste_server::ServerSettings;
use posthaste_store::{RingSizes, postgres::PostgresOptions};
use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::{
    alerts::AlertSettings,
    values::{self, DatabaseUrl},
    workers::WorkerTable,
};

/// An empty log of 32 slots takes about one MiB on PostgreSQL.
const RETENTION_SIZE_MIN: u64 = 16 << 20;

/// Everything that can be configured.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Config {
    /// The database that holds the log.
    pub(crate) database: DatabaseSettings,
    /// Pace and limits of the relay.
    pub(crate) relay: RelaySettings,
    /// One table per subscription, by name: 1 to 64 lower-case letters, digits, `_` or `-` that
    /// start with a letter.
    pub(crate) subscriptions: BTreeMap<String, SubscriptionSettings>,
    /// One table per worker, by name, as those of subscriptions.
    pub(crate) workers: BTreeMap<String, WorkerTable>,
    /// The server: the HTTP API, and which parts run beside it in `posthaste serve`.
    pub(crate) server: ServerSettings,
    /// What a relay tells machines: metrics and health, over HTTP.
    pub(crate) telemetry: TelemetrySettings,
    /// Alerts: what has gone wrong for a while is posted to a webhook that people read.
    pub(crate) alerts: AlertSettings,
    /// What the program writes to stderr.
    pub(crate) log: LogSettings,
}

/// The database that holds the log.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct DatabaseSettings {
    /// Where it is: `postgres://user@host:5432/database` (or `postgresql://`), or `sqlite:PATH`
    /// for an embedded file.
    #[serde(with = "values::optional_url")]
    #[schemars(with = "Option<String>")]
    pub(crate) url: Option<DatabaseUrl>,
    /// Schema of Posthaste's objects; in a SQLite file a prefix of their names.
    #[serde(with = "values::text")]
    #[schemars(with = "String")]
    pub(crate) schema: SchemaName,
    /// Password, in place of one inside the URL. Better kept in `password_file` or in the
    /// environment than in this file.
    #[serde(skip_serializing)]
    #[schemars(with = "Option<String>")]
    pub(crate) password: Option<SecretString>,
    /// File whose first line is the password.
    pub(crate) password_file: Option<PathBuf>,
    /// PEM file with the certificate authorities that the server's certificate must come from.
    pub(crate) ca_file: Option<PathBuf>,
    /// Longest wait for any answer of the database (100ms to 10m).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) operation_timeout: Duration,
    /// How long published messages stay readable, for replay and for people.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) retention: Duration,
    /// Size of the log above which published messages go before `retention`, the oldest first, such
    /// as `20GiB` (at least 16MiB); no limit unless set. On PostgreSQL of its relations with their
    /// indexes, slot by slot; on SQLite of its rows. What a subscription still needs never goes:
    /// the relay, `posthaste status` and `posthaste doctor` say what keeps it.
    #[serde(with = "values::optional_size")]
    #[schemars(with = "Option<String>")]
    pub(crate) retention_size: Option<u64>,
    /// How long idempotency tokens are kept: an enqueue that is repeated later writes a second
    /// message (1m to 10 years).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) token_retention: Duration,
    /// How long inboxes remember which messages a consumer has handled: one that is delivered again
    /// later takes effect a second time. More than the longest time between a message and its last
    /// redelivery, dead letters and replays included (1m to 10 years).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) inbox_retention: Duration,
    /// How long commands, idempotency keys of state machines among them, and their answers are kept: a
    /// request that is repeated later is executed again (1m to 10 years).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) command_retention: Duration,
    /// How long jobs are kept that are completed, dead or cancelled, with their attempts and receipts
    /// (1m to 10 years).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) job_retention: Duration,
    /// A transaction that has been open for longer is told of when a relay starts, and by
    /// `posthaste doctor`: what it has enqueued waits with it. PostgreSQL only.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) transaction_age_max: Duration,
    /// Sizes of the log's ring, fixed when `migrate` creates the schema.
    pub(crate) ring: RingSettings,
}

/// Sizes of the log's ring, fixed when `migrate` creates the schema.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct RingSettings {
    /// Slots of the log (2 to 1,024).
    pub(crate) slots: u32,
    /// Positions that one slot takes (1 to 16,777,216). Slots times size is how many messages
    /// the log holds before a slot is shared.
    pub(crate) slot_size: u32,
}

/// A named reader of the log with its own place.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct SubscriptionSettings {
    /// Topics it reads: exact names, `prefix*`, or `*` for all.
    #[serde(with = "values::topics")]
    #[schemars(with = "Vec<String>")]
    pub(crate) topics: Vec<String>,
    /// Where it starts when it is created.
    pub(crate) from: From,
    /// The sink, a table of its own: `[subscriptions.NAME.sink]` with `kind` and that kind's keys.
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub(crate) sink: toml::Table,
    /// What happens to messages that break the contract of their topic. One whose contract is not
    /// known waits for it, under `park` and `dead-letter`.
    pub(crate) contracts: OnBreach,
    /// Topics that must have a contract, as in `topics`: without one their messages wait for it. None
    /// unless given.
    #[serde(deserialize_with = "values::topics::deserialize_any")]
    #[schemars(with = "Vec<String>")]
    pub(crate) contracts_required: Vec<String>,
    /// What happens to messages that the sink rejects.
    pub(crate) failure: FailureSettings,
}

/// Where a new subscription starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum From {
    /// At the oldest message that the log still holds.
    #[default]
    Beginning,
    /// At the messages that commit after its creation.
    Now,
}

/// What a relay tells machines: metrics and health, over HTTP.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TelemetrySettings {
    /// Address and port of the relay's own listener for `/metrics`, `/livez` and `/readyz`, such
    /// as `127.0.0.1:9464`; off unless set. It asks nobody who they are: keep it off public
    /// networks.
    #[serde(with = "values::optional_address")]
    #[schemars(with = "Option<String>")]
    pub(crate) listen: Option<SocketAddr>,
    /// Pause between reads of what only the database knows, such as backlogs (1s to 1h). Longer by
    /// itself where reading takes more than a tenth of it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) interval: Duration,
    /// Traces from the API through the relay to workers, for an OpenTelemetry collector.
    pub(crate) traces: TracesSettings,
}

/// Traces from the API through the relay to workers, for an OpenTelemetry collector: a span for each request of the
/// API; and where the header `traceparent` of a message names a sampled trace, one for each try to publish it, for each
/// batch with such a message, and for each attempt to handle it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct TracesSettings {
    /// The collector's URL for OTLP over HTTP with protobuf, such as `http://collector:4318`;
    /// `/v1/traces` is added unless it ends with that. Off unless set.
    pub(crate) endpoint: Option<String>,
    /// What the collector calls this service.
    pub(crate) service_name: String,
    /// Headers of each request, `name=value,name=value` with values in URL encoding. Better kept in
    /// `headers_file` or in the environment than in this file.
    #[serde(skip_serializing)]
    #[schemars(with = "Option<String>")]
    pub(crate) headers: Option<SecretString>,
    /// File with one header per line, `name: value`.
    pub(crate) headers_file: Option<PathBuf>,
    /// PEM file with the certificate authorities that the collector's certificate must come from.
    pub(crate) ca_file: Option<PathBuf>,
    /// Longest wait for an answer of the collector, and for the last spans at the end (100ms to 1m).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) timeout: Duration,
    /// Spans that may wait to be exported (1 to 100,000); those beyond it are dropped and counted.
    pub(crate) queue_spans: usize,
    /// Share of the requests of the API that begin a trace where their callers send no `traceparent` (0 to 1). The traces
    /// of callers are recorded if they say so.
    pub(crate) sample_ratio: f64,
}

/// What the program writes to stderr.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LogSettings {
    /// Form of a log line.
    pub(crate) format: LogFormat,
    /// Least severe level: `error`, `warn`, `info`, `debug` or `trace`, or levels by module such
    /// as `info,posthaste_relay=debug`.
    #[serde(deserialize_with = "values::level")]
    pub(crate) level: String,
}

/// Form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[derive(clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// `human` on a terminal, `json` elsewhere.
    #[default]
    Auto,
    /// One compact line for people.
    Human,
    /// One JSON object per line.
    Json,
}

impl Default for DatabaseSettings {
    fn default() -> Self {
        let store = PostgresOptions::default();
        Self {
            url: None,
            schema: SchemaName::default(),
            password: None,
            password_file: None,
            ca_file: None,
            operation_timeout: store.operation_timeout,
            retention: store.retention,
            retention_size: None,
            token_retention: store.token_retention,
            inbox_retention: store.inbox_retention,
            command_retention: store.command_retention,
            job_retention: store.job_retention,
            transaction_age_max: store.transaction_age_max,
            ring: RingSettings::default(),
        }
    }
}

impl Default for RingSettings {
    fn default() -> Self {
        let RingSizes { slots, slot_size } = RingSizes::default();
        Self { slots, slot_size }
    }
}

impl Default for SubscriptionSettings {
    fn default() -> Self {
        Self {
            topics: vec!["*".to_owned()],
            from: From::default(),
            sink: toml::Table::new(),
            contracts: OnBreach::default(),
            contracts_required: Vec::new(),
            failure: FailureSettings::default(),
        }
    }
}

impl Default for TelemetrySettings {
    /// Fifteen seconds, as often as Prometheus is commonly told to scrape.
    fn default() -> Self {
        Self { listen: None, interval: Duration::from_secs(15), traces: TracesSettings::default() }
    }
}

impl Default for TracesSettings {
    /// A queue of some megabytes, and the time-out that exporters have by convention.
    fn default() -> Self {
        Self {
            endpoint: None,
            service_name: "posthaste".to_owned(),
            headers: None,
            headers_file: None,
            ca_file: None,
            timeout: Duration::from_secs(10),
            queue_spans: 8_192,
            sample_ratio: 1.0,
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::default(), level: "info".to_owned() }
    }
}

impl RingSettings {
    /// The sizes as the store takes them.
    pub(crate) const fn sizes(self) -> RingSizes {
        RingSizes { slots: self.slots, slot_size: self.slot_size }
    }
}

impl TelemetrySettings {
    /// Checks what one value alone does not show; the error names the key below `telemetry`.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let (low, high) = (Duration::from_secs(1), Duration::from_hours(1));
        if self.interval < low || self.interval > high {
            let range = format!("{} and {}", values::duration(low), values::duration(high));
            return Err(format!("interval must lie between {range}, not {:?}", self.interval));
        }
        let traces = &self.traces;
        let schemes = ["http", "https"];
        let is_url = |text: &String| {
            url::Url::parse(text).is_ok_and(|url| schemes.contains(&url.scheme()) && url.has_host())
        };
        if traces.endpoint.as_ref().is_some_and(|text| !is_url(text)) {
            let rule = "must be a URL such as http://collector:4318";
            return Err(format!("traces.endpoint {rule}, not {:?}", traces.endpoint));
        }
        if traces.timeout < Duration::from_millis(100) || traces.timeout > Duration::from_mins(1) {
            let not = traces.timeout;
            return Err(format!("traces.timeout must lie between 100ms and 1m, not {not:?}"));
        }
        if !(1..=100_000).contains(&traces.queue_spans) {
            let not = traces.queue_spans;
            return Err(format!("traces.queue_spans must lie between 1 and 100000, not {not}"));
        }
        if !(0.0..=1.0).contains(&traces.sample_ratio) {
            let not = traces.sample_ratio;
            return Err(format!("traces.sample_ratio must lie between 0 and 1, not {not}"));
        }
        if traces.headers.is_some() && traces.headers_file.is_some() {
            return Err(
                "traces.headers_file must not stand beside traces.headers: remove one".to_owned()
            );
        }
        Ok(())
    }
}

impl DatabaseSettings {
    /// Checks what one value alone does not show; the error names the key below `database`.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let times = [
            ("operation_timeout", self.operation_timeout, Duration::from_millis(100), 600),
            ("retention", self.retention, Duration::ZERO, 10 * 366 * 86_400),
            ("token_retention", self.token_retention, Duration::from_mins(1), 10 * 366 * 86_400),
            ("inbox_retention", self.inbox_retention, Duration::from_mins(1), 10 * 366 * 86_400),
            (
                "command_retention",
                self.command_retention,
                Duration::from_mins(1),
                10 * 366 * 86_400,
            ),
            ("job_retention", self.job_retention, Duration::from_mins(1), 10 * 366 * 86_400),
            ("transaction_age_max", self.transaction_age_max, Duration::ZERO, 366 * 86_400),
        ];
        for (key, value, low, high) in times {
            let high = Duration::from_secs(high);
            if value < low || value > high {
                let range = format!("{} and {}", values::duration(low), values::duration(high));
                return Err(format!("{key} must lie between {range}, not {value:?}"));
            }
        }
        if let Some(size) = self.retention_size
            && size < RETENTION_SIZE_MIN
        {
            return Err(format!("retention_size must be at least 16MiB, not {size}"));
        }
        let RingSettings { slots, slot_size } = self.ring;
        for (key, value, low, high) in
            [("ring.slots", slots, 2, 1_024), ("ring.slot_size", slot_size, 1, 1 << 24)]
        {
            if value < low || value > high {
                return Err(format!("{key} must lie between {low} and {high}, not {value}"));
            }
        }
        if self.password.is_some() && self.password_file.is_some() {
            return Err("password_file must not stand beside password: remove one".to_owned());
        }
        Ok(())
    }
}
