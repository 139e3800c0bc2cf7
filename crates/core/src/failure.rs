//! What follows when a sink rejects a message: the pure policy.
//!
//! A rejection counts against its message. Failures of the sink or the network never come here:
//! they back off as a whole, however long it takes.

use std::time::Duration;

use crate::{Backoff, MessageRef};

/// The header in which a message carries its own number of attempts.
pub const MAX_ATTEMPTS_HEADER: &str = "posthaste-max-attempts";

/// Most attempts that a policy or a message may ask for.
pub const ATTEMPTS_MAX: u32 = 1_000;

/// What a subscription does with a rejected message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRejection {
    /// The key waits: nothing of it is published until the message was accepted or its dead
    /// letter is resolved. Messages without a key are parked alone.
    #[default]
    ParkKey,
    /// The message alone waits for its next attempt; its key moves on at once, out of order.
    ParkMessage,
    /// The key waits while there are attempts left, and then moves on past the dead letter.
    DeadLetter,
}

/// How a subscription treats rejected messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailurePolicy {
    /// What waits, and what moves on.
    pub on_rejection: OnRejection,
    /// Attempts before a message becomes a dead letter, from 1; a message may carry its own
    /// limit in [`MAX_ATTEMPTS_HEADER`].
    pub attempts: u32,
    /// The wait between two attempts.
    pub backoff: Backoff,
}

impl Default for FailurePolicy {
    fn default() -> Self {
        Self {
            on_rejection: OnRejection::default(),
            attempts: 5,
            backoff: Backoff { initial: Duration::from_secs(1), cap: Duration::from_mins(5) },
        }
    }
}

/// What becomes of a rejected message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its key is set aside until the next attempt.
    ParkKey {
        /// When that is due.
        retry_in: Duration,
    },
    /// It is set aside alone until the next attempt.
    ParkMessage {
        /// When that is due.
        retry_in: Duration,
    },
    /// It is out of attempts.
    DeadLetter {
        /// Whether its key waits until the dead letter is replayed or discarded.
        holds_key: bool,
    },
}

impl FailurePolicy {
    /// Decides on `message` after its `attempts`-th rejection (from 1). `random` is uniform in
    /// `0.0..1.0`.
    pub fn judge(&self, message: &MessageRef<'_>, attempts: u32, random: f64) -> Verdict {
        let limit = max_attempts(message).unwrap_or(self.attempts);
        let waits_with_key = message.key.is_some() && self.on_rejection != OnRejection::ParkMessage;
        if attempts >= limit {
            let holds_key = waits_with_key && self.on_rejection == OnRejection::ParkKey;
            return Verdict::DeadLetter { holds_key };
        }
        let retry_in = self.backoff.delay(attempts, random);
        if waits_with_key {
            Verdict::ParkKey { retry_in }
        } else {
            Verdict::ParkMessage { retry_in }
        }
    }
}

/// The limit that a message carries. One that is no number from 1 to [`ATTEMPTS_MAX`] says
/// nothing: a sink's rejection must not turn into another error.
fn max_attempts(message: &MessageRef<'_>) -> Option<u32> {
    let limit = message.headers.get(MAX_ATTEMPTS_HEADER)?.parse().ok()?;
    (1..=ATTEMPTS_MAX).contains(&limit).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Headers, MessageId, Timestamp};

    fn message<'a>(key: Option<&'a str>, headers: &'a [u8]) -> MessageRef<'a> {
        MessageRef {
            id: MessageId::nil(),
            position: 1,
            enqueued_at: Timestamp(0),
            topic: "t",
            key,
            content_type: "a/b",
            correlation_id: None,
            headers: Headers::packed(headers),
            payload: &[],
        }
    }

    fn judge(on_rejection: OnRejection, key: Option<&str>, attempts: u32) -> Verdict {
        let policy = FailurePolicy { on_rejection, attempts: 3, ..FailurePolicy::default() };
        policy.judge(&message(key, &[]), attempts, 1.0)
    }

    #[test]
    fn r13_message_is_tried_as_often_as_the_policy_says_and_then_dead() {
        let second = Duration::from_secs(1);
        for (on_rejection, holds_key) in
            [(OnRejection::ParkKey, true), (OnRejection::DeadLetter, false)]
        {
            let verdicts = [1, 2, 3, 4].map(|n| judge(on_rejection, Some("k"), n));
            let dead = Verdict::DeadLetter { holds_key };
            let park = |retry_in| Verdict::ParkKey { retry_in };
            assert_eq!(verdicts, [park(second), park(2 * second), dead, dead]);
        }
    }

    #[test]
    fn message_without_a_key_and_under_park_message_waits_alone() {
        for (on_rejection, key) in [
            (OnRejection::ParkMessage, Some("k")),
            (OnRejection::ParkMessage, None),
            (OnRejection::ParkKey, None),
            (OnRejection::DeadLetter, None),
        ] {
            let retry_in = Duration::from_secs(2);
            assert_eq!(judge(on_rejection, key, 2), Verdict::ParkMessage { retry_in });
            let dead = Verdict::DeadLetter { holds_key: false };
            assert_eq!(judge(on_rejection, key, 3), dead);
        }
    }

    #[test]
    fn r13_message_may_carry_its_own_limit() {
        let limited = |value: &str, attempts| {
            let mut headers = Vec::new();
            Headers::pack(&mut headers, MAX_ATTEMPTS_HEADER);
            Headers::pack(&mut headers, value);
            let verdict = FailurePolicy::default().judge(&message(None, &headers), attempts, 0.5);
            matches!(verdict, Verdict::DeadLetter { .. })
        };
        assert_eq!([1, 2].map(|n| limited("2", n)), [false, true]);
        assert_eq!([5, 9, 10].map(|n| limited("10", n)), [false, false, true]);
        for nonsense in ["0", "-1", "many", "1001", ""] {
            assert_eq!([4, 5].map(|n| limited(nonsense, n)), [false, true], "{nonsense}");
        }
    }
}
