//! Ring arithmetic against plain enumeration.

use std::collections::BTreeSet;

use posthaste_core::Ring;
use proptest::prelude::*;

fn ring() -> impl Strategy<Value = Ring> {
    (2..9_i64, 1..40_i64).prop_map(|(slots, slot_size)| Ring { slots, slot_size })
}

proptest! {
    #[test]
    fn every_number_lies_in_exactly_one_slot_and_stretch(ring in ring(), n in 0..5_000_i64) {
        let stretch = ring.stretch_of(n);
        prop_assert!((ring.start_of(stretch)..=ring.end_of(stretch)).contains(&n));
        prop_assert_eq!(ring.end_of(stretch) + 1, ring.start_of(stretch + 1));
        let homes: Vec<i64> = (0..ring.slots)
            .filter(|slot| (n / ring.slot_size) % ring.slots == *slot)
            .collect();
        prop_assert_eq!(homes, [ring.slot_of(n)]);
    }

    #[test]
    fn slots_between_are_the_slots_of_the_numbers_and_no_others(
        ring in ring(), low in -5..600_i64, width in -3..600_i64,
    ) {
        let high = low + width;
        let slots = ring.slots_between(low, high);
        let distinct: BTreeSet<i64> = slots.iter().copied().collect();
        prop_assert_eq!(distinct.len(), slots.len(), "a slot is repeated");
        let naive: BTreeSet<i64> = (low.max(0)..=high).map(|n| ring.slot_of(n)).collect();
        if high >= low.max(0) {
            prop_assert_eq!(distinct, naive);
            prop_assert_eq!(slots.first().copied(), Some(ring.slot_of(low.max(0))));
        } else {
            prop_assert!(slots.len() <= 1, "an empty range needs no slot, or that of its end");
        }
    }

    #[test]
    fn newest_stretch_of_a_slot_is_the_last_that_was_reached(
        ring in ring(), last in 0..3_000_i64,
    ) {
        for slot in 0..ring.slots {
            let naive = (0..=last)
                .filter(|n| ring.slot_of(*n) == slot)
                .map(|n| ring.stretch_of(n))
                .max();
            prop_assert_eq!(ring.newest_stretch_in(slot, last), naive);
        }
    }
}
