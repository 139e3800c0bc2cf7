//! A sink that keeps places, and can be told what it has taken before.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use posthaste_relay::sink::{Batch, Context, Lane, Mark, Receipt, Sink, SinkError, Target};
use tokio::sync::watch;

/// A target whose sinks share what they keep; clones share it too.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    state: Arc<Mutex<State>>,
    gate: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    marks: HashMap<String, Mark>,
    taken: Vec<String>,
    knocks: usize,
}

impl Keeper {
    /// With an open gate, which the messages of the first lane pass.
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), gate: watch::Sender::new(true) }
    }

    pub(crate) fn open(&self) {
        self.gate.send_replace(true);
    }

    pub(crate) fn shut(&self) {
        self.gate.send_replace(false);
    }

    /// Where the lane stands from now on.
    pub(crate) fn keep(&self, lane: &str, mark: Mark) {
        self.state().marks.insert(lane.to_owned(), mark);
    }

    /// Where the lane stands.
    pub(crate) fn kept(&self, lane: &str) -> Mark {
        self.state().marks[lane].clone()
    }

    /// Batches that have come to the gate.
    pub(crate) fn knocks(&self) -> usize {
        self.state().knocks
    }

    /// Payloads in the order they were taken.
    pub(crate) fn taken(&self) -> Vec<String> {
        self.state().taken.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Target for Keeper {
    fn describe(&self) -> String {
        "keeper".to_owned()
    }

    async fn connect(&self, _: &Context, lane: &Lane) -> Result<Box<dyn Sink>, SinkError> {
        let mark = self.state().marks.entry(lane.name.clone()).or_default().clone();
        let calls = mark.calls;
        Ok(Box::new(Connected { keeper: self.clone(), lane: lane.name.clone(), mark, calls }))
    }
}

struct Connected {
    keeper: Keeper,
    lane: String,
    mark: Mark,
    calls: i64,
}

#[async_trait]
impl Sink for Connected {
    async fn publish(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
        if !self.lane.ends_with(":retries") {
            self.keeper.state().knocks += 1;
            let _ = self.keeper.gate.subscribe().wait_for(|is_open| *is_open).await;
        }
        let mut state = self.keeper.state();
        for message in batch.messages() {
            state.taken.push(String::from_utf8(message.payload.to_vec()).unwrap());
        }
        self.calls += 1;
        let text = batch.marks().text(&batch.message(batch.len() - 1));
        let mark = Mark { calls: self.calls, text, missing: Vec::new() };
        state.marks.insert(self.lane.clone(), mark);
        Ok(Receipt::AllAccepted)
    }

    fn mark(&self) -> Option<&Mark> {
        Some(&self.mark)
    }

    fn calls(&self) -> Option<i64> {
        Some(self.calls)
    }
}
