//! The transaction in which a page is read: one snapshot, and plans that do not trust what tables were when they were
//! small.

use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use super::super::{PostgresStore, connect::Loan, slots::Geometry};
use crate::Result;

/// A parameter that is kept.
pub(super) type Param = (Box<dyn ToSql + Sync + Send>, Type);

/// A connection in a transaction that only reads.
pub(super) struct Session {
    loan: Loan,
    /// The schema's name.
    pub(super) schema: String,
    pub(super) geometry: Geometry,
}

impl Session {
    pub(super) async fn begin(store: &PostgresStore) -> Result<Self> {
        let loan = store.shared.connections.lend().await?;
        let geometry = store.geometry(&loan).await?;
        // What has not been analysed since it was empty would be read from end to end, though there is an index; and
        // expressions would be compiled, and processes started, for longer than they run.
        let begin = format!(
            "begin isolation level repeatable read read only; set local jit = off; \
             set local enable_seqscan = off; \
             set local max_parallel_workers_per_gather = 0; {}",
            loan.idle_limit()
        );
        loan.bounded("begin to read messages", loan.client().simple_query(&begin)).await?;
        Ok(Self { loan, schema: store.schema().to_string(), geometry })
    }

    pub(super) async fn rows(&self, sql: &str, params: &[Param]) -> Result<Vec<Row>> {
        let params: Vec<(&(dyn ToSql + Sync), Type)> = params
            .iter()
            .map(|(value, kind)| (&**value as &(dyn ToSql + Sync), kind.clone()))
            .collect();
        self.loan.bounded("read messages", self.loan.client().query_typed(sql, &params)).await
    }

    pub(super) async fn end(self) -> Result<()> {
        let commit = self.loan.client().simple_query("commit");
        self.loan.bounded("read messages", commit).await?;
        self.loan.give_back();
        Ok(())
    }
}
