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

/// Why a batch is not done yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setback {
    /// Number (in the batch) of the first message that was not accepted.
    pub(crate) message: usize,
    /// Whether the sink refused that message rather than being unable to take it.
    pub(crate) is_refusal: bool,
    /// The sink's reason.
    pub(crate) reason: String,
}

/// Keeps in `pending` what has to be published again, in order, and says why. `None` when every
/// message was accepted. A receipt of another length than the batch accepts nothing.
///
/// COMPLETE: a refused message stays pending; the place does not move past it.
pub(crate) fn retain_unaccepted(pending: &mut Vec<u32>, receipt: Receipt) -> Option<Setback> {
    let outcomes = match receipt {
        Receipt::AllAccepted => {
            pending.clear();
            return None;
        }
        Receipt::Each(outcomes) => outcomes,
    };
    if outcomes.len() != pending.len() {
        let reason = format!("{} outcomes for {} messages", outcomes.len(), pending.len());
        return Some(Setback { message: 0, is_refusal: false, reason });
    }
    let mut setback = None;
    let mut kept = Vec::new();
    for (nth, (index, outcome)) in pending.iter().zip(outcomes).enumerate() {
        let (is_refusal, reason) = match outcome {
            Outcome::Accepted => continue,
            Outcome::Retry { reason, .. } => (false, reason),
            Outcome::Reject { reason } => (true, reason),
        };
        kept.push(*index);
        setback.get_or_insert(Setback { message: nth, is_refusal, reason });
    }
    *pending = kept;
    setback
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
    fn only_what_was_not_accepted_is_published_again_in_order() {
        let mut pending = vec![3, 5, 8, 9];
        let outcomes = vec![Outcome::Accepted, reject(), Outcome::Accepted, retry()];
        let setback = retain_unaccepted(&mut pending, Receipt::Each(outcomes));
        assert_eq!(pending, [5, 9]);
        let expected = Setback { message: 1, is_refusal: true, reason: "wrong type".to_owned() };
        assert_eq!(setback, Some(expected));
    }

    #[test]
    fn accepted_batch_leaves_nothing_pending() {
        let mut pending = vec![1, 2];
        assert_eq!(retain_unaccepted(&mut pending, Receipt::AllAccepted), None);
        assert!(pending.is_empty());
        let mut pending = vec![1];
        let each = Receipt::Each(vec![Outcome::Accepted]);
        assert_eq!(retain_unaccepted(&mut pending, each), None);
        assert!(pending.is_empty());
    }

    #[test]
    fn receipt_of_the_wrong_length_accepts_nothing() {
        let mut pending = vec![1, 2];
        let each = Receipt::Each(vec![Outcome::Accepted]);
        assert!(retain_unaccepted(&mut pending, each).is_some());
        assert_eq!(pending, [1, 2]);
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
