//! Runs: each step is a row's change and an event, in one transaction.

use std::time::Duration;

use posthaste::{EnqueueError, Message, Outbox};
use sea_orm::{ConnectionTrait as _, DbErr, Statement, TransactionTrait as _, Value};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use uuid::Uuid;

use crate::database::Database;

/// Events of runs; their ordering key is the run.
pub const TOPIC: &str = "run.events";

/// What happens to a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    /// It has begun.
    Started {
        /// How many steps it has.
        steps: u32,
    },
    /// A step is done.
    Step {
        /// Which one, from 1.
        step: u32,
        /// Of how many.
        steps: u32,
    },
    /// All of them are.
    Finished,
}

/// Why a run does not go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no such run.
    #[error("there is no run {0:?}")]
    Unknown(String),
    /// Its row.
    #[error("the run's row")]
    Row(#[from] DbErr),
    /// Its event.
    #[error("the run's event")]
    Event(#[from] EnqueueError),
}

/// The orchestrator.
#[derive(Clone, Debug)]
pub struct Runs {
    database: Database,
    outbox: Outbox,
}

impl Runs {
    /// On a database.
    pub fn new(database: Database) -> Self {
        Self { database, outbox: Outbox::default() }
    }

    /// Begins a run of so many steps, and answers its id.
    ///
    /// # Errors
    /// The database refuses: there is no run then, and no event.
    pub async fn start(&self, steps: u32) -> Result<String, RunError> {
        let id = Uuid::now_v7().simple().to_string();
        let insert = "insert into run (id, step, steps) values ($1, 0, $2)";
        let values = [id.as_str().into(), i64::from(steps).into()];
        self.change(&id, insert, values.into(), &Event::Started { steps }).await?;
        Ok(id)
    }

    /// Does a step of it, or ends it after the last one; answers whether it goes on.
    ///
    /// # Errors
    /// There is no such run, or the database refuses: nothing has changed then, and there is no event.
    pub async fn advance(&self, id: &str) -> Result<bool, RunError> {
        let (step, steps) =
            self.progress(id).await?.ok_or_else(|| RunError::Unknown(id.to_owned()))?;
        if step >= steps {
            let touch = "update run set step = steps where id = $1";
            self.change(id, touch, vec![id.into()], &Event::Finished).await?;
            return Ok(false);
        }
        let update = "update run set step = step + 1 where id = $1";
        let event = Event::Step { step: step + 1, steps };
        self.change(id, update, vec![id.into()], &event).await?;
        Ok(true)
    }

    /// Does all of it, with a pause before each step.
    ///
    /// # Errors
    /// As [`advance`](Self::advance).
    pub async fn play(&self, id: &str, pause: Duration) -> Result<(), RunError> {
        loop {
            sleep(pause).await;
            if !self.advance(id).await? {
                return Ok(());
            }
        }
    }

    /// Which step of how many is done; nothing of a run that there is not.
    ///
    /// # Errors
    /// The database refuses.
    pub async fn progress(&self, id: &str) -> Result<Option<(u32, u32)>, RunError> {
        let pool = &self.database.pool;
        let sql = "select step, steps from run where id = $1";
        let read = Statement::from_sql_and_values(pool.get_database_backend(), sql, [id.into()]);
        let Some(row) = pool.query_one_raw(read).await? else { return Ok(None) };
        let number = |at| row.try_get_by_index::<i32>(at).map(i32::cast_unsigned);
        Ok(Some((number(0)?, number(1)?)))
    }

    /// Row and event stand and fall together.
    async fn change(
        &self,
        id: &str,
        sql: &str,
        values: Vec<Value>,
        event: &Event,
    ) -> Result<(), RunError> {
        let transaction = self.database.pool.begin().await?;
        let backend = transaction.get_database_backend();
        transaction.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
        let message = Message::new(TOPIC).key(id).correlation_id(id).json(event);
        self.outbox.enqueue(&transaction, &message).await?;
        Ok(transaction.commit().await?)
    }
}
