//! What the simulated database holds of parked keys and messages.

use std::time::Duration;

use posthaste_core::{Epoch, Page, Place};
use posthaste_store::{Aside, AsideState, DueMessages, FailedMessage, ParkedKey, Result, Settled};
use tokio::time::Instant;

use super::{
    broken::Broken,
    pages,
    store::{epoch_of, settle, unknown},
    world::State,
};

/// What waits, and until when.
#[derive(Clone, Debug)]
pub(crate) struct Waiting<T> {
    pub(crate) what: T,
    pub(crate) due: Option<Instant>,
}

/// One transaction: all changes, and the place with them.
pub(crate) fn set_aside(
    state: &mut State,
    name: &str,
    epoch: Epoch,
    changes: Vec<Aside>,
    place: Option<Place>,
) -> Result<Settled> {
    if epoch_of(state, name)? != epoch {
        return Ok(Settled::Fenced);
    }
    state.database.burn_xid();
    state.database.sync();
    for change in changes {
        state.note(&format!("{name}: {}", shown(&change)));
        if let Aside::UnparkKey(key) = &change {
            state.check_unpark(name, key, place.as_ref());
        }
        let forgets = state.is_broken(Broken::AsideForgets);
        let subscribed = state.subscribed.get_mut(name).ok_or_else(unknown)?;
        match change {
            _ if forgets => {}
            Aside::ParkKey(parked) => {
                let due = due_at(parked.retry_in);
                subscribed.keys.insert(parked.key.clone(), Waiting { what: parked, due });
            }
            Aside::UnparkKey(key) => drop(subscribed.keys.remove(&key)),
            Aside::Keep(failed) | Aside::Retried(failed) => {
                let due = due_at(failed.retry_in);
                subscribed.aside.insert(failed.position, Waiting { what: failed, due });
            }
            Aside::Published { position, .. } => drop(subscribed.aside.remove(&position)),
            Aside::Counted(calls) => subscribed.retry_calls = calls,
        }
    }
    place.map_or(Ok(Settled::Recorded), |place| settle(state, name, epoch, place))
}

pub(crate) fn state(state: &mut State, name: &str) -> Result<AsideState> {
    let subscribed = state.subscribed.get(name).ok_or_else(unknown)?;
    let keys = subscribed.keys.values();
    let messages = subscribed.aside.values();
    Ok(AsideState {
        retry_calls: subscribed.retry_calls,
        is_paused: false,
        keys: keys.map(|key| ParkedKey { retry_in: left(key.due), ..key.what.clone() }).collect(),
        messages: messages
            .map(|failed| FailedMessage { retry_in: left(failed.due), ..failed.what.clone() })
            .collect(),
    })
}

pub(crate) fn due(state: &mut State, name: &str, limit: u32) -> Result<DueMessages> {
    let subscribed = state.subscribed.get(name).ok_or_else(unknown)?;
    let now = Instant::now();
    let due = subscribed.aside.values().filter(|failed| failed.due.is_some_and(|due| due <= now));
    let failures: Vec<FailedMessage> =
        due.take(limit as usize).map(|failed| failed.what.clone()).collect();
    let mut page = Page::default();
    for failed in &failures {
        let rows = state.database.rows().iter();
        for row in rows.filter(|row| row.position == failed.position) {
            page.push(&pages::message(&state.plan, row));
        }
    }
    Ok(DueMessages { page, failures })
}

/// A change in short, without the wait, which is drawn by chance.
fn shown(change: &Aside) -> String {
    match change {
        Aside::ParkKey(parked) => format!("parks {} at {:?}", parked.key, parked.place.within),
        Aside::UnparkKey(key) => format!("unparks {key}"),
        Aside::Keep(failed) => format!("sets {} aside", failed.position),
        Aside::Retried(failed) => format!("retries {}", failed.position),
        Aside::Published { position, .. } => format!("publishes {position} after all"),
        Aside::Counted(calls) => format!("has counted {calls} retries"),
    }
}

fn due_at(retry_in: Option<Duration>) -> Option<Instant> {
    retry_in.map(|wait| Instant::now() + wait)
}

fn left(due: Option<Instant>) -> Option<Duration> {
    due.map(|due| due.saturating_duration_since(Instant::now()))
}
