//! Starting, draining, killing and watching relays.

use std::{sync::Arc, time::Duration};

use posthaste_core::Template;
use posthaste_relay::{
    ContractSettings, FailureSettings, Monitor, Relay, RelayError, RetrySettings,
    State as PipelineState, Subscription, sink::Context,
};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::{sink::SimTarget, store::SimStore, world::World};

/// More than any drain may take.
const LIMIT: Duration = Duration::from_mins(1);

/// A relay that runs.
pub(crate) struct RelayTask {
    pub(crate) number: u32,
    world: World,
    monitor: Monitor,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), RelayError>>,
}

impl RelayTask {
    pub(crate) fn start(world: &World, number: u32) -> Self {
        let plan = world.with(|state| {
            state.note(&format!("relay {number} starts"));
            Arc::clone(&state.plan)
        });
        let store = Arc::new(SimStore { world: world.clone(), relay: number });
        let target = |subscription: &str| {
            let subscription = subscription.to_owned();
            Arc::new(SimTarget {
                names: Template::parse("{topic}").expect("a template"),
                world: world.clone(),
                subscription,
                relay: number,
            })
        };
        let subscriptions = plan.specs.iter().map(|spec| Subscription {
            spec: spec.clone(),
            target: target(&spec.name),
            failure: failure(),
            contracts: ContractSettings::default(),
        });
        let settings = plan.settings.clone();
        let relay = Relay::new(store, settings, subscriptions.collect(), Context::default());
        let (stop, stopped) = oneshot::channel::<()>();
        let monitor = relay.monitor();
        let task = tokio::spawn(relay.run(async move {
            let _ = stopped.await;
        }));
        Self { number, world: world.clone(), monitor, stop: Some(stop), task }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends it at once, as `kill -9` does.
    pub(crate) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
        self.world.with(|state| state.disturb(&format!("relay {} killed", self.number)));
    }

    /// Drains it. `is_alone`: no other relay can have taken its subscriptions over.
    pub(crate) async fn drain(mut self, is_alone: bool) {
        let number = self.number;
        let (faults, limit) = self.world.with(|state| {
            state.note(&format!("relay {number} drains"));
            (state.tally.faults, state.plan.settings.drain_timeout)
        });
        let has_ended = self.has_ended();
        let began = Instant::now();
        drop(self.stop.take());
        let ended = timeout(LIMIT, &mut self.task).await;
        let took = began.elapsed();
        let snapshot = self.monitor.snapshot();
        self.world.with(|state| {
            state.tally.drains += 1;
            state.note(&format!("relay {number} has ended after {took:?}"));
            if took > limit {
                state.violate("BOUNDED", format!("the drain took {took:?}, not {limit:?}"));
            }
            let is_disturbed = state.tally.faults > faults || has_ended || !is_alone;
            match ended {
                Ok(Ok(Ok(()))) => {
                    state.drained.insert(number);
                }
                Ok(Ok(Err(error))) if is_disturbed => state.disturb(&error.to_string()),
                other => state.violate("BOUNDED", format!("the drain failed: {other:?}")),
            }
            if let Some(stopped) = snapshot.iter().find(|s| s.state == PipelineState::Stopped) {
                state.violate("COMPLETE", format!("a pipeline stopped for good: {stopped:?}"));
            }
        });
    }

    /// Reaps one that ended by itself, which only a take-over excuses.
    pub(crate) async fn reap(self, is_alone: bool) {
        let number = self.number;
        let ended = self.task.await;
        self.world.with(|state| {
            state.disturb(&format!("relay {number} ended by itself"));
            let is_fault =
                !matches!(&ended, Ok(Err(error)) if error.to_string().starts_with("0 sub"));
            if is_alone || is_fault {
                state.violate("COMPLETE", format!("relay {number} ended by itself: {ended:?}"));
            }
        });
    }
}

/// Longer than any message is refused, at the pace of the simulation's clock.
fn failure() -> FailureSettings {
    let millisecond = Duration::from_millis(1);
    let retry = RetrySettings { initial: millisecond, cap: millisecond };
    FailureSettings { attempts: 10, retry, ..FailureSettings::default() }
}
