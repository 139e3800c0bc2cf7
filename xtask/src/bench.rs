//! `cargo xtask bench`: builds the benchmarks and the program that they measure for release, and
//! runs them.

use crate::process::{Failure, command, run as run_command};
use crate::programs::Programs;

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let programs = Programs::build(&["posthaste-cli", "posthaste-bench"], &["--release"])?;
    let mut bench = command(&[&programs.path("posthaste-bench")?.to_string_lossy()]);
    run_command(bench.arg("--posthaste").arg(programs.path("posthaste")?).args(arguments))
}
