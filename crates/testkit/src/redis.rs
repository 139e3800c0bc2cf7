//! A private Redis server: its options and its life cycle.

use std::path::PathBuf;
use std::sync::LazyLock;

use uuid::Uuid;

use crate::account::Account;
use crate::error::TestkitError;
use crate::install::{self, Tool, on_path};
use crate::postgres::chain;
use crate::server::Server;
use crate::tls::{Tls, TlsFiles};

const GRACEFUL_STOP: &str = "TERM";
/// Logged after the append-only file has been read, when the port answers.
const READY: &str = "Ready to accept connections";

static SHARED: LazyLock<Redis> = LazyLock::new(|| {
    let mut redis = Redis::start();
    redis.server.is_shared = true;
    redis
});

/// How clients prove who they are.
#[derive(Debug, Clone)]
pub enum RedisAuth {
    /// Not at all.
    None,
    /// With the default user's password (`requirepass`).
    Password(String),
    /// As a user of the access control list; the default user is off.
    User {
        /// The user's name.
        name: String,
        /// The user's password.
        password: String,
        /// What it may do, as `ACL SETUSER` takes it: `~* &* +@all -config`.
        rules: String,
    },
}

/// What a private server is like.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// Further lines of `redis.conf`, as name and value; they override the testkit's.
    pub settings: Vec<(String, String)>,
    /// How clients prove who they are.
    pub auth: RedisAuth,
    /// With a certificate, the port takes TLS only.
    pub tls: Option<Tls>,
    /// Whether a killed server keeps every acknowledged write (`appendonly`, `appendfsync always`).
    pub append_only: bool,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self { settings: Vec::new(), auth: RedisAuth::None, tls: None, append_only: true }
    }
}

/// A running private server; dropping it removes it and its data.
#[derive(Debug)]
pub struct Redis {
    server: Server,
    options: RedisOptions,
}

// Every method panics with the cause where the server cannot do what it says.
#[allow(clippy::missing_panics_doc)]
impl Redis {
    /// The one server that the tests of this process share, each below a key prefix of its own.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    /// A private server that a test may kill, pause and restart.
    pub fn start() -> Self {
        Self::start_with(RedisOptions::default())
    }

    /// A private server with the given options.
    pub fn start_with(options: RedisOptions) -> Self {
        Self::try_start_with(options).unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// As [`Redis::start_with`], for callers that report the error themselves.
    pub fn try_start_with(options: RedisOptions) -> Result<Self, TestkitError> {
        install::ensure(&[Tool::Redis])?;
        let program = on_path("redis-server").unwrap_or_else(|| "redis-server".into());
        let server = Server::prepare("Redis", Account::current()?, |root| {
            vec![program.into(), root.join("redis.conf").into()]
        })?;
        let redis = Self { server, options };
        redis.server.launch(|port| redis.configure(port), &|_, log| log.contains(READY))?;
        Ok(redis)
    }

    /// A key prefix that no other test uses: `t:<uuid>:`.
    #[allow(clippy::unused_self)] // Reads as what it is: a part of this server's keys.
    pub fn prefix(&self) -> String {
        format!("t:{}:", Uuid::new_v4())
    }

    /// Where applications connect, with user and password where the server asks for them.
    pub fn url(&self) -> String {
        let scheme = if self.options.tls.is_some() { "rediss" } else { "redis" };
        let user = match &self.options.auth {
            RedisAuth::None => String::new(),
            RedisAuth::Password(password) => format!(":{password}@"),
            RedisAuth::User { name, password, .. } => format!("{name}:{password}@"),
        };
        format!("{scheme}://{user}127.0.0.1:{}/", self.port())
    }

    /// The TCP port on 127.0.0.1; it stays the same over restarts.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.server.root.clone()
    }

    /// The certificate of the authority behind the server's, for a server with TLS.
    pub fn ca_file(&self) -> PathBuf {
        TlsFiles::in_directory(&self.server.root).ca
    }

    /// The last lines of the server's log.
    pub fn log_tail(&self) -> String {
        self.server.log_tail()
    }

    /// Kills the server, and returns when it is gone.
    pub fn kill(&self) {
        self.ask("kill", "kill");
    }

    /// Shuts down gracefully.
    pub fn stop(&self) {
        self.ask("stop", &format!("stop {GRACEFUL_STOP}"));
    }

    /// Freezes the server: connections stay open, and nothing answers.
    pub fn pause(&self) {
        self.ask("pause", "pause");
    }

    /// Lets a frozen server go on.
    pub fn resume(&self) {
        self.ask("resume", "resume");
    }

    /// Starts again with the same port and data, and returns when connections are accepted.
    pub fn restart(&self) {
        self.server
            .restart(GRACEFUL_STOP, &|_, log| log.contains(READY))
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
    }

    fn configure(&self, port: u16) -> Result<(), TestkitError> {
        let Server { account, root, .. } = &self.server;
        let tls = self.options.tls.as_ref().map(|tls| tls.write(*account, root)).transpose()?;
        let mut lines = vec![
            "bind 127.0.0.1".to_owned(),
            format!("dir {}", root.display()),
            "daemonize no".to_owned(),
            "save \"\"".to_owned(),
            format!("appendonly {}", if self.options.append_only { "yes" } else { "no" }),
            "appendfsync always".to_owned(),
        ];
        lines.extend(listen(port, tls.as_ref()));
        lines.extend(access(&self.options.auth));
        lines.extend(self.options.settings.iter().map(|(name, value)| format!("{name} {value}")));
        account.write(&root.join("redis.conf"), &(lines.join("\n") + "\n"))
    }

    fn ask(&self, verb: &str, command: &str) {
        self.server.ask(verb, command).unwrap_or_else(|error| panic!("{}", chain(&error)));
    }
}

fn listen(port: u16, tls: Option<&TlsFiles>) -> Vec<String> {
    let Some(files) = tls else { return vec![format!("port {port}")] };
    vec![
        "port 0".to_owned(),
        format!("tls-port {port}"),
        "tls-auth-clients no".to_owned(),
        format!("tls-ca-cert-file {}", files.ca.display()),
        format!("tls-cert-file {}", files.certificate.display()),
        format!("tls-key-file {}", files.key.display()),
    ]
}

fn access(auth: &RedisAuth) -> Vec<String> {
    match auth {
        RedisAuth::None => Vec::new(),
        RedisAuth::Password(password) => vec![format!("requirepass {password}")],
        RedisAuth::User { name, password, rules } => {
            vec!["user default off".to_owned(), format!("user {name} on >{password} {rules}")]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{RedisAuth, access, listen};

    #[test]
    fn a_named_user_turns_the_default_user_off() {
        let (name, password) = ("relay".to_owned(), "secret".to_owned());
        let lines = access(&RedisAuth::User { name, password, rules: "~* +@all".into() });
        assert_eq!(lines, ["user default off", "user relay on >secret ~* +@all"]);
    }

    #[test]
    fn without_tls_the_port_is_plain() {
        assert_eq!(listen(7000, None), ["port 7000"]);
    }
}
