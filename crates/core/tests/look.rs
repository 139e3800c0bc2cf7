//! The look rule never rests while a committed message is unticked (COMPLETE).

use posthaste_core::{Look, LookRule, SequenceState, Snapshot};
use proptest::prelude::*;

use crate::{
    model::Database,
    schedule::{Op, apply, codes, objections, op, turn},
};

/// What a ticker asks before it ticks: the rule, or a broken variant of it.
trait Rule {
    fn look(&mut self, sequence: SequenceState, snapshot: &Snapshot) -> Look;
    fn xid_taken(&mut self, xid: u64);
    fn forget(&mut self);
}

impl Rule for LookRule {
    fn look(&mut self, sequence: SequenceState, snapshot: &Snapshot) -> Look {
        Self::look(self, sequence, snapshot)
    }

    fn xid_taken(&mut self, xid: u64) {
        Self::xid_taken(self, xid);
    }

    fn forget(&mut self) {
        Self::forget(self);
    }
}

/// Changes before a look, between its two statements, and before the snapshot that follows X.
type Round = (Vec<Op>, Vec<Op>, Vec<Op>);

fn rounds() -> impl Strategy<Value = Vec<Round>> {
    codes(1..120).prop_map(|codes| {
        let mut rounds = vec![Round::default()];
        for code in codes {
            let last = rounds.len() - 1;
            match turn(code) {
                0..5 => rounds[last].0.push(op(code)),
                5 => rounds[last].1.push(op(code)),
                6 => rounds[last].2.push(op(code)),
                _ => rounds.push(Round::default()),
            }
        }
        rounds
    })
}

/// A ticker's loop over the model.
struct Looking<R> {
    database: Database<()>,
    rule: R,
    /// The newest snapshot whose window was queried.
    ticked: Snapshot,
}

impl<R: Rule> Looking<R> {
    fn new(rule: R) -> Self {
        Self { database: Database::new(100), rule, ticked: Snapshot::nothing() }
    }

    /// Returns whether the database crashed, and with it the rule's connection.
    fn apply(&mut self, ops: &[Op]) -> bool {
        let crashes = ops.iter().filter(|op| apply(&mut self.database, **op)).count();
        if crashes > 0 {
            self.rule.forget();
        }
        crashes > 0
    }

    /// One look with changes in between; what it ticks is durable.
    fn look(&mut self, between: &[Op], after_x: &[Op]) -> Result<Look, TestCaseError> {
        let sequence = self.database.sequence();
        let shown_then = self.database.snapshot();
        let is_broken_off = self.apply(between);
        let mut snapshot = self.database.snapshot();
        if is_broken_off {
            // The connection ended with the crash: so does this look.
            return Ok(Look::Tick);
        }
        let look = self.rule.look(sequence, &snapshot);
        match look {
            Look::Rest => {
                // What came after the sequence was read moves it for the next look.
                self.nothing_is_missed(&shown_then)?;
                return Ok(look);
            }
            Look::TakeXid => {
                let xid = self.database.burn_xid();
                self.rule.xid_taken(xid);
                if self.apply(after_x) {
                    return Ok(look);
                }
                snapshot = self.database.snapshot();
            }
            Look::Tick => {}
        }
        if self.unticked(&snapshot) > 0 {
            self.database.burn_xid();
            self.database.sync();
            self.ticked = snapshot;
        }
        Ok(look)
    }

    fn unticked(&self, shown: &Snapshot) -> usize {
        let rows = self.database.rows().iter();
        rows.filter(|row| shown.shows(row.xid) && !self.ticked.shows(row.xid)).count()
    }

    fn nothing_is_missed(&self, shown: &Snapshot) -> Result<(), TestCaseError> {
        let missed = self.unticked(shown);
        prop_assert!(missed == 0, "the rule rests while {missed} messages are unticked");
        Ok(())
    }
}

/// Most looks that a quiet database needs until the rule rests for good.
const LOOKS_TO_REST: usize = 6;

