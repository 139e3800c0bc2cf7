//! Which fault comes when: drawn from the seed alone, so that the same seed gives the same
//! schedule, whatever the machine does meanwhile.

use std::{fmt, time::Duration};

use posthaste_testkit::proxy::NetFault;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};

/// The steps of a pipeline at which it may be stopped (`crates/relay/src/failpoint.rs`), how often
/// each is drawn, and at which of its occurrences at most.
const POINTS: [Step; 19] = [
    Step::of_start("acquiring", 2, "settled"),
    Step::of_start("acquired", 2, "settled"),
    Step::of_start("connected", 3, "answered"),
    Step::of_start("beginning", 3, "answered"),
    Step::of_start("catching-up", 3, "retried"),
    Step::of_run("ticked", 2, 10),
    Step::of_run("looked", 1, 10),
    Step::of_run("page-read", 3, 10),
    Step::of_run("publishing", 6, 10),
    Step::of_run("call-answered", 6, 10),
    Step::of_run("answered", 6, 10),
    Step::of_run("place-moved", 4, 10),
    Step::of_run("setting-aside", 5, 3),
    Step::of_run("set-aside", 5, 3),
    Step::of_run("settling", 5, 10),
    Step::of_run("settled", 5, 10),
    Step::of_run("retrying", 4, 3),
    Step::of_run("retried", 4, 3),
    Step::of_run("unparking", 4, 2),
];

/// The same of a worker (`crates/worker`, and the handlers of [`crate::jobs::work`]).
const WORKER_POINTS: [Step; 13] = [
    Step::of_run("taken", 4, 10),
    Step::of_run("begun", 4, 10),
    Step::of_run("handling", 6, 10),
    Step::of_run("effect", 5, 10),
    Step::of_run("committing", 8, 10),
    Step::of_run("committed", 7, 10),
    Step::of_run("answering", 5, 5),
    Step::of_run("finishing", 6, 10),
    Step::of_run("finished", 7, 10),
    Step::of_run("acknowledged", 4, 10),
    Step::of_run("renewing", 3, 2),
    Step::of_run("watching", 3, 2),
    Step { behind: Some("effect"), ..Step::of_run("took-over", 3, 1) },
];

/// Six months.
const CLOCK_SECONDS_MAX: i64 = 6 * 30 * 24 * 3_600;

/// Divisible by every likely number of workers.
const VICTIMS: usize = 5_040;

/// The rarest fault at the rarest step is drawn once in some 10,000.
const DRAWS_MAX: u32 = 1_000_000;

/// A step at which faults strike.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) point: &'static str,
    weight: u32,
    nth_max: u32,
    /// It is passed only at the beginning of a run: a relay is killed at this other step first, and
    /// the next one struck as it comes up. Or only after another worker was killed at this step.
    pub(crate) behind: Option<&'static str>,
}

impl Step {
    const fn of_run(point: &'static str, weight: u32, nth_max: u32) -> Self {
        Self { point, weight, nth_max, behind: None }
    }

    const fn of_start(point: &'static str, weight: u32, behind: &'static str) -> Self {
        Self { point, weight, nth_max: 1, behind: Some(behind) }
    }
}

/// What happens to a relay that stands at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9`, and another one starts.
    KillRelay,
    /// `SIGSTOP`, and `SIGCONT` after a while.
    PauseRelay(Duration),
    /// Paused; another one takes over, and then it is continued.
    Takeover,
    /// Paused; another one is about to take over when it is continued, and does so after that.
    Overlap,
    /// What stands still panics; everything that it and its neighbours were doing is dropped.
    Panic,
    /// The relays' wall clock is wrong by that many seconds from now on.
    SetClock(i64),
    /// The database's disk is full, for a while.
    FillDisk(Duration),
    /// `kill -9` of the database server with all its processes, and a restart.
    KillPostgres,
    /// `kill -9` of Redis, and a restart.
    KillRedis,
    /// `kill -9` of the worker that stands still, and another one starts.
    KillWorker,
    /// `SIGSTOP` for longer than its lease, and `SIGCONT`.
    PauseWorker(Duration),
    /// `FLUSHALL`: nothing is left in Redis.
    FlushRedis,
    /// Another kind of data stands under the name of a destination, for a while.
    WrongType {
        /// Number of the destination.
        destination: usize,
        hold: Duration,
    },
    /// A fault between the relay and the database, for a while.
    NetPostgres(NetFault, Duration),
    /// A fault between the relay and Redis, for a while.
    NetRedis(NetFault, Duration),
}

