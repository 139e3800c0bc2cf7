//! What a relay runs once per source: the ticker, which announces new windows to all pipelines, the
//! mover of scheduled messages, and the sweep.

use std::{sync::Arc, time::Duration};

use posthaste_core::{Backoff, TickRef, Window};
use posthaste_store::{Advance, Moved, Pin, Store, StoreError, SweepReport};
use tokio::sync::watch;

use crate::{
    drain::Draining,
    failpoint,
    jitter::jitter,
    policy::{self, describe},
    settings::RelaySettings,
    telemetry::meter::SourceMeter,
};

/// While transactions may still hold invisible positions, looks are this many times as frequent
/// as while nothing can come…
const WATCHING_SPEEDUP: u32 = 4;
/// … at first: whoever has been open for long can wait this part of that time longer.
const WATCHING_PART: u32 = 20;

/// Messages that one transaction moves: large enough for its commit not to matter, small enough to
/// be published soon.
const MOVE_MESSAGES_MAX: u32 = 1_000;

/// The newest tick of the source, and the window that it closed.
#[derive(Clone, Debug)]
pub(crate) struct Newest {
    pub(crate) tick: TickRef,
    pub(crate) window: Option<Arc<Window>>,
}

/// Looks and ticks until the drain, or until a failure that does not pass by itself.
pub(crate) async fn tick(
    store: &dyn Store,
    settings: &RelaySettings,
    meter: &SourceMeter,
    mut draining: Draining,
    newest: watch::Sender<Option<Newest>>,
) -> Result<(), StoreError> {
    let mut ticker = store.ticker();
    let mut pace = Pace::new(settings);
    let backoff: Backoff = settings.retry.into();
    let mut failures = 0;
    loop {
        let advanced = tokio::select! {
            biased;
            () = draining.begun() => return Ok(()),
            advanced = ticker.advance() => advanced,
        };
        let pause = match advanced {
            Ok(advance) => {
                if failures > 0 {
                    tracing::info!(source = store.describe(), "looking at the log again");
                    meter.set_trouble(None);
                    failures = 0;
                }
                meter.advanced(&advance);
                let pause = pace.after(&advance);
                failpoint::reach(if advance.window.is_some() { "ticked" } else { "looked" }, "");
                newest.send_if_modified(|current| announce(current, advance));
                pause
            }
            Err(error) => {
                meter.failed(error.kind());
                if policy::after_store_error(error.kind()) == policy::Directive::Stop {
                    return Err(error);
                }
                failures += 1;
                let trouble = describe(&error);
                if failures == 1 {
                    tracing::warn!(source = store.describe(), "{trouble}");
                }
                meter.set_trouble(Some(trouble));
                backoff.delay(failures, jitter())
            }
        };
        if draining.sleep(pause).await {
            return Ok(());
        }
    }
}

/// Announces a tick if it is newer than the announced one.
fn announce(current: &mut Option<Newest>, advance: Advance) -> bool {
    let is_news = current.as_ref().is_none_or(|newest| newest.tick != advance.tick);
    if is_news {
        *current = Some(Newest { tick: advance.tick, window: advance.window });
    }
    is_news
}

/// Sweeps at intervals until the drain. A failed sweep is only logged: the next one does it.
pub(crate) async fn sweep(
    store: &dyn Store,
    settings: &RelaySettings,
    meter: &SourceMeter,
    mut draining: Draining,
) {
    let mut room = Room::default();
    while !draining.sleep(settings.sweep_interval).await {
        // One that is cut off is one that a later sweep finishes: each slot goes in a transaction of
        // its own.
        let swept = tokio::select! {
            biased;
            () = draining.begun() => return,
            swept = store.sweep() => swept,
        };
        match swept {
            Ok(report) => {
                meter.swept(&report);
                room.tell(store.describe(), report);
            }
            Err(error) => {
                meter.failed(error.kind());
                tracing::debug!(source = store.describe(), "sweep: {}", describe(&error));
            }
        }
    }
}

/// What the sweeps have told of the log's room.
#[derive(Default)]
struct Room {
    /// Slots that were shared after the last sweep.
    shared: u32,
    /// What the last sweep found to pin the log.
    pin: Option<Pin>,
    /// What was told last, until there is room again.
    told: Option<Pin>,
}

