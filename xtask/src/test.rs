//! `cargo xtask test [filters…]`: all tests of the workspace, then the store's contract on other
//! PostgreSQL versions, all of the store and the relay through a pooler, and many schedules of the
//! simulation.
//!
//! A run in which no test ran has failed: a misspelt filter or a lost test binary must not look
//! like success.

use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::process::{Command, Stdio};

use crate::process::{Failure, command, root, show};
use crate::setup;
use crate::test_summary::Summary;

/// Most tests wait for servers, so more of them than processors can run at once.
const THREADS: &str = "--test-threads=8";
/// Must agree with what `setup` fetches.
const OTHER_VERSIONS: [&str; 2] = ["13", "18"];
const CONFORMANCE: [&str; 8] =
    ["cargo", "test", "-p", "posthaste-store", "--all-features", "--test", "main", "conformance"];

const POOLED: [&str; 9] = [
    "cargo",
    "test",
    "-p",
    "posthaste-store",
    "-p",
    "posthaste-relay",
    "--all-features",
    "--test",
    "main",
];

/// Schedules of the simulation, beside those that every run of the workspace's tests tries.
const SIMULATED: &str = "10000";
const SIMULATION: [&str; 8] = [
    "cargo",
    "test",
    "-p",
    "posthaste-relay",
    "--all-features",
    "--test",
    "main",
    "simulation::relay",
];

/// One run of `cargo test`.
struct Run {
    title: String,
    command: Command,
}

pub(crate) fn run(filters: &[String]) -> Result<(), Failure> {
    setup::run(&[])?;
    let mut results = Vec::new();
    for Run { title, mut command } in runs(filters) {
        results.push((title, stream(&mut command)?));
    }
    conclude(&results)
}

fn runs(filters: &[String]) -> Vec<Run> {
    let mut all = command(&["cargo", "test", "--workspace", "--all-features", "--no-fail-fast"]);
    all.args(["--", THREADS]).args(filters);
    let mut runs = vec![Run { title: "workspace".into(), command: all }];
    // With filters, a person looks at particular tests; the other versions are for whole runs.
    if filters.is_empty() && root().join("crates/store/tests/main.rs").is_file() {
        runs.extend(OTHER_VERSIONS.map(|version| {
            let mut command = command(&CONFORMANCE);
            command.args(["--", THREADS]).env("POSTHASTE_TEST_PG", version);
            Run { title: format!("store on PostgreSQL {version}"), command }
        }));
        let mut pooled = command(&POOLED);
        pooled.args(["--", THREADS]).env("POSTHASTE_TEST_PGBOUNCER", "1");
        runs.push(Run { title: "store and relay through pgbouncer".into(), command: pooled });
        let mut simulated = command(&SIMULATION);
        simulated.args(["--", THREADS]).env("POSTHASTE_SIM_SEEDS", SIMULATED);
        runs.push(Run { title: format!("{SIMULATED} simulated schedules"), command: simulated });
    }
    runs
}

/// What came of a run: its counts, whether it succeeded, and the command that repeats it.
struct Outcome {
    summary: Summary,
    is_success: bool,
    repeat: String,
}

/// Runs `cargo test`, passing every line on as it comes.
fn stream(command: &mut Command) -> Result<Outcome, Failure> {
    let repeat = show(command);
    if io::stdout().is_terminal() {
        command.env("CARGO_TERM_COLOR", "always");
    }
    let unread = || Failure(format!("cannot read the output of `{repeat}`"));
    let mut child =
        command.stdout(Stdio::piped()).spawn().map_err(Failure::io(format!("run `{repeat}`")))?;
    let mut summary = Summary::default();
    let mut output = BufReader::new(child.stdout.take().ok_or_else(unread)?);
    let mut line = Vec::new();
    // Bytes, because a test may print what is no text.
    while output.read_until(b'\n', &mut line).map_err(|_| unread())? > 0 {
        io::stdout().write_all(&line).map_err(Failure::io("write to standard output"))?;
        summary.read(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    let is_success = child.wait().map_err(|_| unread())?.success();
    Ok(Outcome { summary, is_success, repeat })
}

fn conclude(results: &[(String, Outcome)]) -> Result<(), Failure> {
    let mut reasons = Vec::new();
    let mut counts = Vec::new();
    for (title, outcome) in results {
        counts.push(format!("{title}: {}", outcome.summary));
        if !outcome.is_success || outcome.summary.failed > 0 {
            reasons.push(format!("{title} failed; repeat with `{}`", outcome.repeat));
        } else if outcome.summary.ran() == 0 {
            reasons
                .push(format!("{title} ran no test; look at the filters of `{}`", outcome.repeat));
        }
    }
    println!("tests: {}", counts.join("; "));
    if reasons.is_empty() { Ok(()) } else { Err(Failure(reasons.join("\n"))) }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, conclude, runs};
    use crate::process::show;
    use crate::test_summary::Summary;

    fn outcome(passed: u64, failed: u64, is_success: bool) -> [(String, Outcome); 1] {
        let summary = Summary { passed, failed, ignored: 0 };
        [("workspace".into(), Outcome { summary, is_success, repeat: "cargo test".into() })]
    }

    #[test]
    fn a_run_with_passed_tests_only_succeeds() {
        assert!(conclude(&outcome(3, 0, true)).is_ok());
    }

    #[test]
    fn a_run_without_tests_fails() {
        let failure = conclude(&outcome(0, 0, true)).unwrap_err();
        assert!(failure.0.contains("ran no test"));
    }

    #[test]
    fn a_run_that_did_not_build_fails() {
        let failure = conclude(&outcome(0, 0, false)).unwrap_err();
        assert!(failure.0.contains("repeat with `cargo test`"));
    }

    #[test]
    fn filters_go_to_the_workspace_run_only() {
        let runs = runs(&["r12_".into()]);
        assert_eq!(runs.len(), 1);
        assert!(show(&runs[0].command).ends_with("-- --test-threads=8 r12_"));
    }
}
