//! What a tree of contracts is compared with: another tree, or what was pushed. A version that is
//! known there must be the same here, and a new one must follow the newest there.

use std::{collections::BTreeMap, path::Path};

use posthaste_core::contract::{Compatibility, Contract};
use posthaste_store::{ContractsMark, Operations, StoredContract};
use serde_json::Value;

use super::{check::incompatible, tree::Tree};
use crate::{
    exit::Exit,
    failure::{Failure, Result},
};

/// The schemas of a place, by topic and version.
pub(super) struct Known {
    /// The place, for findings.
    place: String,
    topics: BTreeMap<String, BTreeMap<u32, Value>>,
}

impl Known {
    pub(super) fn in_files(root: &Path) -> Result<Self> {
        let tree = Tree::read(root)?;
        tree.refuse_faults()?;
        let mut known = Self { place: root.display().to_string(), topics: BTreeMap::new() };
        for ((topic, version), entry) in tree.contracts {
            known.topics.entry(topic).or_default().insert(version, entry.schema);
        }
        Ok(known)
    }

    pub(super) async fn in_database(store: &dyn Operations) -> Result<Self> {
        let mut known = Self { place: "the database".to_owned(), topics: BTreeMap::new() };
        for StoredContract { topic, version, schema, .. } in stored(store).await? {
            let schema = serde_json::from_str(&schema).map_err(|error| {
                let about = format!(
                    "contract {topic:?} version {version} of the database is not JSON; remove it \
                     with `posthaste contracts remove`"
                );
                Failure::caused(Exit::Failed, about, error)
            })?;
            known.topics.entry(topic).or_default().insert(version, schema);
        }
        Ok(known)
    }

    /// One contract of the database, compiled.
    pub(super) fn contract(&self, topic: &str, version: u32) -> Result<Contract> {
        let schema = self.topics.get(topic).and_then(|versions| versions.get(&version));
        let Some(schema) = schema else {
            return Err(missing(topic, Some(version)));
        };
        Contract::new(topic, version, schema.clone())
            .map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", self.place)))
    }

    /// What keeps `contract` from standing beside what is known.
    pub(super) fn findings(&self, contract: &Contract, demand: Compatibility) -> Vec<String> {
        let (version, place) = (contract.version(), &self.place);
        let Some(versions) = self.topics.get(contract.topic()) else { return Vec::new() };
        if let Some(schema) = versions.get(&version) {
            let is_same = schema == contract.schema();
            let what = || {
                format!(
                    "its schema is not that of version {version} in {place}, and a contract never \
                     changes: restore it, and give this one the next number"
                )
            };
            return if is_same { Vec::new() } else { vec![what()] };
        }
        let Some((newest, schema)) = versions.last_key_value() else { return Vec::new() };
        if *newest > version {
            let next = newest.saturating_add(1);
            let what = format!("it is new, and {place} has version {newest}: number it {next}");
            return vec![what];
        }
        match Contract::new(contract.topic(), *newest, schema.clone()) {
            Ok(newest) => incompatible(&newest, contract, demand),
            Err(error) => vec![format!("cannot be compared with {place}: {error}")],
        }
    }
}

/// All that was pushed, by topic, versions ascending.
pub(super) async fn stored(store: &dyn Operations) -> Result<Vec<StoredContract>> {
    let set = store.contracts(&ContractsMark::default()).await?;
    Ok(set.map(|set| set.contracts).unwrap_or_default())
}

/// The database has no such contract.
pub(super) fn missing(topic: &str, version: Option<u32>) -> Failure {
    let version = version.map_or(String::new(), |version| format!(" version {version}"));
    Failure::usage(format!(
        "there is no contract {topic:?}{version} in the database; `posthaste contracts list` names \
         those that are"
    ))
}
