//! What messages need is looked at, and mended where it is missing: before a handler runs, and when a message is added.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use posthaste::Received;
use tokio::time::timeout;

use crate::{crew::Counters, handler::Failed};

/// Looks whether what a message needs is there, and mends it where it is not: the second layer of defence, by a
/// [`Listener`](crate::Listener), and the last one, before a handler runs. What it cannot mend is a warning.
///
/// It may run several times for one message, also at once: looking twice must be as good as once.
#[async_trait]
pub trait Check: Send + Sync + 'static {
    /// Looks at what one message needs.
    ///
    /// # Errors
    /// It could not look, or not mend what it found.
    async fn check(&self, message: Arc<Received>) -> Result<Found, Failed>;
}

#[async_trait]
impl<F, Fut> Check for F
where
    F: Fn(Arc<Received>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Found, Failed>> + Send,
{
    async fn check(&self, message: Arc<Received>) -> Result<Found, Failed> {
        self(message).await
    }
}

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing was missing.
    Fine,
    /// Something was missing, and is there now.
    Mended,
}

/// Checks by topic.
#[derive(Default)]
pub(crate) struct Checks(HashMap<String, Arc<dyn Check>>);

impl Checks {
    pub(crate) fn insert(&mut self, topic: String, check: impl Check) {
        self.0.insert(topic, Arc::new(check));
    }

    /// Looks at what a message needs, for `limit` at most, where somebody has said how; `when` is for the log. Never
    /// fails.
    pub(crate) async fn look(
        &self,
        message: &Arc<Received>,
        limit: Duration,
        when: &str,
        counts: &Counters,
    ) {
        let Some(check) = self.0.get(&message.topic) else { return };
        let look = timeout(limit, check.check(Arc::clone(message)));
        let found = match AssertUnwindSafe(look).catch_unwind().await {
            Ok(Ok(found)) => found,
            Ok(Err(_)) => Err(Failed::timed_out(limit)),
            Err(panic) => Err(Failed::panicked(said(&*panic))),
        };
        let (id, topic) = (message.id, &message.topic);
        let correlation_id = &message.correlation_id;
        match found {
            Ok(Found::Fine) => {}
            Ok(Found::Mended) => {
                Counters::add(&counts.mended, 1);
                tracing::warn!(
                    message_id = %id, correlation_id, topic,
                    "something was missing {when}, and is there now"
                );
            }
            Err(failed) => {
                Counters::add(&counts.unmended, 1);
                tracing::warn!(
                    message_id = %id, correlation_id, topic, "the check {when}: {}", failed.reason
                );
            }
        }
    }
}

/// The text of a panic.
pub(crate) fn said(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text")
}
