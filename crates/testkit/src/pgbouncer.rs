//! A private pgbouncer in transaction mode, between applications and a private PostgreSQL: each
//! transaction may meet another session of the server.

use std::path::Path;

use crate::{
    account::Account,
    error::TestkitError,
    install::{self, Tool, on_path},
    postgres::chain,
    server::Server,
};

/// What it says once it takes connections.
const READY: &str = "process up";
/// Ends at once, and cuts connections off.
const STOP: &str = "INT";
/// So few that transactions of one client meet many sessions.
const SESSIONS_MAX: u32 = 20;

/// A running pooler; dropping it removes it.
#[derive(Debug)]
pub struct Pgbouncer {
    server: Server,
}

// Every method panics with the cause where the server cannot do what it says.
#[allow(clippy::missing_panics_doc)]
impl Pgbouncer {
    /// In front of the PostgreSQL on a port of 127.0.0.1 that trusts everybody.
    pub fn before(postgres_port: u16) -> Self {
        Self::try_before(postgres_port).unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// As [`Pgbouncer::before`], for callers that report the error themselves.
    pub fn try_before(postgres_port: u16) -> Result<Self, TestkitError> {
        install::ensure(&[Tool::Pgbouncer])?;
        // Debian keeps it beside the daemons.
        let program = on_path("pgbouncer").unwrap_or_else(|| "/usr/sbin/pgbouncer".into());
        // Like PostgreSQL, it does not run as root.
        let account = Account::for_postgres()?;
        let server = Server::prepare("pgbouncer", account, |root| {
            vec![program.into(), root.join("pgbouncer.ini").into()]
        })?;
        let configure = |port| configure(account, &server.root, port, postgres_port);
        server.launch(configure, &|_, log| log.contains(READY))?;
        Ok(Self { server })
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// The URL of the same database through the pooler.
    pub fn url(&self, url: &str, postgres_port: u16) -> String {
        url.replace(&format!(":{postgres_port}/"), &format!(":{}/", self.port()))
    }

    /// Ends it, and all connections with it.
    pub fn kill(&self) {
        self.server.ask("kill", "kill").unwrap_or_else(|error| panic!("{}", chain(&error)));
    }

    /// Starts again on the same port.
    pub fn restart(&self) {
        self.server
            .restart(STOP, &|_, log| log.contains(READY))
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
    }
}

fn configure(
    account: Account,
    root: &Path,
    port: u16,
    postgres_port: u16,
) -> Result<(), TestkitError> {
    // Whoever the server knows may come in, as whoever he says he is.
    account.write(&root.join("users"), "\"postgres\" \"\"\n")?;
    let text = format!(
        "[databases]\n\
         * = host=127.0.0.1 port={postgres_port} auth_user=postgres\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         pool_mode = transaction\n\
         auth_type = trust\n\
         auth_file = {users}\n\
         auth_query = select usename, '' from pg_catalog.pg_user where usename = $1\n\
         default_pool_size = {SESSIONS_MAX}\n\
         max_client_conn = 2000\n\
         server_idle_timeout = 5\n",
        users = root.join("users").display()
    );
    account.write(&root.join("pgbouncer.ini"), &text)
}
