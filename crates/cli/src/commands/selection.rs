//! The options by which people choose messages, and who they are for the audit trail.

use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use posthaste_core::{MessageId, Timestamp, TopicFilter};
use posthaste_relay::clock;
use posthaste_store::{Request, Selection};

use crate::failure::{Failure, Result};

/// Which messages; every condition that is given must hold.
#[derive(Args, Debug)]
pub(crate) struct SelectionArgs {
    /// Message ids
    #[arg(value_name = "ID")]
    ids: Vec<MessageId>,
    /// Topics: a name, prefix* or *; may stand several times
    #[arg(long, value_name = "PATTERN")]
    topic: Vec<String>,
    /// Ordering key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// At this time or later: RFC 3339, or how long ago, as 2h
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
}

/// Options of commands that change something.
#[derive(Args, Debug)]
pub(crate) struct ChangeArgs {
    /// Say what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Who does it, for the audit trail [default: the login name]
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
}

impl SelectionArgs {
    /// The selection, on the subscription and with the reason that the command knows of.
    pub(crate) fn selection(
        &self,
        subscription: Option<&str>,
        reason: Option<&str>,
    ) -> Result<Selection> {
        let topics = match self.topic.as_slice() {
            [] => None,
            patterns => Some(
                TopicFilter::new(patterns).map_err(|error| Failure::usage(error.to_string()))?,
            ),
        };
        Ok(Selection {
            subscription: subscription.map(str::to_owned),
            ids: self.ids.clone(),
            topics,
            key: self.key.clone(),
            reason: reason.map(str::to_owned),
            since: self.since,
            until: self.until,
        })
    }
}

impl ChangeArgs {
    pub(crate) const fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    pub(crate) fn request(&self) -> Request {
        let login = || std::env::var("USER").ok().filter(|name| !name.is_empty());
        let actor = self.actor.clone().or_else(login).unwrap_or_else(|| "unknown".to_owned());
        Request { actor, is_dry_run: self.dry_run, is_forced: false }
    }
}

/// Refuses a selection that means everything, unless that was said.
pub(crate) fn needs_condition(selection: &Selection, all: bool) -> Result {
    if *selection == Selection::default() && !all {
        let message = "this would concern every message; name ids or conditions, or say --all";
        return Err(Failure::usage(message));
    }
    Ok(())
}

/// A point in time: RFC 3339, or how long ago.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    let at = match humantime::parse_duration(text) {
        Ok(ago) => micros(ago).map(|ago| clock::now().0.saturating_sub(ago)),
        Err(_) => rfc3339(text),
    };
    at.map(Timestamp).ok_or_else(|| {
        format!("{text:?} is no time; write 2026-01-31T12:00:00Z, or how long ago, as 2h 30m")
    })
}

/// A point in time to come: RFC 3339, or how long from now on this machine's clock.
pub(crate) fn later(text: &str) -> Result<Timestamp, String> {
    let at = match text.strip_prefix('+').map(humantime::parse_duration) {
        Some(wait) => wait.ok().and_then(micros).and_then(|wait| clock::now().0.checked_add(wait)),
        None => rfc3339(text),
    };
    at.map(Timestamp).ok_or_else(|| {
        format!("{text:?} is no time; write 2026-01-31T12:00:00Z, or how long from now, as +2h")
    })
}

fn rfc3339(text: &str) -> Option<i64> {
    let at = humantime::parse_rfc3339_weak(text).ok()?;
    at.duration_since(UNIX_EPOCH).ok().and_then(micros)
}

fn micros(span: Duration) -> Option<i64> {
    i64::try_from(span.as_micros()).ok()
}

/// Messages a second.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    let rate = text.parse().ok().filter(|rate: &f64| *rate > 0.0 && rate.is_finite());
    rate.ok_or_else(|| format!("{text:?} is no rate; write messages a second, as 100 or 0.5"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_points_or_ages() {
        assert_eq!(time("1970-01-01T00:00:01.5Z"), Ok(Timestamp(1_500_000)));
        assert_eq!(time("1970-01-02 00:00:00"), Ok(Timestamp(86_400_000_000)));
        let ago = time("2h 30m").unwrap().0 - time("1h").unwrap().0;
        assert!((-5_401_000_000..=-5_399_000_000).contains(&ago), "{ago}");
        for nonsense in ["", "yesterday", "-1h", "1969-01-01T00:00:00Z"] {
            assert!(time(nonsense).unwrap_err().contains("is no time"), "{nonsense}");
        }
    }

    #[test]
    fn times_to_come_are_points_or_waits() {
        assert_eq!(later("1970-01-01T00:00:01.5Z"), Ok(Timestamp(1_500_000)));
        let wait = later("+2h").unwrap().0 - time("0s").unwrap().0;
        assert!((7_199_000_000..=7_201_000_000).contains(&wait), "{wait}");
        for nonsense in ["", "2h", "+", "+soon", "+-1h", "tomorrow"] {
            assert!(later(nonsense).unwrap_err().contains("as +2h"), "{nonsense}");
        }
    }

    #[test]
    fn rates_are_positive() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for nonsense in ["0", "-1", "inf", "NaN", "fast"] {
            assert!(rate(nonsense).is_err(), "{nonsense}");
        }
    }
}
