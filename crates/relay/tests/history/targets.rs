//! Sinks that fail, block or panic on command, in front of a list of what they took.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use posthaste_relay::sink::{
    Batch, Context, Lane, Outcome, Receipt, Scope, Sink, SinkError, SinkErrorKind, Target,
};
use tokio::sync::watch;

/// What the sink does with the next batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Takes it.
    Accepts,
    /// Says that it is away.
    Away,
    /// Says that it is set up wrongly.
    Misconfigured,
    /// Takes nothing and asks for another try.
    Retries,
    /// Takes nothing and blames the messages.
    Rejects,
    /// Takes the first half and asks for another try with the rest.
    TakesHalf,
    /// Waits until its mood changes.
    Blocks,
    /// Panics once, then accepts.
    Panics,
}

/// A target whose sinks share a mood; clones share both.
#[derive(Clone, Debug)]
pub(crate) struct Moody {
    mood: Arc<watch::Sender<Mood>>,
    /// Batches handed to the sink, taken or not.
    batches: Arc<watch::Sender<u64>>,
    taken: Arc<Mutex<Vec<String>>>,
}

impl Moody {
    pub(crate) fn new(mood: Mood) -> Self {
        let (mood, batches) = (watch::Sender::new(mood), watch::Sender::new(0));
        Self { mood: Arc::new(mood), batches: Arc::new(batches), taken: Arc::default() }
    }

    pub(crate) fn turn(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Waits until the sink was handed a batch after `earlier` ones.
    pub(crate) async fn was_handed(&self, earlier: u64) {
        let mut batches = self.batches.subscribe();
        batches.wait_for(|count| *count > earlier).await.unwrap();
    }

    pub(crate) fn batches(&self) -> u64 {
        *self.batches.borrow()
    }

    /// Payloads in the order they were taken.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn take(&self, batch: &Batch<'_>, count: usize) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let text = |payload: &[u8]| String::from_utf8(payload.to_vec()).unwrap();
        taken.extend(batch.messages().take(count).map(|message| text(message.payload)));
    }
}

#[async_trait]
impl Target for Moody {
    fn describe(&self) -> String {
        "moody".to_owned()
    }

    async fn connect(&self, _: &Context, _: &Lane) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Sink for Moody {
    async fn publish(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
        self.batches.send_modify(|count| *count += 1);
        let mut mood = self.mood.subscribe();
        let mood = *mood.wait_for(|mood| *mood != Mood::Blocks).await.unwrap();
        let retry = Outcome::Retry { scope: Scope::Sink, reason: "full".to_owned() };
        match mood {
            Mood::Accepts | Mood::Blocks => {
                self.take(batch, batch.len());
                Ok(Receipt::AllAccepted)
            }
            Mood::Away => Err(SinkError::new(SinkErrorKind::Unavailable, "moody is away")),
            Mood::Misconfigured => {
                Err(SinkError::new(SinkErrorKind::Misconfigured, "moody is set up wrongly"))
            }
            Mood::Retries => Ok(Receipt::Each(vec![retry; batch.len()])),
            Mood::Rejects => {
                let reject = Outcome::Reject { reason: "moody dislikes it".to_owned() };
                Ok(Receipt::Each(vec![reject; batch.len()]))
            }
            Mood::TakesHalf => {
                let half = batch.len() / 2;
                self.take(batch, half);
                let mut outcomes = vec![Outcome::Accepted; half];
                outcomes.resize(batch.len(), retry);
                Ok(Receipt::Each(outcomes))
            }
            Mood::Panics => {
                self.turn(Mood::Accepts);
                panic!("moody panics");
            }
        }
    }
}
