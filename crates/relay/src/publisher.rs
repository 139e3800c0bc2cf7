//! The publishing stage of a pipeline: batches to the sink, again and again until each message
//! is accepted, and only then the place moves.

use std::{sync::Arc, time::Duration};

use posthaste_core::{Backoff, Page, Place};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{
    drain::Draining,
    monitor::{Gauge, State},
    policy::{self, Directive, describe},
    reader::Portion,
    settings::RelaySettings,
    sink::{Batch, Context, Receipt, Sink, SinkError, SinkErrorKind, Target},
};

/// Publishes for one subscription. Owned by one run of its pipeline, and the sink with it.
pub(crate) struct Publisher {
    target: Arc<dyn Target>,
    context: Context,
    sink: Option<Box<dyn Sink>>,
    filter: posthaste_core::TopicFilter,
    limits: BatchLimits,
    backoff: Backoff,
    operation_timeout: Duration,
    gauge: Arc<Gauge>,
}

#[derive(Clone, Copy)]
struct BatchLimits {
    messages: usize,
    bytes: usize,
}

/// Why publishing ended before the reader did.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The drain began before everything that was read had been published: between two batches,
    /// or while one was waiting for its next try (nothing of that one is settled).
    Draining,
    /// The settler found that another relay holds the subscription.
    Fenced,
    /// The sink failed in a way that does not pass by itself.
    Sink(SinkError),
}

/// What tells a publisher to stop between batches.
pub(crate) struct Signals {
    pub(crate) draining: Draining,
    pub(crate) fenced: watch::Receiver<bool>,
}

impl Publisher {
    pub(crate) fn new(
        target: Arc<dyn Target>,
        context: Context,
        filter: posthaste_core::TopicFilter,
        settings: &RelaySettings,
        gauge: Arc<Gauge>,
    ) -> Self {
        Self {
            target,
            context,
            sink: None,
            filter,
            limits: BatchLimits { messages: settings.batch_messages, bytes: settings.batch_bytes },
            backoff: settings.retry.into(),
            operation_timeout: settings.operation_timeout,
            gauge,
        }
    }

    /// Publishes what the reader hands over and reports each place behind it, until the reader
    /// ends.
    pub(crate) async fn run(
        &mut self,
        portions: &mut mpsc::Receiver<Portion>,
        places: &watch::Sender<Place>,
        signals: &mut Signals,
    ) -> Result<(), Ended> {
        let mut message = places.borrow().message;
        loop {
            let portion = tokio::select! {
                biased;
                _ = signals.fenced.wait_for(|fenced| *fenced) => return Err(Ended::Fenced),
                portion = portions.recv() => portion,
            };
            let Some(portion) = portion else { return Ok(()) };
            let indices = matching(&portion.page, &self.filter);
            for batch in batches(&portion.page, &indices, self.limits) {
                // A drain finishes the batch in flight, not the page: a slow sink may need longer
                // for a page than the drain may take.
                if signals.draining.has_begun() {
                    return Err(Ended::Draining);
                }
                let last = portion.page.get(batch[batch.len() - 1] as usize);
                let place =
                    portion.before.moved_to(portion.window.head.at, last.position, Some(last.id));
                self.publish(&portion.page, batch, place, signals).await?;
                message = Some(last.id);
                // COMPLETE: the place is handed to the settler only after the sink's word on
                // every message up to it.
                places.send_replace(place);
                self.gauge.published(batch.len());
            }
            places.send_replace(Place { message, ..portion.after });
            self.gauge.running();
        }
    }

    /// Publishes one batch until every message of it is accepted.
    async fn publish(
        &mut self,
        page: &Page,
        batch: &[u32],
        place: Place,
        signals: &mut Signals,
    ) -> Result<(), Ended> {
        let mut pending = batch.to_vec();
        let mut attempts = 0;
        loop {
            if *signals.fenced.borrow() {
                return Err(Ended::Fenced);
            }
            // FENCED: whoever lost its lease stops at once, also while it connects or waits; the
            // sink that was in use is dropped with the attempt.
            let handed = Batch::new(page, &pending, place);
            let tried = tokio::select! {
                biased;
                _ = signals.fenced.wait_for(|fenced| *fenced) => return Err(Ended::Fenced),
                tried = self.attempt(&handed) => tried,
            };
            match tried {
                Ok(receipt) => {
                    let before = pending.clone();
                    let Some(setback) = policy::retain_unaccepted(&mut pending, receipt) else {
                        self.gauge.running();
                        return Ok(());
                    };
                    let id = page.get(before[setback.message] as usize).id;
                    let (state, what) = if setback.is_refusal {
                        (State::Blocked, "the sink refuses message")
                    } else {
                        (State::BackingOff, "the sink did not take message")
                    };
                    let sink = self.target.describe();
                    self.gauge.setback(state, format!("{what} {id}: {} ({sink})", setback.reason));
                }
                Err(error) => {
                    // Nothing is known of the batch: a new connection, and all of it again.
                    self.sink = None;
                    if policy::after_sink_error(error.kind()) == Directive::Stop {
                        return Err(Ended::Sink(error));
                    }
                    self.gauge.setback(State::BackingOff, describe(&error));
                }
            }
            attempts += 1;
            if signals.draining.sleep(self.backoff.delay(attempts, rand::random())).await {
                return Err(Ended::Draining);
            }
        }
    }

