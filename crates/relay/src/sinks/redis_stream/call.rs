//! One call of the script: which message goes to which stream, the call's arguments, and what the
//! script's answer means for each message.
//!
//! Pure: `redis_stream` sends what is made here. All buffers are kept from call to call, since
//! this runs for every message.

use std::collections::{HashMap, HashSet};

use posthaste_core::Template;
use redis::{Cmd, Value};

use super::{
    SCRIPT_MESSAGES_MAX,
    entry::{Body, Shape, VALUES_MAX},
};
use crate::{
    sink::{Batch, Outcome, Scope},
    sinks::outcomes::Outcomes,
};

/// The call for one part of a batch.
pub(super) struct Call {
    stream: Template,
    maxlen: u64,
    body: Body,
    command: Cmd,
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
    /// Streams that have refused a message of this batch.
    failed: HashSet<String>,
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
            sent: Vec::new(),
            plan: Vec::new(),
            streams: HashMap::new(),
            names: String::new(),
            name_ends: Vec::new(),
            name: String::new(),
            failed: HashSet::new(),
        }
    }

    /// Forgets which streams failed in the batch before.
    pub(super) fn begin_batch(&mut self) {
        self.failed.clear();
    }

    /// As [`Self::begin_batch`], for a batch of which `earlier` was a part.
    pub(super) fn begin_batch_after(&mut self, earlier: &Self) {
        self.failed.clone_from(&earlier.failed);
    }

    /// Makes the call for the part of `batch` that begins at `start`. False when there is nothing
    /// to send: no such part, or no message of it goes anywhere.
    pub(super) fn prepare(
        &mut self,
        batch: &Batch<'_>,
        start: usize,
        script_sha: &str,
        outcomes: &mut Outcomes,
    ) -> bool {
        if start >= batch.len() {
            return false;
        }
        let part = batch.slice(start..batch.len().min(start + SCRIPT_MESSAGES_MAX));
        let is_planned = self.plan(&part, start, outcomes);
        if is_planned {
            self.encode(&part, script_sha);
        }
        is_planned
    }

    /// Finds the stream of each message. Messages that go to none get their outcome here. Returns
    /// whether anything is left to send. `start` is the number of the part's first message in the
    /// batch; a part may not hold more messages than 16 bits count.
    fn plan(&mut self, part: &Batch<'_>, start: usize, outcomes: &mut Outcomes) -> bool {
        self.sent.clear();
        self.plan.clear();
        self.streams.clear();
        self.names.clear();
        self.name_ends.clear();
        let mut named = None;
        for (in_part, message) in part.messages().enumerate() {
            let in_batch = start + in_part;
            if let Err(error) = self.stream.render(&message, &mut self.name) {
                outcomes.set(in_batch, Outcome::Reject { reason: error.to_string() });
                continue;
            }
            let (shape, values) = self.body.shape(&message, named.as_ref());
            if self.failed.contains(&self.name) {
                outcomes.set(in_batch, follows_a_failure(&self.name));
            } else if values > VALUES_MAX {
                let reason = format!("it has more than {VALUES_MAX} fields; send fewer headers");
                outcomes.set(in_batch, Outcome::Reject { reason });
                self.failed.insert(self.name.clone());
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
        !self.sent.is_empty()
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
    fn encode(&mut self, part: &Batch<'_>, script_sha: &str) {
        self.command.clear();
        self.command.arg("EVALSHA").arg(script_sha).arg(self.name_ends.len());
        for number in 0..self.name_ends.len() {
            self.command.arg(stream_name(&self.names, &self.name_ends, number));
        }
        self.command.arg(self.maxlen).arg(self.plan.as_slice());
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

    /// Reads the script's answer. Returns whether the sink as a whole stopped, so that nothing
    /// more may be sent of this batch, or `None` for an answer that the script never gives.
    pub(super) fn apply(&mut self, answer: &Value, outcomes: &mut Outcomes) -> Option<bool> {
        let (stopped, refused) = match answer {
            Value::Nil => return Some(false),
            Value::Array(list) => list.split_first()?,
            _ => return None,
        };
        let stopped = number(stopped)?;
        let mut failed_streams = HashMap::new();
        for pair in refused.chunks_exact(2) {
            let at = number(&pair[0])?;
            let sent = *self.sent.get(at.checked_sub(1)?)?;
            let name = stream_name(&self.names, &self.name_ends, sent.stream.into());
            let reason = format!("stream {name:?}: {}", text(&pair[1])?);
            if at == stopped {
                outcomes.retry_sink_from(sent.in_batch, &reason);
            } else {
                outcomes.set(sent.in_batch, Outcome::Reject { reason });
                failed_streams.insert(sent.stream, sent.in_batch);
                self.failed.insert(name.to_owned());
            }
        }
        for sent in &self.sent {
            if stopped != 0 && self.sent.get(stopped - 1)?.in_batch <= sent.in_batch {
                break;
            }
            if failed_streams.get(&sent.stream).is_some_and(|first| *first < sent.in_batch) {
                let name = stream_name(&self.names, &self.name_ends, sent.stream.into());
                outcomes.set(sent.in_batch, follows_a_failure(name));
            }
        }
        Some(stopped != 0)
    }
}

fn stream_name<'a>(names: &'a str, ends: &[usize], number: usize) -> &'a str {
    let start = number.checked_sub(1).map_or(0, |before| ends[before]);
    &names[start..ends[number]]
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
