//! Work as an application does it, lent a connection of the pool.

use tokio_postgres::types::{ToSql, Type};

use super::{PostgresStore, connect::bounded};
use crate::{Note, Request, Result, Work};

/// Does the work and notes it in the same transaction, if it has written anything; a dry run takes both back.
pub(super) async fn work(
    store: &PostgresStore,
    mut work: Box<dyn Work>,
    note: &Note,
    request: &Request,
) -> Result<()> {
    let schema = store.schema();
    let mut loan = store.shared.connections.lend().await?;
    let limit = loan.operation_timeout();
    let doing = async {
        let transaction = loan.begin_as_application().await?;
        if !work.on_postgres(&transaction, schema).await || request.is_dry_run {
            return transaction.rollback().await;
        }
        let sql = format!(
            "insert into {schema}.audit (actor, action, detail) select $1, $2, $3::text::jsonb \
             where pg_current_xact_id_if_assigned() is not null"
        );
        let noted: [(&(dyn ToSql + Sync), Type); 3] =
            [(&request.actor, Type::TEXT), (&note.action, Type::TEXT), (&note.detail, Type::TEXT)];
        transaction.execute_typed(&sql, &noted).await?;
        transaction.commit().await
    };
    bounded(limit, note.action, doing).await?;
    loan.give_back();
    Ok(())
}
