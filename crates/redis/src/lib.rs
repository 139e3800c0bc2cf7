//! Connections to a Redis server, for every sink that writes there and every source that reads:
//! settings, login, TLS and what its errors mean.
//!
//! Opening finds the server that takes writes, through sentinels or among the nodes of a cluster, and
//! verifies the login with `PING`. Nothing here retries or reconnects (the relay's pipeline and the
//! worker's sources do), and no password reaches an error or a log line.

mod classify;
mod cluster;
mod error;
mod preflight;
mod sentinel;
mod settings;
pub mod tls;

use std::{path::Path, time::Duration};

use posthaste_store::defect;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError,
    TlsCertificates, Value,
};
use tokio::{task, time::timeout};

use tls::install_crypto;

pub use self::{
    cluster::hash_tag,
    error::{ConnectionError, ConnectionErrorKind, InvalidSettings},
    settings::{RedisServer, RedisSettings},
};

/// An open connection that has answered a `PING`. Dropping it closes it.
pub struct RedisConnection {
    inner: redis::aio::MultiplexedConnection,
    address: String,
    is_in_cluster: bool,
    operation_timeout: Duration,
}

impl RedisServer {
    /// Opens a connection to the server that takes writes of `name`, within `connect_timeout`.
    ///
    /// # Errors
    /// The server could not be reached, or refused the login.
    pub async fn open(&self, name: &str) -> Result<RedisConnection, ConnectionError> {
        let opened = timeout(self.connect_timeout, self.open_unbounded(name)).await;
        opened.unwrap_or_else(|_elapsed| {
            let (address, waited) = (self.address(), self.connect_timeout);
            // A server without TLS waits for the end of what it takes for a command.
            let hint = if self.is_tls { "; rediss:// needs a port that speaks TLS" } else { "" };
            let doing = format!("Redis at {address} was not ready within {waited:?}{hint}");
            Err(ConnectionError::new(ConnectionErrorKind::Timeout, doing))
        })
    }

    async fn open_unbounded(&self, name: &str) -> Result<RedisConnection, ConnectionError> {
        let info = self.login().await?;
        if let Some(sentinels) = &self.sentinels {
            let (host, port) = self.primary(sentinels).await?;
            let connection = self.connect(info.set_addr(self.at(&host, port))).await?;
            connection.refuse_replica().await?;
            return Ok(connection);
        }
        let first = self.connect(info.clone()).await?;
        if !first.is_node().await {
            return Ok(first);
        }
        let (host, port) = first.node_of(name).await?;
        let own = match self.info.addr() {
            ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host.clone(),
            _ => String::new(),
        };
        let node = self.at(&host.unwrap_or(own), port);
        let connection = if node == *self.info.addr() {
            first
        } else {
            self.connect(info.set_addr(node)).await?
        };
        Ok(RedisConnection { is_in_cluster: true, ..connection })
    }

    /// Opens a connection that has answered a `PING`.
    async fn connect(&self, info: ConnectionInfo) -> Result<RedisConnection, ConnectionError> {
        let address = info.addr().to_string();
        let doing = || format!("connecting to Redis at {address}");
        let client = self.client(info).await?;
        let limit = Some(self.operation_timeout).filter(|_| !defect::is("await-without-timeout"));
        // The library's own time-out for answers is 500 ms unless set.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(limit);
        let inner = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| classify::fault(&doing(), error))?;
        let connection = RedisConnection {
            inner,
            address: address.clone(),
            is_in_cluster: false,
            operation_timeout: self.operation_timeout,
        };
        let ping = connection.query(&redis::cmd("PING")).await;
        ping.map_err(|error| classify::fault(&doing(), error))?;
        Ok(connection)
    }

    /// Address and login, with the password as it stands in its file now.
    async fn login(&self) -> Result<ConnectionInfo, ConnectionError> {
        let info = self.info.clone();
        let Some(path) = &self.password_file else { return Ok(info) };
        let password = read_password("password_file", path).await?;
        let login = info.redis_settings().clone().set_password(password);
        Ok(info.set_redis_settings(login))
    }

    /// Reads the authorities anew, so that a changed file is found.
    async fn client(&self, info: ConnectionInfo) -> Result<Client, ConnectionError> {
        let doing = || format!("preparing a connection to Redis at {}", self.address());
        if !self.is_tls {
            return Client::open(info).map_err(|error| classify::fault(&doing(), error));
        }
        install_crypto();
        let ca_file = self.ca_file.clone();
        let roots = task::spawn_blocking(move || tls::roots(ca_file.as_deref())).await;
        let roots = roots.unwrap_or_else(|panicked| Err(panicked.into())).map_err(|error| {
            ConnectionError::caused(ConnectionErrorKind::Misconfigured, doing(), error)
        })?;
        let certificates = TlsCertificates { client_tls: None, root_cert: Some(roots) };
        Client::build_with_tls(info, certificates).map_err(|error| classify::fault(&doing(), error))
    }
}

impl RedisConnection {
    /// Whether the server is a node of a cluster.
    pub const fn is_in_cluster(&self) -> bool {
        self.is_in_cluster
    }

    /// Sends a command and waits for its answer, at most `operation_timeout`. An error answer is
    /// an error. Calls that are under way at once reach the server in the order of their first
    /// poll.
    ///
    /// # Errors
    /// No answer in time, or an error answer.
    ///
    /// # Cancel safety
    /// The server may still run the command when the future is dropped.
    pub async fn query(&self, command: &Cmd) -> Result<Value, RedisError> {
        self.inner.clone().send_packed_command(command).await?.extract_error()
    }

    /// Sends a command with which the server itself waits for at most `wait`: the answer is waited for
    /// that much longer. Other commands of this connection come after it.
    ///
    /// # Errors
    /// As of [`Self::query`].
    ///
    /// # Cancel safety
    /// As of [`Self::query`].
    pub async fn query_waiting(&self, command: &Cmd, wait: Duration) -> Result<Value, RedisError> {
        let mut inner = self.inner.clone();
        inner.set_response_timeout(self.operation_timeout + wait);
        inner.send_packed_command(command).await?.extract_error()
    }

    /// What an error of [`Self::query`] means.
    pub fn fault(&self, doing: &str, error: RedisError) -> ConnectionError {
        classify::fault(&format!("{doing} on Redis at {}", self.address), error)
    }

    /// An answer that a command should never give.
    pub fn unexpected(&self, doing: &str, what: &'static str) -> ConnectionError {
        self.fault(doing, RedisError::from((ErrorKind::UnexpectedReturnType, what)))
    }
}

async fn read_password(setting: &str, path: &Path) -> Result<String, ConnectionError> {
    let text = tokio::fs::read_to_string(path).await.map_err(|error| {
        let doing = format!("reading the Redis password from {setting} {}", path.display());
        ConnectionError::caused(ConnectionErrorKind::Misconfigured, doing, error)
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
