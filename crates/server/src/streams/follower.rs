//! One client of a stream: from where it says it is to the end of the log, and on from there.

use std::{collections::VecDeque, fmt, sync::Arc};

use bytes::Bytes;
use posthaste_core::{MessageRef, Place, TickRef, Window, describe};
use posthaste_store::{StoreError, StoreErrorKind};
use tokio::sync::{SemaphorePermit, watch};

use super::{
    From, StreamError, Wish, frame,
    hub::{Guest, Hub, Joined, Seat, is_finished},
};

/// What is asked of the database in one turn: twice the rest of a window.
const TURN_STEPS_MAX: u32 = 6;
/// Bytes of frames behind which nothing more is read before they are taken.
const TURN_BYTES_MAX: usize = 64 << 10;

/// The frames of one stream.
pub(crate) struct Follower {
    hub: Arc<Hub>,
    wish: Wish,
    way: Way,
    /// A seat at the end of the log, which has all that comes behind this tick: taken on the way there.
    ahead: Option<(TickRef, Seat)>,
    /// What was read and not taken yet.
    ready: VecDeque<Bytes>,
    ended: watch::Receiver<bool>,
    _guest: Guest,
}

/// How far it is.
enum Way {
    /// On its way, at a place.
    Behind(Place),
    /// Inside a window, at a place in it.
    Within(Arc<Window>, Place),
    /// At the end of the log.
    There(Seat),
}

impl fmt::Debug for Follower {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follower").field("wish", &self.wish).finish_non_exhaustive()
    }
}

impl Follower {
    /// Checks that the log still has what follows.
    pub(super) async fn begin(hub: Arc<Hub>, wish: Wish) -> Result<Self, StreamError> {
        let guest = hub.welcome();
        let place = match wish.from {
            From::Now => now(&hub).await?,
            // It has no place to remember: when its client comes again, the oldest message may be another.
            From::Beginning => None,
            From::Since(time) => {
                let tick = hub.store.tick_before(time).await.map_err(StreamError::Store)?;
                let place = Place::at(tick);
                has_all(&hub, &place).await?;
                Some(place)
            }
            From::Behind(place) => {
                // In turn as what is read behind it: after a restart all come at once, and a few connections that
                // have just begun answer sooner than many.
                let _turn = hub.readers.acquire().await;
                check(&hub, &place).await?;
                Some(place)
            }
        };
        let ended = hub.ended();
        // A client that never sees an event comes again from here.
        let mark = place.map(|place| frame::mark(&place));
        let ready = [frame::greeting()].into_iter().chain(mark).collect();
        let way = Way::Behind(place.unwrap_or(Place::beginning()));
        Ok(Self { hub, wish, way, ahead: None, ready, ended, _guest: guest })
    }

    /// The next frame. `None` ends the stream, and the client goes on with the last id that it has: when it has taken too
    /// little for too long, when the server ends, or when the database does not answer.
    ///
    /// # Cancel safety
    /// Nothing is lost, and nothing comes twice.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let hub = Arc::clone(&self.hub);
        // Who reads by itself goes on until it is there, if that is not far: many that come again at once would all be
        // the last ones if each read a page and stood in line again.
        let (mut turn, mut steps) = (None, 0);
        loop {
            if steps == TURN_STEPS_MAX {
                (turn, steps) = (None, 0);
            }
            let bytes = || self.ready.iter().map(Bytes::len).sum::<usize>();
            let goes_on = turn.is_some() && bytes() < TURN_BYTES_MAX;
            if !goes_on && let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            let step = match &mut self.way {
                Way::There(seat) => {
                    // Others need not wait for what comes, or for who takes this.
                    drop(turn.take());
                    match self.ready.pop_front() {
                        Some(frame) => return Some(frame),
                        None => return seat.next().await,
                    }
                }
                Way::Within(window, place) => Step::Read(Arc::clone(window), *place),
                Way::Behind(place) => {
                    let place = *place;
                    match self.turn(place) {
                        Some(step) => step,
                        None => continue,
                    }
                }
            };
            let went = tokio::select! {
                biased;
                _ = self.ended.wait_for(|ended| *ended) => return None,
                went = go(&hub, &self.wish, step, &mut turn) => went,
            };
            steps += 1;
            match went {
                Ok((way, read)) => {
                    self.way = way;
                    self.ready.extend(read);
                }
                Err(error) => {
                    tracing::warn!("a stream ends: {}", describe(&error));
                    return None;
                }
            }
        }
    }
}

