//! What follows from a failure: pure, so that every case can be tested. Edges classify, this
//! decides.

use std::error::Error;

use posthaste_store::StoreErrorKind;

use crate::sink::{Outcome, Receipt, SinkErrorKind};

/// What to do about a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Directive {
    /// It may pass by itself: back off and try again, for as long as it takes.
    BackOff,
    /// Somebody has to change something: stop this subscription and say what.
    Stop,
}

/// Decides on a failed store call.
pub(crate) const fn after_store_error(kind: StoreErrorKind) -> Directive {
    if kind.is_transient() { Directive::BackOff } else { Directive::Stop }
}

/// Decides on a failed sink call.
pub(crate) const fn after_sink_error(kind: SinkErrorKind) -> Directive {
    match kind {
        SinkErrorKind::Unavailable
        | SinkErrorKind::Timeout
        | SinkErrorKind::Resources
        | SinkErrorKind::Displaced
        | SinkErrorKind::Unexpected => Directive::BackOff,
        SinkErrorKind::Authentication | SinkErrorKind::Misconfigured => Directive::Stop,
    }
}

/// A message that the sink did not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unaccepted {
    /// Its number in the page.
    pub(crate) index: u32,
    /// Whether the sink refused it rather than being unable to take it.
    pub(crate) is_refusal: bool,
    /// The sink's reason.
    pub(crate) reason: String,
}

/// What of `batch` has to be dealt with, in order. A receipt of another length than the batch
/// accepts nothing.
///
/// COMPLETE: a message that was not accepted is published again or set aside; the place does not
/// move past it before.
pub(crate) fn unaccepted(batch: &[u32], receipt: Receipt) -> Vec<Unaccepted> {
    let outcomes = match receipt {
        Receipt::AllAccepted => return Vec::new(),
        Receipt::Each(outcomes) => outcomes,
    };
    if outcomes.len() != batch.len() {
        let reason = format!("{} outcomes for {} messages", outcomes.len(), batch.len());
        let all = batch.iter();
        return all
            .map(|index| Unaccepted { index: *index, is_refusal: false, reason: reason.clone() })
            .collect();
    }
    let each = batch.iter().zip(outcomes).filter_map(|(index, outcome)| {
        let (is_refusal, reason) = match outcome {
            Outcome::Accepted => return None,
            Outcome::Retry { reason, .. } => (false, reason),
            Outcome::Reject { reason } => (true, reason),
        };
        Some(Unaccepted { index: *index, is_refusal, reason })
    });
    each.collect()
}

/// An error with its causes in one line.
pub(crate) fn describe(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Scope;

    fn retry() -> Outcome {
        Outcome::Retry { scope: Scope::Sink, reason: "away".to_owned() }
    }

    fn reject() -> Outcome {
        Outcome::Reject { reason: "wrong type".to_owned() }
    }

    #[test]
    fn only_what_was_not_accepted_is_left_in_order() {
        let outcomes = vec![Outcome::Accepted, reject(), Outcome::Accepted, retry()];
        let left = unaccepted(&[3, 5, 8, 9], Receipt::Each(outcomes));
        let shown: Vec<_> = left.iter().map(|u| (u.index, u.is_refusal, &*u.reason)).collect();
        assert_eq!(shown, [(5, true, "wrong type"), (9, false, "away")]);
    }

    #[test]
    fn accepted_batch_leaves_nothing() {
        assert!(unaccepted(&[1, 2], Receipt::AllAccepted).is_empty());
        assert!(unaccepted(&[1], Receipt::Each(vec![Outcome::Accepted])).is_empty());
    }

    #[test]
    fn receipt_of_the_wrong_length_accepts_nothing() {
        let left = unaccepted(&[1, 2], Receipt::Each(vec![Outcome::Accepted]));
        assert!(left.iter().map(|u| (u.index, u.is_refusal)).eq([(1, false), (2, false)]));
    }

    #[test]
    fn r12_connection_faults_are_retried_and_permanent_faults_are_not() {
        for kind in [StoreErrorKind::Unavailable, StoreErrorKind::Timeout, StoreErrorKind::Standby]
        {
            assert_eq!(after_store_error(kind), Directive::BackOff, "{kind:?}");
        }
        for kind in
            [StoreErrorKind::MissingSchema, StoreErrorKind::Privilege, StoreErrorKind::Rewound]
        {
            assert_eq!(after_store_error(kind), Directive::Stop, "{kind:?}");
        }
        assert_eq!(after_sink_error(SinkErrorKind::Unavailable), Directive::BackOff);
        assert_eq!(after_sink_error(SinkErrorKind::Authentication), Directive::Stop);
    }
}
