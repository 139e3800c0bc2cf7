//! Places move forward only, and back-offs keep their bounds.

use std::time::Duration;

use posthaste_core::{Backoff, Place, TickRef};
use proptest::{collection::vec, prelude::*};
use uuid::Uuid;

/// A window: ticks that it spans, and the steps of positions inside it.
type Read = (i64, Vec<(i64, bool)>);

/// Every place that a subscription passes through.
fn places(reads: &[Read]) -> Vec<Place> {
    let mut place = Place::beginning();
    let mut all = vec![place];
    for (ticks, steps) in reads {
        let n = place.base.n + ticks;
        let head = TickRef { n, id: Uuid::from_u128(n as u128) };
        let mut position = 0;
        for (step, has_message) in steps {
            position += step;
            let message = has_message.then(|| Uuid::from_u128(position as u128));
            place = place.moved_to(head, position, message);
            all.push(place);
        }
        place = place.finished(head);
        all.push(place);
    }
    all
}

proptest! {
    #[test]
    fn later_place_covers_every_earlier_one_and_not_the_other_way(
        reads in vec((1..4_i64, vec((1..100_i64, any::<bool>()), 0..6)), 0..6),
    ) {
        let all = places(&reads);
        for (earlier, pair) in all.iter().enumerate() {
            prop_assert!(pair.covers(pair));
            for later in &all[earlier + 1..] {
                prop_assert!(later.covers(pair) && !pair.covers(later), "{pair:?} {later:?}");
            }
        }
    }

    #[test]
    fn place_keeps_the_last_message_until_there_is_another(
        steps in vec((1..100_i64, any::<bool>()), 1..12),
    ) {
        let all = places(&[(1, steps.clone())]);
        let mut position = 0;
        let mut last = None;
        for ((step, has_message), place) in steps.iter().zip(&all[1..]) {
            position += step;
            if *has_message {
                last = Some(Uuid::from_u128(position as u128));
            }
            prop_assert_eq!(place.message, last);
        }
        prop_assert_eq!(all.last().and_then(|place| place.message), last);
    }

    #[test]
    fn delay_lies_between_a_tenth_of_its_ceiling_and_the_cap(
        initial in 1..60_000_u64, cap in 1..3_600_000_u64, attempt: u32, random in -1.0..2.0_f64,
    ) {
        let backoff = Backoff {
            initial: Duration::from_millis(initial),
            cap: Duration::from_millis(cap),
        };
        let delay = backoff.delay(attempt, random);
        let ceiling = backoff.delay(attempt, 1.0);
        prop_assert!(delay <= ceiling && ceiling <= backoff.cap);
        prop_assert!(delay >= ceiling.mul_f64(0.1));
        prop_assert!(backoff.delay(attempt.saturating_add(1), 1.0) >= ceiling);
        prop_assert!(ceiling >= backoff.initial.min(backoff.cap));
    }
}
