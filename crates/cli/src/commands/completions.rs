//! `posthaste completions SHELL`: a completion script on stdout.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{cli::Cli, failure::Result, output::Output};

/// Which shell.
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// Shell to print the script for
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(args: &CompletionsArgs, out: &mut Output) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "posthaste", &mut script);
    Ok(out.line(String::from_utf8_lossy(&script).trim_end())?)
}
