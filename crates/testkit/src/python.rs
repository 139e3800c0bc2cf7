//! Programs from `PyPI`, each set of them in a virtual environment of its own.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::account::Account;
use crate::cache;
use crate::error::{TestkitError, run};
use crate::install::{self, Tool};

/// The interpreter of a virtual environment that has what the file `requirements` pins, made on
/// first use and anew where a pin or the system's Python changes.
///
/// # Errors
///
/// Python is missing and may not be installed from here, or a package cannot be fetched.
pub fn environment(requirements: &Path) -> Result<PathBuf, TestkitError> {
    install::ensure(&[Tool::Python])?;
    let pins = fs::read_to_string(requirements)
        .map_err(TestkitError::io(format!("read {}", requirements.display())))?;
    let mut digest = DefaultHasher::new();
    pins.hash(&mut digest);
    run(Command::new("python3").arg("--version"))?.stdout.hash(&mut digest);
    let name = format!("python-{:016x}", digest.finish());
    let place = cache::entry(Account::current()?, &name, |draft| {
        run(Command::new("python3").args(["-m", "venv"]).arg(draft))?;
        let mut pip = Command::new(draft.join("bin/python"));
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
        ]);
        run(pip.arg(requirements)).map(drop)
    })?;
    // The scripts beside it name the draft in their first line; modules run from wherever it is.
    Ok(place.join("bin/python"))
}
