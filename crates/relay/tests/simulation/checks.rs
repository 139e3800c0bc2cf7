//! The invariants, checked at every arrival and every settle, and at the end.

use std::collections::HashSet;

use posthaste_core::{Place, TickRef};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    model::Row,
    world::{Arrival, Body, State, Subscribed},
};

/// What happened in a simulation, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) faults: u64,
    pub(crate) late: u64,
    pub(crate) lost_in_crashes: u64,
    pub(crate) fenced: u64,
    pub(crate) repeats: u64,
    pub(crate) panics: u64,
    pub(crate) drains: u64,
    pub(crate) failovers: u64,
}

impl State {
    /// ATOMIC: what a crash undid must not have been published.
    pub(crate) fn check_not_published(&mut self, id: Uuid) {
        if self.arrived.values().any(|arrived| arrived.last.contains_key(&id)) {
            self.violate("ATOMIC", format!("message {id} was published, then lost in a crash"));
        }
    }

    /// A message reaches the sink: ATOMIC, ORDERED and ONCE.
    pub(crate) fn arrive(&mut self, subscription: &str, id: Uuid, arrival: Arrival) {
        let Some(known) = self.known.get(&id).cloned() else {
            self.violate("ATOMIC", format!("{subscription} got {id}, which is not committed"));
            return;
        };
        self.note(&format!(
            "{subscription} gets position {} from {}",
            known.position, arrival.relay
        ));
        let is_whole = self.plan.faults.partial == 0.0 && !self.plan.has_contracts;
        let is_repaired = self.repaired.contains(subscription);
        let drained = &self.drained;
        let faults = self.tally.faults;
        let arrived = self.arrived.get_mut(subscription).expect("the plan names it");
        if let Some(last) = arrived.last.insert(id, arrival) {
            self.tally.repeats += 1;
            let was_taken_over = last.relay != arrival.relay && !drained.contains(&last.relay);
            let is_excused = last.disturbances != faults || was_taken_over || is_repaired;
            if !is_excused || (self.plan.keeps_places && !is_repaired) {
                let why =
                    if is_excused { "by a sink that keeps places" } else { "without any fault" };
                let what = format!("{subscription} got position {} again", known.position);
                self.violate("ONCE", format!("{what} {why}"));
            }
            return;
        }
        arrived.first.push(id);
        // A sink that is handed, or takes, only parts of batches keeps the order of each key; any
        // other keeps the order of all.
        let lane = if is_whole { None } else { Some(known.key.clone().unwrap_or(id.to_string())) };
        let latest = arrived.taken.entry(lane).or_default();
        let is_behind = known.committed_at < *latest;
        *latest = known.taken_at.max(*latest);
        if is_behind && !is_repaired {
            let what =
                format!("{subscription} got position {} (key {:?})", known.position, known.key);
            self.violate("ORDERED", format!("{what} behind one written after its commit"));
        }
    }

    /// COMPLETE: a place moves forward only, names ticks that exist, and passes no message that
    /// the sink has not accepted.
    pub(crate) fn check_place(&mut self, name: &str, place: &Place) {
        let Some(subscribed) = self.subscribed.get(name) else { return };
        if self.bereft.contains(name) {
            // The end shows whether all of what was lost has come again.
            if !place.covers(&subscribed.place) {
                self.bereft.remove(name);
                self.subscribed.get_mut(name).expect("looked at").passed.clear();
            }
            return;
        }
        if !place.covers(&subscribed.place) {
            let what = format!("{name} moves back from {:?} to {place:?}", subscribed.place);
            self.violate("FENCED", what);
            return;
        }
        let exists = |at: TickRef| self.ticks.get(at.n as usize).is_some_and(|tick| tick.at == at);
        if !exists(place.base) || place.within.is_some_and(|within| !exists(within.head)) {
            self.violate("COMPLETE", format!("{name} settles unknown ticks: {place:?}"));
            return;
        }
        let arrived = &self.arrived[name].last;
        let mut passed = Vec::new();
        let mut missing = None;
        for row in self.database.rows() {
            let id = row.body.id;
            if subscribed.passed.contains(&id)
                || !self.is_passed(subscribed, place, row.xid, row.position)
            {
                continue;
            }
            let is_aside = self.is_aside(subscribed, row);
            let is_wanted = subscribed.filter.matches(row.body.topic);
            if is_wanted && !is_aside && !arrived.contains_key(&id) {
                missing = Some(row.position);
            }
            passed.push(id);
        }
        self.subscribed.get_mut(name).expect("checked").passed.extend(passed);
        if let Some(position) = missing {
            self.violate("COMPLETE", format!("{name} passes position {position}: {place:?}"));
        }
    }

