//! The publishing stage of a pipeline: batches to the sink, again and again until each message
//! is accepted or set aside, and only then the place moves.

use std::sync::Arc;

use posthaste_core::{Backoff, MessageRef, Page, Place};
use posthaste_store::{Aside, Settled, StoreError, defect};
use tokio::sync::{Mutex, mpsc, watch};

use crate::{
    drain::Draining,
    failpoint,
    failures::{self, Room, Ruling},
    jitter::jitter,
    ledger::Ledger,
    marks::{Floor, PlaceMarks},
    monitor::{Gauge, State},
    outlet::{Outlet, Tried},
    parked::Parked,
    policy::{self, Directive, Unaccepted, describe},
    reader::Portion,
    settings::{FailureSettings, RelaySettings},
    sink::SinkError,
    telemetry::{incident::Incident, meter::What},
};

/// Publishes for one subscription. Owned by one run of its pipeline, and the sink with it.
pub(crate) struct Publisher {
    outlet: Outlet,
    filter: posthaste_core::TopicFilter,
    limits: BatchLimits,
    backoff: Backoff,
    failure: FailureSettings,
    gauge: Arc<Gauge>,
    /// What was handed over beyond the place, in front of a sink that keeps places.
    floor: Option<Floor>,
}

#[derive(Clone, Copy)]
pub(crate) struct BatchLimits {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
}

impl From<&RelaySettings> for BatchLimits {
    fn from(settings: &RelaySettings) -> Self {
        Self { messages: settings.batch_messages, bytes: settings.batch_bytes }
    }
}

/// Why publishing ended before the reader did.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The drain began before everything that was read had been published: between two batches,
    /// or while one was waiting for its next try (nothing of that one is settled).
    Draining,
    /// Another relay holds the subscription, or another stage failed.
    Fenced,
    /// The sink says that the lane stands elsewhere than was known: begin anew where it stands.
    Elsewhere,
    /// The sink failed in a way that does not pass by itself.
    Sink(SinkError),
    /// What had to be set aside could not be written.
    Store(StoreError),
}

/// What a publisher shares with the other stages of its run.
pub(crate) struct Shared {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) parked: Arc<Parked>,
    /// Held for each batch: between two batches the retry lane may have it.
    pub(crate) turn: Arc<Mutex<()>>,
    pub(crate) draining: Draining,
    pub(crate) stopped: watch::Receiver<bool>,
}

/// A batch and where it stands.
struct Part<'a> {
    portion: &'a Portion,
    last: MessageRef<'a>,
}

impl Publisher {
    pub(crate) fn new(
        outlet: Outlet,
        filter: posthaste_core::TopicFilter,
        settings: &RelaySettings,
        failure: FailureSettings,
        gauge: Arc<Gauge>,
    ) -> Self {
        let (limits, backoff) = (settings.into(), settings.retry.into());
        Self { outlet, filter, limits, backoff, failure, gauge, floor: None }
    }

    /// The sink, to be connected before the run.
    pub(crate) fn outlet(&mut self) -> &mut Outlet {
        &mut self.outlet
    }

    /// Passes over what `floor` says is taken already.
    pub(crate) fn begin_above(&mut self, floor: Option<Floor>) {
        self.floor = floor;
    }

