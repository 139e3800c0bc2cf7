//! Who holds which subscription, when several relays share them: a pure decision, made by each
//! relay for itself from what the database says. Leases decide who may; this says who should.

use std::{collections::BTreeMap, time::Duration};

/// A subscription's lease as a relay sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// The subscription.
    pub subscription: String,
    /// Who holds it; `None` when it is free: released, or run out.
    pub holder: Option<String>,
    /// Whether an operator asks for it: whoever holds it hands it over, and nobody takes it.
    pub is_reserved: bool,
    /// For how long this relay has seen it free.
    pub free_for: Duration,
}

/// A relay that has been seen alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayView {
    /// Its name as a holder.
    pub holder: String,
    /// The subscriptions that it is configured for.
    pub subscriptions: Vec<String>,
}

/// What a relay should do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// Free subscriptions to take over.
    pub take: Vec<String>,
    /// Subscriptions of its own to hand over.
    pub give: Vec<String>,
}

/// Decides for the relay `me`, which is configured for all of `leases`. A free subscription is for
/// the relays that hold the least, up to their share; after `patience` it is for anybody. The
/// relay that holds the most, if it holds two more than the one with the least, hands over half of
/// the difference. One giver at a time, and takers from below: so shares even out, and never go
/// back and forth. What an operator has reserved is handed over, and left alone until it is free again.
pub fn shares(me: &str, leases: &[LeaseView], relays: &[RelayView], patience: Duration) -> Shares {
    let mut held: BTreeMap<&str, usize> = BTreeMap::from([(me, 0)]);
    held.extend(relays.iter().map(|relay| (&*relay.holder, 0)));
    for holder in leases.iter().filter_map(|lease| lease.holder.as_deref()) {
        // One that holds a lease and was not seen lately may be about to lose it.
        if let Some(count) = held.get_mut(holder) {
            *count += 1;
        }
    }
    let share = leases.len().div_ceil(held.len());
    let mine = held[me];
    let has_least = held.values().all(|count| mine <= *count);
    let mut shares = Shares::default();
    for lease in leases.iter().filter(|lease| lease.holder.is_none() && !lease.is_reserved) {
        let is_below = has_least && mine + shares.take.len() < share;
        if is_below || lease.free_for >= patience {
            shares.take.push(lease.subscription.clone());
        }
    }
    if shares.take.is_empty() {
        shares.give = surplus(me, mine, leases, relays, &held);
    }
    let is_asked_for =
        |lease: &&LeaseView| lease.is_reserved && lease.holder.as_deref() == Some(me);
    shares.give.extend(leases.iter().filter(is_asked_for).map(|it| it.subscription.clone()));
    shares
}

