//! What becomes of the messages that a sink did not accept: what is set aside, and what stays
//! pending. Pure; `publisher` and `retries` write and publish accordingly.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use posthaste_core::{MessageRef, Page, Place, TickRef, Verdict};
use posthaste_store::{Aside, FailedMessage, ParkedKey};

use crate::{
    monitor::Counts,
    policy::{Fault, Unaccepted},
    settings::{AtLimit, FailureSettings},
};

/// What a batch leaves behind.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Ruling {
    /// What is set aside. To be written before the place passes any of it.
    pub(crate) changes: Vec<Aside>,
    /// For which destination a parked key waits.
    pub(crate) waits: HashMap<String, String>,
    /// Numbers of the messages to publish again, in order.
    pub(crate) pending: Vec<u32>,
    /// Which limit keeps a message from being set aside.
    pub(crate) limit: Option<&'static str>,
}

/// Rules on the unaccepted messages of `batch`, in their order. `start` is the place before its
/// page, `head` the tick that closes the window; `wait` is how long a destination gets to recover.
///
/// ORDERED: what follows a message that stays pending, with the same key, stays pending as well;
/// what follows a parked one waits in the log. Where a sink took a message behind a rejected one
/// of its key (a key with several destinations, of which one refuses), the rejected one is set
/// aside alone: its key has moved on, and must not be published twice.
pub(crate) fn rule(
    mut room: Room<'_>,
    page: &Page,
    batch: &[u32],
    unaccepted: &[Unaccepted],
    at: (Place, TickRef),
    mut wait: impl FnMut(&str) -> Duration,
    mut random: impl FnMut() -> f64,
) -> Ruling {
    let mut ruling = Ruling::default();
    let mut parked = HashSet::new();
    let mut pending = HashSet::new();
    let taken = taken_keys(page, batch, unaccepted);
    let has_moved_on = |message: &MessageRef<'_>, index: u32| {
        message.key.and_then(|key| taken.get(key)).is_some_and(|last| *last > index)
    };
    for unaccepted in unaccepted {
        let message = page.get(unaccepted.index as usize);
        if message.key.is_some_and(|key| parked.contains(key)) {
            continue;
        }
        let follows = message.key.is_some_and(|key| pending.contains(key));
        let is_alone = message.key.is_none() || has_moved_on(&message, unaccepted.index);
        // Only what is set aside takes room.
        let taken = match &unaccepted.fault {
            _ if follows => None,
            fault @ (Fault::Message | Fault::Hopeless) => {
                let verdict = room.settings.policy().judge(&message, fault.attempts(1), random());
                Some(room.take(if is_alone { alone(verdict) } else { verdict }))
            }
            Fault::Destination(name) => {
                let verdict = Verdict::ParkKey { retry_in: wait(name) };
                Some(room.hold(if is_alone { alone(verdict) } else { verdict }))
            }
            Fault::Key | Fault::Sink => None,
        };
        match taken {
            Some(Ok(verdict)) => {
                if ruling.set_aside(&message, unaccepted, verdict, at) {
                    parked.extend(message.key);
                }
            }
            not_taken => {
                ruling.limit = ruling.limit.or(not_taken.and_then(Result::err));
                ruling.pending.push(unaccepted.index);
                pending.extend(message.key);
            }
        }
    }
    ruling
}

impl Ruling {
    /// Notes what `verdict` sets aside; returns whether that is the key.
    fn set_aside(
        &mut self,
        message: &MessageRef<'_>,
        unaccepted: &Unaccepted,
        verdict: Verdict,
        (start, head): (Place, TickRef),
    ) -> bool {
        let (retry_in, parks_key, holds_key) = match verdict {
            Verdict::ParkKey { retry_in } => (Some(retry_in), true, false),
            Verdict::ParkMessage { retry_in } => (Some(retry_in), false, false),
            Verdict::DeadLetter { holds_key } => (None, holds_key, holds_key),
        };
        let attempts = u32::from(unaccepted.is_refusal());
        if !parks_key || holds_key {
            self.changes.push(Aside::Keep(FailedMessage {
                position: message.position,
                id: message.id,
                tick: head.n,
                attempts,
                reason: unaccepted.reason.clone(),
                retry_in,
                holds_key,
            }));
        }
        let Some(key) = message.key.filter(|_| parks_key) else { return false };
        if let Fault::Destination(name) = &unaccepted.fault {
            self.waits.insert(key.to_owned(), name.clone());
        }
        self.changes.push(Aside::ParkKey(ParkedKey {
            key: key.to_owned(),
            place: start.moved_to(head, message.position - 1, None),
            message: message.id,
            attempts,
            reason: unaccepted.reason.clone(),
            retry_in,
            parked_for: Duration::ZERO,
        }));
        true
    }
}

/// The verdict for a message whose key must not wait.
fn alone(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::ParkKey { retry_in } => Verdict::ParkMessage { retry_in },
        Verdict::DeadLetter { .. } => Verdict::DeadLetter { holds_key: false },
        verdict @ Verdict::ParkMessage { .. } => verdict,
    }
}

