//! A private `PostgreSQL` server: its options, its life cycle, and the databases tests get from it.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use crate::account::Account;
use crate::cluster;
use crate::database::Database;
use crate::disk::Disk;
use crate::error::TestkitError;
use crate::pgbouncer::Pgbouncer;
use crate::server::Server;
use crate::tls::{Tls, TlsFiles};

/// Chooses the version of [`Postgres::shared`] and of [`PostgresOptions::default`].
const VERSION_VARIABLE: &str = "POSTHASTE_TEST_PG";
/// Fast shutdown: rolls back what is open, and does not wait for clients to leave.
const FAST_SHUTDOWN: &str = "INT";

static SHARED: LazyLock<Postgres> = LazyLock::new(|| {
    let mut postgres = Postgres::start();
    postgres.server.is_shared = true;
    postgres
});

/// Set to have the tests' shared server met through a pooler.
const POOLER: &str = "POSTHASTE_TEST_PGBOUNCER";

/// What stands before the shared server, if it is to.
static SHARED_POOLER: LazyLock<Option<Pgbouncer>> =
    LazyLock::new(|| std::env::var_os(POOLER).is_some().then(|| Pgbouncer::before(SHARED.port())));

/// A version of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PgVersion {
    /// The system's newest: `/usr/lib/postgresql/*/bin`, or what is on the PATH.
    Debian,
    /// 13, the oldest supported, from npm.
    V13,
    /// 17, from npm.
    V17,
    /// 18, from npm.
    V18,
}

impl PgVersion {
    /// The version that the environment asks for with `POSTHASTE_TEST_PG`.
    ///
    /// # Panics
    ///
    /// When it asks for a version that is not known.
    pub fn from_environment() -> Self {
        let wanted = env::var(VERSION_VARIABLE).unwrap_or_default();
        Self::parse(&wanted).unwrap_or_else(|| {
            panic!(
                "{VERSION_VARIABLE}={wanted} is not known: use debian (the default), 13, 17 or 18"
            )
        })
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "debian" => Some(Self::Debian),
            "13" => Some(Self::V13),
            "17" => Some(Self::V17),
            "18" => Some(Self::V18),
            _ => None,
        }
    }

    /// Pinned, so that a test means the same tomorrow.
    pub(crate) fn npm_version(self) -> Option<&'static str> {
        match self {
            Self::Debian => None,
            Self::V13 => Some("13.23.0-beta.16"),
            Self::V17 => Some("17.10.0-beta.17"),
            Self::V18 => Some("18.4.0-beta.17"),
        }
    }
}

/// How clients prove who they are over TCP.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Not at all.
    Trust,
    /// The superuser `postgres` has this password.
    Scram(String),
}

/// What a private server is like.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// The version of the server.
    pub version: PgVersion,
    /// Further settings by name, unquoted; they override the testkit's.
    pub settings: Vec<(String, String)>,
    /// How clients prove who they are.
    pub auth: Auth,
    /// With a certificate, TCP connections must use TLS.
    pub tls: Option<Tls>,
    /// Whether `fsync` is on. A killed server keeps its data either way; only a benchmark tells the
    /// difference.
    pub durable: bool,
    /// The disk that the server runs on, for a test that fills it.
    pub disk: Option<Arc<Disk>>,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            version: PgVersion::from_environment(),
            settings: Vec::new(),
            auth: Auth::Trust,
            tls: None,
            durable: false,
            disk: None,
        }
    }
}

/// A running private server; dropping it removes it and its data.
#[derive(Debug)]
pub struct Postgres {
    pub(crate) server: Server,
    pub(crate) bin: PathBuf,
    options: PostgresOptions,
}

// Every method panics with the cause where the server cannot do what it says.
#[allow(clippy::missing_panics_doc)]
impl Postgres {
    /// The one server that the tests of this process share, each with databases of its own.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    /// A private server that a test may kill, pause and restart.
    pub fn start() -> Self {
        Self::start_with(PostgresOptions::default())
    }

    /// A private server that syncs to disk, for benchmarks.
    pub fn start_durable() -> Self {
        Self::start_with(PostgresOptions { durable: true, ..PostgresOptions::default() })
    }

