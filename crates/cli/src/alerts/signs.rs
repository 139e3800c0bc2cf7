//! What is wrong at one moment, in words for people.

use std::{collections::HashMap, time::Duration};

use posthaste_core::Place;
use posthaste_store::{IncidentKey, Status, StoreError, SubscriptionStatus};

use crate::{config::AlertSettings, parts::told::Process};

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Condition {
    /// The database does not answer.
    Database,
    /// A subscription's oldest message waits for too long.
    Lag,
    /// A subscription has messages to publish and publishes none.
    Stalled,
    /// A subscription has too many dead letters.
    DeadLetters,
    /// A subscription's sink fails, or some messages fail again and again.
    Errors,
    /// A worker is not at work.
    Worker,
}

impl Condition {
    pub(super) const ALL: [Self; 6] =
        [Self::Database, Self::Lag, Self::Stalled, Self::DeadLetters, Self::Errors, Self::Worker];

    /// For programs, and in the database.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Lag => "lag",
            Self::Stalled => "stalled",
            Self::DeadLetters => "dead_letters",
            Self::Errors => "errors",
            Self::Worker => "worker",
        }
    }

    /// Whether each process sees its own sinks or workers alone: where one is well another may not be.
    pub(super) const fn is_of_a_process(self) -> bool {
        matches!(self, Self::Errors | Self::Worker)
    }

    /// What is told at its end.
    pub(super) fn over(self, subject: &str) -> String {
        match self {
            Self::Database => "the database answers again".to_owned(),
            Self::Lag => format!("{subject} has caught up"),
            Self::Stalled => format!("{subject} publishes again"),
            Self::DeadLetters => format!("{subject} is below its limit of dead letters"),
            Self::Errors => format!("the sink of {subject} takes messages again"),
            Self::Worker => format!("the worker {subject} is at work again"),
        }
    }
}

/// Something that is wrong now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sign {
    pub(super) condition: Condition,
    pub(super) subject: String,
    /// What is wrong, and where to look.
    pub(super) text: String,
    /// How long it must be so before anybody is told.
    pub(super) after: Duration,
}

impl Sign {
    pub(super) fn key(&self) -> IncidentKey {
        IncidentKey { condition: self.condition.word().to_owned(), subject: self.subject.clone() }
    }
}

/// What was seen at one moment.
#[derive(Debug, Default)]
pub(super) struct View {
    /// Everything that is wrong.
    pub(super) signs: Vec<Sign>,
    /// The database has told of its subscriptions.
    has_status: bool,
    /// Subscriptions that this process publishes, or tries to.
    published: Vec<String>,
    /// Workers of this process.
    workers: Vec<String>,
}

impl View {
    /// Whether a condition without a sign is one that does not hold: of other processes' sinks and workers this one knows
    /// nothing.
    pub(super) fn shows(&self, condition: Condition, subject: &str) -> bool {
        let is_among = |names: &[String]| names.iter().any(|name| name == subject);
        match condition {
            Condition::Database => true,
            Condition::Lag | Condition::Stalled | Condition::DeadLetters => self.has_status,
            Condition::Errors => self.has_status && is_among(&self.published),
            Condition::Worker => is_among(&self.workers),
        }
    }
}

/// How far subscriptions were when they were looked at last.
#[derive(Debug, Default)]
pub(super) struct Marks(HashMap<String, Place>);

/// Longest reason of a failure that is told.
const REASON_CHARS_MAX: usize = 300;

/// Looks at everything.
pub(super) fn read(
    settings: &AlertSettings,
    status: Result<&Status, &StoreError>,
    parts: &Process,
    marks: &mut Marks,
) -> View {
    let has_status = status.is_ok();
    let mut view =
        View { signs: of_database(settings, status, marks), has_status, ..View::default() };
    let sign = |condition, subject: &str, text: String| Sign {
        condition,
        subject: subject.to_owned(),
        text,
        after: settings.after,
    };
    for (name, reason) in parts.published() {
        if let Some(reason) = reason {
            let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
            let text = format!("{name} cannot publish: {reason}");
            view.signs.push(sign(Condition::Errors, &name, text));
        }
        view.published.push(name);
    }
    for (name, waits_for) in parts.workers() {
        if let Some(waits_for) = waits_for {
            let text = format!("the worker {name} is not at work: it waits for {waits_for}");
            view.signs.push(sign(Condition::Worker, &name, text));
        }
        view.workers.push(name);
    }
    view
}

