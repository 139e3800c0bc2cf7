//! One fill for repeats that come at once: those of a process do not write the same answer each.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// Fills that are remembered. One that is not costs a write.
const DONE_MAX: usize = 256;

/// The fills of one process.
#[derive(Default)]
pub(super) struct Fills {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Names of answers that somebody is writing.
    under_way: HashSet<String>,
    /// Names of the answers written last, and when.
    done: VecDeque<(String, Instant)>,
}

/// The right to write an answer; dropping it gives it back.
pub(super) struct Fill<'a> {
    fills: &'a Fills,
    name: &'a str,
}

impl Fills {
    /// Lets one write the answer, unless it was written since the caller began its request.
    pub(super) fn begin<'a>(&'a self, name: &'a str, since: Instant) -> Option<Fill<'a>> {
        let mut state = self.state();
        let is_done = state.done.iter().any(|(done, at)| done == name && *at >= since);
        if is_done || !state.under_way.insert(name.to_owned()) {
            return None;
        }
        Some(Fill { fills: self, name })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fill<'_> {
    /// The answer stands in Redis.
    pub(super) fn done(self) {
        let mut state = self.fills.state();
        if state.done.len() == DONE_MAX {
            state.done.pop_front();
        }
        state.done.push_back((self.name.to_owned(), Instant::now()));
    }
}

impl Drop for Fill<'_> {
    fn drop(&mut self) {
        self.fills.state().under_way.remove(self.name);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_of_those_that_come_at_once_fills() {
        let fills = Fills::default();
        let since = Instant::now();
        let first = fills.begin("a", since).unwrap();
        assert!(fills.begin("a", since).is_none(), "under way");
        assert!(fills.begin("b", since).is_some(), "another answer");
        first.done();
        assert!(fills.begin("a", since).is_none(), "written since");
        let later = Instant::now() + Duration::from_secs(1);
        assert!(fills.begin("a", later).is_some(), "a request of later");
    }

    #[test]
    fn fill_that_failed_or_was_dropped_is_made_up_for() {
        let fills = Fills::default();
        let since = Instant::now();
        drop(fills.begin("a", since));
        assert!(fills.begin("a", since).is_some());
    }

    #[test]
    fn memory_is_bounded() {
        let fills = Fills::default();
        let since = Instant::now();
        for n in 0..=DONE_MAX {
            fills.begin(&n.to_string(), since).unwrap().done();
        }
        assert_eq!(fills.state().done.len(), DONE_MAX);
        assert!(fills.state().under_way.is_empty());
        assert!(fills.begin("0", since).is_some());
    }
}
