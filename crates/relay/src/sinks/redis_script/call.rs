//! One call of the script: which message goes where, the call's arguments, and what the script's
//! answer means for each message.
//!
//! Pure: `redis_script` sends what is made here. All buffers are kept from call to call, since
//! this runs for every message.

use std::{collections::HashMap, ops::Range};

use posthaste_core::Template;
use posthaste_store::defect;
use redis::{Cmd, Value};

use super::{Script, names::Names};
use crate::{
    sink::{Batch, Outcome, Scope},
    sinks::outcomes::Outcomes,
};

/// What stands in a call besides the messages.
pub(super) struct Frame<'a> {
    pub(super) script_sha: &'a str,
    /// The key of the lane's place.
    pub(super) place_key: &'a str,
    /// The connection's epoch; `None` where no place is kept.
    pub(super) epoch: Option<&'a str>,
    /// Calls before this one.
    pub(super) calls: i64,
}

/// What did not take a message of a batch, and the number of the first.
#[derive(Default)]
pub(super) struct Failed {
    destinations: HashMap<String, usize>,
    /// Ordering keys of messages that were rejected before they were sent.
    keys: HashMap<String, usize>,
}

/// What the script did with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Every message was taken.
    Taken,
    /// Nothing was done: the lane is somebody else's, or has come elsewhere.
    Displaced,
    /// Nothing was done: what is there is not what the sink is set up for, and why.
    Misfit(String),
    /// Some messages were not taken, and nothing that is on its way will do anything.
    Refused,
    /// As `Refused`; the sink as a whole stopped, and nothing more may be sent of this batch.
    Stopped,
}

/// The call for one part of a batch.
pub(super) struct Call<S: Script> {
    destination: Template,
    script: S,
    command: Cmd,
    /// The part of the batch, by number.
    part: Range<usize>,
    /// The messages of the call, in order.
    sent: Vec<Sent<S::Shape>>,
    /// The plan as the script reads it.
    plan: Vec<u8>,
    /// The destinations of the call.
    names: Names,
    /// The name being rendered.
    name: String,
    /// Positions as the script reads them.
    positions: Vec<u8>,
}

/// A message of the call.
#[derive(Clone, Copy)]
struct Sent<Shape> {
    /// Number in the part.
    in_part: usize,
    /// Number in the batch.
    in_batch: usize,
    /// Number of its destination in the call.
    destination: u16,
    /// How its values are written.
    shape: Shape,
}

impl<S: Script> Call<S> {
    pub(super) fn new(destination: Template, script: S) -> Self {
        Self {
            destination,
            script,
            command: Cmd::new(),
            part: 0..0,
            sent: Vec::new(),
            plan: Vec::new(),
            names: Names::default(),
            name: String::new(),
            positions: Vec::new(),
        }
    }

    pub(super) fn script(&mut self) -> &mut S {
        &mut self.script
    }

    /// Makes the call for the part of `batch` that begins at `start`, which must exist. `failed` is
    /// what did not take a message of the batch. False when there is nothing to send: no message of
    /// the part goes anywhere.
    pub(super) fn prepare(
        &mut self,
        batch: &Batch<'_>,
        start: usize,
        frame: &Frame<'_>,
        failed: &mut Failed,
        outcomes: &mut Outcomes,
    ) -> bool {
        self.part = start..batch.len().min(start + S::MESSAGES_MAX);
        let part = batch.slice(self.part.clone());
        self.plan(&part, failed, outcomes);
        if self.sent.is_empty() {
            return false;
        }
        self.encode(batch, &part, frame, outcomes);
        true
    }

    /// Writes what the script keeps with the call: the epoch, the calls, the mark, what is missing
    /// before it, and the positions of its messages.
    fn encode_place(&mut self, batch: &Batch<'_>, frame: &Frame<'_>, outcomes: &Outcomes) {
        let Some(epoch) = frame.epoch else {
            for _ in 0..5 {
                self.command.arg("");
            }
            return;
        };
        let marks = batch.marks();
        let last = batch.message(self.part.end - 1);
        self.positions.clear();
        let earlier = outcomes.untaken(self.part.end);
        let earlier = earlier.map(|nth| batch.message(nth).position);
        let withheld = marks.withheld().iter().copied();
        let withheld = withheld.take_while(|position| *position < last.position);
        let later = marks.open().iter().copied().filter(|position| *position > last.position);
        for position in
            earlier.chain(withheld).chain(later).filter(|_| !defect::is("missing-dropped"))
        {
            self.positions.extend(position.to_be_bytes());
        }
        self.command.arg(epoch).arg(frame.calls).arg(marks.text(&last)).arg(&*self.positions);
        self.positions.clear();
        for sent in &self.sent {
            self.positions.extend(batch.message(sent.in_batch).position.to_be_bytes());
        }
        self.command.arg(&*self.positions);
    }

    /// The part of the batch that the call was made for.
    pub(super) fn part(&self) -> Range<usize> {
        self.part.clone()
    }

