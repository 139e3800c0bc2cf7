//! The demo's bookkeeping: what was committed against what arrived, in memory bounded by the
//! number of customers.
//!
//! Each customer's orders are numbered from 1 without gaps, under the lock of the customer's row
//! and in the order's own transaction. So an arrival is the expected next number, an earlier one
//! (a duplicate, or late), or one too far (something is missing so far).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use uuid::Uuid;

/// Longest lag the histogram tells apart, in microseconds.
const LAG_MICROS_MAX: u64 = 600_000_000;

/// Customer number to the number of the last committed order.
pub(super) type Truth = BTreeMap<u32, u64>;

/// The books.
#[derive(Debug)]
pub(super) struct Ledger {
    committed: u64,
    rolled_back: u64,
    delivered: u64,
    duplicated: u64,
    reordered: u64,
    customers: HashMap<u32, Customer>,
    /// Commits whose message has not arrived, and arrivals whose commit has not returned yet.
    committed_at: HashMap<Uuid, Instant>,
    arrived_at: HashMap<Uuid, Instant>,
    lag_micros: Histogram<u64>,
}

#[derive(Debug, Default)]
struct Customer {
    /// Highest order that arrived.
    last: u64,
    /// Orders below it that did not.
    missing: BTreeSet<u64>,
}

/// The last line of the demo.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) enqueued: u64,
    pub(super) rolled_back: u64,
    pub(super) published: u64,
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) duplicated: u64,
    pub(super) reordered: u64,
    pub(super) lag_ms_p50: f64,
    pub(super) lag_ms_p99: f64,
    /// Arrived although its transaction did not commit; part of the verdict, not of the line.
    #[serde(skip)]
    pub(super) phantom: u64,
}

impl Default for Ledger {
    fn default() -> Self {
        let lag_micros = Histogram::new_with_bounds(1, LAG_MICROS_MAX, 3);
        Self {
            committed: 0,
            rolled_back: 0,
            delivered: 0,
            duplicated: 0,
            reordered: 0,
            customers: HashMap::new(),
            committed_at: HashMap::new(),
            arrived_at: HashMap::new(),
            lag_micros: lag_micros.expect("the bounds are constants that a histogram takes"),
        }
    }
}

impl Ledger {
    /// A commit has returned.
    pub(super) fn committed(&mut self, id: Uuid, at: Instant) {
        self.committed += 1;
        match self.arrived_at.remove(&id) {
            // The message was faster than the commit's answer.
            Some(_) => self.record_lag(Duration::ZERO),
            None => drop(self.committed_at.insert(id, at)),
        }
    }

    /// A transaction was rolled back on purpose.
    pub(super) fn rolled_back(&mut self) {
        self.rolled_back += 1;
    }

    /// A message has arrived.
    pub(super) fn arrived(&mut self, customer: u32, order: u64, id: Uuid, at: Instant) {
        let known = self.customers.entry(customer).or_default();
        if order > known.last {
            known.missing.extend(known.last + 1..order);
            known.last = order;
            self.delivered += 1;
        } else if known.missing.remove(&order) {
            self.reordered += 1;
            self.delivered += 1;
        } else {
            self.duplicated += 1;
            return;
        }
        match self.committed_at.remove(&id) {
            Some(committed) => self.record_lag(at.saturating_duration_since(committed)),
            None => drop(self.arrived_at.insert(id, at)),
        }
    }

    /// Whether as many messages have arrived as were committed.
    pub(super) fn is_complete(&self) -> bool {
        self.delivered >= self.committed
    }

    pub(super) fn enqueued(&self) -> u64 {
        self.committed
    }

    /// Compares with the committed rows.
    pub(super) fn close(&self, published: u64, truth: &Truth) -> Summary {
        let mut lost = 0;
        let mut phantom = 0;
        for (customer, orders) in truth {
            let (last, missing) = self
                .customers
                .get(customer)
                .map_or((0, 0), |known| (known.last, known.missing.len() as u64));
            lost += orders.saturating_sub(last) + missing;
            phantom += last.saturating_sub(*orders);
        }
        let unknown = self.customers.iter().filter(|(customer, _)| !truth.contains_key(customer));
        phantom += unknown.map(|(_, known)| known.last).sum::<u64>();
        Summary { lost, phantom, ..self.so_far(published) }
    }

