//! The simulated sink: keeps the order of each key, refuses messages for a while, answers late,
//! wrongly or never, loses its connection and panics.

use std::{collections::HashSet, fmt, ops::Range, panic, time::Duration};

use async_trait::async_trait;
use posthaste_core::{MessageRef, Position, Template};
use posthaste_relay::sink::{
    Batch, Context, Lane, Mark, Outcome, Receipt, Scope, Sink, SinkError, SinkErrorKind, Target,
};
use rand::{Rng as _, rngs::SmallRng};
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    broken::Broken,
    world::{Arrival, Fate, Kept, State, World, millis},
};

/// Longer than every time-out of a plan.
const FOREVER: Duration = Duration::from_hours(1);

/// One subscription's sink as one relay sees it.
pub(crate) struct SimTarget {
    pub(crate) world: World,
    pub(crate) subscription: String,
    pub(crate) relay: u32,
    /// What its destinations are called: one for each topic.
    pub(crate) names: Template,
}

impl fmt::Debug for SimTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of relay {}", self.subscription, self.relay)
    }
}

#[async_trait]
impl Target for SimTarget {
    fn describe(&self) -> String {
        format!("simulated {}", self.subscription)
    }

    fn destination(&self) -> Option<&Template> {
        Some(&self.names)
    }

    async fn connect(&self, _: &Context, lane: &Lane) -> Result<Box<dyn Sink>, SinkError> {
        let key = ("connect", self.relay, lane.name.clone());
        let (fate, latency) = self.world.with(|state| {
            let mut dice = state.dice(key);
            (state.sink_fate(&mut dice), sink_latency(state, &mut dice))
        });
        sleep(latency).await;
        match fate {
            Fate::Done | Fate::After => {}
            Fate::Hang | Fate::Stuck => sleep(FOREVER).await,
            Fate::Before | Fate::Panic => {
                self.world.with(|state| state.disturb("connect refused"));
                return Err(SinkError::new(SinkErrorKind::Unavailable, "connect"));
            }
        }
        let held = self.world.with(|state| claim(state, &self.subscription, lane))?;
        let (world, subscription) = (self.world.clone(), self.subscription.clone());
        let lane = lane.name.clone();
        let relay = self.relay;
        let calls = held.as_ref().map_or(0, |held| held.mark.calls);
        Ok(Box::new(SimSink { world, subscription, lane, relay, is_connected: true, held, calls }))
    }
}

/// Takes a lane over, and reads where it stands.
fn claim(state: &mut State, subscription: &str, lane: &Lane) -> Result<Option<Kept>, SinkError> {
    if !state.plan.keeps_places {
        return Ok(None);
    }
    let arrived = state.arrived.get_mut(subscription).expect("the plan names it");
    let kept = arrived.lanes.entry(lane.name.clone()).or_default();
    let (epoch, connection) = kept.holder;
    if epoch > lane.epoch {
        return Err(SinkError::new(SinkErrorKind::Fenced, "claim"));
    }
    kept.holder = (lane.epoch, if epoch == lane.epoch { connection + 1 } else { 1 });
    Ok(Some(kept.clone()))
}

struct SimSink {
    world: World,
    subscription: String,
    lane: String,
    relay: u32,
    is_connected: bool,
    /// What the lane is held with, and where it stood.
    held: Option<Kept>,
    /// Calls counted by now.
    calls: i64,
}

/// A message of a call.
#[derive(Clone, Hash)]
struct Item {
    id: Uuid,
    key: Option<String>,
    position: Position,
}

/// A part of a batch on its way.
struct Call {
    subscription: String,
    lane: String,
    items: Vec<Item>,
    /// Keys of which an earlier part of the batch left messages.
    held: HashSet<String>,
    place: Option<Place>,
    arrival: Arrival,
}

/// What a call does to a lane's place.
struct Place {
    holder: (i64, u64),
    /// Calls before it.
    calls: i64,
    text: String,
    /// What is missing before it.
    missing: Vec<Position>,
}

#[async_trait]
impl Sink for SimSink {
    async fn publish(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
        self.world.with(|state| check_batch(state, self.relay, &self.subscription, batch));
        if !self.is_connected {
            return Err(SinkError::new(SinkErrorKind::Unavailable, "publish after the end"));
        }
        let (relay, lane) = (self.relay, self.lane.clone());
        let ids: Vec<Uuid> = batch.messages().map(|message| message.id).collect();
        let mut dice = self.world.with(|state| state.dice(("publish", relay, &lane, &ids)));
        // A sink that keeps places may take a batch in two calls.
        let is_cut = self.held.is_some() && batch.len() > 1 && dice.random_bool(0.5);
        let cut = if is_cut { dice.random_range(1..batch.len()) } else { batch.len() };
        let mut outcomes = Vec::with_capacity(batch.len());
        for part in [0..cut, cut..batch.len()] {
            if part.is_empty() {
                continue;
            }
            let call = self.call(batch, part.clone(), &outcomes);
            match self.send(call, &mut dice).await? {
                Receipt::Each(each) => outcomes.extend(each),
                Receipt::AllAccepted => {
                    outcomes.extend(std::iter::repeat_n(Outcome::Accepted, part.len()));
                }
            }
        }
        let is_whole = outcomes.len() == batch.len()
            && outcomes.iter().all(|outcome| *outcome == Outcome::Accepted);
        Ok(if is_whole && dice.random_bool(0.5) {
            Receipt::AllAccepted
        } else {
            Receipt::Each(outcomes)
        })
    }

