//! What a run answers: a table for people and one JSON object for machines.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Map, Value, json};

use crate::{nemesis::Struck, truth::Findings};

/// A run that has come to its end.
pub(crate) struct Report {
    pub(crate) store: &'static str,
    pub(crate) sink: &'static str,
    pub(crate) seed: u64,
    pub(crate) elapsed: Duration,
    pub(crate) attempted: u64,
    pub(crate) acknowledged: u64,
    pub(crate) in_doubt: u64,
    /// Committed messages that the sink was to get.
    pub(crate) committed: u64,
    pub(crate) arrived: u64,
    pub(crate) dead_letters: u64,
    /// Published again after Redis had lost them, and lost by Redis before they were consumed.
    pub(crate) repaired: u64,
    pub(crate) lost_with_redis: u64,
    pub(crate) struck: Struck,
    pub(crate) findings: Findings,
    /// Whether the last relay drained within its limit.
    pub(crate) drained: bool,
    /// The first of what is wrong.
    pub(crate) examples: String,
}

impl Report {
    /// Whether nothing is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.findings.is_clean() && self.struck.unrecovered.is_empty() && self.drained
    }

    pub(crate) fn json(&self) -> Value {
        let Self { struck, findings, .. } = self;
        let (recovery, takeover) = self.recovery();
        let mut object = json!({
            "sink": self.sink,
            "store": self.store,
            "seed": self.seed,
            "seconds": self.elapsed.as_secs(),
            "kills": struck.kills(),
            "missed": struck.missed,
            "idle": struck.idle,
            "messages": self.committed,
            "attempted": self.attempted,
            "acknowledged": self.acknowledged,
            "in_doubt": self.in_doubt,
            "arrived": self.arrived,
            "dead_letters": self.dead_letters,
            "repaired": self.repaired,
            "lost_with_redis": self.lost_with_redis,
            "replayed": 0,
            "unrecovered": struck.unrecovered.len(),
            "restarts": struck.restarts,
            "long_transactions": struck.long_transactions,
            "drained": self.drained,
            "recovery_ms": recovery,
            "takeover_ms": takeover,
            "hits": struck.hits_json(),
        });
        if let (Value::Object(object), Ok(Value::Object(findings))) =
            (&mut object, serde_json::to_value(findings))
        {
            object.extend(findings);
        }
        object
    }

    /// After all faults, and after kills of the relay alone: how long a takeover takes.
    fn recovery(&self) -> (Value, Value) {
        let all = &self.struck.recoveries;
        let takeovers = all.get("kill relay").cloned().unwrap_or_default();
        (percentiles(all.values().flatten().copied().collect()), percentiles(takeovers))
    }

    pub(crate) fn text(&self) -> String {
        let Self { struck, findings, .. } = self;
        let (recovery, takeover) = self.recovery();
        let mut text = format!(
            "{} to {} seed {}: {} kills in {} s\n",
            self.store,
            self.sink,
            self.seed,
            self.struck.kills(),
            self.elapsed.as_secs()
        );
        text.push_str(&struck.hits_text());
        let _ = writeln!(
            text,
            "  not reached {}, nothing in flight {}, relays that ended by themselves {}\n  \
             messages: {} attempted, {} acknowledged, {} in doubt; {} committed, {} arrived, {} \
             dead letters, {} repaired, {} lost with Redis\n  recovery: {recovery} ms, after a \
             kill of the relay {takeover} ms",
            struck.missed,
            struck.idle,
            struck.restarts,
            self.attempted,
            self.acknowledged,
            self.in_doubt,
            self.committed,
            self.arrived,
            self.dead_letters,
            self.repaired,
            self.lost_with_redis,
        );
        let Findings { lost, duplicated, reordered, phantom, damaged, stuck, .. } = findings;
        let _ = writeln!(
            text,
            "  {lost} lost, {duplicated} duplicated, {reordered} reordered, {phantom} phantom, \
             {damaged} damaged, {stuck} stuck, {} stale settles, {} stale publishes, {} stolen \
             leases, {} unrecovered",
            findings.stale_settles,
            findings.stale_publishes,
            findings.stolen,
            struck.unrecovered.len()
        );
        for unrecovered in &struck.unrecovered {
            let _ = writeln!(text, "  {unrecovered}");
        }
        if !self.drained {
            text.push_str("  the last relay did not drain within its limit\n");
        }
        text.push_str(&self.examples);
        text
    }
}

impl Struck {
    /// Faults that hit.
    pub(crate) fn kills(&self) -> u64 {
        self.hits.values().sum()
    }

    /// The same by kind, and of each by step.
    pub(crate) fn hits_json(&self) -> Value {
        let mut kinds: Map<String, Value> = Map::new();
        for ((kind, point), count) in &self.hits {
            let steps = kinds.entry((*kind).to_owned()).or_insert_with(|| json!({}));
            steps[*point] = json!(count);
        }
        Value::Object(kinds)
    }

    /// A line of each.
    pub(crate) fn hits_text(&self) -> String {
        let line = |((kind, point), count): (&(&str, &str), &u64)| {
            format!("  {kind:<30} at {point:<14}{count:>6}\n")
        };
        self.hits.iter().map(line).collect()
    }
}

/// In milliseconds, by nearest rank.
pub(crate) fn percentiles(mut sorted: Vec<Duration>) -> Value {
    sorted.sort_unstable();
    let at = |part: f64| {
        let rank = (part * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.max(1) - 1).map_or(0, Duration::as_millis) as u64
    };
    json!({ "p50": at(0.5), "p99": at(0.99), "max": at(1.0) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn report(findings: Findings) -> Report {
        let hits = BTreeMap::from([(("kill relay", "settled"), 2), (("takeover", "answered"), 1)]);
        let recoveries = BTreeMap::from([
            ("kill relay", (1..=100).map(Duration::from_millis).collect()),
            ("takeover", (101..=200).map(Duration::from_millis).collect()),
        ]);
        Report {
            store: "postgres",
            sink: "redis-stream",
            seed: 7,
            elapsed: Duration::from_secs(9),
            attempted: 12,
            acknowledged: 10,
            in_doubt: 1,
            committed: 11,
            arrived: 11,
            dead_letters: 0,
            repaired: 0,
            lost_with_redis: 0,
            struck: Struck { hits, recoveries, ..Struck::default() },
            findings,
            drained: true,
            examples: String::new(),
        }
    }

    #[test]
    fn machines_get_kills_findings_and_recovery() {
        let json = report(Findings::default()).json();
        for name in ["lost", "duplicated", "reordered", "phantom", "stuck", "stale_settles"] {
            assert_eq!(json[name], 0, "{name}");
        }
        assert_eq!((&json["kills"], &json["messages"]), (&json!(3), &json!(11)));
        assert_eq!(json["recovery_ms"], json!({ "p50": 100, "p99": 198, "max": 200 }));
        assert_eq!(json["takeover_ms"], json!({ "p50": 50, "p99": 99, "max": 100 }));
        assert_eq!(json["hits"]["kill relay"]["settled"], 2);
    }

    #[test]
    fn any_finding_makes_a_run_fail() {
        assert!(report(Findings::default()).is_clean());
        assert!(!report(Findings { stuck: 1, ..Findings::default() }).is_clean());
        assert!(!report(Findings { stale_publishes: 1, ..Findings::default() }).is_clean());
        assert!(!Report { drained: false, ..report(Findings::default()) }.is_clean());
    }
}
