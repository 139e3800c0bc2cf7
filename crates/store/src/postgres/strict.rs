//! Submissions to strict topics, whose keys are locked before their messages get their positions.

use posthaste_core::NewJob;
use tokio_postgres::{Row, types::Type};

use super::{PostgresStore, connect::bounded, jobs::Params};
use crate::{Result, StoreError, StoreErrorKind};

/// What one of several waits for in vain is a conflict: each by itself, they hold nobody else up.
pub(super) fn of_one(error: StoreError, len: usize) -> StoreError {
    if len > 1 && error.kind() == StoreErrorKind::Held {
        let doing = format!("{}: another transaction holds a key of one of them", error.doing());
        return StoreError::new(StoreErrorKind::Conflict, doing);
    }
    error
}

impl PostgresStore {
    /// Submits jobs of which some have a key on a strict topic: the keys are locked in an earlier statement, as the log
    /// asks. Only these need a transaction of several statements, so nobody else pays for it.
    pub(super) async fn submit_locked(
        &self,
        jobs: &[NewJob],
        sql: &str,
        params: Params<'_>,
    ) -> Result<Vec<Row>> {
        let lock = format!("select {}.lock_keys($1)", self.schema());
        let keys: Vec<Option<&str>> = jobs.iter().map(|job| job.message().ordering_key()).collect();
        let mut loan = self.shared.connections.lend().await?;
        let limit = loan.operation_timeout();
        let work = async {
            let transaction = loan.begin_impatiently().await?;
            transaction.query_typed(&lock, &[(&keys, Type::TEXT_ARRAY)]).await?;
            let rows = transaction.query_typed(sql, params).await?;
            transaction.commit().await?;
            Ok(rows)
        };
        let rows = bounded(limit, "submit jobs", work).await;
        let rows = rows.map_err(|error| of_one(error, jobs.len()))?;
        loan.give_back();
        Ok(rows)
    }
}
