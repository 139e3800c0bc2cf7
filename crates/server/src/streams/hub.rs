//! The one reader of the log for all clients that are at its end.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use posthaste_core::{
    Backoff, MessageRef, Page, PageLimit, Place, Position, Step, TickRef, TopicFilter, Window,
    describe,
};
use posthaste_store::{Advance, Store, StoreError, StoreErrorKind, Ticker};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{Duration, Instant, sleep},
};

use super::{StreamSettings, Wish, frame};
use crate::telemetry::StreamMeter;

/// After a database that did not answer.
const BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(50), cap: Duration::from_secs(2) };
/// So many ticks are soon read: what comes meanwhile finds room in the seat of whoever reads them.
const NEAR: i64 = 256;
/// One read of the log.
const LIMIT: PageLimit = PageLimit { stride: 2_000, bytes: 1 << 20 };

/// Everybody who follows, and how far the log has been read for them.
pub(super) struct Hub {
    pub(super) store: Arc<dyn Store>,
    pub(super) settings: StreamSettings,
    meter: Arc<StreamMeter>,
    /// Those who read by themselves.
    pub(super) readers: Semaphore,
    state: Mutex<State>,
    /// As [`State::tick`], for those who wait for it.
    tick: watch::Sender<Option<TickRef>>,
    /// Why the log could not be read, since it could not. None while nobody follows.
    failed: watch::Sender<Option<StoreErrorKind>>,
    /// How many follow, or are about to.
    guests: watch::Sender<usize>,
    ended: watch::Sender<bool>,
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").field("store", &self.store.describe()).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    /// Everything that it shows has been handed, or is being handed, to the clients who were there before it was
    /// announced here. None while nobody follows.
    tick: Option<TickRef>,
    clients: HashMap<u64, Arc<Client>>,
    number: u64,
}

/// A client at the end of the log.
struct Client {
    topics: TopicFilter,
    key: Option<String>,
    with_payloads: bool,
    /// None once it was too slow: it must not get what comes behind a gap.
    frames: Mutex<Option<mpsc::Sender<Bytes>>>,
    waiting: Arc<AtomicUsize>,
}

/// A window that is being handed out.
struct Handing {
    window: Arc<Window>,
    clients: Vec<Arc<Client>>,
    topics: TopicFilter,
    after: Position,
}

/// What became of the wish to join.
pub(super) enum Joined {
    /// All that comes from now on.
    Here(Seat),
    /// The log has been read up to this tick for the others: read up to it, and ask again; or, with a seat, go on there,
    /// which has all that follows.
    Behind(TickRef, Option<Seat>),
    /// It has not been read as far yet.
    Ahead,
}

/// A client's place among those at the end of the log, until it is dropped.
pub(super) struct Seat {
    hub: Arc<Hub>,
    number: u64,
    frames: mpsc::Receiver<Bytes>,
    waiting: Arc<AtomicUsize>,
}

/// Counts a guest while it is there.
pub(super) struct Guest(Arc<Hub>);

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.guests.send_modify(|guests| *guests -= 1);
    }
}

