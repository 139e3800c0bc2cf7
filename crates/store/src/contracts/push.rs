//! What may be pushed, and what of it is new.

use std::collections::{HashMap, HashSet};

use posthaste_core::{Limits, Message};
use serde_json::Value;

use super::{CONTRACT_BYTES_MAX, CONTRACTS_BYTES_MAX, CONTRACTS_MAX, ContractText};
use crate::{Result, StoreError, StoreErrorKind};

/// Checks what can be known without the database.
pub(crate) fn check(contracts: &[ContractText]) -> Result<()> {
    let mut seen = HashSet::new();
    for contract in contracts {
        let ContractText { topic, version, schema } = contract;
        Limits::DEFAULT.check(&Message::new(topic.as_str())).map_err(|error| {
            StoreError::caused(StoreErrorKind::Invalid, format!("push a contract: {error}"), error)
        })?;
        if *version == 0 {
            return Err(refused(contract, "count versions from 1"));
        }
        if schema.len() > CONTRACT_BYTES_MAX {
            let fault = format!("its {} bytes are more than {CONTRACT_BYTES_MAX}", schema.len());
            return Err(refused(contract, &fault));
        }
        parse(contract)?;
        if !seen.insert((topic, version)) {
            return Err(refused(contract, "it is given twice"));
        }
    }
    Ok(())
}

/// What of a push is new beside what the database has.
pub(crate) struct News {
    /// For each contract of the push, whether it is new.
    pub(crate) is_new: Vec<bool>,
}

impl News {
    /// `stored` are the schemas that the database has of the pushed topics and versions; `count` and
    /// `bytes` are of all its contracts.
    pub(crate) fn of(
        pushed: &[ContractText],
        stored: Vec<(String, u32, String)>,
        count: usize,
        bytes: usize,
    ) -> Result<Self> {
        let stored: HashMap<(String, u32), String> =
            stored.into_iter().map(|(topic, version, schema)| ((topic, version), schema)).collect();
        let mut news = Self { is_new: Vec::with_capacity(pushed.len()) };
        for contract in pushed {
            let known = stored.get(&(contract.topic.clone(), contract.version));
            if known.is_some_and(|known| !is_same(known, &contract.schema)) {
                let fault = "it was pushed with another schema, and a contract never changes: \
                             give this one the next number";
                return Err(refused(contract, fault));
            }
            news.is_new.push(known.is_none());
        }
        let (more, more_bytes) = news
            .chosen(pushed)
            .fold((0, 0), |(count, bytes), it| (count + 1, bytes + it.schema.len()));
        if count + more > CONTRACTS_MAX || bytes + more_bytes > CONTRACTS_BYTES_MAX {
            let doing = format!(
                "push contracts: with {more} new ones the database would hold {} of {} bytes, and \
                 the most is {CONTRACTS_MAX} of {CONTRACTS_BYTES_MAX} bytes together; remove what \
                 no message names any more",
                count + more,
                bytes + more_bytes
            );
            return Err(StoreError::new(StoreErrorKind::Invalid, doing));
        }
        Ok(news)
    }

    /// The contracts that are new.
    pub(crate) fn chosen<'a>(
        &'a self,
        pushed: &'a [ContractText],
    ) -> impl Iterator<Item = &'a ContractText> {
        pushed.iter().zip(&self.is_new).filter(|(_, is_new)| **is_new).map(|(it, _)| it)
    }
}

/// Equal as JSON, whatever the white space and the order of members.
fn is_same(known: &str, pushed: &str) -> bool {
    let json = |text| serde_json::from_str::<Value>(text).ok();
    known == pushed || json(known).is_some_and(|known| json(pushed) == Some(known))
}

fn parse(contract: &ContractText) -> Result<Value> {
    serde_json::from_str(&contract.schema)
        .map_err(|error| refused(contract, &format!("its schema is not JSON ({error})")))
}

fn refused(contract: &ContractText, fault: &str) -> StoreError {
    let ContractText { topic, version, .. } = contract;
    let doing = format!("push contract {topic:?} version {version}: {fault}");
    StoreError::new(StoreErrorKind::Invalid, doing)
}
#[cfg(test)]
mod tests {
    use super::*;

    fn text(topic: &str, version: u32, schema: &str) -> ContractText {
        ContractText { topic: topic.to_owned(), version, schema: schema.to_owned() }
    }

    fn stored(schema: &str) -> Vec<(String, u32, String)> {
        vec![("t".to_owned(), 1, schema.to_owned())]
    }

    #[test]
    fn same_schema_is_equal_as_json_and_nothing_looser() {
        let known = r#"{"type":"object","required":["a","b"],"maxProperties":1}"#;
        for (pushed, is_same) in [
            (r#"{ "maxProperties": 1, "required": ["a", "b"], "type": "\u006fbject" }"#, true),
            (r#"{"type":"object","required":["b","a"],"maxProperties":1}"#, false),
            (r#"{"type":"object","required":["a","b"]}"#, false),
        ] {
            let news = News::of(&[text("t", 1, pushed)], stored(known), 1, known.len());
            assert_eq!(news.map(|news| news.is_new).ok(), is_same.then(|| vec![false]), "{pushed}");
        }
    }

    #[test]
    fn bounds_of_all_contracts_count_what_is_new_alone() {
        let pushed = [text("t", 1, "{}"), text("t", 2, "{}")];
        let of = |count, bytes| News::of(&pushed, stored("{}"), count, bytes);
        assert!(of(CONTRACTS_MAX - 1, CONTRACTS_BYTES_MAX - 2).is_ok());
        for (count, bytes) in [(CONTRACTS_MAX, 0), (1, CONTRACTS_BYTES_MAX - 1)] {
            let error = of(count, bytes).err().unwrap().to_string();
            assert!(error.contains("with 1 new ones") && error.contains("10000"), "{error}");
        }
    }
}
