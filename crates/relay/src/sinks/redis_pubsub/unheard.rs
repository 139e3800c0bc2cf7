//! How many messages nobody received, and when to say so.
//!
//! Pure: the sink logs what is returned here.

use std::time::Duration;

use tokio::time::Instant;

/// Time without such a message after which subscribers count as back. Without it, a sink of which
/// one channel in many is deserted would say so with every batch.
const QUIET: Duration = Duration::from_mins(1);

/// Messages that were published to nobody.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    /// Their number since nobody was first found to listen.
    messages: u64,
    /// When the last of them was published; `None` while every message is received.
    last: Option<Instant>,
}

/// What is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The first message that nobody received.
    Deserted,
    /// All are received again, after so many that were not.
    Attended {
        /// Messages that nobody received.
        missed: u64,
    },
}

impl Unheard {
    /// Counts a batch of which `messages` were published to nobody.
    pub(super) fn count(&mut self, messages: u64, now: Instant) -> Option<Change> {
        if messages > 0 {
            self.messages += messages;
            return self.last.replace(now).is_none().then_some(Change::Deserted);
        }
        let last = self.last?;
        (now - last >= QUIET).then(|| {
            self.last = None;
            Change::Attended { missed: std::mem::take(&mut self.messages) }
        })
    }

    /// How many were published to nobody since that was last told.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_is_told_with_the_number_missed() {
        let mut unheard = Unheard::default();
        let start = Instant::now();
        let mut count =
            |messages, after: u64| unheard.count(messages, start + Duration::from_secs(after));
        assert_eq!(count(0, 0), None);
        assert_eq!(count(5, 1), Some(Change::Deserted));
        assert_eq!(count(3, 2), None);
        assert_eq!(count(0, 3), None, "one batch is not enough");
        assert_eq!(count(1, 60), None);
        assert_eq!(count(0, 119), None);
        assert_eq!(count(0, 120), Some(Change::Attended { missed: 9 }));
        assert_eq!(count(0, 500), None);
        assert_eq!(count(2, 501), Some(Change::Deserted));
        assert_eq!(unheard.messages(), 2);
    }
}
