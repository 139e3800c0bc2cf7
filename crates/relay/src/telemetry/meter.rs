//! What pipelines and background tasks count: atomics, written per batch or per event, so that a
//! message costs no lock and no allocation.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use posthaste_core::Page;
use posthaste_store::{Advance, FailedMessage, StoreErrorKind, SweepReport};

use super::histogram::{ANSWERS, DELAYS, Histogram, MESSAGES};
use crate::{clock, policy::Unaccepted, sink::SinkErrorKind};

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why an attempt did not publish its whole batch: a closed list of label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The sink failed as a whole.
    Sink(SinkErrorKind),
    /// The sink refused a message.
    Rejected,
    /// The sink answered, and could not take a message for now.
    NotTaken,
}

impl Class {
    pub(crate) const ALL: [Self; 9] = [
        Self::Sink(SinkErrorKind::Unavailable),
        Self::Sink(SinkErrorKind::Timeout),
        Self::Sink(SinkErrorKind::Authentication),
        Self::Sink(SinkErrorKind::Misconfigured),
        Self::Sink(SinkErrorKind::Resources),
        Self::Sink(SinkErrorKind::Displaced),
        Self::Sink(SinkErrorKind::Unexpected),
        Self::Rejected,
        Self::NotTaken,
    ];

    /// The label value, and its place in [`Class::ALL`].
    const fn entry(self) -> (&'static str, usize) {
        match self {
            Self::Sink(SinkErrorKind::Unavailable) => ("unavailable", 0),
            Self::Sink(SinkErrorKind::Timeout) => ("timeout", 1),
            Self::Sink(SinkErrorKind::Authentication) => ("authentication", 2),
            Self::Sink(SinkErrorKind::Misconfigured) => ("misconfigured", 3),
            Self::Sink(SinkErrorKind::Resources) => ("resources", 4),
            Self::Sink(SinkErrorKind::Displaced | SinkErrorKind::Fenced) => ("displaced", 5),
            Self::Sink(SinkErrorKind::Unexpected) => ("unexpected", 6),
            Self::Rejected => ("rejected", 7),
            Self::NotTaken => ("not_taken", 8),
        }
    }

    pub(crate) const fn word(self) -> &'static str {
        self.entry().0
    }
}

/// What can be set aside: a closed list of label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Key,
    Message,
    DeadLetter,
}

impl What {
    pub(crate) const ALL: [Self; 3] = [Self::Key, Self::Message, Self::DeadLetter];

    /// What a message becomes that is set aside alone.
    pub(crate) const fn of(failed: &FailedMessage) -> Self {
        if failed.retry_in.is_none() { Self::DeadLetter } else { Self::Message }
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Key => "parked_key",
            Self::Message => "parked_message",
            Self::DeadLetter => "dead_letter",
        }
    }
}

/// What a sink that keeps places can lose of them: a closed list of label values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    Place,
    Tail,
    Retries,
}

impl Lost {
    pub(crate) const ALL: [Self; 3] = [Self::Place, Self::Tail, Self::Retries];

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Place => "place",
            Self::Tail => "tail",
            Self::Retries => "retries",
        }
    }
}

/// Every code of a breach (`Breach::code`): a closed list of label values.
pub(crate) const BREACHES: [&str; 5] =
    ["no-version", "bad-version", "unknown-topic", "unknown-version", "violation"];

/// The counters of one subscription. Its two lanes write, scrapes read.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(crate) published: Counter,
    pub(crate) attempts: Counter,
    pub(crate) rejected: Counter,
    pub(crate) retries: Counter,
    pub(crate) panics: Counter,
    errors: [Counter; Class::ALL.len()],
    set_aside: [Counter; What::ALL.len()],
    lost: [Counter; Lost::ALL.len()],
    breaches: [Counter; BREACHES.len()],
    pub(crate) batch_messages: Histogram,
    pub(crate) batch_duration: Histogram,
    pub(crate) commit_to_publish: Histogram,
}

