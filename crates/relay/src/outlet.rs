//! The way out of a lane: its sink, connected when it is needed and again after every fault.

use std::{sync::Arc, time::Duration};

use posthaste_core::Page;
use posthaste_store::defect;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    clock, failpoint,
    monitor::Gauge,
    policy::{self, Unaccepted, describe},
    screen::Screen,
    sink::{Batch, Context, Lane, Mark, Marks, Receipt, Sink, SinkError, SinkErrorKind, Target},
    telemetry::{
        meter::Class,
        traces::{self, Attempt, Tracer},
    },
};

/// A sink that one lane of a subscription publishes through. Owned by that lane.
pub(crate) struct Outlet {
    target: Arc<dyn Target>,
    context: Context,
    lane: Lane,
    sink: Option<Box<dyn Sink>>,
    /// Calls that the sink is known to have counted; `None` before the first connection, and for
    /// a sink that keeps no places.
    calls: Option<i64>,
    bounds: Bounds,
    gauge: Arc<Gauge>,
    tracer: Option<Tracer>,
    screen: Screen,
}

/// What bounds every try.
pub(crate) struct Bounds {
    /// Longest wait for an answer of the sink.
    pub(crate) limit: Duration,
    /// Nothing is sent from then on: the lease may be another relay's (FENCED).
    pub(crate) until: watch::Receiver<Instant>,
    /// The run has to end.
    pub(crate) stopped: watch::Receiver<bool>,
}

/// What came of a try.
pub(crate) enum Tried {
    /// The sink answered: these messages were not accepted, in order.
    Answered(Vec<Unaccepted>),
    /// Nothing is known of any message.
    Failed(SinkError),
    /// Nothing was tried: on a new connection the sink says that the lane has come elsewhere than
    /// was known here.
    Elsewhere(Mark),
    /// The run has to end.
    Stopped,
}

impl Outlet {
    pub(crate) fn new(
        target: Arc<dyn Target>,
        context: Context,
        lane: Lane,
        bounds: Bounds,
        gauge: Arc<Gauge>,
        tracer: Option<Tracer>,
        screen: Screen,
    ) -> Self {
        Self { target, context, lane, sink: None, calls: None, bounds, gauge, tracer, screen }
    }

    /// The target for people, without secrets.
    pub(crate) fn describe(&self) -> String {
        self.target.describe()
    }

    /// Calls that the sink is known to have counted, if it keeps places.
    pub(crate) fn calls(&self) -> Option<i64> {
        self.calls
    }

    /// Connects anew. A sink that keeps places takes nothing from earlier connections from then on
    /// (FENCED), and says where the lane stands.
    pub(crate) async fn connect(&mut self) -> Result<Option<Mark>, SinkError> {
        self.sink = None;
        let connect = self.target.connect(&self.context, &self.lane);
        let connected = timeout(self.bounds.limit, connect).await;
        let connected = connected.map_err(|_| self.late()).and_then(|connected| connected);
        let sink = connected.inspect_err(|error| self.failed(error))?;
        let mark = sink.mark().cloned();
        failpoint::reach("connected", &self.lane.name);
        self.calls = sink.calls();
        self.sink = Some(sink);
        Ok(mark)
    }

    /// Tries the messages of `page` at `batch` once, and counts it. `marks` is how the lane moves.
    /// Those that break their contracts are not handed over, and not accepted.
    ///
    /// FENCED: ends at once when the run has to, also while it connects or waits; the sink that
    /// was in use is dropped with the try.
    pub(crate) async fn attempt(&mut self, page: &Page, batch: &[u32], marks: &dyn Marks) -> Tried {
        let Some(withheld) = self.screen.withhold(page, batch) else {
            return self.hand_over(page, batch, marks).await;
        };
        let marks = withheld.marks(marks);
        let tried = match withheld.passed() {
            [] if *self.bounds.stopped.borrow() => Tried::Stopped,
            [] => Tried::Answered(Vec::new()),
            passed => self.hand_over(page, passed, &marks).await,
        };
        match tried {
            Tried::Answered(unaccepted) => Tried::Answered(withheld.beside(unaccepted)),
            other => other,
        }
    }

