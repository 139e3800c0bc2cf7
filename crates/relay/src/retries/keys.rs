//! Parked keys: each is published from its own place up to the subscription's. For the last stretch
//! the lane takes the publisher's turn, so that the key's row goes at the moment at which nothing of
//! it is left (ORDERED).

use std::{sync::Arc, time::Duration};

use posthaste_core::{Page, PageLimit, Place, Position, Step, TickRef, Verdict, Window};
use posthaste_store::{Aside, FailedMessage, ParkedKey, Settled, StoreError};
use tokio::sync::OwnedMutexGuard;

use super::{LOOK_INTERVAL, Retries};
use crate::{
    failpoint,
    failures::Room,
    jitter::jitter,
    marks::KeyMarks,
    policy::{Fault, Unaccepted},
    publisher::batches,
    settings::AtLimit,
    telemetry::{incident::Incident, meter::What},
};

/// Positions that the first page of a key's retry spans: what follows a message that is refused
/// again was read in vain.
const KEY_STRIDE_MIN: i64 = 2_000;
/// Each page after that spans twice as many, up to this: few of them are the key's own.
const KEY_STRIDE_MAX: i64 = 128_000;
/// Windows of parked keys that are kept from one attempt to the next.
const WINDOWS_MAX: usize = 1_000;

/// Messages of a key, and the places around them.
struct Stretch {
    page: Page,
    /// Messages of the page that belong to it, by number.
    messages: Vec<u32>,
    window: Arc<Window>,
    after: Place,
}

/// How far the retry of a key came.
#[derive(PartialEq)]
enum Came {
    /// A page of it was accepted, or passed.
    On,
    /// It waits for its next attempt.
    Stuck,
    /// Another relay holds the subscription, or the run has to end.
    Fenced,
}

