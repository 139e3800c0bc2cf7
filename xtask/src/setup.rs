//! `cargo xtask setup`: everything that tests and benches need beside the Rust tool chain.
//!
//! Clients in other languages are not its business: the tests that use them install them below
//! `target/`. Does nothing where all is there already, so the other verbs can call it every time.

use std::error::Error;

use posthaste_testkit::install::{self, Tool};
use posthaste_testkit::{PgVersion, npm, python};

use crate::process::{Failure, root};

/// All at once, as the system's packages are asked for once.
const TOOLS: [Tool; 7] = [
    Tool::Postgres,
    Tool::Redis,
    Tool::Pgbouncer,
    Tool::Python,
    Tool::Node,
    Tool::Chromium,
    Tool::Wrk,
];
/// The versions beside the system's own that the store's contract is tested on.
const VERSIONS: [PgVersion; 2] = [PgVersion::V13, PgVersion::V18];
/// What calls the API in every way that its description allows, and in others.
const SCHEMATHESIS: &str = "tests/openapi/requirements.txt";
/// What watches the page of an example.
const BROWSER: &str = "examples/run-stream/tests/browser";

pub(crate) fn run(_arguments: &[String]) -> Result<(), Failure> {
    eprintln!("setup: servers (PostgreSQL, Redis, pgbouncer), Python, Node.js, Chromium, wrk");
    install::ensure(&TOOLS).map_err(failure)?;
    for version in VERSIONS {
        eprintln!("setup: PostgreSQL {version:?}");
        install::ensure_version(version).map_err(failure)?;
    }
    eprintln!("setup: schemathesis");
    python::environment(&root().join(SCHEMATHESIS)).map_err(failure)?;
    eprintln!("setup: what drives the browser");
    npm::packages(&root().join(BROWSER)).map_err(failure)?;
    Ok(())
}

fn failure(error: impl Error) -> Failure {
    match error.source() {
        Some(source) => Failure(format!("{error}: {source}")),
        None => Failure(error.to_string()),
    }
}
