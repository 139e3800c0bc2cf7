//! One call of the script: which message goes to which stream, the call's arguments, and what the
//! script's answer means for each message.
//!
//! Pure: `redis_stream` sends what is made here. All buffers are kept from call to call, since
//! this runs for every message.

use std::{collections::HashMap, ops::Range};

use posthaste_core::Template;
use redis::{Cmd, Value};

use super::entry::{Body, Shape, VALUES_MAX};
use crate::{
    sink::{Batch, Outcome, Scope},
    sinks::outcomes::Outcomes,
};

/// Messages one call appends at most: about 1 ms of Redis, which serves nobody else meanwhile. More
/// are slower: Lua interns every value, and from about 500 messages on its heap leaves the
/// processor's caches (measured: 3.2 µs a message with 250, 4.2 µs with 1,000).
const MESSAGES_MAX: usize = 200;

/// What stands in a call besides the messages.
pub(super) struct Frame<'a> {
    pub(super) script_sha: &'a str,
    /// The key of the subscription's place.
    pub(super) place_key: &'a str,
    /// The place that the call continues from; `None` for any.
    pub(super) from: Option<u64>,
    /// The place behind the call.
    pub(super) to: u64,
}

/// The streams that have refused a message of a batch, and the number of the first.
pub(super) type Failed = HashMap<String, usize>;

/// What the script did with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Every message was appended.
    Appended,
    /// Nothing was appended: the place is another one.
    Moved,
    /// Some messages were refused, and the place stays.
    Refused,
    /// As `Refused`; the sink as a whole stopped, and nothing more may be sent of this batch.
    Stopped,
}

/// The call for one part of a batch.
pub(super) struct Call {
    stream: Template,
    maxlen: u64,
    body: Body,
    command: Cmd,
    /// The part of the batch, by number.
    part: Range<usize>,
    /// The messages of the call, in order.
    sent: Vec<Sent>,
    /// The plan as the script reads it.
    plan: Vec<u8>,
    /// The streams of the call by name.
    streams: HashMap<String, u16>,
    /// Their names one after the other, and where each ends.
    names: String,
    name_ends: Vec<usize>,
    /// The name being rendered.
    name: String,
}

/// A message of the call.
#[derive(Clone, Copy)]
struct Sent {
    /// Number in the part.
    in_part: usize,
    /// Number in the batch.
    in_batch: usize,
    /// Number of its stream in the call.
    stream: u16,
    /// How its values are written.
    shape: Shape,
}

impl Call {
    pub(super) fn new(stream: Template, maxlen: u64, body: Body) -> Self {
        Self {
            stream,
            maxlen,
            body,
            command: Cmd::new(),
            part: 0..0,
            sent: Vec::new(),
            plan: Vec::new(),
            streams: HashMap::new(),
            names: String::new(),
            name_ends: Vec::new(),
            name: String::new(),
        }
    }

    /// Makes the call for the part of `batch` that begins at `start`, which must exist. `failed` are
    /// the streams that have refused a message of the batch. False when there is nothing to send:
    /// no message of the part goes anywhere.
    pub(super) fn prepare(
        &mut self,
        batch: &Batch<'_>,
        start: usize,
        frame: &Frame<'_>,
        failed: &mut Failed,
        outcomes: &mut Outcomes,
    ) -> bool {
        self.part = start..batch.len().min(start + MESSAGES_MAX);
        let part = batch.slice(self.part.clone());
        self.plan(&part, failed, outcomes);
        if self.sent.is_empty() {
            return false;
        }
        self.encode(&part, frame);
        true
    }

    /// The part of the batch that the call was made for.
    pub(super) fn part(&self) -> Range<usize> {
        self.part.clone()
    }

    /// Finds the stream of each message. Messages that go to none get their outcome here. A part
    /// may not hold more messages than 16 bits count.
    fn plan(&mut self, part: &Batch<'_>, failed: &mut Failed, outcomes: &mut Outcomes) {
        self.sent.clear();
        self.plan.clear();
        self.streams.clear();
        self.names.clear();
        self.name_ends.clear();
        let mut named = None;
        for (in_part, message) in part.messages().enumerate() {
            let in_batch = self.part.start + in_part;
            if let Err(error) = self.stream.render(&message, &mut self.name) {
                outcomes.set(in_batch, Outcome::Reject { reason: error.to_string() });
                continue;
            }
            let (shape, values) = self.body.shape(&message, named.as_ref());
            if failed.get(&self.name).is_some_and(|first| *first < in_batch) {
                outcomes.set(in_batch, follows_a_failure(&self.name));
            } else if values > VALUES_MAX {
                let reason = format!("it has more than {VALUES_MAX} fields; send fewer headers");
                outcomes.set(in_batch, Outcome::Reject { reason });
                note(failed, &self.name, in_batch);
            } else {
                let stream = self.stream_number();
                self.sent.push(Sent { in_part, in_batch, stream, shape });
                if shape != Shape::Free {
                    named = Some(message);
                }
                let [high, low] = stream.to_be_bytes();
                let [count_high, count_low] = (values as u16).to_be_bytes();
                self.plan.extend([high, low, shape as u8, count_high, count_low]);
            }
        }
    }

