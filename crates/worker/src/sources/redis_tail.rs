//! Streams that are read from their end on, without a group: what listeners on Redis share, and how entries of
//! streams are answered.

use std::{sync::Arc, time::Duration};

use posthaste_redis::RedisServer;
use redis::Value;
use schemars::JsonSchema;
use serde::Deserialize;

use super::redis_link::Link;
use crate::source::SourceError;

/// An entry as it was read: id, and fields unless it is gone from the stream.
pub(super) type Raw = (Vec<u8>, Option<Vec<(Vec<u8>, Vec<u8>)>>);

/// Entries of one stream that one call reads.
const READ_MAX: usize = 100;

/// Where a listener begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum ListenFrom {
    /// At the oldest entry that is still there.
    #[default]
    Beginning,
    /// At what comes after it has connected for the first time.
    Now,
}

/// Streams, and how far they were read.
pub(super) struct Tail {
    link: Link,
    streams: Vec<String>,
    from: ListenFrom,
    /// The last entry of each stream that was passed; none before it is known where to begin.
    passed: Vec<Option<Vec<u8>>>,
    /// A read has come to no end: what waits on the connection would be in the way.
    is_reading: bool,
}

/// Entries, each with the number of its stream.
pub(super) type Read = Vec<(usize, Raw)>;

impl Tail {
    pub(super) fn new(server: &Arc<RedisServer>, streams: Vec<String>, from: ListenFrom) -> Self {
        let link = Link::new(server, &streams);
        Self { link, passed: vec![None; streams.len()], streams, from, is_reading: false }
    }

    pub(super) const fn link(&self) -> &Link {
        &self.link
    }

    /// Reads what comes next, and waits up to `wait` for the first of it. The same comes again until it
    /// [has passed](Self::pass).
    pub(super) async fn read(&mut self, wait: Duration) -> Result<Read, SourceError> {
        const DOING: &str = "listening";
        if std::mem::replace(&mut self.is_reading, true) {
            self.link.close().await;
        }
        let mut after = Vec::with_capacity(self.streams.len());
        for number in 0..self.streams.len() {
            after.push(self.beginning(number).await?);
        }
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(READ_MAX);
        // No time at all would mean for ever.
        let millis = wait.as_millis() as u64;
        if millis > 0 {
            command.arg("BLOCK").arg(millis);
        }
        command.arg("STREAMS").arg(&self.streams).arg(after);
        let answer = self.link.query_waiting(DOING, &command, wait).await?;
        let read = read(&self.streams, &answer).ok_or_else(|| self.link.unexpected(DOING));
        self.is_reading = false;
        read
    }

    /// Goes on behind these entries.
    pub(super) fn pass(&mut self, read: &Read) {
        for (number, (id, _)) in read {
            self.passed[*number] = Some(id.clone());
        }
    }

    async fn beginning(&mut self, number: usize) -> Result<Vec<u8>, SourceError> {
        if let Some(id) = &self.passed[number] {
            return Ok(id.clone());
        }
        let id = match self.from {
            ListenFrom::Beginning => b"0-0".to_vec(),
            ListenFrom::Now => self.last(number).await?,
        };
        self.passed[number] = Some(id.clone());
        Ok(id)
    }

    async fn last(&self, number: usize) -> Result<Vec<u8>, SourceError> {
        const DOING: &str = "looking for the last entry";
        let mut command = redis::cmd("XREVRANGE");
        command.arg(&self.streams[number]).arg("+").arg("-").arg("COUNT").arg(1);
        let found = entries(&self.link.query(DOING, &command).await?);
        let found = found.ok_or_else(|| self.link.unexpected(DOING))?;
        Ok(found.into_iter().next().map_or_else(|| b"0-0".to_vec(), |(id, _)| id))
    }
}

/// What `XREAD` and `XREADGROUP` answer: `[[stream, entries], …]`, or nothing.
pub(super) fn read(streams: &[String], answer: &Value) -> Option<Read> {
    let Value::Array(parts) = answer else {
        return matches!(answer, Value::Nil).then(Vec::new);
    };
    let mut all = Vec::new();
    for part in parts {
        let Value::Array(part) = part else { return None };
        let name = part.first().and_then(bytes)?;
        let number = streams.iter().position(|stream| stream.as_bytes() == name)?;
        all.extend(entries(part.get(1)?)?.into_iter().map(|entry| (number, entry)));
    }
    Some(all)
}

/// Entries as every command answers them: `[[id, [name, value, …]], …]`.
pub(super) fn entries(answer: &Value) -> Option<Vec<Raw>> {
    let Value::Array(entries) = answer else { return None };
    // Before Redis 7 an entry that is gone is nothing.
    entries.iter().filter(|entry| **entry != Value::Nil).map(entry).collect()
}

fn entry(answer: &Value) -> Option<Raw> {
    let Value::Array(parts) = answer else { return None };
    let id = parts.first().and_then(bytes)?;
    let Some(Value::Array(fields)) = parts.get(1) else { return Some((id, None)) };
    let (pairs, _) = fields.as_chunks();
    let pair = |[name, value]: &[Value; 2]| Some((bytes(name)?, bytes(value)?));
    Some((id, Some(pairs.iter().map(pair).collect::<Option<_>>()?)))
}

fn bytes(answer: &Value) -> Option<Vec<u8>> {
    match answer {
        Value::BulkString(bytes) => Some(bytes.clone()),
        Value::SimpleString(text) => Some(text.clone().into_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_are_gone_are_passed_over() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let answer = Value::Array(vec![
            Value::Nil,
            Value::Array(vec![text("1-0"), Value::Array(vec![text("a"), text("b")])]),
            Value::Array(vec![text("2-0"), Value::Nil]),
        ]);
        let found = entries(&answer).unwrap();
        assert_eq!(found[0], (b"1-0".to_vec(), Some(vec![(b"a".to_vec(), b"b".to_vec())])));
        assert_eq!(found[1], (b"2-0".to_vec(), None));
        assert_eq!(entries(&Value::Nil), None);
        assert_eq!(read(&[], &Value::Nil), Some(Vec::new()));
    }
}
