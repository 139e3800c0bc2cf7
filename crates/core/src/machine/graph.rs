//! What a machine looks like as a graph: states that nothing leads to, states without a way out,
//! and pictures.

use std::{collections::BTreeSet, fmt::Write as _};

use super::Machine;

/// Something about a machine that is probably a mistake.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// No entity can come to be in this state.
    Unreachable(String),
    /// From this state no terminal state can be reached, and it is none: an entity stays there, or goes
    /// in circles.
    DeadEnd(String),
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(state) => {
                write!(f, "{state} is unreachable: no initial state leads to it")
            }
            Self::DeadEnd(state) => {
                write!(f, "{state} is a dead end: no terminal state can be reached from it")
            }
        }
    }
}

impl Machine {
    /// What is probably a mistake, in the order of the states. A machine without terminal states is
    /// meant to go in circles: of it, only states that nothing follows are dead ends.
    pub fn findings(&self) -> Vec<Finding> {
        let reached = closure(self.initial.iter().map(String::as_str), |state| {
            self.steps(state).map(|(to, _)| to).collect()
        });
        let ends = self.states().filter(|state| self.is_end(state));
        let with_way_out = closure(ends, |state| {
            let leads_here = |from: &&str| self.steps(from).any(|(to, _)| to == state);
            self.states().filter(leads_here).collect()
        });
        let mut findings = Vec::new();
        for state in self.states() {
            if !reached.contains(state) {
                findings.push(Finding::Unreachable(state.to_owned()));
            }
            if !with_way_out.contains(state) {
                findings.push(Finding::DeadEnd(state.to_owned()));
            }
        }
        findings
    }

    /// Whether a way that comes here is no dead end.
    fn is_end(&self, state: &str) -> bool {
        if self.terminal.is_empty() {
            return self.steps(state).next().is_some();
        }
        self.is_terminal(state)
    }

    /// A Mermaid state diagram (<https://mermaid.js.org/syntax/stateDiagram.html>).
    pub fn mermaid(&self) -> String {
        let mut text = String::from("stateDiagram-v2\n");
        // Names may hold what Mermaid reads as syntax, so states get ids of their own.
        let id = |state: &str| self.states.iter().position(|it| it == state).unwrap_or(0);
        for (index, state) in self.states().enumerate() {
            let _ = writeln!(text, "    state \"{state}\" as s{index}");
        }
        for state in &self.initial {
            let _ = writeln!(text, "    [*] --> s{}", id(state));
        }
        for from in self.states() {
            for (to, rule) in self.steps(from) {
                let label = label(rule);
                let colon = if label.is_empty() { "" } else { ": " };
                let _ = writeln!(text, "    s{} --> s{}{colon}{label}", id(from), id(to));
            }
        }
        for state in &self.terminal {
            let _ = writeln!(text, "    s{} --> [*]", id(state));
        }
        text
    }
}

/// All states that `next` leads to from `begin`, with `begin`.
fn closure<'a>(
    begin: impl Iterator<Item = &'a str>,
    next: impl Fn(&'a str) -> Vec<&'a str>,
) -> BTreeSet<&'a str> {
    let mut found: BTreeSet<&str> = begin.collect();
    let mut open: Vec<&str> = found.iter().copied().collect();
    while let Some(state) = open.pop() {
        for following in next(state) {
            if found.insert(following) {
                open.push(following);
            }
        }
    }
    found
}

/// Who may take a step, in letters that no diagram reads as syntax.
pub(super) fn label(rule: &super::Rule) -> String {
    let by: Vec<&str> = rule.by.iter().map(String::as_str).collect();
    by.join(", ")
        .chars()
        .map(|c| if c.is_alphanumeric() || " ,._-".contains(c) { c } else { '_' })
        .collect()
}
