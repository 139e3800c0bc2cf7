//! `posthaste metrics reference`: what relays and workers tell machines, for people.

use clap::Subcommand;

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
        MetricsCommand::Reference => Ok(out.line(reference().trim_end())?),
    }
}

fn reference() -> String {
    posthaste_relay::telemetry::reference()
        + &posthaste_worker::telemetry::reference()
        + &posthaste_server::metrics_reference()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r38_page_in_the_documentation_is_the_one_that_is_printed() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/metrics.md");
        let stored = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            stored == reference(),
            "docs/reference/metrics.md is out of date; write it anew with: \
             cargo run -q -p posthaste-cli -- metrics reference > docs/reference/metrics.md"
        );
    }
}
