//! What follows from a failure: pure, so that every case can be tested. Edges classify, this
//! decides.

pub(crate) use posthaste_core::describe;
use posthaste_core::{Page, Template, failure::ATTEMPTS_MAX};
use posthaste_store::StoreErrorKind;

use crate::sink::{Outcome, Receipt, Scope, SinkErrorKind};

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
        SinkErrorKind::Authentication | SinkErrorKind::Misconfigured | SinkErrorKind::Fenced => {
            Directive::Stop
        }
    }
}

/// A message that the sink did not accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unaccepted {
    /// Its number in the page.
    pub(crate) index: u32,
    /// Why it was not taken: what has to recover.
    pub(crate) fault: Fault,
    /// The sink's reason.
    pub(crate) reason: String,
}

/// Whose fault it is that a message was not accepted. Only the message's own burns attempts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The message's: the sink refused it, or it breaks its contract.
    Message,
    /// The message's, and no attempt would mend it.
    Hopeless,
    /// That of the destination with this name, one of several that the sink has.
    Destination(String),
    /// It follows a message of its key that was not taken.
    Key,
    /// The sink's as a whole.
    Sink,
}

impl Unaccepted {
    /// Whether it was refused, rather than not taken by something that has to recover.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self.fault, Fault::Message | Fault::Hopeless)
    }
}

impl Fault {
    /// How many attempts count for the policy when `made` were made.
    pub(crate) const fn attempts(&self, made: u32) -> u32 {
        match self {
            Self::Hopeless => ATTEMPTS_MAX,
            Self::Message | Self::Destination(_) | Self::Key | Self::Sink => made,
        }
    }
}

/// What of `batch`, messages of `page`, has to be dealt with, in order; `destinations` is how the
/// sink names where they go. A receipt of another length than the batch accepts nothing.
///
/// COMPLETE: a message that was not accepted is published again or set aside; the place does not
/// move past it before.
pub(crate) fn unaccepted(
    page: &Page,
    batch: &[u32],
    receipt: Receipt,
    destinations: Option<&Template>,
) -> Vec<Unaccepted> {
    let outcomes = match receipt {
        Receipt::AllAccepted => return Vec::new(),
        Receipt::Each(outcomes) => outcomes,
    };
    if outcomes.len() != batch.len() {
        let reason = format!("{} outcomes for {} messages", outcomes.len(), batch.len());
        let all = batch.iter();
        return all
            .map(|index| Unaccepted { index: *index, fault: Fault::Sink, reason: reason.clone() })
            .collect();
    }
    let several = destinations.filter(|names| names.fixed().is_none());
    let each = batch.iter().zip(outcomes).filter_map(|(index, outcome)| {
        let (fault, reason) = match outcome {
            Outcome::Accepted => return None,
            Outcome::Retry { scope: Scope::Sink, reason } => (Fault::Sink, reason),
            Outcome::Retry { scope: Scope::Key, reason } => (Fault::Key, reason),
            Outcome::Retry { scope: Scope::Destination, reason } => {
                let message = page.get(*index as usize);
                let mut name = String::new();
                let named = several.is_some_and(|names| names.render(&message, &mut name).is_ok());
                (if named { Fault::Destination(name) } else { Fault::Sink }, reason)
            }
            Outcome::Reject { reason } => (Fault::Message, reason),
        };
        Some(Unaccepted { index: *index, fault, reason })
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use posthaste_core::{Headers, MessageId, MessageRef, Timestamp};

    use super::*;

    /// Ten messages of the topics `t0`, `t1` …
    fn page() -> Page {
        let mut page = Page::new(10);
        for nth in 0..10 {
            let topic = format!("t{nth}");
            page.push(&MessageRef {
                id: MessageId::nil(),
                position: nth + 1,
                enqueued_at: Timestamp(0),
                topic: &topic,
                key: None,
                content_type: "a/b",
                correlation_id: None,
                headers: Headers::default(),
                payload: b"p",
            });
        }
        page
    }

    fn retry(scope: Scope) -> Outcome {
        Outcome::Retry { scope, reason: "away".to_owned() }
    }

    fn reject() -> Outcome {
        Outcome::Reject { reason: "wrong type".to_owned() }
    }

    fn faults(batch: &[u32], receipt: Receipt, names: &str) -> Vec<(u32, Fault)> {
        let names = Template::parse(names).unwrap();
        let left = unaccepted(&page(), batch, receipt, Some(&names));
        left.into_iter().map(|unaccepted| (unaccepted.index, unaccepted.fault)).collect()
    }

    #[test]
    fn only_what_was_not_accepted_is_left_in_order() {
        let outcomes = vec![Outcome::Accepted, reject(), Outcome::Accepted, retry(Scope::Sink)];
        let left = unaccepted(&page(), &[3, 5, 8, 9], Receipt::Each(outcomes), None);
        let shown: Vec<_> = left.iter().map(|u| (u.index, u.is_refusal(), &*u.reason)).collect();
        assert_eq!(shown, [(5, true, "wrong type"), (9, false, "away")]);
    }

    #[test]
    fn accepted_batch_leaves_nothing() {
        assert!(unaccepted(&page(), &[1, 2], Receipt::AllAccepted, None).is_empty());
        let each = Receipt::Each(vec![Outcome::Accepted]);
        assert!(unaccepted(&page(), &[1], each, None).is_empty());
    }

    #[test]
    fn receipt_of_the_wrong_length_accepts_nothing() {
        let receipt = Receipt::Each(vec![Outcome::Accepted]);
        assert_eq!(faults(&[1, 2], receipt, "x"), [(1, Fault::Sink), (2, Fault::Sink)]);
    }

    #[test]
    fn fault_of_the_only_destination_is_the_sinks() {
        let each = || Receipt::Each(vec![retry(Scope::Destination), retry(Scope::Key)]);
        assert_eq!(faults(&[1, 2], each(), "jobs"), [(1, Fault::Sink), (2, Fault::Key)]);
        let named = Fault::Destination("run:t1".to_owned());
        assert_eq!(faults(&[1, 2], each(), "run:{topic}"), [(1, named), (2, Fault::Key)]);
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
