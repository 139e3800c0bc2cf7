//! `cargo xtask torture`: builds the torture, its workers and a relay with fail points, and runs it.
//!
//! `--release` builds both for release, which a long run is worth; defects are compiled in only
//! where one is asked for. All other arguments are passed on.

use crate::process::{Failure, command, run as run_command};
use crate::programs::Programs;

const RELEASE: &str = "--release";

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let passed_on: Vec<&String> = arguments.iter().filter(|it| *it != RELEASE).collect();
    let mut options = vec!["--features", features(arguments)];
    if passed_on.len() < arguments.len() {
        options.push(RELEASE);
    }
    let programs = Programs::build(&["posthaste-cli", "posthaste-torture"], &options)?;
    let mut torture = command(&[&programs.path("posthaste-torture")?.to_string_lossy()]);
    run_command(torture.arg("--posthaste").arg(programs.path("posthaste")?).args(passed_on))
}

fn features(arguments: &[String]) -> &'static str {
    if arguments.iter().any(|argument| argument.starts_with("--defect")) {
        "posthaste-cli/failpoints,posthaste-torture/failpoints,posthaste-cli/defects,posthaste-torture/defects"
    } else {
        "posthaste-cli/failpoints,posthaste-torture/failpoints"
    }
}

#[cfg(test)]
mod tests {
    use super::features;

    #[test]
    fn defects_are_compiled_in_only_where_one_is_asked_for() {
        let of = |argument: &str| features(&[argument.to_owned()]);
        assert_eq!(of("--kills"), "posthaste-cli/failpoints,posthaste-torture/failpoints");
        for argument in ["--defect", "--defect=stale-settle", "--defects"] {
            assert!(of(argument).ends_with("posthaste-cli/defects,posthaste-torture/defects"));
        }
    }
}
