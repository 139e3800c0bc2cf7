//! Paging by strides visits every message of a window once, in position order, and ends.

use std::collections::BTreeMap;

use posthaste_core::{Position, Snapshot, Step, Tick, TickRef, Window};
use proptest::{collection, prelude::*};
use uuid::Uuid;

use crate::schedule::objections;

/// Positions of the main part and of the late part, and how the reader pages.
#[derive(Clone, Debug)]
struct Case {
    main: Vec<Position>,
    late: Vec<Position>,
    strides: Vec<i64>,
    /// Messages after which a page meets its byte limit.
    cuts: Vec<usize>,
}

/// Where a reader goes on after a seek: the window's rule, or a broken variant of it.
type Resume = fn(&Window, Position, Option<Position>) -> Option<Position>;

fn case() -> impl Strategy<Value = Case> {
    // Clusters with wide gaps between them, as retained and foreign rows leave them.
    let position = (0..4_i64, 1..60_i64).prop_map(|(cluster, offset)| cluster * 500 + offset);
    let positions = collection::btree_map(position, any::<bool>(), 0..60);
    let strides = collection::vec(prop_oneof![1..10_i64, 10..200_i64, Just(5_000)], 1..8);
    let cuts = collection::vec(1..20_usize, 1..8);
    (positions, 0..4_u8, strides, cuts).prop_map(|(positions, mix, strides, cuts)| {
        let is_late = |late: bool| mix == 1 || (mix > 1 && late);
        let part = |wanted: bool, from: &BTreeMap<Position, bool>| {
            let chosen = from.iter().filter(|(_, late)| is_late(**late) == wanted);
            chosen.map(|(position, _)| *position).collect()
        };
        Case { main: part(false, &positions), late: part(true, &positions), strides, cuts }
    })
}

fn window(case: &Case) -> Window {
    let tick = |n, snapshot: &str| Tick {
        at: TickRef { n, id: Uuid::from_u128(n as u128) },
        snapshot: snapshot.parse::<Snapshot>().unwrap(),
    };
    let late = if case.late.is_empty() { Vec::new() } else { vec![10] };
    let main = case.main.first().copied().zip(case.main.last().copied());
    Window { base: tick(1, "10:20:10"), head: tick(2, "30:30:"), main, late }
}

/// Reads the window as a store does; returns the positions in the order of reading.
fn read(case: &Case, start: Position, resume: Resume) -> Result<Vec<Position>, TestCaseError> {
    let window = window(case);
    let mut rows: Vec<Position> = case.main.iter().chain(&case.late).copied().collect();
    rows.sort_unstable();
    let highest = rows.last().copied().unwrap_or_default();
    let mut read = Vec::new();
    let mut after = start;
    for nth in 0..=(highest as usize + rows.len() + 2) {
        let stride = case.strides[nth % case.strides.len()];
        let through = match window.step(after, stride) {
            Step::Done => return Ok(read),
            Step::Read { after: from, through } => {
                prop_assert!(from >= after && through > from);
                after = from;
                through
            }
            Step::SeekLate { after: from } => {
                prop_assert_eq!(from, after);
                let next = case.late.iter().copied().find(|late| *late > after);
                let Some(resumed) = resume(&window, after, next) else { return Ok(read) };
                after = resumed;
                resumed + stride
            }
        };
        let inside = rows.iter().copied().filter(|row| *row > after && *row <= through);
        let page: Vec<Position> = inside.take(case.cuts[nth % case.cuts.len()]).collect();
        let is_cut = page.len() == case.cuts[nth % case.cuts.len()];
        after = if is_cut { page.last().copied().unwrap_or(through) } else { through };
        read.extend(page);
    }
    Err(TestCaseError::fail("paging does not end"))
}

fn visits_everything_once(
    case: &Case,
    start: Position,
    resume: Resume,
) -> Result<(), TestCaseError> {
    let mut expected: Vec<Position> = case.main.iter().chain(&case.late).copied().collect();
    expected.retain(|position| *position > start);
    expected.sort_unstable();
    prop_assert_eq!(read(case, start, resume)?, expected);
    Ok(())
}

fn steps_over_gaps(case: &Case) -> Result<(), TestCaseError> {
    let window = window(case);
    let (Some((low, high)), true) = (window.main, case.late.is_empty()) else { return Ok(()) };
    prop_assert_eq!(window.step(0, 7), Step::Read { after: low - 1, through: low + 6 });
    prop_assert_eq!(window.step(high, 7), Step::Done);
    Ok(())
}

proptest! {
    #[test]
    fn paging_visits_every_message_once_in_position_order(case in case(), start in 0..2_000_i64) {
        visits_everything_once(&case, 0, Window::resume_at)?;
        visits_everything_once(&case, start, Window::resume_at)?;
        steps_over_gaps(&case)?;
    }

    #[test]
    fn steps_at_the_ends_of_the_number_range_do_not_overflow(case in case(), stride: i64) {
        let window = window(&case);
        for after in [0, Position::MAX - 1, Position::MAX] {
            if let Step::Read { after: from, through } = window.step(after, stride) {
                prop_assert!(through > from);
            }
        }
    }
}

#[test]
fn checker_catches_a_seek_that_forgets_the_main_part() {
    let broken: Resume = |_, _, late| late.map(|late| late - 1);
    assert!(objections(&case(), 200, |case| visits_everything_once(&case, 0, broken)) > 10);
}

#[test]
fn checker_catches_a_seek_that_forgets_the_late_part() {
    let broken: Resume = |window, after, _| window.resume_at(after, None);
    assert!(objections(&case(), 200, |case| visits_everything_once(&case, 0, broken)) > 10);
}

#[test]
fn checker_catches_a_seek_that_steps_over_what_it_found() {
    let broken: Resume = |window, after, late| window.resume_at(after, late).map(|at| at + 1);
    assert!(objections(&case(), 200, |case| visits_everything_once(&case, 0, broken)) > 10);
}