    /// Whether a message waits beside the place: set aside, or of a parked key and behind its place.
    fn is_aside(&self, subscribed: &Subscribed, row: &Row<Body>) -> bool {
        let parked = row.body.key.as_ref().and_then(|key| subscribed.keys.get(key));
        subscribed.aside.contains_key(&row.position)
            || parked.is_some_and(|parked| {
                !self.is_passed(subscribed, &parked.what.place, row.xid, row.position)
            })
    }

    /// COMPLETE: a key is unparked when all of it that the place passes has arrived.
    pub(crate) fn check_unpark(&mut self, name: &str, key: &str, place: Option<&Place>) {
        let Some(subscribed) = self.subscribed.get(name) else { return };
        if self.bereft.contains(name) {
            return;
        }
        let place = place.unwrap_or(&subscribed.place);
        let arrived = &self.arrived[name].last;
        let missing = self.database.rows().iter().find(|row| {
            row.body.key.as_deref() == Some(key)
                && subscribed.filter.matches(row.body.topic)
                && self.is_passed(subscribed, place, row.xid, row.position)
                && !subscribed.aside.contains_key(&row.position)
                && !arrived.contains_key(&row.body.id)
        });
        if let Some(position) = missing.map(|row| row.position) {
            self.violate("COMPLETE", format!("{name} unparks {key} without position {position}"));
        }
    }

    fn is_passed(&self, subscribed: &Subscribed, place: &Place, xid: u64, position: i64) -> bool {
        let shows = |at: TickRef| self.ticks[at.n as usize].snapshot.shows(xid);
        let inside =
            |within: posthaste_core::Within| position <= within.position && shows(within.head);
        !subscribed.start.shows(xid) && (shows(place.base) || place.within.is_some_and(inside))
    }

    /// Committed messages that a subscription has to get and has not.
    pub(crate) fn missing(&self, name: &str) -> Vec<i64> {
        let Some(subscribed) = self.subscribed.get(name) else { return vec![0] };
        let arrived = &self.arrived[name].last;
        let rows = self.database.rows().iter();
        let wanted = rows.filter(|row| {
            !subscribed.start.shows(row.xid) && subscribed.filter.matches(row.body.topic)
        });
        wanted.filter(|row| !arrived.contains_key(&row.body.id)).map(|row| row.position).collect()
    }

    /// FENCED: whoever has been told of its loss does nothing more for that subscription.
    pub(crate) fn check_not_fenced(&mut self, relay: u32, name: &str, doing: &str) {
        let told = self.fenced.get(&(relay, name.to_owned()));
        if told.is_some_and(|at| *at < Instant::now()) {
            self.violate("FENCED", format!("relay {relay} still {doing} for {name}"));
        }
    }

    /// BOUNDED: while a page is published, one waits and one more is read.
    pub(crate) fn check_pages(&mut self, relay: u32) {
        let [spec] = self.plan.specs.as_slice() else { return };
        let Some(subscribed) = self.subscribed.get(&spec.name) else { return };
        let rows = self.database.rows().iter();
        let mut done: HashSet<Uuid> =
            rows.filter(|row| self.is_aside(subscribed, row)).map(|row| row.body.id).collect();
        done.extend(self.arrived[&spec.name].last.keys());
        let pages = self.pages.entry(relay).or_default();
        pages.retain(|page| page.iter().any(|id| !done.contains(id)));
        let count = pages.len();
        // A repair looks at what is missing first, and keeps nothing of that.
        let most = if self.repaired.contains(&spec.name) { 3 } else { 2 };
        if count > most {
            self.violate("BOUNDED", format!("relay {relay} reads on beside {count} pages"));
        }
    }
}
