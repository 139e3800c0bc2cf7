//! The reference page of the metrics, made from their list.

use std::fmt::Write as _;

use posthaste_store::Pin;

use super::metrics::{self, Metric, Origin};
use super::{
    histogram::{ANSWERS, DELAYS, MESSAGES, Scale},
    meter::{BREACHES, Class, DATABASE_CLASSES, Lost, What},
};
use crate::monitor::State;

const INTRODUCTION: &str = "\
# Metrics

This page is what `posthaste metrics reference` prints.

A relay with `telemetry.listen` set answers `GET /metrics` in Prometheus' text format 0.0.4. Times are in
seconds. Label values are names of configured subscriptions and the words below: never a topic, a key or
an id. A scrape asks nobody: what only the database knows is read in the background every
`telemetry.interval`, and later where reading takes more than a tenth of it.
";

/// The page.
pub fn reference() -> String {
    let mut page = INTRODUCTION.to_owned();
    let sections =
        [("Counted in the relay", Origin::Relay), ("Read from the database", Origin::Database)];
    for (heading, origin) in sections {
        let _ = write!(page, "\n## {heading}\n\n| metric | kind | labels | |\n|---|---|---|---|\n");
        for metric in metrics::ALL.iter().filter(|metric| metric.origin == origin) {
            add_row(&mut page, metric);
        }
    }
    page.push_str("\n## Label values\n\n| label | of | values |\n|---|---|---|\n");
    let classes = Class::ALL.map(Class::word);
    add_values(&mut page, "class", metrics::ERRORS.name, &classes);
    let classes = DATABASE_CLASSES.map(|(_, word)| word);
    add_values(&mut page, "class", metrics::DATABASE_ERRORS.name, &classes);
    add_values(&mut page, "state", metrics::STATE.name, &State::ALL.map(State::word));
    add_values(&mut page, "state", metrics::SLOTS.name, &["all", "used", "shared"]);
    add_values(&mut page, "by", metrics::PINNED.name, &Pin::WORDS);
    let what = What::ALL.map(What::word);
    add_values(&mut page, "what", metrics::SET_ASIDE_TOTAL.name, &what);
    add_values(&mut page, "what", metrics::SET_ASIDE.name, &what);
    add_values(&mut page, "what", metrics::LOST.name, &Lost::ALL.map(Lost::word));
    add_values(&mut page, "code", metrics::BREACHES.name, &BREACHES);
    page.push_str("\n## Buckets\n\n| histogram | upper bounds |\n|---|---|\n");
    add_bounds(&mut page, &metrics::BATCH_MESSAGES, &MESSAGES);
    add_bounds(&mut page, &metrics::BATCH_DURATION, &ANSWERS);
    add_bounds(&mut page, &metrics::COMMIT_TO_PUBLISH, &DELAYS);
    page
}

fn add_row(page: &mut String, metric: &Metric) {
    let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
    let (name, kind, labels, help) =
        (metric.name, metric.kind.word(), labels.join(", "), metric.help);
    let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {help} |");
}

fn add_values(page: &mut String, label: &str, metric: &str, values: &[&str]) {
    let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
    let _ = writeln!(page, "| `{label}` | `{metric}` | {} |", values.join(", "));
}

fn add_bounds(page: &mut String, metric: &Metric, scale: &Scale) {
    let bounds: Vec<String> =
        scale.bounds.iter().map(|bound| scale.shown(*bound).to_string()).collect();
    let _ = writeln!(page, "| `{}` | {}, +Inf |", metric.name, bounds.join(", "));
}
