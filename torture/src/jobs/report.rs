//! What a run of workers answers: a table for people and one JSON object for machines.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::{
    nemesis::Counts,
    truth::{Findings, Numbers},
};
use crate::{nemesis::Struck, report::percentiles};

/// A run that has come to its end.
pub(crate) struct Report {
    pub(crate) sink: &'static str,
    pub(crate) workers: usize,
    pub(crate) seed: u64,
    pub(crate) elapsed: Duration,
    pub(crate) numbers: Numbers,
    pub(crate) struck: Struck,
    pub(crate) counts: Counts,
    pub(crate) findings: Findings,
    /// Whether workers and relay drained within their limit.
    pub(crate) drained: bool,
    /// The first of what is wrong.
    pub(crate) examples: String,
}

impl Report {
    /// Whether nothing is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.findings.is_clean() && self.struck.unrecovered.is_empty() && self.drained
    }

    fn recovery(&self) -> Value {
        percentiles(self.struck.recoveries.values().flatten().copied().collect())
    }

    pub(crate) fn json(&self) -> Value {
        let Self { struck, counts, .. } = self;
        let mut object = json!({
            "sink": self.sink,
            "store": "postgres",
            "workers": self.workers,
            "seed": self.seed,
            "seconds": self.elapsed.as_secs(),
            "kills": struck.kills(),
            "missed": struck.missed,
            "idle": struck.idle,
            "restarts": struck.restarts,
            "flushes": counts.flushes,
            "replayed": counts.replayed,
            "unrecovered": struck.unrecovered.len(),
            "drained": self.drained,
            "recovery_ms": self.recovery(),
            "hits": struck.hits_json(),
        });
        let more = [serde_json::to_value(&self.numbers), serde_json::to_value(&self.findings)];
        for more in more.into_iter().flatten() {
            if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
                object.extend(more);
            }
        }
        object
    }

    pub(crate) fn text(&self) -> String {
        let Self { struck, counts, numbers, findings, .. } = self;
        let mut text = format!(
            "{} workers on {} seed {}: {} kills in {} s\n",
            self.workers,
            self.sink,
            self.seed,
            struck.kills(),
            self.elapsed.as_secs()
        );
        text.push_str(&struck.hits_text());
        let _ = writeln!(
            text,
            "  not reached {}, nothing under way {}, processes that ended by themselves {}, Redis emptied {} times, \
             {} messages replayed for that\n  {} jobs: {} completed, {} dead, {} taken back; {} attempts, {} of \
             them lost with their worker; {} messages; {} effects\n  inputs that were missing: {} put there by \
             listeners, {} by checks\n  recovery: {} ms",
            struck.missed,
            struck.idle,
            struck.restarts,
            counts.flushes,
            counts.replayed,
            numbers.jobs,
            numbers.completed,
            numbers.dead,
            numbers.cancelled,
            numbers.attempts,
            numbers.attempts_lost,
            numbers.messages,
            numbers.effects,
            numbers.inputs_of_listeners,
            numbers.inputs_of_checks,
            self.recovery(),
        );
        let Findings { lost, doubled, phantom, receipts, illegal, unfinished, .. } = findings;
        let Findings { disordered, overlapping, unfounded, stolen, .. } = findings;
        let _ = writeln!(
            text,
            "  {lost} lost, {doubled} done twice, {phantom} phantom, {receipts} wrong receipts, {illegal} illegal \
             steps, {unfinished} not over, {disordered} disordered, {overlapping} overlapping, {unfounded} \
             unfounded ends, {stolen} stolen, {} unsettled, {} buried, {} unrecovered",
            findings.unsettled,
            findings.buried,
            struck.unrecovered.len()
        );
        for unrecovered in &struck.unrecovered {
            let _ = writeln!(text, "  {unrecovered}");
        }
        if !self.drained {
            text.push_str("  not every process drained within its limit\n");
        }
        text.push_str(&self.examples);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: Findings) -> Report {
        let mut struck = Struck::default();
        struck.hits.insert(("kill worker", "committing"), 3);
        Report {
            sink: "redis-stream",
            workers: 3,
            seed: 7,
            elapsed: Duration::from_secs(9),
            numbers: Numbers { jobs: 12, ..Numbers::default() },
            struck,
            counts: Counts::default(),
            findings,
            drained: true,
            examples: String::new(),
        }
    }

    #[test]
    fn machines_get_kills_numbers_and_findings() {
        let json = report(Findings { illegal: 2, ..Findings::default() }).json();
        assert_eq!(json["hits"]["kill worker"]["committing"], 3);
        assert_eq!((&json["kills"], &json["jobs"]), (&json!(3), &json!(12)));
        assert_eq!((&json["illegal"], &json["doubled"]), (&json!(2), &json!(0)));
    }

    #[test]
    fn any_finding_makes_a_run_of_workers_fail() {
        assert!(report(Findings::default()).is_clean());
        assert!(!report(Findings { unfinished: 1, ..Findings::default() }).is_clean());
        assert!(!report(Findings { buried: 1, ..Findings::default() }).is_clean());
        assert!(!Report { drained: false, ..report(Findings::default()) }.is_clean());
    }
}
