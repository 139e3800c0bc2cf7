//! The application's database, PostgreSQL or SQLite: two pools on it, its tables and the machine.

use std::{sync::Arc, time::Duration};

use posthaste::machine::{Definition, Machine};
use posthaste_store::{
    Jobs, Operations, Request, StoreError,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::{SqliteOptions, SqliteStore},
};
use sea_orm::{ConnectOptions, ConnectionTrait as _, DatabaseConnection, DbErr};

/// The course's states and steps.
const COURSE_TOML: &str = include_str!("../course.toml");
/// The application's own tables.
const TABLES: &str = "
create table if not exists course (
  id text primary key,
  title text not null,
  style text not null,
  requirements text,
  documents_left integer not null,
  analysis text,
  structure text
);
create table if not exists course_document (
  course_id text not null references course (id) on delete cascade,
  name text not null,
  content text not null,
  summary text,
  primary key (course_id, name)
);";

/// Where the courses are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// `postgres://user@host/db`, or `sqlite:` and the path of a file, which is created.
    pub url: String,
    /// Longest wait for one statement; on SQLite for its lock.
    pub statement_timeout: Duration,
}

/// The application's connections, and the store that relay and worker use.
#[derive(Clone, Debug)]
pub struct Database {
    /// For the application's own transactions.
    pub pool: DatabaseConnection,
    /// For relay and worker.
    pub store: Arc<dyn Jobs>,
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL names no database that the example knows.
    #[error("DATABASE_URL must be postgres://… or sqlite:FILE")]
    Url,
    /// The application's pool or tables.
    #[error("the application's connection to the database")]
    Pool(#[from] DbErr),
    /// Posthaste's tables or the machine.
    #[error("Posthaste's schema in the database")]
    Store(#[from] StoreError),
    /// `course.toml` is no machine.
    #[error("course.toml: {0}")]
    Machine(String),
}

impl Database {
    /// Connects, and creates what is missing: Posthaste's schema, the application's tables, the machine.
    ///
    /// # Errors
    /// The URL is none, or the database refuses; nothing is started then.
    pub async fn open(settings: &DatabaseSettings) -> Result<Self, DatabaseError> {
        match settings.url.strip_prefix("sqlite:") {
            Some(path) => Self::open_sqlite(path.trim_start_matches("//"), settings).await,
            None if is_postgres(&settings.url) => Self::open_postgres(settings).await,
            None => Err(DatabaseError::Url),
        }
    }

    async fn open_sqlite(path: &str, settings: &DatabaseSettings) -> Result<Self, DatabaseError> {
        let options = SqliteOptions { create: true, ..SqliteOptions::default() };
        let store = SqliteStore::open(path, &options).await?;
        store.migrate_and_push(&format!("sqlite://{path}"), settings).await
    }

    async fn open_postgres(settings: &DatabaseSettings) -> Result<Self, DatabaseError> {
        let store = PostgresStore::connect(&settings.url, &PostgresOptions::default())?;
        store.migrate_and_push(&settings.url, settings).await
    }
}

/// Both stores are prepared alike.
trait Prepare {
    async fn migrate_and_push(
        self,
        url: &str,
        settings: &DatabaseSettings,
    ) -> Result<Database, DatabaseError>;
}

impl<S: Jobs + Operations> Prepare for S {
    async fn migrate_and_push(
        self,
        url: &str,
        settings: &DatabaseSettings,
    ) -> Result<Database, DatabaseError> {
        self.migrate().await?;
        let pool = connect(url, settings).await?;
        pool.execute_unprepared(TABLES).await?;
        // After the tables: the machine's entities are rows of one of them.
        let actor = "course-stages".to_owned();
        let request = Request { actor, is_dry_run: false, is_forced: false };
        self.push_machine(&machine()?, &request).await?;
        Ok(Database { pool, store: Arc::new(self) })
    }
}

/// A pool on the database of the URL.
///
/// # Errors
/// The database does not answer, or not in time.
pub async fn connect(url: &str, settings: &DatabaseSettings) -> Result<DatabaseConnection, DbErr> {
    let mut options = ConnectOptions::new(url);
    let timeout = settings.statement_timeout;
    options
        .max_connections(8)
        .connect_timeout(Duration::from_secs(30))
        .statement_timeout(timeout)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |options| options.busy_timeout(timeout));
    sea_orm::Database::connect(options).await
}

/// The machine of `course.toml`, as `posthaste machines check` reads it.
///
/// # Errors
/// The first part that is wrong.
pub fn machine() -> Result<Machine, DatabaseError> {
    let definition: Definition =
        toml::from_str(COURSE_TOML).map_err(|error| DatabaseError::Machine(error.to_string()))?;
    Machine::try_from(definition).map_err(|error| DatabaseError::Machine(error.to_string()))
}

pub(crate) fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::{FAILED, PENDING, Stage};

    #[test]
    fn machine_has_no_dead_end_and_knows_every_state_of_the_stages() {
        let machine = machine().unwrap();
        assert!(machine.findings().is_empty(), "{:?}", machine.findings());
        let states: Vec<&str> = machine.states().collect();
        let stages = Stage::ALL.into_iter();
        let of_stages = stages.flat_map(|stage| [stage.init(), stage.working(), stage.complete()]);
        for state in of_stages.chain([PENDING, FAILED]) {
            assert!(states.contains(&state), "{state}");
        }
        assert_eq!(states.len(), 11);
    }
}
