//! Whether a run that has an end reached it. Pure; [`Relay::run_once`](crate::Relay::run_once) asks.

use crate::monitor::{State, SubscriptionSnapshot};

/// Why the messages up to the tick `until` are not all published, for people, one reason for each
/// subscription that has not settled it; `None` when all have.
pub(crate) fn unfinished(subscriptions: &[SubscriptionSnapshot], until: i64) -> Option<String> {
    let behind = subscriptions.iter().filter(|it| !has_settled(it, until));
    let reasons: Vec<String> = behind.map(reason).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// COMPLETE: settled, not only published; the next run begins at what is settled.
fn has_settled(subscription: &SubscriptionSnapshot, until: i64) -> bool {
    let is_there = |place: posthaste_core::Place| place.base.n >= until && place.within.is_none();
    subscription.settled.is_some_and(is_there)
}

fn reason(subscription: &SubscriptionSnapshot) -> String {
    let SubscriptionSnapshot { name, state, published, last_error, .. } = subscription;
    let why = match (state, last_error) {
        (State::Paused, _) => format!("paused; `posthaste subscriptions resume {name}` ends that"),
        (State::Standby, _) => {
            "another relay holds it; what that one publishes is not waited for".to_owned()
        }
        (_, Some(error)) => error.clone(),
        (_, None) if subscription.acquired => "there was more to publish".to_owned(),
        (_, None) => "it was not begun".to_owned(),
    };
    format!("subscription {name} is not finished ({published} published): {why}")
}

#[cfg(test)]
mod tests {
    use posthaste_core::{Place, TickRef};

    use super::*;

    fn at(n: i64) -> TickRef {
        TickRef { n, ..TickRef::BEGINNING }
    }

    fn subscription(name: &str, settled: Option<Place>) -> SubscriptionSnapshot {
        SubscriptionSnapshot {
            name: name.to_owned(),
            state: State::Drained,
            acquired: settled.is_some(),
            published: 3,
            retries: 0,
            panics: 0,
            rejections: 0,
            batches: 0,
            answering: std::time::Duration::ZERO,
            aside: crate::Counts::default(),
            settled,
            last_error: None,
        }
    }

    #[test]
    fn a_run_is_finished_when_every_subscription_has_settled_the_tick() {
        let there = subscription("a", Some(Place::at(at(7))));
        assert_eq!(unfinished(&[there.clone(), there.clone()], 7), None);
        assert_eq!(unfinished(std::slice::from_ref(&there), 6), None, "later is there as well");
        let within = Place::at(at(7)).moved_to(at(8), 5, None);
        let begun = [there, subscription("b", Some(within)), subscription("c", None)];
        let reasons = unfinished(&begun, 8).unwrap();
        let parts: Vec<&str> = reasons.split("; ").collect();
        assert_eq!(
            parts,
            [
                "subscription a is not finished (3 published): there was more to publish",
                "subscription b is not finished (3 published): there was more to publish",
                "subscription c is not finished (3 published): it was not begun",
            ]
        );
    }

    #[test]
    fn the_reason_is_the_last_error_or_the_pause() {
        let error = Some("the sink is away".to_owned());
        let failed = SubscriptionSnapshot { last_error: error, ..subscription("a", None) };
        assert!(
            unfinished(std::slice::from_ref(&failed), 1).unwrap().ends_with(": the sink is away")
        );
        let paused = SubscriptionSnapshot { state: State::Paused, ..failed };
        assert!(
            unfinished(&[paused], 1)
                .unwrap()
                .contains(": paused; `posthaste subscriptions resume a`")
        );
    }
}
