//! The pace and the limits of a relay. Every loop, batch, queue and wait is bounded by one of
//! these; the configuration shows them all.

use std::time::Duration;

use posthaste_core::{
    Backoff, FailurePolicy, OnRejection, PageLimit, TopicFilter, failure::ATTEMPTS_MAX,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Pace and limits of a relay process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RelaySettings {
    /// Whether the relay starts with the service (R17). `posthaste relay` runs it in any case.
    pub enabled: bool,
    /// Pause between looks at the log while messages come.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub busy_interval: Duration,
    /// Longest pause between looks while nothing comes.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub idle_interval: Duration,
    /// Messages handed to a sink at once (1 to 10,000).
    pub batch_messages: usize,
    /// Payload and header bytes handed to a sink at once, at least one message.
    pub batch_bytes: usize,
    /// Positions that one page of a big window spans.
    pub page_stride: u32,
    /// Payload and header bytes that one page holds, at least one message.
    pub page_bytes: usize,
    /// How long a relay holds a subscription without renewing its lease: after a crash another one
    /// takes over that much later. Renewed three times in that time, on the database's clock.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub lease: Duration,
    /// Longest wait for any answer of the database or a sink.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub operation_timeout: Duration,
    /// Longest time that a drain may take to finish and settle what is in flight.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub drain_timeout: Duration,
    /// Pause before a pipeline that panicked starts again.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub restart_delay: Duration,
    /// Pause between sweeps that empty settled slots of the log.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub sweep_interval: Duration,
    /// Longest pause between looks for scheduled messages that are due. A message that is written
    /// less than this before it is due may be late by as much.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub schedule_interval: Duration,
    /// Pause between looks for contracts that were pushed or removed.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub contracts_interval: Duration,
    /// Back-off while the database or a sink is away.
    pub retry: RetrySettings,
}

/// Back-off with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetrySettings {
    /// Longest first pause.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub initial: Duration,
    /// Longest pause.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub cap: Duration,
}

/// What a subscription does with messages that its sink rejects, or that one of the sink's several
/// destinations does not take. A sink that is away holds the whole subscription instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FailureSettings {
    /// `park-key`: the message's key waits, its neighbours go on, and a dead letter holds its key
    /// until it is replayed or discarded. `dead-letter`: the same, but the key moves on past the
    /// dead letter. `park-message`: the key moves on at once, out of order. Messages without a key
    /// wait alone.
    pub policy: Policy,
    /// Attempts before a message becomes a dead letter (1 to 1,000); a message may carry its own
    /// limit in the header `posthaste-max-attempts`.
    pub attempts: u32,
    /// Wait between two attempts.
    pub retry: RetrySettings,
    /// Keys and messages that may be parked at once.
    pub parked_max: u64,
    /// How long a key may be parked before `at_limit` holds for it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub parked_age_max: Duration,
    /// Dead letters that may be kept. Beyond it the subscription waits and says so; nothing is
    /// dropped.
    pub dead_letters_max: u64,
    /// Beyond `parked_max` and `parked_age_max`: `stop`, wait and say so, or `dead-letter`, make
    /// dead letters that hold no key.
    pub at_limit: AtLimit,
    /// When a sink that keeps places has lost this subscription's, and what else it held:
    /// `resume` at the settled place, and say so, or `stop` until somebody has run
    /// `posthaste subscriptions rebase`. A sink that has lost its latest messages alone gets them
    /// again either way.
    pub lost_place: LostPlace,
}

/// What happens to a rejected message and to its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The key waits.
    #[default]
    ParkKey,
    /// The message alone waits.
    ParkMessage,
    /// The key waits until the message is a dead letter.
    DeadLetter,
}

/// What happens beyond the limits of what may be parked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AtLimit {
    /// The subscription waits and says so.
    #[default]
    Stop,
    /// The message becomes a dead letter, and its key moves on.
    DeadLetter,
}

/// What a sink's lost place means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LostPlace {
    /// Go on at the settled place.
    #[default]
    Resume,
    /// Stop until a person has decided.
    Stop,
}

/// What a subscription does about contracts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContractSettings {
    /// What becomes of messages that break theirs.
    pub on_breach: OnBreach,
    /// Topics that have to be contracted: a message of one of which no contract is known waits for
    /// it. `None` lets messages pass whose topics have no contract.
    pub required: Option<TopicFilter>,
}

/// What becomes of a message that breaks the contract of its topic. One whose contract is not known
/// waits for it, under `park` and `dead-letter`, without burning attempts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnBreach {
    /// Nobody looks.
    Off,
    /// It is published all the same, counted and said.
    Publish,
    /// As if the sink had rejected it.
    #[default]
    Park,
    /// It is a dead letter, without further attempts.
    DeadLetter,
}

impl Default for FailureSettings {
    fn default() -> Self {
        let FailurePolicy { attempts, backoff, .. } = FailurePolicy::default();
        Self {
            policy: Policy::default(),
            attempts,
            retry: RetrySettings { initial: backoff.initial, cap: backoff.cap },
            parked_max: 1_000,
            parked_age_max: Duration::from_hours(24),
            dead_letters_max: 1_000,
            at_limit: AtLimit::default(),
            lost_place: LostPlace::default(),
        }
    }
}

