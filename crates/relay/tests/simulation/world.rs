//! Everything outside the relay, in one place: the database, the sinks, the faults and the clock.
//!
//! One thread and a paused clock run the simulation; the mutex only satisfies the types.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    hash::{DefaultHasher, Hash, Hasher as _},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use posthaste_core::{Place, Position, Snapshot, Tick, TopicFilter};
use posthaste_relay::sink::Mark;
use posthaste_store::{FailedMessage, ParkedKey};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::{aside::Waiting, broken::Broken, checks::Tally, model::Database, plan::Plan};

/// What a writer enqueues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub(crate) id: Uuid,
    pub(crate) topic: &'static str,
    pub(crate) key: Option<String>,
}

/// A committed message as the checks look it up.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) position: Position,
    pub(crate) taken_at: u64,
    pub(crate) committed_at: u64,
    pub(crate) key: Option<String>,
}

/// A subscription in the database.
#[derive(Clone, Debug)]
pub(crate) struct Subscribed {
    pub(crate) filter: TopicFilter,
    pub(crate) start: Snapshot,
    pub(crate) epoch: i64,
    /// Who holds it, and until when.
    pub(crate) holder: Option<(String, Instant)>,
    pub(crate) place: Place,
    /// Messages that the place is known to have passed.
    pub(crate) passed: HashSet<Uuid>,
    /// Calls of the second lane that are written down.
    pub(crate) retry_calls: i64,
    /// Parked keys.
    pub(crate) keys: BTreeMap<String, Waiting<ParkedKey>>,
    /// Messages set aside, by position.
    pub(crate) aside: BTreeMap<Position, Waiting<FailedMessage>>,
}

/// What has arrived at a subscription's sink.
#[derive(Clone, Debug, Default)]
pub(crate) struct Arrived {
    /// First arrivals in order.
    pub(crate) first: Vec<Uuid>,
    /// The last arrival of each message.
    pub(crate) last: HashMap<Uuid, Arrival>,
    /// How often the sink still refuses a message.
    pub(crate) refusals: HashMap<Uuid, u32>,
    /// When the latest position among the arrivals of each key was taken.
    pub(crate) taken: BTreeMap<Option<String>, u64>,
    /// The places that the sink keeps, by lane.
    pub(crate) lanes: BTreeMap<String, Kept>,
}

/// A lane's place in a sink.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    /// Epoch and number of the connection that holds it.
    pub(crate) holder: (i64, u64),
    pub(crate) mark: Mark,
}

/// One arrival.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) relay: u32,
    /// Disturbances up to the begin of the batch.
    pub(crate) disturbances: u64,
}

/// A broken invariant.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) at: Duration,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {:?}: {}", self.invariant, self.at, self.what)
    }
}

/// The state behind the lock.
pub(crate) struct State {
    pub(crate) plan: Arc<Plan>,
    /// How often each event has been diced for.
    pub(crate) thrown: HashMap<u64, u64>,
    pub(crate) began: Instant,
    pub(crate) database: Database<Body>,
    pub(crate) known: HashMap<Uuid, Known>,
    /// Messages whose commits a crash has undone.
    pub(crate) lost: HashSet<Uuid>,
    pub(crate) ticks: Vec<Tick>,
    pub(crate) subscribed: BTreeMap<String, Subscribed>,
    pub(crate) arrived: BTreeMap<String, Arrived>,
    /// What a subscription's sink goes back to if it fails over.
    pub(crate) replicas: BTreeMap<String, Arrived>,
    /// Subscriptions whose sinks have lost calls, until their places have been set back.
    pub(crate) bereft: HashSet<String>,
    /// Subscriptions whose sinks have ever lost calls: what is published again is all there, but may
    /// come twice or behind what the second lane has published meanwhile.
    pub(crate) repaired: HashSet<String>,
    /// Counts the database's lives; connections of an earlier one are broken.
    pub(crate) life: u64,
    pub(crate) is_down: bool,
    pub(crate) are_faults_on: bool,
    /// Ordering keys that an open transaction has locked.
    pub(crate) locked: BTreeSet<u8>,
    /// Relays that have told of the end of their drain.
    pub(crate) drained: HashSet<u32>,
    /// When a relay was told that it lost a subscription.
    pub(crate) fenced: HashMap<(u32, String), Instant>,
    /// Relays, when they were last heard of, and what they could hold.
    pub(crate) relays: BTreeMap<String, (Instant, Vec<String>)>,
    /// Relays whose calls stand still, as those of a stopped process do, and until when.
    pub(crate) stalled: HashMap<u32, Instant>,
    /// Who has acquired what, ever.
    pub(crate) acquired: HashSet<(u32, String)>,
    /// Pages that a relay of one subscription has read since it acquired it.
    pub(crate) pages: HashMap<u32, Vec<Vec<Uuid>>>,
    pub(crate) violations: Vec<Violation>,
    /// Faults that have struck, in order.
    pub(crate) struck: Vec<u64>,
    pub(crate) tally: Tally,
    /// When what happened, to compare two runs of a seed.
    pub(crate) history: Vec<String>,
}