    /// One try, connecting first if needed.
    async fn attempt(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
        let late = |_| {
            let doing = format!("{}: no answer in time", self.target.describe());
            SinkError::new(SinkErrorKind::Timeout, doing)
        };
        let mut sink = if let Some(sink) = self.sink.take() {
            sink
        } else {
            let connect = self.target.connect(&self.context, self.gauge.name());
            timeout(self.operation_timeout, connect).await.map_err(late)??
        };
        let receipt =
            timeout(self.operation_timeout, sink.publish(batch)).await.map_err(late)??;
        self.sink = Some(sink);
        Ok(receipt)
    }

    /// Closes the connection after the last batch.
    pub(crate) async fn close(&mut self) {
        if let Some(mut sink) = self.sink.take() {
            match timeout(self.operation_timeout, sink.close()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!("close the sink: {}", describe(&error)),
                Err(_elapsed) => tracing::debug!("close the sink: no answer in time"),
            }
        }
    }
}

/// Numbers of the messages that the subscription reads: shared pages hold others as well.
fn matching(page: &Page, filter: &posthaste_core::TopicFilter) -> Vec<u32> {
    if filter.is_all() {
        return (0..page.len() as u32).collect();
    }
    (0..page.len() as u32).filter(|nth| filter.matches(page.get(*nth as usize).topic)).collect()
}

/// Cuts a page's messages into batches within the limits, each of at least one message.
fn batches<'a>(
    page: &'a Page,
    indices: &'a [u32],
    limits: BatchLimits,
) -> impl Iterator<Item = &'a [u32]> {
    let mut rest = indices;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let mut count = 0;
        while count < rest.len().min(limits.messages) {
            let message = page.get(rest[count] as usize);
            bytes += message.payload.len();
            if count > 0 && bytes > limits.bytes {
                break;
            }
            count += 1;
        }
        let (batch, tail) = rest.split_at(count);
        rest = tail;
        (count > 0).then_some(batch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthaste_core::{Headers, MessageId, MessageRef, Timestamp};

    fn page(sizes: &[usize]) -> Page {
        let mut page = Page::new(sizes.len() as i64);
        for (nth, size) in sizes.iter().enumerate() {
            page.push(&MessageRef {
                id: MessageId::from_u128(nth as u128),
                position: nth as i64 + 1,
                enqueued_at: Timestamp(0),
                topic: if nth % 2 == 0 { "even" } else { "odd" },
                key: None,
                content_type: "a/b",
                correlation_id: None,
                headers: Headers::default(),
                payload: &vec![0; *size],
            });
        }
        page
    }

    #[test]
    fn r9_batches_keep_to_both_limits_and_hold_at_least_one_message() {
        let page = page(&[10, 10, 10, 500, 10, 10]);
        let indices: Vec<u32> = (0..6).collect();
        let cut = |messages, bytes| -> Vec<Vec<u32>> {
            let limits = BatchLimits { messages, bytes };
            batches(&page, &indices, limits).map(<[u32]>::to_vec).collect()
        };
        assert_eq!(cut(2, 1_000), [vec![0, 1], vec![2, 3], vec![4, 5]]);
        assert_eq!(cut(10, 25), [vec![0, 1], vec![2], vec![3], vec![4, 5]]);
        assert_eq!(cut(1, 1), [[0], [1], [2], [3], [4], [5]]);
    }

    #[test]
    fn messages_of_other_subscriptions_are_left_out() {
        let filter = posthaste_core::TopicFilter::new(&["odd"]).unwrap();
        assert_eq!(matching(&page(&[1, 1, 1, 1]), &filter), [1, 3]);
    }
}
