//! The simulated ticker: PostgreSQL's steps (look, X, bounds, commit a tick) over the model.

use async_trait::async_trait;
use posthaste_core::{Look, LookRule, Snapshot, Tick, TickRef, Window};
use posthaste_store::{Advance, Result, StoreError, StoreErrorKind, Ticker};

use super::{pages, store::SimStore};

/// Tries per call when another relay keeps ticking first.
const ATTEMPTS: u32 = 3;

pub(crate) struct SimTicker {
    store: SimStore,
    rule: LookRule,
    newest: Option<Tick>,
    /// The life of the database that the connection belongs to.
    connected: Option<u64>,
}

impl SimTicker {
    pub(crate) fn new(store: SimStore) -> Self {
        Self { store, rule: LookRule::default(), newest: None, connected: None }
    }

    async fn try_advance(&mut self) -> Result<Advance> {
        let sequence = self.store.call("look", (), |state| Ok(state.database.sequence())).await?;
        let snapshot = self.snapshot().await?;
        let decision = self.rule.look(sequence, &snapshot);
        match (decision, &self.newest) {
            (Look::Rest, Some(newest)) => return Ok(self.nothing_at(newest.at)),
            (Look::TakeXid, _) => {
                let x =
                    self.store.call("take X", (), |state| Ok(state.database.burn_xid())).await?;
                self.rule.xid_taken(x);
            }
            _ => {}
        }
        let is_reusable = decision == Look::Tick && self.newest.is_some();
        self.close_window(is_reusable.then_some(snapshot)).await
    }

    async fn close_window(&mut self, mut cur: Option<Snapshot>) -> Result<Advance> {
        for _ in 0..ATTEMPTS {
            let base = match self.newest.clone() {
                Some(newest) => newest,
                None => self.newest_tick().await?,
            };
            let snapshot = match cur.take() {
                Some(snapshot) => snapshot,
                None => self.snapshot().await?,
            };
            let window = self.bounds(base, snapshot).await?;
            if window.is_empty() {
                let tick = window.base.at;
                self.newest = Some(window.base);
                return Ok(self.nothing_at(tick));
            }
            if let Some(head) = self.commit(&window).await? {
                let window = Window { head, ..window };
                self.newest = Some(window.head.clone());
                let tick = window.head.at;
                return Ok(Advance { tick, window: Some(window.into()), busy: true });
            }
            self.newest = None;
        }
        let newest = self.newest_tick().await?;
        self.rule.forget();
        Ok(Advance { tick: self.newest.insert(newest).at, window: None, busy: true })
    }

    fn nothing_at(&self, tick: TickRef) -> Advance {
        Advance { tick, window: None, busy: self.rule.is_watching() }
    }

    async fn snapshot(&self) -> Result<Snapshot> {
        self.store.call("snapshot", (), |state| Ok(state.database.snapshot())).await
    }

    async fn newest_tick(&self) -> Result<Tick> {
        let newest = |ticks: &[Tick]| ticks.last().cloned().unwrap_or_else(Tick::beginning);
        self.store.call("newest tick", (), move |state| Ok(newest(&state.ticks))).await
    }

    /// The window up to a tick that is still to be committed.
    async fn bounds(&self, base: Tick, snapshot: Snapshot) -> Result<Window> {
        let head = Tick { at: TickRef { n: base.at.n + 1, ..TickRef::BEGINNING }, snapshot };
        self.store.call("bounds", (), move |state| Ok(pages::bounds(state, base, head))).await
    }

    /// Commits the window's head; `None` when another relay has taken its number.
    async fn commit(&self, window: &Window) -> Result<Option<Tick>> {
        let head = window.head.clone();
        self.store
            .call("tick", (), move |state| {
                let is_next = state.ticks.len() as i64 == head.at.n;
                Ok(is_next.then(|| pages::commit_tick(state, head.snapshot)))
            })
            .await
    }
}

#[async_trait]
impl Ticker for SimTicker {
    async fn advance(&mut self) -> Result<Advance> {
        // Until this call has succeeded, the next one must tick.
        let (rule, newest) = (std::mem::take(&mut self.rule), self.newest.take());
        let life = self.store.world.with(|state| state.life);
        if self.connected.take().is_some_and(|connected| connected != life) {
            let doing = "look: the connection is broken";
            return Err(StoreError::new(StoreErrorKind::Unavailable, doing));
        }
        let mut attempt = Self { store: self.store.clone(), rule, newest, connected: None };
        let advance = attempt.try_advance().await?;
        self.rule = attempt.rule;
        self.newest = attempt.newest;
        self.connected = Some(life);
        Ok(advance)
    }
}
