//! One subscription's pipeline: `read page → publish → settle`, three stages side by side with
//! room for one page between them, so that the next page is read while the last is published, and
//! a second lane for what is set aside.

use std::{collections::HashMap, panic::resume_unwind, sync::Arc};

use posthaste_core::{Backoff, Contracts, Epoch, Place, Position, TopicFilter};
use posthaste_store::{
    Acquired, AsideState, Lineage, Settled, Store, StoreError, StoreErrorKind, defect,
};
use tokio::{
    sync::{Mutex, mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use crate::{
    drain::{Drain, Draining},
    failpoint,
    jitter::jitter,
    leases::{Hold, Word},
    ledger::Ledger,
    marks::{self, Beginning, Loss},
    monitor::{Gauge, State},
    outlet::{Bounds, Outlet},
    pages::Pages,
    parked::Parked,
    policy::{self, Directive, describe},
    publisher::{Ended, Publisher, Shared},
    reader::Reader,
    retries::Retries,
    screen::Screen,
    settings::{ContractSettings, FailureSettings, LostPlace, RelaySettings},
    settler::Settler,
    sink::{Context, Lane, Mark, SinkError, SinkErrorKind, Target},
    source::Newest,
    telemetry::{
        meter::{Lost, SourceMeter},
        traces::Tracer,
    },
};

/// Pages between the reader and the publisher.
const PAGES_AHEAD: usize = 1;

/// What a pipeline works with. Cloned for each run of it.
#[derive(Clone)]
pub(crate) struct Pipeline {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) pages: Arc<Pages>,
    pub(crate) filter: TopicFilter,
    pub(crate) target: Arc<dyn Target>,
    pub(crate) context: Context,
    pub(crate) settings: RelaySettings,
    pub(crate) failure: FailureSettings,
    pub(crate) contracts: ContractSettings,
    /// The contracts that the relay knows.
    pub(crate) known: watch::Receiver<Arc<Contracts>>,
    pub(crate) newest: watch::Receiver<Option<Newest>>,
    pub(crate) gauge: Arc<Gauge>,
    pub(crate) draining: Draining,
    /// What the relay's leases say of this subscription.
    pub(crate) word: watch::Receiver<Word>,
    pub(crate) source: Arc<SourceMeter>,
    pub(crate) tracer: Option<Tracer>,
    /// Who holds the subscription, for people.
    pub(crate) holder: Arc<str>,
    /// Ends once everything up to this tick is published; `None` goes on.
    pub(crate) until: Option<i64>,
}

/// How one run of a pipeline ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Drained, or everything that was asked for is published.
    Done,
    /// A person has paused it, and it was to end.
    Paused,
    /// Another relay holds it, is to hold it, or could by now.
    Lost,
    /// The database failed; the next run begins at the stored place.
    Store(StoreError),
    /// The sink says that the lane stands elsewhere than was known: begin anew where it stands.
    Elsewhere,
    /// The sink failed in a way that does not pass by itself.
    Sink(SinkError),
}

/// What a run has taken over.
struct Taken {
    lane: Lane,
    place: Place,
    /// Until when nobody else takes it, unless the lease is renewed.
    until: Instant,
    parked: Arc<Parked>,
    is_paused: bool,
}

impl Pipeline {
    /// Runs from the stored place, never from memory, until the drain, a failure, or the end of its
    /// lease.
    pub(crate) async fn run(self) -> Outcome {
        let (name, lease) = (self.gauge.name(), self.settings.lease);
        let is_early = defect::is("epoch-after-place");
        let early = if is_early { self.store.aside(name).await.ok() } else { None };
        failpoint::reach("acquiring", name);
        let until = Instant::now() + lease;
        let (epoch, place) = match self.store.acquire(name, &self.holder, lease).await {
            Ok(Acquired::Taken(epoch, place)) => (epoch, place),
            Ok(Acquired::Held { holder, left }) => {
                tracing::debug!(subscription = name, holder, ?left, "held by another relay");
                return Outcome::Lost;
            }
            Err(error) => return Outcome::Store(error),
        };
        let outcome = match self.take_over(epoch, place, until, early).await {
            Ok(taken) => self.clone().hold(taken).await,
            Err(error) => Outcome::Store(error),
        };
        if let Outcome::Store(error) = &outcome
            && error.kind() == StoreErrorKind::Rewound
        {
            self.halt(epoch, error).await;
        }
        outcome
    }

