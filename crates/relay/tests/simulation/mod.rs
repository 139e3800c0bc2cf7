//! A seeded simulation of the relay: the real pipeline on a paused clock, against a model of the
//! database and of sinks that fail in every way they may, while writers commit.
//!
//! A seed decides everything: topics, filters, limits, latencies, faults, drains, kills,
//! take-overs. `POSTHASTE_SIM_SEED=n` repeats one seed, `POSTHASTE_SIM_SEEDS=n` runs the first n.
//! `POSTHASTE_SIM_HISTORY=1` prints what happened when. What breaks an invariant is made smaller, as
//! long as it still does (`shrink`). Broken stores and sinks run through the same checks, which
//! have to report them.

mod aside;
mod broken;
mod checks;
mod contracts;
#[path = "../../../core/tests/model.rs"]
mod model;
mod pages;
mod plan;
mod relays;
mod run;
mod shrink;
mod sink;
mod store;
mod ticker;
mod world;
mod writers;

use std::{panic, thread};

use plan::Plan;
use run::{Report, simulate};
use shrink::shrink;

/// Seeds of one run of the test.
const SEEDS: u64 = 300;
/// Simulations that run at a time; each has one thread to itself.
const THREADS: u64 = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs one seed and panics with the way to repeat it if an invariant was broken.
fn check(seed: u64) -> Report {
    let report = simulate(Plan::of(seed));
    if std::env::var_os("POSTHASTE_SIM_HISTORY").is_some() {
        println!("{}", report.history.join("\n"));
    }
    let complaints: Vec<String> = report.violations.iter().map(ToString::to_string).collect();
    assert!(
        complaints.is_empty(),
        "seed {seed} broke {}\nrepeat with: POSTHASTE_SIM_SEED={seed} cargo test \
         -p posthaste-relay --test main simulation\n{}",
        complaints.join("\n"),
        shrink(Plan::of(seed)).map_or_else(String::new, |smallest| smallest.to_string())
    );
    report
}

#[test]
fn relay_keeps_its_invariants_whatever_fails() {
    if let Some(seed) = number("POSTHASTE_SIM_SEED") {
        check(seed);
        return;
    }
    let seeds = number("POSTHASTE_SIM_SEEDS").unwrap_or(SEEDS);
    let part = |first: u64| (first..seeds).step_by(THREADS as usize).map(check);
    let reports: Vec<Report> = thread::scope(|scope| {
        let parts: Vec<_> = (0..THREADS)
            .map(|first| scope.spawn(move || part(first).collect::<Vec<_>>()))
            .collect();
        let join = |part: thread::ScopedJoinHandle<'_, Vec<Report>>| match part.join() {
            Ok(reports) => reports,
            Err(complaint) => panic::resume_unwind(complaint),
        };
        parts.into_iter().flat_map(join).collect()
    });
    let total = |count: fn(&Report) -> u64| reports.iter().map(count).sum::<u64>();
    // A simulation in which nothing happens proves nothing.
    assert!(total(|r| r.messages) > 10 * reports.len() as u64);
    assert!(total(|r| r.faults) > reports.len() as u64);
    if seeds >= SEEDS {
        let happened = [
            ("late transactions", total(|r| r.late)),
            ("commits lost in crashes", total(|r| r.lost_in_crashes)),
            ("fenced settles", total(|r| r.fenced)),
            ("repeats", total(|r| r.repeats)),
            ("panics", total(|r| r.panics)),
            ("drains", total(|r| r.drains)),
            ("sinks that failed over", total(|r| r.failovers)),
        ];
        println!("{happened:?}");
        // Fenced settles are not asked for: a relay that lost its lease stops by itself, and hardly one
        // has to be told. `broken` sees to it that one would be noticed.
        let is_enough = |(what, count): &(&str, u64)| *count > 20 || *what == "fenced settles";
        assert!(happened.iter().all(is_enough), "too little happened: {happened:?}");
    }
}

/// With one subscription: whom a `watch` of tokio wakes first it draws by itself, and of several
/// subscriptions now this, now that one reads the page they share.
#[test]
fn seed_repeats_its_history() {
    for seed in 0..20 {
        let run = || {
            let mut plan = Plan::of(seed);
            plan.specs.truncate(1);
            let mut history = simulate(plan).history;
            history.sort_unstable();
            history
        };
        assert!(run() == run(), "seed {seed} does not repeat its history");
    }
}
