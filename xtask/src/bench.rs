//! `cargo xtask bench`: builds the benchmarks and the program that they measure for release, and
//! runs them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use crate::process::{Failure, command, run as run_command, show};

/// Both in one call, so that they share what they depend on. Cargo says on standard output where
/// the programs are, whatever the target directory is.
const BUILD: [&str; 8] = [
    "cargo",
    "build",
    "--release",
    "--package",
    "posthaste-cli",
    "--package",
    "posthaste-bench",
    "--message-format=json-render-diagnostics",
];

pub(crate) fn run(arguments: &[String]) -> Result<(), Failure> {
    let programs = build()?;
    let program = |name: &str| {
        let missing = || Failure(format!("`{}` built no program `{name}`", BUILD.join(" ")));
        programs.get(name).ok_or_else(missing)
    };
    let mut bench = command(&[&program("posthaste-bench")?.to_string_lossy()]);
    run_command(bench.arg("--posthaste").arg(program("posthaste")?).args(arguments))
}

/// The built programs by name.
fn build() -> Result<HashMap<String, PathBuf>, Failure> {
    let mut build = command(&BUILD);
    let output = build.stderr(Stdio::inherit()).output();
    let output = output.map_err(Failure::io(format!("run `{}`", show(&build))))?;
    if !output.status.success() {
        return Err(Failure(format!("`{}` failed ({})", show(&build), output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(program).collect())
}

/// The program that a line of Cargo's output tells of, if it does.
fn program(line: &str) -> Option<(String, PathBuf)> {
    let message: Value = serde_json::from_str(line).ok()?;
    let path = message.get("executable")?.as_str()?;
    Some((message.pointer("/target/name")?.as_str()?.to_owned(), path.into()))
}

#[cfg(test)]
mod tests {
    use super::program;

    #[test]
    fn programs_are_found_in_cargos_output() {
        let line =
            r#"{"reason":"compiler-artifact","target":{"name":"posthaste"},"executable":"t/p"}"#;
        assert_eq!(program(line), Some(("posthaste".to_owned(), "t/p".into())));
        assert_eq!(program(r#"{"target":{"name":"core"},"executable":null}"#), None);
        assert_eq!(program("warning: something"), None);
    }
}
