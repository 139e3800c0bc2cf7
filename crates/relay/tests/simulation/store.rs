//! The simulated store: each call takes time, and may fail before or after its effect, get no
//! answer, or take effect after the caller has given up.

use std::{collections::BTreeMap, fmt, hash::Hash, sync::Arc, time::Duration};

use async_trait::async_trait;
use posthaste_core::{
    Epoch, Message, MessageId, Page, PageLimit, Place, RelayView, Snapshot, TickRef, Timestamp,
    TopicFilter, Window,
};
use posthaste_store::{
    Acquired, Aside, AsideState, ContractSet, ContractsMark, DueMessages, Lease, Leases, Lineage,
    MigrationReport, Moved, Result, SchemaState, Settled, Start, Status, Store, StoreError,
    StoreErrorKind, StoredMessage, SubscriptionSpec, SweepReport, Ticker,
};
use rand::{Rng as _, rngs::SmallRng};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    aside,
    broken::Broken,
    contracts, pages,
    ticker::SimTicker,
    world::{Fate, State, Subscribed, World, millis},
};

/// The database as one relay sees it.
#[derive(Clone)]
pub(crate) struct SimStore {
    pub(crate) world: World,
    pub(crate) relay: u32,
}

impl fmt::Debug for SimStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "store of relay {}", self.relay)
    }
}

impl SimStore {
    /// One statement: `effect` happens at one moment, or not at all.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        doing: &'static str,
        key: impl Hash,
        effect: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let relay = self.relay;
        let mut dice = self.world.with(|state| state.dice((relay, doing, key)));
        let (fate, before, after, life) = self.world.with(|state| {
            let fate = state.store_fate(&mut dice);
            let latency = |dice: &mut SmallRng| millis(dice, 0, state.plan.store_ms);
            (fate, latency(&mut dice), latency(&mut dice), state.life)
        });
        sleep(before).await;
        self.world.stand_still(relay).await;
        match fate {
            Fate::Done | Fate::After => {
                let effect = |state: &mut State| {
                    (state.life == life && !state.is_down).then(|| effect(state))
                };
                let Some(answer) = self.world.with(effect) else {
                    return Err(self.failure(StoreErrorKind::Unavailable, doing));
                };
                sleep(after).await;
                let is_lost = self.world.with(|state| state.life != life);
                if fate == Fate::Done && !is_lost {
                    return answer;
                }
            }
            Fate::Hang => {
                self.give_up().await;
                return Err(self.failure(StoreErrorKind::Timeout, doing));
            }
            Fate::Stuck => {
                self.come_later(life, millis(&mut dice, 0, 5_000), effect);
                self.give_up().await;
                return Err(self.failure(StoreErrorKind::Timeout, doing));
            }
            Fate::Before | Fate::Panic => {}
        }
        let kinds =
            [StoreErrorKind::Unavailable, StoreErrorKind::Conflict, StoreErrorKind::Resources];
        Err(self.failure(kinds[dice.random_range(0..kinds.len())], doing))
    }

    fn holder(&self) -> String {
        format!("relay-{:04}", self.relay)
    }

    /// Notes that a relay has been told of its loss.
    fn told(&self, subscription: &str, settled: Settled) -> Settled {
        if settled == Settled::Fenced {
            let told = (self.relay, subscription.to_owned());
            self.world.with(|state| {
                state.tally.fenced += 1;
                state.fenced.insert(told, tokio::time::Instant::now());
            });
        }
        settled
    }

    async fn give_up(&self) {
        sleep(self.world.with(|state| state.plan.settings.operation_timeout)).await;
    }

    fn come_later<T: 'static>(
        &self,
        life: u64,
        delay: Duration,
        effect: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) {
        let world = self.world.clone();
        tokio::spawn(async move {
            sleep(delay).await;
            world.with(|state| {
                if state.life == life && !state.is_down {
                    state.disturb("a stuck statement comes through");
                    let _ = effect(state);
                }
            });
        });
    }

    fn failure(&self, kind: StoreErrorKind, doing: &str) -> StoreError {
        self.world.with(|state| state.disturb(doing));
        StoreError::new(kind, doing)
    }
}