impl Follower {
    /// What to do at a place; `None` where it is the end of the log, and there is a seat.
    fn turn(&mut self, place: Place) -> Option<Step> {
        // The rest of a window that was begun.
        if let Some(within) = place.within {
            return Some(Step::To(place, within.head));
        }
        match self.ahead.take() {
            Some((tick, seat)) if tick == place.base && !seat.is_cut() => {
                self.way = Way::There(seat);
                return None;
            }
            Some((tick, seat)) if tick != place.base => {
                self.ahead = Some((tick, seat));
                return Some(Step::To(place, tick));
            }
            // It took so long to come here that the seat is no use.
            Some(_) | None => {}
        }
        match self.hub.join(place.base, &self.wish) {
            Joined::Here(seat) => {
                self.way = Way::There(seat);
                None
            }
            Joined::Behind(tick, seat) => {
                self.ahead = seat.map(|seat| (tick, seat));
                Some(Step::To(place, tick))
            }
            Joined::Ahead => Some(Step::Wait(place)),
        }
    }
}

/// What to do next.
enum Step {
    /// Go on from a place to a tick.
    To(Place, TickRef),
    /// Until the others are as far.
    Wait(Place),
    /// Read a page of a window.
    Read(Arc<Window>, Place),
}

type Went = Result<(Way, VecDeque<Bytes>), StoreError>;

/// Takes a step, in the caller's turn to read.
async fn go<'a>(
    hub: &'a Hub,
    wish: &Wish,
    step: Step,
    turn: &mut Option<SemaphorePermit<'a>>,
) -> Went {
    let none = VecDeque::new();
    if matches!(step, Step::Wait(_)) {
        // Nobody else has to wait for that.
        *turn = None;
    } else if turn.is_none() {
        // The semaphore is never closed.
        *turn = hub.readers.acquire().await.ok();
    }
    match step {
        Step::Wait(place) => {
            newest(hub, |tick| tick.n >= place.base.n).await;
            Ok((Way::Behind(place), none))
        }
        Step::Read(window, place) => read(hub, wish, window, place).await,
        Step::To(place, head) => {
            let way = match hub.store.window(place.base, Some(head)).await? {
                Some(window) => Way::Within(window, place),
                None => Way::Behind(place.finished(head)),
            };
            Ok((way, none))
        }
    }
}

/// Reads a page of a window.
async fn read(hub: &Hub, wish: &Wish, window: Arc<Window>, place: Place) -> Went {
    let head = window.head.at;
    let after = place.within.map_or(0, |within| within.position);
    let page = hub.read(&window, after, &wish.topics, wish.key.as_deref()).await?;
    // Whoever asks for the oldest message begins at whatever that is.
    let begins_anywhere = wish.from == From::Beginning && place == Place::beginning();
    if !begins_anywhere {
        hub.confirm_whole(&place).await?;
    }
    let Some(page) = page else {
        return Ok((Way::Behind(place.finished(head)), VecDeque::new()));
    };
    let frame = |message: MessageRef<'_>| {
        let behind = place.moved_to(head, message.position, None);
        frame::event(&behind, &message, wish.with_payloads)
    };
    let frames = page.iter().map(frame).collect();
    if is_finished(&window, page.through()) {
        return Ok((Way::Behind(place.finished(head)), frames));
    }
    let place = place.moved_to(head, page.through(), None);
    Ok((Way::Within(window, place), frames))
}

/// Waits until the hub has come to such a tick.
async fn newest(hub: &Hub, is_meant: impl Fn(TickRef) -> bool) -> TickRef {
    let mut ticks = hub.tick();
    let tick = ticks.wait_for(|tick| tick.is_some_and(&is_meant)).await;
    // The hub has the sender, and we have the hub.
    tick.ok().and_then(|tick| *tick).unwrap_or(TickRef::BEGINNING)
}

/// The end of the log; none where the server ends first: the stream ends then as all others do, and its client comes
/// again, which it would not after a refusal.
async fn now(hub: &Hub) -> Result<Option<Place>, StreamError> {
    let (mut ended, mut failed) = (hub.ended(), hub.failed());
    tokio::select! {
        biased;
        tick = newest(hub, |_| true) => Ok(Some(Place::at(tick))),
        _ = ended.wait_for(|ended| *ended) => Ok(None),
        Ok(kind) = failed.wait_for(Option::is_some) => {
            let kind = kind.unwrap_or(StoreErrorKind::Unavailable);
            Err(StreamError::Store(StoreError::new(kind, "read the end of the log")))
        }
    }
}

async fn check(hub: &Hub, place: &Place) -> Result<(), StreamError> {
    match hub.store.confirm_mark(place).await {
        Ok(()) => {}
        Err(error) if error.kind() == StoreErrorKind::Rewound => {
            return Err(StreamError::Unknown(error));
        }
        Err(error) => return Err(StreamError::Store(error)),
    }
    has_all(hub, place).await
}

/// Checks that the log has all that follows a place.
async fn has_all(hub: &Hub, place: &Place) -> Result<(), StreamError> {
    match hub.store.gone(place).await {
        Ok(None) => Ok(()),
        Ok(Some(gone)) => Err(StreamError::Gone(gone)),
        Err(error) => Err(StreamError::Store(error)),
    }
}