    /// The number of the stream named `self.name`, a new one if need be.
    fn stream_number(&mut self) -> u16 {
        if let Some(number) = self.streams.get(&self.name) {
            return *number;
        }
        let number = self.streams.len() as u16;
        self.streams.insert(self.name.clone(), number);
        self.names.push_str(&self.name);
        self.name_ends.push(self.names.len());
        number
    }

    /// Builds the command for what was planned.
    fn encode(&mut self, part: &Batch<'_>, frame: &Frame<'_>) {
        self.command.clear();
        self.command.arg("EVALSHA").arg(frame.script_sha).arg(1 + self.name_ends.len());
        self.command.arg(frame.place_key);
        for number in 0..self.name_ends.len() {
            self.command.arg(stream_name(&self.names, &self.name_ends, number));
        }
        match frame.from {
            Some(place) => self.command.arg(place),
            None => self.command.arg(""),
        };
        self.command.arg(frame.to).arg(self.maxlen).arg(self.plan.as_slice());
        let mut sent = self.sent.iter().peekable();
        for (in_part, message) in part.messages().enumerate() {
            if let Some(Sent { shape, .. }) = sent.next_if(|sent| sent.in_part == in_part) {
                self.body.write(&message, *shape, &mut self.command);
            }
        }
    }

    /// The command that [`Self::encode`] built.
    pub(super) fn command(&self) -> &Cmd {
        &self.command
    }

    /// Reads the script's answer and notes the outcomes and failed streams that follow from it.
    /// `None` for an answer that the script never gives.
    pub(super) fn read(
        &self,
        answer: &Value,
        failed: &mut Failed,
        outcomes: &mut Outcomes,
    ) -> Option<Answer> {
        let (stopped, refused) = match answer {
            Value::Nil => return Some(Answer::Appended),
            Value::BulkString(word) if word == b"MOVED" => return Some(Answer::Moved),
            Value::Array(list) => list.split_first()?,
            _ => return None,
        };
        let stopped = number(stopped)?;
        for pair in refused.chunks_exact(2) {
            let at = number(&pair[0])?;
            let sent = *self.sent.get(at.checked_sub(1)?)?;
            let name = stream_name(&self.names, &self.name_ends, sent.stream.into());
            let reason = format!("stream {name:?}: {}", text(&pair[1])?);
            if at == stopped {
                outcomes.retry_sink_from(sent.in_batch, &reason);
            } else {
                outcomes.set(sent.in_batch, Outcome::Reject { reason });
                note(failed, name, sent.in_batch);
            }
        }
        let through = if stopped == 0 { self.sent.len() } else { stopped - 1 };
        for sent in self.sent.get(..through)? {
            let name = stream_name(&self.names, &self.name_ends, sent.stream.into());
            if failed.get(name).is_some_and(|first| *first < sent.in_batch) {
                outcomes.set(sent.in_batch, follows_a_failure(name));
            }
        }
        Some(if stopped == 0 { Answer::Refused } else { Answer::Stopped })
    }
}

fn stream_name<'a>(names: &'a str, ends: &[usize], number: usize) -> &'a str {
    let start = number.checked_sub(1).map_or(0, |before| ends[before]);
    &names[start..ends[number]]
}

fn note(failed: &mut Failed, name: &str, in_batch: usize) {
    let first = failed.entry(name.to_owned()).or_insert(in_batch);
    *first = in_batch.min(*first);
}

/// ORDERED: a message must not arrive before one that its stream refused.
fn follows_a_failure(name: &str) -> Outcome {
    let reason = format!("stream {name:?} refused an earlier message of the batch");
    Outcome::Retry { scope: Scope::Destination, reason }
}

fn number(value: &Value) -> Option<usize> {
    match value {
        Value::Int(number) => usize::try_from(*number).ok(),
        _ => None,
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        _ => None,
    }
}
