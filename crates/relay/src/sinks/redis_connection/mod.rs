//! Connections to a Redis server for every sink on it: settings, login, TLS and what its errors
//! mean.
//!
//! Opening verifies the login with `PING`. Nothing here retries or reconnects (the pipeline does,
//! through `Target::connect`), and no password reaches an error or a log line.

mod classify;
mod preflight;
mod settings;
pub(crate) mod tls;

use std::path::Path;

use posthaste_store::defect;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, TlsCertificates, Value};
use tokio::{task, time::timeout};

use crate::sink::{SinkError, SinkErrorKind};

pub(super) use settings::{RedisServer, RedisSettings};
use tls::install_crypto;

/// An open connection that has answered a `PING`. Dropping it closes it.
pub(super) struct RedisConnection {
    inner: redis::aio::MultiplexedConnection,
    address: String,
}

impl RedisServer {
    /// Opens a connection within `connect_timeout`.
    pub(super) async fn open(&self) -> Result<RedisConnection, SinkError> {
        let address = self.address();
        let opened = timeout(self.connect_timeout, self.open_unbounded(address.clone())).await;
        opened.unwrap_or_else(|_elapsed| {
            let waited = self.connect_timeout;
            // A server without TLS waits for the end of what it takes for a command.
            let hint = if self.is_tls { "; rediss:// needs a port that speaks TLS" } else { "" };
            let doing = format!("Redis at {address} was not ready within {waited:?}{hint}");
            Err(SinkError::new(SinkErrorKind::Timeout, doing))
        })
    }

    async fn open_unbounded(&self, address: String) -> Result<RedisConnection, SinkError> {
        let doing = || format!("connecting to Redis at {address}");
        let client = self.client().await?;
        let limit = Some(self.operation_timeout).filter(|_| !defect::is("await-without-timeout"));
        // The library's own time-out for answers is 500 ms unless set.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(limit);
        let inner = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|error| classify::fault(&doing(), error))?;
        let connection = RedisConnection { inner, address: address.clone() };
        let ping = connection.query(&redis::cmd("PING")).await;
        ping.map_err(|error| classify::fault(&doing(), error))?;
        Ok(connection)
    }

    /// Reads the files of the settings, so that a changed password or authority is found.
    async fn client(&self) -> Result<Client, SinkError> {
        let mut info = self.info.clone();
        if let Some(path) = &self.password_file {
            let password = read_password(path).await?;
            let login = info.redis_settings().clone().set_password(password);
            info = info.set_redis_settings(login);
        }
        let doing = || format!("preparing a connection to Redis at {}", self.address());
        if !self.is_tls {
            return Client::open(info).map_err(|error| classify::fault(&doing(), error));
        }
        install_crypto();
        let ca_file = self.ca_file.clone();
        let roots = task::spawn_blocking(move || tls::roots(ca_file.as_deref())).await;
        let roots = roots
            .unwrap_or_else(|panicked| Err(panicked.into()))
            .map_err(|error| SinkError::caused(SinkErrorKind::Misconfigured, doing(), error))?;
        let certificates = TlsCertificates { client_tls: None, root_cert: Some(roots) };
        Client::build_with_tls(info, certificates).map_err(|error| classify::fault(&doing(), error))
    }
}

impl RedisConnection {
    /// Sends a command and waits for its answer, at most `operation_timeout`. An error answer is
    /// an error. Calls that are under way at once reach the server in the order of their first
    /// poll.
    ///
    /// # Cancel safety
    /// The server may still run the command when the future is dropped.
    pub(super) async fn query(&self, command: &Cmd) -> Result<Value, RedisError> {
        self.inner.clone().send_packed_command(command).await?.extract_error()
    }

    /// What an error of [`Self::query`] means for the sink.
    pub(super) fn fault(&self, doing: &str, error: RedisError) -> SinkError {
        classify::fault(&format!("{doing} on Redis at {}", self.address), error)
    }

    /// An answer that a command should never give.
    pub(super) fn unexpected(&self, doing: &str, what: &'static str) -> SinkError {
        self.fault(doing, RedisError::from((ErrorKind::UnexpectedReturnType, what)))
    }
}

async fn read_password(path: &Path) -> Result<String, SinkError> {
    let text = tokio::fs::read_to_string(path).await.map_err(|error| {
        let doing = format!("reading the Redis password from password_file {}", path.display());
        SinkError::caused(SinkErrorKind::Misconfigured, doing, error)
    })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
