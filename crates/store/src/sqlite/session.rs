//! One open connection with the schema name: runs transactions and bounds them by a deadline.
//!
//! Statement texts hold `@schema@` where the name goes. Nothing here knows a statement.

use std::time::Instant;

use rusqlite::{Connection, OptionalExtension, Params, Row, Statement, TransactionBehavior};

use posthaste_core::SchemaName;

use crate::{Result, StoreError, StoreErrorKind};

/// Steps of SQLite's virtual machine between two looks at the deadline: well below 1 ms.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;

/// A connection; owned by one worker thread.
#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    schema: SchemaName,
}

/// A transaction in progress.
pub(super) struct Scope<'s> {
    connection: &'s Connection,
    schema: &'s SchemaName,
}

impl Session {
    pub(super) fn new(connection: Connection, schema: SchemaName) -> Self {
        Self { connection, schema }
    }

    /// Bounds what follows: neither waiting for a lock nor running a statement lasts beyond
    /// `deadline`.
    pub(super) fn set_deadline(&mut self, deadline: Instant) -> Result<()> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(StoreError::new(StoreErrorKind::Timeout, "it waited for earlier calls"));
        }
        self.connection.busy_timeout(left)?;
        let passed = move || Instant::now() >= deadline;
        Ok(self.connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(passed))?)
    }

    /// Runs `work` on one snapshot of the database.
    pub(super) fn read<T>(&mut self, work: impl FnOnce(&Scope<'_>) -> Result<T>) -> Result<T> {
        self.transaction(TransactionBehavior::Deferred, work)
    }

    /// Runs `work` and commits, or rolls back when it fails. `begin immediate` takes the write
    /// lock first: a transaction that read before it wrote could not be retried by SQLite's busy
    /// handler and would fail instead of waiting.
    pub(super) fn write<T>(&mut self, work: impl FnOnce(&Scope<'_>) -> Result<T>) -> Result<T> {
        self.transaction(TransactionBehavior::Immediate, work)
    }

    /// Runs `work`, and commits if it says so.
    pub(super) fn write_if(&mut self, work: impl FnOnce(&Scope<'_>) -> Result<bool>) -> Result<()> {
        let transaction =
            self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        if work(&Scope { connection: &transaction, schema: &self.schema })? {
            transaction.commit()?;
        } else {
            transaction.rollback()?;
        }
        Ok(())
    }

    fn transaction<T>(
        &mut self,
        behavior: TransactionBehavior,
        work: impl FnOnce(&Scope<'_>) -> Result<T>,
    ) -> Result<T> {
        let transaction = self.connection.transaction_with_behavior(behavior)?;
        let result = work(&Scope { connection: &transaction, schema: &self.schema })?;
        transaction.commit()?;
        Ok(result)
    }

    /// A number that changes when another connection commits. Costs no lock.
    pub(super) fn data_version(&self) -> Result<i64> {
        Ok(self.connection.pragma_query_value(None, "data_version", |row| row.get(0))?)
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

impl<'s> Scope<'s> {
    pub(super) fn schema(&self) -> &SchemaName {
        self.schema
    }

    pub(super) fn connection(&self) -> &'s Connection {
        self.connection
    }

    pub(super) fn prepare(&self, sql: &str) -> Result<Statement<'s>> {
        Ok(self.connection.prepare(&self.named(sql))?)
    }

    /// Runs one statement and answers how many rows it changed.
    pub(super) fn run(&self, sql: &str, values: impl Params) -> Result<usize> {
        Ok(self.connection.execute(&self.named(sql), values)?)
    }

    /// Runs a script.
    pub(super) fn run_all(&self, sql: &str) -> Result<()> {
        Ok(self.connection.execute_batch(&self.named(sql))?)
    }

    /// The first row, if there is one.
    pub(super) fn first<T>(
        &self,
        sql: &str,
        values: impl Params,
        row: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>> {
        Ok(self.connection.query_row(&self.named(sql), values, row).optional()?)
    }

    /// Every row; for results with a bound of their own.
    pub(super) fn all<T>(
        &self,
        sql: &str,
        values: impl Params,
        row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let mut statement = self.prepare(sql)?;
        let rows = statement.query_map(values, row)?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    }

    /// Micros since the Unix epoch on the database's clock, as the defaults of the tables read it.
    pub(super) fn now_micros(&self) -> Result<i64> {
        let sql =
            "select cast(round((julianday('now') - 2440587.5) * 86400000.0) as integer) * 1000";
        Ok(self.connection.query_row(sql, [], |row| row.get(0))?)
    }

    fn named(&self, sql: &str) -> String {
        sql.replace("@schema@", self.schema.as_str())
    }
}