impl Default for Meter {
    fn default() -> Self {
        Self {
            published: Counter::default(),
            attempts: Counter::default(),
            rejected: Counter::default(),
            retries: Counter::default(),
            panics: Counter::default(),
            errors: Default::default(),
            set_aside: Default::default(),
            lost: Default::default(),
            breaches: Default::default(),
            batch_messages: Histogram::new(&MESSAGES),
            batch_duration: Histogram::new(&ANSWERS),
            commit_to_publish: Histogram::new(&DELAYS),
        }
    }
}

impl Meter {
    pub(crate) fn errors(&self, class: Class) -> &Counter {
        &self.errors[class.entry().1]
    }

    pub(crate) const fn set_aside(&self, what: What) -> &Counter {
        &self.set_aside[what as usize]
    }

    pub(crate) const fn lost(&self, what: Lost) -> &Counter {
        &self.lost[what as usize]
    }

    /// The counter of breaches with this code.
    pub(crate) fn breaches(&self, code: &str) -> &Counter {
        let nth = BREACHES.iter().position(|known| *known == code);
        &self.breaches[nth.unwrap_or(BREACHES.len() - 1)]
    }

    /// The sink answered a batch of `messages`.
    pub(crate) fn answered(&self, messages: usize, took: Duration, unaccepted: &[Unaccepted]) {
        self.batch_messages.observe(messages as u64);
        self.batch_duration.observe(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        if unaccepted.is_empty() {
            return;
        }
        let refused = unaccepted.iter().filter(|unaccepted| unaccepted.is_refusal()).count();
        self.rejected.add(refused as u64);
        self.errors(Class::Rejected).add(u64::from(refused > 0));
        self.errors(Class::NotTaken).add(u64::from(refused < unaccepted.len()));
    }

    /// How long the accepted messages of a batch took. Both lists ascend.
    pub(crate) fn delays(&self, page: &Page, batch: &[u32], unaccepted: &[Unaccepted]) {
        let now = clock::now();
        let mut left = unaccepted.iter().map(|unaccepted| unaccepted.index).peekable();
        let accepted = batch.iter().filter(|index| left.next_if_eq(*index).is_none());
        let delay = |index: &u32| {
            let enqueued = page.get(*index as usize).enqueued_at;
            // The database's clock may be ahead of this one.
            now.0.saturating_sub(enqueued.0).max(0).unsigned_abs()
        };
        self.commit_to_publish.observe_all(accepted.map(delay));
    }
}

/// The counters of the source. Ticker, sweep, supervisors and observer write, scrapes read.
#[derive(Debug, Default)]
pub(crate) struct SourceMeter {
    pub(crate) looks: Counter,
    pub(crate) ticks: Counter,
    pub(crate) late_transactions: Counter,
    pub(crate) slots_emptied: Counter,
    errors: [Counter; DATABASE_CLASSES.len()],
    /// Why nothing new can be published, while looks or ticks fail. Written by the ticker.
    trouble: Mutex<Option<String>>,
}

/// Every class of database error with its label value.
pub(crate) const DATABASE_CLASSES: [(StoreErrorKind, &str); 14] = [
    (StoreErrorKind::Unavailable, "unavailable"),
    (StoreErrorKind::Timeout, "timeout"),
    (StoreErrorKind::Standby, "standby"),
    (StoreErrorKind::Conflict, "conflict"),
    (StoreErrorKind::Held, "held"),
    (StoreErrorKind::Authentication, "authentication"),
    (StoreErrorKind::Privilege, "privilege"),
    (StoreErrorKind::MissingSchema, "missing_schema"),
    (StoreErrorKind::OlderSchema, "older_schema"),
    (StoreErrorKind::NewerSchema, "newer_schema"),
    (StoreErrorKind::Rewound, "rewound"),
    (StoreErrorKind::Invalid, "invalid"),
    (StoreErrorKind::Resources, "resources"),
    (StoreErrorKind::Unexpected, "unexpected"),
];

impl SourceMeter {
    /// A look was answered.
    pub(crate) fn advanced(&self, advance: &Advance) {
        self.looks.add(1);
        if let Some(window) = &advance.window {
            self.ticks.add(1);
            self.late_transactions.add(window.late.len() as u64);
        }
    }