    /// A private server with the given options.
    pub fn start_with(options: PostgresOptions) -> Self {
        Self::try_start_with(options).unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// As [`Postgres::start_with`], for callers that report the error themselves.
    pub fn try_start_with(options: PostgresOptions) -> Result<Self, TestkitError> {
        let postgres = Self::prepare(options)?;
        let server = &postgres.server;
        cluster::initialise(server.account, &postgres.bin, &server.root, &postgres.options.auth)?;
        postgres.launch()
    }

    /// A hot standby that follows `primary`, and takes reads only.
    pub fn standby_of(primary: &Self) -> Self {
        let start = || {
            let standby = Self::prepare(primary.options.clone())?;
            let server = &standby.server;
            let (root, port) = (&primary.server.root, primary.port());
            cluster::copy_for_standby(server.account, &standby.bin, &server.root, root, port)?;
            standby.launch()
        };
        start().unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// Where applications connect, as the superuser; with the password where the server asks for
    /// one.
    pub fn url(&self, database: &str) -> String {
        let user = match &self.options.auth {
            Auth::Trust => "postgres".to_owned(),
            Auth::Scram(password) => format!("postgres:{password}"),
        };
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port())
    }

    /// The TCP port on 127.0.0.1; it stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The process id of the postmaster.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.server.root.join("data")
    }

    /// The certificate of the authority behind the server's, for a server with TLS.
    pub fn ca_file(&self) -> PathBuf {
        TlsFiles::in_directory(&self.server.root).ca
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        self.server.log()
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        self.server.log_tail()
    }

    /// Kills the postmaster and all backends at one instant, and returns when they are gone.
    pub fn kill(&self) {
        self.ask("kill", "kill");
    }

    /// Shuts down fast: open transactions are rolled back, clients are told.
    pub fn stop(&self) {
        self.ask("stop", &format!("stop {FAST_SHUTDOWN}"));
    }

    /// Freezes all processes: connections stay open, and nothing answers.
    pub fn pause(&self) {
        self.ask("pause", "pause");
    }

    /// Lets frozen processes go on.
    pub fn resume(&self) {
        self.ask("resume", "resume");
    }

    /// Starts again with the same port and data, and returns when connections are accepted.
    pub fn restart(&self) {
        self.server
            .restart(FAST_SHUTDOWN, &|pid, _| self.is_ready(pid))
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
    }

    /// A fresh, empty database; it goes away with the server. That of the shared server is met
    /// through pgbouncer where the environment has `POSTHASTE_TEST_PGBOUNCER`.
    pub async fn database(&self) -> Database {
        let pooler = if self.server.is_shared { SHARED_POOLER.as_ref() } else { None };
        let url = |name: &str| {
            let url = self.url(name);
            pooler.map_or_else(|| url.clone(), |pooler| pooler.url(&url, self.port()))
        };
        Database::create(self.server.root.clone(), self.port(), url).await
    }

    fn prepare(options: PostgresOptions) -> Result<Self, TestkitError> {
        let bin = cluster::programs(options.version)?;
        let server = Server::prepare("PostgreSQL", Account::for_postgres()?, |root| {
            let mut command = environment(options.disk.as_deref());
            command.extend([bin.join("postgres").into(), "-D".into(), root.join("data").into()]);
            command
        })?;
        Ok(Self { server, bin, options })
    }

    fn launch(self) -> Result<Self, TestkitError> {
        let Server { account, root, .. } = &self.server;
        let configure = |port| cluster::configure(*account, root, port, &self.options);
        self.server.launch(configure, &|pid, _| self.is_ready(pid))?;
        Ok(self)
    }

    /// `postmaster.pid` says so in its eighth line; its first tells whether it is a killed
    /// predecessor's. Format: `src/include/utils/pidfile.h` of the server's sources.
    fn is_ready(&self, pid: u32) -> bool {
        let file = std::fs::read_to_string(self.data_dir().join("postmaster.pid"));
        let file = file.unwrap_or_default();
        let mut lines = file.lines().map(str::trim);
        lines.next() == Some(&pid.to_string()) && lines.nth(6) == Some("ready")
    }

    fn ask(&self, verb: &str, command: &str) {
        self.server.ask(verb, command).unwrap_or_else(|error| panic!("{}", chain(&error)));
    }
}

/// The beginning of a command line that puts the server on a disk.
fn environment(disk: Option<&Disk>) -> Vec<OsString> {
    let Some(disk) = disk else { return Vec::new() };
    let assign = |(name, value): (&str, OsString)| {
        let mut word = OsString::from(format!("{name}="));
        word.push(value);
        word
    };
    let variables = disk.environment().map(assign);
    [OsString::from("env")].into_iter().chain(variables).collect()
}

/// The error with its causes, for a panic's message.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::PgVersion;

    #[test]
    fn versions_are_named_by_their_major_number() {
        assert_eq!(PgVersion::parse(""), Some(PgVersion::Debian));
        assert_eq!(PgVersion::parse("18"), Some(PgVersion::V18));
        assert_eq!(PgVersion::parse("12"), None);
    }
}
