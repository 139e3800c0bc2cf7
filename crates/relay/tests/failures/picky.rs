//! A sink that rejects the messages it is told to, in front of a list of what it took.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use async_trait::async_trait;
use posthaste_core::Template;
use posthaste_relay::sink::{
    Batch, Context, Lane, Outcome, Receipt, Scope, Sink, SinkError, Target,
};

/// A target whose sinks share their taste; clones share it too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picky {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// Payloads that are rejected.
    rejected: HashSet<String>,
    /// Topics whose destination takes nothing.
    broken: HashSet<String>,
    /// How often each was handed over and not taken.
    rejections: HashMap<String, u32>,
    /// When something was handed over that went to a broken destination.
    knocks: Vec<Instant>,
    /// Payloads in the order they were taken.
    taken: Vec<String>,
}

impl Picky {
    /// Rejects messages with this payload from now on.
    pub(crate) fn reject(&self, payload: &str) {
        self.state().rejected.insert(payload.to_owned());
    }

    pub(crate) fn relent(&self, payload: &str) {
        self.state().rejected.remove(payload);
    }

    /// The destination of `topic` takes nothing from now on.
    pub(crate) fn break_down(&self, topic: &str) {
        self.state().broken.insert(topic.to_owned());
    }

    pub(crate) fn mend(&self, topic: &str) {
        self.state().broken.remove(topic);
    }

    /// When batches for a broken destination came.
    pub(crate) fn knocks(&self) -> Vec<Instant> {
        self.state().knocks.clone()
    }

    /// How often a payload was handed over and not taken.
    pub(crate) fn rejections(&self, payload: &str) -> u32 {
        self.state().rejections.get(payload).copied().unwrap_or_default()
    }

    /// Payloads that begin with `prefix`, in the order they were taken.
    pub(crate) fn taken(&self, prefix: &str) -> Vec<String> {
        let state = self.state();
        state.taken.iter().filter(|text| text.starts_with(prefix)).cloned().collect()
    }

    /// How many of them there are.
    pub(crate) fn count(&self, prefix: &str) -> usize {
        self.state().taken.iter().filter(|text| text.starts_with(prefix)).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Target for Picky {
    fn describe(&self) -> String {
        "picky".to_owned()
    }

    fn destination(&self) -> Option<&Template> {
        static NAMES: LazyLock<Template> = LazyLock::new(|| Template::parse("{topic}").unwrap());
        Some(&NAMES)
    }

    async fn connect(&self, _: &Context, _: &Lane) -> Result<Box<dyn Sink>, SinkError> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Sink for Picky {
    async fn publish(&mut self, batch: &Batch<'_>) -> Result<Receipt, SinkError> {
        let mut state = self.state();
        let mut held = HashSet::new();
        if batch.messages().any(|message| state.broken.contains(message.topic)) {
            state.knocks.push(Instant::now());
        }
        let outcomes = batch.messages().map(|message| {
            let text = String::from_utf8(message.payload.to_vec()).unwrap();
            if message.key.is_some_and(|key| held.contains(key)) {
                let reason = "it follows a rejected one".to_owned();
                return Outcome::Retry { scope: Scope::Key, reason };
            }
            if state.broken.contains(message.topic) {
                held.extend(message.key);
                let reason = format!("{} is full", message.topic);
                *state.rejections.entry(text).or_default() += 1;
                return Outcome::Retry { scope: Scope::Destination, reason };
            }
            if state.rejected.contains(&text) {
                held.extend(message.key);
                let reason = format!("picky dislikes {text}");
                *state.rejections.entry(text).or_default() += 1;
                return Outcome::Reject { reason };
            }
            state.taken.push(text);
            Outcome::Accepted
        });
        Ok(Receipt::Each(outcomes.collect()))
    }
}
