//! Connections: the URL, a bounded pool, and the time-out around every wait.
//!
//! A connection goes back to the pool only after a complete answer; after an error, a time-out or
//! a dropped future it is closed, so that no statement ever runs behind a forgotten one. The server
//! may hear nothing of that where the network is cut: it ends a transaction of ours that waits for
//! its next statement for longer than the operation time-out, with its locks.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use futures_util::future::poll_fn;
use secrecy::ExposeSecret;
use tokio::{task::AbortHandle, time::timeout};
use tokio_postgres::{AsyncMessage, Client, Config, IsolationLevel, Transaction, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;
use url::Url;

use super::{
    PostgresOptions, errors,
    tls::{self, Verify},
};
use crate::{Result, StoreError, StoreErrorKind};

/// Longest wait for a new connection, login included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A bounded pool of connections to one database.
pub(super) struct Connections {
    pool: managed::Pool<Connector>,
    operation_timeout: Duration,
    description: String,
}

/// A connection on loan. Unless [`Loan::give_back`] is called, it is closed.
pub(super) struct Loan {
    object: Option<managed::Object<Connector>>,
    operation_timeout: Duration,
}

/// One connection and what its server warned of.
pub(super) struct Connection {
    client: Client,
    task: AbortHandle,
    /// Counted by the connection's task, read by whoever holds the loan.
    warnings: Arc<AtomicU64>,
}

struct Connector {
    config: Config,
    tls: MakeRustlsConnect,
}

impl Connections {
    pub(super) fn new(url: &str, options: &PostgresOptions) -> Result<Self> {
        let target = Target::parse(url, options)?;
        let description = target.describe();
        let connector = target.connector()?;
        let pool = managed::Pool::builder(connector)
            .max_size(options.connections_max.max(2))
            .build()
            .map_err(|e| {
                StoreError::caused(StoreErrorKind::Invalid, "set up the connection pool", e)
            })?;
        Ok(Self { pool, operation_timeout: options.operation_timeout, description })
    }

    /// `postgres://host:port/database`, without user and secrets.
    pub(super) fn describe(&self) -> &str {
        &self.description
    }

    /// A connection outside the pool, set up like those in it.
    pub(super) async fn detached(&self) -> Result<Client> {
        use managed::Manager as _;
        Ok(self.pool.manager().create().await?.client)
    }

    /// Lends a connection, within the operation time-out.
    pub(super) async fn lend(&self) -> Result<Loan> {
        let doing = || format!("connect to {}", self.description);
        match timeout(self.operation_timeout, Box::pin(self.pool.get())).await {
            Err(_elapsed) => Err(StoreError::new(StoreErrorKind::Timeout, doing())),
            Ok(Ok(object)) => {
                Ok(Loan { object: Some(object), operation_timeout: self.operation_timeout })
            }
            Ok(Err(managed::PoolError::Backend(error))) => Err(error.while_doing(&doing())),
            Ok(Err(error)) => {
                Err(StoreError::caused(StoreErrorKind::Unavailable, doing(), error.to_string()))
            }
        }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("to", &self.description).finish_non_exhaustive()
    }
}

impl Loan {
    /// The client, for building a statement's future.
    pub(super) fn client(&self) -> &Client {
        &self.connection().client
    }

    /// Begins a transaction at READ COMMITTED, which the server ends when it waits for a statement
    /// of it for longer than the operation time-out.
    pub(super) async fn begin(&mut self) -> Result<Transaction<'_>, tokio_postgres::Error> {
        self.begin_with("").await
    }

    /// The same; its commit is on disk when it is answered, whatever is set for the session.
    pub(super) async fn begin_durably(&mut self) -> Result<Transaction<'_>, tokio_postgres::Error> {
        self.begin_with("; set local synchronous_commit = on").await
    }

    /// The same, for statements that are not the store's: none waits for a lock for longer than the operation time-out,
    /// also where nobody waits for its answer any more.
    pub(super) async fn begin_as_application(
        &mut self,
    ) -> Result<Transaction<'_>, tokio_postgres::Error> {
        let millis = self.operation_timeout.as_millis().min(i32::MAX.cast_unsigned().into());
        let more =
            format!("; set local synchronous_commit = on; set local lock_timeout = {millis}");
        self.begin_with(&more).await
    }

    /// The same; none of its statements waits longer than two seconds for what another transaction holds. A client that
    /// gives up is not noticed while its statement waits.
    pub(super) async fn begin_impatiently(
        &mut self,
    ) -> Result<Transaction<'_>, tokio_postgres::Error> {
        self.begin_with("; set local lock_timeout = '2s'").await
    }

    async fn begin_with(&mut self, more: &str) -> Result<Transaction<'_>, tokio_postgres::Error> {
        let settings = format!("{}{more}", self.idle_limit());
        let object = self.object.as_mut().expect("lent until dropped");
        let begin = object.client.build_transaction();
        let transaction = begin.isolation_level(IsolationLevel::ReadCommitted).start().await?;
        transaction.batch_execute(&settings).await?;
        Ok(transaction)
    }

    /// The statement that has the server end a transaction that waits for its next one for longer
    /// than the operation time-out.
    pub(super) fn idle_limit(&self) -> String {
        let millis = self.operation_timeout.as_millis().min(i32::MAX.cast_unsigned().into());
        format!("set local idle_in_transaction_session_timeout = {millis}")
    }

    /// Warnings that the server has sent on this connection so far.
    pub(super) fn warnings(&self) -> u64 {
        self.connection().warnings.load(Ordering::Acquire)
    }

    /// Waits for `future`, at most for the operation time-out.
    pub(super) async fn bounded<T>(
        &self,
        doing: &str,
        future: impl Future<Output = Result<T, tokio_postgres::Error>> + Send,
    ) -> Result<T> {
        bounded(self.operation_timeout, doing, future).await
    }

    /// The time-out that holds for statements on this connection.
    pub(super) fn operation_timeout(&self) -> Duration {
        self.operation_timeout
    }

    /// Returns the connection to the pool; call it after a complete answer.
    pub(super) fn give_back(mut self) {
        drop(self.object.take());
    }

    fn connection(&self) -> &Connection {
        self.object.as_ref().expect("lent until dropped")
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            // By itself it would wait for the answers that are missing, with its socket open.
            managed::Object::take(object).task.abort();
        }
    }
}

