//! Stores and sinks that are broken on purpose: the checks have to report each of them.

use std::time::Duration;

use super::{
    plan::{Faults, Plan},
    run::simulate,
};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The sink acknowledges some batches and forgets them.
    SinkForgets,
    /// The sink acknowledges first and applies later, unless its process ends meanwhile.
    SinkAnswersFirst,
    /// The sink reports a message that it refuses as accepted.
    SinkHidesRefusals,
    /// Messages of a key overtake one that was refused.
    SinkLetsKeysOvertake,
    /// The sink takes calls of whoever sends them, wherever they continue from.
    SinkIgnoresPlaces,
    /// The sink keeps a place without what is missing before it.
    SinkForgetsWhatIsMissing,
    /// The store answers a settle without recording it.
    SettleForgets,
    /// The store answers that it has set messages aside, and forgets them.
    AsideForgets,
    /// The store settles under any epoch.
    SettleIgnoresEpoch,
    /// Windows lack the transactions that ran at their first tick.
    WindowWithoutLate,
    /// Pages lack their last message now and then.
    PageSkips,
    /// Ticks do not make durable what they show.
    TickNotDurable,
}

/// Seeds within which a broken part must have been reported.
const SEEDS: u64 = 100;

/// Runs seeds with `broken` until a check reports `invariant`.
fn is_caught(broken: Broken, invariant: &str, faults: Faults) {
    is_caught_in(Plan::of, broken, invariant, faults);
}

fn is_caught_in(plan: fn(u64) -> Plan, broken: Broken, invariant: &str, faults: Faults) {
    for seed in 0..SEEDS {
        let report = simulate(Plan { broken: Some(broken), faults, ..plan(seed) });
        if report.violations.iter().any(|violation| violation.invariant == invariant) {
            return;
        }
    }
    panic!("{broken:?} went unnoticed in {SEEDS} seeds");
}

const CALM: Faults =
    Faults { store: 0.0, sink: 0.0, partial: 0.0, crash: 0.0, kill: 0.0, failover: 0.0 };

#[test]
fn checker_catches_a_sink_that_forgets() {
    is_caught(Broken::SinkForgets, "COMPLETE", CALM);
}

#[test]
fn checker_catches_a_place_settled_before_the_sink_had_the_message() {
    is_caught(Broken::SinkAnswersFirst, "COMPLETE", CALM);
}

#[test]
fn checker_catches_a_refusal_reported_as_accepted() {
    is_caught(Broken::SinkHidesRefusals, "COMPLETE", Faults { partial: 0.1, ..CALM });
}

#[test]
fn checker_catches_messages_that_overtake_a_refused_one_of_their_key() {
    is_caught(Broken::SinkLetsKeysOvertake, "ORDERED", Faults { partial: 0.1, ..CALM });
}

#[test]
fn checker_catches_messages_that_are_set_aside_and_forgotten() {
    is_caught(Broken::AsideForgets, "COMPLETE", Faults { partial: 0.1, ..CALM });
}

/// Every sink keeps places, in front of a single subscription.
fn keeping(seed: u64) -> Plan {
    let mut plan = Plan { keeps_places: true, ..Plan::of(seed) };
    plan.specs.truncate(1);
    plan
}

#[test]
fn checker_catches_a_sink_that_takes_calls_whatever_its_place_says() {
    let faults = Faults { sink: 0.3, ..CALM };
    is_caught_in(keeping, Broken::SinkIgnoresPlaces, "ONCE", faults);
    is_caught_in(keeping, Broken::SinkIgnoresPlaces, "FENCED", faults);
}

#[test]
fn checker_catches_a_place_that_is_kept_without_what_is_missing() {
    let faults = Faults { sink: 0.1, partial: 0.1, ..CALM };
    is_caught_in(keeping, Broken::SinkForgetsWhatIsMissing, "COMPLETE", faults);
}

#[test]
fn checker_catches_a_settle_without_effect() {
    is_caught(Broken::SettleForgets, "ONCE", CALM);
}

#[test]
fn checker_catches_a_settle_under_an_old_epoch() {
    is_caught(Broken::SettleIgnoresEpoch, "FENCED", Faults { kill: 0.8, ..CALM });
}

#[test]
fn checker_catches_windows_without_their_late_part() {
    is_caught(Broken::WindowWithoutLate, "COMPLETE", CALM);
}

#[test]
fn checker_catches_a_page_that_skips_a_message() {
    is_caught(Broken::PageSkips, "COMPLETE", CALM);
}

#[test]
fn checker_catches_a_tick_that_is_not_durable() {
    // Long ways to the sink, so that no settle makes durable what the tick did not.
    let plan = |seed| Plan { sink_ms: 150, store_ms: 1, writers: 1, ..Plan::of(seed) };
    let faults = Faults { crash: 5.0, ..CALM };
    is_caught_in(plan, Broken::TickNotDurable, "ATOMIC", faults);
}

/// One batch at a time to a slow sink, from pages that hold everything.
#[test]
fn drain_does_not_wait_for_the_rest_of_a_big_page() {
    for seed in 0..4 {
        let mut plan = Plan { faults: CALM, sink_ms: 200, writers: 6, ..Plan::of(seed) };
        plan.writer_pause_ms = 20;
        plan.settings.batch_messages = 1;
        plan.settings.page_stride = 5_000;
        plan.settings.page_bytes = 1 << 20;
        plan.duration = Duration::from_secs(3);
        let report = simulate(plan);
        assert!(report.violations.is_empty(), "seed {seed}: {:?}", report.violations);
    }
}