    fn mark(&self) -> Option<&Mark> {
        self.held.as_ref().map(|held| &held.mark)
    }

    fn calls(&self) -> Option<i64> {
        self.held.as_ref().map(|_| self.calls)
    }

    async fn close(&mut self) -> Result<(), SinkError> {
        let key = ("close", self.relay, self.subscription.clone());
        let latency = self.world.with(|state| {
            let mut dice = state.dice(key);
            sink_latency(state, &mut dice)
        });
        sleep(latency).await;
        Ok(())
    }
}

impl SimSink {
    /// The part of a batch that follows `outcomes`.
    fn call(&self, batch: &Batch<'_>, part: Range<usize>, outcomes: &[Outcome]) -> Call {
        let item = |message: MessageRef<'_>| Item {
            id: message.id,
            key: message.key.map(str::to_owned),
            position: message.position,
        };
        let left = outcomes.iter().enumerate().filter(|(_, it)| **it != Outcome::Accepted);
        let left: Vec<MessageRef<'_>> = left.map(|(nth, _)| batch.message(nth)).collect();
        let last = batch.message(part.end - 1);
        let withheld = batch.marks().withheld().iter();
        let withheld = withheld.filter(|position| **position < last.position);
        let later = batch.marks().open().iter().filter(|position| **position > last.position);
        let place = self.held.as_ref().map(|held| Place {
            holder: held.holder,
            calls: self.calls,
            text: batch.marks().text(&last),
            missing: left
                .iter()
                .map(|message| message.position)
                .chain(withheld.chain(later).copied())
                .collect(),
        });
        let faults = self.world.with(|state| state.tally.faults);
        Call {
            subscription: self.subscription.clone(),
            lane: self.lane.clone(),
            items: batch.slice(part).messages().map(item).collect(),
            held: left.iter().filter_map(|message| message.key).map(str::to_owned).collect(),
            place,
            arrival: Arrival { relay: self.relay, disturbances: faults },
        }
    }

    /// Sends one call; what becomes of it is up to the dice.
    async fn send(&mut self, call: Call, dice: &mut SmallRng) -> Result<Receipt, SinkError> {
        let (fate, before, after) = self.world.with(|state| {
            let fate = state.sink_fate(dice);
            (fate, sink_latency(state, dice), sink_latency(state, dice))
        });
        let (subscription, lane) = (call.subscription.clone(), call.lane.clone());
        let mut apply_dice = dice.clone();
        let apply = move |state: &mut State| take(state, &mut apply_dice, call);
        sleep(before).await;
        self.world.stand_still(self.relay).await;
        if self.world.with(|state| state.is_broken(Broken::SinkAnswersFirst)) {
            let world = self.world.clone();
            tokio::spawn(async move {
                sleep(Duration::from_millis(100)).await;
                world.with(apply);
            });
            return Ok(Receipt::AllAccepted);
        }
        if fate != Fate::Done {
            self.is_connected = false;
            return self.fail(fate, after, dice, apply).await;
        }
        let receipt = self.world.with(apply);
        let counted = |state: &mut State| state.arrived[&subscription].lanes[&lane].mark.calls;
        if self.held.is_some() {
            self.calls = self.world.with(counted);
        }
        sleep(after).await;
        receipt.ok_or_else(|| SinkError::new(SinkErrorKind::Displaced, "publish"))
    }

    async fn fail(
        &mut self,
        fate: Fate,
        after: Duration,
        dice: &mut SmallRng,
        apply: impl FnOnce(&mut State) -> Option<Receipt> + Send + 'static,
    ) -> Result<Receipt, SinkError> {
        match fate {
            Fate::Before | Fate::Done => {}
            Fate::After => {
                let _ = self.world.with(apply);
                sleep(after).await;
            }
            Fate::Hang => {
                self.world.with(|state| state.disturb("sink hangs"));
                sleep(FOREVER).await;
            }
            Fate::Stuck => {
                let world = self.world.clone();
                self.world.with(|state| state.disturb("sink is stuck"));
                let delay = millis(dice, 0, 4_000);
                tokio::spawn(async move {
                    sleep(delay).await;
                    world.with(|state| {
                        state.disturb("a stuck batch comes through");
                        let _ = apply(state);
                    });
                });
                sleep(FOREVER).await;
            }
            Fate::Panic => {
                self.world.with(|state| {
                    dice.random_bool(0.5).then(|| apply(state));
                    state.tally.panics += 1;
                    state.disturb("sink panics");
                });
                // Unwinds without the hook that would print it.
                panic::resume_unwind(Box::new("simulated"));
            }
        }
        self.world.with(|state| {
            state.disturb("sink fails");
            if self.held.is_none() && dice.random_bool(0.2) {
                return Ok(Receipt::Each(Vec::new()));
            }
            let kinds = [SinkErrorKind::Unavailable, SinkErrorKind::Resources];
            Err(SinkError::new(kinds[dice.random_range(0..2)], "publish"))
        })
    }
}