/// The last message of each key that the sink took.
fn taken_keys<'p>(
    page: &'p Page,
    batch: &[u32],
    unaccepted: &[Unaccepted],
) -> HashMap<&'p str, u32> {
    let left: HashSet<u32> = unaccepted.iter().map(|unaccepted| unaccepted.index).collect();
    let taken = batch.iter().filter(|index| !left.contains(index));
    taken.filter_map(|index| Some((page.get(*index as usize).key?, *index))).collect()
}

/// Counts what is set aside against the limits.
pub(crate) struct Room<'a> {
    pub(crate) settings: &'a FailureSettings,
    pub(crate) counts: Counts,
}

impl Room<'_> {
    /// Takes room for what a verdict sets aside, or says which limit is met. Beyond the limit of
    /// parked keys and messages a dead letter takes the place of the park, if the settings say so.
    pub(crate) fn take(&mut self, verdict: Verdict) -> Result<Verdict, &'static str> {
        let parks = !matches!(verdict, Verdict::DeadLetter { holds_key: false });
        let verdict = match verdict {
            _ if parks && self.is_full() && self.settings.at_limit == AtLimit::DeadLetter => {
                Verdict::DeadLetter { holds_key: false }
            }
            _ if parks && self.is_full() => return Err("parked_max"),
            verdict => verdict,
        };
        let is_dead = matches!(verdict, Verdict::DeadLetter { .. });
        if is_dead && self.counts.dead_letters >= self.settings.dead_letters_max {
            return Err("dead_letters_max");
        }
        self.count(verdict);
        Ok(verdict)
    }

    /// Takes room for what waits for a destination. Nothing becomes a dead letter by its fault.
    fn hold(&mut self, verdict: Verdict) -> Result<Verdict, &'static str> {
        if self.is_full() {
            return Err("parked_max");
        }
        self.count(verdict);
        Ok(verdict)
    }

    fn is_full(&self) -> bool {
        self.counts.keys + self.counts.messages >= self.settings.parked_max
    }

    fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::ParkKey { .. } => self.counts.keys += 1,
            Verdict::ParkMessage { .. } => self.counts.messages += 1,
            Verdict::DeadLetter { holds_key } => {
                self.counts.dead_letters += 1;
                self.counts.keys += u64::from(holds_key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use posthaste_core::{Headers, MessageId, OnRejection, Timestamp};

    use super::*;

    /// Messages of these keys at the positions 1, 2, 3 …
    fn page(keys: &[Option<&str>]) -> Page {
        let mut page = Page::new(keys.len() as i64);
        for (nth, key) in keys.iter().enumerate() {
            page.push(&MessageRef {
                id: MessageId::from_u128(nth as u128 + 1),
                position: nth as i64 + 1,
                enqueued_at: Timestamp(0),
                topic: "t",
                key: *key,
                content_type: "a/b",
                correlation_id: None,
                headers: Headers::default(),
                payload: b"p",
            });
        }
        page
    }

    fn refused(index: u32) -> Unaccepted {
        Unaccepted { index, fault: Fault::Message, reason: "no".to_owned() }
    }

    fn not_taken(index: u32) -> Unaccepted {
        Unaccepted { index, fault: Fault::Sink, reason: "away".to_owned() }
    }

    fn held(index: u32, destination: &str) -> Unaccepted {
        let fault = Fault::Destination(destination.to_owned());
        Unaccepted { index, fault, reason: "full".to_owned() }
    }

    fn settings(policy: OnRejection, attempts: u32) -> FailureSettings {
        FailureSettings { policy: policy.into(), attempts, ..FailureSettings::default() }
    }

    fn ruled(settings: &FailureSettings, keys: &[Option<&str>], given: &[Unaccepted]) -> Ruling {
        let at = (Place::beginning(), TickRef::BEGINNING);
        let batch: Vec<u32> = (0..keys.len() as u32).collect();
        let room = Room { settings, counts: Counts::default() };
        let wait = |name: &str| Duration::from_secs(name.len() as u64);
        rule(room, &page(keys), &batch, given, at, wait, || 1.0)
    }

    /// What was set aside, in short.
    fn shown(ruling: &Ruling) -> Vec<String> {
        let seconds = |wait: Option<Duration>| wait.map_or("never".into(), |w| format!("{w:?}"));
        let each = ruling.changes.iter().map(|change| match change {
            Aside::ParkKey(parked) => {
                let at = parked.place.within.unwrap().position;
                format!("key {} after {at} in {}", parked.key, seconds(parked.retry_in))
            }
            Aside::Keep(failed) => {
                let holds = if failed.holds_key { " holds" } else { "" };
                format!("message {} in {}{holds}", failed.position, seconds(failed.retry_in))
            }
            other => panic!("{other:?}"),
        });
        each.collect()
    }

    const A: Option<&str> = Some("a");
    const B: Option<&str> = Some("b");

    #[test]
    fn r13_parked_key_takes_its_followers_with_it_and_its_neighbours_go_on() {
        let given = [refused(1), refused(2), not_taken(3), not_taken(4)];
        let ruling = ruled(&settings(OnRejection::ParkKey, 5), &[A, A, A, B, None], &given);
        assert_eq!(shown(&ruling), ["key a after 1 in 1s"]);
        assert_eq!(ruling.pending, [3, 4]);
    }

    #[test]
    fn dead_letter_holds_its_key_under_park_key_alone() {
        let given = [refused(0), not_taken(1)];
        let ruling = ruled(&settings(OnRejection::ParkKey, 1), &[A, A], &given);
        assert_eq!(shown(&ruling), ["message 1 in never holds", "key a after 0 in never"]);
        assert!(ruling.pending.is_empty());
        let ruling = ruled(&settings(OnRejection::DeadLetter, 1), &[A, A], &given);
        assert_eq!(shown(&ruling), ["message 1 in never"]);
        assert_eq!(ruling.pending, [1]);
    }

    #[test]
    fn nothing_is_set_aside_behind_a_pending_message_of_its_key() {
        let given = [not_taken(0), refused(1), refused(2)];
        let ruling = ruled(&settings(OnRejection::ParkKey, 5), &[A, A, B], &given);
        assert_eq!(shown(&ruling), ["key b after 2 in 1s"]);
        assert_eq!(ruling.pending, [0, 1]);
    }

    #[test]
    fn message_whose_key_has_moved_on_is_set_aside_alone() {
        for (attempts, expected) in [(5, "message 1 in 1s"), (1, "message 1 in never")] {
            let settings = settings(OnRejection::ParkKey, attempts);
            let ruling = ruled(&settings, &[A, A], &[refused(0)]);
            assert_eq!(shown(&ruling), [expected]);
        }
    }

    #[test]
    fn keyless_message_waits_alone() {
        let ruling = ruled(&settings(OnRejection::ParkKey, 5), &[None, None], &[refused(0)]);
        assert_eq!(shown(&ruling), ["message 1 in 1s"]);
    }

    #[test]
    fn keys_of_a_destination_wait_for_it_and_burn_no_attempts() {
        let given = [held(0, "of-a"), held(1, "of-a"), held(3, "of-a")];
        let ruling = ruled(&settings(OnRejection::DeadLetter, 1), &[A, A, B, None], &given);
        assert_eq!(shown(&ruling), ["key a after 0 in 4s", "message 4 in 4s"]);
        assert!(ruling.pending.is_empty());
        assert!(ruling.waits.iter().eq([(&"a".to_owned(), &"of-a".to_owned())]));
        let [Aside::ParkKey(key), Aside::Keep(message)] = ruling.changes.as_slice() else {
            panic!("{ruling:?}")
        };
        assert_eq!((key.attempts, message.attempts), (0, 0));
    }

    #[test]
    fn nothing_dies_by_the_fault_of_its_destination() {
        let settings = FailureSettings {
            parked_max: 1,
            at_limit: AtLimit::DeadLetter,
            ..settings(OnRejection::ParkKey, 1)
        };
        let ruling = ruled(&settings, &[A, B], &[held(0, "d"), held(1, "d")]);
        assert_eq!(shown(&ruling), ["key a after 0 in 1s"]);
        assert_eq!((ruling.pending.as_slice(), ruling.limit), ([1].as_slice(), Some("parked_max")));
    }

    #[test]
    fn what_stays_pending_takes_no_room() {
        let given = [not_taken(0), refused(1), not_taken(2), refused(3)];
        let settings = FailureSettings { parked_max: 1, ..settings(OnRejection::ParkKey, 5) };
        let ruling = ruled(&settings, &[A, A, None, B], &given);
        assert_eq!(shown(&ruling), ["key b after 3 in 1s"]);
        assert_eq!((ruling.pending.as_slice(), ruling.limit), ([0, 1, 2].as_slice(), None));
    }

    #[test]
    fn r13_full_tables_keep_messages_pending_instead_of_dropping_them() {
        let keys = [A, B, None];
        let given = [refused(0), refused(1), refused(2)];
        let parking = FailureSettings { parked_max: 2, ..settings(OnRejection::ParkKey, 5) };
        let ruling = ruled(&parking, &keys, &given);
        assert_eq!((ruling.changes.len(), ruling.pending.as_slice()), (2, [2].as_slice()));
        assert_eq!(ruling.limit, Some("parked_max"));

        let burying = FailureSettings { at_limit: AtLimit::DeadLetter, ..parking };
        let ruling = ruled(&burying, &keys, &given);
        assert_eq!(shown(&ruling)[2], "message 3 in never");
        assert_eq!((ruling.pending.len(), ruling.limit), (0, None));

        let dead = FailureSettings { dead_letters_max: 1, ..settings(OnRejection::DeadLetter, 1) };
        let ruling = ruled(&dead, &keys, &given);
        assert_eq!((ruling.changes.len(), ruling.pending.as_slice()), (1, [1, 2].as_slice()));
        assert_eq!(ruling.limit, Some("dead_letters_max"));
    }
}
