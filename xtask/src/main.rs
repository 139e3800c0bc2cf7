//! The workspace's own commands: `cargo xtask <verb>`.
//!
//! Each verb is one file and one line of [`VERBS`]. What a machine checks about the code itself,
//! layers and style, is in this crate's tests.

mod bench;
mod ci;
mod process;
mod programs;
mod requirements;
mod setup;
mod sources;
mod test;
mod test_summary;
mod torture;

use std::env;
use std::iter::once;
use std::process::ExitCode;

use process::Failure;

/// A verb: its name, what it does, and its entry.
type Verb = (&'static str, &'static str, fn(&[String]) -> Result<(), Failure>);

const VERBS: &[Verb] = &[
    ("setup", "install what tests and benches need", setup::run),
    ("test", "run all tests, or those whose names contain the given words", test::run),
    ("ci", "what continuous integration runs: format, lints, docs, style, tests", ci::run),
    (
        "requirements",
        "list every requirement with its tests; --json for machines",
        requirements::run,
    ),
    ("bench", "run the benchmarks; arguments are passed on", bench::run),
    (
        "torture",
        "kill, pause and cut off relays and workers, and count what that broke",
        torture::run,
    ),
];

/// A call that names no verb we have, as with most command-line programs.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    let Some((_, _, run)) = VERBS.iter().find(|(verb, ..)| *verb == name) else {
        eprintln!("{}", usage(&name));
        return ExitCode::from(USAGE);
    };
    match run(&rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("cargo xtask {name}: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn usage(name: &str) -> String {
    let complaint = match name {
        "" => "cargo xtask needs a verb:".to_owned(),
        name => format!("cargo xtask has no verb `{name}`; these are the verbs:"),
    };
    let verbs = VERBS.iter().map(|(verb, about, _)| format!("  {verb:<14}{about}"));
    once(complaint).chain(verbs).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::{VERBS, usage};

    #[test]
    fn an_unknown_verb_is_answered_with_all_verbs() {
        let text = usage("tset");
        assert!(text.contains("no verb `tset`"));
        assert!(VERBS.iter().all(|(verb, ..)| text.contains(verb)));
    }
}
