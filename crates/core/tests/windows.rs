//! Windows partition what was committed, and keep the order in which writers could know of each
//! other (COMPLETE, ORDERED).

use posthaste_core::{Tick, Window, window::main_xids};
use proptest::prelude::*;

use crate::{
    model::{Database, Row},
    schedule::{Op, apply, codes, objections, op, tick, turn, window},
};

/// Which messages a reader takes for a window.
type Rule = fn(&Window, &Row<()>) -> bool;

/// The schedule between two ticks, and whether the reader merges that tick with the next.
type Stretch = (Vec<Op>, bool);

/// The ticks that the reader stops at, each with the number of commits it really shows.
struct History {
    rows: Vec<Row<()>>,
    stops: Vec<(Tick, usize)>,
}

fn stretches() -> impl Strategy<Value = Vec<Stretch>> {
    codes(1..150).prop_map(|codes| {
        let mut stretches = vec![(Vec::new(), false)];
        for code in codes {
            let last = stretches.len() - 1;
            match turn(code) {
                0 => stretches.push((Vec::new(), false)),
                1 => stretches.push((Vec::new(), true)),
                _ => stretches[last].0.push(op(code)),
            }
        }
        stretches
    })
}

/// Runs the schedule; the last tick comes after everything has ended.
fn run(stretches: &[Stretch]) -> History {
    let mut database = Database::new(100);
    let mut stops = vec![(Tick::beginning(), 0)];
    for (nth, (ops, is_merged)) in stretches.iter().enumerate() {
        for op in ops {
            apply(&mut database, *op);
        }
        let tick = tick(&mut database, nth as i64 + 1);
        if !is_merged {
            stops.push((tick, database.rows().len()));
        }
    }
    while let Some(handle) = { database.open().next() } {
        database.commit(handle);
    }
    stops.push((tick(&mut database, stretches.len() as i64 + 1), database.rows().len()));
    History { rows: database.rows().to_vec(), stops }
}

/// What `rule` reads, window after window and in position order inside each.
fn deliveries(history: &History, rule: Rule) -> Vec<(usize, Row<()>)> {
    let mut delivered = Vec::new();
    for (nth, pair) in history.stops.windows(2).enumerate() {
        let window = window(&pair[0].0, &pair[1].0, &history.rows);
        let mut rows: Vec<_> = history.rows.iter().filter(|row| rule(&window, row)).collect();
        rows.sort_by_key(|row| row.position);
        delivered.extend(rows.into_iter().map(|row| (nth, row.clone())));
    }
    delivered
}

/// Every commit between two stops is in exactly that window.
fn partitions(stretches: &[Stretch], rule: Rule) -> Result<(), TestCaseError> {
    let history = run(stretches);
    let mut delivered = deliveries(&history, rule);
    delivered.sort_by_key(|(nth, row)| (*nth, row.position));
    let mut expected = Vec::new();
    for (nth, pair) in history.stops.windows(2).enumerate() {
        let mut rows = history.rows[pair[0].1..pair[1].1].to_vec();
        rows.sort_by_key(|row| row.position);
        expected.extend(rows.into_iter().map(|row| (nth, row)));
    }
    prop_assert_eq!(delivered, expected);
    Ok(())
}

/// A message that had committed when another's position was taken is delivered before it.
fn keeps_order(delivered: &[(usize, Row<()>)]) -> Result<(), TestCaseError> {
    let mut latest_taken = 0;
    for (_, row) in delivered {
        prop_assert!(
            row.committed_at >= latest_taken,
            "position {} comes behind a message written after its commit",
            row.position
        );
        latest_taken = latest_taken.max(row.taken_at);
    }
    Ok(())
}

fn by_definition(window: &Window, row: &Row<()>) -> bool {
    window.contains(row.xid)
}

/// As the store's queries read: main range and visible, or late.
fn by_parts(window: &Window, row: &Row<()>) -> bool {
    by_main(window, row) || window.late.contains(&row.xid)
}

/// The main part alone.
fn by_main(window: &Window, row: &Row<()>) -> bool {
    let (base, head) = (&window.base.snapshot, &window.head.snapshot);
    main_xids(base, head).contains(&row.xid) && head.shows(row.xid)
}

/// Everything below the newest id, whether or not it is visible.
fn by_xid_watermark(window: &Window, row: &Row<()>) -> bool {
    (window.base.snapshot.xmax()..window.head.snapshot.xmax()).contains(&row.xid)
}

/// Everything below the oldest running transaction.
fn by_oldest_running(window: &Window, row: &Row<()>) -> bool {
    (window.base.snapshot.xmin()..window.head.snapshot.xmin()).contains(&row.xid)
}

proptest! {
    #[test]
    fn windows_partition_the_committed_messages(stretches in stretches()) {
        partitions(&stretches, by_definition)?;
        partitions(&stretches, by_parts)?;
    }

    #[test]
    fn message_committed_before_another_was_written_is_delivered_first(stretches in stretches()) {
        let history = run(&stretches);
        keeps_order(&deliveries(&history, by_parts))?;
    }

    #[test]
    fn window_is_empty_exactly_when_no_message_is_in_it(stretches in stretches()) {
        let history = run(&stretches);
        for pair in history.stops.windows(2) {
            let window = window(&pair[0].0, &pair[1].0, &history.rows);
            prop_assert_eq!(window.is_empty(), pair[0].1 == pair[1].1);
        }
    }
}

#[test]
fn checker_catches_windows_without_their_late_part() {
    assert!(objections(&stretches(), 100, |s| partitions(&s, by_main)) > 10);
}

#[test]
fn checker_catches_reading_by_a_transaction_id_watermark() {
    assert!(objections(&stretches(), 100, |s| partitions(&s, by_xid_watermark)) > 10);
}

#[test]
fn checker_catches_reading_below_the_oldest_running_transaction() {
    assert!(objections(&stretches(), 100, |s| partitions(&s, by_oldest_running)) > 10);
}

#[test]
fn checker_catches_order_by_transaction_id() {
    let by_xid = |stretches: Vec<Stretch>| {
        let mut delivered = deliveries(&run(&stretches), by_parts);
        delivered.sort_by_key(|(nth, row)| (*nth, row.xid, row.position));
        keeps_order(&delivered)
    };
    assert!(objections(&stretches(), 100, by_xid) > 10);
}

#[test]
fn checker_catches_ticks_of_a_standby_that_lists_nobody() {
    let on_standby = |stretches: Vec<Stretch>| {
        let mut history = run(&stretches);
        for (tick, _) in &mut history.stops {
            let xmax = tick.snapshot.xmax();
            tick.snapshot = posthaste_core::Snapshot::through(xmax - 1);
        }
        let read: Vec<_> =
            deliveries(&history, by_definition).into_iter().map(|(_, row)| row.position).collect();
        let told = |row: &Row<()>| {
            // A reader sees a message only if it had committed when its window was read.
            let shown = history.stops.iter().find(|(tick, _)| tick.snapshot.shows(row.xid));
            let nth = history.rows.iter().position(|other| other == row);
            shown.is_some_and(|(_, count)| nth.is_some_and(|nth| nth < *count))
        };
        prop_assert!(history.rows.iter().all(|row| read.contains(&row.position) && told(row)));
        Ok(())
    };
    assert!(objections(&stretches(), 100, on_standby) > 10);
}
