//! From the log to a worker of the same process, without a queue between them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use posthaste::Received;
use posthaste_core::{MessageRef, job::JOB_HEADER};
use posthaste_relay::sink::{
    Batch, Context, Lane, Outcome, Receipt, Scope, Sink, SinkError, Target,
};
use tokio::{sync::mpsc, time::timeout};

/// Longest wait for room before the rest of a batch is tried again.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

/// Hands jobs to a worker. What is handed over and not begun when the process ends is no loss: the database knows
/// its jobs, and a watch has them published again. It knows no such thing of messages that are no jobs, so those are
/// rejected.
#[derive(Debug)]
pub(crate) struct Handover {
    worker: String,
    sender: mpsc::Sender<Received>,
}

impl Handover {
    /// To the worker of that name, with room for `capacity` jobs (at least 1).
    pub(crate) fn new(worker: &str, capacity: usize) -> (Arc<Self>, mpsc::Receiver<Received>) {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        (Arc::new(Self { worker: worker.to_owned(), sender }), receiver)
    }
}

#[async_trait]
impl Target for Handover {
    fn describe(&self) -> String {
        format!("worker {:?} of this process", self.worker)
    }

    async fn connect(&self, _: &Context, _: &Lane) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(Hand { worker: self.worker.clone(), sender: self.sender.clone() }))
    }
}

struct Hand {
    worker: String,
    sender: mpsc::Sender<Received>,
}

impl Hand {
    /// `None` when there is no room.
    async fn give(&self, message: MessageRef<'_>) -> Option<Outcome> {
        if message.headers.get(JOB_HEADER).is_none() {
            let worker = &self.worker;
            let reason = format!(
                "it is no job, and a worker without a queue takes nothing else; add \
                 [workers.{worker}.source]"
            );
            return Some(Outcome::Reject { reason });
        }
        let room = timeout(ROOM_TIMEOUT, self.sender.reserve()).await.ok()?.ok()?;
        room.send(received(message));
        Some(Outcome::Accepted)
    }
}

#[async_trait]
impl Sink for Hand {
    async fn publish(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
        let mut outcomes = Vec::with_capacity(batch.len());
        for message in batch.messages() {
            let Some(outcome) = self.give(message).await else { break };
            outcomes.push(outcome);
        }
        let reason = "the worker has no room".to_owned();
        outcomes.resize(batch.len(), Outcome::Retry { scope: Scope::Sink, reason });
        Ok(Receipt::Each(outcomes))
    }
}

fn received(message: MessageRef<'_>) -> Received {
    let own = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Received {
        id: message.id,
        topic: message.topic.to_owned(),
        key: message.key.map(str::to_owned),
        content_type: message.content_type.to_owned(),
        enqueued_at: message.enqueued_at,
        correlation_id: message.correlation_id.map(str::to_owned),
        headers: message.headers.iter().map(own).collect(),
        payload: message.payload.to_vec(),
    }
}
