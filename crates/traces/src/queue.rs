//! Spans on their way to the collector, with a bound: a collector that is slow or dead costs its
//! spans and nothing else.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::Notify;

/// Spans, and how many there was no room for.
#[derive(Debug, Default)]
pub struct Built {
    /// The spans.
    pub spans: Vec<Span>,
    /// How many more there would have been.
    pub dropped: u64,
}

/// What became of spans.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpanCounts {
    /// Those that the collector has taken.
    pub exported: u64,
    /// Those that were not exported: there was no room for them, or the collector took them in no try.
    pub dropped: u64,
    /// Tries to export that failed.
    pub failures: u64,
}

/// The same, as it is counted. Whoever makes spans and the exporter write, scrapes read.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    exported: AtomicU64,
    dropped: AtomicU64,
    failures: AtomicU64,
}

impl Meter {
    pub(crate) fn exported(&self, spans: usize) {
        self.exported.fetch_add(spans as u64, Ordering::Relaxed);
    }

    pub(crate) fn dropped(&self, spans: u64) {
        self.dropped.fetch_add(spans, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> SpanCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SpanCounts {
            exported: read(&self.exported),
            dropped: read(&self.dropped),
            failures: read(&self.failures),
        }
    }
}

/// All parts of a process add, the exporter takes.
#[derive(Debug)]
pub(crate) struct Queue {
    spans: Mutex<VecDeque<Span>>,
    max: usize,
    filled: Notify,
    meter: Meter,
}

impl Queue {
    pub(crate) fn new(max: usize) -> Self {
        let (spans, filled) = (Mutex::default(), Notify::new());
        Self { spans, max, filled, meter: Meter::default() }
    }

    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Adds what `build` makes for the room that is left.
    pub(crate) fn add(&self, build: impl FnOnce(usize) -> Built) {
        let room = self.max.saturating_sub(self.lock().len());
        let Built { mut spans, dropped } = build(room);
        if spans.is_empty() && dropped == 0 {
            return;
        }
        let mut queue = self.lock();
        // Others may have added meanwhile.
        let surplus = spans.len().saturating_sub(self.max.saturating_sub(queue.len()));
        spans.truncate(spans.len() - surplus);
        queue.extend(spans);
        drop(queue);
        self.meter.dropped(dropped + surplus as u64);
        self.filled.notify_one();
    }

    /// Returns when something was added, perhaps before the call.
    pub(crate) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Takes the oldest spans, at most `count`.
    pub(crate) fn take(&self, count: usize) -> Vec<Span> {
        let mut queue = self.lock();
        let count = count.min(queue.len());
        queue.drain(..count).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Span>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_beyond_the_bound_are_dropped_and_counted() {
        let queue = Queue::new(5);
        let built = |count, dropped| Built { spans: vec![Span::default(); count], dropped };
        queue.add(|room| {
            assert_eq!(room, 5);
            built(3, 0)
        });
        queue.add(|room| {
            assert_eq!(room, 2);
            built(4, 7)
        });
        assert_eq!((queue.len(), queue.meter().read().dropped), (5, 9));
        assert_eq!(queue.take(2).len(), 2);
        assert_eq!(queue.take(10).len(), 3);
        assert_eq!(queue.len(), 0);
    }
}