    /// Publishes what the reader hands over and reports each place behind it, until the reader
    /// ends.
    pub(crate) async fn run(
        &mut self,
        portions: &mut mpsc::Receiver<Portion>,
        places: &watch::Sender<Place>,
        shared: &mut Shared,
    ) -> Result<(), Ended> {
        let mut message = places.borrow().message;
        let turn = Arc::clone(&shared.turn);
        loop {
            let portion = tokio::select! {
                biased;
                _ = shared.stopped.wait_for(|stopped| *stopped) => return Err(Ended::Fenced),
                portion = portions.recv() => portion,
            };
            let Some(portion) = portion else { return Ok(()) };
            let head = portion.window.head.at;
            let indices = self.matching(&portion.page, head.n);
            for batch in batches(&portion.page, &indices, self.limits) {
                // A drain finishes the batch in flight, not the page: a slow sink may need longer
                // for a page than the drain may take.
                if shared.draining.has_begun() {
                    return Err(Ended::Draining);
                }
                let (draining, ledger) = (&mut shared.draining, &shared.ledger);
                let its_turn = async {
                    ledger.has_room().await;
                    turn.lock().await
                };
                let _turn = tokio::select! {
                    biased;
                    turn = its_turn => turn,
                    _ = shared.stopped.wait_for(|stopped| *stopped) => return Err(Ended::Fenced),
                    () = draining.begun() => return Err(Ended::Draining),
                };
                let last = portion.page.get(batch[batch.len() - 1] as usize);
                let free = shared.parked.without_set_aside(&portion.page, batch);
                let pending = free.unwrap_or_else(|| batch.to_vec());
                let part = Part { portion: &portion, last };
                if defect::is("settle-before-ack") {
                    let place = portion.before.moved_to(head, last.position, Some(last.id));
                    places.send_replace(place.counted(self.outlet.calls()));
                }
                let published = self.publish(&part, pending, shared).await;
                // Before the turn goes: the sink may have passed a parked key's messages by now,
                // and the retry lane must not unpark it at the place before them.
                published.inspect_err(|_| shared.ledger.stop())?;
                message = Some(last.id);
                let place = portion.before.moved_to(head, last.position, message);
                let place = place.counted(self.outlet.calls());
                // COMPLETE: the place is handed to the settler only after the sink's word on
                // every message up to it, or the store's that it is set aside.
                places.send_replace(place);
                failpoint::reach("place-moved", self.gauge.name());
            }
            let calls = self.outlet.calls();
            places.send_replace(Place { message, calls, ..portion.after });
            if !self.gauge.is_paused() {
                self.gauge.running();
            }
        }
    }

    /// Publishes one batch until every message of it is accepted or set aside.
    async fn publish(
        &mut self,
        part: &Part<'_>,
        mut pending: Vec<u32>,
        shared: &mut Shared,
    ) -> Result<(), Ended> {
        let page = &*part.portion.page;
        let mut attempts = 0;
        while !pending.is_empty() {
            let head = part.portion.window.head.at;
            let (before, floor) = (part.portion.before, self.floor.as_ref());
            let marks = PlaceMarks { before, head, floor };
            match self.outlet.attempt(page, &pending, &marks).await {
                Tried::Stopped => return Err(Ended::Fenced),
                Tried::Elsewhere(_) => return Err(Ended::Elsewhere),
                Tried::Answered(unaccepted) => {
                    self.gauge.meter().delays(page, &pending, &unaccepted);
                    if unaccepted.is_empty() {
                        break;
                    }
                    let ruling = self.rule(part, &pending, &unaccepted, shared);
                    pending.clone_from(&ruling.pending);
                    self.raise_floor(part, &pending);
                    if self.set_aside(part, &ruling, &unaccepted, shared).await? {
                        attempts = 0;
                        continue;
                    }
                    self.report(page, &unaccepted[0], ruling.limit);
                }
                Tried::Failed(error) => {
                    // A new connection, and all of the batch again.
                    if policy::after_sink_error(error.kind()) == Directive::Stop {
                        return Err(Ended::Sink(error));
                    }
                    self.gauge.setback(State::BackingOff, describe(&error));
                }
            }
            attempts += 1;
            if shared.draining.sleep(self.backoff.delay(attempts, jitter())).await {
                return Err(Ended::Draining);
            }
        }
        self.raise_floor(part, &[]);
        self.gauge.running();
        Ok(())
    }

    /// All of a batch has been handed over, and all but `pending` is done.
    fn raise_floor(&mut self, part: &Part<'_>, pending: &[u32]) {
        if self.outlet.calls().is_some() {
            let position = |index: &u32| part.portion.page.get(*index as usize).position;
            let (pending, head) = (pending.iter().map(position), part.portion.window.head.at.n);
            self.floor = Floor::behind(self.floor.take(), head, &part.last, pending.collect());
        }
    }

