//! The runner: a handler that answers the questions of a job.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use posthaste::{Receipt, contract::Contracts};
use posthaste_worker::{Answer, Done, Failed, Handler, Task};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{JobSpec, RECEIPTS, VERSION};

/// A question that a runner may be asked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Question {
    /// Its category, as machines write it.
    pub category: String,
    /// The question.
    #[serde(rename = "question")]
    pub text: String,
    /// What the runner says.
    pub answer: String,
}

/// The questions by their ids.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Catalogue(BTreeMap<String, Question>);

impl Catalogue {
    /// Those of `questions.toml`.
    pub fn built_in() -> Self {
        // A test reads the same text.
        toml::from_str(include_str!("../questions.toml")).unwrap_or(Self(BTreeMap::new()))
    }

    /// The question of this id.
    pub fn get(&self, id: &str) -> Option<&Question> {
        self.0.get(id)
    }
}

/// Answers the questions of jobs. Stands for a runner elsewhere; what it sends back keeps the contract of receipts, or the
/// job is dead with the reason.
#[derive(Clone, Debug)]
pub struct Runner {
    catalogue: Catalogue,
    contracts: Arc<Contracts>,
    is_older: bool,
}

impl Runner {
    /// A runner of these questions.
    pub fn new(catalogue: Catalogue, contracts: Arc<Contracts>) -> Self {
        Self { catalogue, contracts, is_older: false }
    }

    /// Has its receipts in the shape that older runners give them.
    #[must_use]
    pub fn older(mut self) -> Self {
        self.is_older = true;
        self
    }

    fn ask(&self, id: &str) -> Result<Value, Failed> {
        let Some(Question { text, answer, .. }) = self.catalogue.get(id) else {
            return Err(Failed::reject(format!("there is no question {id:?}")).class("question"));
        };
        Ok(json!({ "question_id": id, "question": text, "response": answer }))
    }
}

#[async_trait]
impl Handler for Runner {
    async fn run(&self, task: Task) -> Answer {
        // The worker has held it to its contract.
        let spec: JobSpec = serde_json::from_slice(&task.message().payload)?;
        let (regions, needed) = (&spec.constraints.regions, spec.constraints.min_regions);
        if regions.len() < needed {
            let reason = format!("it must run in {needed} regions and may in {}", regions.len());
            return Err(Failed::reject(reason).class("regions"));
        }
        let mut responses = Vec::with_capacity(spec.questions.len());
        for id in &spec.questions {
            responses.push(self.ask(id)?);
            task.progress(json!({ "answered": responses.len(), "of": spec.questions.len() }));
        }
        let mut data = json!({ "responses": responses });
        if self.is_older {
            data = json!({ "data": data });
        }
        let receipt = json!({ "jobspec_id": spec.jobspec_id, "regions": regions, "output": { "data": data } });
        let body = receipt.to_string().into_bytes();
        if let Err(breach) = self.contracts.check(RECEIPTS, Some(&VERSION.to_string()), &body) {
            return Err(Failed::reject(breach.to_string()).class("contract"));
        }
        Ok(Done { receipt: Some(Receipt { content_type: "application/json".to_owned(), body }) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_of_the_catalogue_is_whole() {
        let catalogue = Catalogue::built_in();
        assert_eq!(catalogue.0.len(), 4);
        let is_whole =
            |it: &Question| ![&it.category, &it.text, &it.answer].contains(&&String::new());
        assert!(catalogue.0.values().all(is_whole));
    }
}
