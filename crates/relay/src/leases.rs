//! Leases: one task for each relay renews all of its leases in one statement, and tells every
//! pipeline whether it may take its subscription over, may keep it, or should hand it over.
//!
//! FENCED: a lease lasts, by this process's monotonic clock, from *before* its renewal was sent; so
//! it ends here before it ends on the database's clock, whatever the wall clocks say.

use std::{sync::Arc, time::Duration};

use posthaste_core::{Epoch, LeaseView, RelayView, lease};
use posthaste_store::{Lease, Leases, Store};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    drain::{Drain, Draining},
    ledger::Ledger,
    policy::describe,
};

/// How often a lease is renewed in its time.
const RENEWALS: u32 = 3;
/// Longest pause between renewals while subscriptions wait for their turn.
const WAITING_INTERVAL: Duration = Duration::from_millis(500);

/// What a pipeline is told of its subscription. Written by the one task, read by the pipeline.
#[derive(Clone, Debug, Default)]
pub(crate) struct Word {
    pub(crate) turn: Turn,
    /// Under which epoch this relay holds it, and until when.
    held: Option<(Epoch, Instant)>,
    /// The other relay that holds it.
    pub(crate) holder: Option<String>,
    /// Whether a person has paused it, or something waits for its next attempt.
    pub(crate) needs_a_look: bool,
}

impl Word {
    /// Whether to take the subscription over. The lease may be this relay's all the same: it ran
    /// out here and was prolonged there, because an answer was slow. Then it is taken again, if
    /// only to be released.
    fn is_for_us(&self) -> bool {
        self.turn == Turn::Take || self.held.is_some()
    }
}

/// What a pipeline should do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing: wait, or go on.
    #[default]
    Stay,
    /// Take the subscription over.
    Take,
    /// Finish, settle and release: another relay has less than its share, or an operator asks for it.
    Give,
}

/// Renews the leases of one relay. Owned by its task.
pub(crate) struct Renewer {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) relay: RelayView,
    pub(crate) lease: Duration,
    /// One for each subscription, in the order of the configuration, and since when it is free.
    pub(crate) words: Vec<(watch::Sender<Word>, Option<Instant>)>,
}

impl Renewer {
    /// Renews until `ended`, which begins after the last pipeline has ended: a drain keeps its
    /// leases. Then leaves the relays that share.
    pub(crate) async fn run(mut self, mut ended: Draining) {
        let mut is_told = false;
        loop {
            let sent = Instant::now();
            let renewed = tokio::select! {
                biased;
                () = ended.begun() => break,
                renewed = timeout(self.lease, self.store.renew(&self.relay, self.lease)) => renewed,
            };
            let interval = match renewed {
                Ok(Ok(leases)) => {
                    is_told = false;
                    self.tell(sent, &leases)
                }
                // A database that is away is said by whoever reads it.
                Ok(Err(error)) if is_told || error.kind().is_transient() => {
                    tracing::debug!("renew the leases: {}", describe(&error));
                    WAITING_INTERVAL
                }
                Ok(Err(error)) => {
                    is_told = true;
                    let source = self.store.describe();
                    tracing::error!(source, "no lease is renewed: {}", describe(&error));
                    WAITING_INTERVAL
                }
                Err(_elapsed) => WAITING_INTERVAL,
            };
            let interval = interval.min(self.lease / RENEWALS).saturating_sub(sent.elapsed());
            if ended.sleep(interval).await {
                break;
            }
        }
        // Nothing depends on it: the others would notice after a lease.
        let _ = timeout(self.lease / RENEWALS, self.store.leave(&self.relay.holder)).await;
    }

