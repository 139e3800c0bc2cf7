//! Whether a relay is ready: every subscription acquired, none stopped.

use serde::Serialize;

use crate::monitor::{State, SubscriptionSnapshot};

/// What `/readyz` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether every subscription is ready.
    pub ready: bool,
    /// Why nothing new can be published, while the relay cannot look at its log or tick: it comes
    /// back by itself.
    pub source: Option<String>,
    /// Each with what keeps it from being ready.
    pub subscriptions: Vec<SubscriptionReadiness>,
}

/// One subscription's part in the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SubscriptionReadiness {
    /// Name.
    pub name: String,
    /// Whether it is at work. A sink or a database that is away for a while changes nothing:
    /// the relay comes back by itself.
    pub ready: bool,
    /// What its pipeline is doing, in a word.
    pub state: &'static str,
    /// The last failure, until the pipeline runs again. Stores and sinks keep secrets and
    /// payloads out of their errors.
    pub reason: Option<String>,
}

impl Readiness {
    pub(crate) fn of(all: &[SubscriptionSnapshot], source: Option<String>) -> Self {
        let subscriptions: Vec<_> = all.iter().map(SubscriptionReadiness::of).collect();
        let ready = subscriptions.iter().all(|subscription| subscription.ready);
        Self { ready, source, subscriptions }
    }
}

impl SubscriptionReadiness {
    fn of(snapshot: &SubscriptionSnapshot) -> Self {
        let ready = snapshot.acquired
            && matches!(
                snapshot.state,
                State::Running | State::BackingOff | State::Blocked | State::Paused
            );
        let waits = (!snapshot.acquired).then(|| "not acquired yet".to_owned());
        Self {
            name: snapshot.name.clone(),
            ready,
            state: snapshot.state.word(),
            reason: snapshot.last_error.clone().or(waits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Counts;

    fn snapshot(state: State, acquired: bool) -> SubscriptionSnapshot {
        SubscriptionSnapshot {
            name: "a".to_owned(),
            state,
            acquired,
            published: 0,
            retries: 0,
            panics: 0,
            rejections: 0,
            batches: 0,
            answering: std::time::Duration::ZERO,
            aside: Counts::default(),
            settled: None,
            last_error: None,
        }
    }

    #[test]
    fn only_what_was_acquired_and_goes_on_by_itself_is_ready() {
        let ready: Vec<&str> = State::ALL
            .into_iter()
            .filter(|state| Readiness::of(&[snapshot(*state, true)], None).ready)
            .map(State::word)
            .collect();
        assert_eq!(ready, ["running", "backing_off", "blocked", "paused"]);
        for state in State::ALL {
            assert!(!Readiness::of(&[snapshot(state, false)], None).ready, "{state:?}");
        }
        let both = [snapshot(State::Running, true), snapshot(State::Stopped, true)];
        assert!(!Readiness::of(&both, None).ready, "one is enough");
    }
}
