//! Settings of alerts.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use super::values;

/// Alerts: what has gone wrong for a while is posted to a webhook that people read, once, and so is its end. `posthaste
/// serve` and `posthaste relay` look; several of them tell it once.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AlertSettings {
    /// Where notices are posted to: an `http://` or `https://` URL. It may hold a secret: better kept in `webhook_file` or in
    /// the environment than in this file. No alerts without one.
    #[serde(skip_serializing)]
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub(crate) webhook: Option<SecretString>,
    /// File whose first line is the URL.
    pub(crate) webhook_file: Option<PathBuf>,
    /// What the webhook takes.
    pub(crate) format: AlertFormat,
    /// PEM file with the authorities that the webhook's certificate must come from; those of the system unless set.
    pub(crate) ca_file: Option<PathBuf>,
    /// Stands before each notice, such as the name of a stage.
    pub(crate) name: String,
    /// Pause between looks (1s to 1h).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) interval: Duration,
    /// How long something has to fail before it is told: the database, a sink, a worker, a subscription that stands still
    /// (0s to 1d).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) after: Duration,
    /// How long it has to be well before that is told (0s to 1d).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) recovered_after: Duration,
    /// How old a subscription's oldest message may be (1s to 30d).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub(crate) lag_max: Duration,
    /// Dead letters of a subscription that are told of (from 1).
    pub(crate) dead_letters_max: u64,
}

/// What a webhook takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum AlertFormat {
    /// An object with `event`, `name`, `condition`, `subject`, `since` and `text`.
    #[default]
    Json,
    /// `{"text": …}`: Slack, Mattermost, Rocket.Chat, Google Chat.
    Slack,
    /// `{"content": …}`: Discord.
    Discord,
}

impl Default for AlertSettings {
    /// Five minutes are longer than a restart and shorter than a coffee.
    fn default() -> Self {
        Self {
            webhook: None,
            webhook_file: None,
            format: AlertFormat::default(),
            ca_file: None,
            name: "posthaste".to_owned(),
            interval: Duration::from_secs(15),
            after: Duration::from_mins(5),
            recovered_after: Duration::from_mins(1),
            lag_max: Duration::from_mins(5),
            dead_letters_max: 100,
        }
    }
}

impl AlertSettings {
    /// Checks what one value alone does not show; the error names the key below `alerts`.
    pub(crate) fn validate(&self) -> Result<(), String> {
        let (none, day) = (Duration::ZERO, Duration::from_hours(24));
        let second = Duration::from_secs(1);
        for (key, value, low, high) in [
            ("interval", self.interval, second, Duration::from_hours(1)),
            ("after", self.after, none, day),
            ("recovered_after", self.recovered_after, none, day),
            ("lag_max", self.lag_max, second, day * 30),
        ] {
            if value < low || value > high {
                let range = format!("{} and {}", values::duration(low), values::duration(high));
                return Err(format!("{key} must lie between {range}, not {value:?}"));
            }
        }
        if self.dead_letters_max == 0 {
            return Err("dead_letters_max must be at least 1, not 0".to_owned());
        }
        if self.webhook.is_some() && self.webhook_file.is_some() {
            return Err("webhook_file must not stand beside webhook: remove one".to_owned());
        }
        Ok(())
    }
}