/// What may befall a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It works.
    Done,
    /// It fails before any effect.
    Before,
    /// It takes effect and the answer is lost.
    After,
    /// No effect and no answer.
    Hang,
    /// No answer, and the effect comes after the caller has given up.
    Stuck,
    /// A programming error (sinks only).
    Panic,
}

/// A time between two bounds, in whole milliseconds.
pub(crate) fn millis(dice: &mut SmallRng, low: u64, high: u64) -> Duration {
    Duration::from_millis(dice.random_range(low..=high))
}

/// The shared handle.
#[derive(Clone)]
pub(crate) struct World {
    state: Arc<Mutex<State>>,
}

impl World {
    pub(crate) fn new(plan: Plan) -> Self {
        let names = plan.specs.iter().map(|spec| spec.name.clone());
        let state = State {
            arrived: names.map(|name| (name, Arrived::default())).collect(),
            plan: Arc::new(plan),
            replicas: BTreeMap::new(),
            bereft: HashSet::new(),
            repaired: HashSet::new(),
            thrown: HashMap::new(),
            began: Instant::now(),
            database: Database::new(1_000),
            known: HashMap::new(),
            lost: HashSet::new(),
            ticks: vec![Tick::beginning()],
            subscribed: BTreeMap::new(),
            life: 0,
            is_down: false,
            are_faults_on: true,
            locked: BTreeSet::new(),
            drained: HashSet::new(),
            fenced: HashMap::new(),
            relays: BTreeMap::new(),
            stalled: HashMap::new(),
            acquired: HashSet::new(),
            pages: HashMap::new(),
            violations: Vec::new(),
            struck: Vec::new(),
            tally: Tally::default(),
            history: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// Waits until the calls of a relay go on.
    pub(crate) async fn stand_still(&self, relay: u32) {
        while let Some(until) = self.with(|state| state.stalled.get(&relay).copied())
            && until > Instant::now()
        {
            sleep_until(until).await;
        }
    }

    /// Looks at or changes the state; nothing waits meanwhile.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    /// The dice for one event. They depend on the seed, on what happens and on how often it has
    /// happened before, not on anything beside it, so that the order in which tasks of the same
    /// moment run makes no difference.
    pub(crate) fn dice(&mut self, what: impl Hash) -> SmallRng {
        let mut hasher = DefaultHasher::new();
        (self.plan.seed, what).hash(&mut hasher);
        let event = hasher.finish();
        let count = self.thrown.entry(event).or_default();
        *count += 1;
        SmallRng::seed_from_u64(event.wrapping_add(*count))
    }

    pub(crate) fn is_broken(&self, broken: Broken) -> bool {
        self.plan.broken == Some(broken)
    }

    /// Whether a fault strikes, of this chance. What the dice would show next names it.
    pub(crate) fn strikes(&mut self, dice: &mut SmallRng, chance: f64) -> bool {
        if !self.are_faults_on || !dice.random_bool(chance) {
            return false;
        }
        let fault = dice.clone().random();
        let strikes = !self.plan.spared.contains(&fault);
        if strikes {
            self.struck.push(fault);
        }
        strikes
    }

    pub(crate) fn store_fate(&mut self, dice: &mut SmallRng) -> Fate {
        if !self.strikes(dice, self.plan.faults.store) {
            return Fate::Done;
        }
        match dice.random_range(0..10) {
            0..4 => Fate::Before,
            4..8 => Fate::After,
            8 => Fate::Hang,
            _ => Fate::Stuck,
        }
    }

    pub(crate) fn sink_fate(&mut self, dice: &mut SmallRng) -> Fate {
        if !self.strikes(dice, self.plan.faults.sink) {
            return Fate::Done;
        }
        match dice.random_range(0..12) {
            0..4 => Fate::Before,
            4..8 => Fate::After,
            8 => Fate::Hang,
            9 => Fate::Stuck,
            _ => Fate::Panic,
        }
    }

    /// Before a call: the sink may fail over to a replica that lacks the latest calls of the first
    /// lane. What the second lane has published is not repaired, so a replica has all of that.
    pub(crate) fn fail_over(&mut self, dice: &mut SmallRng, name: &str, lane: &str) {
        if lane != name {
            self.replicas.remove(name);
            return;
        }
        let arrived = &self.arrived[name];
        let calls = |of: &Arrived| of.lanes.get(lane).map_or(0, |kept| kept.mark.calls);
        let Some(replica) = self.replicas.get(name) else {
            // One that holds nothing is not repaired either: nobody can tell what was consumed.
            if calls(arrived) > 0 && dice.random_bool(0.2) {
                self.replicas.insert(name.to_owned(), arrived.clone());
            }
            return;
        };
        let has_less = calls(replica) < calls(arrived);
        if !has_less || !self.strikes(dice, self.plan.faults.failover) {
            return;
        }
        let Some(mut replica) = self.replicas.remove(name) else { return };
        let arrived = self.arrived.get_mut(name).expect("the plan names it");
        std::mem::swap(&mut replica.refusals, &mut arrived.refusals);
        for (lane, kept) in &arrived.lanes {
            replica.lanes.entry(lane.clone()).or_default().holder = kept.holder;
        }
        *arrived = replica;
        self.bereft.insert(name.to_owned());
        self.repaired.insert(name.to_owned());
        self.pages.clear();
        self.tally.failovers += 1;
        self.disturb("sink loses its tail");
    }

    /// Notes that something happened after which repeats are excusable.
    pub(crate) fn disturb(&mut self, what: &str) {
        self.tally.faults += 1;
        self.note(what);
    }

    pub(crate) fn note(&mut self, what: &str) {
        let at = self.began.elapsed();
        self.history.push(format!("{at:?} {what}"));
    }

    pub(crate) fn violate(&mut self, invariant: &'static str, what: String) {
        let at = self.began.elapsed();
        self.violations.push(Violation { invariant, at, what });
    }

    /// Commits a writer's transaction and tells the checks of its messages.
    pub(crate) fn commit(&mut self, handle: u64, is_synchronous: bool) -> Option<()> {
        let before = self.database.rows().len();
        self.database.commit(handle)?;
        for row in &self.database.rows()[before..] {
            let known = Known {
                position: row.position,
                taken_at: row.taken_at,
                committed_at: row.committed_at,
                key: row.body.key.clone(),
            };
            self.known.insert(row.body.id, known);
        }
        if is_synchronous {
            self.database.sync();
        }
        Some(())
    }

    /// The database's process ends; it stays away until somebody sets `is_down` back.
    pub(crate) fn crash(&mut self) {
        let skipped = self.dice("crash").random_range(0..32);
        let gone = self.database.crash(skipped);
        self.life += 1;
        self.is_down = true;
        self.locked.clear();
        self.disturb("crash");
        for row in gone {
            self.known.remove(&row.body.id);
            self.lost.insert(row.body.id);
            self.tally.lost_in_crashes += 1;
            self.check_not_published(row.body.id);
        }
    }
}
