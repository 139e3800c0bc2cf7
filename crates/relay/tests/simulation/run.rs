//! One simulation from its plan to its report.

use std::time::Duration;

use posthaste_relay::seed_jitter;
use rand::{Rng as _, rngs::SmallRng};
use tokio::{
    runtime::Builder,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    checks::Tally,
    plan::Plan,
    relays::RelayTask,
    store::within,
    world::{State, Violation, World, millis},
    writers,
};

/// Virtual time within which everything has arrived once the faults have stopped: some
/// operation time-outs, and a page for each message at the worst latencies.
const CATCH_UP: Duration = Duration::from_mins(10);

/// What came of it.
pub(crate) struct Report {
    pub(crate) violations: Vec<Violation>,
    pub(crate) history: Vec<String>,
    /// Faults that have struck and could have been spared.
    pub(crate) struck: Vec<u64>,
    pub(crate) messages: u64,
    pub(crate) faults: u64,
    pub(crate) late: u64,
    pub(crate) lost_in_crashes: u64,
    pub(crate) fenced: u64,
    pub(crate) repeats: u64,
    pub(crate) panics: u64,
    pub(crate) drains: u64,
    pub(crate) failovers: u64,
}

/// Runs a plan on a runtime and a clock of its own.
pub(crate) fn simulate(plan: Plan) -> Report {
    seed_jitter(plan.seed);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::new(plan);
        scenario(&world).await;
        world.with(report)
    })
}

fn report(state: &mut State) -> Report {
    let Tally { faults, late, lost_in_crashes, fenced, repeats, panics, drains, failovers } =
        state.tally;
    Report {
        violations: std::mem::take(&mut state.violations),
        history: std::mem::take(&mut state.history),
        struck: std::mem::take(&mut state.struck),
        messages: state.database.rows().len() as u64,
        faults,
        late,
        lost_in_crashes,
        fenced,
        repeats,
        panics,
        drains,
        failovers,
    }
}

async fn scenario(world: &World) {
    let mut writers = JoinSet::new();
    for nth in 0..world.with(|state| state.plan.writers) {
        let dice = world.with(|state| state.dice(("writer", nth)));
        writers.spawn(writers::write(world.clone(), dice));
    }
    let crashes = tokio::spawn(crash_now_and_then(world.clone()));
    let dice = world.with(|state| state.dice("fleet"));
    let mut fleet =
        Fleet { world: world.clone(), dice, relays: Vec::new(), count: 0, is_alone: true };
    if fleet.dice.random_bool(0.3) {
        // A backlog meets the first relay.
        let pause = world.with(|state| state.plan.duration / 2);
        sleep(pause).await;
    }
    while world.with(|state| state.began.elapsed() < state.plan.duration) {
        fleet.change().await;
        let pause = millis(&mut fleet.dice, 50, 2_500);
        sleep(pause).await;
    }
    while writers.join_next().await.is_some() {}
    let _ = crashes.await;
    world.with(|state| state.are_faults_on = false);
    fleet.finish().await;
}

/// Crashes of the database and the outages that follow.
async fn crash_now_and_then(world: World) {
    let mut dice = world.with(|state| state.dice("crashes"));
    let probability = world.with(|state| state.plan.faults.crash / 10.0);
    while world.with(|state| state.began.elapsed() < state.plan.duration) {
        sleep(Duration::from_millis(100)).await;
        if !world.with(|state| state.strikes(&mut dice, probability)) {
            continue;
        }
        world.with(State::crash);
        sleep(millis(&mut dice, 10, 2_000)).await;
        world.with(|state| state.is_down = false);
    }
}

/// The relays of one simulation, at most two at a time.
struct Fleet {
    world: World,
    dice: SmallRng,
    relays: Vec<RelayTask>,
    count: u32,
    /// No relay has begun beside another one that still runs.
    is_alone: bool,
}

impl Fleet {
    fn start(&mut self) {
        self.is_alone &= self.relays.is_empty();
        self.count += 1;
        self.relays.push(RelayTask::start(&self.world, self.count));
    }

    /// One random change of the fleet.
    async fn change(&mut self) {
        self.reap().await;
        let dice = &mut self.dice;
        let is_violent = self.world.with(|state| state.strikes(dice, state.plan.faults.kill));
        match self.dice.random_range(0..4) {
            _ if self.relays.is_empty() => self.start(),
            0 if is_violent && self.relays.len() < 2 => self.start(),
            1 if is_violent => self.relays.remove(0).kill().await,
            2 => {
                let relay = self.relays.remove(0);
                relay.drain(self.is_alone).await;
                self.is_alone |= self.relays.is_empty();
            }
            3 if is_violent => {
                let until = Instant::now() + millis(&mut self.dice, 200, 2_500);
                let relay = self.relays[0].number;
                self.world.with(|state| {
                    state.disturb("a relay stands still");
                    state.stalled.insert(relay, until);
                });
            }
            _ => {}
        }
    }

    async fn reap(&mut self) {
        for relay in std::mem::take(&mut self.relays) {
            if relay.has_ended() {
                relay.reap(self.is_alone).await;
            } else {
                self.relays.push(relay);
            }
        }
        self.is_alone |= self.relays.is_empty();
    }

    /// Ends what runs, or takes it over; then everything has to arrive and be settled.
    async fn finish(mut self) {
        self.reap().await;
        let takes_over = self.dice.random_bool(0.3);
        if !takes_over {
            for relay in std::mem::take(&mut self.relays) {
                relay.drain(self.is_alone).await;
            }
            self.is_alone = true;
        }
        self.start();
        let names: Vec<String> =
            self.world.with(|state| state.plan.specs.iter().map(|s| s.name.clone()).collect());
        let is_complete = |state: &State| names.iter().all(|name| state.missing(name).is_empty());
        if !within(&self.world, CATCH_UP, is_complete).await {
            self.world.with(|state| {
                let missing: Vec<_> =
                    names.iter().map(|name| (name.clone(), state.missing(name))).collect();
                state.violate("COMPLETE", format!("missing {missing:?}"));
            });
        }
        for relay in std::mem::take(&mut self.relays) {
            relay.drain(self.is_alone).await;
        }
    }
}
