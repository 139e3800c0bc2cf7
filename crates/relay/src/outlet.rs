//! The way out of a lane: its sink, connected when it is needed and again after every fault.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use crate::{
    policy::describe,
    sink::{Batch, Context, Receipt, Sink, SinkError, SinkErrorKind, Target},
};

/// A sink that one lane of a subscription publishes through. Owned by that lane.
pub(crate) struct Outlet {
    target: Arc<dyn Target>,
    context: Context,
    /// Under which name the sink keeps this lane's place.
    lane: String,
    sink: Option<Box<dyn Sink>>,
    operation_timeout: Duration,
}

impl Outlet {
    pub(crate) fn new(
        target: Arc<dyn Target>,
        context: Context,
        lane: String,
        operation_timeout: Duration,
    ) -> Self {
        Self { target, context, lane, sink: None, operation_timeout }
    }

    /// The target for people, without secrets.
    pub(crate) fn describe(&self) -> String {
        self.target.describe()
    }

    /// One try, connecting first if needed. After an error nothing is known of the batch, and the
    /// connection is gone.
    ///
    /// # Cancel safety
    /// As after an error.
    pub(crate) async fn attempt(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
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