    /// Writes down that the log is not the one that was read, so that no relay goes on before
    /// somebody has looked.
    async fn halt(&self, epoch: Epoch, found: &StoreError) {
        let name = self.gauge.name();
        if let Err(error) = self.store.halt(name, epoch, found.doing()).await {
            // The next relay finds the same.
            tracing::warn!(subscription = name, "halt it: {}", describe(&error));
        }
    }

    /// Carries the subscription for as long as its lease lasts, and releases it after a drain.
    async fn hold(mut self, taken: Taken) -> Outcome {
        let (drain, draining) = Drain::new();
        let mut relay = std::mem::replace(&mut self.draining, draining);
        let epoch = taken.lane.epoch;
        let ledger = Arc::new(Ledger::new(&self, epoch, taken.place));
        let mut hold = Hold::new(epoch, taken.until, self.word.clone());
        let until = hold.until();
        let outcome = {
            let carried = self.carry(taken, &ledger, until);
            tokio::pin!(carried);
            tokio::select! {
                biased;
                outcome = &mut carried => outcome,
                // The ledger tells the stages to stop.
                () = hold.keep(&mut relay, &drain, &ledger) => carried.await,
            }
        };
        match outcome {
            Outcome::Done | Outcome::Paused => {
                self.gauge.enter(State::Draining);
                let is_handed_over = hold.is_given() && !relay.has_begun();
                match self.store.release(self.gauge.name(), epoch).await {
                    Ok(()) if is_handed_over => Outcome::Lost,
                    Ok(()) => outcome,
                    Err(error) => Outcome::Store(error),
                }
            }
            // Nobody carries it here any more. Another relay's sink may be the right one.
            Outcome::Sink(error) => {
                let name = self.gauge.name();
                if let Err(error) = self.store.release(name, epoch).await {
                    tracing::debug!(subscription = name, "release it: {}", describe(&error));
                }
                Outcome::Sink(error)
            }
            outcome => outcome,
        }
    }

    /// Reads, publishes and settles under the lease.
    async fn carry(
        &self,
        taken: Taken,
        ledger: &Arc<Ledger>,
        until: watch::Receiver<Instant>,
    ) -> Outcome {
        let Taken { lane, place: settled, parked, is_paused, .. } = taken;
        let turn = Arc::new(Mutex::new(()));
        let pause = is_paused.then(|| Arc::clone(&turn).try_lock_owned().ok()).flatten();
        if pause.is_some() && self.until.is_some() {
            // What was asked for would never be published.
            return Outcome::Paused;
        }
        let mut publisher = self.publisher(lane.clone(), ledger, until.clone());
        let begin = match self.begin(&mut publisher, ledger, &parked, settled).await {
            Ok(begin) => begin,
            Err(outcome) => return outcome,
        };
        let place = begin.place;
        parked.begin_at(&place, begin.reached());

        let (portions_in, mut portions) = mpsc::channel(PAGES_AHEAD);
        let (places_in, places) = watch::channel(place);
        let mut retries = self.retries(&lane, ledger, &parked, &turn, places.clone(), until);
        retries.pause = pause;
        if lane.adopts
            && let Err(outcome) = self.adopt(&mut retries.outlet, ledger, lane.epoch).await
        {
            return outcome;
        }
        let settler = Settler { ledger: Arc::clone(ledger) };
        let (stopped, draining) = (ledger.stopped(), self.draining.clone());
        let mut shared = Shared { ledger: Arc::clone(ledger), parked, turn, draining, stopped };

        let publish = async {
            let published = publisher.run(&mut portions, &places_in, &mut shared).await;
            // The reader stops when its pages find no taker, the others after the last place.
            portions.close();
            drop(places_in);
            publisher.close().await;
            published
        };
        let settle = settler.run(place, places);
        let retry = async {
            let retried = retries.run().await;
            if retried.is_err() {
                ledger.stop();
            }
            retries.close().await;
            retried
        };
        // The reader has a task of its own: decoding a page must not hold up the answer to a batch.
        // It is joined below, and aborted with this future.
        let mut reading = JoinSet::new();
        reading.spawn(self.reader().run(place, portions_in));
        let read = async {
            match reading.join_next().await {
                Some(Ok(read)) => read,
                Some(Err(error)) if error.is_panic() => resume_unwind(error.into_panic()),
                _ => Ok(()),
            }
        };
        let (read, published, settled, retried) = tokio::join!(read, publish, settle, retry);

        if ledger.is_fenced().await {
            return Outcome::Lost;
        }
        conclude(read.and(retried), published, settled.map(drop))
    }