fn sink_latency(state: &State, dice: &mut SmallRng) -> Duration {
    millis(dice, 1, state.plan.sink_ms)
}

/// BOUNDED: batches keep to their limits, and hold what the subscription asked for.
fn check_batch(state: &mut State, relay: u32, name: &str, batch: &Batch<'_>) {
    state.check_not_fenced(relay, name, "publishes");
    let count = batch.len();
    if count == 0 || count > state.plan.settings.batch_messages {
        state.violate("BOUNDED", format!("{name} is handed {count} messages at once"));
    }
    let mut last = 0;
    for message in batch.messages() {
        let is_wanted = state.subscribed[name].filter.matches(message.topic);
        if !is_wanted || message.position <= last {
            let what = format!("position {} ({})", message.position, message.topic);
            state.violate("ORDERED", format!("{name} is handed {what} out of turn"));
        }
        last = message.position;
    }
}

/// Takes a call, message by message, in order within each key, and moves the lane's place with
/// it. `None`, and nothing done, when the lane stands elsewhere or is somebody else's.
fn take(state: &mut State, dice: &mut SmallRng, call: Call) -> Option<Receipt> {
    let name = &*call.subscription;
    if let Some(place) = &call.place {
        state.fail_over(dice, name, &call.lane);
        let kept = &state.arrived[name].lanes[&call.lane];
        let is_mine = kept.holder == place.holder;
        let is_next = is_mine && kept.mark.calls == place.calls;
        if !is_next && !state.is_broken(Broken::SinkIgnoresPlaces) {
            return None;
        }
        if !is_mine {
            let what = format!("{} takes a call of an earlier connection", call.lane);
            state.violate("FENCED", what);
        }
    }
    if state.is_broken(Broken::SinkForgets) && dice.random_bool(0.05) {
        return Some(Receipt::AllAccepted);
    }
    let partial = if state.are_faults_on { state.plan.faults.partial } else { 0.0 };
    let mut held = call.held;
    let mut is_full = false;
    let mut outcomes = Vec::with_capacity(call.items.len());
    let mut untaken = Vec::new();
    for Item { id, key, position } in call.items {
        is_full |= dice.random_bool(partial / 4.0);
        let waits = key.as_deref().is_some_and(|key| held.contains(key));
        let outcome = if is_full || waits {
            let scope = if is_full { Scope::Sink } else { Scope::Key };
            Outcome::Retry { scope, reason: "busy".to_owned() }
        } else if refuses(state, dice, name, id, partial) {
            if !state.is_broken(Broken::SinkLetsKeysOvertake) {
                held.extend(key);
            }
            refusal(state, dice)
        } else {
            state.arrive(name, id, call.arrival);
            Outcome::Accepted
        };
        if outcome != Outcome::Accepted {
            untaken.push(position);
        }
        outcomes.push(outcome);
    }
    if !untaken.is_empty() {
        // A drain that meets such a batch settles nothing of it.
        state.disturb("sink takes a part");
    }
    if let Some(place) = call.place {
        if state.is_broken(Broken::SinkForgetsWhatIsMissing) {
            untaken.clear();
        }
        let arrived = state.arrived.get_mut(name).expect("looked at before");
        let kept = arrived.lanes.get_mut(&call.lane).expect("looked at before");
        let missing = place.missing.into_iter().chain(untaken).collect();
        kept.mark = Mark { calls: place.calls + 1, text: place.text, missing };
    }
    Some(Receipt::Each(outcomes))
}

/// The message's fault, or its destination's.
fn refusal(state: &State, dice: &mut SmallRng) -> Outcome {
    if state.is_broken(Broken::SinkHidesRefusals) {
        return Outcome::Accepted;
    }
    let reason = "not yet".to_owned();
    if dice.random_bool(0.5) {
        Outcome::Retry { scope: Scope::Destination, reason }
    } else {
        Outcome::Reject { reason }
    }
}

/// Whether the sink refuses a message: some it does a few times, and then no more.
fn refuses(state: &mut State, dice: &mut SmallRng, name: &str, id: Uuid, partial: f64) -> bool {
    let times = if dice.random_bool(partial) { dice.random_range(1..4) } else { 0 };
    let arrived = state.arrived.get_mut(name).expect("the plan names it");
    if arrived.last.contains_key(&id) {
        return false;
    }
    let left = arrived.refusals.entry(id).or_insert(times);
    let refuses = *left > 0;
    *left = left.saturating_sub(1);
    refuses
}