    /// Numbers of the messages that the subscription reads, as shared pages hold others as well,
    /// and that are not taken already.
    fn matching(&self, page: &Page, head: i64) -> Vec<u32> {
        let mut all = matching(page, &self.filter);
        if let Some(floor) = &self.floor {
            all.retain(|nth| !floor.has_taken(head, page.get(*nth as usize).position));
        }
        all
    }

    fn rule(
        &self,
        part: &Part<'_>,
        batch: &[u32],
        unaccepted: &[Unaccepted],
        shared: &Shared,
    ) -> Ruling {
        let Portion { page, before, window, .. } = part.portion;
        let room = Room { settings: &self.failure, counts: shared.parked.counts() };
        let at = (*before, window.head.at);
        let wait = |name: &str| shared.parked.broken(name, self.backoff, jitter());
        failures::rule(room, page, batch, unaccepted, at, wait, rand::random)
    }

    /// Writes what is set aside, so that the place may pass it; false when there is nothing. With
    /// the calls so far: a key is parked behind messages that the sink has taken in them, which
    /// would be missed if the sink lost them and nobody knew.
    async fn set_aside(
        &mut self,
        part: &Part<'_>,
        ruling: &Ruling,
        unaccepted: &[Unaccepted],
        shared: &Shared,
    ) -> Result<bool, Ended> {
        if ruling.changes.is_empty() {
            return Ok(false);
        }
        let Portion { page, before, .. } = part.portion;
        let place = before.counted(self.outlet.calls());
        let written = shared.ledger.write(&ruling.changes, Some(place)).await;
        let written = written.map_err(Ended::Store)?;
        if written == Settled::Fenced {
            return Err(Ended::Fenced);
        }
        // The changes follow the order of the messages; a message may have two.
        let mut messages = unaccepted.iter().map(|it| page.get(it.index as usize)).peekable();
        for change in &ruling.changes {
            let (id, attempts, reason, what) = match change {
                Aside::ParkKey(_) if defect::is("retry-behind-followers") => continue,
                Aside::ParkKey(parked) => {
                    let waits_for = ruling.waits.get(&parked.key).map(String::as_str);
                    shared.parked.park_key(parked.clone(), waits_for);
                    (parked.message, parked.attempts, &parked.reason, What::Key)
                }
                Aside::Keep(failed) => {
                    shared.parked.set_aside(failed);
                    (failed.id, failed.attempts, &failed.reason, What::of(failed))
                }
                Aside::UnparkKey(_)
                | Aside::Retried(_)
                | Aside::Published { .. }
                | Aside::Counted(_) => continue,
            };
            while messages.next_if(|message| message.id != id).is_some() {}
            if let Some(message) = messages.peek() {
                Incident { message, attempts, reason }.is_set_aside(&self.gauge, what);
            }
        }
        self.gauge.rejected(shared.parked.counts(), &unaccepted[0].reason);
        Ok(true)
    }

    /// Says why the batch is not done.
    fn report(&self, page: &Page, first: &Unaccepted, limit: Option<&'static str>) {
        let message = page.get(first.index as usize);
        let (id, attempts) = (message.id, u32::from(first.is_refusal()));
        Incident { message: &message, attempts, reason: &first.reason }.is_tried_again(&self.gauge);
        let sink = self.outlet.describe();
        let (state, what) = match limit {
            Some(limit) => (State::Blocked, format!("failure.{limit} is met and the sink refuses")),
            None => (State::BackingOff, "the sink did not take".to_owned()),
        };
        self.gauge.setback(state, format!("{what} message {id}: {} ({sink})", first.reason));
    }

    /// Closes the connection after the last batch.
    pub(crate) async fn close(&mut self) {
        self.outlet.close().await;
    }
}

fn matching(page: &Page, filter: &posthaste_core::TopicFilter) -> Vec<u32> {
    if filter.is_all() {
        return (0..page.len() as u32).collect();
    }
    (0..page.len() as u32).filter(|nth| filter.matches(page.get(*nth as usize).topic)).collect()
}

/// Cuts a page's messages into batches within the limits, each of at least one message.
pub(crate) fn batches<'a>(
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
