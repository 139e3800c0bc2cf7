//! Reading a Redis stream as it grows.

use posthaste_testkit::failure::{Failure, Result};

use crate::resp::{Client, Reply};

/// How long one read waits for entries; also how long a stop may take.
const BLOCK_MS: &[u8] = b"200";
const READ_MESSAGES: &[u8] = b"1000";

/// From the beginning of a stream.
#[derive(Debug)]
pub(crate) struct StreamReader {
    redis: Client,
    stream: &'static str,
    /// The id of the last entry that was read.
    last: Vec<u8>,
}

/// An entry of a stream.
#[derive(Debug)]
pub(crate) struct StreamEntry {
    /// When Redis added it, in milliseconds since 1970 on its clock.
    pub(crate) at_ms: u64,
    /// Names and values in turn.
    fields: Vec<Reply>,
}

impl StreamReader {
    pub(crate) fn new(redis: Client, stream: &'static str) -> Self {
        Self { redis, stream, last: b"0".to_vec() }
    }

    /// The next entries; none when none came for a while.
    pub(crate) fn read(&mut self) -> Result<Vec<StreamEntry>> {
        let answer = self.redis.query(&[
            b"XREAD",
            b"COUNT",
            READ_MESSAGES,
            b"BLOCK",
            BLOCK_MS,
            b"STREAMS",
            self.stream.as_bytes(),
            &self.last,
        ])?;
        let stream = answer.list().pop().map(Reply::list).unwrap_or_default();
        let entries = stream.into_iter().nth(1).map(Reply::list).unwrap_or_default();
        entries.into_iter().map(|entry| self.parsed(entry)).collect()
    }

    /// Has Redis forget what was read, but for the last entry.
    pub(crate) fn forget(&mut self) -> Result<()> {
        let command = [b"XTRIM", self.stream.as_bytes(), b"MINID", &self.last];
        self.redis.query(&command).map(drop)
    }

    fn parsed(&mut self, entry: Reply) -> Result<StreamEntry> {
        let mut parts = entry.list().into_iter();
        let (Some(Reply::Bytes(id)), Some(fields)) = (parts.next(), parts.next()) else {
            return Err(Failure::new("an entry of the stream is damaged"));
        };
        let time = String::from_utf8_lossy(&id);
        let time = time.split_once('-').and_then(|(time, _)| time.parse().ok());
        let at_ms = time.ok_or_else(|| Failure::new("the id of an entry has no time"))?;
        self.last = id;
        Ok(StreamEntry { at_ms, fields: fields.list() })
    }
}

impl StreamEntry {
    /// The value of a field, as text.
    pub(crate) fn field(&self, name: &str) -> Option<String> {
        let pairs = self.fields.chunks_exact(2);
        pairs.into_iter().find(|pair| pair[0].text() == name).map(|pair| pair[1].text())
    }
}
