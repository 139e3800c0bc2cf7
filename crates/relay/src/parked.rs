//! What a subscription has set aside, in memory: the publisher skips it, the retry lane works on
//! it. Bounded by the limits of the failure policy.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use posthaste_core::{Backoff, MessageId, Page, Place, Position, Within};
use posthaste_store::{Aside, AsideState, FailedMessage, ParkedKey};
use tokio::{sync::Notify, time::Instant};

use crate::monitor::Counts;

/// Broken destinations that are known by name; what waits for others is tried key by key.
const BROKEN_MAX: usize = 1_000;

/// Shared by the publisher and the retry lane of one run of a pipeline.
#[derive(Default)]
pub(crate) struct Parked {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, Key>,
    /// By position and id: several messages may have one id, and a position be handed out again after a restore.
    messages: HashMap<(Position, MessageId), Message>,
    /// Whether the publisher may still meet one of the messages: they were set aside by an
    /// earlier run, whose place had not passed them when it ended.
    are_ahead: bool,
    /// Up to where the run before had passed over messages of parked keys.
    reached: Option<Place>,
    /// Calls of the second lane that the database knows of.
    calls: i64,
    /// Destinations that do not take messages at the moment, by name.
    broken: HashMap<String, Broken>,
}

/// A destination that has not taken its last message. What waits for it is tried again by one
/// message at a time, not by all that wait.
struct Broken {
    /// Tries in a row that failed.
    failures: u32,
    /// Nothing that waits for it is due before.
    until: Instant,
}

/// A parked key and when its next attempt is due.
struct Key {
    parked: ParkedKey,
    due: Due,
    /// The destination that has to recover before it.
    waits_for: Option<String>,
}

/// A message that is set aside.
struct Message {
    tick: i64,
    position: Position,
    due: Due,
}

/// `None` waits for a person.
type Due = Option<Instant>;

impl Parked {
    /// Takes over what the store says; `place` is the publisher's.
    pub(crate) fn load(&self, aside: AsideState, place: &Place) {
        let mut state = self.state();
        let is_ahead = |failed: &FailedMessage| !is_passed(place, failed.tick, failed.position);
        state.are_ahead = aside.messages.iter().any(is_ahead);
        let known = state.keys.drain();
        let mut waits: HashMap<_, _> =
            known.filter_map(|(name, key)| Some((name, key.waits_for?))).collect();
        state.messages.clear();
        state.calls = aside.retry_calls;
        for parked in aside.keys {
            let due = due(parked.retry_in);
            let waits_for = waits.remove(&parked.key);
            state.keys.insert(parked.key.clone(), Key { parked, due, waits_for });
        }
        for failed in aside.messages {
            state.messages.insert((failed.position, failed.id), Message::of(&failed));
        }
        drop(state);
        self.changed.notify_one();
    }

    /// The sink has lost what it had behind `place`, of parked keys too: they wait there again, or
    /// before the first of their messages that it is `missing` there. Answers what is to be written
    /// down.
    pub(crate) fn set_back(
        &self,
        place: &Place,
        missing: &HashMap<String, Position>,
    ) -> Vec<Aside> {
        let mut state = self.state();
        let first_of = |key: &Key| missing.get(&key.parked.key).copied().zip(place.within);
        let is_lost = |key: &&mut Key| {
            let at = &key.parked.place;
            let has_passed =
                |(first, within): (Position, Within)| is_passed(at, within.head.n, first);
            !place.covers(at) || first_of(key).is_some_and(has_passed)
        };
        let lost = state.keys.values_mut().filter(is_lost);
        let set_back = lost.map(|key| {
            let before =
                |(first, within): (Position, Within)| place.moved_to(within.head, first - 1, None);
            key.parked.place = first_of(key).map_or(*place, before).counted(None);
            key.parked.retry_in = Some(Duration::ZERO);
            key.due = due(key.parked.retry_in);
            Aside::ParkKey(key.parked.clone())
        });
        set_back.collect()
    }

    /// The publisher begins at `place`, and has passed over messages of parked keys up to `reached`.
    pub(crate) fn begin_at(&self, place: &Place, reached: Place) {
        let mut state = self.state();
        state.reached = Some(reached);
        state.are_ahead = state.messages.values().any(|message| !message.is_passed(place));
    }

    /// Up to where messages of parked keys have been passed over when the publisher stands at
    /// `place`.
    pub(crate) fn reached(&self, place: Place) -> Place {
        self.state().reached.filter(|reached| !place.covers(reached)).unwrap_or(place)
    }

    /// Calls of the second lane that the database knows of.
    pub(crate) fn calls(&self) -> i64 {
        self.state().calls
    }

    /// What is being written down speaks of that many.
    pub(crate) fn count(&self, calls: i64) {
        self.state().calls = calls;
    }

    pub(crate) fn key(&self, key: &str) -> Option<ParkedKey> {
        self.state().keys.get(key).map(|key| key.parked.clone())
    }

    pub(crate) fn has_keys(&self) -> bool {
        !self.state().keys.is_empty()
    }

    pub(crate) fn has_message(&self, position: Position, id: MessageId) -> bool {
        self.state().messages.contains_key(&(position, id))
    }

    /// Enters a key, or its new place and attempts, and the destination that it waits for.
    pub(crate) fn park_key(&self, parked: ParkedKey, waits_for: Option<&str>) {
        let (due, waits_for) = (due(parked.retry_in), waits_for.map(str::to_owned));
        self.state().keys.insert(parked.key.clone(), Key { parked, due, waits_for });
        self.changed.notify_one();
    }