    /// The counts at this moment; what is still on its way is not lost.
    pub(super) fn so_far(&self, published: u64) -> Summary {
        let millis = |quantile| self.lag_micros.value_at_quantile(quantile) as f64 / 1_000.0;
        Summary {
            enqueued: self.committed,
            rolled_back: self.rolled_back,
            published,
            delivered: self.delivered,
            lost: 0,
            duplicated: self.duplicated,
            reordered: self.reordered,
            lag_ms_p50: millis(0.50),
            lag_ms_p99: millis(0.99),
            phantom: 0,
        }
    }

    fn record_lag(&mut self, lag: Duration) {
        let micros = u64::try_from(lag.as_micros()).unwrap_or(u64::MAX);
        self.lag_micros.saturating_record(micros.max(1));
    }
}

impl Summary {
    /// The counts in one sentence.
    pub(super) fn sentence(&self) -> String {
        format!(
            "{} messages enqueued, {} transactions rolled back; {} delivered, {} lost, \
             {} duplicated, {} reordered; lag p50 {:.1} ms, p99 {:.1} ms",
            self.enqueued,
            self.rolled_back,
            self.delivered,
            self.lost,
            self.duplicated,
            self.reordered,
            self.lag_ms_p50,
            self.lag_ms_p99
        )
    }

    /// What went wrong, if anything did.
    pub(super) fn fault(&self) -> Option<String> {
        let counts = [
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("reordered", self.reordered),
            ("delivered without a commit", self.phantom),
        ];
        let faults: Vec<String> = counts
            .iter()
            .filter(|(_, count)| *count > 0)
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        match (faults.is_empty(), self.enqueued) {
            (true, 0) => Some("no order was written".to_owned()),
            (true, _) => None,
            (false, _) => Some(format!("messages went wrong: {}", faults.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(arrivals: &[(u32, u64)]) -> Ledger {
        let mut ledger = Ledger::default();
        for (nth, (customer, order)) in arrivals.iter().enumerate() {
            ledger.arrived(*customer, *order, Uuid::from_u128(nth as u128), Instant::now());
        }
        ledger
    }

    fn counts(arrivals: &[(u32, u64)], truth: &[(u32, u64)]) -> [u64; 5] {
        let mut ledger = ledger(arrivals);
        ledger.committed = 1;
        let summary = ledger.close(0, &truth.iter().copied().collect());
        assert_eq!(summary.fault().is_none(), {
            summary.lost + summary.duplicated + summary.reordered + summary.phantom == 0
        });
        [summary.delivered, summary.lost, summary.duplicated, summary.reordered, summary.phantom]
    }

    #[test]
    fn complete_and_ordered_is_faultless() {
        assert_eq!(counts(&[(1, 1), (2, 1), (1, 2)], &[(1, 2), (2, 1)]), [3, 0, 0, 0, 0]);
    }

    #[test]
    fn each_fault_is_counted() {
        assert_eq!(counts(&[(1, 1), (1, 3)], &[(1, 3)]), [2, 1, 0, 0, 0]);
        assert_eq!(counts(&[(1, 1)], &[(1, 3), (2, 1)]), [1, 3, 0, 0, 0]);
        assert_eq!(counts(&[(1, 1), (1, 1)], &[(1, 1)]), [1, 0, 1, 0, 0]);
        assert_eq!(counts(&[(1, 2), (1, 1)], &[(1, 2)]), [2, 0, 0, 1, 0]);
        assert_eq!(counts(&[(1, 1), (1, 2), (9, 1)], &[(1, 1)]), [3, 0, 0, 0, 2]);
    }

    #[test]
    fn nothing_written_is_a_fault() {
        assert!(Ledger::default().close(0, &Truth::new()).fault().is_some());
    }

    #[test]
    fn lag_is_measured_whichever_comes_first() {
        let mut ledger = Ledger::default();
        let (start, id) = (Instant::now(), Uuid::from_u128(1));
        ledger.committed(id, start);
        ledger.arrived(1, 1, id, start + Duration::from_millis(8));
        let summary = ledger.so_far(0);
        assert!((7.9..8.1).contains(&summary.lag_ms_p50), "{summary:?}");
        let id = Uuid::from_u128(2);
        ledger.arrived(1, 2, id, start);
        ledger.committed(id, start);
        assert!(ledger.committed_at.is_empty() && ledger.arrived_at.is_empty());
    }
}
