//! Makes a schedule that breaks an invariant smaller, as long as it still breaks it: fewer
//! subscriptions and writers, less time, and of the faults only those that it takes.
//!
//! The dice of an event do not depend on what happens beside it, so that a schedule without one of
//! its faults is otherwise hardly another one.

use std::{fmt, time::Duration};

use super::{
    broken::Broken,
    plan::{Faults, Plan},
    run::{Report, simulate},
};

/// Simulations that a search takes at most.
const TRIES_MAX: u32 = 300;
/// Of the history of the smallest schedule, the last lines are shown.
const LINES_MAX: usize = 200;

/// The smallest schedule that was found.
pub(crate) struct Smallest {
    pub(crate) plan: Plan,
    pub(crate) report: Report,
    invariant: &'static str,
    tries: u32,
}

/// Looks for it from `plan`, which breaks an invariant; `None` if it does not, after all.
pub(crate) fn shrink(plan: Plan) -> Option<Smallest> {
    let report = simulate(plan.clone());
    let invariant = report.violations.first()?.invariant;
    let mut smallest = Smallest { plan, report, invariant, tries: 1 };
    while smallest.simplify() {}
    smallest.spare();
    while smallest.simplify() {}
    Some(smallest)
}

impl Smallest {
    /// Goes on from `plan` if it breaks the same invariant.
    fn takes(&mut self, plan: Plan) -> bool {
        if self.tries == TRIES_MAX {
            return false;
        }
        self.tries += 1;
        let report = simulate(plan.clone());
        let breaks = report.violations.iter().any(|it| it.invariant == self.invariant);
        if breaks {
            (self.plan, self.report) = (plan, report);
        }
        breaks
    }

    /// One step to a simpler plan; false when there is none.
    fn simplify(&mut self) -> bool {
        simpler(&self.plan).into_iter().any(|plan| self.takes(plan))
    }

    /// Spares faults, in ever smaller groups (delta debugging), until each of them is needed.
    fn spare(&mut self) {
        let mut size = self.report.struck.len();
        while size > 0 {
            let mut at = 0;
            while let Some(group) = self.report.struck.chunks(size).nth(at) {
                let mut plan = self.plan.clone();
                plan.spared.extend(group);
                // Where it was taken, another group stands in its place.
                at += usize::from(!self.takes(plan));
            }
            size /= 2;
        }
    }
}

/// Plans with one thing less.
fn simpler(plan: &Plan) -> Vec<Plan> {
    let mut plans = Vec::new();
    let mut push = |change: &dyn Fn(&mut Plan)| {
        let mut simpler = plan.clone();
        change(&mut simpler);
        plans.push(simpler);
    };
    let none: [fn(&mut Faults) -> &mut f64; 6] = [
        |it| &mut it.store,
        |it| &mut it.sink,
        |it| &mut it.partial,
        |it| &mut it.crash,
        |it| &mut it.kill,
        |it| &mut it.failover,
    ];
    if plan.faults != Faults::default() {
        push(&|plan| plan.faults = Faults::default());
    }
    for chance in none {
        if *chance(&mut plan.faults.clone()) > 0.0 {
            push(&|plan| *chance(&mut plan.faults) = 0.0);
        }
    }
    for nth in 0..plan.specs.len().saturating_sub(1) {
        push(&|plan| drop(plan.specs.remove(nth)));
        push(&|plan| plan.specs.truncate(nth + 1));
    }
    if plan.has_contracts {
        push(&|plan| plan.has_contracts = false);
    }
    if plan.writers > 1 {
        push(&|plan| plan.writers = 1);
        push(&|plan| plan.writers -= 1);
    }
    if plan.duration > Duration::from_millis(200) {
        push(&|plan| plan.duration /= 2);
    }
    plans
}

impl fmt::Display for Smallest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plan, report, invariant, tries } = self;
        let Plan { specs, writers, duration, faults, .. } = plan;
        writeln!(
            f,
            "the smallest schedule that breaks {invariant}, after {tries} tries: {} subscriptions, \
             {writers} writers, {duration:?}, {} faults of {faults:?}",
            specs.len(),
            report.struck.len(),
        )?;
        for line in &report.history[report.history.len().saturating_sub(LINES_MAX)..] {
            writeln!(f, "{line}")?;
        }
        report.violations.iter().try_for_each(|violation| writeln!(f, "{violation}"))
    }
}

/// The first schedule in which `broken` breaks something while faults strike, made smaller.
fn smallest(broken: Broken, faults: Faults) -> Smallest {
    // Without contracts: what waits for one is tried again and again, and no single thing breaks it.
    let plan = |seed| Plan { broken: Some(broken), faults, has_contracts: false, ..Plan::of(seed) };
    let is_found = |plan: &Plan| {
        let report = simulate(plan.clone());
        !report.violations.is_empty() && report.struck.len() > 5
    };
    let found = (0..100).map(plan).find(is_found).expect("something breaks");
    shrink(found).expect("it breaks again")
}

const VIOLENT: Faults =
    Faults { store: 0.1, sink: 0.1, partial: 0.1, crash: 1.0, kill: 0.8, failover: 0.0 };

#[test]
fn what_breaks_without_faults_is_shown_without_any() {
    let Smallest { plan, report, .. } = smallest(Broken::PageSkips, VIOLENT);
    assert_eq!((plan.faults, report.struck.len()), (Faults::default(), 0));
    assert_eq!((plan.specs.len(), plan.writers), (1, 1));
    assert!(report.violations.iter().any(|it| it.invariant == "COMPLETE"));
}

#[test]
fn of_many_faults_those_that_it_takes_are_left() {
    let smallest = smallest(Broken::SinkIgnoresPlaces, Faults { sink: 0.3, ..VIOLENT });
    println!("{smallest}");
    let left = smallest.report.struck.len();
    assert!((1..=3).contains(&left), "{left}: {smallest}");
    assert!(!smallest.report.violations.is_empty());
}
