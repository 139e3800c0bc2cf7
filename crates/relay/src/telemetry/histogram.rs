//! Histograms with fixed bounds: counts in atomics, written once per batch.

use std::sync::atomic::{AtomicU64, Ordering};

/// Upper bounds that a histogram has at most, without the last, open one.
const BOUNDS_MAX: usize = 20;

/// What a histogram's values are, and how they are sorted.
#[derive(Debug)]
pub(crate) struct Scale {
    /// Upper bounds, inclusive, ascending.
    pub(crate) bounds: &'static [u64],
    /// Values of one unit that the page shows: 1,000,000 for microseconds shown as seconds.
    pub(crate) per_unit: u32,
}

/// Messages of a batch, up to the most that `relay.batch_messages` allows.
pub(crate) const MESSAGES: Scale = Scale {
    bounds: &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000],
    per_unit: 1,
};

/// Answers of a sink in microseconds, from half a millisecond to a minute.
pub(crate) const ANSWERS: Scale = Scale {
    bounds: &[
        500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
        2_500_000, 5_000_000, 10_000_000, 60_000_000,
    ],
    per_unit: 1_000_000,
};

/// Delays of messages in microseconds, from a millisecond to an hour.
pub(crate) const DELAYS: Scale = Scale {
    bounds: &[
        1_000,
        2_500,
        5_000,
        10_000,
        25_000,
        50_000,
        100_000,
        250_000,
        500_000,
        1_000_000,
        2_500_000,
        5_000_000,
        10_000_000,
        30_000_000,
        60_000_000,
        300_000_000,
        900_000_000,
        3_600_000_000,
    ],
    per_unit: 1_000_000,
};

/// Counts by upper bounds. One task writes, any reads; a reader may see half of a batch.
#[derive(Debug)]
pub(crate) struct Histogram {
    scale: &'static Scale,
    /// One for each bound, then the open one; not cumulative.
    counts: [AtomicU64; BOUNDS_MAX + 1],
    sum: AtomicU64,
}

/// What a histogram holds at one moment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// How many values lie up to each bound of the scale; the last says how many there are.
    pub(crate) up_to: Vec<u64>,
    /// In the scale's own unit.
    pub(crate) sum: u64,
}

impl Scale {
    /// A value in the unit that people read.
    pub(crate) fn shown(&self, value: u64) -> f64 {
        value as f64 / f64::from(self.per_unit)
    }
}

impl Histogram {
    pub(crate) fn new(scale: &'static Scale) -> Self {
        Self { scale, counts: Default::default(), sum: AtomicU64::new(0) }
    }

    pub(crate) fn observe(&self, value: u64) {
        self.observe_all(std::iter::once(value));
    }

    /// Sorts the values on the stack first, so that the atomics are touched once per bucket.
    pub(crate) fn observe_all(&self, values: impl Iterator<Item = u64>) {
        let bounds = self.scale.bounds;
        let mut tally = [0u64; BOUNDS_MAX + 1];
        let (mut sum, mut at) = (0u64, 0);
        // Neighbours in a batch mostly share a bucket: it is looked for when one does not fit.
        let mut fitting = 0..=bounds.first().copied().unwrap_or(u64::MAX);
        for value in values {
            if !fitting.contains(&value) {
                at = bounds.partition_point(|bound| *bound < value);
                let low = if at == 0 { 0 } else { bounds[at - 1] + 1 };
                fitting = low..=bounds.get(at).copied().unwrap_or(u64::MAX);
            }
            tally[at] += 1;
            sum = sum.saturating_add(value);
        }
        for (count, more) in self.counts.iter().zip(tally).filter(|(_, more)| *more > 0) {
            count.fetch_add(more, Ordering::Relaxed);
        }
        self.sum.fetch_add(sum, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Reading {
        let mut total = 0;
        let used = &self.counts[..=self.scale.bounds.len()];
        let up_to = used.iter().map(|count| {
            total += count.load(Ordering::Relaxed);
            total
        });
        Reading { up_to: up_to.collect(), sum: self.sum.load(Ordering::Relaxed) }
    }

    pub(crate) const fn scale(&self) -> &'static Scale {
        self.scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r38_each_value_counts_at_its_bound_and_above() {
        let histogram = Histogram::new(&MESSAGES);
        histogram.observe_all([1, 2, 3, 3, 500, 501, 1_000_000, 2].into_iter());
        histogram.observe(0);
        let Reading { up_to, sum } = histogram.read();
        assert_eq!(up_to, [2, 4, 6, 6, 6, 6, 6, 6, 7, 8, 8, 8, 8, 9]);
        assert_eq!(sum, 1_001_012);
    }

    #[test]
    fn bounds_ascend_and_fit() {
        for scale in [&MESSAGES, &ANSWERS, &DELAYS] {
            assert!(scale.bounds.len() <= BOUNDS_MAX && scale.bounds.is_sorted());
            let reading = Histogram::new(scale).read();
            assert_eq!(reading.up_to.len(), scale.bounds.len() + 1);
        }
    }
}