/// Whether it is certain, without asking the store, that nothing of the window lies above.
pub(super) fn is_finished(window: &Window, after: Position) -> bool {
    window.step(after, 1) == Step::Done
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    pub(super) fn new(
        store: Arc<dyn Store>,
        settings: StreamSettings,
        meter: Arc<StreamMeter>,
    ) -> Self {
        Self {
            store,
            readers: Semaphore::new(settings.readers),
            settings,
            meter,
            state: Mutex::default(),
            tick: watch::channel(None).0,
            failed: watch::channel(None).0,
            guests: watch::channel(0).0,
            ended: watch::channel(false).0,
        }
    }

    /// A guest keeps the hub awake.
    pub(super) fn welcome(self: &Arc<Self>) -> Guest {
        self.guests.send_modify(|guests| *guests += 1);
        Guest(Arc::clone(self))
    }

    pub(super) fn end(&self) {
        self.ended.send_replace(true);
        self.cut_all();
    }

    pub(super) fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// How far the log has been read, and when that changes.
    pub(super) fn tick(&self) -> watch::Receiver<Option<TickRef>> {
        self.tick.subscribe()
    }

    /// Why the log cannot be read, for who waits for a tick.
    pub(super) fn failed(&self) -> watch::Receiver<Option<StoreErrorKind>> {
        self.failed.subscribe()
    }

    /// Hands everything on that comes behind the place where the others are. Who is near it has a seat before it is there:
    /// the others do not wait, and who only ever read up to them would never come up with them.
    pub(super) fn join(self: &Arc<Self>, at: TickRef, wish: &Wish) -> Joined {
        let mut state = lock(&self.state);
        match state.tick {
            Some(tick) if tick == at => Joined::Here(self.seat(&mut state, wish)),
            // Of one number and another id: the store will say what that means.
            Some(tick) if tick.n >= at.n => {
                let is_near = tick.n - at.n <= NEAR;
                Joined::Behind(tick, is_near.then(|| self.seat(&mut state, wish)))
            }
            Some(_) | None => Joined::Ahead,
        }
    }

    fn seat(self: &Arc<Self>, state: &mut State, wish: &Wish) -> Seat {
        let (sender, frames) = mpsc::channel(self.settings.events_max);
        // Under the lock under which all are cut after the end: nobody would cut those who come later.
        let frames_in = (!*self.ended.borrow()).then_some(sender);
        let waiting = Arc::new(AtomicUsize::new(0));
        let client = Client {
            topics: wish.topics.clone(),
            key: wish.key.clone(),
            with_payloads: wish.with_payloads,
            frames: Mutex::new(frames_in),
            waiting: Arc::clone(&waiting),
        };
        state.number += 1;
        let number = state.number;
        state.clients.insert(number, Arc::new(client));
        Seat { hub: Arc::clone(self), number, frames, waiting }
    }

    /// Reads and hands out, until the future is dropped.
    pub(super) async fn run(&self) -> Infallible {
        let mut ticker = self.store.ticker();
        let mut guests = self.guests.subscribe();
        let (mut handing, mut failures, mut marked) = (None, 0, Instant::now());
        loop {
            if *guests.borrow_and_update() == 0 {
                self.announce(None);
                self.failed.send_replace(None);
                handing = None;
                // It has the sender itself.
                let _ = guests.wait_for(|guests| *guests > 0).await;
            }
            let pause = match self.look(ticker.as_mut(), &mut handing).await {
                Ok(is_busy) => {
                    failures = 0;
                    self.failed.send_if_modified(|failed| failed.take().is_some());
                    if marked.elapsed() >= self.settings.mark {
                        marked = Instant::now();
                        self.mark();
                    }
                    if is_busy { self.settings.busy } else { self.settings.idle }
                }
                Err(error) => {
                    failures += 1;
                    let is_lost = error.kind() == StoreErrorKind::Rewound;
                    if failures == 1 || (is_lost && self.tick.borrow().is_some()) {
                        tracing::warn!("streams wait: {}", describe(&error));
                    }
                    if is_lost {
                        // What follows where they were is not in this log: they hear of that when they come again.
                        self.announce(None);
                        self.cut_all();
                        handing = None;
                    }
                    // After a gap the next look is as good as any.
                    if !is_lost || failures > 1 {
                        self.failed.send_replace(Some(error.kind()));
                    }
                    BACKOFF.delay(failures, rand::random())
                }
            };
            sleep(pause).await;
        }
    }

    /// Goes on with the window that is being handed out, or looks for the next one. Answers whether more may come soon.
    async fn look(
        &self,
        ticker: &mut dyn Ticker,
        handing: &mut Option<Handing>,
    ) -> Result<bool, StoreError> {
        if let Some(rest) = handing {
            self.hand_out(rest).await?;
            *handing = None;
        }
        let Advance { tick, window, busy } = ticker.advance().await?;
        let Some(reached) = lock(&self.state).tick else {
            self.announce(Some(tick));
            return Ok(busy);
        };
        if tick == reached {
            return Ok(busy);
        }
        let window = match window.filter(|window| window.base.at == reached) {
            Some(window) => Some(window),
            None => self.store.window(reached, None).await?,
        };
        if let Some(window) = window {
            let clients = self.announce(Some(window.head.at));
            let topics = TopicFilter::union(clients.iter().map(|client| &client.topics));
            let rest = handing.insert(Handing { window, clients, topics, after: 0 });
            self.hand_out(rest).await?;
            *handing = None;
        }
        Ok(busy)
    }

    /// Says how far the log is read, and answers to whom what lies before that is still to be handed.
    fn announce(&self, tick: Option<TickRef>) -> Vec<Arc<Client>> {
        let mut state = lock(&self.state);
        state.tick = tick;
        let clients = state.clients.values().cloned().collect();
        drop(state);
        self.tick.send_replace(tick);
        clients
    }

    async fn hand_out(&self, handing: &mut Handing) -> Result<(), StoreError> {
        let Handing { window, clients, topics, after } = handing;
        if clients.is_empty() {
            return Ok(());
        }
        loop {
            let page = self.read(window, *after, topics, None).await?;
            let (place, is_begun) = (Place::at(window.base.at), *after > 0);
            let place = if is_begun { place.moved_to(window.head.at, *after, None) } else { place };
            self.confirm_whole(&place).await?;
            let Some(page) = page else { return Ok(()) };
            for message in page.iter() {
                self.hand(clients, window, &message);
            }
            *after = page.through();
            if is_finished(window, *after) {
                return Ok(());
            }
        }
    }

    /// Checks that the log had all that follows a place when it was read: retention may overtake whoever is slow, was
    /// stopped or was cut off from the database, and what is emptied reads like what never was. To be asked after a page
    /// is read and before any of it is handed on. No clock tells when that is needless: this machine's may have stood
    /// still, and a log above its size is emptied at once.
    ///
    /// # Errors
    /// `Rewound`, with what is gone.
    pub(super) async fn confirm_whole(&self, place: &Place) -> Result<(), StoreError> {
        match self.store.gone(place).await? {
            None => Ok(()),
            Some(gone) => {
                let doing = format!("read a stream: {gone}");
                Err(StoreError::new(StoreErrorKind::Rewound, doing))
            }
        }
    }

    fn hand(&self, clients: &[Arc<Client>], window: &Window, message: &MessageRef<'_>) {
        let place = Place::at(window.base.at).moved_to(window.head.at, message.position, None);
        // Without and with its payload, made once for all who want it.
        let mut frames = [None, None];
        for client in clients.iter().filter(|client| client.wants(message)) {
            let with_payload = client.with_payloads;
            let frame = frames[usize::from(with_payload)]
                .get_or_insert_with(|| frame::event(&place, message, with_payload));
            client.offer(frame, &self.settings, &self.meter);
        }
    }

    pub(super) async fn read(
        &self,
        window: &Window,
        after: Position,
        topics: &TopicFilter,
        key: Option<&str>,
    ) -> Result<Option<Page>, StoreError> {
        match key {
            Some(key) => self.store.read_key(window, after, topics, key, LIMIT).await,
            None => self.store.read(window, after, topics, LIMIT).await,
        }
    }

    /// Tells all clients how far they have come: nothing is being handed out.
    fn mark(&self) {
        let (tick, clients) = {
            let state = lock(&self.state);
            (state.tick, state.clients.values().cloned().collect::<Vec<_>>())
        };
        let Some(tick) = tick else { return };
        let mark = frame::mark(&Place::at(tick));
        for client in clients {
            client.offer(&mark, &self.settings, &self.meter);
        }
    }

    fn cut_all(&self) {
        for client in lock(&self.state).clients.values() {
            client.cut();
        }
    }
}

