//! `posthaste status`: the log, and how far each subscription has come.

use std::time::Duration;

use posthaste_core::Place;
use posthaste_relay::clock;
use posthaste_store::{LogSize, Pin, Status, SubscriptionStatus};
use serde_json::{Value, json};

use crate::{
    config::{Config, shown_size},
    failure::Result,
    output::Output,
    store,
};

/// Prints one look at the database.
pub(crate) async fn run(config: &Config, out: &mut Output) -> Result {
    let store = store::open(config, store::Missing::Refuse).await?;
    store.check().await?;
    let status = store.status().await?;
    if out.is_json() {
        return Ok(out.object(&as_json(store.describe(), &status, config))?);
    }
    out.line(&format!(
        "{}\n{} messages in {}, head at position {}, tick {}",
        store.describe(),
        status.messages,
        room(&status.size),
        status.head,
        status.tick.n
    ))?;
    if let Some(text) = too_large(&status) {
        out.line(&text)?;
    }
    out.line("")?;
    if status.subscriptions.is_empty() {
        return Ok(out.line("No subscription yet: `posthaste relay` creates those configured.")?);
    }
    let header =
        ["SUBSCRIPTION", "STATE", "TOPICS", "BACKLOG", "LAG", "ASIDE", "PLACE", "HOLDER", "EPOCH"];
    Ok(out.table(&header, status.subscriptions.iter().map(|it| row(it, config)).collect())?)
}

fn row(subscription: &SubscriptionStatus, config: &Config) -> Vec<String> {
    vec![
        subscription.name.clone(),
        state(subscription, config).to_owned(),
        subscription.filter.to_string(),
        subscription.backlog.to_string(),
        lag(subscription.lag_micros),
        aside(subscription),
        place(&subscription.progress.place),
        subscription.holder.clone().unwrap_or_else(|| "-".to_owned()),
        subscription.epoch.to_string(),
    ]
}

/// One word for what is done with a subscription.
pub(super) fn state(subscription: &SubscriptionStatus, config: &Config) -> &'static str {
    match subscription {
        it if it.is_paused => "paused",
        it if it.holder.is_some() => "held",
        // Nobody publishes it, and it keeps the log from being emptied.
        it if !config.subscriptions.contains_key(&it.name) => "abandoned",
        _ => "idle",
    }
}

/// What the log takes, in mebibytes, and what it may take.
fn room(size: &LogSize) -> String {
    let taken = format!("{:.1} MiB", size.bytes as f64 / f64::from(1 << 20));
    let of_max = |max| format!("{taken} of at most {}", shown_size(max));
    size.bytes_max.map_or_else(|| taken.clone(), of_max)
}

/// Why the log takes more room than it should, with the remedy, if it does.
pub(super) fn too_large(status: &Status) -> Option<String> {
    let Status { size, slots, .. } = status;
    let shared = slots.map_or(0, |slots| slots.shared);
    let what = if size.over() > 0 {
        format!("the log takes {}", room(size))
    } else if shared > 0 {
        format!("{shared} slots of the log are shared by two laps")
    } else {
        return None;
    };
    let why = match &size.pin {
        Some(pin) => format!("its oldest messages cannot go: {pin}"),
        None => "the next sweep of a relay empties it".to_owned(),
    };
    Some(format!("{what}; {why}"))
}

/// What is parked or dead, in short.
fn aside(subscription: &SubscriptionStatus) -> String {
    let parts = [
        (subscription.parked_keys, "keys"),
        (subscription.parked_messages, "parked"),
        (subscription.dead_letters, "dead"),
    ];
    let told: Vec<String> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
    if told.is_empty() { "-".to_owned() } else { told.join(", ") }
}

/// Whole milliseconds below a minute, whole seconds above: nobody reads more digits.
pub(super) fn lag(micros: i64) -> String {
    let exact = Duration::from_micros(micros.max(0).unsigned_abs());
    let rounded = if exact < Duration::from_mins(1) {
        Duration::from_millis(exact.as_millis() as u64)
    } else {
        Duration::from_secs(exact.as_secs())
    };
    humantime::format_duration(rounded).to_string()
}

pub(super) fn place(place: &Place) -> String {
    match place.within {
        None => format!("tick {}", place.base.n),
        Some(within) => format!("tick {} + position {}", place.base.n, within.position),
    }
}

fn as_json(database: &str, status: &Status, config: &Config) -> Value {
    let pin = status.size.pin.as_ref();
    json!({
        "database": database,
        "head": status.head,
        "tick": status.tick.n,
        "messages": status.messages,
        "bytes": status.size.bytes,
        "bytes_max": status.size.bytes_max,
        "slots_shared": status.slots.map(|slots| slots.shared),
        "pinned_by": pin.map(Pin::word),
        "pinned_by_subscription": pin.and_then(Pin::subscription),
        "subscriptions": status.subscriptions.iter().map(|it| as_json_of(it, config)).collect::<Vec<_>>(),
    })
}

pub(super) fn as_json_of(subscription: &SubscriptionStatus, config: &Config) -> Value {
    let place = subscription.progress.place;
    json!({
        "name": subscription.name,
        "state": state(subscription, config),
        "topics": subscription.filter.to_string(),
        "backlog": subscription.backlog,
        "lag_ms": subscription.lag_micros / 1_000,
        "parked_keys": subscription.parked_keys,
        "parked_messages": subscription.parked_messages,
        "dead_letters": subscription.dead_letters,
        "paused": subscription.is_paused,
        "place": {
            "tick": place.base.n,
            "position": place.within.map(|within| within.position),
            "message": place.message,
        },
        "settled_at": subscription.progress.at.map(clock::rfc3339),
        "holder": subscription.holder,
        "epoch": subscription.epoch,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_has_as_many_digits_as_people_read() {
        for (micros, text) in
            [(0, "0s"), (-5, "0s"), (1_234_567, "1s 234ms"), (61_999_999, "1m 1s")]
        {
            assert_eq!(lag(micros), text);
        }
    }
}