    /// Connects the sink and finds where to begin: what the sink says is compared with what was
    /// settled. `Done` when the drain comes first.
    async fn begin(
        &self,
        publisher: &mut Publisher,
        ledger: &Ledger,
        parked: &Parked,
        settled: Place,
    ) -> Result<Beginning, Outcome> {
        let Some(mark) = self.connect(publisher.outlet(), ledger).await? else {
            return Ok(Beginning { place: settled, floor: None, loss: None });
        };
        let unreadable = |error| {
            let doing = format!("{}: its place cannot be read", self.target.describe());
            Outcome::Sink(SinkError::caused(SinkErrorKind::Misconfigured, doing, error))
        };
        if let Some(marked) = marks::place(&mark).map_err(unreadable)? {
            self.store.confirm_mark(&marked).await.map_err(Outcome::Store)?;
        }
        let begin = marks::beginning(settled, &mark).map_err(unreadable)?;
        self.tell(&begin, &settled);
        if begin.loss == Some(Loss::Tail) {
            self.refuse_gap(&begin.place).await?;
        }
        if begin.loss == Some(Loss::Place) && self.failure.lost_place == LostPlace::Stop {
            let doing = format!(
                "{} has lost the place of {:?}, and failure.lost_place is \"stop\"",
                self.target.describe(),
                self.gauge.name()
            );
            return Err(Outcome::Store(StoreError::new(StoreErrorKind::Rewound, doing)));
        }
        failpoint::reach("beginning", self.gauge.name());
        publisher.begin_above(begin.floor.clone());
        // Before anything is published: from here on the sink's count says what was.
        let recorded = match begin.loss {
            None => ledger.settle(begin.place).await,
            Some(Loss::Place) => ledger.set_back(begin.place, &[]).await,
            Some(Loss::Tail) => {
                let missing =
                    if parked.has_keys() { self.missing(&begin).await } else { Ok(HashMap::new()) };
                let missing = missing.map_err(Outcome::Store)?;
                let keys = parked.set_back(&begin.reached(), &missing);
                ledger.set_back(begin.place, &keys).await
            }
        };
        match recorded {
            Ok(Settled::Recorded) => Ok(begin),
            Ok(Settled::Fenced) => Err(Outcome::Lost),
            Err(error) => Err(Outcome::Store(error)),
        }
    }

    /// Stops where what the sink has lost is gone from the log as well.
    async fn refuse_gap(&self, mark: &Place) -> Result<(), Outcome> {
        let gone = self.store.gone(mark).await.map_err(Outcome::Store)?;
        let Some(gone) = gone else { return Ok(()) };
        let doing = format!(
            "{} has lost what was published after {mark}, and the log no longer holds all of it: \
             {gone}; what is left of it, `posthaste replay` publishes",
            self.target.describe()
        );
        Err(Outcome::Store(StoreError::new(StoreErrorKind::Rewound, doing)))
    }