impl From<OnRejection> for Policy {
    fn from(policy: OnRejection) -> Self {
        match policy {
            OnRejection::ParkKey => Self::ParkKey,
            OnRejection::ParkMessage => Self::ParkMessage,
            OnRejection::DeadLetter => Self::DeadLetter,
        }
    }
}

impl FailureSettings {
    /// The pure policy.
    pub(crate) fn policy(&self) -> FailurePolicy {
        let on_rejection = match self.policy {
            Policy::ParkKey => OnRejection::ParkKey,
            Policy::ParkMessage => OnRejection::ParkMessage,
            Policy::DeadLetter => OnRejection::DeadLetter,
        };
        FailurePolicy { on_rejection, attempts: self.attempts, backoff: self.retry.into() }
    }

    /// Checks every value; the error names the key, the value and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        let counts = [
            ("attempts", u64::from(self.attempts), 1, u64::from(ATTEMPTS_MAX)),
            ("parked_max", self.parked_max, 1, 100_000),
            ("dead_letters_max", self.dead_letters_max, 1, 1_000_000),
        ];
        for (key, value, low, high) in counts {
            if value < low || value > high {
                return Err(format!("{key} must lie between {low} and {high}, not {value}"));
            }
        }
        let second = Duration::from_secs(1);
        check_times([
            ("retry.initial", self.retry.initial, Duration::from_millis(1), 86_400 * second),
            ("retry.cap", self.retry.cap, self.retry.initial, 86_400 * second),
            ("parked_age_max", self.parked_age_max, second, 365 * 86_400 * second),
        ])
    }
}

fn check_times<const N: usize>(
    times: [(&str, Duration, Duration, Duration); N],
) -> Result<(), String> {
    for (key, value, low, high) in times {
        if value < low || value > high {
            return Err(format!("{key} must lie between {low:?} and {high:?}, not {value:?}"));
        }
    }
    Ok(())
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            enabled: true,
            busy_interval: Duration::from_millis(5),
            idle_interval: Duration::from_millis(200),
            batch_messages: 5_000,
            batch_bytes: 4 << 20,
            page_stride: 5_000,
            page_bytes: 4 << 20,
            lease: Duration::from_secs(5),
            operation_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            restart_delay: Duration::from_secs(1),
            sweep_interval: Duration::from_secs(5),
            schedule_interval: Duration::from_secs(1),
            contracts_interval: Duration::from_secs(5),
            retry: RetrySettings::default(),
        }
    }
}

impl Default for RetrySettings {
    fn default() -> Self {
        let Backoff { initial, cap } = Backoff::default();
        Self { initial, cap }
    }
}

impl From<RetrySettings> for Backoff {
    fn from(retry: RetrySettings) -> Self {
        Self { initial: retry.initial, cap: retry.cap }
    }
}

impl RelaySettings {
    /// The limit of one page.
    pub const fn page_limit(&self) -> PageLimit {
        PageLimit { stride: self.page_stride as i64, bytes: self.page_bytes }
    }

    /// Checks every value; the error names the key, the value and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        let second = Duration::from_secs(1);
        check_times([
            ("busy_interval", self.busy_interval, Duration::from_millis(1), 60 * second),
            ("idle_interval", self.idle_interval, Duration::from_millis(1), 60 * second),
            ("lease", self.lease, second / 10, 600 * second),
            ("operation_timeout", self.operation_timeout, second / 10, 600 * second),
            ("drain_timeout", self.drain_timeout, second / 10, 600 * second),
            ("restart_delay", self.restart_delay, Duration::from_millis(1), 600 * second),
            ("sweep_interval", self.sweep_interval, second / 10, 3_600 * second),
            ("schedule_interval", self.schedule_interval, second / 100, 3_600 * second),
            ("contracts_interval", self.contracts_interval, second / 100, 3_600 * second),
            ("retry.initial", self.retry.initial, Duration::from_millis(1), 60 * second),
            ("retry.cap", self.retry.cap, self.retry.initial, 3_600 * second),
        ])?;
        let counts = [
            ("batch_messages", self.batch_messages, 1, 10_000),
            ("batch_bytes", self.batch_bytes, 1 << 10, 64 << 20),
            ("page_stride", self.page_stride as usize, 1, 100_000),
            ("page_bytes", self.page_bytes, 1 << 10, 64 << 20),
        ];
        for (key, value, low, high) in counts {
            if value < low || value > high {
                return Err(format!("{key} must lie between {low} and {high}, not {value}"));
            }
        }
        if self.idle_interval < self.busy_interval {
            return Err(format!(
                "idle_interval must not be shorter than busy_interval ({:?}), not {:?}",
                self.busy_interval, self.idle_interval
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid_and_errors_name_key_value_and_range() {
        assert_eq!(RelaySettings::default().validate(), Ok(()));
        let faulty = RelaySettings { batch_messages: 0, ..RelaySettings::default() };
        assert_eq!(
            faulty.validate().unwrap_err(),
            "batch_messages must lie between 1 and 10000, not 0"
        );
        let faulty = RelaySettings { idle_interval: Duration::ZERO, ..RelaySettings::default() };
        assert!(faulty.validate().unwrap_err().starts_with("idle_interval must lie between"));
    }
}
