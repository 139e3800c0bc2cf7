//! The contracts that a relay knows: read when it starts, and again every few seconds, once for all
//! of its subscriptions. `screen` checks messages against them.

use std::sync::Arc;

use posthaste_core::{
    Backoff,
    contract::{Contract, Contracts},
};
use posthaste_store::{ContractSet, ContractsMark, Store, StoreError, StoredContract};
use tokio::{sync::watch, task::yield_now};

use crate::{
    drain::Draining, jitter::jitter, policy::describe, settings::RelaySettings,
    telemetry::meter::SourceMeter,
};

/// The contracts of a database as they were read last. Written by its task alone; the screens of all pipelines, and
/// workers, read.
#[derive(Debug, Default)]
pub struct Library {
    mark: ContractsMark,
    known: watch::Sender<Arc<Contracts>>,
    are_read: watch::Sender<Option<bool>>,
}

impl Library {
    /// The contracts, as they become known.
    pub fn known(&self) -> watch::Receiver<Arc<Contracts>> {
        self.known.subscribe()
    }

    /// Whether they were ever read, once that was tried: before, none of them is known, and nothing can be held to them.
    pub fn are_read(&self) -> watch::Receiver<Option<bool>> {
        self.are_read.subscribe()
    }

    /// Reads what was pushed or removed. One that does not compile here is named in the log and
    /// counts as unknown: messages that name it wait.
    ///
    /// # Errors
    /// The database did not answer: what was read last holds.
    pub async fn look(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let read = self.read(store).await;
        let were_read = *self.are_read.borrow() == Some(true);
        self.are_read.send_replace(Some(were_read || read.is_ok()));
        read
    }

    async fn read(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        if let Some(ContractSet { mark, contracts }) = store.contracts(&self.mark).await? {
            self.known.send_replace(Arc::new(compile(contracts).await));
            self.mark = mark;
        }
        Ok(())
    }

    /// Looks at intervals until the drain. While that fails, what was read last holds.
    pub(crate) async fn keep(
        mut self,
        store: &dyn Store,
        settings: &RelaySettings,
        meter: &SourceMeter,
        mut draining: Draining,
    ) {
        let backoff: Backoff = settings.retry.into();
        let (mut failures, mut pause) = (0, settings.contracts_interval);
        while !draining.sleep(pause).await {
            let looked = tokio::select! {
                biased;
                () = draining.begun() => return,
                looked = self.look(store) => looked,
            };
            pause = match looked {
                Ok(()) => {
                    failures = 0;
                    settings.contracts_interval
                }
                Err(error) => {
                    meter.failed(error.kind());
                    failures += 1;
                    if failures == 1 {
                        let source = store.describe();
                        tracing::warn!(source, "contracts stay as they are: {}", describe(&error));
                    }
                    backoff.delay(failures, jitter()).max(settings.contracts_interval)
                }
            };
        }
    }
}

async fn compile(stored: Vec<StoredContract>) -> Contracts {
    let mut compiled = Vec::with_capacity(stored.len());
    let mut unsound = Vec::new();
    for StoredContract { topic, version, schema, .. } in stored {
        // A schema takes some hundred microseconds, and there may be thousands.
        yield_now().await;
        let contract = serde_json::from_str(&schema)
            .map_err(|error| format!("contract {topic:?} version {version} is not JSON: {error}"))
            .and_then(|schema| {
                Contract::new(topic.as_str(), version, schema).map_err(|error| error.to_string())
            });
        match contract {
            Ok(contract) => compiled.push(contract),
            Err(fault) => {
                tracing::error!(
                    topic,
                    version,
                    "messages that name it wait until this relay can read it: {fault}"
                );
                unsound.push(topic);
            }
        }
    }
    // Topic and version are the table's key.
    let mut contracts = Contracts::new(compiled).unwrap_or_default();
    for topic in unsound {
        contracts.declare(topic);
    }
    contracts
}
