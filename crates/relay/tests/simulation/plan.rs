//! What a seed decides before the simulation begins.

use std::{collections::HashSet, time::Duration};

use posthaste_core::TopicFilter;
use posthaste_relay::{RelaySettings, RetrySettings};
use posthaste_store::{Start, SubscriptionSpec};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng, seq::IndexedRandom as _};

use super::broken::Broken;

/// Topics that writers choose from.
pub(crate) const TOPICS: [&str; 5] = ["order.created", "order.paid", "run.1", "run.2", "audit"];

/// Everything about one simulation that does not depend on what happens in it.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) settings: RelaySettings,
    pub(crate) specs: Vec<SubscriptionSpec>,
    pub(crate) writers: u32,
    /// Longest pause of a writer between transactions, in milliseconds.
    pub(crate) writer_pause_ms: u64,
    /// How long faults, writers and restarts go on.
    pub(crate) duration: Duration,
    /// Longest one-way latency of the store and of the sinks, in milliseconds.
    pub(crate) store_ms: u64,
    pub(crate) sink_ms: u64,
    pub(crate) faults: Faults,
    /// Whether the sinks keep places, so that each message arrives once.
    pub(crate) keeps_places: bool,
    /// Whether some topics are contracted.
    pub(crate) has_contracts: bool,
    /// The part that is broken on purpose.
    pub(crate) broken: Option<Broken>,
    /// Faults that do not strike although their dice say so.
    pub(crate) spared: HashSet<u64>,
}

/// Chances of faults, each between 0 and 1; per call unless named otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Faults {
    pub(crate) store: f64,
    pub(crate) sink: f64,
    /// That a sink refuses a message a few times, or takes only a part of a batch.
    pub(crate) partial: f64,
    /// Crashes of the database per second.
    pub(crate) crash: f64,
    /// That a relay is killed or taken over instead of drained.
    pub(crate) kill: f64,
    /// That a sink which keeps places goes back to what it held some calls ago.
    pub(crate) failover: f64,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let rng = &mut SmallRng::seed_from_u64(seed);
        let specs = (0..rng.random_range(1..=3)).map(|nth| spec(nth, rng)).collect();
        let faults = faults(rng);
        Self {
            seed,
            settings: settings(rng),
            specs,
            writers: rng.random_range(1..6),
            writer_pause_ms: *[20, 100, 500].choose(rng).unwrap(),
            duration: Duration::from_millis(rng.random_range(1_500..6_000)),
            store_ms: *[1, 3, 20].choose(rng).unwrap(),
            sink_ms: *[1, 5, 40].choose(rng).unwrap(),
            faults,
            keeps_places: rng.random_bool(0.6),
            has_contracts: rng.random_bool(0.4),
            broken: None,
            spared: HashSet::new(),
        }
    }
}

/// A third of the seeds is free of faults, so that repeats without a cause stand out.
fn faults(rng: &mut SmallRng) -> Faults {
    if rng.random_bool(0.3) {
        return Faults::default();
    }
    let mut chance = |choices: &[f64]| *choices.choose(rng).unwrap();
    Faults {
        store: chance(&[0.0, 0.005, 0.03, 0.1]),
        sink: chance(&[0.0, 0.02, 0.1, 0.3]),
        partial: chance(&[0.0, 0.02, 0.1]),
        crash: chance(&[0.0, 0.0, 0.3, 1.0]),
        kill: chance(&[0.0, 0.3, 0.8]),
        failover: chance(&[0.0, 0.0, 0.02, 0.1]),
    }
}

fn spec(nth: u32, rng: &mut SmallRng) -> SubscriptionSpec {
    let patterns: &[&str] = match rng.random_range(0..4) {
        0 => &["order.*"],
        1 => &["run.1", "audit"],
        _ => &["*"],
    };
    let start = if rng.random_bool(0.2) { Start::Now } else { Start::Beginning };
    let filter = TopicFilter::new(patterns).unwrap();
    SubscriptionSpec { name: format!("s{nth}"), filter, start }
}

fn settings(rng: &mut SmallRng) -> RelaySettings {
    let busy = rng.random_range(1..20);
    let millis = Duration::from_millis;
    let settings = RelaySettings {
        busy_interval: millis(busy),
        idle_interval: millis(busy + rng.random_range(20..400)),
        batch_messages: *[1, 3, 10, 1_000].choose(rng).unwrap(),
        batch_bytes: *[1 << 10, 1 << 20].choose(rng).unwrap(),
        page_stride: *[1, 7, 50, 5_000].choose(rng).unwrap(),
        page_bytes: *[1 << 10, 1 << 20].choose(rng).unwrap(),
        lease: millis(rng.random_range(300..2_000)),
        operation_timeout: millis(rng.random_range(300..2_000)),
        drain_timeout: millis(rng.random_range(6_000..10_000)),
        restart_delay: millis(rng.random_range(1..500)),
        sweep_interval: millis(rng.random_range(500..5_000)),
        contracts_interval: millis(200),
        // The clock steps by whole milliseconds: the pace of retries comes from the latencies.
        retry: RetrySettings { initial: millis(1), cap: millis(1) },
        ..RelaySettings::default()
    };
    settings.validate().expect("the plan's settings are valid");
    settings
}