/// Waits for `future` at most for `limit`.
pub(super) async fn bounded<T>(
    limit: Duration,
    doing: &str,
    future: impl Future<Output = Result<T, tokio_postgres::Error>> + Send,
) -> Result<T> {
    match timeout(limit, future).await {
        Ok(answer) => answer.map_err(|error| errors::classify(doing, error)),
        Err(_elapsed) => {
            let doing = format!("{doing}: no answer within {limit:?}");
            Err(StoreError::new(StoreErrorKind::Timeout, doing))
        }
    }
}

impl managed::Manager for Connector {
    type Type = Connection;
    type Error = StoreError;

    async fn create(&self) -> Result<Connection> {
        let connect = self.config.connect(self.tls.clone());
        let (client, mut connection) = bounded(CONNECT_TIMEOUT, "log in", connect).await?;
        let warnings = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&warnings);
        // Ends when the client is dropped after all of its answers, or the server closes.
        let task = tokio::spawn(async move {
            while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
                match message {
                    Ok(AsyncMessage::Notice(notice)) if notice.severity() != "NOTICE" => {
                        tracing::debug!(code = notice.code().code(), "{}", notice.message());
                        counter.fetch_add(1, Ordering::AcqRel);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, "database connection ended");
                        break;
                    }
                }
            }
        });
        Ok(Connection { client, task: task.abort_handle(), warnings })
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<StoreError> {
        if connection.client.is_closed() {
            return Err(RecycleError::message("closed"));
        }
        Ok(())
    }
}

/// A parsed URL. `sslmode` and `sslrootcert` are ours to read, the driver knows only part of them.
struct Target {
    config: Config,
    verify: Verify,
    ca_file: Option<PathBuf>,
    description: String,
}

impl Target {
    fn parse(url: &str, options: &PostgresOptions) -> Result<Self> {
        let invalid = |why: String| {
            StoreError::new(
                StoreErrorKind::Invalid,
                format!("database url: {why}; use postgres://user@host:5432/database"),
            )
        };
        let mut parsed = Url::parse(url).map_err(|error| invalid(error.to_string()))?;
        if !matches!(parsed.scheme(), "postgres" | "postgresql") {
            return Err(invalid(format!("the scheme {:?} is not postgres", parsed.scheme())));
        }
        let mut mode = "prefer".to_owned();
        let mut ca_file = options.ca_file.clone();
        let mut rest = Vec::new();
        for (key, value) in parsed.query_pairs() {
            match key.as_ref() {
                "sslmode" => mode = value.into_owned(),
                "sslrootcert" => ca_file = Some(value.into_owned().into()),
                _ => rest.push((key.into_owned(), value.into_owned())),
            }
        }
        parsed.set_query(None);
        if !rest.is_empty() {
            parsed.query_pairs_mut().extend_pairs(rest);
        }
        let mut config: Config = parsed
            .as_str()
            .parse()
            .map_err(|error: tokio_postgres::Error| invalid(errors::cause_text(&error)))?;
        let (ssl_mode, verify) = match mode.as_str() {
            "disable" => (SslMode::Disable, Verify::Nothing),
            "prefer" => (SslMode::Prefer, Verify::Nothing),
            "require" => (SslMode::Require, Verify::Nothing),
            "verify-ca" => (SslMode::Require, Verify::Chain),
            "verify-full" => (SslMode::Require, Verify::ChainAndHost),
            other => {
                return Err(invalid(format!(
                    "sslmode {other:?} is not one of disable, prefer, require, verify-ca, \
                     verify-full"
                )));
            }
        };
        config.ssl_mode(ssl_mode).connect_timeout(CONNECT_TIMEOUT);
        config.application_name("posthaste").tcp_user_timeout(options.operation_timeout);
        if let Some(password) = &options.password {
            config.password(password.expose_secret());
        }
        let host = parsed.host_str().unwrap_or("localhost");
        let port = parsed.port().unwrap_or(5432);
        let description = format!("postgres://{host}:{port}{}", parsed.path());
        Ok(Self { config, verify, ca_file, description })
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn connector(self) -> Result<Connector> {
        let tls = tls::connector(self.verify, self.ca_file.as_deref())?;
        Ok(Connector { config: self.config, tls })
    }
}
