//! Windows: the messages visible at one tick and not at an earlier one, and how a big window is
//! paged by strides of position.
//!
//! A window has a *main* part, the transactions between the two snapshots' `xmax`, and a *late*
//! part, the transactions in progress at the first snapshot and visible in the second. Reading
//! by windows is the method of PgQ (Skype, "PgQ: Generic Queue in PostgreSQL"). Cutting a window
//! by transaction id would be wrong: a transaction with an early id can enqueue late.

use crate::{Position, Snapshot, Tick};

/// What lies between two ticks, with the bounds that one query per window found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The tick at which everything earlier has been read.
    pub base: Tick,
    /// The tick that closes the window, committed before anything of it is published.
    pub head: Tick,
    /// Lowest and highest position of the main part; `None` when it is empty.
    pub main: Option<(Position, Position)>,
    /// Transactions of the late part.
    pub late: Vec<u64>,
}

/// What a reader does next inside a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read the positions in `(after, through]`.
    Read {
        /// Exclusive lower bound.
        after: Position,
        /// Inclusive upper bound.
        through: Position,
    },
    /// Outside the main part: look up the next position of the late part above `after`, and go
    /// on from [`Window::resume_at`] with the answer.
    SeekLate {
        /// Exclusive lower bound of the search.
        after: Position,
    },
    /// Nothing of the window lies above.
    Done,
}

impl Window {
    /// Whether a committed transaction's messages belong to this window.
    pub fn contains(&self, xid: u64) -> bool {
        contains(&self.base.snapshot, &self.head.snapshot, xid)
    }

    /// Whether the window holds no message at all.
    pub fn is_empty(&self) -> bool {
        self.main.is_none() && self.late.is_empty()
    }

    /// The next step above `after` with strides of `stride` positions (at least 1).
    pub fn step(&self, after: Position, stride: i64) -> Step {
        let inside = self.main.is_some_and(|(low, high)| after >= low - 1 && after < high);
        if inside {
            return Step::Read { after, through: after.saturating_add(stride.max(1)) };
        }
        if !self.late.is_empty() {
            return Step::SeekLate { after };
        }
        match self.main {
            Some((low, _)) if after < low - 1 => self.step(low - 1, stride),
            _ => Step::Done,
        }
    }

    /// Where to read on after [`Step::SeekLate`] found `next_late` above `after`: the nearer of
    /// that position and the main part. `None` ends the window.
    pub fn resume_at(&self, after: Position, next_late: Option<Position>) -> Option<Position> {
        let main = self.main.filter(|(low, _)| *low > after).map(|(low, _)| low);
        main.into_iter().chain(next_late).min().map(|next| next - 1)
    }
}

/// Whether a committed transaction lies between two snapshots, by the definition.
pub fn contains(base: &Snapshot, head: &Snapshot, xid: u64) -> bool {
    head.shows(xid) && !base.shows(xid)
}

/// The main part's half-open range of transaction ids, `base.xmax .. head.xmax`.
pub fn main_xids(base: &Snapshot, head: &Snapshot) -> std::ops::Range<u64> {
    base.xmax()..head.xmax().max(base.xmax())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TickRef;

    fn tick(n: i64, snapshot: &str) -> Tick {
        let at = TickRef { n, ..TickRef::BEGINNING };
        Tick { at, snapshot: snapshot.parse().unwrap() }
    }

    fn window(main: Option<(Position, Position)>, late: &[u64]) -> Window {
        Window {
            base: tick(1, "10:20:10,15"),
            head: tick(2, "15:30:15"),
            main,
            late: late.to_vec(),
        }
    }

    #[test]
    fn window_holds_its_main_part_and_what_was_in_progress_at_its_base() {
        let window = window(None, &[]);
        let inside: Vec<u64> = (1..40).filter(|xid| window.contains(*xid)).collect();
        let main: Vec<u64> = main_xids(&window.base.snapshot, &window.head.snapshot).collect();
        assert_eq!(inside, [[10].as_slice(), &main].concat());
    }

    #[test]
    fn gap_before_the_main_part_is_stepped_over() {
        let window = window(Some((1_000, 1_010)), &[]);
        assert_eq!(window.step(0, 5), Step::Read { after: 999, through: 1_004 });
        assert_eq!(window.step(1_004, 50), Step::Read { after: 1_004, through: 1_054 });
        assert_eq!(window.step(1_010, 5), Step::Done);
    }

    #[test]
    fn late_part_is_sought_outside_the_main_part_only() {
        let window = window(Some((1_000, 1_010)), &[10]);
        assert_eq!(window.step(0, 5), Step::SeekLate { after: 0 });
        assert_eq!(window.resume_at(0, Some(40)), Some(39));
        assert_eq!(window.resume_at(40, Some(2_000)), Some(999));
        assert_eq!(window.step(999, 5), Step::Read { after: 999, through: 1_004 });
        assert_eq!(window.step(1_010, 5), Step::SeekLate { after: 1_010 });
        assert_eq!(window.resume_at(1_010, None), None);
    }

    #[test]
    fn head_that_is_older_than_its_base_has_no_main_part() {
        assert!(main_xids(&"30:30:".parse().unwrap(), &"20:20:".parse().unwrap()).is_empty());
    }
}
