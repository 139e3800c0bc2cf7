//! The binary `posthaste`, the only place where store, relay and sinks meet.
//!
//! Read on here: the command line (`cli`) names a command, `commands/` has one file for each, and
//! `exit` lists how the process can end. Configuration is read in `config/` and nowhere else;
//! results go through `output`, failures through `failure`, log lines through `logging`.

mod alerts;
mod cli;
mod commands;
mod config;
mod demo;
mod descriptors;
mod exit;
mod failure;
mod handover;
mod listener;
mod logging;
mod output;
mod panics;
mod parts;
mod progress;
mod run;
mod signals;
mod store;
mod traces;

use std::{io::Write as _, process::ExitCode};

use clap::Parser as _;

use crate::{cli::Cli, exit::Exit, failure::Failure};

fn main() -> ExitCode {
    panics::install();
    // The hook has printed what a user should see of a panic.
    std::panic::catch_unwind(run_to_exit).unwrap_or_else(|_panic| Exit::Failed.into())
}

fn run_to_exit() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let json = cli.global.json;
    match commands::run(cli) {
        Ok(()) => Exit::Ok.into(),
        Err(failure) if failure.is_broken_pipe() => Exit::Ok.into(),
        Err(failure) => {
            report(&failure, json);
            failure.exit().into()
        }
    }
}

/// Help and version too come as an `Err`; a wrong command line obeys `--json` if it says so.
fn refuse(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.to_string();
        let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
        let failure = Failure::usage(message);
        report(&failure, true);
        return failure.exit().into();
    }
    // A reader that went away is no fault.
    let _ = error.print();
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Ok.into() }
}

fn report(failure: &Failure, json: bool) {
    let text = if json { failure.json().to_string() } else { failure.human() };
    // Nothing is left to tell anybody when stderr is gone.
    let _ = writeln!(anstream::stderr(), "{text}");
}