/// Calls that the relay never makes.
fn unused<T>() -> Result<T> {
    Err(StoreError::new(StoreErrorKind::Unexpected, "the simulation has no such call"))
}

pub(super) fn unknown() -> StoreError {
    StoreError::new(StoreErrorKind::Invalid, "unknown subscription")
}

#[async_trait]
impl Store for SimStore {
    fn describe(&self) -> &'static str {
        "simulated"
    }

    async fn schema_state(&self) -> Result<SchemaState> {
        unused()
    }

    async fn migrate(&self) -> Result<MigrationReport> {
        unused()
    }

    async fn check(&self) -> Result<()> {
        unused()
    }

    async fn append(&self, _: &[Message]) -> Result<Vec<MessageId>> {
        unused()
    }

    async fn incarnation(&self) -> Result<Uuid> {
        unused()
    }

    fn ticker(&self) -> Box<dyn Ticker> {
        Box::new(SimTicker::new(self.clone()))
    }

    async fn contracts(&self, _: &ContractsMark) -> Result<Option<ContractSet>> {
        if !self.world.with(|state| state.plan.has_contracts) {
            return Ok(None);
        }
        self.call("contracts", (), |state| Ok(contracts::stored(state))).await
    }

    async fn window(&self, base: TickRef, head: Option<TickRef>) -> Result<Option<Arc<Window>>> {
        self.call("window", (base, head), move |state| pages::window(state, base, head)).await
    }

    async fn read(
        &self,
        window: &Window,
        after: i64,
        filter: &TopicFilter,
        limit: PageLimit,
    ) -> Result<Option<Page>> {
        let (relay, window, filter) = (self.relay, window.clone(), filter.clone());
        let key = (window.base.at, window.head.at, after, filter.clone());
        self.world.with(|state| state.check_pages(relay));
        let page = self
            .call("read", key, move |state| Ok(pages::read(state, &window, after, &filter, limit)))
            .await?;
        let ids = page.iter().flat_map(Page::iter).map(|message| message.id).collect();
        self.world.with(|state| state.pages.entry(relay).or_default().push(ids));
        Ok(page)
    }

    async fn read_key(
        &self,
        window: &Window,
        after: i64,
        filter: &TopicFilter,
        key: &str,
        limit: PageLimit,
    ) -> Result<Option<Page>> {
        let (window, filter, key) = (window.clone(), filter.clone(), key.to_owned());
        let what = (window.base.at, window.head.at, after, key.clone());
        self.call("read a key", what, move |state| {
            Ok(pages::read_key(state, &window, after, &filter, &key, limit))
        })
        .await
    }

    async fn reconcile(&self, specs: &[SubscriptionSpec]) -> Result<()> {
        for spec in specs.iter().cloned() {
            self.call("reconcile", spec.name.clone(), move |state| {
                create(state, spec);
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    async fn acquire(&self, subscription: &str, _: &str, lease: Duration) -> Result<Acquired> {
        let (relay, name) = (self.relay, subscription.to_owned());
        let (read, me) = (name.clone(), self.holder());
        let look = move |state: &mut State| {
            let held = held(state, &read)?.filter(|(other, _)| *other != me);
            Ok((epoch_of(state, &read)?, held))
        };
        let (held, other) = self.call("read an epoch", subscription.to_owned(), look).await?;
        if let Some((holder, left)) = other {
            return Ok(Acquired::Held { holder, left });
        }
        let me = self.holder();
        let epoch = self
            .call("acquire", subscription.to_owned(), move |state| {
                // A statement that comes through after its caller gave up must not fence whoever
                // has the subscription by then.
                if epoch_of(state, &name)? != held {
                    return Err(StoreError::new(StoreErrorKind::Conflict, "acquire"));
                }
                if !state.acquired.insert((relay, name.clone())) {
                    // Only a fault makes a relay acquire twice.
                    state.disturb("again");
                }
                state.pages.remove(&relay);
                state.fenced.remove(&(relay, name.clone()));
                state.database.sync();
                state.note(&format!("{relay} acquires {name}"));
                let subscribed = state.subscribed.get_mut(&name).ok_or_else(unknown)?;
                subscribed.epoch += 1;
                subscribed.holder = Some((me, Instant::now() + lease));
                Ok(subscribed.epoch)
            })
            .await?;
        let name = subscription.to_owned();
        let place = self
            .call("read a place", subscription.to_owned(), move |state| {
                state.subscribed.get(&name).map(|found| found.place).ok_or_else(unknown)
            })
            .await?;
        Ok(Acquired::Taken(epoch, place))
    }

    async fn renew(&self, relay: &RelayView, lease: Duration) -> Result<Leases> {
        // Relays call themselves something random; a seed repeats its history by their numbers.
        let me = RelayView { holder: self.holder(), subscriptions: relay.subscriptions.clone() };
        let mut told = self.call("renew", (), move |state| Ok(renew(state, &me, lease))).await?;
        let holders = told.leases.iter_mut().filter_map(|lease| lease.holder.as_mut());
        for name in holders.chain(told.relays.iter_mut().map(|relay| &mut relay.holder)) {
            if *name == self.holder() {
                name.clone_from(&relay.holder);
            }
        }
        Ok(told)
    }

    async fn leave(&self, _: &str) -> Result<()> {
        let holder = self.holder();
        self.call("leave", (), move |state| {
            state.relays.remove(&holder);
            Ok(())
        })
        .await
    }

    /// A relay never asks.
    async fn tick_before(&self, _: Timestamp) -> Result<TickRef> {
        Ok(TickRef::BEGINNING)
    }

    async fn confirm(&self, name: &str, _: &Place, _: Option<&Place>) -> Result<Lineage> {
        let lineage = Lineage { log: Uuid::from_u128(1), adopts: false };
        self.call("confirm", name.to_owned(), move |_| Ok(lineage)).await
    }

    async fn gone(&self, _: &Place) -> Result<Option<String>> {
        // Nothing is ever emptied here.
        Ok(None)
    }

    async fn confirm_mark(&self, mark: &Place) -> Result<()> {
        self.call("confirm a mark", *mark, |_| Ok(())).await
    }

    async fn halt(&self, _: &str, _: Epoch, _: &str) -> Result<()> {
        unused()
    }

    async fn adopted(&self, _: &str, _: Epoch) -> Result<()> {
        unused()
    }

    async fn settle(&self, subscription: &str, epoch: Epoch, place: &Place) -> Result<Settled> {
        let (relay, name, place) = (self.relay, subscription.to_owned(), *place);
        self.world.with(|state| state.check_not_fenced(relay, subscription, "settles"));
        let settled = self
            .call("settle", subscription.to_owned(), move |state| {
                settle(state, &name, epoch, place)
            })
            .await?;
        Ok(self.told(subscription, settled))
    }

    async fn set_aside(
        &self,
        subscription: &str,
        epoch: Epoch,
        changes: &[Aside],
        place: Option<&Place>,
    ) -> Result<Settled> {
        let (relay, name, place) = (self.relay, subscription.to_owned(), place.copied());
        self.world.with(|state| state.check_not_fenced(relay, subscription, "sets aside"));
        let changes = changes.to_vec();
        let settled = self
            .call("set aside", subscription.to_owned(), move |state| {
                aside::set_aside(state, &name, epoch, changes, place)
            })
            .await?;
        Ok(self.told(subscription, settled))
    }

    async fn aside(&self, subscription: &str) -> Result<AsideState> {
        let name = subscription.to_owned();
        self.call("aside", subscription.to_owned(), move |state| aside::state(state, &name)).await
    }

    async fn due_messages(&self, subscription: &str, limit: u32) -> Result<DueMessages> {
        let name = subscription.to_owned();
        self.call("due", subscription.to_owned(), move |state| aside::due(state, &name, limit))
            .await
    }

    async fn release(&self, subscription: &str, epoch: Epoch) -> Result<()> {
        let name = subscription.to_owned();
        self.call("release", subscription.to_owned(), move |state| {
            let subscribed = state.subscribed.get_mut(&name).ok_or_else(unknown)?;
            if subscribed.epoch == epoch {
                subscribed.holder = None;
            }
            Ok(())
        })
        .await
    }

    async fn move_due(&self, _: u32) -> Result<Moved> {
        Ok(Moved::default())
    }

    async fn sweep(&self) -> Result<SweepReport> {
        self.call("sweep", (), |_| Ok(SweepReport::default())).await
    }

    async fn status(&self) -> Result<Status> {
        unused()
    }

    async fn recent(&self, _: Option<i64>, _: u32) -> Result<Vec<StoredMessage>> {
        unused()
    }
}

fn create(state: &mut State, spec: SubscriptionSpec) {
    if state.subscribed.contains_key(&spec.name) {
        return;
    }
    let (start, place) = match spec.start {
        Start::Beginning => (Snapshot::nothing(), Place::beginning()),
        Start::Now => {
            let snapshot = state.database.snapshot();
            let tick = pages::commit_tick(state, snapshot);
            (tick.snapshot, Place::at(tick.at))
        }
    };
    state.database.burn_xid();
    state.database.sync();
    let passed = std::collections::HashSet::new();
    let aside = BTreeMap::default();
    let keys = BTreeMap::default();
    let subscribed = Subscribed {
        filter: spec.filter,
        start,
        epoch: 0,
        holder: None,
        place,
        passed,
        retry_calls: 0,
        keys,
        aside,
    };
    state.subscribed.insert(spec.name, subscribed);
}

/// Who holds a subscription, and for how long yet.
fn held(state: &State, name: &str) -> Result<Option<(String, Duration)>> {
    let subscribed = state.subscribed.get(name).ok_or_else(unknown)?;
    let held = subscribed.holder.as_ref().filter(|(_, until)| *until > Instant::now());
    Ok(held.map(|(holder, until)| (holder.clone(), *until - Instant::now())))
}

fn renew(state: &mut State, relay: &RelayView, lease: Duration) -> Leases {
    let now = Instant::now();
    for subscribed in state.subscribed.values_mut() {
        let mine = subscribed.holder.as_mut().filter(|(holder, _)| *holder == relay.holder);
        if let Some((_, until)) = mine.filter(|(_, until)| *until > now) {
            *until = now + lease;
        }
    }
    state.database.sync();
    state.relays.insert(relay.holder.clone(), (now, relay.subscriptions.clone()));
    let asked = state.subscribed.iter().filter(|(name, _)| relay.subscriptions.contains(name));
    let leases = asked.map(|(name, subscribed)| Lease {
        subscription: name.clone(),
        epoch: subscribed.epoch,
        holder: held(state, name).ok().flatten().map(|(holder, _)| holder),
        is_paused: false,
        is_reserved: false,
        has_parked: subscribed.aside.values().any(|waiting| waiting.due.is_some()),
    });
    let alive = state.relays.iter().filter(|(_, (seen, _))| now - *seen < lease);
    let relays = alive.map(|(holder, (_, subscriptions))| RelayView {
        holder: holder.clone(),
        subscriptions: subscriptions.clone(),
    });
    Leases { leases: leases.collect(), relays: relays.collect() }
}

pub(super) fn epoch_of(state: &State, name: &str) -> Result<Epoch> {
    state.subscribed.get(name).map(|found| found.epoch).ok_or_else(unknown)
}

pub(super) fn settle(state: &mut State, name: &str, epoch: Epoch, place: Place) -> Result<Settled> {
    if epoch_of(state, name)? != epoch && !state.is_broken(Broken::SettleIgnoresEpoch) {
        return Ok(Settled::Fenced);
    }
    if state.is_broken(Broken::SettleForgets) {
        return Ok(Settled::Recorded);
    }
    state.check_place(name, &place);
    state.database.burn_xid();
    state.database.sync();
    state.subscribed.get_mut(name).ok_or_else(unknown)?.place = place;
    Ok(Settled::Recorded)
}

/// Waits until `condition` holds, for at most `limit` of virtual time.
pub(crate) async fn within(
    world: &World,
    limit: Duration,
    condition: impl Fn(&State) -> bool,
) -> bool {
    let end = tokio::time::Instant::now() + limit;
    loop {
        if world.with(|state| condition(state)) {
            return true;
        }
        if tokio::time::Instant::now() >= end {
            return false;
        }
        sleep(Duration::from_millis(20)).await;
    }
}
