//! What is counted and logged of a message that its sink did not accept: ids, attempts and the
//! sink's reason; never a payload or an ordering key.

use posthaste_core::MessageRef;

use super::meter::What;
use crate::monitor::Gauge;

/// A message that was not accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incident<'a> {
    pub(crate) message: &'a MessageRef<'a>,
    /// How often the sink has rejected it; 0 while it was only unable to take it.
    pub(crate) attempts: u32,
    pub(crate) reason: &'a str,
}

impl Incident<'_> {
    /// It stays where it is and is tried again. Of a batch only the first is told.
    pub(crate) fn is_tried_again(&self, gauge: &Gauge) {
        tracing::debug!(
            subscription = gauge.name(),
            message_id = %self.message.id,
            correlation_id = self.message.correlation_id,
            attempts = self.attempts,
            reason = self.reason,
            "message not accepted; it is tried again"
        );
    }

    /// It, or its key, has been set aside.
    pub(crate) fn is_set_aside(&self, gauge: &Gauge, what: What) {
        gauge.meter().set_aside(what).add(1);
        let (subscription, id) = (gauge.name(), self.message.id);
        let Self { message, attempts, reason } = *self;
        // One macro call per level: a level is part of a call site.
        if what == What::DeadLetter {
            tracing::warn!(
                subscription, message_id = %id, correlation_id = message.correlation_id, attempts,
                reason, "message is a dead letter"
            );
        } else {
            tracing::debug!(
                subscription, message_id = %id, correlation_id = message.correlation_id, attempts,
                reason, parked = what.word(), "message is set aside until its next attempt"
            );
        }
    }
}