    /// Passes on what the database says; returns after which pause to ask again.
    fn tell(&mut self, sent: Instant, leases: &Leases) -> Duration {
        let found: Vec<Option<&Lease>> = self
            .relay
            .subscriptions
            .iter()
            .map(|name| leases.leases.iter().find(|lease| lease.subscription == *name))
            .collect();
        let views: Vec<LeaseView> = self
            .relay
            .subscriptions
            .iter()
            .zip(&found)
            .zip(&mut self.words)
            .map(|((name, lease), (_, free_since))| {
                let holder = lease.and_then(|lease| lease.holder.clone());
                let free_for = sent - *free_since.get_or_insert(sent);
                if holder.is_some() {
                    *free_since = None;
                }
                let is_reserved = lease.is_some_and(|lease| lease.is_reserved);
                LeaseView { subscription: name.clone(), holder, is_reserved, free_for }
            })
            .collect();
        let me = &*self.relay.holder;
        let shares = lease::shares(me, &views, &leases.relays, self.lease);
        for ((view, lease), (word, _)) in views.iter().zip(found).zip(&self.words) {
            let is_mine = view.holder.as_deref() == Some(me);
            let turn = if shares.take.contains(&view.subscription) {
                Turn::Take
            } else if shares.give.contains(&view.subscription) {
                Turn::Give
            } else {
                Turn::Stay
            };
            word.send_replace(Word {
                turn,
                held: lease.filter(|_| is_mine).map(|it| (it.epoch, sent + self.lease)),
                holder: view.holder.clone().filter(|_| !is_mine),
                needs_a_look: lease.is_some_and(|it| it.is_paused || it.has_parked),
            });
        }
        let waits = views.iter().any(|view| view.holder.as_deref() != Some(me));
        if waits { WAITING_INTERVAL } else { self.lease }
    }
}

/// A run's hold on its subscription. Owned by the run.
pub(crate) struct Hold {
    epoch: Epoch,
    /// Until when something may be sent; the lanes read it.
    until: watch::Sender<Instant>,
    word: watch::Receiver<Word>,
    is_given: bool,
}

impl Hold {
    pub(crate) fn new(epoch: Epoch, until: Instant, word: watch::Receiver<Word>) -> Self {
        Self { epoch, until: watch::Sender::new(until), word, is_given: false }
    }

    /// Until when something may be sent.
    pub(crate) fn until(&self) -> watch::Receiver<Instant> {
        self.until.subscribe()
    }

    /// Whether it is to be handed over.
    pub(crate) fn is_given(&self) -> bool {
        self.is_given
    }

    /// Prolongs the hold as the lease is renewed; starts `drain` when the relay drains, or when
    /// it is to be handed over. Returns once the lease has run out, and tells the ledger.
    pub(crate) async fn keep(&mut self, relay: &mut Draining, drain: &Drain, ledger: &Ledger) {
        let mut is_draining = false;
        loop {
            let until = *self.until.borrow();
            tokio::select! {
                biased;
                // First, so that what has come in time counts.
                Ok(()) = self.word.changed() => self.hear(drain),
                () = sleep_until(until) => {
                    ledger.stop();
                    return;
                }
                () = relay.begun(), if !is_draining => {
                    is_draining = true;
                    drain.start();
                }
            }
        }
    }

    fn hear(&mut self, drain: &Drain) {
        let (turn, held) = {
            let word = self.word.borrow_and_update();
            (word.turn, word.held.filter(|(epoch, _)| *epoch == self.epoch))
        };
        let Some((_, renewed)) = held else { return };
        self.until.send_modify(|until| *until = renewed.max(*until));
        if turn == Turn::Give {
            self.is_given = true;
            drain.start();
        }
    }
}

/// Waits until a subscription is to be taken over; false when the relay drains first.
pub(crate) async fn wait_for_turn(
    word: &mut watch::Receiver<Word>,
    draining: &mut Draining,
) -> bool {
    loop {
        tokio::select! {
            biased;
            () = draining.begun() => return false,
            changed = word.changed() => match changed {
                Ok(()) if word.borrow_and_update().is_for_us() => return true,
                Ok(()) => {}
                // The relay is gone.
                Err(_) => return false,
            },
        }
    }
}