fn never_misses<R: Rule>(rule: R, rounds: &[Round]) -> Result<(), TestCaseError> {
    let mut looking = Looking::new(rule);
    for (before, between, after_x) in rounds {
        looking.apply(before);
        looking.look(between, after_x)?;
    }
    while let Some(handle) = { looking.database.open().next() } {
        looking.database.commit(handle);
        looking.look(&[], &[])?;
    }
    for _ in 0..LOOKS_TO_REST {
        looking.look(&[], &[])?;
    }
    prop_assert_eq!(looking.look(&[], &[])?, Look::Rest);
    let shown = looking.database.snapshot();
    looking.nothing_is_missed(&shown)
}

proptest! {
    #[test]
    fn looks_find_every_message_and_then_rest(rounds in rounds()) {
        never_misses(LookRule::default(), &rounds)?;
    }

    #[test]
    fn rule_rests_beside_other_traffic_once_the_log_is_quiet(rounds in rounds(), others in 1..9_u8) {
        let mut looking = Looking::new(LookRule::default());
        for (before, between, after_x) in &rounds {
            looking.apply(before);
            looking.look(between, after_x)?;
        }
        while let Some(handle) = { looking.database.open().next() } {
            looking.database.commit(handle);
        }
        for _ in 0..LOOKS_TO_REST {
            looking.look(&[], &[])?;
        }
        looking.apply(&[Op::Other(others)]);
        prop_assert_eq!(looking.look(&[], &[])?, Look::Rest);
    }
}

/// Rests as soon as the sequence stands still.
#[derive(Default)]
struct WithoutX(Option<SequenceState>);

impl Rule for WithoutX {
    fn look(&mut self, sequence: SequenceState, _: &Snapshot) -> Look {
        let moved = self.0.replace(sequence) != Some(sequence);
        if moved { Look::Tick } else { Look::Rest }
    }

    fn xid_taken(&mut self, _: u64) {}

    fn forget(&mut self) {
        self.0 = None;
    }
}

/// Goes on while transactions are listed as running.
#[derive(Default)]
struct TrustsXip(Option<SequenceState>);

impl Rule for TrustsXip {
    fn look(&mut self, sequence: SequenceState, snapshot: &Snapshot) -> Look {
        let moved = self.0.replace(sequence) != Some(sequence);
        if moved || !snapshot.xip().is_empty() { Look::Tick } else { Look::Rest }
    }

    fn xid_taken(&mut self, _: u64) {}

    fn forget(&mut self) {
        self.0 = None;
    }
}

/// Reads `last_value` alone.
#[derive(Default)]
struct WithoutIsCalled(LookRule);

impl Rule for WithoutIsCalled {
    fn look(&mut self, sequence: SequenceState, snapshot: &Snapshot) -> Look {
        self.0.look(SequenceState { is_called: true, ..sequence }, snapshot)
    }

    fn xid_taken(&mut self, xid: u64) {
        self.0.xid_taken(xid);
    }

    fn forget(&mut self) {
        self.0.forget();
    }
}

/// Takes the newest id it has seen for X instead of one taken after the sequence stood still.
#[derive(Default)]
struct StaleX(LookRule);

impl Rule for StaleX {
    fn look(&mut self, sequence: SequenceState, snapshot: &Snapshot) -> Look {
        match self.0.look(sequence, snapshot) {
            Look::TakeXid => {
                self.0.xid_taken(snapshot.xmax() - 1);
                Look::Tick
            }
            look => look,
        }
    }

    fn xid_taken(&mut self, _: u64) {}

    fn forget(&mut self) {
        self.0.forget();
    }
}

#[test]
fn checker_catches_a_look_rule_without_x() {
    assert!(objections(&rounds(), 300, |r| never_misses(WithoutX::default(), &r)) > 10);
}

#[test]
fn checker_catches_a_look_rule_that_trusts_xip() {
    assert!(objections(&rounds(), 300, |r| never_misses(TrustsXip::default(), &r)) > 10);
}

#[test]
fn checker_catches_a_look_rule_without_is_called() {
    assert!(objections(&rounds(), 3_000, |r| never_misses(WithoutIsCalled::default(), &r)) > 0);
}

#[test]
fn checker_catches_an_x_from_before_the_standstill() {
    assert!(objections(&rounds(), 300, |r| never_misses(StaleX::default(), &r)) > 10);
}
