//! What workers and listeners tell machines: counters and gauges in Prometheus' text format, and whether they are alive and ready.
//! Nothing here listens on a port.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use posthaste::MessageId;
use serde::Serialize;

use crate::crew::{Counters, Counts, Crew};

/// What a worker, or a listener, tells of itself; clones share it. Outlives the worker, and then says so.
#[derive(Clone, Debug)]
pub struct Telemetry {
    pub(crate) name: String,
    pub(crate) counts: Arc<Counters>,
    /// Jobs and messages in hand.
    pub(crate) in_hand: Arc<Mutex<HashSet<MessageId>>>,
    pub(crate) health: Arc<Health>,
}

/// What a worker waits for.
#[derive(Debug, Default)]
pub(crate) struct Health {
    is_registered: AtomicBool,
    has_ended: AtomicBool,
    /// Sources that do not answer, and what they said.
    away: Mutex<BTreeMap<String, String>>,
}

impl Health {
    pub(crate) fn set_registered(&self, is_registered: bool) {
        self.is_registered.store(is_registered, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.has_ended.store(true, Ordering::Relaxed);
    }

    pub(crate) fn source_answers(&self, source: &str) {
        Crew::lock(&self.away).remove(source);
    }

    pub(crate) fn source_is_away(&self, source: &str, error: String) {
        Crew::lock(&self.away).insert(source.to_owned(), error);
    }
}

/// Whether a worker is at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Its name.
    pub worker: String,
    /// Whether its database knows it, and all its sources answer.
    pub ready: bool,
    /// What it waits for.
    pub waits_for: Vec<String>,
}

/// A metric: its name, `counter` or `gauge`, what it tells, and its value.
type Metric = (&'static str, &'static str, &'static str, fn(&Telemetry, &Counts) -> u64);

/// All of them.
const ALL: [Metric; 12] = [
    (
        "posthaste_worker_messages_taken_total",
        "counter",
        "Messages that it took from its sources.",
        |_, counts| counts.taken,
    ),
    (
        "posthaste_worker_tasks_completed_total",
        "counter",
        "Jobs and messages that were done.",
        |_, counts| counts.completed,
    ),
    (
        "posthaste_worker_attempts_failed_total",
        "counter",
        "Attempts that failed and were worth another.",
        |_, counts| counts.failed,
    ),
    (
        "posthaste_worker_jobs_dead_total",
        "counter",
        "Jobs that were rejected or out of attempts.",
        |_, counts| counts.dead,
    ),
    (
        "posthaste_worker_messages_buried_total",
        "counter",
        "Messages that went to their queue's dead letters.",
        |_, counts| counts.buried,
    ),
    (
        "posthaste_worker_repeats_total",
        "counter",
        "Messages that had been handled, or whose job had nothing left to do for them.",
        |_, counts| counts.repeats,
    ),
    (
        "posthaste_worker_attempts_lost_total",
        "counter",
        "Attempts that were another worker's by the time they ended.",
        |_, counts| counts.lost,
    ),
    (
        "posthaste_worker_jobs_republished_total",
        "counter",
        "Jobs that waited for nothing and were published again.",
        |_, counts| counts.republished,
    ),
    (
        "posthaste_worker_checks_mended_total",
        "counter",
        "Checks before a handler that found something missing and put it there.",
        |_, counts| counts.mended,
    ),
    (
        "posthaste_worker_checks_failed_total",
        "counter",
        "Checks before a handler that failed; the handler ran all the same.",
        |_, counts| counts.unmended,
    ),
    (
        "posthaste_worker_in_hand",
        "gauge",
        "Jobs and messages that it has taken and not finished.",
        |of, _| Crew::lock(&of.in_hand).len() as u64,
    ),
    (
        "posthaste_worker_ready",
        "gauge",
        "1 if its database knows it and all its sources answer.",
        |of, _| u64::from(of.readiness().ready),
    ),
];

impl Telemetry {
    pub(crate) fn of(name: String) -> Self {
        Self { name, counts: Arc::default(), in_hand: Arc::default(), health: Arc::default() }
    }

    /// What it has done since it began.
    pub fn counts(&self) -> Counts {
        self.counts.read()
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        !self.health.has_ended.load(Ordering::Relaxed)
    }

    /// Whether it is at work, and what it waits for.
    pub fn readiness(&self) -> Readiness {
        let mut waits_for = Vec::new();
        if !self.is_alive() {
            waits_for.push("it has ended".to_owned());
        } else if !self.health.is_registered.load(Ordering::Relaxed) {
            waits_for.push("its first answer".to_owned());
        }
        for (source, error) in &*Crew::lock(&self.health.away) {
            waits_for.push(format!("{source}: {error}"));
        }
        Readiness { worker: self.name.clone(), ready: waits_for.is_empty(), waits_for }
    }
}

/// Every metric of these workers as it stands, in Prometheus' text format 0.0.4. Asks nobody.
pub fn metrics(workers: &[Telemetry]) -> String {
    let mut page = String::new();
    for (name, kind, help, value) in ALL {
        let _ = write!(page, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for worker in workers {
            let label = worker.name.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            let value = value(worker, &worker.counts());
            let _ = writeln!(page, "{name}{{worker=\"{label}\"}} {value}");
        }
    }
    page
}

/// The part of the reference page that is about workers.
pub fn reference() -> String {
    let mut page =
        "\n## Counted in a worker\n\n`posthaste worker` serves them, with the label `worker`, a \
                    configured name.\n\n| metric | kind | |\n|---|---|---|\n"
            .to_owned();
    for (name, kind, help, _) in ALL {
        let _ = writeln!(page, "| `{name}` | {kind} | {help} |");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn telemetry() -> Telemetry {
        Telemetry::of("a\"b".to_owned())
    }

    #[test]
    fn r53_every_metric_stands_on_the_page_and_in_the_reference() {
        let telemetry = telemetry();
        Counters::add(&telemetry.counts.mended, 3);
        let page = metrics(std::slice::from_ref(&telemetry));
        assert!(
            page.contains("posthaste_worker_checks_mended_total{worker=\"a\\\"b\"} 3\n"),
            "{page}"
        );
        assert_eq!(page.lines().count(), 3 * ALL.len());
        let reference = reference();
        assert!(ALL.iter().all(|(name, ..)| reference.contains(&format!("| `{name}` |"))));
    }

    #[test]
    fn worker_is_ready_when_its_database_knows_it_and_its_sources_answer() {
        let telemetry = telemetry();
        let waits_for = || telemetry.readiness().waits_for;
        assert_eq!(waits_for(), ["its first answer"]);
        telemetry.health.set_registered(true);
        assert!(telemetry.readiness().ready);
        telemetry.health.source_is_away("queue", "refused".to_owned());
        assert_eq!(waits_for(), ["queue: refused"]);
        telemetry.health.source_answers("queue");
        assert!(telemetry.readiness().ready && telemetry.is_alive());
        telemetry.health.end();
        assert_eq!((waits_for(), telemetry.is_alive()), (vec!["it has ended".to_owned()], false));
    }
}
