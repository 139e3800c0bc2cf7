//! The outcomes of a batch, collected by sinks that learn of each message on its own.

use crate::sink::{Outcome, Receipt, Scope};

/// The outcomes of a batch, all accepted until said otherwise.
pub(super) struct Outcomes {
    messages: usize,
    /// Empty while all are accepted.
    each: Vec<Outcome>,
}

impl Outcomes {
    /// For a batch of this many messages.
    pub(super) fn accepted(messages: usize) -> Self {
        Self { messages, each: Vec::new() }
    }

    /// Sets the outcome of one message.
    pub(super) fn set(&mut self, message: usize, outcome: Outcome) {
        self.each.resize(self.messages, Outcome::Accepted);
        self.each[message] = outcome;
    }

    /// Sets this message and all that follow to be tried again when the sink has recovered.
    pub(super) fn retry_sink_from(&mut self, message: usize, reason: &str) {
        let retry = Outcome::Retry { scope: Scope::Sink, reason: reason.to_owned() };
        self.each.resize(self.messages, Outcome::Accepted);
        self.each[message..].fill(retry);
    }

    /// Numbers of the messages before `end` that are not accepted.
    pub(super) fn untaken(&self, end: usize) -> impl Iterator<Item = usize> {
        let known = &self.each[..end.min(self.each.len())];
        let untaken = known.iter().enumerate().filter(|(_, it)| **it != Outcome::Accepted);
        untaken.map(|(number, _)| number)
    }

    /// The receipt for the pipeline.
    pub(super) fn into_receipt(self) -> Receipt {
        if self.each.is_empty() { Receipt::AllAccepted } else { Receipt::Each(self.each) }
    }
}