/// What to hand over to the relay that holds the least.
fn surplus(
    me: &str,
    mine: usize,
    leases: &[LeaseView],
    relays: &[RelayView],
    held: &BTreeMap<&str, usize>,
) -> Vec<String> {
    let others = relays.iter().filter(|relay| relay.holder != me);
    let Some(poorest) = others.min_by_key(|relay| (held[&*relay.holder], &relay.holder)) else {
        return Vec::new();
    };
    let is_richer =
        |(name, count): (&&str, &usize)| *count > mine || (*count == mine && **name < *me);
    if held.iter().any(|(name, count)| is_richer((name, count))) {
        return Vec::new();
    }
    let given = mine.saturating_sub(held[&*poorest.holder]) / 2;
    let is_mine = |lease: &&LeaseView| {
        lease.holder.as_deref() == Some(me) && poorest.subscriptions.contains(&lease.subscription)
    };
    let names = leases.iter().filter(is_mine).map(|lease| lease.subscription.clone());
    names.take(given).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn lease(nth: usize, holder: Option<&str>) -> LeaseView {
        let holder = holder.map(str::to_owned);
        let subscription = format!("s{nth}");
        LeaseView { subscription, holder, is_reserved: false, free_for: Duration::ZERO }
    }

    fn relays(names: &[&str], count: usize) -> Vec<RelayView> {
        let subscriptions: Vec<String> = (0..count).map(|nth| format!("s{nth}")).collect();
        let relay = |name: &&str| RelayView {
            holder: (*name).to_owned(),
            subscriptions: subscriptions.clone(),
        };
        names.iter().map(relay).collect()
    }

    #[test]
    fn relay_alone_takes_everything() {
        let leases: Vec<LeaseView> = (0..3).map(|nth| lease(nth, None)).collect();
        let shares = shares("a", &leases, &relays(&["a"], 3), PATIENCE);
        assert_eq!(shares.take, ["s0", "s1", "s2"]);
        assert!(shares.give.is_empty());
    }

    #[test]
    fn what_stays_free_is_for_anybody() {
        let mut leases = vec![lease(0, Some("a")), lease(1, None)];
        let relays = relays(&["a", "b"], 2);
        assert!(shares("a", &leases, &relays, PATIENCE).take.is_empty());
        leases[1].free_for = PATIENCE;
        assert_eq!(shares("a", &leases, &relays, PATIENCE).take, ["s1"]);
    }

    #[test]
    fn nothing_is_handed_to_a_relay_that_does_not_know_it() {
        let leases: Vec<LeaseView> = (0..4).map(|nth| lease(nth, Some("a"))).collect();
        let mut relays = relays(&["a", "b"], 4);
        relays[1].subscriptions = vec!["s3".to_owned()];
        assert_eq!(shares("a", &leases, &relays, PATIENCE).give, ["s3"]);
    }

    #[test]
    fn holder_that_was_not_seen_lately_does_not_count() {
        let leases = [lease(0, Some("gone")), lease(1, None), lease(2, None)];
        let shares = shares("a", &leases, &relays(&["a"], 3), PATIENCE);
        assert_eq!(shares.take, ["s1", "s2"]);
    }

    #[test]
    fn what_is_reserved_is_handed_over_and_left_alone() {
        let mut leases: Vec<LeaseView> = (0..2).map(|nth| lease(nth, Some("a"))).collect();
        leases[1].is_reserved = true;
        assert_eq!(shares("a", &leases, &relays(&["a"], 2), PATIENCE).give, ["s1"]);
        assert_eq!(shares("b", &leases, &relays(&["a", "b"], 2), PATIENCE), Shares::default());
        leases[1] = LeaseView { holder: None, free_for: 2 * PATIENCE, ..leases[1].clone() };
        assert_eq!(shares("a", &leases, &relays(&["a"], 2), PATIENCE), Shares::default());
        leases[1].is_reserved = false;
        assert_eq!(shares("a", &leases, &relays(&["a"], 2), PATIENCE).take, ["s1"]);
    }

    proptest! {
        /// Rounds in which every relay acts at once, from any beginning: shares come within one
        /// of each other, and then nothing moves any more.
        #[test]
        fn shares_even_out_and_stay(
            owners in prop::collection::vec(prop::option::of(0_usize..4), 0..40),
            count in 1_usize..5,
        ) {
            let names = ["a", "b", "c", "d"];
            let names = &names[..count];
            let relays = relays(names, owners.len());
            let mut leases: Vec<LeaseView> = owners
                .iter()
                .enumerate()
                .map(|(nth, owner)| lease(nth, owner.and_then(|owner| names.get(owner)).copied()))
                .collect();
            for _ in 0..40 {
                let plans: Vec<(&str, Shares)> = names
                    .iter()
                    .map(|name| (*name, shares(name, &leases, &relays, PATIENCE)))
                    .collect();
                for lease in &mut leases {
                    lease.free_for += PATIENCE / 4;
                    for (name, plan) in &plans {
                        if plan.give.contains(&lease.subscription) {
                            lease.holder = None;
                            lease.free_for = Duration::ZERO;
                        } else if lease.holder.is_none() && plan.take.contains(&lease.subscription) {
                            lease.holder = Some((*name).to_owned());
                        }
                    }
                }
            }
            let held = |name: &str| {
                leases.iter().filter(|lease| lease.holder.as_deref() == Some(name)).count()
            };
            let counts: Vec<usize> = names.iter().map(|name| held(name)).collect();
            prop_assert_eq!(counts.iter().sum::<usize>(), leases.len());
            let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", counts);
            for name in names {
                prop_assert_eq!(shares(name, &leases, &relays, PATIENCE), Shares::default());
            }
        }
    }
}
