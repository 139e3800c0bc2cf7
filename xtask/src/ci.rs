//! `cargo xtask ci`: the one command that continuous integration runs, cheapest check first.
//!
//! Stops at the first failure and says how to repeat it.

use std::process::Command;
use std::time::Instant;

use crate::process::{Failure, command, run as run_command, show};
use crate::{test, torture};

/// Formatting, layers and style need no build of the workspace; clippy and the docs share one.
const STYLE: [&[&str]; 3] = [
    &["cargo", "fmt", "--all", "--check"],
    &["cargo", "test", "--quiet", "--package", "xtask"],
    &["cargo", "clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"],
];

/// Of the relay and of workers: a few minutes each, the same schedule every time: a failure is one of the change.
const TORTURES: [&[&str]; 2] = [
    &["--kills", "60", "--minutes", "5", "--seed", "31"],
    &["--workers", "3", "--kills", "40", "--minutes", "4", "--seed", "31"],
];

pub(crate) fn run(_arguments: &[String]) -> Result<(), Failure> {
    let mut commands: Vec<Command> = STYLE.iter().map(|words| command(words)).collect();
    let mut doc = command(&["cargo", "doc", "--workspace", "--all-features", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    commands.push(doc);
    for mut command in commands {
        step(&show(&command), || run_command(&mut command))?;
    }
    step("cargo xtask test", || test::run(&[]))?;
    for words in TORTURES {
        let arguments: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        step(&format!("cargo xtask torture {}", words.join(" ")), || torture::run(&arguments))?;
    }
    Ok(())
}

/// Runs one step, with its time.
fn step(name: &str, run: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
    eprintln!("ci: {name}");
    let start = Instant::now();
    let outcome = run();
    let seconds = start.elapsed().as_secs_f32();
    match outcome {
        Ok(()) => eprintln!("ci: passed in {seconds:.1} s: {name}"),
        Err(Failure(reason)) => {
            return Err(Failure(format!(
                "{reason}\nfailed after {seconds:.1} s; repeat with: {name}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::step;
    use crate::process::Failure;

    #[test]
    fn a_failed_step_names_the_command_that_repeats_it() {
        let failure = step("cargo fmt --check", || Err(Failure("not formatted".into())));
        let message = failure.unwrap_err().0;
        assert!(message.starts_with("not formatted") && message.ends_with("cargo fmt --check"));
    }
}
