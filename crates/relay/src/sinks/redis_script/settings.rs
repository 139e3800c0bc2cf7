//! What the settings of sinks with scripts have in common, and its check.

use posthaste_core::Template;
use posthaste_redis::{RedisServer, RedisSettings};
use serde::de::DeserializeOwned;

use crate::sink::InvalidTarget;

/// Takes a sink's table apart: the server, and the sink's own settings.
pub(in crate::sinks) fn parse_table<T: DeserializeOwned>(
    mut table: toml::Table,
) -> Result<(RedisServer, T), InvalidTarget> {
    let server = RedisSettings::take_from(&mut table)?.check()?;
    let own = table.try_into();
    Ok((server, own.map_err(|error: toml::de::Error| invalid("", error.to_string()))?))
}

/// The names of destinations, which stand under `key`.
pub(in crate::sinks) fn parse_name(key: &str, source: &str) -> Result<Template, InvalidTarget> {
    Template::parse(source).map_err(|error| invalid(key, format!("{key}: {error}")))
}

/// `maxlen` as scripts read it: 0 for no limit.
pub(in crate::sinks) fn check_maxlen(maxlen: Option<u64>) -> Result<u64, InvalidTarget> {
    if maxlen == Some(0) {
        let message = "maxlen must be at least 1, not 0; leave it out for no limit";
        return Err(invalid("maxlen", message.to_owned()));
    }
    Ok(maxlen.unwrap_or(0))
}

/// The `source` of events.
pub(in crate::sinks) fn check_event_source(source: String) -> Result<String, InvalidTarget> {
    if source.is_empty() {
        let message = "cloudevents_source must not be empty; name this system, for example \
                       /shop/orders";
        return Err(invalid("cloudevents_source", message.to_owned()));
    }
    Ok(source)
}

fn invalid(key: &str, message: String) -> InvalidTarget {
    InvalidTarget { key: key.to_owned(), message }
}
