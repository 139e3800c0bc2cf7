//! What is wrong with a tree of contracts: all of it, each with its place.

use std::path::Path;

use posthaste_core::contract::{Compatibility, Contract, Difference, differences};
use serde_json::json;

use super::{
    known::Known,
    tree::{self, Entry, Fault, Sample, Tree},
};
use crate::{
    exit::Exit,
    failure::{Failure, Result},
    output::Output,
};

/// What was found.
pub(super) struct Report<'a> {
    tree: &'a Tree,
    contracts: Vec<Checked<'a>>,
}

/// A contract, and what is wrong with it.
struct Checked<'a> {
    topic: &'a str,
    version: u32,
    file: &'a Path,
    samples: usize,
    findings: Vec<String>,
}

impl<'a> Report<'a> {
    /// Checks every contract of `tree`: by itself, with its samples, with the version before it as
    /// `demand` asks, and with what is `known` elsewhere.
    pub(super) fn of(tree: &'a Tree, demand: Compatibility, known: Option<&Known>) -> Self {
        let mut contracts = Vec::new();
        let mut before: Option<Contract> = None;
        for ((topic, version), entry) in &tree.contracts {
            let mut findings = Vec::new();
            match Contract::new(topic, *version, entry.schema.clone()) {
                Err(error) => findings.push(error.to_string()),
                Ok(contract) => {
                    findings.extend(entry.samples.iter().filter_map(|it| sample(&contract, it)));
                    if let Some(before) = before.take().filter(|it| it.topic() == topic) {
                        findings.extend(incompatible(&before, &contract, demand));
                    }
                    for finding in known.map_or(Vec::new(), |it| it.findings(&contract, demand)) {
                        // The version before it is often the newest there.
                        if !findings.contains(&finding) {
                            findings.push(finding);
                        }
                    }
                    before = Some(contract);
                }
            }
            let Entry { file, samples, .. } = entry;
            let samples = samples.len();
            contracts.push(Checked { topic, version: *version, file, samples, findings });
        }
        Self { tree, contracts }
    }

    /// Whether nothing was found.
    pub(super) fn is_clean(&self) -> bool {
        self.count() == 0 && !self.contracts.is_empty()
    }

    /// Writes it down.
    ///
    /// # Errors
    /// Where something was found, and where there is no contract at all.
    pub(super) fn print(&self, out: &mut Output) -> Result {
        for Checked { topic, version, file, samples, findings } in &self.contracts {
            let name = format!("{topic} version {version}");
            let human = if findings.is_empty() {
                format!("{name}: {samples} samples, nothing found.")
            } else {
                findings.iter().map(|it| format!("{name}: {it}")).collect::<Vec<_>>().join("\n")
            };
            let result = json!({
                "topic": topic,
                "version": version,
                "file": file.display().to_string(),
                "samples": samples,
                "findings": findings,
            });
            out.result(&result, &human)?;
        }
        for Fault { file, what } in &self.tree.faults {
            let shown = file.display().to_string();
            out.result(&json!({ "file": shown, "findings": [what] }), &format!("{shown} {what}"))?;
        }
        match self.count() {
            0 if self.contracts.is_empty() => {
                let first = self.tree.root.join("TOPIC/v1.json");
                let message = format!("there is no contract; write one to {}", first.display());
                Err(Failure::usage(message))
            }
            0 => Ok(()),
            n => Err(Failure::new(
                Exit::Failed,
                format!(
                    "{n} findings: correct the files; a version that is meant to break its readers \
                     belongs under a topic of its own, or under --compatibility none"
                ),
            )),
        }
    }

    fn count(&self) -> usize {
        let of_contracts: usize = self.contracts.iter().map(|it| it.findings.len()).sum();
        of_contracts + self.tree.faults.len()
    }
}

/// What is wrong with a sample. Its content is not shown.
fn sample(contract: &Contract, Sample { file, is_valid }: &Sample) -> Option<String> {
    let shown = file.display();
    match (tree::read(file), is_valid) {
        (Err(what), _) => Some(format!("{shown} {what}")),
        (Ok(payload), true) => {
            let violation = contract.check(&payload).err()?;
            Some(format!("{shown} is not valid: {violation}"))
        }
        (Ok(payload), false) => contract
            .check(&payload)
            .ok()
            .map(|()| format!("{shown} is valid: name it so, or have the contract refuse it")),
    }
}

/// What keeps `new` from following `old`.
pub(super) fn incompatible(old: &Contract, new: &Contract, demand: Compatibility) -> Vec<String> {
    let unreadable = |written: &Contract, read: &Contract| {
        let (a, b) = (written.version(), read.version());
        differences(written, read).into_iter().map(move |it| unreadable(a, b, &it))
    };
    let mut all = Vec::new();
    if matches!(demand, Compatibility::Backward | Compatibility::Full) {
        all.extend(unreadable(old, new));
    }
    if matches!(demand, Compatibility::Forward | Compatibility::Full) {
        all.extend(unreadable(new, old));
    }
    all
}

/// A difference in a line.
pub(super) fn unreadable(written: u32, read: u32, difference: &Difference) -> String {
    format!("version {read} cannot read all that version {written} writes: {difference}")
}
