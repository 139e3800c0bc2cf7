//! `cargo xtask bench`: the benchmarks, built for release.

use crate::process::{Failure, command, run as run_command};

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let mut bench = command(&["cargo", "run", "--release", "-q", "-p", "posthaste-bench", "--"]);
    run_command(bench.args(arguments))
}
