//! Programs of the workspace, built for a verb that runs them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use crate::process::{Failure, command, show};

/// What one call of Cargo has built, by name.
pub(crate) struct Programs {
    paths: HashMap<String, PathBuf>,
    /// The call.
    shown: String,
}

impl Programs {
    /// Builds packages with Cargo's `options`, all in one call, so that they share what they depend
    /// on. Cargo says on standard output where the programs are, whatever the target directory is.
    pub(crate) fn build(packages: &[&str], options: &[&str]) -> Result<Self, Failure> {
        let mut build = command(&["cargo", "build", "--message-format=json-render-diagnostics"]);
        build.args(packages.iter().flat_map(|package| ["--package", package])).args(options);
        let shown = show(&build);
        let output = build.stderr(Stdio::inherit()).output();
        let output = output.map_err(Failure::io(format!("run `{shown}`")))?;
        if !output.status.success() {
            return Err(Failure(format!("`{shown}` failed ({})", output.status)));
        }
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Self { paths: lines.lines().filter_map(program).collect(), shown })
    }

    /// Where a program is.
    pub(crate) fn path(&self, name: &str) -> Result<&PathBuf, Failure> {
        let missing = || Failure(format!("`{}` built no program `{name}`", self.shown));
        self.paths.get(name).ok_or_else(missing)
    }
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
