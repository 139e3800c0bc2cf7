//! A sink that is away for its first attempts.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use async_trait::async_trait;
use posthaste_relay::sink::{
    Batch, Context, Lane, Receipt, Sink, SinkError, SinkErrorKind, Target,
};

/// A target whose sinks share how often they still fail.
#[derive(Clone, Debug)]
pub(crate) struct Flaky {
    failures: Arc<AtomicU32>,
}

impl Flaky {
    pub(crate) fn failing(times: u32) -> Self {
        Self { failures: Arc::new(AtomicU32::new(times)) }
    }
}

#[async_trait]
impl Target for Flaky {
    fn describe(&self) -> String {
        "flaky".to_owned()
    }

    async fn connect(&self, _: &Context, _: &Lane) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Sink for Flaky {
    async fn publish(&mut self, _: &Batch<'_>) -> Result<Receipt, SinkError> {
        let left = self.failures.load(Ordering::Relaxed);
        if left == 0 {
            return Ok(Receipt::AllAccepted);
        }
        self.failures.store(left - 1, Ordering::Relaxed);
        Err(SinkError::new(SinkErrorKind::Unavailable, "flaky is away"))
    }
}
