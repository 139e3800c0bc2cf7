//! Whether an entity may begin in a state, or go from one to another.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::{Machine, Rule};

/// What a request for a step brings along, besides the states.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// Who asks.
    pub by: Option<&'a str>,
    /// What it says about the step.
    pub metadata: Option<&'a Map<String, Value>>,
}

/// Why an entity does not begin, or go on, as it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The machine has no such state.
    #[error("machine {machine} has no state \"{state}\"")]
    UnknownState {
        /// The machine.
        machine: String,
        /// What was asked for.
        state: String,
    },
    /// No entity begins there.
    #[error("machine {machine} does not begin in {state}; allowed: {}", listed(allowed))]
    NotInitial {
        /// The machine.
        machine: String,
        /// What was asked for.
        state: String,
        /// Where an entity may begin.
        allowed: Vec<String>,
    },
    /// The entity is not where the request expected it: somebody else was faster.
    #[error("the entity is in {found}, not in {expected}; allowed from there: {}", listed(allowed))]
    Moved {
        /// What the request expected.
        expected: String,
        /// Where the entity is.
        found: String,
        /// Where it may go.
        allowed: Vec<String>,
    },
    /// The one state does not follow the other.
    #[error("machine {machine} does not go from {from} to {to}; allowed: {}", listed(allowed))]
    Illegal {
        /// The machine.
        machine: String,
        /// Where the entity is.
        from: String,
        /// What was asked for.
        to: String,
        /// Where it may go.
        allowed: Vec<String>,
    },
    /// The step is not for everybody.
    #[error("the step from {from} to {to} is for {}", listed(allowed))]
    NotBy {
        /// Where the entity is.
        from: String,
        /// What was asked for.
        to: String,
        /// Who may take it.
        allowed: Vec<String>,
    },
    /// The metadata lacks a member, or has another value there.
    #[error("the step from {from} to {to} asks for {member} in its metadata")]
    Metadata {
        /// Where the entity is.
        from: String,
        /// What was asked for.
        to: String,
        /// The member, with the value that it must have if there is one: `approved = true`.
        member: String,
    },
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing".to_owned() } else { names.join(", ") }
}

impl Machine {
    /// Whether an entity may begin in `state`.
    ///
    /// # Errors
    /// The state is unknown, or none in which an entity begins.
    pub fn start(&self, state: &str) -> Result<(), Refusal> {
        self.must_have(state)?;
        if self.initial.contains(state) {
            return Ok(());
        }
        let allowed = self.initial.iter().cloned().collect();
        Err(Refusal::NotInitial { machine: self.name.clone(), state: state.to_owned(), allowed })
    }

    /// Whether an entity that is in `current` may go to `to`, for a request that expected it in
    /// `expected` if it says so. Answers what the step says.
    ///
    /// # Errors
    /// The first reason against it, in this order: the state is unknown, the entity has moved, the
    /// states do not follow each other, and what the step asks for.
    pub fn step(
        &self,
        current: &str,
        expected: Option<&str>,
        to: &str,
        request: &Request<'_>,
    ) -> Result<&Rule, Refusal> {
        self.must_have(to)?;
        if let Some(expected) = expected.filter(|expected| *expected != current) {
            let (expected, found) = (expected.to_owned(), current.to_owned());
            return Err(Refusal::Moved { expected, found, allowed: self.allowed(current) });
        }
        let Some(rule) = self.steps.get(current).and_then(|steps| steps.get(to)) else {
            let (machine, from) = (self.name.clone(), current.to_owned());
            let allowed = self.allowed(current);
            return Err(Refusal::Illegal { machine, from, to: to.to_owned(), allowed });
        };
        match rule.lacks(request) {
            None => Ok(rule),
            Some(Lack::By) => Err(Refusal::NotBy {
                from: current.to_owned(),
                to: to.to_owned(),
                allowed: rule.by.iter().cloned().collect(),
            }),
            Some(Lack::Member(member)) => {
                Err(Refusal::Metadata { from: current.to_owned(), to: to.to_owned(), member })
            }
        }
    }

    fn must_have(&self, state: &str) -> Result<(), Refusal> {
        if self.has(state) {
            return Ok(());
        }
        Err(Refusal::UnknownState { machine: self.name.clone(), state: state.to_owned() })
    }

    fn allowed(&self, from: &str) -> Vec<String> {
        self.steps(from).map(|(to, _)| to.to_owned()).collect()
    }
}

enum Lack {
    By,
    Member(String),
}

impl Rule {
    fn lacks(&self, request: &Request<'_>) -> Option<Lack> {
        if !self.by.is_empty() && !request.by.is_some_and(|by| self.by.contains(by)) {
            return Some(Lack::By);
        }
        let member = |name: &str| request.metadata.and_then(|metadata| metadata.get(name));
        let missing = self.requires.iter().find(|name| member(name).is_none_or(Value::is_null));
        if let Some(name) = missing {
            return Some(Lack::Member(name.clone()));
        }
        let differs =
            |(name, value): &(&String, &Value)| !member(name).is_some_and(|it| is_equal(it, value));
        let (name, value) = self.equals.iter().find(differs)?;
        Some(Lack::Member(format!("{name} = {value}")))
    }
}

/// As the database compares: numbers by their value, however they are written.
fn is_equal(found: &Value, wanted: &Value) -> bool {
    match (found.as_f64(), wanted.as_i64()) {
        (Some(found), Some(wanted)) => {
            found.partial_cmp(&(wanted as f64)).is_some_and(Ordering::is_eq)
        }
        _ => found == wanted,
    }
}
