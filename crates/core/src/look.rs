//! The look rule: when a new tick is worth taking, from looks that cost a few microseconds.
//!
//! A look reads the log sequence's `last_value, is_called` and, in a *later* statement, a
//! snapshot. A transaction that has taken its position may still be open without being listed
//! in `xip` (its id may be the next one), so an unmoved sequence proves nothing by itself.
//! Therefore, when the sequence stands still for the first time, the caller takes one
//! transaction id X. Any transaction that had taken a position by then has a lower id (the
//! column `xid` is evaluated before `position`), so until a snapshot has `xmin > X` every
//! changed snapshot is a reason to tick; after that nothing can appear until the sequence moves.

use crate::Snapshot;

/// `last_value, is_called` of the log's sequence. Both count: a fresh sequence reads 1 before
/// and after its first value, only `is_called` changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SequenceState {
    /// The last value handed out, or the first to be.
    pub last_value: i64,
    /// Whether any value has been handed out.
    pub is_called: bool,
}

/// What a look calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing can have become visible since the last tick attempt.
    Rest,
    /// Something may be visible: query the window and tick if it holds a message.
    Tick,
    /// The sequence stood still for the first time: take a transaction id, hand it to
    /// [`LookRule::xid_taken`] and tick with a snapshot taken after that.
    TakeXid,
}

/// The state between looks; one per process and source, owned by its ticker.
#[derive(Clone, Debug, Default)]
pub struct LookRule {
    sequence: Option<SequenceState>,
    watch: Watch,
    last: Option<Snapshot>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Watch {
    /// The sequence moved at the last look (or there was none).
    #[default]
    Moved,
    /// The sequence stands still; transactions up to this id may still hold positions.
    Until(u64),
    /// Every transaction that held a position has ended.
    Settled,
}

impl LookRule {
    /// Decides on one look. `sequence` must have been read before `snapshot` was taken.
    pub fn look(&mut self, sequence: SequenceState, snapshot: &Snapshot) -> Look {
        let moved = self.sequence.replace(sequence) != Some(sequence);
        let changed = self.last.as_ref() != Some(snapshot);
        if changed {
            self.last = Some(snapshot.clone());
        }
        match self.watch {
            _ if moved => {
                self.watch = Watch::Moved;
                Look::Tick
            }
            Watch::Moved => Look::TakeXid,
            Watch::Until(x) if snapshot.xmin() > x => {
                self.watch = Watch::Settled;
                Look::Tick
            }
            Watch::Until(_) if changed => Look::Tick,
            Watch::Until(_) | Watch::Settled => Look::Rest,
        }
    }

    /// Records the transaction id taken after [`Look::TakeXid`].
    pub fn xid_taken(&mut self, xid: u64) {
        self.watch = Watch::Until(xid);
    }

    /// Forgets everything, so that the next look ticks. Call it when a tick attempt failed and
    /// after a reconnect: what the look found has not been acted on.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether transactions may still hold positions that are not visible yet.
    pub fn is_watching(&self) -> bool {
        self.watch != Watch::Settled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequence(last_value: i64, is_called: bool) -> SequenceState {
        SequenceState { last_value, is_called }
    }

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn first_message_of_a_fresh_sequence_is_seen_by_is_called() {
        let mut rule = LookRule::default();
        assert_eq!(rule.look(sequence(1, false), &snapshot("700:700:")), Look::Tick);
        assert_eq!(rule.look(sequence(1, false), &snapshot("700:700:")), Look::TakeXid);
        rule.xid_taken(700);
        assert_eq!(rule.look(sequence(1, false), &snapshot("701:701:")), Look::Tick);
        assert_eq!(rule.look(sequence(1, false), &snapshot("701:701:")), Look::Rest);
        assert_eq!(rule.look(sequence(1, true), &snapshot("701:701:")), Look::Tick);
    }

    #[test]
    fn open_writer_that_is_not_in_xip_is_waited_for() {
        let mut rule = LookRule::default();
        rule.look(sequence(5, true), &snapshot("726:726:"));
        assert_eq!(rule.look(sequence(5, true), &snapshot("726:726:")), Look::TakeXid);
        rule.xid_taken(727); // 726 is open and holds position 5
        assert_eq!(rule.look(sequence(5, true), &snapshot("726:728:726")), Look::Tick);
        assert_eq!(rule.look(sequence(5, true), &snapshot("726:728:726")), Look::Rest);
        assert_eq!(rule.look(sequence(5, true), &snapshot("728:728:")), Look::Tick);
        assert_eq!(rule.look(sequence(5, true), &snapshot("730:730:")), Look::Rest);
    }

    #[test]
    fn forgetting_makes_the_next_look_tick() {
        let mut rule = LookRule::default();
        rule.look(sequence(5, true), &snapshot("726:726:"));
        rule.forget();
        assert_eq!(rule.look(sequence(5, true), &snapshot("726:726:")), Look::Tick);
    }
}