    /// A destination did not take a message: how long what waits for it waits.
    pub(crate) fn broken(&self, destination: &str, backoff: Backoff, random: f64) -> Duration {
        let now = Instant::now();
        let mut state = self.state();
        if state.broken.len() >= BROKEN_MAX {
            state.broken.retain(|_, broken| broken.until > now);
        }
        let is_known = state.broken.contains_key(destination);
        if !is_known && state.broken.len() >= BROKEN_MAX {
            return backoff.delay(1, random);
        }
        let unknown = Broken { failures: 0, until: now };
        let broken = state.broken.entry(destination.to_owned()).or_insert(unknown);
        if broken.until <= now {
            broken.failures += 1;
            broken.until = now + backoff.delay(broken.failures, random);
        }
        broken.until - now
    }

    /// The destination that a key waited for, if any, has taken a message of it.
    pub(crate) fn recovered(&self, key: &str) {
        let mut state = self.state();
        let waited_for = state.keys.get_mut(key).and_then(|key| key.waits_for.take());
        if let Some(destination) = waited_for {
            state.broken.remove(&destination);
        }
    }

    pub(crate) fn unpark_key(&self, key: &str) {
        self.state().keys.remove(key);
    }

    /// Enters a message that was set aside, or its new attempts.
    pub(crate) fn set_aside(&self, failed: &FailedMessage) {
        self.state().messages.insert((failed.position, failed.id), Message::of(failed));
        self.changed.notify_one();
    }

    /// How much is set aside.
    pub(crate) fn counts(&self) -> Counts {
        let state = self.state();
        let waiting = state.messages.values().filter(|message| message.due.is_some()).count();
        Counts {
            keys: state.keys.len() as u64,
            messages: waiting as u64,
            dead_letters: (state.messages.len() - waiting) as u64,
        }
    }

    /// The messages of `batch` that are not set aside; `None` when none is.
    pub(crate) fn without_set_aside(&self, page: &Page, batch: &[u32]) -> Option<Vec<u32>> {
        let state = self.state();
        if state.keys.is_empty() && !state.are_ahead {
            return None;
        }
        let is_free = |index: &u32| {
            let message = page.get(*index as usize);
            let is_set_aside = state.messages.contains_key(&(message.position, message.id));
            !(state.are_ahead && is_set_aside)
                && message.key.is_none_or(|key| !state.keys.contains_key(key))
        };
        Some(batch.iter().copied().filter(is_free).collect())
    }

    /// Keys whose attempt is due, the longest due first. `place` is the publisher's: what it has
    /// not passed, because it began anew before it, has to wait for it.
    pub(crate) fn due_keys(&self, place: &Place) -> Vec<String> {
        let now = Instant::now();
        let state = self.state();
        let is_due = |key: &&Key| {
            state.due(key).is_some_and(|due| due <= now) && place.covers(&key.parked.place)
        };
        let mut keys: Vec<&Key> = state.keys.values().filter(is_due).collect();
        keys.sort_unstable_by_key(|key| (key.due, &key.parked.key));
        keys.into_iter().map(|key| key.parked.key.clone()).collect()
    }

    /// A key as it stands now, if its attempt is due.
    pub(crate) fn due_key(&self, key: &str) -> Option<ParkedKey> {
        let state = self.state();
        let key = state.keys.get(key)?;
        state.due(key).is_some_and(|due| due <= Instant::now()).then(|| key.parked.clone())
    }

    /// Whether a message's attempt is due.
    pub(crate) fn has_due_messages(&self, place: &Place) -> bool {
        let now = Instant::now();
        let is_due = |message: &Message| {
            message.due.is_some_and(|due| due <= now) && message.is_passed(place)
        };
        self.state().messages.values().any(is_due)
    }

    /// When the next attempt is due of what `place` has passed; and whether anything waits for
    /// the place.
    pub(crate) fn next_due(&self, place: &Place) -> (Option<Instant>, bool) {
        let state = self.state();
        let keys = state.keys.values();
        let keys = keys.map(|key| (state.due(key), place.covers(&key.parked.place)));
        let messages = state.messages.values();
        let messages = messages.map(|message| (message.due, message.is_passed(place)));
        let all = keys.chain(messages).filter_map(|(due, is_passed)| Some((due?, is_passed)));
        let (passed, ahead): (Vec<_>, Vec<_>) = all.partition(|(_, is_passed)| *is_passed);
        (passed.into_iter().map(|(due, _)| due).min(), !ahead.is_empty())
    }

    /// Whether nothing is set aside.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.state();
        state.keys.is_empty() && state.messages.is_empty()
    }

    /// Waits for a change.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// When a key's next attempt is due: not before its destination gets one.
    fn due(&self, key: &Key) -> Due {
        let broken = key.waits_for.as_ref().and_then(|name| self.broken.get(name));
        key.due.map(|due| broken.map_or(due, |broken| due.max(broken.until)))
    }
}

impl Message {
    fn of(failed: &FailedMessage) -> Self {
        Self { tick: failed.tick, position: failed.position, due: due(failed.retry_in) }
    }

    fn is_passed(&self, place: &Place) -> bool {
        is_passed(place, self.tick, self.position)
    }
}

/// Whether `place` has passed a position in the window that the tick `tick` closes.
pub(crate) fn is_passed(place: &Place, tick: i64, position: Position) -> bool {
    place.base.n >= tick
        || place.within.is_some_and(|at| at.head.n >= tick && at.position >= position)
}

fn due(retry_in: Option<Duration>) -> Due {
    retry_in.map(|wait| Instant::now() + wait)
}