    async fn hand_over(&mut self, page: &Page, batch: &[u32], marks: &dyn Marks) -> Tried {
        let mut stopped = self.bounds.stopped.clone();
        self.gauge.meter().attempts.add(1);
        let (at, began) = (self.tracer.as_ref().map(|_| clock::now()), Instant::now());
        let tried = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return Tried::Stopped,
            tried = self.try_once(page, batch, marks) => tried,
        };
        if let (Some(tracer), Some(at)) = (&self.tracer, at) {
            let (subscription, took) = (self.gauge.name(), began.elapsed());
            let trace = |outcome: Result<&[Unaccepted], &str>| {
                let attempt = Attempt { subscription, page, batch, began: at, took, outcome };
                traces::attempted(tracer, &attempt);
            };
            match &tried {
                Tried::Answered(unaccepted) => trace(Ok(unaccepted)),
                Tried::Failed(error) => trace(Err(&describe(error))),
                Tried::Elsewhere(_) | Tried::Stopped => {}
            }
        }
        tried
    }

    async fn try_once(&mut self, page: &Page, batch: &[u32], marks: &dyn Marks) -> Tried {
        if self.sink.is_none() {
            let known = self.calls;
            match self.connect().await {
                Ok(Some(mark))
                    if known != Some(mark.calls) && !defect::is("goes-on-from-memory") =>
                {
                    return Tried::Elsewhere(mark);
                }
                Ok(_) => {}
                Err(error) => return Tried::Failed(error),
            }
        }
        let began = Instant::now();
        // A process that was stopped meanwhile finds its lease run out before its timer tells.
        if began >= *self.bounds.until.borrow() {
            return Tried::Stopped;
        }
        match self.publish(&Batch::new(page, batch, marks)).await {
            Ok(receipt) => {
                let names = self.target.destination();
                let unaccepted = policy::unaccepted(page, batch, receipt, names);
                self.gauge.meter().answered(batch.len(), began.elapsed(), &unaccepted);
                self.gauge.published(batch.len() - unaccepted.len());
                tell_published(self.gauge.name(), page, batch, &unaccepted);
                Tried::Answered(unaccepted)
            }
            Err(error) => {
                self.failed(&error);
                Tried::Failed(error)
            }
        }
    }

    /// Hands a batch over. After an error, or when it is dropped, nothing is known of the batch,
    /// and the connection is gone.
    async fn publish(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
        let Some(mut sink) = self.sink.take() else {
            let doing = format!("{}: not connected", self.target.describe());
            return Err(SinkError::new(SinkErrorKind::Unavailable, doing));
        };
        failpoint::reach("publishing", &self.lane.name);
        let is_endless = defect::is("await-without-timeout");
        let limit = if is_endless { Duration::MAX } else { self.bounds.limit };
        let answered = timeout(limit, sink.publish(batch)).await;
        failpoint::reach("answered", &self.lane.name);
        let receipt = answered.map_err(|_| self.late())??;
        self.calls = sink.calls();
        self.sink = Some(sink);
        Ok(receipt)
    }

    fn late(&self) -> SinkError {
        let doing = format!("{}: no answer in time", self.target.describe());
        SinkError::new(SinkErrorKind::Timeout, doing)
    }

    fn failed(&self, error: &SinkError) {
        self.gauge.meter().errors(Class::Sink(error.kind())).add(1);
    }

    /// Closes the connection after the last batch.
    pub(crate) async fn close(&mut self) {
        let subscription = &*self.lane.name;
        if let Some(mut sink) = self.sink.take() {
            match timeout(self.bounds.limit, sink.close()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(subscription, "close the sink: {}", describe(&error));
                }
                Err(_elapsed) => tracing::debug!(subscription, "close the sink: no answer in time"),
            }
        }
    }
}

/// Says of each message that it is published, if anybody listens: one look per batch where nobody does.
fn tell_published(subscription: &str, page: &Page, batch: &[u32], unaccepted: &[Unaccepted]) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let mut left = unaccepted.iter().peekable();
    for index in batch {
        if left.next_if(|unaccepted| unaccepted.index == *index).is_some() {
            continue;
        }
        let message = page.get(*index as usize);
        tracing::debug!(
            subscription,
            message_id = %message.id,
            correlation_id = message.correlation_id,
            topic = message.topic,
            "message is published"
        );
    }
}