/// One fault and where it strikes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strike {
    pub(crate) fault: Fault,
    pub(crate) step: &'static Step,
    pub(crate) nth: u32,
    /// Also leaves a transaction open for a while that began before it.
    pub(crate) long_transaction: bool,
    /// The number of the worker that is struck, once divided by how many there are.
    pub(crate) victim: usize,
}

/// What may be drawn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    /// Destinations are channels: whoever listens misses what is published while Redis is away, and
    /// no other kind of data stands under their names.
    pub(crate) of_channels: bool,
    /// The log is in a file: there is no server, and no connection to one.
    pub(crate) in_file: bool,
    /// Workers stand still at their steps, instead of relays at theirs.
    pub(crate) of_workers: bool,
    /// Faults of these kinds only, if any are named.
    pub(crate) kinds: Vec<String>,
    /// At these steps only, if any are named.
    pub(crate) points: Vec<String>,
}

/// An endless schedule, unless the scope names what does not exist.
pub(crate) struct Schedule {
    rng: SmallRng,
    scope: Scope,
}

impl Fault {
    /// What it is called in reports.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::KillRelay => "kill relay",
            Self::PauseRelay(_) => "pause relay",
            Self::Takeover => "takeover",
            Self::Overlap => "overlap",
            Self::Panic => "panic",
            Self::SetClock(_) => "clock jumps",
            Self::FillDisk(_) => "disk full",
            Self::KillPostgres => "kill PostgreSQL",
            Self::KillRedis => "kill Redis",
            Self::KillWorker => "kill worker",
            Self::PauseWorker(_) => "pause worker",
            Self::FlushRedis => "flush Redis",
            Self::WrongType { .. } => "wrong type in Redis",
            Self::NetPostgres(fault, _) => match fault {
                NetFault::None => "PostgreSQL: none",
                NetFault::Latency(_) => "PostgreSQL: latency",
                NetFault::Reset { .. } => "PostgreSQL: reset",
                NetFault::HalfOpen => "PostgreSQL: half-open",
                NetFault::Trickle => "PostgreSQL: one byte a second",
                NetFault::ReplyLost => "PostgreSQL: reply lost",
                NetFault::HoldBack => "PostgreSQL: bytes held back",
            },
            Self::NetRedis(fault, _) => match fault {
                NetFault::None => "Redis: none",
                NetFault::Latency(_) => "Redis: latency",
                NetFault::Reset { .. } => "Redis: reset",
                NetFault::HalfOpen => "Redis: half-open",
                NetFault::Trickle => "Redis: one byte a second",
                NetFault::ReplyLost => "Redis: reply lost",
                NetFault::HoldBack => "Redis: bytes held back",
            },
        }
    }

    fn draw(rng: &mut SmallRng) -> Self {
        let pause = Duration::from_millis(rng.random_range(50..1_500));
        match rng.random_range(0..100) {
            0..30 => Self::KillRelay,
            // Up to three times the lease.
            30..40 => Self::PauseRelay(pause * 2),
            40..47 => Self::Panic,
            47..49 => Self::SetClock(rng.random_range(-CLOCK_SECONDS_MAX..CLOCK_SECONDS_MAX)),
            49..51 => Self::FillDisk(pause),
            51..59 => Self::Takeover,
            59..62 => Self::Overlap,
            62..66 => Self::KillPostgres,
            66..72 => Self::KillRedis,
            72..76 => {
                // So long that what waits goes out in several calls at once.
                let hold = pause + Duration::from_secs(1);
                Self::WrongType { destination: rng.random_range(0..5), hold }
            }
            76..87 => {
                let (fault, hold) = draw_net(rng);
                Self::NetPostgres(fault, hold)
            }
            _ => {
                let (fault, hold) = draw_net(rng);
                Self::NetRedis(fault, hold)
            }
        }
    }

    fn draw_of_workers(rng: &mut SmallRng) -> Self {
        // The lease is one second, and found to be over within another.
        let pause = Duration::from_millis(rng.random_range(1_200..3_500));
        match rng.random_range(0..100) {
            0..40 => Self::KillWorker,
            40..56 => Self::PauseWorker(pause),
            56..60 => Self::Panic,
            60..68 => Self::KillRelay,
            68..73 => Self::KillPostgres,
            73..79 => Self::KillRedis,
            79..85 => Self::FlushRedis,
            85..87 => Self::SetClock(rng.random_range(-CLOCK_SECONDS_MAX..CLOCK_SECONDS_MAX)),
            87..94 => {
                let (fault, hold) = draw_net(rng);
                Self::NetPostgres(fault, hold)
            }
            _ => {
                let (fault, hold) = draw_net(rng);
                Self::NetRedis(fault, hold)
            }
        }
    }
}