fn of_database(
    settings: &AlertSettings,
    status: Result<&Status, &StoreError>,
    marks: &mut Marks,
) -> Vec<Sign> {
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            let text = format!("the database does not answer: {error}");
            let (condition, subject) = (Condition::Database, String::new());
            return vec![Sign { condition, subject, text, after: settings.after }];
        }
    };
    let mut signs = Vec::new();
    let before = std::mem::take(&mut marks.0);
    for subscription in &status.subscriptions {
        let place = subscription.progress.place;
        let has_moved = before.get(&subscription.name) != Some(&place);
        marks.0.insert(subscription.name.clone(), place);
        signs.extend(of_subscription(settings, subscription, has_moved));
    }
    signs
}

fn of_subscription(
    settings: &AlertSettings,
    subscription: &SubscriptionStatus,
    has_moved: bool,
) -> Vec<Sign> {
    let SubscriptionStatus { name, backlog, dead_letters, is_paused, .. } = subscription;
    let lag = Duration::from_micros(subscription.lag_micros.max(0).cast_unsigned());
    let shown = humantime::format_duration(Duration::from_secs(lag.as_secs()));
    let look = format!("see `posthaste subscriptions show {name}`");
    let sign = |condition, text, after| Sign { condition, subject: name.clone(), text, after };
    let mut signs = Vec::new();
    // What a person has paused waits because of that.
    if *backlog > 0 && !is_paused {
        if lag > settings.lag_max {
            let text =
                format!("{name} lags: {backlog} messages wait, the oldest for {shown}; {look}");
            signs.push(sign(Condition::Lag, text, Duration::ZERO));
        }
        if !has_moved {
            let text = format!(
                "{name} stands still: {backlog} messages wait, the oldest for {shown}, and none is published; {look}"
            );
            signs.push(sign(Condition::Stalled, text, settings.after));
        }
    }
    let aside = Duration::from_micros(subscription.aside_micros.max(0).cast_unsigned());
    if aside > settings.after && !is_paused {
        let since = humantime::format_duration(Duration::from_secs(aside.as_secs()));
        let text = format!(
            "{name} has {} keys and {} messages set aside, the oldest for {since}: they fail again and again; {look}",
            subscription.parked_keys, subscription.parked_messages
        );
        // What a person has replayed may be gone by the next look.
        signs.push(sign(Condition::Errors, text, settings.interval));
    }
    if *dead_letters >= settings.dead_letters_max.max(1) {
        let text = format!(
            "{name} has {dead_letters} dead letters; see `posthaste dead-letters list --subscription {name}`"
        );
        signs.push(sign(Condition::DeadLetters, text, Duration::ZERO));
    }
    signs
}

#[cfg(test)]
mod tests {
    use posthaste_core::{TickRef, TopicFilter};
    use posthaste_store::Progress;

    use super::*;

    fn subscription() -> SubscriptionStatus {
        SubscriptionStatus {
            name: "mail".to_owned(),
            filter: TopicFilter::new(&["*"]).unwrap(),
            epoch: 1,
            holder: None,
            progress: Progress { place: Place::at(TickRef::BEGINNING), at: None },
            backlog: 0,
            lag_micros: 0,
            parked_keys: 0,
            parked_messages: 0,
            aside_micros: 0,
            dead_letters: 0,
            is_paused: false,
        }
    }

    fn words(subscription: &SubscriptionStatus, has_moved: bool) -> Vec<&'static str> {
        let signs = of_subscription(&AlertSettings::default(), subscription, has_moved);
        signs.iter().map(|sign| sign.condition.word()).collect()
    }

    #[test]
    fn backlog_that_moves_is_well_until_it_is_old() {
        let none: [&str; 0] = [];
        let behind = SubscriptionStatus { backlog: 3, lag_micros: 1_000_000, ..subscription() };
        assert_eq!(words(&behind, true), none);
        assert_eq!(words(&behind, false), ["stalled"]);
        let old = SubscriptionStatus { lag_micros: 301_000_000, ..behind };
        assert_eq!(words(&old, true), ["lag"]);
        assert_eq!(words(&old, false), ["lag", "stalled"]);
        let paused = SubscriptionStatus { is_paused: true, ..old };
        assert_eq!(words(&paused, false), none);
        assert_eq!(words(&subscription(), false), none, "nothing to publish");
    }

    #[test]
    fn what_is_set_aside_for_long_is_an_error() {
        let aside =
            SubscriptionStatus { parked_keys: 1, aside_micros: 301_000_000, ..subscription() };
        assert_eq!(words(&aside, true), ["errors"]);
        let lately = SubscriptionStatus { aside_micros: 299_000_000, ..aside.clone() };
        assert!(words(&lately, true).is_empty());
        let paused = SubscriptionStatus { is_paused: true, ..aside };
        assert!(words(&paused, true).is_empty());
    }

    #[test]
    fn dead_letters_have_a_limit() {
        let with = |dead_letters| SubscriptionStatus { dead_letters, ..subscription() };
        assert!(words(&with(99), true).is_empty());
        assert_eq!(words(&with(100), true), ["dead_letters"]);
    }
}
