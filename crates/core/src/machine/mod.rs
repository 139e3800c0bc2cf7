//! State machines of entities: which states there are, where an entity may begin, and which steps
//! follow which.
//!
//! A machine is written down once, as a [`Definition`] (a TOML file, or Rust), and checked into a
//! [`Machine`], whose JSON form is what the database keeps. The SQL function `transition` decides
//! from that form as [`Machine::step`] does; a test holds the two against each other.

mod definition;
mod graph;
mod step;
mod svg;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use definition::{Definition, EntityTable, InvalidMachine, OneOrMany, TransitionDefinition};
pub use graph::Finding;
pub use step::{Refusal, Request};

/// Most states of a machine.
pub const STATES_MAX: usize = 200;
/// Most steps of a machine, each pair of states counted once.
pub const STEPS_MAX: usize = 2_000;

/// A checked machine. Its JSON form, with each step by its two states, is what the database keeps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entity: Option<EntityTable>,
    /// In the order of the definition.
    states: Vec<String>,
    initial: BTreeSet<String>,
    terminal: BTreeSet<String>,
    /// What a step from the first state to the second asks for and does.
    steps: BTreeMap<String, BTreeMap<String, Rule>>,
}

/// What one step asks for, and what it says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Who may take it; anybody if empty.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub by: BTreeSet<String>,
    /// Members that the request's metadata must have, and not as null.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub requires: BTreeSet<String>,
    /// Members that the metadata must have with these values: strings, booleans or whole numbers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub equals: BTreeMap<String, Value>,
    /// Topics to which the step is written, as a message with the entity as its key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub messages: Vec<String>,
}

impl Machine {
    /// Its name: 1 to 64 lower-case letters, digits, `_` and `-`, beginning with a letter.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is for.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// The application's table that holds its entities, if it has one.
    pub const fn entity(&self) -> Option<&EntityTable> {
        self.entity.as_ref()
    }

    /// All states, in the order of the definition.
    pub fn states(&self) -> impl Iterator<Item = &str> {
        self.states.iter().map(String::as_str)
    }

    /// Where an entity may begin.
    pub fn initial(&self) -> impl Iterator<Item = &str> {
        self.initial.iter().map(String::as_str)
    }

    /// Whether nothing follows a state, on purpose.
    pub fn is_terminal(&self, state: &str) -> bool {
        self.terminal.contains(state)
    }

    /// The steps that lead on from a state, each with what it asks for.
    pub fn steps(&self, from: &str) -> impl Iterator<Item = (&str, &Rule)> {
        self.steps.get(from).into_iter().flatten().map(|(to, rule)| (to.as_str(), rule))
    }

    fn has(&self, state: &str) -> bool {
        self.states.iter().any(|known| known == state)
    }
}
