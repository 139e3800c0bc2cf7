//! Redis Sentinel: who the primary is right now.
//!
//! Asked at every connect, as the client specification says
//! (<https://redis.io/docs/latest/develop/reference/sentinel-clients/>): the sentinels one after the
//! other until one knows, and then the server itself, because a sentinel may not have heard of a
//! failover yet. Nobody listens for failovers: a server that is demoted refuses writes, and one that
//! is gone closes its connections.

use std::time::Duration;

use redis::{ConnectionAddr, ConnectionInfo, RedisConnectionInfo};
use tokio::time::timeout;

use super::{RedisConnection, RedisServer, read_password};
use crate::{ConnectionError, ConnectionErrorKind};

/// The port of sentinels, unless given.
pub(super) const PORT: u16 = 26_379;

/// Where the sentinels are, and what they call the primary.
#[derive(Debug)]
pub(super) struct Sentinels {
    pub(super) hosts: Vec<(String, u16)>,
    pub(super) master: String,
    /// How to log in to them.
    pub(super) login: RedisConnectionInfo,
    pub(super) password_file: Option<std::path::PathBuf>,
}

impl RedisServer {
    /// Asks the sentinels for the primary's address.
    pub(super) async fn primary(
        &self,
        sentinels: &Sentinels,
    ) -> Result<(String, u16), ConnectionError> {
        let mut login = sentinels.login.clone();
        if let Some(path) = &sentinels.password_file {
            login = login.set_password(read_password("sentinel_password_file", path).await?);
        }
        // Each gets its share of the time, with one share left to connect to the primary.
        let limit = self.connect_timeout / (sentinels.hosts.len() as u32 + 1);
        let mut failed = None;
        for (host, port) in &sentinels.hosts {
            let info = self.info.clone().set_addr(self.at(host, *port));
            let info = info.set_redis_settings(login.clone());
            match self.ask(info, &sentinels.master, limit).await {
                Ok(Some(address)) => return Ok(address),
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| {
            let master = &sentinels.master;
            let doing = format!(
                "no sentinel knows a master named {master:?}; the host in url must be the name in \
                 their `sentinel monitor`"
            );
            ConnectionError::new(ConnectionErrorKind::Misconfigured, doing)
        }))
    }

    async fn ask(
        &self,
        info: ConnectionInfo,
        master: &str,
        limit: Duration,
    ) -> Result<Option<(String, u16)>, ConnectionError> {
        let address = info.addr().to_string();
        let work = async {
            let sentinel = self.connect(info).await?;
            let mut command = redis::cmd("SENTINEL");
            command.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
            let doing = "asking for the primary";
            let answer = sentinel.query(&command).await;
            let answer = answer.map_err(|error| sentinel.fault(doing, error))?;
            redis::from_redis_value(answer)
                .map_err(|_| sentinel.unexpected(doing, "no address in the answer"))
        };
        timeout(limit, work).await.unwrap_or_else(|_elapsed| {
            let doing = format!("the sentinel at {address} did not answer within {limit:?}");
            Err(ConnectionError::new(ConnectionErrorKind::Timeout, doing))
        })
    }

    /// `host:port`, with TLS as the URL says.
    pub(super) fn at(&self, host: &str, port: u16) -> ConnectionAddr {
        match self.info.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host: host.to_owned(),
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host.to_owned(), port),
        }
    }
}

impl RedisConnection {
    /// Refuses a server that is not the primary: a sentinel may not have heard of a failover yet. A
    /// server that keeps `ROLE` to itself says so at the first write.
    pub(super) async fn refuse_replica(&self) -> Result<(), ConnectionError> {
        let Ok(answer) = self.query(&redis::cmd("ROLE")).await else { return Ok(()) };
        let parts: Vec<redis::Value> = redis::from_redis_value(answer).unwrap_or_default();
        let role: Option<String> =
            parts.into_iter().next().and_then(|role| redis::from_redis_value(role).ok());
        match role {
            Some(role) if role != "master" => {
                let doing = format!(
                    "Redis at {} is the primary for its sentinels and a {role} for itself",
                    self.address
                );
                Err(ConnectionError::new(ConnectionErrorKind::Unavailable, doing))
            }
            _ => Ok(()),
        }
    }
}