impl Room {
    /// Tells people, once for each cause, that the log needs more room than it should. A cause
    /// counts when two sweeps in a row have found it: one alone may only have come too early.
    fn tell(&mut self, source: &str, report: SweepReport) {
        let SweepReport { slots_shared, bytes_over, pin, .. } = report;
        if bytes_over == 0 && slots_shared == 0 && self.told.take().is_some() {
            tracing::info!(source, "the log has room again");
        }
        let is_news = pin != self.told || slots_shared > self.shared;
        if let Some(pin) = pin.as_ref().filter(|pin| is_news && self.pin.as_ref() == Some(*pin)) {
            self.told = Some(pin.clone());
            tracing::warn!(
                source,
                slots_shared,
                bytes_over,
                pinned_by = pin.word(),
                subscription = pin.subscription(),
                "the log needs more room than it should, and its oldest messages cannot go: {pin}"
            );
        }
        (self.shared, self.pin) = (slots_shared, pin);
    }
}

/// Moves scheduled messages into the log when they are due, until the drain. A failed move is tried
/// again: it took effect as a whole or not at all.
pub(crate) async fn move_due(
    store: &dyn Store,
    settings: &RelaySettings,
    meter: &SourceMeter,
    mut draining: Draining,
) {
    let backoff: Backoff = settings.retry.into();
    let mut failures = 0;
    loop {
        let moved = tokio::select! {
            biased;
            () = draining.begun() => return,
            moved = store.move_due(MOVE_MESSAGES_MAX) => moved,
        };
        let pause = match moved {
            Ok(moved) => {
                failures = 0;
                until_due(moved, settings)
            }
            Err(error) => {
                meter.failed(error.kind());
                failures += 1;
                if failures == 1 {
                    let source = store.describe();
                    tracing::warn!(source, "scheduled messages wait: {}", describe(&error));
                }
                backoff.delay(failures, jitter())
            }
        };
        if draining.sleep(pause).await {
            return;
        }
    }
}

/// Moves everything that is due.
pub(crate) async fn move_all_due(store: &dyn Store) -> Result<(), StoreError> {
    while store.move_due(MOVE_MESSAGES_MAX).await?.count == u64::from(MOVE_MESSAGES_MAX) {}
    Ok(())
}

/// The pause before the next move: until the next message is due, at most an interval, within
/// which messages that are due earlier may be written.
fn until_due(moved: Moved, settings: &RelaySettings) -> Duration {
    let longest = settings.schedule_interval;
    moved.next_in.map_or(longest, |wait| wait.min(longest))
}

/// The pause between looks: short while windows come, doubling up to a ceiling while not.
struct Pace {
    busy: Duration,
    watching: Duration,
    idle: Duration,
    current: Duration,
    /// The pauses since the last window.
    quiet: Duration,
}

impl Pace {
    fn new(settings: &RelaySettings) -> Self {
        let (busy, idle) = (settings.busy_interval, settings.idle_interval);
        let watching = (idle / WATCHING_SPEEDUP).max(busy);
        Self { busy, watching, idle, current: busy, quiet: Duration::ZERO }
    }

    fn after(&mut self, advance: &Advance) -> Duration {
        if advance.window.is_some() {
            (self.current, self.quiet) = (self.busy, Duration::ZERO);
            return self.current;
        }
        let ceiling = if advance.busy {
            (self.quiet / WATCHING_PART).clamp(self.watching, self.idle)
        } else {
            self.idle
        };
        self.current = (self.current * 2).min(ceiling);
        self.quiet += self.current;
        self.current
    }
}

#[cfg(test)]
mod tests {
    use posthaste_core::Tick;

    use super::*;

    #[test]
    fn r7_pace_is_short_while_busy_and_grows_to_the_idle_interval() {
        let mut pace = Pace::new(&RelaySettings::default());
        let quiet = |busy| Advance { tick: TickRef::BEGINNING, window: None, busy };
        let pauses: Vec<u128> = (0..8).map(|_| pace.after(&quiet(false)).as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 200, 200, 200]);
        assert_eq!(pace.after(&quiet(true)).as_millis(), 50);
    }

    #[test]
    fn long_transaction_is_watched_closely_at_first_and_then_as_often_as_nothing() {
        let mut pace = Pace::new(&RelaySettings::default());
        let watching = Advance { tick: TickRef::BEGINNING, window: None, busy: true };
        let (mut open_for, mut looks) = (Duration::ZERO, 0);
        while open_for < Duration::from_mins(1) {
            let pause = pace.after(&watching);
            assert!(
                pause <= Duration::from_millis(50).max(open_for / WATCHING_PART),
                "{open_for:?}"
            );
            open_for += pause;
            looks += 1;
        }
        assert!(looks < 60 * 5 + 60, "{looks} looks in a minute");
        let tick = TickRef::BEGINNING;
        let head = Tick { at: tick, snapshot: "1:1:".parse().unwrap() };
        let window = Window { base: head.clone(), head, main: None, late: Vec::new() };
        pace.after(&Advance { tick, window: Some(window.into()), busy: true });
        assert_eq!(pace.after(&watching).as_millis(), 10, "a window begins anew");
    }
}
