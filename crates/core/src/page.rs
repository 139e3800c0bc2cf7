//! A page of messages as the store reads it: two buffers for all messages instead of several
//! allocations for each.

use crate::{MessageId, Position, Timestamp};

/// How much one page may hold. A single message above `bytes` still makes a page of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit {
    /// Positions a page spans at most (its stride).
    pub stride: i64,
    /// Payload and header bytes a page holds at most.
    pub bytes: usize,
}

/// Messages of one window in position order, and how far the page reaches.
#[derive(Clone, Debug, Default)]
pub struct Page {
    entries: Vec<Entry>,
    text: String,
    bytes: Vec<u8>,
    through: Position,
}

/// Where one message's fields stand in the page's buffers.
#[derive(Clone, Copy, Debug)]
struct Entry {
    id: MessageId,
    position: Position,
    enqueued_at: Timestamp,
    text_start: usize,
    bytes_start: usize,
    topic: u32,
    key: Option<u32>,
    content_type: u32,
    correlation_id: Option<u32>,
    headers: u32,
    payload: u32,
}

/// One message of a [`Page`], borrowed from its buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageRef<'a> {
    /// The id its writer gave it.
    pub id: MessageId,
    /// Where it stands in the log.
    pub position: Position,
    /// When it was written, on the database's clock; its transaction committed later.
    pub enqueued_at: Timestamp,
    /// Topic.
    pub topic: &'a str,
    /// Ordering key.
    pub key: Option<&'a str>,
    /// Content type of the payload.
    pub content_type: &'a str,
    /// Correlation id.
    pub correlation_id: Option<&'a str>,
    /// Headers, in the order they were written.
    pub headers: Headers<'a>,
    /// Payload, byte for byte as it was enqueued.
    pub payload: &'a [u8],
}

/// Header names and values, alternating, each a big-endian 32-bit length followed by its bytes:
/// the element encoding of PostgreSQL's binary arrays, so that nothing is parsed on the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers<'a> {
    packed: &'a [u8],
}

impl<'a> Headers<'a> {
    /// Reads a packed form; see the type.
    pub const fn packed(packed: &'a [u8]) -> Self {
        Self { packed }
    }

    /// Appends one name or value to a packed form.
    pub fn pack(out: &mut Vec<u8>, text: &str) {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(text.as_bytes());
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    /// The value of the header `name`.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// Names and values. A damaged form ends the iteration early instead of panicking.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let mut rest = self.packed;
        let mut next = move || {
            let (length, tail) = rest.split_first_chunk::<4>()?;
            let (text, tail) = tail.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            rest = tail;
            std::str::from_utf8(text).ok()
        };
        std::iter::from_fn(move || Some((next()?, next()?)))
    }
}

impl Page {
    /// An empty page that reaches `through`.
    pub fn new(through: Position) -> Self {
        Self { through, ..Self::default() }
    }

    /// Adds a message; positions must ascend.
    pub fn push(&mut self, message: &MessageRef<'_>) {
        let text_start = self.text.len();
        let bytes_start = self.bytes.len();
        self.text.push_str(message.topic);
        self.text.push_str(message.key.unwrap_or_default());
        self.text.push_str(message.content_type);
        self.text.push_str(message.correlation_id.unwrap_or_default());
        self.bytes.extend_from_slice(message.headers.packed);
        self.bytes.extend_from_slice(message.payload);
        self.entries.push(Entry {
            id: message.id,
            position: message.position,
            enqueued_at: message.enqueued_at,
            text_start,
            bytes_start,
            topic: message.topic.len() as u32,
            key: message.key.map(|key| key.len() as u32),
            content_type: message.content_type.len() as u32,
            correlation_id: message.correlation_id.map(|id| id.len() as u32),
            headers: message.headers.packed.len() as u32,
            payload: message.payload.len() as u32,
        });
    }

    /// Whether `message` may be pushed under `limit_bytes`: an empty page takes any message.
    pub fn has_room_for(&self, message: &MessageRef<'_>, limit_bytes: usize) -> bool {
        let text = message.topic.len()
            + message.key.map_or(0, str::len)
            + message.content_type.len()
            + message.correlation_id.map_or(0, str::len);
        let size = text + message.headers.packed.len() + message.payload.len();
        self.is_empty() || self.bytes() + size <= limit_bytes
    }

    /// The position up to which this page covers its window.
    pub const fn through(&self) -> Position {
        self.through
    }

    /// Cuts the page's reach to `through`, for a page that was ended early by its byte limit.
    pub fn cut(&mut self, through: Position) {
        self.through = through;
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether the page holds no message; its reach still counts.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes held by payloads, headers and texts.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.text.len()
    }

    /// The message at `index`, in position order.
    ///
    /// # Panics
    /// When `index` is not below [`Page::len`].
    pub fn get(&self, index: usize) -> MessageRef<'_> {
        let entry = &self.entries[index];
        let mut text_at = entry.text_start;
        let mut text = |length: u32| {
            let from = text_at;
            text_at += length as usize;
            &self.text[from..text_at]
        };
        let payload_at = entry.bytes_start + entry.headers as usize;
        MessageRef {
            id: entry.id,
            position: entry.position,
            enqueued_at: entry.enqueued_at,
            topic: text(entry.topic),
            key: entry.key.map(&mut text),
            content_type: text(entry.content_type),
            correlation_id: entry.correlation_id.map(&mut text),
            headers: Headers::packed(&self.bytes[entry.bytes_start..payload_at]),
            payload: &self.bytes[payload_at..payload_at + entry.payload as usize],
        }
    }

    /// The messages in position order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = MessageRef<'_>> {
        (0..self.len()).map(|index| self.get(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_comes_back_as_it_was_pushed() {
        let mut packed = Vec::new();
        for text in ["tenant", "acme", "empty", ""] {
            Headers::pack(&mut packed, text);
        }
        let full = MessageRef {
            id: MessageId::from_u128(7),
            position: 3,
            enqueued_at: Timestamp(5),
            topic: "orders",
            key: Some("ö"),
            content_type: "a/b",
            correlation_id: Some("c"),
            headers: Headers::packed(&packed),
            payload: &[0, 255, 10],
        };
        let bare = MessageRef {
            key: None,
            correlation_id: None,
            headers: Headers::default(),
            payload: &[],
            ..full
        };
        let mut page = Page::new(9);
        page.push(&bare);
        page.push(&full);
        page.push(&bare);
        assert_eq!(page.iter().collect::<Vec<_>>(), [bare, full, bare]);
        assert_eq!(full.headers.iter().collect::<Vec<_>>(), [("tenant", "acme"), ("empty", "")]);
        assert_eq!((full.headers.get("empty"), full.headers.get("x")), (Some(""), None));
    }

    #[test]
    fn damaged_headers_end_early() {
        let headers = Headers::packed(&[0, 0, 0, 9, b'a']);
        assert_eq!(headers.iter().count(), 0);
    }
}
