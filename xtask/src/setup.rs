//! `cargo xtask setup`: everything that tests and benches need beside the Rust tool chain.
//!
//! Clients in other languages are not its business: the tests that use them install them below
//! `target/`. Does nothing where all is there already, so the other verbs can call it every time.

use std::error::Error;

use posthaste_testkit::PgVersion;
use posthaste_testkit::install::{self, Tool};

use crate::process::Failure;

/// The versions beside the system's own that the store's contract is tested on.
const VERSIONS: [PgVersion; 2] = [PgVersion::V13, PgVersion::V18];

pub(crate) fn run(_arguments: &[String]) -> Result<(), Failure> {
    eprintln!("setup: servers (PostgreSQL, Redis, pgbouncer), and wrk");
    let tools = [Tool::Postgres, Tool::Redis, Tool::Pgbouncer, Tool::Wrk];
    install::ensure(&tools).map_err(failure)?;
    for version in VERSIONS {
        eprintln!("setup: PostgreSQL {version:?}");
        install::ensure_version(version).map_err(failure)?;
    }
    Ok(())
}

fn failure(error: impl Error) -> Failure {
    match error.source() {
        Some(source) => Failure(format!("{error}: {source}")),
        None => Failure(error.to_string()),
    }
}