    /// The first message of each key that the sink is missing, of those up to its place.
    async fn missing(&self, begin: &Beginning) -> Result<HashMap<String, Position>, StoreError> {
        let mut missing = HashMap::new();
        let (Some(floor), Some(within)) = (&begin.floor, begin.place.within) else {
            return Ok(missing);
        };
        let window = self.store.window(begin.place.base, Some(within.head)).await?;
        let Some(window) = window else { return Ok(missing) };
        let (mut after, limit) = (within.position, self.settings.page_limit());
        while after < floor.through
            && let Some(page) = self.store.read(&window, after, &self.filter, limit).await?
        {
            let messages = (0..page.len()).map(|nth| page.get(nth));
            for message in messages.filter(|it| floor.is_missing(it.position)) {
                if let Some(key) = message.key {
                    missing.entry(key.to_owned()).or_insert(message.position);
                }
            }
            after = page.through();
        }
        Ok(missing)
    }

    /// The sink is held with a later epoch: another relay has taken over, or the database has gone
    /// back to before it handed that epoch out.
    async fn fenced(&self, ledger: &Ledger) -> Outcome {
        match ledger.is_held().await {
            Ok(true) if !defect::is("reused-position") => {
                let doing = format!(
                    "{} is held with an epoch that {} has not handed out yet",
                    self.target.describe(),
                    self.store.describe()
                );
                Outcome::Store(StoreError::new(StoreErrorKind::Rewound, doing))
            }
            Ok(_) => Outcome::Lost,
            Err(error) => Outcome::Store(error),
        }
    }

    /// After a rebase: takes the second lane over as well, and writes down that both are taken.
    async fn adopt(
        &self,
        retries: &mut Outlet,
        ledger: &Ledger,
        epoch: Epoch,
    ) -> Result<(), Outcome> {
        self.connect(retries, ledger).await?;
        self.store.adopted(self.gauge.name(), epoch).await.map_err(Outcome::Store)
    }