impl Retries {
    /// Publishes what has waited of a key, as far as the sink accepts it.
    pub(super) async fn retry_key(&mut self, mut key: ParkedKey) -> Result<(), StoreError> {
        let mut turn: Option<OwnedMutexGuard<()>> = None;
        let mut stride = KEY_STRIDE_MIN;
        // Nothing of the key lies between it and the place that the key has come to.
        let mut written = key.place;
        loop {
            let place = *self.places.borrow();
            let bound = self.parked.reached(place);
            match self.next_stretch(&key, bound, stride).await? {
                Some(stretch) => {
                    match self.publish_stretch(&mut key, &mut written, &stretch).await? {
                        Came::On => stride = (stride * 2).min(KEY_STRIDE_MAX),
                        Came::Stuck | Came::Fenced => return Ok(()),
                    }
                }
                // What the sink says is missing may be of this key, until the publisher has passed
                // it: the key's row says that it is not.
                None if bound != place => {
                    key.place = written;
                    key.retry_in = Some(LOOK_INTERVAL);
                    self.parked.park_key(key, None);
                    return Ok(());
                }
                // The publisher stands still at the bound: nothing of the key is left.
                None if turn.is_some() => {
                    failpoint::reach("unparking", self.gauge.name());
                    let unpark = vec![Aside::UnparkKey(key.key.clone())];
                    if self.write(unpark, Some(bound)).await? == Settled::Recorded {
                        self.windows.remove(&key.key);
                        self.parked.unpark_key(&key.key);
                        self.gauge.set_aside(self.parked.counts());
                    }
                    return Ok(());
                }
                None => {
                    let draining = &mut self.draining;
                    tokio::select! {
                        biased;
                        () = draining.begun() => return Ok(()),
                        held = Arc::clone(&self.turn).lock_owned() => turn = Some(held),
                    }
                    if *self.stopped.borrow() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// The next messages of a key between its place and `bound`; `None` when the place is there.
    async fn next_stretch(
        &mut self,
        key: &ParkedKey,
        bound: Place,
        stride: i64,
    ) -> Result<Option<Stretch>, StoreError> {
        let place = key.place;
        let after = place.within.map_or(0, |within| within.position);
        let (head, limit) = if bound.base.n > place.base.n {
            (place.within.map_or(bound.base, |within| within.head), Position::MAX)
        } else {
            match bound.within {
                Some(within) if after < within.position => (within.head, within.position),
                _ => return Ok(None),
            }
        };
        let Some(window) = self.window(key, head).await? else { return Ok(None) };
        let pages = PageLimit { stride, bytes: self.page_bytes };
        let read = self.store.read_key(&window, after, &self.filter, &key.key, pages).await?;
        let page = read.unwrap_or_else(|| Page::new(Position::MAX));
        let reach = page.through().min(limit);
        let is_last = limit == Position::MAX
            && (reach == Position::MAX || window.step(reach, 1) == Step::Done);
        let after = if is_last { place.finished(head) } else { place.moved_to(head, reach, None) };
        let messages = (0..page.len() as u32)
            .filter(|nth| page.get(*nth as usize).position <= reach)
            .collect();
        Ok(Some(Stretch { page, messages, window, after }))
    }

    /// The window from a key's place to `head`.
    async fn window(
        &mut self,
        key: &ParkedKey,
        head: TickRef,
    ) -> Result<Option<Arc<Window>>, StoreError> {
        let base = key.place.base;
        if let Some(window) = self.windows.get(&key.key)
            && (window.base.at, window.head.at) == (base, head)
        {
            return Ok(Some(Arc::clone(window)));
        }
        let window = self.store.window(base, Some(head)).await?;
        if self.windows.len() >= WINDOWS_MAX {
            self.windows.clear();
        }
        self.windows.extend(window.clone().map(|window| (key.key.clone(), window)));
        Ok(window)
    }

    /// Publishes one stretch of a key and moves the key's place behind what was accepted.
    async fn publish_stretch(
        &mut self,
        key: &mut ParkedKey,
        written: &mut Place,
        stretch: &Stretch,
    ) -> Result<Came, StoreError> {
        let before = key.place;
        for batch in batches(&stretch.page, &stretch.messages, self.limits) {
            let head = stretch.window.head.at;
            let marks = KeyMarks { key: &key.key, written: *written, before, head };
            let Some(unaccepted) = self.attempt(&stretch.page, batch, &marks).await? else {
                return Ok(Came::Fenced);
            };
            // One key, in order: whatever stands behind the first was not accepted either.
            let Some(first) = unaccepted.first() else {
                self.setbacks = 0;
                self.parked.recovered(&key.key);
                continue;
            };
            let position = stretch.page.get(first.index as usize).position;
            key.place = before.moved_to(stretch.window.head.at, position - 1, None);
            let came = self.rule(key, stretch, first).await?;
            if came == Came::On {
                *written = key.place;
            }
            return Ok(came);
        }
        key.place = stretch.after;
        if !stretch.messages.is_empty() {
            // What was accepted is written at once: a relay that takes over goes on behind it.
            key.attempts = 0;
            key.retry_in = Some(Duration::ZERO);
            let recorded = self.write(vec![Aside::ParkKey(key.clone())], None).await?;
            if recorded == Settled::Fenced {
                return Ok(Came::Fenced);
            }
            *written = key.place;
        }
        Ok(Came::On)
    }

    /// Decides about the first message of a key that was not accepted, at the key's place.
    async fn rule(
        &mut self,
        key: &mut ParkedKey,
        stretch: &Stretch,
        first: &Unaccepted,
    ) -> Result<Came, StoreError> {
        let message = stretch.page.get(first.index as usize);
        let is_same = key.message == message.id;
        key.message = message.id;
        key.reason.clone_from(&first.reason);
        if !first.is_refusal() {
            if !is_same {
                key.attempts = 0;
            }
            Incident { message: &message, attempts: key.attempts, reason: &first.reason }
                .is_tried_again(&self.gauge);
            key.retry_in = Some(self.setback(&first.fault));
            return self.wait(key, &[], &first.fault).await;
        }
        key.attempts = if is_same { key.attempts + 1 } else { 1 };
        let incident =
            Incident { message: &message, attempts: key.attempts, reason: &first.reason };
        let attempts = first.fault.attempts(key.attempts);
        let verdict = self.failure.policy().judge(&message, attempts, jitter());
        let is_overdue = key.parked_for > self.failure.parked_age_max
            && self.failure.at_limit == AtLimit::DeadLetter;
        let holds_key = match verdict {
            _ if is_overdue => false,
            Verdict::DeadLetter { holds_key } => holds_key,
            Verdict::ParkKey { retry_in } | Verdict::ParkMessage { retry_in } => {
                key.retry_in = Some(retry_in);
                incident.is_tried_again(&self.gauge);
                self.gauge.rejected(self.parked.counts(), &first.reason);
                return self.wait(key, &[], &first.fault).await;
            }
        };
        let mut room = Room { settings: &self.failure, counts: self.parked.counts() };
        if room.take(Verdict::DeadLetter { holds_key: false }).is_err() {
            // Nothing is dropped: the key waits until there is room.
            key.retry_in = Some(self.failure.retry.cap);
            incident.is_tried_again(&self.gauge);
            return self.wait(key, &[], &first.fault).await;
        }
        let dead = FailedMessage {
            position: message.position,
            id: message.id,
            tick: stretch.window.head.at.n,
            attempts: key.attempts,
            reason: first.reason.clone(),
            retry_in: None,
            holds_key,
        };
        if holds_key {
            key.retry_in = None;
        } else {
            key.place = key.place.moved_to(stretch.window.head.at, message.position, None);
            key.attempts = 0;
            key.retry_in = Some(Duration::ZERO);
        }
        let came = self.wait(key, &[Aside::Keep(dead.clone())], &first.fault).await?;
        if came == Came::Fenced {
            return Ok(came);
        }
        self.parked.set_aside(&dead);
        incident.is_set_aside(&self.gauge, What::DeadLetter);
        self.gauge.rejected(self.parked.counts(), &first.reason);
        Ok(if holds_key { Came::Stuck } else { came })
    }

    /// Writes a key's place and next attempt, with what belongs to it.
    async fn wait(
        &mut self,
        key: &ParkedKey,
        with: &[Aside],
        fault: &Fault,
    ) -> Result<Came, StoreError> {
        let mut changes = with.to_vec();
        changes.push(Aside::ParkKey(key.clone()));
        if self.write(changes, None).await? == Settled::Fenced {
            return Ok(Came::Fenced);
        }
        let waits_for = match fault {
            Fault::Destination(name) => Some(name.as_str()),
            Fault::Message | Fault::Hopeless | Fault::Key | Fault::Sink => None,
        };
        self.parked.park_key(key.clone(), waits_for);
        let is_due = key.retry_in == Some(Duration::ZERO);
        Ok(if is_due { Came::On } else { Came::Stuck })
    }
}
