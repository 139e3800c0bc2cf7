//! Messages of one key follow each other in the order in which they were taken.

use std::collections::{HashMap, VecDeque};

/// Who waits for whom, by key.
#[derive(Debug)]
pub(crate) struct Lanes<T> {
    lanes: HashMap<String, VecDeque<T>>,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { lanes: HashMap::new() }
    }
}

impl<T> Lanes<T> {
    /// Answers `item` where nothing of its key is in hand; else it waits for its turn.
    pub(crate) fn enter(&mut self, key: Option<&str>, item: T) -> Option<T> {
        let Some(key) = key else { return Some(item) };
        if let Some(waiting) = self.lanes.get_mut(key) {
            waiting.push_back(item);
            return None;
        }
        self.lanes.insert(key.to_owned(), VecDeque::new());
        Some(item)
    }

    /// How many wait behind the one of the key that is in hand.
    pub(crate) fn waiting(&self, key: Option<&str>) -> usize {
        key.and_then(|key| self.lanes.get(key)).map_or(0, VecDeque::len)
    }

    /// The one of the key that was in hand is over: the next, if one waits.
    pub(crate) fn leave(&mut self, key: Option<&str>) -> Option<T> {
        let waiting = self.lanes.get_mut(key?)?;
        let next = waiting.pop_front();
        if next.is_none() {
            self.lanes.remove(key?);
        }
        next
    }

    /// All that wait; those in hand leave nothing behind.
    pub(crate) fn clear(&mut self) -> Vec<T> {
        let drained = self.lanes.values_mut().flat_map(std::mem::take).collect();
        self.lanes.clear();
        drained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_take_turns_and_leave_nothing_behind() {
        let mut lanes = Lanes::default();
        assert_eq!(lanes.enter(None, 0), Some(0));
        assert_eq!(lanes.enter(Some("a"), 1), Some(1));
        assert_eq!(lanes.enter(Some("a"), 2), None);
        assert_eq!(lanes.enter(Some("b"), 3), Some(3));
        assert_eq!(lanes.enter(Some("a"), 4), None);
        assert_eq!(["a", "b", "c"].map(|key| lanes.waiting(Some(key))), [2, 0, 0]);
        assert_eq!(lanes.leave(None), None);
        assert_eq!((lanes.leave(Some("b")), lanes.leave(Some("a"))), (None, Some(2)));
        assert_eq!((lanes.leave(Some("a")), lanes.leave(Some("a"))), (Some(4), None));
        assert!(lanes.lanes.is_empty());
        lanes.enter(Some("a"), 5);
        lanes.enter(Some("a"), 6);
        assert_eq!(lanes.clear(), [6]);
        assert_eq!(lanes.enter(Some("a"), 7), Some(7));
    }
}
