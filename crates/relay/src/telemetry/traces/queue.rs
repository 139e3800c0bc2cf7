//! Spans on their way to the collector, with a bound: a collector that is slow or dead costs its
//! spans and nothing else.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::Notify;

use super::spans::Built;
use crate::telemetry::meter::Counter;

/// What became of spans. Pipelines and the exporter write, scrapes read.
#[derive(Debug, Default)]
pub(crate) struct TraceMeter {
    pub(crate) exported: Counter,
    pub(crate) dropped: Counter,
    pub(crate) failures: Counter,
}

/// Pipelines add, the exporter takes.
#[derive(Debug)]
pub(super) struct Queue {
    spans: Mutex<VecDeque<Span>>,
    max: usize,
    filled: Notify,
    meter: TraceMeter,
}

impl Queue {
    pub(super) fn new(max: usize) -> Self {
        let (spans, filled) = (Mutex::default(), Notify::new());
        Self { spans, max, filled, meter: TraceMeter::default() }
    }

    pub(super) fn meter(&self) -> &TraceMeter {
        &self.meter
    }

    /// Adds what `build` makes for the room that is left.
    pub(super) fn add(&self, build: impl FnOnce(usize) -> Built) {
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
        self.meter.dropped.add(dropped + surplus as u64);
        self.filled.notify_one();
    }

    /// Returns when something was added, perhaps before the call.
    pub(super) async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Takes the oldest spans, at most `count`.
    pub(super) fn take(&self, count: usize) -> Vec<Span> {
        let mut queue = self.lock();
        let count = count.min(queue.len());
        queue.drain(..count).collect()
    }

    pub(super) fn len(&self) -> usize {
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
        assert_eq!((queue.len(), queue.meter().dropped.get()), (5, 9));
        assert_eq!(queue.take(2).len(), 2);
        assert_eq!(queue.take(10).len(), 3);
        assert_eq!(queue.len(), 0);
    }
}
