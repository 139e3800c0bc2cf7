//! The messages of the benchmarks: keyed, with printable random payloads, the same in every call.

use posthaste_core::{Limits, Message, message::TEXT};
use posthaste_store::Store;
use posthaste_testkit::failure::{During, Result};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};

/// The one topic.
pub(crate) const TOPIC: &str = "bench.messages";
/// The stream they are published to.
pub(crate) const STREAM: &str = "bench";
/// Bytes of a payload where nothing else is said.
pub(crate) const PAYLOAD_BYTES: usize = 200;
const KEYS: u32 = 10_000;
/// Messages of one transaction while a log is filled.
const TRANSACTION_MESSAGES_MAX: u64 = 1_000;
/// Payload bytes of one transaction, at most, unless a single message has more.
const TRANSACTION_BYTES_MAX: usize = 8 << 20;
/// Any number; the same one every time.
const SEED: u64 = 42;

/// Makes messages.
#[derive(Debug)]
pub(crate) struct Messages {
    random: SmallRng,
    payload_bytes: usize,
}

impl Messages {
    /// Messages with payloads of this size.
    pub(crate) fn new(payload_bytes: usize) -> Self {
        let payload_bytes = payload_bytes.min(Limits::DEFAULT.payload_bytes);
        Self { random: SmallRng::seed_from_u64(SEED), payload_bytes }
    }

    /// The next message.
    pub(crate) fn next(&mut self) -> Message {
        let key = self.random.random_range(0..KEYS);
        let payload = self.payload();
        Message::new(TOPIC).key(format!("key-{key:05}")).bytes(TEXT, payload)
    }

    /// The next `count` messages.
    pub(crate) fn take(&mut self, count: usize) -> Vec<Message> {
        (0..count).map(|_| self.next()).collect()
    }

    fn payload(&mut self) -> Vec<u8> {
        (0..self.payload_bytes).map(|_| self.random.random_range(b'!'..=b'~')).collect()
    }

    /// Commits `count` messages, a thousand in a transaction.
    pub(crate) async fn fill(&mut self, store: &dyn Store, count: u64) -> Result<()> {
        let fitting = (TRANSACTION_BYTES_MAX / self.payload_bytes.max(1)).max(1) as u64;
        let mut left = count;
        while left > 0 {
            let part = left.min(TRANSACTION_MESSAGES_MAX).min(fitting);
            store.append(&self.take(part as usize)).await.during("fill the log")?;
            left -= part;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Messages, PAYLOAD_BYTES};

    #[test]
    fn every_call_makes_the_same_printable_messages() {
        let messages = Messages::new(PAYLOAD_BYTES).take(3);
        assert_eq!(messages, Messages::new(PAYLOAD_BYTES).take(3));
        assert!(messages.iter().all(|message| message.payload().len() == PAYLOAD_BYTES));
        assert!(messages[0].payload().iter().all(u8::is_ascii_graphic));
    }
}
