//! For how long something is wrong, and who knows: the decisions, without clock and database.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use posthaste_store::IncidentKey;

use super::signs::{Condition, Sign};

/// All that is wrong, or was a moment ago.
#[derive(Debug)]
pub(super) struct Watch {
    cases: BTreeMap<IncidentKey, Case>,
    recovered_after: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    condition: Condition,
    since: Instant,
    /// When it was wrong last.
    seen: Instant,
    is_told: bool,
    /// The database has it: who was to tell of it may have died between the post and the note.
    is_open: bool,
}

impl Case {
    /// Its end may have to be told.
    const fn may_be_known(&self) -> bool {
        self.is_told || self.is_open
    }
}

/// Whether a process has said that an incident holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Within its last looks.
    Lately,
    /// Not any more, or never.
    No,
}

/// What is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It has been so for long enough.
    Begun(Sign),
    /// It has not been so for long enough. How long it was, if this process has seen its beginning.
    Over(IncidentKey, Condition),
}

impl Watch {
    pub(super) fn new(recovered_after: Duration) -> Self {
        Self { cases: BTreeMap::new(), recovered_after }
    }

    /// Those that the database has, and whether people know of them: told by whomever, before whatever restart. What a
    /// process has seen a moment ago is not over, whatever this one sees.
    pub(super) fn known<'a>(
        &mut self,
        now: Instant,
        known: impl Iterator<Item = (&'a IncidentKey, bool, Seen)>,
    ) {
        for case in self.cases.values_mut().filter(|case| case.condition != Condition::Database) {
            (case.is_told, case.is_open) = (false, false);
        }
        for (key, is_told, seen) in known {
            let of = |condition: &Condition| condition.word() == key.condition;
            // Of a newer version's conditions its own processes tell.
            let Some(condition) = Condition::ALL.into_iter().find(of) else { continue };
            let fresh = Case { condition, since: now, seen: now, is_told, is_open: true };
            let case = self.cases.entry(key.clone()).or_insert(fresh);
            (case.is_told, case.is_open) = (is_told, true);
            if seen == Seen::Lately {
                case.seen = now;
            }
        }
    }

    /// What is to be told, where `signs` is all that is wrong `now`, and `shows` says of what that is certain. It is told
    /// again until [`Watch::told`].
    pub(super) fn look(
        &mut self,
        now: Instant,
        signs: Vec<Sign>,
        shows: impl Fn(Condition, &str) -> bool,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for (key, case) in &mut self.cases {
            if case.may_be_known() && !shows(case.condition, &key.subject) {
                case.seen = now;
            }
        }
        for sign in signs {
            let condition = sign.condition;
            let fresh = Case { condition, since: now, seen: now, is_told: false, is_open: false };
            let case = self.cases.entry(sign.key()).or_insert(fresh);
            case.seen = now;
            if !case.is_told && now.duration_since(case.since) >= sign.after {
                changes.push(Change::Begun(sign));
            }
        }
        self.cases.retain(|_, case| case.seen == now || case.may_be_known());
        let is_over = |case: &Case| now.duration_since(case.seen) >= self.recovered_after;
        let over = self.cases.iter().filter(|(_, case)| case.seen != now && is_over(case));
        changes.extend(over.map(|(key, case)| Change::Over(key.clone(), case.condition)));
        changes
    }