    /// Connects, and waits for a sink that is away. `None` for a sink that keeps no places.
    async fn connect(&self, outlet: &mut Outlet, ledger: &Ledger) -> Result<Option<Mark>, Outcome> {
        let backoff: Backoff = self.settings.retry.into();
        let (mut draining, mut stopped) = (self.draining.clone(), ledger.stopped());
        let mut failures = 0;
        loop {
            let connected = tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => return Err(Outcome::Lost),
                () = draining.begun() => return Err(Outcome::Done),
                connected = outlet.connect() => connected,
            };
            let error = match connected {
                Ok(mark) => {
                    self.gauge.running();
                    return Ok(mark);
                }
                Err(error) => error,
            };
            if error.kind() == SinkErrorKind::Fenced {
                return Err(self.fenced(ledger).await);
            }
            if policy::after_sink_error(error.kind()) == Directive::Stop {
                return Err(Outcome::Sink(error));
            }
            self.gauge.setback(State::BackingOff, describe(&error));
            failures += 1;
            if draining.sleep(backoff.delay(failures, jitter())).await {
                return Err(Outcome::Done);
            }
        }
    }

    /// Says what the sink has lost.
    fn tell(&self, begin: &Beginning, settled: &Place) {
        let subscription = self.gauge.name();
        match begin.loss {
            None => {}
            Some(Loss::Place) => {
                self.gauge.meter().lost(Lost::Place).add(1);
                tracing::warn!(
                    subscription,
                    "{} has lost the subscription's place, and what else it held; going on from \
                     the settled place ({settled})",
                    self.target.describe()
                );
            }
            Some(Loss::Tail) => {
                self.gauge.meter().lost(Lost::Tail).add(1);
                tracing::warn!(
                    subscription,
                    "{} has lost what was published after {}, up to {settled}",
                    self.target.describe(),
                    begin.place
                );
            }
        }
    }

    /// Checks that the log is the one that was read, and loads what is set aside.
    async fn take_over(
        &self,
        epoch: Epoch,
        place: Place,
        until: Instant,
        early: Option<AsideState>,
    ) -> Result<Taken, StoreError> {
        let name = self.gauge.name();
        let remembered = self.gauge.last_settled();
        let lineage = self.store.confirm(name, &place, remembered.as_ref()).await?;
        let parked = Arc::new(Parked::default());
        let aside = match early {
            Some(early) => early,
            None => self.store.aside(name).await?,
        };
        let is_paused = aside.is_paused;
        parked.load(aside, &place);
        tracing::debug!(subscription = name, epoch, ?place, "acquired");
        failpoint::reach("acquired", name);
        self.gauge.acquired(place, parked.counts());
        if is_paused {
            self.gauge.paused();
        } else {
            self.gauge.running();
        }
        let Lineage { log, adopts } = lineage;
        let lane = Lane { name: name.to_owned(), epoch, log, adopts };
        Ok(Taken { lane, place, until, parked, is_paused })
    }

    fn reader(&self) -> Reader {
        Reader {
            store: Arc::clone(&self.store),
            pages: Arc::clone(&self.pages),
            filter: self.filter.clone(),
            newest: self.newest.clone(),
            draining: self.draining.clone(),
            until: self.until,
        }
    }

    fn publisher(&self, lane: Lane, ledger: &Ledger, until: watch::Receiver<Instant>) -> Publisher {
        let outlet = self.outlet(lane, ledger, until);
        let (filter, failure) = (self.filter.clone(), self.failure.clone());
        Publisher::new(outlet, filter, &self.settings, failure, Arc::clone(&self.gauge))
    }

    fn retries(
        &self,
        lane: &Lane,
        ledger: &Arc<Ledger>,
        parked: &Arc<Parked>,
        turn: &Arc<Mutex<()>>,
        places: watch::Receiver<Place>,
        until: watch::Receiver<Instant>,
    ) -> Retries {
        let of_retries = Lane { name: format!("{}:retries", lane.name), ..lane.clone() };
        Retries {
            store: Arc::clone(&self.store),
            outlet: self.outlet(of_retries, ledger, until),
            word: self.word.clone(),
            ledger: Arc::clone(ledger),
            parked: Arc::clone(parked),
            turn: Arc::clone(turn),
            places,
            filter: self.filter.clone(),
            failure: self.failure.clone(),
            limits: (&self.settings).into(),
            page_bytes: self.settings.page_bytes,
            backoff: self.settings.retry.into(),
            draining: self.draining.clone(),
            stopped: ledger.stopped(),
            gauge: Arc::clone(&self.gauge),
            setbacks: 0,
            pause: None,
            is_behind: false,
            windows: HashMap::new(),
        }
    }

    fn outlet(&self, lane: Lane, ledger: &Ledger, until: watch::Receiver<Instant>) -> Outlet {
        let (target, context) = (Arc::clone(&self.target), self.context.clone());
        let (limit, gauge) = (self.settings.operation_timeout, Arc::clone(&self.gauge));
        let tracer = self.tracer.clone();
        let bounds = Bounds { limit, until, stopped: ledger.stopped() };
        let (known, settings) = (self.known.clone(), self.contracts.clone());
        let screen = Screen::new(known, settings, Arc::clone(&gauge));
        Outlet::new(target, context, lane, bounds, gauge, tracer, screen)
    }
}

/// The most telling of the results: the sink first, then the database.
fn conclude(
    read: Result<(), StoreError>,
    published: Result<(), Ended>,
    settled: Result<(), StoreError>,
) -> Outcome {
    match (settled, published, read) {
        (_, Err(Ended::Sink(error)), _) if error.kind() == SinkErrorKind::Fenced => Outcome::Lost,
        (_, Err(Ended::Sink(error)), _) => Outcome::Sink(error),
        (Err(error), _, _) | (_, Err(Ended::Store(error)), _) | (_, _, Err(error)) => {
            Outcome::Store(error)
        }
        (Ok(()), Err(Ended::Fenced), _) => Outcome::Lost,
        (Ok(()), Err(Ended::Elsewhere), _) => Outcome::Elsewhere,
        (Ok(()), Ok(()) | Err(Ended::Draining), Ok(())) => Outcome::Done,
    }
}
