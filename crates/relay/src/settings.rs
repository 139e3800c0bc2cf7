//! The pace and the limits of a relay. Every loop, batch, queue and wait is bounded by one of
//! these; the configuration shows them all.

use std::time::Duration;

use posthaste_core::{Backoff, PageLimit};
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
            operation_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            restart_delay: Duration::from_secs(1),
            sweep_interval: Duration::from_secs(5),
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
        let times = [
            ("busy_interval", self.busy_interval, Duration::from_millis(1), 60 * second),
            ("idle_interval", self.idle_interval, Duration::from_millis(1), 60 * second),
            ("operation_timeout", self.operation_timeout, second / 10, 600 * second),
            ("drain_timeout", self.drain_timeout, second / 10, 600 * second),
            ("restart_delay", self.restart_delay, Duration::from_millis(1), 600 * second),
            ("sweep_interval", self.sweep_interval, second / 10, 3_600 * second),
            ("retry.initial", self.retry.initial, Duration::from_millis(1), 60 * second),
            ("retry.cap", self.retry.cap, self.retry.initial, 3_600 * second),
        ];
        for (key, value, low, high) in times {
            if value < low || value > high {
                return Err(format!("{key} must lie between {low:?} and {high:?}, not {value:?}"));
            }
        }
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
