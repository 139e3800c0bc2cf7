//! The simulated sink: keeps the order of each key, refuses messages for a while, answers late,
//! wrongly or never, loses its connection and panics.

use std::{collections::HashSet, fmt, panic, time::Duration};

use async_trait::async_trait;
use posthaste_core::Template;
use posthaste_relay::sink::{
    Batch, Context, Outcome, Receipt, Scope, Sink, SinkError, SinkErrorKind, Target,
};
use rand::{Rng as _, rngs::SmallRng};
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    broken::Broken,
    world::{Arrival, Fate, State, World, millis},
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

    async fn connect(&self, _: &Context, _: &str) -> Result<Box<dyn Sink>, SinkError> {
        let key = ("connect", self.relay, self.subscription.clone());
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
        let world = self.world.clone();
        let subscription = self.subscription.clone();
        Ok(Box::new(SimSink { world, subscription, relay: self.relay, is_connected: true }))
    }
}

struct SimSink {
    world: World,
    subscription: String,
    relay: u32,
    is_connected: bool,
}

/// A message of a batch.
type Item = (Uuid, Option<String>);

#[async_trait]
impl Sink for SimSink {
    async fn publish(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
        let items: Vec<Item> = batch.messages().map(|m| (m.id, m.key.map(str::to_owned))).collect();
        let (relay, name) = (self.relay, self.subscription.clone());
        let mut dice = self.world.with(|state| state.dice(("publish", relay, &name, &items)));
        let (fate, before, after, arrival) = self.world.with(|state| {
            check_batch(state, relay, &name, batch);
            let arrival = Arrival { relay, disturbances: state.tally.faults };
            let fate = state.sink_fate(&mut dice);
            (fate, sink_latency(state, &mut dice), sink_latency(state, &mut dice), arrival)
        });
        if !self.is_connected {
            return Err(SinkError::new(SinkErrorKind::Unavailable, "publish after the end"));
        }
        let mut apply_dice = dice.clone();
        let apply = move |state: &mut State| take(state, &mut apply_dice, &name, &items, arrival);
        sleep(before).await;
        if self.world.with(|state| state.is_broken(Broken::SinkAnswersFirst)) {
            let world = self.world.clone();
            tokio::spawn(async move {
                sleep(Duration::from_millis(100)).await;
                world.with(apply);
            });
            return Ok(Receipt::AllAccepted);
        }
        if fate == Fate::Done {
            let receipt = self.world.with(apply);
            sleep(after).await;
            return Ok(receipt);
        }
        self.is_connected = false;
        self.fail(fate, after, &mut dice, apply).await
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
    async fn fail(
        &mut self,
        fate: Fate,
        after: Duration,
        dice: &mut SmallRng,
        apply: impl FnOnce(&mut State) -> Receipt + Send + 'static,
    ) -> Result<Receipt, SinkError> {
        match fate {
            Fate::Before | Fate::Done => {}
            Fate::After => {
                self.world.with(apply);
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
                        apply(state);
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
            if dice.random_bool(0.2) {
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

/// Takes a batch, message by message, in order within each key.
fn take(
    state: &mut State,
    dice: &mut SmallRng,
    name: &str,
    items: &[Item],
    arrival: Arrival,
) -> Receipt {
    if state.is_broken(Broken::SinkForgets) && dice.random_bool(0.05) {
        return Receipt::AllAccepted;
    }
    let partial = if state.are_faults_on { state.plan.faults.partial } else { 0.0 };
    let mut held: HashSet<&str> = HashSet::new();
    let mut is_full = false;
    let mut outcomes = Vec::with_capacity(items.len());
    for (id, key) in items {
        is_full |= dice.random_bool(partial / 4.0);
        let waits = key.as_deref().is_some_and(|key| held.contains(key));
        let outcome = if is_full || waits {
            let scope = if is_full { Scope::Sink } else { Scope::Key };
            Outcome::Retry { scope, reason: "busy".to_owned() }
        } else if refuses(state, dice, name, *id, partial) {
            if !state.is_broken(Broken::SinkLetsKeysOvertake) {
                held.extend(key.as_deref());
            }
            refusal(state, dice)
        } else {
            state.arrive(name, *id, arrival);
            Outcome::Accepted
        };
        outcomes.push(outcome);
    }
    let is_whole = outcomes.iter().all(|outcome| *outcome == Outcome::Accepted);
    if is_whole && dice.random_bool(0.5) {
        return Receipt::AllAccepted;
    }
    if !is_whole {
        // A drain that meets such a batch settles nothing of it.
        state.disturb("sink takes a part");
    }
    Receipt::Each(outcomes)
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
