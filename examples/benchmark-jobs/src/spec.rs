//! What a job asks for, as the contract `jobs.submitted` has it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A benchmark job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Identifies the job everywhere.
    pub jobspec_id: String,
    /// Of the specification, as a name or a number.
    pub version: Value,
    /// What to run: its name, or what its runner understands.
    pub benchmark: Value,
    /// Where it may run.
    pub constraints: Constraints,
    /// Ids of the questions to ask, in order.
    pub questions: Vec<String>,
}

/// Where a job may run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Constraints {
    /// Where it may run.
    pub regions: Vec<String>,
    /// In how many of them it must have run, from 1.
    pub min_regions: usize,
}
