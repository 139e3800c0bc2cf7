//! What of a batch may go to the sink: messages are checked against the contracts of their topics,
//! in both lanes, before the sink sees them. What follows from a breach is the failure policy's;
//! contracts are read by `contracts`.

use std::{collections::HashSet, sync::Arc};

use posthaste_core::{
    CONTRACT_HEADER, Contracts, MessageRef, Page, Position,
    contract::{Breach, Checked},
};
use tokio::{
    sync::watch,
    time::{Duration, Instant},
};

use crate::{
    monitor::Gauge,
    policy::{Fault, Unaccepted},
    settings::{ContractSettings, OnBreach},
    sink::Marks,
};

/// Between two lines of the log about messages that are published in breach of their contracts.
const TOLD_INTERVAL: Duration = Duration::from_mins(1);

/// The check of one lane. Owned by its outlet.
pub(crate) struct Screen {
    known: watch::Receiver<Arc<Contracts>>,
    settings: ContractSettings,
    gauge: Arc<Gauge>,
    /// When a breach was told of last, where breaches are published.
    told: Option<Instant>,
}

/// A batch of which not everything may go to the sink.
#[derive(Debug)]
pub(crate) struct Withheld {
    /// What may, by number in the page.
    passed: Vec<u32>,
    /// What may not, in order, with its position.
    messages: Vec<Unaccepted>,
    positions: Vec<Position>,
}

/// The marks of a lane around what is withheld.
pub(crate) struct WithheldMarks<'a> {
    marks: &'a dyn Marks,
    withheld: &'a [Position],
}

impl Screen {
    pub(crate) fn new(
        known: watch::Receiver<Arc<Contracts>>,
        settings: ContractSettings,
        gauge: Arc<Gauge>,
    ) -> Self {
        Self { known, settings, gauge, told: None }
    }

    /// Checks the messages of `page` at `batch` with the contracts known now; `None` when all of
    /// them may go.
    ///
    /// ORDERED: what follows a message that may not, with the same key, may not either.
    pub(crate) fn withhold(&mut self, page: &Page, batch: &[u32]) -> Option<Withheld> {
        let contracts = Arc::clone(&self.known.borrow());
        let is_idle = contracts.is_empty() && self.settings.required.is_none();
        if is_idle || self.settings.on_breach == OnBreach::Off {
            return None;
        }
        let (mut keys, mut passed) = (HashSet::new(), Vec::new());
        let (mut messages, mut positions) = (Vec::new(), Vec::new());
        for (nth, index) in batch.iter().enumerate() {
            let message = page.get(*index as usize);
            let follows = !keys.is_empty() && message.key.is_some_and(|key| keys.contains(key));
            let found = if follows { Some(follower()) } else { self.judge(&contracts, &message) };
            match found {
                Some((fault, reason)) => {
                    if messages.is_empty() {
                        passed.extend_from_slice(&batch[..nth]);
                    }
                    keys.extend(message.key);
                    messages.push(Unaccepted { index: *index, fault, reason });
                    positions.push(message.position);
                }
                None if messages.is_empty() => {}
                None => passed.push(*index),
            }
        }
        (!messages.is_empty()).then_some(Withheld { passed, messages, positions })
    }

    /// Whose fault it is that a message may not go, and the reason; `None` when it may.
    fn judge(
        &mut self,
        contracts: &Contracts,
        message: &MessageRef<'_>,
    ) -> Option<(Fault, String)> {
        let breach = self.check(contracts, message).err()?;
        self.gauge.meter().breaches(breach.code()).add(1);
        let fault = match (&breach, self.settings.on_breach) {
            (_, OnBreach::Off | OnBreach::Publish) => {
                self.tell(message, &breach);
                return None;
            }
            // Waits as for one of several destinations: without burning attempts, tried by one
            // message at a time.
            (Breach::UnknownVersion { topic, version, .. }, _) => {
                Fault::Destination(format!("contract {topic} v{version}"))
            }
            (Breach::UnknownTopic { topic }, _) => Fault::Destination(format!("contract {topic}")),
            (_, OnBreach::Park) => Fault::Message,
            (_, OnBreach::DeadLetter) => Fault::Hopeless,
        };
        Some((fault, breach.to_string()))
    }

    fn check(&self, contracts: &Contracts, message: &MessageRef<'_>) -> Result<Checked, Breach> {
        let topic = message.topic;
        if contracts.is_contracted(topic) {
            return contracts.check(topic, message.headers.get(CONTRACT_HEADER), message.payload);
        }
        match &self.settings.required {
            Some(required) if required.matches(topic) => {
                Err(Breach::UnknownTopic { topic: topic.to_owned() })
            }
            _ => Ok(Checked::Uncontracted),
        }
    }

    /// Says that a message is published all the same; the metric counts each.
    fn tell(&mut self, message: &MessageRef<'_>, breach: &Breach) {
        let now = Instant::now();
        if self.told.is_none_or(|told| now - told >= TOLD_INTERVAL) {
            self.told = Some(now);
            tracing::warn!(
                subscription = self.gauge.name(),
                message_id = %message.id,
                correlation_id = message.correlation_id,
                "publishing in breach of a contract, as contracts = \"publish\" asks: {breach}"
            );
        }
    }
}

fn follower() -> (Fault, String) {
    (Fault::Key, "an earlier message of its key breaks its contract".to_owned())
}

impl Withheld {
    /// What may go, by number in the page.
    pub(crate) fn passed(&self) -> &[u32] {
        &self.passed
    }

    /// The marks with which the rest of the batch goes (ONCE: a sink that keeps places names what
    /// is withheld as missing).
    pub(crate) fn marks<'a>(&'a self, marks: &'a dyn Marks) -> WithheldMarks<'a> {
        WithheldMarks { marks, withheld: &self.positions }
    }

    /// What was not accepted of the whole batch when the sink answered `unaccepted` to the rest.
    pub(crate) fn beside(&self, unaccepted: Vec<Unaccepted>) -> Vec<Unaccepted> {
        let mut all = unaccepted;
        all.extend_from_slice(&self.messages);
        all.sort_by_key(|unaccepted| unaccepted.index);
        all
    }
}

impl Marks for WithheldMarks<'_> {
    fn text(&self, message: &MessageRef<'_>) -> String {
        self.marks.text(message)
    }

    fn open(&self) -> &[Position] {
        self.marks.open()
    }

    fn withheld(&self) -> &[Position] {
        self.withheld
    }
}
