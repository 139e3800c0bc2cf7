//! The way out of a lane: its sink, connected when it is needed and again after every fault.

use std::{sync::Arc, time::Duration};

use posthaste_core::{Page, Place};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    clock,
    monitor::Gauge,
    policy::{self, Unaccepted, describe},
    sink::{Batch, Context, Receipt, Sink, SinkError, SinkErrorKind, Target},
    telemetry::{
        meter::Class,
        traces::{Attempt, Tracer},
    },
};

/// A sink that one lane of a subscription publishes through. Owned by that lane.
pub(crate) struct Outlet {
    target: Arc<dyn Target>,
    context: Context,
    /// Under which name the sink keeps this lane's place.
    lane: String,
    sink: Option<Box<dyn Sink>>,
    operation_timeout: Duration,
    gauge: Arc<Gauge>,
    tracer: Option<Tracer>,
    /// The run has to end.
    stopped: watch::Receiver<bool>,
}

/// What came of a try.
pub(crate) enum Tried {
    /// The sink answered: these messages it did not accept, in order.
    Answered(Vec<Unaccepted>),
    /// Nothing is known of any message.
    Failed(SinkError),
    /// The run has to end.
    Stopped,
}

impl Outlet {
    pub(crate) fn new(
        target: Arc<dyn Target>,
        context: Context,
        lane: String,
        operation_timeout: Duration,
        gauge: Arc<Gauge>,
        tracer: Option<Tracer>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        Self { target, context, lane, sink: None, operation_timeout, gauge, tracer, stopped }
    }

    /// The target for people, without secrets.
    pub(crate) fn describe(&self) -> String {
        self.target.describe()
    }

    /// Tries the messages of `page` at `batch` once, and counts it. `place` is behind all of them.
    ///
    /// FENCED: ends at once when the run has to, also while it connects or waits; the sink that
    /// was in use is dropped with the try.
    pub(crate) async fn attempt(&mut self, page: &Page, batch: &[u32], place: Place) -> Tried {
        let (gauge, mut stopped) = (Arc::clone(&self.gauge), self.stopped.clone());
        let (meter, began) = (gauge.meter(), Instant::now());
        meter.attempts.add(1);
        let traced = self.tracer.clone().map(|tracer| (tracer, clock::now()));
        let trace = |outcome: Result<&[Unaccepted], &str>| {
            if let Some((tracer, at)) = &traced {
                let (subscription, took) = (gauge.name(), began.elapsed());
                let began = *at;
                tracer.attempted(&Attempt { subscription, page, batch, began, took, outcome });
            }
        };
        let handed = Batch::new(page, batch, place);
        let answer = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => return Tried::Stopped,
            answer = self.publish(&handed) => answer,
        };
        match answer {
            Ok(receipt) => {
                let unaccepted = policy::unaccepted(batch, receipt);
                meter.answered(batch.len(), began.elapsed(), &unaccepted);
                trace(Ok(&unaccepted));
                gauge.published(batch.len() - unaccepted.len());
                Tried::Answered(unaccepted)
            }
            Err(error) => {
                meter.errors(Class::Sink(error.kind())).add(1);
                trace(Err(&describe(&error)));
                Tried::Failed(error)
            }
        }
    }

    /// Hands a batch over, connecting first if needed. After an error, or when it is dropped,
    /// nothing is known of the batch, and the connection is gone.
    async fn publish(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
        let late = |_| {
            let doing = format!("{}: no answer in time", self.target.describe());
            SinkError::new(SinkErrorKind::Timeout, doing)
        };
        let mut sink = if let Some(sink) = self.sink.take() {
            sink
        } else {
            let connect = self.target.connect(&self.context, &self.lane);
            timeout(self.operation_timeout, connect).await.map_err(late)??
        };
        let receipt =
            timeout(self.operation_timeout, sink.publish(batch)).await.map_err(late)??;
        self.sink = Some(sink);
        Ok(receipt)
    }

    /// Closes the connection after the last batch.
    pub(crate) async fn close(&mut self) {
        let subscription = &*self.lane;
        if let Some(mut sink) = self.sink.take() {
            match timeout(self.operation_timeout, sink.close()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(subscription, "close the sink: {}", describe(&error));
                }
                Err(_elapsed) => tracing::debug!(subscription, "close the sink: no answer in time"),
            }
        }
    }
}
