//! Cuts a bulk enqueue into pieces that one statement carries. Pure.

use crate::Entry;

/// Messages in one statement. 1,000 rows amortise the round trip; more gain nothing measurable.
const CHUNK_MESSAGES_MAX: usize = 1_000;
/// Bytes in one statement, unless a single message is larger. Bounds what the client encodes and
/// the server holds at once; 1,000 messages of 4 KiB fit.
const CHUNK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The pieces of `entries`, in order, none empty. The entries of one are all plain or none is.
pub(crate) fn chunks<'e, 'm>(entries: &'e [Entry<'m>]) -> impl Iterator<Item = &'e [Entry<'m>]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let (chunk, tail) = rest.split_at(chunk_len(rest));
        rest = tail;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn chunk_len(entries: &[Entry<'_>]) -> usize {
    let mut bytes = 0;
    let is_plain = entries.first().is_some_and(Entry::is_plain);
    let fits = |entry: &&Entry<'_>| {
        bytes += weight(entry);
        bytes <= CHUNK_BYTES_MAX && entry.is_plain() == is_plain
    };
    let fitting = entries.iter().take(CHUNK_MESSAGES_MAX).take_while(fits).count();
    fitting.max(1).min(entries.len())
}

/// Roughly the bytes on the wire; what is left out is bounded by the limits and small.
fn weight(entry: &Entry<'_>) -> usize {
    let headers = entry.message.header_pairs();
    entry.message.payload().len()
        + headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use posthaste_core::{Message, MessageId};

    use super::*;

    fn lengths(payloads: &[usize]) -> Vec<usize> {
        let message = |bytes: &usize| Message::new("t").bytes("a/b", vec![0; *bytes]);
        let messages: Vec<_> = payloads.iter().map(message).collect();
        let entry = |message| Entry { id: MessageId::nil(), message };
        let entries: Vec<_> = messages.iter().map(entry).collect();
        chunks(&entries).map(<[_]>::len).collect()
    }

    #[test]
    fn chunk_ends_at_the_message_limit() {
        assert_eq!(lengths(&[]), Vec::<usize>::new());
        assert_eq!(lengths(&[1; 1_000]), [1_000]);
        assert_eq!(lengths(&[1; 2_001]), [1_000, 1_000, 1]);
    }

    #[test]
    fn chunk_ends_before_the_message_that_exceeds_the_byte_limit() {
        let half = CHUNK_BYTES_MAX / 2;
        assert_eq!(lengths(&[half, half, 1]), [2, 1]);
        assert_eq!(lengths(&[half, half + 1, 1]), [1, 2]);
    }

    #[test]
    fn message_above_the_byte_limit_goes_alone() {
        assert_eq!(lengths(&[1, CHUNK_BYTES_MAX + 1, CHUNK_BYTES_MAX + 1, 1]), [1, 1, 1, 1]);
    }
}
