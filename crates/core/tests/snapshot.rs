//! Snapshots: text form and visibility.

use posthaste_core::Snapshot;
use proptest::{collection::btree_set, prelude::*};

fn parts() -> impl Strategy<Value = (u64, u64, Vec<u64>)> {
    (1..1_000_u64, 0..100_u64).prop_flat_map(|(xmin, width)| {
        let count = 0..=width.min(20) as usize;
        let xip = btree_set(xmin..xmin + width.max(1), count);
        let inside = move |xip: &std::collections::BTreeSet<u64>| width > 0 || xip.is_empty();
        xip.prop_filter("inside", inside)
            .prop_map(move |xip| (xmin, xmin + width, xip.into_iter().collect()))
    })
}

proptest! {
    #[test]
    fn text_round_trips_whatever_the_order_of_xip((xmin, xmax, xip) in parts()) {
        let snapshot = Snapshot::new(xmin, xmax, xip.clone()).unwrap();
        let shuffled = Snapshot::new(xmin, xmax, xip.iter().rev().copied().collect()).unwrap();
        prop_assert_eq!(&snapshot, &shuffled);
        prop_assert_eq!(snapshot.to_string().parse::<Snapshot>().unwrap(), snapshot);
    }

    #[test]
    fn transaction_is_shown_unless_it_is_listed_or_not_below_xmax((xmin, xmax, xip) in parts()) {
        let snapshot = Snapshot::new(xmin, xmax, xip.clone()).unwrap();
        for xid in 1..xmax + 3 {
            let expected = xid < xmax && !xip.contains(&xid);
            prop_assert_eq!(snapshot.shows(xid), expected, "{}", xid);
        }
    }

    #[test]
    fn late_part_is_what_is_listed_first_and_shown_later(
        (xmin, xmax, xip) in parts(),
        (later_min, later_max, later_xip) in parts(),
    ) {
        let base = Snapshot::new(xmin, xmax, xip).unwrap();
        let head = Snapshot::new(later_min, later_max, later_xip).unwrap();
        let naive: Vec<u64> =
            (1..2_000).filter(|x| base.xip().contains(x) && head.shows(*x)).collect();
        prop_assert_eq!(base.late_at(&head), naive);
    }

    #[test]
    fn any_text_is_parsed_or_refused_and_never_panics(text in "[0-9:,a-z ]{0,30}") {
        if let Ok(snapshot) = text.parse::<Snapshot>() {
            prop_assert!(snapshot.xmin() >= 1 && snapshot.xmin() <= snapshot.xmax());
            prop_assert_eq!(snapshot.to_string().parse::<Snapshot>().unwrap(), snapshot);
        }
    }
}