    pub(crate) fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn swept(&self, report: &SweepReport) {
        self.slots_emptied.add(u64::from(report.slots_emptied));
    }

    pub(crate) fn failed(&self, kind: StoreErrorKind) {
        self.errors(kind).add(1);
    }

    pub(crate) fn errors(&self, kind: StoreErrorKind) -> &Counter {
        let nth = DATABASE_CLASSES.iter().position(|(known, _)| *known == kind);
        &self.errors[nth.unwrap_or(DATABASE_CLASSES.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use posthaste_core::{Headers, MessageId, MessageRef, Timestamp};

    use super::*;
    use crate::policy::Fault;

    #[test]
    fn every_class_has_a_counter_of_its_own() {
        let (meter, source) = (Meter::default(), SourceMeter::default());
        for class in Class::ALL {
            assert_eq!(meter.errors(class).get(), 0, "{class:?}");
            meter.errors(class).add(1);
        }
        for what in What::ALL {
            assert_eq!(meter.set_aside(what).get(), 0, "{what:?}");
            meter.set_aside(what).add(1);
        }
        for code in BREACHES {
            assert_eq!(meter.breaches(code).get(), 0, "{code}");
            meter.breaches(code).add(1);
        }
        for (kind, _) in DATABASE_CLASSES {
            assert_eq!(source.errors(kind).get(), 0, "{kind:?}");
            source.failed(kind);
        }
    }

    fn page(ages_micros: &[i64]) -> Page {
        let mut page = Page::new(ages_micros.len() as i64);
        for (nth, age) in ages_micros.iter().enumerate() {
            page.push(&MessageRef {
                id: MessageId::from_u128(nth as u128),
                position: nth as i64 + 1,
                enqueued_at: Timestamp(clock::now().0 - age),
                topic: "t",
                key: None,
                content_type: "a/b",
                correlation_id: None,
                headers: Headers::default(),
                payload: b"p",
            });
        }
        page
    }

    #[test]
    fn r38_delays_are_those_of_accepted_messages_and_never_below_zero() {
        let meter = Meter::default();
        let hour = 3_600_000_000;
        let page = page(&[-hour, 2 * hour, 3 * hour, 20_000_000]);
        let left = Unaccepted { index: 2, fault: Fault::Message, reason: String::new() };
        meter.delays(&page, &[0, 1, 2, 3], &[left]);
        let reading = meter.commit_to_publish.read();
        // A millisecond, 10 s, 30 s, an hour, and more.
        assert_eq!([0, 12, 13, 17, 18].map(|nth| reading.up_to[nth]), [1, 1, 2, 2, 3]);
        let seconds = reading.sum / 1_000_000;
        assert!((7_220..7_230).contains(&seconds), "{seconds}");
    }

    #[test]
    fn r38_answer_with_failures_counts_each_class_once_and_each_rejection() {
        let meter = Meter::default();
        let unaccepted = [Fault::Message, Fault::Message, Fault::Key, Fault::Sink, Fault::Sink]
            .map(|fault| Unaccepted { index: 0, fault, reason: String::new() });
        meter.answered(10, Duration::from_millis(3), &unaccepted);
        meter.answered(4, Duration::from_secs(3), &[]);
        let errors = Class::ALL.map(|class| meter.errors(class).get());
        assert_eq!(errors, [0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!((meter.rejected.get(), meter.batch_messages.read().sum), (2, 14));
        assert_eq!(meter.batch_duration.read().sum, 3_003_000);
    }
}
