//! Submissions to strict topics, whose keys are locked before their messages get their positions.

use posthaste_core::NewJob;
use tokio_postgres::{Row, types::Type};

use super::{PostgresStore, connect::bounded, jobs::Params};
use crate::{Result, StoreError, StoreErrorKind};

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
            let transaction = loan.begin().await?;
            // A client that gives up is not noticed while this waits.
            transaction.batch_execute("set local lock_timeout = '2s'").await?;
            transaction.query_typed(&lock, &[(&keys, Type::TEXT_ARRAY)]).await?;
            let rows = transaction.query_typed(sql, params).await?;
            transaction.commit().await?;
            Ok(rows)
        };
        let rows = bounded(limit, "submit jobs", work).await;
        if jobs.len() > 1 && rows.as_ref().is_err_and(|error| error.kind() == StoreErrorKind::Held)
        {
            let doing = "submit jobs: a key of one of them is held";
            return Err(StoreError::new(StoreErrorKind::Conflict, doing));
        }
        let rows = rows?;
        loan.give_back();
        Ok(rows)
    }
}
