//! What a subscription has set aside, in memory: the publisher skips it, the retry lane works on
//! it. Bounded by the limits of the failure policy.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use posthaste_core::{MessageId, Page, Place, Position};
use posthaste_store::{AsideState, FailedMessage, ParkedKey};
use tokio::{sync::Notify, time::Instant};

use crate::monitor::Counts;

/// Shared by the publisher and the retry lane of one run of a pipeline.
#[derive(Default)]
pub(crate) struct Parked {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    keys: HashMap<String, Key>,
    messages: HashMap<MessageId, Message>,
    /// Whether the publisher may still meet one of the messages: they were set aside by an
    /// earlier run, whose place had not passed them when it ended.
    are_ahead: bool,
}

/// A parked key and when its next attempt is due.
struct Key {
    parked: ParkedKey,
    due: Due,
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
        state.keys.clear();
        state.messages.clear();
        for parked in aside.keys {
            let due = due(parked.retry_in);
            state.keys.insert(parked.key.clone(), Key { parked, due });
        }
        for failed in aside.messages {
            state.messages.insert(failed.id, Message::of(&failed));
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Enters a key, or its new place and attempts.
    pub(crate) fn park_key(&self, parked: ParkedKey) {
        let due = due(parked.retry_in);
        self.state().keys.insert(parked.key.clone(), Key { parked, due });
        self.changed.notify_one();
    }

    pub(crate) fn unpark_key(&self, key: &str) {
        self.state().keys.remove(key);
    }

    /// Enters a message that was set aside, or its new attempts.
    pub(crate) fn set_aside(&self, failed: &FailedMessage) {
        self.state().messages.insert(failed.id, Message::of(failed));
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
            !(state.are_ahead && state.messages.contains_key(&message.id))
                && message.key.is_none_or(|key| !state.keys.contains_key(key))
        };
        Some(batch.iter().copied().filter(is_free).collect())
    }

    /// Keys whose attempt is due, the longest due first. `place` is the publisher's: what it has
    /// not passed, because it began anew before it, has to wait for it.
    pub(crate) fn due_keys(&self, place: &Place) -> Vec<ParkedKey> {
        let now = Instant::now();
        let state = self.state();
        let is_due =
            |key: &&Key| key.due.is_some_and(|due| due <= now) && place.covers(&key.parked.place);
        let mut keys: Vec<&Key> = state.keys.values().filter(is_due).collect();
        keys.sort_unstable_by_key(|key| (key.due, &key.parked.key));
        keys.into_iter().map(|key| key.parked.clone()).collect()
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
        let keys = keys.map(|key| (key.due, place.covers(&key.parked.place)));
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