    /// People know.
    pub(super) fn told(&mut self, key: &IncidentKey, is_over: bool) {
        if is_over {
            self.cases.remove(key);
        } else if let Some(case) = self.cases.get_mut(key) {
            case.is_told = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn sign(after: Duration) -> Sign {
        let (subject, text) = ("mail".to_owned(), "it is so".to_owned());
        Sign { condition: Condition::Stalled, subject, text, after }
    }

    #[test]
    fn incident_is_told_once_it_lasts_and_its_end_once_it_stays_away() {
        let (start, mut watch) = (Instant::now(), Watch::new(MINUTE));
        let at = |minutes: u32| start + MINUTE * minutes;
        let mut look = |minutes, is_so: bool| {
            let signs = if is_so { vec![sign(MINUTE * 2)] } else { Vec::new() };
            let changes = watch.look(at(minutes), signs, |_, _| true);
            for change in &changes {
                match change {
                    Change::Begun(sign) => watch.told(&sign.key(), false),
                    Change::Over(key, _) => watch.told(key, true),
                }
            }
            changes
        };
        assert_eq!(look(0, true), []);
        assert_eq!(look(1, false), [], "it was not for long");
        assert_eq!(look(2, true), []);
        assert_eq!(look(3, true), []);
        assert_eq!(look(4, true), [Change::Begun(sign(MINUTE * 2))]);
        assert_eq!(look(5, true), [], "once");
        assert_eq!(look(5, false), []);
        assert_eq!(look(5, true), [], "it is the same one");
        let over = [Change::Over(sign(MINUTE).key(), Condition::Stalled)];
        assert_eq!(look(6, false), over);
        assert_eq!(look(9, false), [], "once");
    }

    #[test]
    fn what_could_not_be_told_is_told_by_the_next_look() {
        let (now, mut watch) = (Instant::now(), Watch::new(MINUTE));
        for _ in 0..2 {
            assert_eq!(watch.look(now, vec![sign(Duration::ZERO)], |_, _| true).len(), 1);
        }
    }

    #[test]
    fn end_of_what_its_teller_may_have_died_over_is_told() {
        let (now, mut watch) = (Instant::now(), Watch::new(MINUTE));
        let key = sign(MINUTE).key();
        let over = [Change::Over(key.clone(), Condition::Stalled)];
        watch.known(now, [(&key, false, Seen::No)].into_iter());
        assert_eq!(watch.look(now, Vec::new(), |_, _| true), []);
        watch.known(now + MINUTE, [(&key, false, Seen::No)].into_iter());
        assert_eq!(watch.look(now + MINUTE, Vec::new(), |_, _| true), over);
        // Whose turn it was has told it meanwhile, or nobody needs to.
        watch.known(now + MINUTE * 2, [].into_iter());
        assert_eq!(watch.look(now + MINUTE * 2, Vec::new(), |_, _| true), []);
        // As long as it is so, it is to be told.
        watch.known(now, [(&key, false, Seen::No)].into_iter());
        assert_eq!(watch.look(now, vec![sign(Duration::ZERO)], |_, _| true).len(), 1);
    }

    #[test]
    fn what_another_process_has_told_is_not_told_again_and_its_end_is() {
        let (now, mut watch) = (Instant::now(), Watch::new(MINUTE));
        let key = sign(MINUTE).key();
        watch.known(now, [(&key, true, Seen::No)].into_iter());
        assert_eq!(watch.look(now, vec![sign(Duration::ZERO)], |_, _| true), []);
        let over = [Change::Over(key.clone(), Condition::Stalled)];
        assert_eq!(watch.look(now + MINUTE, Vec::new(), |_, _| true), over);
        // Told by another process meanwhile.
        watch.known(now + MINUTE, [].into_iter());
        assert_eq!(watch.look(now + MINUTE * 2, Vec::new(), |_, _| true), []);
        let strange = IncidentKey { condition: "newer".to_owned(), ..key };
        watch.known(now, [(&strange, true, Seen::No)].into_iter());
        assert_eq!(watch.look(now + MINUTE * 9, Vec::new(), |_, _| true), []);
    }

    #[test]
    fn what_is_well_here_and_not_in_another_process_is_not_over() {
        let (now, mut watch) = (Instant::now(), Watch::new(MINUTE));
        let key = IncidentKey { condition: "worker".to_owned(), subject: "mail".to_owned() };
        let mut look = |minutes: u32, seen| {
            let now = now + MINUTE * minutes;
            watch.known(now, [(&key, true, seen)].into_iter());
            watch.look(now, Vec::new(), |_, _| true)
        };
        for minutes in 0..9 {
            assert_eq!(look(minutes, Seen::Lately), []);
        }
        // The other process is well again, or gone.
        assert_eq!(look(9, Seen::No), [Change::Over(key.clone(), Condition::Worker)]);
    }

    #[test]
    fn end_is_told_by_who_can_see_it() {
        let (now, mut watch) = (Instant::now(), Watch::new(MINUTE));
        let key = sign(MINUTE).key();
        watch.known(now, [(&key, true, Seen::No)].into_iter());
        let mut look =
            |minutes: u32, shows| watch.look(now + MINUTE * minutes, Vec::new(), |_, _| shows);
        assert_eq!(look(1, false), []);
        assert_eq!(look(9, false), []);
        assert_eq!(look(9, true), [], "nobody knows since when");
        assert_eq!(look(10, true), [Change::Over(key, Condition::Stalled)]);
    }
}