    /// Finds the destination of each message. Messages that go to none get their outcome here.
    fn plan(&mut self, part: &Batch<'_>, failed: &mut Failed, outcomes: &mut Outcomes) {
        self.sent.clear();
        self.plan.clear();
        self.names.clear();
        let mut named = None;
        for (in_part, message) in part.messages().enumerate() {
            let in_batch = self.part.start + in_part;
            if let Some(key) = message.key.filter(|key| comes_after(&failed.keys, key, in_batch)) {
                outcomes.set(in_batch, follows_a_rejection(key));
                continue;
            }
            let named_so = self.destination.render(&message, &mut self.name);
            let named_so = named_so.map_err(|error| error.to_string());
            if let Err(reason) = named_so.and_then(|()| self.script.check_name(&self.name)) {
                outcomes.set(in_batch, Outcome::Reject { reason });
                if let Some(key) = message.key {
                    note(&mut failed.keys, key, in_batch);
                }
                continue;
            }
            if comes_after(&failed.destinations, &self.name, in_batch) {
                outcomes.set(in_batch, follows_a_failure::<S>(&self.name));
                continue;
            }
            match self.script.plan(&message, &mut named, &mut self.plan) {
                Ok(shape) => {
                    let destination = self.names.number_of(&self.name);
                    self.plan.extend(destination.to_be_bytes());
                    self.sent.push(Sent { in_part, in_batch, destination, shape });
                }
                Err(reason) => {
                    outcomes.set(in_batch, Outcome::Reject { reason });
                    if let Some(key) = message.key {
                        note(&mut failed.keys, key, in_batch);
                    }
                }
            }
        }
    }

    /// Builds the command for what was planned.
    fn encode(
        &mut self,
        batch: &Batch<'_>,
        part: &Batch<'_>,
        frame: &Frame<'_>,
        outcomes: &Outcomes,
    ) {
        let keys = if S::ARE_KEYS { self.names.len() } else { 0 };
        self.command.clear();
        self.command.arg("EVALSHA").arg(frame.script_sha).arg(1 + keys).arg(frame.place_key);
        for name in self.names.iter().take(keys) {
            self.command.arg(name);
        }
        self.encode_place(batch, frame, outcomes);
        self.script.configure(&mut self.command);
        self.command.arg(self.plan.as_slice());
        let mut sent = self.sent.iter().peekable();
        for (in_part, message) in part.messages().enumerate() {
            if let Some(Sent { shape, .. }) = sent.next_if(|sent| sent.in_part == in_part) {
                self.script.write(&message, *shape, &mut self.command);
            }
        }
        for name in self.names.iter().skip(keys) {
            self.command.arg(name);
        }
    }

    /// The command that [`Self::encode`] built.
    pub(super) fn command(&self) -> &Cmd {
        &self.command
    }

    /// Reads the script's answer and notes the outcomes and failed destinations that follow from
    /// it. `None` for an answer that the script never gives.
    pub(super) fn read(
        &mut self,
        answer: &Value,
        failed: &mut Failed,
        outcomes: &mut Outcomes,
    ) -> Option<Answer> {
        let (stopped, untaken) = match answer {
            Value::Nil => return Some(Answer::Taken),
            Value::BulkString(word) if word == b"MOVED" || word == b"FENCED" => {
                return Some(Answer::Displaced);
            }
            Value::Array(list) => list.split_first()?,
            _ => return None,
        };
        if let Value::BulkString(word) = stopped {
            let why = self.script.misfit(untaken).filter(|_| word == b"MISFIT")?;
            return Some(Answer::Misfit(why));
        }
        let stopped = number(stopped)?;
        let mut answer = if stopped == 0 { Answer::Taken } else { Answer::Stopped };
        for pair in untaken.chunks_exact(2) {
            let at = number(&pair[0])?;
            let sent = *self.sent.get(at.checked_sub(1)?)?;
            let name = self.names.name(sent.destination);
            let outcome = match &pair[1] {
                Value::Int(number) => self.script.explain(name, *number)?,
                error => {
                    let reason = format!("{} {name:?}: {}", S::DESTINATION, text(error)?);
                    if at == stopped {
                        outcomes.retry_sink_from(sent.in_batch, &reason);
                        continue;
                    }
                    of_one_message(reason)
                }
            };
            if outcome != Outcome::Accepted {
                if answer == Answer::Taken {
                    answer = Answer::Refused;
                }
                outcomes.set(sent.in_batch, outcome);
                note(&mut failed.destinations, name, sent.in_batch);
            }
        }
        let through = if stopped == 0 { self.sent.len() } else { stopped - 1 };
        for sent in self.sent.get(..through)? {
            let name = self.names.name(sent.destination);
            if comes_after(&failed.destinations, name, sent.in_batch) {
                outcomes.set(sent.in_batch, follows_a_failure::<S>(name));
            }
        }
        Some(answer)
    }
}

fn comes_after(failed: &HashMap<String, usize>, name: &str, in_batch: usize) -> bool {
    failed.get(name).is_some_and(|first| *first < in_batch)
}

fn note(failed: &mut HashMap<String, usize>, name: &str, in_batch: usize) {
    let first = failed.entry(name.to_owned()).or_insert(in_batch);
    *first = in_batch.min(*first);
}

/// The outcome of a message that was met by an error which stops nothing else: its own fault only
/// if Redis could never hold it; otherwise its destination's (the name of other data, a stream
/// whose ids are used up), until somebody mends that.
fn of_one_message(reason: String) -> Outcome {
    if reason.contains("Elements are too large") {
        Outcome::Reject { reason }
    } else {
        Outcome::Retry { scope: Scope::Destination, reason }
    }
}

/// ORDERED: a message must not arrive before one that its destination did not take.
fn follows_a_failure<S: Script>(name: &str) -> Outcome {
    let reason =
        format!("{} {name:?} did not take an earlier message of the batch", S::DESTINATION);
    Outcome::Retry { scope: Scope::Destination, reason }
}

/// ORDERED: nor before one of its key that was rejected. Without a key there is no order to keep.
fn follows_a_rejection(key: &str) -> Outcome {
    let reason = format!("an earlier message of the key {key:?} was rejected");
    Outcome::Retry { scope: Scope::Key, reason }
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