impl Client {
    fn wants(&self, message: &MessageRef<'_>) -> bool {
        self.topics.matches(message.topic)
            && self.key.as_deref().is_none_or(|key| message.key == Some(key))
    }

    /// Hands a frame on, unless too much waits already: then it gets no more.
    fn offer(&self, frame: &Bytes, settings: &StreamSettings, meter: &StreamMeter) {
        let mut frames = lock(&self.frames);
        let Some(sender) = &*frames else { return };
        let before = self.waiting.fetch_add(frame.len(), Ordering::Relaxed);
        let is_too_much = before > 0 && before + frame.len() > settings.bytes_max;
        if is_too_much || sender.try_send(frame.clone()).is_err() {
            *frames = None;
            meter.cut_off.add(1);
        } else {
            meter.frames.add(1);
        }
    }

    fn cut(&self) {
        *lock(&self.frames) = None;
    }
}

impl Seat {
    /// Whether it was too slow: what it still has is followed by a gap.
    pub(super) fn is_cut(&self) -> bool {
        self.frames.is_closed()
    }

    /// The next frame; none after the last one that there was room for.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        let frame = self.frames.recv().await?;
        self.waiting.fetch_sub(frame.len(), Ordering::Relaxed);
        Some(frame)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.hub.state).clients.remove(&self.number);
    }
}
