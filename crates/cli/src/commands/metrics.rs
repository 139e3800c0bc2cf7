//! `posthaste metrics reference`: what the relay tells machines, for people.

use clap::Subcommand;
use posthaste_relay::telemetry;

use crate::{failure::Result, output::Output};

/// What to do with the metrics.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum MetricsCommand {
    /// Print the reference of all metrics
    Reference,
}

/// Runs it; neither the configuration nor a database is read.
pub(crate) fn run(command: MetricsCommand, out: &mut Output) -> Result {
    match command {
        MetricsCommand::Reference => Ok(out.line(telemetry::reference().trim_end())?),
    }
}
