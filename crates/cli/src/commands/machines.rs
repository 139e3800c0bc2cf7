//! `posthaste machines check | graph | show | push`: state machines, from their TOML files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand, ValueEnum};
use posthaste_core::{
    Machine,
    machine::{Definition, Rule},
};
use serde_json::json;

use super::selection::ChangeArgs;
use crate::{
    config::Config,
    exit::Exit,
    failure::{Failure, Result},
    output::Output,
    store,
};

/// What to do with machines.
#[derive(Debug, Subcommand)]
pub(crate) enum MachinesCommand {
    #[command(flatten)]
    Files(FilesCommand),
    /// Write machines to the database, or replace their definitions there
    ///
    /// All of the files are checked before the first is written. Needs the owner of the schema and
    /// of the tables that the machines name.
    Push(PushArgs),
}

/// What needs the files alone.
#[derive(Debug, Subcommand)]
pub(crate) enum FilesCommand {
    /// Find what is wrong: mistakes, states that nothing leads to, and dead ends
    ///
    /// Fails on any of them, for continuous integration.
    Check {
        /// TOML files, one machine in each
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Draw a machine
    Graph {
        /// A TOML file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// In which language
        #[arg(long, value_enum, default_value_t = Format::Svg)]
        format: Format,
    },
    /// Show the states of a machine and what leads on from each
    Show {
        /// A TOML file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Which machines.
#[derive(Args, Debug)]
pub(crate) struct PushArgs {
    /// TOML files, one machine in each
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Format {
    /// A picture
    Svg,
    /// A state diagram for Markdown
    Mermaid,
}

/// Runs what needs no database.
pub(crate) fn run(command: &FilesCommand, out: &mut Output) -> Result {
    match command {
        FilesCommand::Check { files } => check(files, out),
        FilesCommand::Graph { file, format } => {
            let machine = read(file)?;
            let (name, text) = match format {
                Format::Svg => ("svg", machine.svg()),
                Format::Mermaid => ("mermaid", machine.mermaid()),
            };
            Ok(out.raw(&json!({ "machine": machine.name(), name: text }), text.trim_end())?)
        }
        FilesCommand::Show { file } => show(&read(file)?, out),
    }
}

/// Writes machines to the database.
pub(crate) async fn push(args: &PushArgs, config: &Config, out: &mut Output) -> Result {
    let machines = args.files.iter().map(|file| read(file)).collect::<Result<Vec<_>>>()?;
    let store = store::open(config, store::Missing::Refuse).await?;
    store.check().await?;
    let (request, dry_run) = (args.change.request(), args.change.is_dry_run());
    for machine in &machines {
        store.push_machine(machine, &request).await?;
        let name = machine.name();
        let human =
            if dry_run { format!("{name} would be pushed.") } else { format!("{name} is pushed.") };
        out.result(&json!({ "machine": name, "dry_run": dry_run }), &human)?;
    }
    Ok(())
}

fn check(files: &[PathBuf], out: &mut Output) -> Result {
    let mut findings = 0;
    for file in files {
        let machine = read(file)?;
        let found: Vec<String> = machine.findings().iter().map(ToString::to_string).collect();
        let (name, states) = (machine.name(), machine.states().count());
        let human = if found.is_empty() {
            format!("{name}: {states} states, nothing found.")
        } else {
            found.iter().map(|finding| format!("{name}: {finding}")).collect::<Vec<_>>().join("\n")
        };
        out.result(&json!({ "machine": name, "states": states, "findings": found }), &human)?;
        findings += found.len();
    }
    match findings {
        0 => Ok(()),
        n => Err(Failure::new(
            Exit::Failed,
            format!(
                "{n} findings: add the missing steps, list states that are meant to end under `terminal`, or remove them"
            ),
        )),
    }
}

fn show(machine: &Machine, out: &mut Output) -> Result {
    if out.is_json() {
        return Ok(out.object(machine)?);
    }
    let mut rows = Vec::new();
    for state in machine.states() {
        let mut kind = Vec::new();
        kind.extend(machine.initial().any(|it| it == state).then_some("initial"));
        kind.extend(machine.is_terminal(state).then_some("terminal"));
        let (mut name, mut kind) = (state.to_owned(), kind.join(" "));
        let mut steps = machine.steps(state).peekable();
        if steps.peek().is_none() {
            rows.push(vec![name.clone(), kind.clone(), String::new(), String::new()]);
        }
        for (to, rule) in steps {
            let (name, kind) = (std::mem::take(&mut name), std::mem::take(&mut kind));
            rows.push(vec![name, kind, to.to_owned(), asks(rule)]);
        }
    }
    Ok(out.table(&["STATE", "", "LEADS TO", "ASKS FOR"], rows)?)
}

/// What a step asks for and does, in one cell.
fn asks(rule: &Rule) -> String {
    let list = |names: Vec<&str>| names.join(", ");
    let mut parts = Vec::new();
    if !rule.by.is_empty() {
        parts.push(format!("by {}", list(rule.by.iter().map(String::as_str).collect())));
    }
    parts.extend(rule.requires.iter().cloned());
    parts.extend(rule.equals.iter().map(|(name, value)| format!("{name} = {value}")));
    if !rule.messages.is_empty() {
        parts.push(format!("→ {}", rule.messages.join(", ")));
    }
    parts.join("; ")
}

fn read(file: &Path) -> Result<Machine> {
    let shown = file.display();
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::caused(Exit::Usage, format!("cannot read {shown}"), error))?;
    let definition: Definition = toml::from_str(&text)
        .map_err(|error| Failure::caused(Exit::Usage, format!("{shown} is no machine"), error))?;
    Machine::try_from(definition).map_err(|error| Failure::usage(format!("{shown}: {error}")))
}
