//! The application's database, PostgreSQL or SQLite: a pool of its own, and the store that relay and server use.

use std::{sync::Arc, time::Duration};

use posthaste_store::{
    Jobs, Operations, Store as _, StoreError,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::{SqliteOptions, SqliteStore},
};
use sea_orm::{ConnectOptions, ConnectionTrait as _, DatabaseConnection, DbErr};

/// The application's own table.
const TABLE: &str = "create table if not exists run (id text primary key, step integer not null, steps integer not null)";
/// Longest wait for one statement; on SQLite for its lock.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// The application's connections, and the two faces of its store.
#[derive(Clone, Debug)]
pub struct Database {
    /// For the application's own transactions.
    pub pool: DatabaseConnection,
    /// For the server.
    pub jobs: Arc<dyn Jobs>,
    /// For the server and the relay.
    pub operations: Arc<dyn Operations>,
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The application's pool or table.
    #[error("the application's connection to the database")]
    Pool(#[from] DbErr),
    /// Posthaste's tables.
    #[error("Posthaste's schema in the database")]
    Store(#[from] StoreError),
}

impl Database {
    /// Connects, and creates what is missing.
    ///
    /// # Errors
    /// The database refuses; nothing is started then.
    pub async fn open(url: &str) -> Result<Self, DatabaseError> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            let path = path.trim_start_matches("//");
            let options = SqliteOptions { create: true, ..SqliteOptions::default() };
            let store = Arc::new(SqliteStore::open(path, &options).await?);
            store.migrate().await?;
            return Self::of(&format!("sqlite://{path}"), Arc::clone(&store) as _, store).await;
        }
        let store = Arc::new(PostgresStore::connect(url, &PostgresOptions::default())?);
        store.migrate().await?;
        Self::of(url, Arc::clone(&store) as _, store).await
    }

    async fn of(
        url: &str,
        jobs: Arc<dyn Jobs>,
        operations: Arc<dyn Operations>,
    ) -> Result<Self, DatabaseError> {
        let mut options = ConnectOptions::new(url);
        options
            .max_connections(4)
            .connect_timeout(Duration::from_secs(30))
            .statement_timeout(STATEMENT_TIMEOUT)
            .sqlx_logging(false)
            .map_sqlx_sqlite_opts(|options| options.busy_timeout(STATEMENT_TIMEOUT));
        let pool = sea_orm::Database::connect(options).await?;
        pool.execute_unprepared(TABLE).await?;
        Ok(Self { pool, jobs, operations })
    }
}
