//! The pure heart of Posthaste: what a message is, which messages lie between two ticks, how a
//! big window is paged, when to tick, where a subscription stands, and how long to back off.
//!
//! Nothing here does I/O, reads a clock or draws a random number, so that every decision can be
//! reached by a property test and by the simulation. `posthaste-store` feeds it rows,
//! `posthaste-relay` acts on its answers, and applications see [`Message`] through `posthaste`.

pub mod backoff;
#[cfg(feature = "contracts")]
pub mod contract;
pub mod failure;
pub mod job;
pub mod lease;
pub mod limits;
pub mod look;
pub mod machine;
pub mod message;
pub mod page;
pub mod place;
pub mod reason;
pub mod ring;
pub mod schema;
pub mod snapshot;
pub mod template;
pub mod topics;
pub mod window;

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

pub use backoff::Backoff;
#[cfg(feature = "contracts")]
pub use contract::{CONTRACT_HEADER, Contract, Contracts};
pub use failure::{FailurePolicy, OnRejection, Verdict};
pub use job::{JobState, NewJob, RetryPolicy};
pub use lease::{LeaseView, RelayView, Shares};
pub use limits::{InvalidMessage, Limits};
pub use look::{Look, LookRule, SequenceState};
pub use machine::Machine;
pub use message::{HeaderObject, Message, MessageId};
pub use page::{Headers, MessageRef, Page, PageLimit};
pub use place::{Epoch, InvalidPlace, Place, Tick, TickRef, Within};
pub use ring::Ring;
pub use schema::SchemaName;
pub use snapshot::Snapshot;
pub use template::Template;
pub use topics::TopicFilter;
pub use window::{Step, Window};

/// An error with its causes in one line. A cause that an error has said already is left out, and so is all but the
/// first line of each: on further lines databases show the row that they refuse.
pub fn describe(error: &dyn Error) -> String {
    let first_line =
        |error: &dyn Error| error.to_string().lines().next().unwrap_or_default().to_owned();
    let mut text = first_line(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = first_line(error);
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// Where a message stands in the log; only comparable within one source incarnation. Positions
/// start at 1, so 0 means "before every message".
pub type Position = i64;

/// Microseconds since the Unix epoch, on the clock of the database that wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

impl From<SystemTime> for Timestamp {
    /// To the microsecond; times that do not fit become the nearest that does.
    fn from(time: SystemTime) -> Self {
        let micros = |distance: Duration| i64::try_from(distance.as_micros()).unwrap_or(i64::MAX);
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Self(micros(after)),
            Err(before) => Self(-micros(before.duration())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{error::Error, fmt};

    use super::describe;

    #[derive(Debug)]
    struct Told(&'static str, Option<Box<Told>>);

    impl fmt::Display for Told {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Told {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &dyn Error)
        }
    }

    #[test]
    fn error_is_told_in_one_line_without_what_was_said_already() {
        let cause = Told("a rule\nDETAIL: Failing row contains (secret)", None);
        let middle = Told("write: a rule\nmore", Some(Box::new(cause)));
        let error = Told("submit", Some(Box::new(middle)));
        assert_eq!(describe(&error), "submit: write: a rule");
    }
}