fn draw_net(rng: &mut SmallRng) -> (NetFault, Duration) {
    let fault = match rng.random_range(0..12) {
        0 => NetFault::Latency(Duration::from_millis(rng.random_range(5..100))),
        1..4 => NetFault::Reset { after_bytes: rng.random_range(0..40_000) },
        4 => NetFault::HalfOpen,
        5 => NetFault::Trickle,
        6..9 => NetFault::ReplyLost,
        _ => NetFault::HoldBack,
    };
    // Long enough for the relay's time-outs of 2 s to run out, where it has to wait for them.
    let hold = match fault {
        NetFault::HalfOpen | NetFault::Trickle => Duration::from_millis(2_500),
        _ => Duration::from_millis(500),
    };
    (fault, hold)
}

impl Scope {
    fn admits(&self, strike: &Strike) -> bool {
        let is_named = |named: &[String], what: &str| {
            named.is_empty() || named.iter().any(|name| name == what)
        };
        is_named(&self.kinds, strike.fault.kind())
            && is_named(&self.points, strike.step.point)
            && !(self.of_channels
                && matches!(strike.fault, Fault::KillRedis | Fault::WrongType { .. }))
            && !(self.in_file
                && matches!(
                    strike.fault,
                    Fault::KillPostgres | Fault::FillDisk(_) | Fault::NetPostgres(..)
                ))
    }
}

impl Schedule {
    pub(crate) fn new(seed: u64, scope: Scope) -> Self {
        Self { rng: SmallRng::seed_from_u64(seed), scope }
    }

    fn draw(&mut self) -> Strike {
        let rng = &mut self.rng;
        if self.scope.of_workers {
            let fault = Fault::draw_of_workers(rng);
            let step = WORKER_POINTS.choose_weighted(rng, |step| step.weight);
            let step = step.unwrap_or(&WORKER_POINTS[0]);
            let nth = rng.random_range(1..=step.nth_max);
            let victim = rng.random_range(0..VICTIMS);
            return Strike { fault, step, nth, long_transaction: false, victim };
        }
        let fault = Fault::draw(rng);
        let step = POINTS.choose_weighted(rng, |step| step.weight).unwrap_or(&POINTS[0]);
        let nth = rng.random_range(1..=step.nth_max);
        Strike { fault, step, nth, long_transaction: rng.random_bool(0.1), victim: 0 }
    }
}

impl Iterator for Schedule {
    type Item = Strike;

    fn next(&mut self) -> Option<Strike> {
        (0..DRAWS_MAX).find_map(|_| Some(self.draw()).filter(|strike| self.scope.admits(strike)))
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} at {} {}", self.fault.kind(), self.step.point, self.nth)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn drawn(seed: u64, scope: Scope) -> Vec<String> {
        Schedule::new(seed, scope).take(2_000).map(|strike| strike.to_string()).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_schedule() {
        assert_eq!(drawn(7, Scope::default()), drawn(7, Scope::default()));
        assert_ne!(drawn(7, Scope::default()), drawn(8, Scope::default()));
    }

    #[test]
    fn every_step_and_every_kind_is_drawn_unless_the_scope_forbids_it() {
        let kinds = |scope| -> HashSet<&str> {
            Schedule::new(1, scope).take(2_000).map(|strike| strike.fault.kind()).collect()
        };
        assert_eq!(kinds(Scope::default()).len(), 22);
        let stays = Scope { of_channels: true, ..Scope::default() };
        assert!(!kinds(stays).contains("kill Redis"));
        let workers = Scope { of_workers: true, ..Scope::default() };
        assert!(kinds(workers.clone()).is_superset(&HashSet::from(["kill worker", "flush Redis"])));
        assert_eq!(drawn(7, workers.clone()), drawn(7, workers));
        let steps: HashSet<&str> =
            Schedule::new(1, Scope::default()).take(2_000).map(|it| it.step.point).collect();
        assert_eq!(steps.len(), POINTS.len());
        let only = Scope { kinds: vec!["takeover".to_owned()], ..Scope::default() };
        assert_eq!(kinds(only), HashSet::from(["takeover"]));
    }
}
