//! The fixed ring of slots in which the log, the ticks and the progress rows live.
//!
//! Number `n` lives in slot `(n / slot_size) % slots`: every number has a home, nothing is
//! created or attached at run time, and a slot whose numbers are all settled is truncated.

/// A ring's geometry; chosen when the schema is created and stored beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// Number of slots, at least 2.
    pub slots: i64,
    /// Numbers a slot takes before the next one begins, at least 1.
    pub slot_size: i64,
}

impl Ring {
    /// The slot that holds `n`.
    pub const fn slot_of(&self, n: i64) -> i64 {
        (n / self.slot_size) % self.slots
    }

    /// The stretch (counted from 0 over all laps) that holds `n`.
    pub const fn stretch_of(&self, n: i64) -> i64 {
        n / self.slot_size
    }

    /// First number of a stretch.
    pub const fn start_of(&self, stretch: i64) -> i64 {
        stretch * self.slot_size
    }

    /// Last number of a stretch.
    pub const fn end_of(&self, stretch: i64) -> i64 {
        (stretch + 1) * self.slot_size - 1
    }

    /// The slots, each once, that hold numbers in `low..=high`, in the order of their numbers.
    pub fn slots_between(&self, low: i64, high: i64) -> Vec<i64> {
        let (first, last) = (self.stretch_of(low.max(0)), self.stretch_of(high.max(0)));
        let count = (last - first + 1).clamp(0, self.slots);
        (first..first + count).map(|stretch| stretch % self.slots).collect()
    }

    /// The newest stretch that lives in `slot` while the last number handed out is `last`;
    /// `None` when the slot has not been reached yet.
    pub const fn newest_stretch_in(&self, slot: i64, last: i64) -> Option<i64> {
        let head = self.stretch_of(last);
        let back = (head - slot).rem_euclid(self.slots);
        if back > head { None } else { Some(head - back) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RING: Ring = Ring { slots: 4, slot_size: 10 };

    #[test]
    fn every_number_has_a_home_and_laps_share_it() {
        assert_eq!([0, 9, 10, 39, 40, 45].map(|n| RING.slot_of(n)), [0, 0, 1, 3, 0, 0]);
        assert_eq!((RING.start_of(4), RING.end_of(4)), (40, 49));
    }

    #[test]
    fn slots_between_follow_the_numbers_and_never_repeat() {
        assert_eq!(RING.slots_between(5, 25), [0, 1, 2]);
        assert_eq!(RING.slots_between(35, 45), [3, 0]);
        assert_eq!(RING.slots_between(5, 500), [0, 1, 2, 3]);
        assert_eq!(RING.slots_between(12, 12), [1]);
    }

    #[test]
    fn newest_stretch_is_found_across_laps() {
        assert_eq!(RING.newest_stretch_in(0, 45), Some(4));
        assert_eq!(RING.newest_stretch_in(1, 45), Some(1));
        assert_eq!(RING.newest_stretch_in(3, 45), Some(3));
        assert_eq!(RING.newest_stretch_in(3, 25), None);
    }
}
