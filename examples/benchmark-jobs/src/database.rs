//! The application's own side of the database: one table, and the transaction in which a job is submitted.

use std::{path::PathBuf, time::Duration};

use posthaste::{JobId, Jobs, NewJob};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};
use tokio::task::spawn_blocking;
use tokio_postgres::{Client, NoTls};

use crate::PlaceError;

/// Longest wait for another writer of the file.
const BUSY: Duration = Duration::from_secs(10);
/// Both databases understand it.
const TABLE: &str = "create table if not exists benchmark_job (\
                     jobspec_id text primary key, spec text not null, job_id text not null)";
const INSERT: &str = "insert into benchmark_job (jobspec_id, spec, job_id) values ($1, $2, $3)";
const SELECT: &str = "select spec, job_id from benchmark_job where jobspec_id = $1";

/// Where the application's rows are, beside those of Posthaste.
#[derive(Clone, Debug)]
pub(crate) enum Database {
    Sqlite(PathBuf),
    Postgres(String),
}

/// A row: the specification as it was submitted, and the job that stands for it.
type Row = (String, String);

impl Database {
    pub(crate) async fn create_table(&self) -> Result<(), PlaceError> {
        match self {
            Self::Sqlite(path) => {
                let path = path.clone();
                blocking(move || Ok(open(&path)?.execute_batch(TABLE)?)).await
            }
            Self::Postgres(url) => Ok(connect(url).await?.batch_execute(TABLE).await?),
        }
    }

    pub(crate) async fn find(&self, jobspec_id: &str) -> Result<Option<Row>, PlaceError> {
        match self {
            Self::Sqlite(path) => {
                let (path, id) = (path.clone(), jobspec_id.to_owned());
                blocking(move || find(&open(&path)?, &id)).await
            }
            Self::Postgres(url) => {
                let row = connect(url).await?.query_opt(SELECT, &[&jobspec_id]).await?;
                Ok(row.map(|row| (row.get(0), row.get(1))))
            }
        }
    }

    /// The job of a specification: submitted, with the application's own row, in one transaction. One that was submitted
    /// before with the same words is answered again.
    pub(crate) async fn submit(
        &self,
        jobs: &Jobs,
        jobspec_id: &str,
        spec: &str,
        job: NewJob,
    ) -> Result<JobId, PlaceError> {
        if let Some(row) = self.find(jobspec_id).await? {
            return same(jobspec_id, spec, &row);
        }
        let jobs = jobs.clone();
        match self {
            Self::Sqlite(path) => {
                let (path, id, spec) = (path.clone(), jobspec_id.to_owned(), spec.to_owned());
                blocking(move || {
                    let mut connection = open(&path)?;
                    let transaction =
                        connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                    // Another may have been faster since.
                    if let Some(row) = find(&transaction, &id)? {
                        return same(&id, &spec, &row);
                    }
                    let job = jobs.submit_blocking(&transaction, &job)?;
                    transaction.execute(INSERT, (&id, &spec, job.to_string()))?;
                    transaction.commit()?;
                    Ok(job)
                })
                .await
            }
            Self::Postgres(url) => {
                let mut client = connect(url).await?;
                let transaction = client.transaction().await?;
                // Who submits the same at the same time waits here, by the job's token, for the other's outcome.
                let submitted = jobs.submit(&transaction, &job).await?;
                let insert = format!("{INSERT} on conflict do nothing");
                let id = submitted.to_string();
                transaction.execute(&insert, &[&jobspec_id, &spec, &id]).await?;
                transaction.commit().await?;
                let row = self.find(jobspec_id).await?.unwrap_or((spec.to_owned(), id));
                same(jobspec_id, spec, &row)
            }
        }
    }
}

fn same(jobspec_id: &str, spec: &str, (known, job): &Row) -> Result<JobId, PlaceError> {
    if known != spec {
        return Err(PlaceError::Taken(jobspec_id.to_owned()));
    }
    job.parse().map_err(|_| PlaceError::Ended("its row names no job"))
}

fn find(connection: &Connection, jobspec_id: &str) -> Result<Option<Row>, PlaceError> {
    let row = connection.query_row(SELECT, [jobspec_id], |row| Ok((row.get(0)?, row.get(1)?)));
    Ok(row.optional()?)
}

fn open(path: &PathBuf) -> Result<Connection, PlaceError> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

async fn connect(url: &str) -> Result<Client, PlaceError> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // Ends with the client.
    tokio::spawn(connection);
    Ok(client)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PlaceError> + Send + 'static,
) -> Result<T, PlaceError> {
    spawn_blocking(work).await.unwrap_or(Err(PlaceError::Ended("a statement ended in the middle")))
}
