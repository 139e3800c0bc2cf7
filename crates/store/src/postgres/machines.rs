//! Machines, as operators push them; the steps of entities are the SQL functions' and the
//! applications'.

use posthaste_core::Machine;
use tokio_postgres::types::{ToSql, Type};

use super::{PostgresStore, connect::bounded};
use crate::{Request, Result, StoreError, StoreErrorKind};

/// Pushes a machine and notes it, in one transaction; a dry run takes it back.
pub(super) async fn push(
    store: &PostgresStore,
    machine: &Machine,
    request: &Request,
) -> Result<()> {
    let doing = "push a machine";
    let definition = serde_json::to_string(machine)
        .map_err(|error| StoreError::caused(StoreErrorKind::Unexpected, doing, error))?;
    let schema = store.schema();
    let mut loan = store.shared.connections.lend().await?;
    let limit = loan.operation_timeout();
    let work = async {
        let transaction = loan.begin_durably().await?;
        let push = format!("select {schema}.push_machine($1::text::jsonb)");
        transaction.query_typed(&push, &[(&definition, Type::TEXT)]).await?;
        let note = format!(
            "insert into {schema}.audit (actor, action, detail) \
             values ($1, 'push-machine', jsonb_build_object('machine', $2::text))"
        );
        let name = machine.name();
        let noted: [(&(dyn ToSql + Sync), Type); 2] =
            [(&request.actor, Type::TEXT), (&name, Type::TEXT)];
        transaction.execute_typed(&note, &noted).await?;
        if request.is_dry_run { transaction.rollback().await } else { transaction.commit().await }
    };
    bounded(limit, doing, work).await?;
    loan.give_back();
    Ok(())
}

/// Creates the function for a machine that is there, whose name can therefore stand in a literal.
pub(super) async fn create_compatibility_function(
    store: &PostgresStore,
    machine: &str,
) -> Result<()> {
    let doing = "create a function";
    let schema = store.schema();
    let loan = store.shared.connections.lend().await?;
    let known = format!("select from {schema}.machine where name = $1");
    let named: [(&(dyn ToSql + Sync), Type); 1] = [(&machine, Type::TEXT)];
    let known = loan.client().query_typed(&known, &named);
    if loan.bounded(doing, known).await?.is_empty() {
        loan.give_back();
        let what = format!(
            "there is no machine {machine:?}: push its definition with `posthaste machines push`"
        );
        return Err(StoreError::new(StoreErrorKind::Invalid, what));
    }
    let sql = include_str!("compatibility.sql")
        .replace("@schema@", schema.as_str())
        .replace("@machine@", &machine.replace('\'', "''"));
    loan.bounded(doing, loan.client().batch_execute(&sql)).await?;
    loan.give_back();
    Ok(())
}
