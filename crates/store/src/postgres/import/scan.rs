//! A cursor over another table: one snapshot and one order, read in batches.
//!
//! It lives in a transaction of its own, read only, which ends with it: a connection that is lost
//! or dropped takes it along.

use tokio_postgres::{
    Row,
    types::{ToSql, Type},
};

use crate::{
    Result,
    postgres::{PostgresStore, connect::Loan},
};

/// An open cursor.
pub(super) struct Scan {
    loan: Loan,
}

impl Scan {
    /// Declares a cursor for `sql`.
    pub(super) async fn open(
        store: &PostgresStore,
        sql: &str,
        params: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Self> {
        let loan = store.shared.connections.lend().await?;
        let declare = format!("declare import no scroll cursor for {sql}");
        let work = async {
            loan.client().batch_execute("begin read only").await?;
            loan.client().execute_typed(&declare, params).await
        };
        loan.bounded("read the table", work).await?;
        Ok(Self { loan })
    }

    /// The next rows, at most `limit`; none at the end.
    pub(super) async fn next(&mut self, limit: u32) -> Result<Vec<Row>> {
        let sql = format!("fetch forward {limit} from import");
        self.loan.bounded("read the table", self.loan.client().query_typed(&sql, &[])).await
    }

    /// Ends the transaction.
    pub(super) async fn close(self) -> Result<()> {
        self.loan.bounded("read the table", self.loan.client().batch_execute("commit")).await?;
        self.loan.give_back();
        Ok(())
    }
}
